"""What functions do that put target tensors together from generated pieces, found out by running them once.

Most of them only move elements (slice, permute, concatenate, repeat). Their effect is a list of numbers: the
source of every element of the result. It is read off by calling the function on tensors of element numbers,
and holds if the function also does that to random numbers and has called nothing but operations that move
elements.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hnetfast._errors import InputError, InputTypeError
from hnetfast._failures import is_out_of_memory
from hnetfast.hnets._bias_hyperinit import Wanted
from hnetfast.ops._library import remembered
from hnetfast.ops.grouped_mlp import pack_placement
from hnetfast.ops.split_targets import split_stacked, split_targets

# Operations that move elements and do not change them.
_MOVES = frozenset(
    (
        "alias",
        "as_strided",
        "cat",
        "clone",
        "constant_pad_nd",
        "contiguous",
        "copy",
        "diagonal",
        "empty",
        "empty_like",
        "empty_strided",
        "expand",
        "fill",
        "flip",
        "full",
        "gather",
        "index",
        "index_put",
        "index_select",
        "lift_fresh",
        "narrow",
        "new_empty",
        "new_empty_strided",
        "new_full",
        "new_zeros",
        "ones",
        "permute",
        "repeat",
        "reshape",
        "reshape_alias",
        "roll",
        "scatter",
        "select",
        "select_scatter",
        "slice",
        "slice_scatter",
        "split",
        "split_with_sizes",
        "squeeze",
        "stack",
        "t",
        "take",
        "to",
        "transpose",
        "unbind",
        "unfold",
        "unsafe_view",
        "unsqueeze",
        "view",
        "zero",
        "zeros",
        "zeros_like",
    )
)
_DIGIT = 1 << 12  # element numbers are passed as two digits, which float32 holds exactly
_SHORT_PIECES = 16  # elements in a piece, on average, below which moving pieces costs more than a gather
_MANY_PIECES = 1 << 12


def positions_in_runs(runs: tuple[Tensor, Tensor], positions: Tensor) -> Tensor:
    """Where elements at given positions come from.

    Args:
        runs: Where runs of elements begin whose sources follow one another, in ascending order, and the
            sources of these elements.
        positions: int64.
    """
    first, begins = runs
    run = torch.searchsorted(first, positions, right=True) - 1
    return begins[run] + positions - first[run]


def _on_cpu(method: Callable[..., Any]) -> Callable[..., Any]:
    """Elements are told apart by numbers on a CPU, whatever the default device is."""

    @wraps(method)
    def call(*arguments: Any, **options: Any) -> Any:
        with torch.device("cpu"):
            return method(*arguments, **options)

    return call


class Assembly:
    """What an assembly function does, and the function itself where that is not only moving elements.

    Args:
        function: Called with a list of the pieces of one sample; returns the target tensors.
        piece_shapes: Shapes of the pieces.
        target_shapes: Shapes of the tensors to return.

    Attributes:
        kind: "moves" if the function only moves elements and need not be called again; "vmap" if it computes
            and is called for a whole batch by :func:`torch.vmap`; "loop" if it is called a sample at a time.
        num_elements: Of all pieces.
        sources: For "moves" the number of the source of every result element, among the elements of all
            pieces.
        runs: Where runs of result elements begin whose sources follow one another, and the sources of these
            elements; of a function that computes none.

    Raises:
        TypeError, ValueError: If the function raises, returns something else than tensors of the target
            shapes, changes its input in place, or does not return the same twice.
    """

    @_on_cpu
    def __init__(
        self,
        function: Callable[[list[Tensor]], Any],
        piece_shapes: Sequence[Sequence[int]],
        target_shapes: Sequence[Sequence[int]],
    ) -> None:
        self._function = function
        self._piece_shapes = [tuple(shape) for shape in piece_shapes]
        self._target_shapes = [tuple(shape) for shape in target_shapes]
        self.num_elements = sum(self._sizes())
        self.sources = self._find_sources()
        known = torch.empty(0, dtype=torch.int64) if self.sources is None else self.sources
        first = torch.cat([torch.tensor([0]), known.diff().ne(1).nonzero().flatten() + 1])[: len(known)]
        self.runs = first, known[first]
        self.kind = "moves" if self.sources is not None else "vmap" if self._can_batch() else "loop"

    def __call__(self, pieces: Tensor) -> Tensor:
        """Call a function that computes.

        Args:
            pieces: The pieces of each sample, flattened and joined, ``[B, M]``.

        Returns:
            The target tensors, flattened and joined, ``[B, n]``.
        """
        if self.kind == "vmap":
            stacked = split_stacked(pieces, self._piece_shapes)
            results = torch.vmap(self._checked, randomness="same")(stacked)
            return torch.cat([result.flatten(1) for result in results], dim=1)
        samples = [self._checked(sample) for sample in split_targets(pieces, self._piece_shapes)]
        return torch.stack([torch.cat([tensor.flatten() for tensor in sample]) for sample in samples])

    # --- what the function does -----------------------------------------------------------------------

    def _checked(self, pieces: list[Tensor]) -> list[Tensor]:
        """Call the function on one sample, and check what it returns."""
        results = self._function(list(pieces))
        if not isinstance(results, (list, tuple)):
            raise InputTypeError(f"assembly_fct: must return a list of tensors, got {type(results).__name__}")
        if len(results) != len(self._target_shapes):
            raise InputError(
                f"assembly_fct: must return {len(self._target_shapes)} tensors as target_shapes has, got "
                f"{len(results)}"
            )
        for i, (result, shape) in enumerate(zip(results, self._target_shapes, strict=True)):
            if not isinstance(result, Tensor):
                raise InputTypeError(
                    f"assembly_fct: result {i} must be a tensor, got {type(result).__name__}"
                )
            if tuple(result.shape) != shape:
                raise InputError(
                    f"assembly_fct: result {i} must have the shape {list(shape)} of target_shapes[{i}], got "
                    f"{list(result.shape)}"
                )
        return list(results)

    def _try(self, elements: Tensor) -> list[Tensor]:
        """Call the function, not known to be sound yet, on pieces made of ``elements``, ``[M]``."""
        pieces = [t.view(s) for t, s in zip(elements.split(self._sizes()), self._piece_shapes, strict=True)]
        version = elements._version
        try:
            results = self._checked(pieces)
        except (InputError, InputTypeError):
            raise
        except Exception as error:
            raise InputError(
                f"assembly_fct: raised {type(error).__name__} for pieces of the shapes "
                f"{[list(s) for s in self._piece_shapes]}: {error}"
            ) from error
        if elements._version != version:
            raise InputError("assembly_fct: must not change its input in place")
        return results

    def _sizes(self) -> list[int]:
        return [prod(shape) for shape in self._piece_shapes]

    def _find_sources(self) -> Tensor | None:
        count = sum(self._sizes())
        generator = torch.Generator().manual_seed(0)
        like = torch.empty(0)
        random = torch.randn(count, generator=generator).to(like)
        # The function may draw random numbers; the user's own stream of them shall not notice.
        devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
        with torch.random.fork_rng(devices), torch.no_grad():
            with _Recorder() as recorder:
                results = self._try(random)
            moved = torch.cat([result.flatten() for result in results])
            needs_grad = False
            if recorder.only_moves:
                with torch.enable_grad():
                    needs_grad = any(result.requires_grad for result in self._try(random))
            if recorder.only_moves and not needs_grad and moved.dtype == random.dtype:
                numbers = torch.arange(count, dtype=torch.int32 if count < 1 << 31 else torch.int64)
                low = torch.cat([r.flatten() for r in self._try((numbers % _DIGIT).to(random))])
                high = torch.cat([r.flatten() for r in self._try((numbers // _DIGIT).to(random))])
                del numbers
                sources = high.to(torch.int64).mul_(_DIGIT).add_(low.to(torch.int64))
                inside = bool(((sources >= 0) & (sources < count)).all())
                if inside and torch.equal(random[sources], moved):
                    return sources
            again = torch.cat([result.flatten() for result in self._try(random)])
            if not torch.equal(moved, again):
                raise InputError(
                    "assembly_fct: returned different values for the same input; random perturbations are "
                    "what HPerturbWrapper is for"
                )
        return None

    def _can_batch(self) -> bool:
        """Whether ``vmap`` gives for two samples what two calls give."""
        pieces = torch.randn(2, sum(self._sizes()), generator=torch.Generator().manual_seed(1))
        pieces = pieces.to(torch.empty(0))
        with torch.no_grad():
            self.kind = "loop"
            expected = self(pieces)
            self.kind = "vmap"
            try:
                return torch.allclose(self(pieces), expected, rtol=1e-5, atol=1e-6)
            except Exception as error:  # whatever the function does that vmap does not know
                if is_out_of_memory(error):
                    raise
                return False

    def sources_of(self, positions: Tensor) -> Tensor:
        """Where result elements at given positions come from, among the elements of all pieces."""
        return positions_in_runs(self.runs, positions)

    def require_moves(self) -> None:
        """Refuse a function that computes, whose result elements have no single source."""
        if self.kind != "moves":
            raise InputError(
                f"hnet: assembly_fct computes the targets (assembly={self.kind!r}), which therefore have no "
                "single source"
            )

    @_on_cpu
    def wanted_of_pieces(self, wanted: Wanted) -> Wanted:
        """What the elements of all pieces are to be at first, where that is known of the targets.

        Args:
            wanted: The same of the targets.

        Raises:
            ValueError: If the function computes, or values cannot be reached.
        """
        self.require_moves()
        return wanted.moved(self.sources_of(torch.arange(len(wanted.values))), self.num_elements)

    def blocks_of_targets(self, sizes: Tensor) -> Tensor:
        """For every result element the number of the block that it is from, where all elements are cut in
        blocks.

        By runs of elements whose sources follow one another, not by elements, of which there are many
        millions.

        Args:
            sizes: Sizes of the blocks.

        Returns:
            int32 ``[n]``.
        """
        ends = sizes.cumsum(0)
        first, begins = self.runs
        count = sum(map(prod, self._target_shapes))
        lengths = torch.cat([first, torch.tensor([count])]).diff()
        first_block = torch.searchsorted(ends, begins, right=True)
        num_blocks = torch.searchsorted(ends, begins + lengths - 1, right=True) - first_block + 1
        run = torch.arange(len(begins)).repeat_interleave(num_blocks)
        blocks = first_block[run] + torch.arange(len(run)) - (num_blocks.cumsum(0) - num_blocks)[run]
        starts = torch.maximum(begins[run], ends[blocks] - sizes[blocks])
        stops = torch.minimum((begins + lengths)[run], ends[blocks])
        return blocks.to(torch.int32).repeat_interleave(stops - starts)

    def forget_sources(self) -> None:
        """Free :attr:`sources`, which are large."""
        self.sources = None

    def _call_joined(self, slots: Sequence[Tensor]) -> Tensor:
        return self(slots[0] if len(slots) == 1 else torch.cat(list(slots), dim=1))

    # --- where elements go ----------------------------------------------------------------------------

    @_on_cpu
    def whole_pieces(self) -> list[int] | None:
        """For every target the piece that it is, if each is a whole one in its own shape, else None."""
        if self.sources is None:
            return None
        starts, start = {}, 0
        for i, shape in enumerate(self._piece_shapes):
            starts.setdefault((start, shape), i)
            start += prod(shape)
        chosen, position = [], 0
        for shape in self._target_shapes:
            sources = self.sources[position : position + prod(shape)]
            position += len(sources)
            piece = starts.get((int(sources[0]), shape)) if len(sources) else None
            if piece is None or not torch.equal(sources, torch.arange(len(sources)) + sources[0]):
                return None
            chosen.append(piece)
        return chosen

    @_on_cpu
    def placement(
        self, chunks: Sequence[int], rows: Sequence[int]
    ) -> tuple[Tensor, Callable[[Sequence[Tensor]], Tensor] | None]:
        """Where generation stores the pieces, for :func:`hnetfast.ops.grouped_mlp`.

        Args:
            chunks: Number of chunks of each group.
            rows: Number of elements of each of its chunks. Pieces are ordered by group and chunk.

        Returns:
            The placement, and None if it is that of the targets. If it is that of the pieces one after the
            other, what gathers the targets from them.
        """
        as_generated = pack_placement(*_rows_in_order(chunks, rows))
        if self.sources is None:
            return as_generated, self._call_joined
        count = sum(n * s for n, s in zip(chunks, rows, strict=True))
        targets = torch.full((count,), -1)
        targets[self.sources] = torch.arange(len(self.sources))
        if int((targets >= 0).sum()) != len(self.sources):  # an element goes to several places
            return as_generated, _Gather(self.sources)
        bounds, places, start = [], [], 0
        for n, s in zip(chunks, rows, strict=True):
            of_group = targets[start : start + n * s].view(n, s)
            start += n * s
            before, here = of_group[:, :-1], of_group[:, 1:]
            goes_on = torch.where(before < 0, here < 0, here == before + 1).all(0)
            cuts = (~goes_on).nonzero().flatten() + 1
            bounds.append(torch.cat([torch.tensor([0]), cuts, torch.tensor([s])]))
            places.append(of_group[:, bounds[-1][:-1]])
        pieces = sum(p.numel() for p in places)
        if pieces > _MANY_PIECES and pieces * _SHORT_PIECES > count:
            return as_generated, _Gather(self.sources)
        return pack_placement(bounds, places), None

    @_on_cpu
    def finish(self, slots: Sequence[int]) -> Callable[[Sequence[Tensor]], Tensor]:
        """What puts targets together from tensors that hold the pieces, in one pass.

        Args:
            slots: Numbers of elements of the tensors, which together are all pieces in their order.

        Returns:
            A function that turns the tensors ``[B, slot]`` into the flattened targets, ``[B, n]``.
        """
        if self.sources is None:
            return self._call_joined
        sources = self.sources
        ends = torch.tensor(list(slots)).cumsum(0)
        jumps = torch.nonzero(sources.diff() != 1).flatten() + 1
        begins = sources[torch.cat([torch.tensor([0]), jumps])]
        lengths = torch.cat([torch.tensor([0]), jumps, torch.tensor([len(sources)])]).diff()
        if len(begins) > _MANY_PIECES and len(begins) * _SHORT_PIECES > len(sources):
            return _Gather(sources)
        # Everything is cut where a run begins or ends, and where a tensor does; a run is some such stretches.
        cuts = torch.cat([torch.tensor([0]), begins, begins + lengths, ends]).unique()
        first, last = torch.searchsorted(cuts, begins), torch.searchsorted(cuts, begins + lengths)
        order = [i for a, b in zip(first.tolist(), last.tolist(), strict=True) for i in range(a, b)]
        sizes, of_slot = cuts.diff().tolist(), torch.searchsorted(ends, cuts[:-1], right=True).tolist()
        splits = [[size for size, k in zip(sizes, of_slot, strict=True) if k == j] for j in range(len(slots))]
        return _Moves(splits, order)


class _Moves:
    """Cuts tensors and joins what it cut: one concatenation forward, and one for each tensor backward."""

    def __init__(self, splits: list[list[int]], order: list[int]) -> None:
        self._splits, self._order = splits, order

    def __call__(self, slots: Sequence[Tensor]) -> Tensor:
        stretches = []
        for slot, sizes in zip(slots, self._splits, strict=True):
            stretches.extend([slot] if len(sizes) == 1 else slot.split_with_sizes(sizes, 1))
        return torch.cat([stretches[i] for i in self._order], dim=1)


class _Gather:
    """Takes elements of joined tensors by their numbers."""

    def __init__(self, sources: Tensor) -> None:
        self._sources = {sources.device: sources}

    def __call__(self, slots: Sequence[Tensor]) -> Tensor:
        joined = slots[0] if len(slots) == 1 else torch.cat(list(slots), dim=1)
        sources = remembered(
            self._sources, joined.device, lambda: next(iter(self._sources.values())).to(joined.device)
        )
        return joined.index_select(1, sources)


def _rows_in_order(chunks: Sequence[int], rows: Sequence[int]) -> tuple[list[Tensor], list[Tensor]]:
    bounds, places, start = [], [], 0
    for n, s in zip(chunks, rows, strict=True):
        bounds.append(torch.tensor([0, s]))
        places.append((torch.arange(n) * s + start)[:, None])
        start += n * s
    return bounds, places


class _Recorder(TorchDispatchMode):
    """Notices operations on floating-point tensors that do more than moving their elements."""

    def __init__(self) -> None:
        super().__init__()
        self.only_moves = True

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if _base_name(function) not in _MOVES:
            tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
            self.only_moves &= not any(t.is_floating_point() or t.is_complex() for t in tensors)
        return function(*args, **kwargs)


def _base_name(function: torch._ops.OpOverload) -> str:
    """Name of an operation without the marks of its variants, such as "slice" for ``slice_copy``."""
    return function.overloadpacket.__name__.strip("_").removesuffix("_copy")
