"""How long weight generation takes: hnetfast, its PyTorch reference and hypnettorch, timed in turns."""

from __future__ import annotations

import importlib
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType

import torch
from torch import Tensor

from hnetfast.examples._architectures import RESNET32_ROWS, resnet_shapes
from hnetfast.ops.chunked_mlp import chunked_mlp_reference

Call = Callable[[], object]
MODES = ("forward", "forward+backward")


def time_in_turns(
    calls: Mapping[str, Call], seconds: float, minimum: int = 3, maximum: int = 200, warm_up: bool = True
) -> dict[str, list[float]]:
    """Time several calls, one of each in every round, so that a busy machine slows all of them alike.

    Args:
        calls: What to time, by name.
        seconds: No round starts later than this, once ``minimum`` is reached.
        minimum: Rounds at least.
        maximum: Rounds at most.
        warm_up: Whether each is called once before the first round.

    Returns:
        The duration of every timed call in seconds, by name; what a call returns is freed within it.
    """
    for call in calls.values() if warm_up else ():
        call()
    durations: dict[str, list[float]] = {name: [] for name in calls}
    stop = time.perf_counter() + seconds
    for done in range(maximum):
        if done >= minimum and time.perf_counter() > stop:
            break
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            durations[name].append(time.perf_counter() - start)
    return durations


def geometric_mean(values: Sequence[float]) -> float:
    """The geometric mean of positive numbers."""
    return math.exp(sum(map(math.log, values)) / len(values))


def import_hypnettorch(module: str) -> ModuleType | None:
    """A module of hypnettorch, or ``None`` where hypnettorch is not installed or is hnetfast in disguise."""
    try:
        if module.split(".")[0] == "data":
            _give_names_back_to_numpy()
        found = importlib.import_module(f"hypnettorch.{module}")
    except ImportError:
        return None
    return found if found.__name__ == f"hypnettorch.{module}" else None


def _give_names_back_to_numpy() -> None:
    # hypnettorch's data handlers use names that numpy no longer has. What these handlers import must not see
    # them, so it is imported first.
    for name in ("numpy.ma", "scipy.sparse", "sklearn.preprocessing", "pandas", "torchvision"):
        importlib.import_module(name)
    numpy = importlib.import_module("numpy")
    for name, kind in {"int": int, "float": float, "bool": bool}.items():
        if not hasattr(numpy, name):
            setattr(numpy, name, kind)


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


def generation_call(
    mode: str, generate: Callable[[], Tensor], parameters: Sequence[Tensor], grad: Tensor
) -> Call:
    """A call to time.

    Args:
        mode: One of ``MODES``.
        generate: Returns the generated weights ``[B, n]``.
        parameters: What to differentiate with respect to; those not involved are skipped.
        grad: Gradient of the weights ``[B, n]``.

    Returns:
        A function without arguments that returns once the device is done.
    """

    def forward() -> None:
        with torch.no_grad():
            generate()

    def forward_and_backward() -> None:
        torch.autograd.grad(generate(), parameters, grad, allow_unused=True)

    call = forward if mode == "forward" else forward_and_backward
    if grad.device.type != "cuda":
        return call

    def synchronised() -> None:
        call()
        torch.cuda.synchronize(grad.device)

    return synchronised


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
    implementations = {"hnetfast": importlib.import_module("hnetfast.hnets")}
    oracle = import_hypnettorch("hnets")
    if oracle is not None:
        implementations["hypnettorch"] = oracle
    rows: list[dict[str, str | int | float]] = []
    for layers, chunk_size in RESNET32_ROWS:
        hnets = {
            name: module.ChunkedHMLP(
                resnet_shapes(num_classes=60),
                chunk_size,
                chunk_emb_size=32,
                cond_in_size=32,
                layers=layers,
                num_cond_embs=max(num_conditions),
                verbose=False,
            ).to(device)
            for name, module in implementations.items()
        }
        for count in num_conditions:
            cond_ids = list(range(count))
            generators = {
                name: (hnet, lambda h=hnet, c=cond_ids: h.forward(cond_id=c, ret_format="flattened"))
                for name, hnet in hnets.items()
            }
            own = hnets["hnetfast"]
            generators["reference"] = (own, lambda h=own, c=cond_ids: generate_by_reference(h, c))
            grad = torch.randn(count, own.num_outputs, device=device)
            for mode in MODES:
                calls = {
                    name: generation_call(mode, generate, list(hnet.parameters()), grad)
                    for name, (hnet, generate) in generators.items()
                }
                durations = time_in_turns(calls, seconds)
                row = {"layers": ",".join(map(str, layers)), "chunk_size": chunk_size}
                row |= {"conditions": count, "mode": mode}
                row |= {name: 1e3 * statistics.median(times) for name, times in durations.items()}
                rows.append(row)
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
    layers, chunk_size = (100, 100), 4000
    implementations = ["hnetfast"] + ["hypnettorch"] * (import_hypnettorch("hnets") is not None)
    calls: dict[str, Call] = {}
    for name in implementations:
        torch.manual_seed(0)
        hnet = importlib.import_module(f"{name}.hnets").ChunkedHMLP(
            resnet_shapes(num_classes=60),
            chunk_size,
            chunk_emb_size=32,
            cond_in_size=32,
            layers=layers,
            num_cond_embs=num_tasks,
            verbose=False,
        )
        hnet.to(device)
        previous = {"prev_theta": hnet.unconditional_params, "prev_task_embs": hnet.conditional_params}
        previous = {key: [p.detach() + 1e-3 for p in params] for key, params in previous.items()}
        regulariser = importlib.import_module(f"{name}.utils.hnet_regularizer")

        def penalty(hnet=hnet, regulariser=regulariser, previous=previous) -> Tensor:
            return regulariser.calc_fix_target_reg(hnet, num_tasks, **previous)

        calls[name] = _with_gradients(penalty, hnet)
        if name == "hnetfast":
            task_ids = range(num_tasks)
            targets = generate_by_reference(hnet, task_ids).detach() + 1e-3

            def by_reference(hnet=hnet, task_ids=task_ids, targets=targets) -> Tensor:
                return (generate_by_reference(hnet, task_ids) - targets).square().sum() / num_tasks

            calls["reference"] = _with_gradients(by_reference, hnet)
    durations = time_in_turns(calls, seconds)
    row: dict[str, str | int | float] = {"layers": ",".join(map(str, layers)), "chunk_size": chunk_size}
    row |= {"conditions": num_tasks, "mode": "regulariser"}
    return row | {name: 1e3 * statistics.median(times) for name, times in durations.items()}


def _with_gradients(loss: Callable[[], Tensor], hnet) -> Call:
    def call() -> None:
        torch.autograd.grad(loss(), list(hnet.parameters()), allow_unused=True)
        if next(hnet.parameters()).is_cuda:
            torch.cuda.synchronize()

    return call


def format_speed_table(rows: Sequence[Mapping[str, str | int | float]]) -> str:
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
            mean = geometric_mean([r["hypnettorch"] / r["hnetfast"] for r in rows if r["mode"] == mode])
            lines.append(f"Geometric mean, {mode}: {mean:.1f}× as fast as hypnettorch.")
    else:
        lines.append("hypnettorch is not installed, so it is not in the table (pip install hypnettorch).")
    return "\n".join(lines)
