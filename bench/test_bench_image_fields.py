"""Images as generated functions of coordinates: ``pytest bench/test_bench_image_fields.py``.

A step generates a network with sines for each of 32 images, evaluates it at all pixels, and computes all
gradients. The other sides are loops over the images: of all of it, or of the networks only, whose weights are
generated at once, as with hypnettorch.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from bench.harness import check, matrix_rate
from bench.tables import Table, field, over, percent_of_floor, speed_ups, times, times_as_fast
from hnetfast._comparison import libraries
from hnetfast.nn import Sine, siren_variances

_IMAGES, _CODE = 32, 16
# Multiplications with an addition that a sine and a cosine take, selections and shifts among them.
_OF_A_SINE = 20
_LOOP, _IN_TURN = "fields in turn", "images in turn"


def _build(library: str, channels: int, widths: list[int]):
    mnet = importlib.import_module(f"{library}.mnets").MLP(
        n_in=2,
        n_out=channels,
        hidden_layers=widths,
        activation_fn=Sine(5.0),
        no_weights=True,
        verbose=False,
    )
    hnet = importlib.import_module(f"{library}.hnets").HMLP(
        mnet.param_shapes,
        uncond_in_size=_CODE,
        cond_in_size=0,
        layers=[64],
        num_cond_embs=0,
        verbose=False,
    )
    return mnet, hnet


class _Step:
    """Errors of the pixels, and gradients of the hypernetwork and the codes."""

    def __init__(self, library: str, size: int, channels: int, widths: list[int]) -> None:
        self.mnet, self.hnet = _build(library, channels, widths)
        own, initialised = _build("hnetfast", channels, widths)
        torch.manual_seed(0)
        initialised.apply_hyperfan_init(mnet=own, target_vars=siren_variances(own))
        with torch.no_grad():
            for param, value in zip(self.hnet.parameters(), initialised.parameters(), strict=True):
                param.copy_(value)
        self.codes = torch.randn(_IMAGES, _CODE, requires_grad=True)
        self.coordinates = 2 * torch.rand(size * size, 2) - 1
        self.images = torch.rand(_IMAGES, size * size, channels)

    def at_once(self) -> Tensor:
        weights = self.hnet(uncond_input=self.codes, ret_format="flattened")
        return self.mnet.forward_batched(self.coordinates, weights, x_per_set=False)

    def fields_in_turn(self) -> Tensor:
        generated = self.hnet.forward(uncond_input=self.codes, ret_format="sequential")
        return torch.stack([self.mnet.forward(self.coordinates, weights=weights) for weights in generated])

    def images_in_turn(self) -> Tensor:
        return torch.stack(
            [
                self.mnet.forward(self.coordinates, weights=self.hnet.forward(uncond_input=code))
                for code in self.codes.split(1)
            ]
        )

    def gradients(self, forward: Callable[[], Tensor]) -> list[Tensor]:
        loss = F.mse_loss(forward(), self.images)
        return [loss.detach(), *torch.autograd.grad(loss, [self.codes, *self.hnet.parameters()])]


def _operations(step: _Step, widths: list[int], channels: int) -> int:
    """Multiplications and additions of all layers, forward and for both gradients of each, and of sines."""
    sizes = [2, *widths, channels]
    points = _IMAGES * len(step.coordinates)
    of_fields = points * (3 * sum(a * b for a, b in pairwise(sizes)) - 2 * widths[0])
    of_fields += points * _OF_A_SINE * sum(widths)
    return 2 * (of_fields + 3 * _IMAGES * 64 * (_CODE + step.mnet.num_params))


_CASES = {
    "digits, 8×8, `32,32`": (8, 1, [32, 32]),
    "digits, 8×8, `32,32,32`": (8, 1, [32, 32, 32]),
    "patches, 16×16 in colour, `32,32`": (16, 3, [32, 32]),
    "patches, 16×16 in colour, `64,64`": (16, 3, [64, 64]),
}


@pytest.mark.parametrize("name", _CASES)
def test_step(name, bench):
    size, channels, widths = _CASES[name]
    steps = {library: _Step(library, size, channels, widths) for library in libraries()}
    own = steps["hnetfast"]
    ways = {"hnetfast": own.at_once, _LOOP: own.fields_in_turn, _IN_TURN: own.images_in_turn}
    calls = {way: lambda forward=forward: own.gradients(forward) for way, forward in ways.items()}
    if "hypnettorch" in steps:
        other = steps["hypnettorch"]
        calls["hypnettorch"] = lambda: other.gradients(other.fields_in_turn)
    expected = calls["hnetfast"]()
    for way, call in calls.items():
        check(call(), expected, 1e-4, f"{name}, {way}")
    durations = bench.time(calls, minimum=7, turn=30e-3)
    (rate,) = bench.rates(matrix_rate("cpu"))
    floor = _operations(own, widths, channels) / rate
    bench.add(TABLE, durations, what=name, threads=torch.get_num_threads(), floor_ms=1e3 * floor)


def _facts(rows) -> list[str]:
    facts = []
    for other in (_LOOP, _IN_TURN, "hypnettorch"):
        facts += over(f"generated fields, over {other}", speed_ups(rows, other))
    return facts


TABLE = Table(
    key="image_fields",
    title="Images as generated functions",
    intro=(
        "A network with sines for each of 32 images, generated by an HMLP from a code of the image and "
        "evaluated at all pixels, with all gradients, in milliseconds. The other sides evaluate the networks "
        "in turn: with weights that were generated at once, as hypnettorch's, or in turn as well. The floor "
        "is the operations of all products, and of a sine and a cosine for each hidden value, at the rate of "
        "a large product."
    ),
    columns={
        "what": field("what"),
        "threads": field("threads"),
        **times("hnetfast", _LOOP, _IN_TURN, "hypnettorch"),
        f"× {_LOOP}": times_as_fast(_LOOP),
        f"× {_IN_TURN}": times_as_fast(_IN_TURN),
        "× hypnettorch": times_as_fast(),
        "of the floor": percent_of_floor,
    },
    place=77,
    facts=_facts,
)
