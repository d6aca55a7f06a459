"""How long weight generation takes: hnetfast, its PyTorch reference and hypnettorch, timed in turns."""

from __future__ import annotations

import functools
import importlib
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from hnetfast._comparison import MODES, compute, libraries, time_in_turns
from hnetfast.mnets import ResNet
from hnetfast.ops.chunked_mlp import chunked_mlp_reference

# Hidden layers and chunk size of the documented hypernetworks for ResNet-32 (SplitCIFAR-10/100).
RESNET32_ROWS = (((), 7000), ((100, 100), 4000), ((10, 10, 10, 10), 40000), ((125, 250, 500), 500))


def resnet_shapes(num_classes: int) -> list[Sequence[int]]:
    """Shapes of all weights of ResNet-32.

    Args:
        num_classes: Number of output neurons.
    """
    return ResNet(num_classes=num_classes, no_weights=True, verbose=False).param_shapes


def generate_by_reference(hnet, cond_ids: Sequence[int], activation: str = "relu") -> Tensor:
    """Generate what ``hnet.forward(cond_id=cond_ids, ret_format="flattened")`` does, in plain PyTorch.

    Args:
        hnet: A ``ChunkedHMLP`` with condition embeddings, shared chunk embeddings and biases.
        cond_ids: The conditions, ``B`` of them.
        activation: Of its hidden layers.

    Returns:
        Tensor ``[B, hnet.num_outputs]``.
    """
    *layers, chunk_embs = hnet.unconditional_params
    cond_embs = torch.stack([hnet.get_cond_in_emb(i) for i in cond_ids])
    inputs = [chunk_embs.unsqueeze(0), cond_embs.unsqueeze(1)]  # [1, N, C], [B, 1, E]
    return chunked_mlp_reference(inputs, layers[0::2], layers[1::2], activation, hnet.num_outputs)


def _build(library: str, layers: Sequence[int], chunk_size: int, num_conditions: int, device: str):
    hnet = importlib.import_module(f"{library}.hnets").ChunkedHMLP(
        resnet_shapes(num_classes=60),
        chunk_size,
        chunk_emb_size=32,
        cond_in_size=32,
        layers=layers,
        num_cond_embs=num_conditions,
        verbose=False,
    )
    return hnet.to(device)


def _row(
    layers: Sequence[int],
    chunk_size: int,
    conditions: int,
    mode: str,
    calls: Mapping[str, Callable],
    seconds: float,
    device: str,
) -> dict[str, str | int | float]:
    durations = time_in_turns(calls, seconds, device=device)
    row = {"layers": ",".join(map(str, layers)), "chunk_size": chunk_size}
    row |= {"conditions": conditions, "mode": mode}
    return row | {name: 1e3 * statistics.median(times) for name, times in durations.items()}


def measure_resnet32(
    device: str, num_conditions: Sequence[int], seconds: float
) -> list[dict[str, str | int | float]]:
    """Time the generation of ResNet-32 (468,540 weights) by the four documented hypernetworks.

    Args:
        device: Where to run.
        num_conditions: The batch sizes ``B`` to measure.
        seconds: Time to spend on each row and mode.

    Returns:
        One row for each hypernetwork, batch size and mode: ``layers``, ``chunk_size``, ``conditions``,
        ``mode``, and the median in milliseconds for ``hnetfast``, ``reference`` and, where that is
        installed, ``hypnettorch``.
    """
    rows: list[dict[str, str | int | float]] = []
    for layers, chunk_size in RESNET32_ROWS:
        hnets = {
            library: _build(library, layers, chunk_size, max(num_conditions), device)
            for library in libraries()
        }
        own = hnets["hnetfast"]
        for count in num_conditions:
            cond_ids = list(range(count))
            generators = {
                name: (hnet, functools.partial(hnet.forward, cond_id=cond_ids, ret_format="flattened"))
                for name, hnet in hnets.items()
            }
            generators["reference"] = (own, functools.partial(generate_by_reference, own, cond_ids))
            grad = torch.randn(count, own.num_outputs, device=device)
            for mode in MODES:
                calls = {
                    name: functools.partial(compute, mode, generate, list(hnet.parameters()), grad)
                    for name, (hnet, generate) in generators.items()
                }
                rows.append(_row(layers, chunk_size, count, mode, calls, seconds, device))
    return rows


def measure_regulariser(device: str, seconds: float, num_tasks: int = 5) -> dict[str, str | int | float]:
    """Time the output regulariser of continual learning, forward and backward, for ResNet-32.

    Args:
        device: Where to run.
        seconds: Time to spend.
        num_tasks: Number of earlier tasks.

    Returns:
        A row as :func:`measure_resnet32` returns them, with the mode "regulariser"; the reference generates
        all weights.
    """
    layers, chunk_size = RESNET32_ROWS[1]
    calls: dict[str, Callable] = {}
    for name in libraries():
        torch.manual_seed(0)
        hnet = _build(name, layers, chunk_size, num_tasks, device)
        previous = {"prev_theta": hnet.unconditional_params, "prev_task_embs": hnet.conditional_params}
        previous = {key: [p.detach() + 1e-3 for p in params] for key, params in previous.items()}
        regulariser = importlib.import_module(f"{name}.utils.hnet_regularizer")
        penalties: dict[str, Callable] = {
            name: functools.partial(regulariser.calc_fix_target_reg, hnet, num_tasks, **previous)
        }
        if name == "hnetfast":
            task_ids = range(num_tasks)
            targets = generate_by_reference(hnet, task_ids).detach() + 1e-3

            def by_reference(hnet=hnet, task_ids=task_ids, targets=targets) -> Tensor:
                return (generate_by_reference(hnet, task_ids) - targets).square().sum() / num_tasks

            penalties["reference"] = by_reference
        for contender, penalty in penalties.items():
            calls[contender] = functools.partial(compute, MODES[1], penalty, list(hnet.parameters()))
    return _row(layers, chunk_size, num_tasks, "regulariser", calls, seconds, device)


def format_speed_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Format the rows of :func:`measure_resnet32` as a text table with speed-ups and their geometric mean."""
    with_oracle = "hypnettorch" in rows[0]
    names = ["hnetfast", "reference"] + ["hypnettorch"] * with_oracle
    header = f"{'hidden layers':<14}{'chunk size':>11}{'conditions':>12}  {'':<17}"
    header += "".join(f"{name + ' ms':>16}" for name in names) + "speed-up".rjust(10) * with_oracle
    lines = [header, "-" * len(header)]
    for row in rows:
        line = (
            f"{row['layers'] or 'none':<14}{row['chunk_size']:>11}{row['conditions']:>12}  {row['mode']:<17}"
        )
        line += "".join(f"{row[name]:>16.3f}" for name in names)
        if with_oracle:
            line += f"{row['hypnettorch'] / row['hnetfast']:>9.1f}×"
        lines.append(line)
    if with_oracle:
        for mode in MODES:
            mean = statistics.geometric_mean(
                r["hypnettorch"] / r["hnetfast"] for r in rows if r["mode"] == mode
            )
            lines.append(f"Geometric mean, {mode}: {mean:.1f}× as fast as hypnettorch.")
    else:
        lines.append("hypnettorch is not installed, so it is not in the table (pip install hypnettorch).")
    return "\n".join(lines)
