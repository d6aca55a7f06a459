"""Run the example: ``python -m hnetfast.examples.text_to_adapter``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random

import torch
from torch import Tensor

from hnetfast._files import write_atomically
from hnetfast.examples._run_options import check_matplotlib, integer_from
from hnetfast.examples.text_to_adapter._descriptions import embed, find_model
from hnetfast.examples.text_to_adapter._experiment import DEFAULT, QUICK, Experiment, run
from hnetfast.examples.text_to_adapter._learning import generate
from hnetfast.examples.text_to_adapter._table import format_new_tasks, format_table
from hnetfast.examples.text_to_adapter._text import draw_input
from hnetfast.examples.text_to_adapter.report import DEFAULT_FOLDER


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m hnetfast.examples.text_to_adapter",
        description="Pretrain a small language model, then train a hypernetwork that reads what is to be "
        "done with a word and generates the adapter that does it; compare it on tasks and descriptions that "
        "it has never seen. Takes a few minutes on one core, and downloads nothing.",
    )
    parser.add_argument(
        "--seed", type=integer_from(0), default=0, help="decides all that is random but the pretrained model"
    )
    parser.add_argument(
        "--steps",
        type=integer_from(1),
        help=f"training steps of the hypernetwork instead of {DEFAULT.steps}",
    )
    parser.add_argument("--quick", action="store_true", help="fewer steps: about a minute, and worse results")
    parser.add_argument("--out_dir", type=Path, default=DEFAULT_FOLDER, help="where results and pictures go")
    parser.add_argument(
        "--cache_dir", type=Path, help="where the pretrained model is kept; by default --out_dir"
    )
    parser.add_argument("--no_pictures", action="store_true", help="draw nothing")
    parser.add_argument(
        "--threads", type=integer_from(1), default=1, help="threads; such networks gain little from more"
    )
    parser.add_argument(
        "--ask",
        action="append",
        default=[],
        metavar="TEXT",
        help="a description of your own, which is tried in the end; may be given several times",
    )
    return parser


def main(
    arguments: Sequence[str] | None = None, embed_texts: Callable[[Sequence[str]], Tensor] = embed
) -> int:
    """Run the example.

    Args:
        arguments: Its options; those of the command line by default.
        embed_texts: Makes numbers ``[texts, numbers]`` of descriptions.

    Returns:
        Exit status: 0, or 1 with a message where a package is missing or a folder can't be written.
    """
    config = _parser().parse_args(arguments)
    threads = torch.get_num_threads()
    try:
        if embed_texts is embed:
            find_model()
        if not config.no_pictures:
            check_matplotlib()
        for folder in (config.out_dir, config.cache_dir or config.out_dir):
            folder.mkdir(parents=True, exist_ok=True)
        torch.set_num_threads(config.threads)
        # Adam's moments of weights without gradients decay through numbers that CPUs are slow with.
        torch.set_flush_denormal(True)
        _run(config, embed_texts)
    except (OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    finally:
        torch.set_num_threads(threads)
        torch.set_flush_denormal(False)
    return 0


def _run(config: argparse.Namespace, embed_texts: Callable[[Sequence[str]], Tensor]) -> None:
    settings = QUICK if config.quick else DEFAULT
    if config.steps is not None:
        settings = replace(settings, steps=config.steps)
    experiment = Experiment(
        settings,
        config.seed,
        embed_texts,
        config.cache_dir or config.out_dir,
        partial(print, flush=True),
    )
    result = run(experiment)
    path = config.out_dir / f"seed_{config.seed}.json"
    write_atomically(path, json.dumps(result, indent=1).encode())
    print(f"\n{format_table([result])}\n\nExact answers, %:\n\n{format_new_tasks([result])}\n")
    _show_answers(experiment, config.ask)
    print(f"{sum(result['seconds'].values()):.0f} s. Results: {path.resolve()}")
    if not config.no_pictures:
        from hnetfast.examples.text_to_adapter._figure import save_figure

        picture = path.with_suffix(".png")
        save_figure(picture, result)
        print(f"Picture: {picture.resolve()}")


def _show_answers(experiment: Experiment, asked: Sequence[str]) -> None:
    """Print what adapters make of some words: one for each held-out task, and those that were asked for."""
    descriptions = experiment.descriptions
    texts = [some[0] for some in descriptions.texts[1][descriptions.num_seen :]]
    embeddings = [some[0] for some in descriptions.embeddings[1][descriptions.num_seen :]]
    if asked:
        texts += asked
        embeddings += ((experiment.embed(asked) - descriptions.mean) / descriptions.scale).unbind()
    random = Random(experiment.seed)
    words = [draw_input(random, for_tests=True) for _ in texts]
    with torch.no_grad():
        weights = experiment.adapters_for(torch.stack(embeddings))
    answers = generate(experiment.target, weights, words)
    width = max(map(len, texts))
    for text, word, answer in zip(texts, words, answers, strict=True):
        print(f"{text:<{width}}  {word:<6} → {answer}")
    print()


if __name__ == "__main__":
    raise SystemExit(main())
