"""Main networks evaluated for many sets of weights: the cases, who competes, and peak memory.

``python -m bench.ensembles ours ResNet-32:10:1:forward`` prints the peak memory of one contender, in bytes.
"""

from __future__ import annotations

import functools
import importlib
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from math import prod

import torch
from torch import Tensor

from bench.memory import measure_in_child, peak_bytes, print_peak
from hnetfast.examples._speed import import_hypnettorch
from hnetfast.ops import split_targets

NETWORKS = {
    "MLP 784-100-100-10": ("MLP", {"n_in": 784, "n_out": 10, "hidden_layers": [100, 100]}, 784),
    "LeNet": ("LeNet", {}, 784),
    "ResNet-32": ("ResNet", {"use_batch_norm": False}, 3072),
    "WRN-16-4": ("WRN", {"n": 2, "k": 4, "use_batch_norm": False}, 3072),
}
SETS, BATCHES, MODES = (1, 10, 50), (1, 32), ("forward", "forward+backward")


@dataclass(frozen=True)
class EnsembleCase:
    """A network, how many sets of weights it has, the size of the batch that they share, and a mode."""

    network: str
    sets: int
    batch: int
    mode: str

    @property
    def name(self) -> str:
        """Short text for tables and test ids."""
        return ":".join(map(str, astuple(self)))


CASES = [
    EnsembleCase(network, sets, batch, mode)
    for network in NETWORKS
    for sets in SETS
    for batch in BATCHES
    for mode in MODES
]


def build(module, name: str, device: str = "cpu"):
    """A network of :data:`NETWORKS` without weights, from ``hnetfast.mnets`` or ``hypnettorch.mnets``."""
    cls, arguments, _ = NETWORKS[name]
    return getattr(module, cls)(no_weights=True, verbose=False, **arguments).to(device)


class Ensemble:
    """Everyone who computes the outputs of a case, from the same weights ``[B, n]``.

    Attributes:
        contenders: Functions from weights to outputs ``[B, batch, out]``: "hnetfast" (``forward_batched``),
            "loop" (its single calls), "vmap" (of its single call) and "hypnettorch" (its single calls).
    """

    def __init__(self, case: EnsembleCase, device: str = "cpu") -> None:
        self.case = case
        network = build(importlib.import_module("hnetfast.mnets"), case.network, device)
        shapes = [tuple(shape) for shape in network.param_shapes]
        sizes = [prod(shape) for shape in shapes]
        generator = torch.Generator(device).manual_seed(1)
        x = torch.randn(case.batch, NETWORKS[case.network][2], generator=generator, device=device)
        fan_in = [shape[1] * prod(shape[2:]) if len(shape) > 1 else 100 for shape in shapes]
        scale = torch.cat([torch.full((size,), n**-0.5) for size, n in zip(sizes, fan_in, strict=True)])
        self.weights = torch.randn(case.sets, sum(sizes), generator=generator, device=device)
        self.weights.mul_(scale.to(device)).requires_grad_(case.mode != MODES[0])

        def one(row: Tensor) -> Tensor:
            pieces = row.split_with_sizes(sizes)
            return network.forward(x, weights=[p.view(s) for p, s in zip(pieces, shapes, strict=True)])

        def loop(network) -> Callable[[Tensor], Tensor]:
            return lambda flat: torch.stack(
                [network.forward(x, weights=w) for w in split_targets(flat, shapes)]
            )

        self.contenders: dict[str, Callable[[Tensor], Tensor]] = {
            "hnetfast": lambda flat: network.forward_batched(x, flat),
            "loop": loop(network),
            "vmap": torch.vmap(one),
        }
        oracle = import_hypnettorch("mnets")
        if oracle is not None:
            self.contenders["hypnettorch"] = loop(build(oracle, case.network, device))

    def outputs(self, name: str) -> Tensor:
        """What a contender computes, without gradients."""
        with torch.no_grad():
            return self.contenders[name](self.weights)

    def gradient(self, name: str) -> Tensor:
        """The gradient ``[B, n]`` of the sum of squares of what it computes."""
        outputs = self.contenders[name](self.weights)
        return torch.autograd.grad(outputs, self.weights, outputs.detach())[0]

    def call(self, name: str) -> None:
        """What is timed."""
        result = self.outputs(name) if self.case.mode == MODES[0] else self.gradient(name)
        if result.is_cuda:
            torch.cuda.synchronize()

    def check(self) -> dict[str, float]:
        """Compare all contenders with the loop.

        Returns:
            How long each took, in seconds.

        Raises:
            AssertionError: They differ by more than rounding.
        """
        compute = self.outputs if self.case.mode == MODES[0] else self.gradient
        seconds: dict[str, float] = {}
        expected = None
        for name in ("loop", *(name for name in self.contenders if name != "loop")):
            start = time.perf_counter()
            found = compute(name)
            seconds[name] = time.perf_counter() - start
            expected = found if expected is None else expected
            error = ((found - expected).norm() / expected.norm()).item()
            # Rounding moves a unit across ReLU's kink now and then, which shows in gradients.
            if not error <= (1e-4 if self.case.mode == MODES[0] else 5e-3):
                raise AssertionError(f"{name} differs from the loop by {error:.1e} of the norm")
        return {name: seconds[name] for name in self.contenders}


def measure_peaks(contender: str, cases: Sequence[EnsembleCase]) -> dict[str, int]:
    """Measure how much a call adds to the resident memory of a process.

    Args:
        contender: Whose call.
        cases: What to measure.

    Returns:
        Bytes at the peak, weights and result included, by name of the case; empty where the system does not
        report it (it is a Linux interface).
    """
    return measure_in_child("bench.ensembles", [contender, *(case.name for case in cases)])


def main(arguments: Sequence[str]) -> None:
    """Measure in this process; see the head of the module."""
    contender, *names = arguments
    torch.set_num_threads(2)
    for name in names:
        network, sets, batch, mode = name.split(":")
        case = EnsembleCase(network, int(sets), int(batch), mode)
        Ensemble(EnsembleCase(network, 1, 1, mode)).call(contender)  # libraries and threads are there now
        ensemble = Ensemble(case)
        print_peak(name, ensemble.weights.nbytes + peak_bytes(functools.partial(ensemble.call, contender)))
        del ensemble


if __name__ == "__main__":
    main(sys.argv[1:])
