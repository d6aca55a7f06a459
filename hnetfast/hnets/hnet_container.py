"""Hypernetwork made of other hypernetworks, shared parameters and parameters of conditions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, distributed, nn

from hnetfast._checks import check_integer
from hnetfast._errors import InputError, InputTypeError
from hnetfast._parameter_lists import look_up
from hnetfast.hnets._arguments import (
    check_assembly_fct,
    check_hnets,
    check_param_names,
    check_param_shapes,
    check_target_shapes,
)
from hnetfast.hnets._assembled import Assembled
from hnetfast.hnets._assembly import Assembly
from hnetfast.hnets._bias_hyperinit import Changes, Wanted, keep_unknown
from hnetfast.hnets._call import Call, no_such_condition, parse_call, refuse_distilled_params
from hnetfast.hnets._conditions import check_checkpoint, own_params, select_parameters, touch_parameters
from hnetfast.hnets._part import Part
from hnetfast.hnets.hnet_interface import HyperNetInterface, Targets
from hnetfast.mnets._ties import find_ties, tie_again
from hnetfast.mnets.mnet_interface import MainNetInterface

__all__ = ["HContainer"]

_STD = 0.02


class HContainer(Assembled, nn.Module, HyperNetInterface):
    """Container whose target tensors come from hypernetworks, from shared parameters, and from parameters
    that each condition has its own of, put together by a function. Containers may hold containers.

    Own parameters are drawn from N(0, 0.02²).

    Args:
        target_shapes: Shapes of the tensors to generate.
        assembly_fct: Called with a list of the tensors of each hypernetwork, the list of shared parameters
            and the list of those of a condition; returns tensors of the target shapes. It is called some
            times at once, to see what it does: a function that only moves elements (see :attr:`assembly`) is
            not called again.
        hnets: The hypernetworks. Those that have conditions must know ``num_cond_embs`` of them.
        uncond_param_shapes: Shapes of shared parameters.
        cond_param_shapes: Shapes of the parameters that each condition has.
        uncond_param_names: What the key "name" of :attr:`param_shapes_meta` is for shared parameters; by
            default "weight" for those of several dimensions, else "bias".
        cond_param_names: The same for the parameters of a condition.
        verbose: Print what was created.
        no_uncond_weights: Keep no shared parameters; they are given to :meth:`forward`.
        no_cond_weights: Keep no parameters of conditions; they are given to :meth:`forward`.
        num_cond_embs: Number of conditions.

    Raises:
        TypeError, ValueError: If an argument is not accepted; it is named.

    Example:
        A hypernetwork makes the first layer; every condition has an output layer of its own:

        >>> from hnetfast.hnets import HMLP
        >>> first = HMLP([[8, 4]], num_cond_embs=3, verbose=False)
        >>> hnet = HContainer(
        ...     [[8, 4], [2, 8]],
        ...     lambda of_hnets, shared, own: [*of_hnets[0], *own],
        ...     hnets=[first],
        ...     cond_param_shapes=[[2, 8]],
        ...     num_cond_embs=3,
        ...     verbose=False,
        ... )
        >>> [tuple(tensor.shape) for tensor in hnet(cond_id=1)]
        [(8, 4), (2, 8)]
    """

    _further_keys = ("hnets",)

    def __init__(
        self,
        target_shapes: Sequence[Sequence[int]],
        assembly_fct: Callable[[list[list[Tensor]], list[Tensor], list[Tensor]], Sequence[Tensor]],
        hnets: Sequence[HyperNetInterface] | None = None,
        uncond_param_shapes: Sequence[Sequence[int]] | None = None,
        cond_param_shapes: Sequence[Sequence[int]] | None = None,
        uncond_param_names: Sequence[str] | None = None,
        cond_param_names: Sequence[str] | None = None,
        verbose: bool = True,
        no_uncond_weights: bool = False,
        no_cond_weights: bool = False,
        num_cond_embs: int = 1,
    ) -> None:
        check_target_shapes(target_shapes)
        check_assembly_fct(assembly_fct)
        num_cond_embs = check_integer("num_cond_embs", num_cond_embs, 0)
        hnets = check_hnets(hnets, num_cond_embs)
        uncond_param_shapes = check_param_shapes("uncond_param_shapes", uncond_param_shapes)
        cond_param_shapes = check_param_shapes("cond_param_shapes", cond_param_shapes)
        uncond_names = check_param_names("uncond_param", uncond_param_names, uncond_param_shapes)
        cond_names = check_param_names("cond_param", cond_param_names, cond_param_shapes)
        if not hnets and not uncond_param_shapes and not cond_param_shapes:
            raise InputError(
                "hnets, uncond_param_shapes, cond_param_shapes: at least one of them is needed, got none"
            )
        if cond_param_shapes and num_cond_embs == 0:
            raise InputError("cond_param_shapes: needs num_cond_embs of at least 1, got 0")
        nn.Module.__init__(self)
        HyperNetInterface.__init__(self)

        self._target_shapes = target_shapes
        self._meta_pairs: list[tuple[dict[str, Any], dict[str, Any]]] = []  # of a hypernetwork's, and ours
        self._own_meta: dict[tuple[Any, int], dict[str, Any]] = {}
        self._hnets: list[HyperNetInterface] = hnets
        self._uncond_param_shapes = uncond_param_shapes
        self._cond_param_shapes = cond_param_shapes
        self._uncond_names, self._cond_names = uncond_names, cond_names
        self._no_uncond_weights = bool(no_uncond_weights)
        self._no_cond_weights = bool(no_cond_weights)
        known = {hnet.num_known_conds for hnet in hnets} - {0}
        self._num_cond_embs = num_cond_embs if cond_param_shapes else next(iter(known), num_cond_embs)
        self._num_known_conds = self._num_cond_embs
        self._assembly_fct = assembly_fct
        self._find_assembly()

        self._has_bias = bool(hnets) and all(hnet.has_bias for hnet in hnets)
        self._has_fc_out = False
        self._mask_fc_out = False
        self._has_linear_out = False
        # In the order that hypnettorch's parameters have.
        self._layer_weight_tensors = nn.ParameterList()
        self._layer_bias_vectors = nn.ParameterList()
        self._internal_params = nn.ParameterList()

        def new(shapes: Sequence[Sequence[int]], external: bool) -> list[nn.Parameter | None]:
            return [None if external else _new_parameter(shape, None) for shape in shapes]

        uncond = new(uncond_param_shapes, no_uncond_weights)
        cond = [new(cond_param_shapes, no_cond_weights) for _ in range(self._num_cond_embs)]
        self._register_parameters(uncond, cond)
        self._register_layers_of_members()
        self._is_properly_setup()
        if verbose:
            print(
                f"Created Hypernet Container of {len(hnets)} hypernetwork(s), {len(uncond_names)} shared "
                f"parameter(s) and {len(cond_names)} parameter(s) for each of {self._num_cond_embs} "
                "condition(s)."
            )
            print(self)

    # --- construction ---------------------------------------------------------------------------------

    def _find_assembly(self) -> None:
        """Find out what the assembly function does."""
        of_hnets = [[list(shape) for shape in hnet.target_shapes] for hnet in self._hnets]
        own = [*self._uncond_param_shapes, *self._cond_param_shapes]
        self._num_pieces = [len(shapes) for shapes in of_hnets]
        pieces = [shape for shapes in of_hnets for shape in shapes] + own
        slots = [sum(map(_size, shapes)) for shapes in of_hnets] + [_size(shape) for shape in own]
        assembly = Assembly(self._assemble, pieces, self._target_shapes)
        self._chosen_pieces = assembly.whole_pieces()
        self._finish = assembly.finish(slots)
        assembly.forget_sources()
        self._assembly = assembly

    def _assemble(self, pieces: list[Tensor]) -> Sequence[Tensor]:
        """Call the assembly function with the pieces as its arguments are."""
        of_hnets, start = [], 0
        for count in self._num_pieces:
            of_hnets.append(pieces[start : start + count])
            start += count
        middle = start + len(self._uncond_param_shapes)
        return self._assembly_fct(of_hnets, pieces[start:middle], pieces[middle:])

    def _register_parameters(
        self, uncond: list[nn.Parameter | None], cond: list[list[nn.Parameter | None]]
    ) -> None:
        """Describe all parameters: those of the hypernetworks, shared ones, and those of each condition."""
        known = {id(source): entry for source, entry in self._meta_pairs}  # users add to these dictionaries
        old, self._meta_pairs = self._own_meta, []
        self._own_meta = {}
        self._param_shapes, self._param_shapes_meta = [], []
        self._hyper_shapes_learned, self._hyper_shapes_learned_ref = [], []
        self._internal_params = nn.ParameterList()
        self._layer_weight_tensors = nn.ParameterList()
        self._layer_bias_vectors = nn.ParameterList()
        unconditional: list[int] = []
        for i, hnet in enumerate(self._hnets):
            of_hnet, internal = set(hnet.unconditional_param_shapes_ref), list(hnet.internal_params or ())
            for j, (shape, meta) in enumerate(zip(hnet.param_shapes, hnet.param_shapes_meta, strict=True)):
                if j in of_hnet:
                    unconditional.append(len(self._param_shapes))
                param = None if meta["index"] == -1 else internal[meta["index"]]
                entry = known.get(id(meta))
                if entry is None:
                    entry = {**meta, "celement_type": "hnet", "celement_ind": i}
                    entry |= {} if i == 0 else {"layer": -1}
                self._register(shape, param, entry)
                self._meta_pairs.append((meta, entry))
            self._layer_weight_tensors.extend(hnet.layer_weight_tensors or ())
            self._layer_bias_vectors.extend(hnet.layer_bias_vectors or ())
        for i, (shape, param) in enumerate(zip(self._uncond_param_shapes, uncond, strict=True)):
            unconditional.append(len(self._param_shapes))
            entry = {"name": self._uncond_names[i], "index": -1, "layer": -1, "celement_type": "uncond"}
            self._own_meta["uncond", i] = old.get(("uncond", i), entry)
            self._register(shape, param, self._own_meta["uncond", i])
        for cond_id, params in enumerate(cond):
            for i, (shape, param) in enumerate(zip(self._cond_param_shapes, params, strict=True)):
                entry = {"name": self._cond_names[i], "index": -1, "layer": -1, "celement_type": "cond"}
                entry["celement_cind"] = cond_id
                self._own_meta[cond_id, i] = old.get((cond_id, i), entry)
                self._register(shape, param, self._own_meta[cond_id, i])
        self._unconditional_param_shapes_ref = unconditional
        indices = [self._param_shapes_meta[i]["index"] for i in unconditional]
        self._unconditional_params_ref = [i for i in indices if i != -1] or None
        self._set_keys()

    def _register(self, shape: Sequence[int], param: nn.Parameter | None, meta: dict[str, Any]) -> None:
        self._register_shape(list(shape), meta["name"], meta["layer"], param)
        meta["index"] = self._param_shapes_meta[-1]["index"]
        self._param_shapes_meta[-1] = meta

    def _set_keys(self) -> None:
        """Keep the names of the parameters in their list, which :meth:`forward` looks them up by."""
        keys = [str(meta["index"]) for meta in self._param_shapes_meta]
        start, self._hnet_keys = 0, []
        for hnet in self._hnets:
            count = len(hnet.param_shapes)
            self._hnet_keys.append([key for key in keys[start : start + count] if key != "-1"])
            start += count
        middle = start + len(self._uncond_param_shapes)
        self._uncond_keys, self._own_cond_keys = keys[start:middle], keys[middle:]

    # --- attributes -----------------------------------------------------------------------------------

    @property
    def internal_hnets(self) -> list[HyperNetInterface]:
        """The hypernetworks in the container."""
        return self._hnets

    def own_cond_params(self, cond_id: int) -> list[nn.Parameter]:
        """The parameters that the container itself keeps for a condition.

        Args:
            cond_id: The condition.

        Returns:
            Parameters of the shapes ``cond_param_shapes``; empty if they are not kept internally.
        """
        count = len(self._cond_param_shapes)
        keys = self._own_cond_keys[count * cond_id : count * (cond_id + 1)]
        return [self._internal_params[int(key)] for key in keys if key != "-1"]

    # --- generation -----------------------------------------------------------------------------------

    def forward(
        self,
        uncond_input: Tensor | None = None,
        cond_input: Tensor | None = None,
        cond_id: int | Sequence[int] | Tensor | None = None,
        weights: list[Tensor] | dict[str, Any] | None = None,
        distilled_params: Any = None,
        condition: Any = None,
        ret_format: str = "squeezed",
    ) -> Tensor | Targets:
        """Generate the weights of the target network.

        Where the assembly function returns whole tensors, the formats that are lists hold the parameters of
        the container themselves and not copies of them.

        Args:
            uncond_input: Unconditional input ``[B or 1, width]``, passed to the hypernetworks.
            cond_input: Conditional input ``[B or 1, width]``, passed to the hypernetworks.
            cond_id: One condition or several ones; each from 0 to :attr:`num_known_conds` - 1. Passed to the
                hypernetworks that have any, unless ``cond_input`` is given.
            weights: Parameters to use instead of the internal ones: a list as long as
                :attr:`hyper_shapes_learned` or :attr:`param_shapes`, or a dictionary with the key
                "uncond_weights" (all unconditional ones) or "cond_weights" (all conditional ones) or both. It
                may also have the key "hnets", a list of a dictionary (or None) for each hypernetwork, whose
                entries are added to the ``weights`` that it gets, such as "chunk_embs".
            distilled_params: Not supported, None only.
            condition: Passed to the hypernetworks.
            ret_format: "flattened": a tensor ``[B, num_outputs]``. "sequential": ``B`` lists of tensors of
                shapes :attr:`target_shapes`. "squeezed": the same, but for ``B = 1`` the one list itself.

        Returns:
            As ``ret_format`` says.

        Raises:
            TypeError, ValueError: If an argument is not accepted; it is named.
            NotImplementedError: If ``distilled_params`` are given.
        """
        refuse_distilled_params(distilled_params)
        call = parse_call(
            self, uncond_input, cond_input, cond_id, weights, condition, ret_format, exclusive=False
        )
        if call.ids is None and self._cond_param_shapes:
            raise InputError("cond_id: needed, because the container has parameters of conditions")
        of_hnets = self._given_to_hnets(call)
        uncond, cond = self._own_tensors(call)
        if cond and distributed.is_available() and distributed.is_initialized():
            own = look_up(own_params(self), [key for key in self._own_cond_keys if key != "-1"])
            cond[0][0] = touch_parameters(cond[0][0], own)

        chosen_pieces = None if ret_format == "flattened" else self._chosen_pieces
        as_lists = chosen_pieces is not None
        arguments = {"uncond_input": uncond_input, "cond_input": cond_input, "condition": condition}
        outputs = []
        for i, hnet in enumerate(self._hnets):
            chosen = cond_id if cond_input is None and hnet.num_known_conds > 0 else None
            try:
                outputs.append(
                    hnet(
                        **arguments,
                        cond_id=chosen,
                        weights=of_hnets[i],
                        ret_format="sequential" if as_lists else "flattened",
                    )
                )
            except (InputError, InputTypeError) as error:
                raise type(error)(f"hnets[{i}]: {error}") from error
        batch_size = self._batch_size(outputs, call.ids)
        if chosen_pieces is not None:
            samples = []
            for b in range(batch_size):
                pieces = [tensor for out in outputs for tensor in out[b if len(out) > 1 else 0]]
                pieces += [*uncond, *(tensors[b] for tensors in cond)]
                samples.append([pieces[i] for i in chosen_pieces])
            return samples[0] if ret_format == "squeezed" and batch_size == 1 else samples
        slots = [slot.expand(batch_size, -1) for slot in [*outputs, *_flat_rows(uncond, cond)]]
        return self._flat_to_ret_format(self._finish(slots), ret_format)

    def _changes_to_start_at(self, wanted: Wanted, weight_scale: float) -> Changes:
        changes, start = [], 0
        of_pieces = self._assembly.wanted_of_pieces(wanted)
        for hnet in self._hnets:
            end = start + hnet.num_outputs
            changes += hnet._changes_to_start_at(of_pieces[start:end], weight_scale)
            start = end
        own = [[int(key)] for key in self._uncond_keys]
        own += [
            [int(key) for key in self._own_cond_keys[i :: len(self._cond_param_shapes)]]
            for i in range(len(self._cond_param_shapes))
        ]
        shapes = [*self._uncond_param_shapes, *self._cond_param_shapes]
        for shape, indices in zip(shapes, own, strict=True):
            end = start + _size(shape)
            if -1 in indices:
                raise InputError(
                    "apply_bias_hyperinit: the container's own parameters are not kept internally"
                )
            changes += [keep_unknown(self._internal_params[index], of_pieces[start:end]) for index in indices]
            start = end
        return changes

    def _is_plain(self) -> bool:
        return self._has_forward_of(HContainer) and all(hnet._is_plain() for hnet in self._hnets)

    def _parts(self, cond_ids: Sequence[int] | None, weights: dict[str, Any] | None) -> list[Part] | None:
        if self._assembly.kind != "moves":
            return None
        call = parse_call(self, None, None, cond_ids, weights)
        parts: list[Part] = []
        for hnet, given in zip(self._hnets, self._given_to_hnets(call), strict=True):
            of_hnet = hnet._parts(cond_ids if hnet.num_known_conds > 0 else None, given)
            if of_hnet is None:
                return None
            parts += of_hnet
        own = _flat_rows(*self._own_tensors(call))
        return parts + [Part(tensor, tensor.shape[1]) for tensor in own]

    def _part_positions(self, positions: Tensor) -> Tensor:
        pieces = self._assembly.sources_of(positions)
        result = torch.empty_like(pieces)
        first_piece = first_output = 0
        for hnet in self._hnets:
            end = first_piece + hnet.num_outputs
            of_hnet = (pieces >= first_piece) & (pieces < end)
            result[of_hnet] = hnet._part_positions(pieces[of_hnet] - first_piece) + first_output
            first_piece, first_output = end, first_output + hnet._num_part_outputs
        return torch.where(pieces < first_piece, result, pieces - first_piece + first_output)

    @property
    def _num_part_outputs(self) -> int:
        own = self._assembly.num_elements - sum(hnet.num_outputs for hnet in self._hnets)
        return own + sum(hnet._num_part_outputs for hnet in self._hnets)

    def _checked_entries(self, entries: Any) -> list[dict[str, Any]]:
        """What was given as ``weights["hnets"]``."""
        if not isinstance(entries, (list, tuple)):
            raise InputTypeError(f"weights['hnets']: expected a list, got {type(entries).__name__}")
        if len(entries) != len(self._hnets):
            raise InputError(
                f"weights['hnets']: expected {len(self._hnets)} entries, one for each hypernetwork, got "
                f"{len(entries)}"
            )
        for i, entry in enumerate(entries):
            if entry is not None and not isinstance(entry, dict):
                raise InputTypeError(
                    f"weights['hnets'][{i}]: expected a dictionary or None, got {type(entry).__name__}"
                )
        return [entry or {} for entry in entries]

    def _given_to_hnets(self, call: Call) -> list[dict[str, Any] | None]:
        """The argument ``weights`` of each hypernetwork; None for its own ones."""
        uncond_weights, cond_weights = call.uncond_weights, call.cond_weights
        further = self._checked_entries(call.further["hnets"]) if call.further else None
        params, given = own_params(self), []
        uncond_start = cond_start = 0
        for i, hnet in enumerate(self._hnets):
            entry: dict[str, Any] = {}
            uncond_stop = uncond_start + len(hnet.unconditional_param_shapes_ref)
            cond_stop = cond_start + len(hnet.param_shapes) - len(hnet.unconditional_param_shapes_ref)
            if uncond_weights is not None:
                entry["uncond_weights"] = uncond_weights[uncond_start:uncond_stop]
            if cond_weights is not None and cond_stop > cond_start:
                entry["cond_weights"] = cond_weights[cond_start:cond_stop]
            uncond_start, cond_start = uncond_stop, cond_stop
            own = look_up(params, self._hnet_keys[i])
            if any(a is not b for a, b in zip(own, hnet.internal_params or (), strict=True)):
                # Something has put other tensors in the place of the container's parameters.
                for key, tensors in self._sorted_parameters(hnet, own).items():
                    entry.setdefault(key, tensors)
            if further is not None:
                entry |= further[i]
            given.append(entry or None)
        return given

    @staticmethod
    def _sorted_parameters(hnet: HyperNetInterface, tensors: list[Tensor]) -> dict[str, list[Tensor]]:
        """Internal parameters as a dictionary for the argument ``weights``, as far as they are complete."""
        meta = hnet.param_shapes_meta
        found = {}
        kinds = (
            ("uncond_weights", hnet.unconditional_param_shapes_ref),
            ("cond_weights", hnet.conditional_param_shapes_ref),
        )
        for key, ref in kinds:
            if ref and all(meta[i]["index"] != -1 for i in ref):
                found[key] = [tensors[meta[i]["index"]] for i in ref]
        return found

    def _own_tensors(self, call: Call) -> tuple[list[Tensor], list[list[Tensor]]]:
        """Shared tensors, and for each tensor of a condition a list of those of the requested conditions."""
        params, uncond_weights, cond_weights = own_params(self), call.uncond_weights, call.cond_weights
        uncond: list[Tensor] = []
        if self._uncond_param_shapes:
            if uncond_weights is not None:
                uncond = uncond_weights[len(uncond_weights) - len(self._uncond_param_shapes) :]
            elif self._no_uncond_weights:
                raise InputTypeError("weights: needed, because shared parameters are not kept internally")
            else:
                uncond = look_up(params, self._uncond_keys)
        count = len(self._cond_param_shapes)
        if count == 0:
            return uncond, []
        given = None
        if cond_weights is not None:
            given = cond_weights[len(cond_weights) - count * self._num_cond_embs :]
        elif self._no_cond_weights:
            raise InputTypeError(
                "weights: needed for cond_id, because parameters of conditions are not kept internally"
            )
        if isinstance(call.ids, Tensor):
            chosen = [
                select_parameters(
                    params,
                    self._own_cond_keys[i::count],
                    None if given is None else given[i::count],
                    call.ids,
                    tuple(shape),
                ).unbind(0)
                for i, shape in enumerate(self._cond_param_shapes)
            ]
            return uncond, [list(tensors) for tensors in chosen]
        if given is None:
            given = look_up(params, self._own_cond_keys)
        return uncond, [[given[count * cond_id + i] for cond_id in call.ids or ()] for i in range(count)]

    def _batch_size(self, outputs: list[Any], ids: list[int] | Tensor | None) -> int:
        sizes = {f"hnets[{i}]": len(out) for i, out in enumerate(outputs)}
        if (ids is not None and self._cond_param_shapes) or not outputs:
            sizes["cond_id"] = 1 if ids is None else len(ids)
        wide = {size for size in sizes.values() if size != 1}
        if len(wide) > 1:
            given = ", ".join(f"{name}: {size}" for name, size in sizes.items())
            raise InputError(f"The batch sizes of the container's members must agree or be 1, got {given}")
        return next(iter(wide), 1)

    def _target_sources(self) -> tuple[list[tuple[str, int | None]], Tensor]:
        self._assembly.require_moves()
        sources: list[tuple[str, int | None]] = []
        slots = []
        for i, hnet in enumerate(self._hnets):
            prefix = f"hnets[{i}] " if len(self._hnets) > 1 else ""
            of_hnet, numbers = hnet._target_sources()
            slots.append(numbers + len(sources))
            sources += [(prefix + name, chunk) for name, chunk in of_hnet]
        for name, shapes in (("shared", self._uncond_param_shapes), ("condition", self._cond_param_shapes)):
            slots += [torch.full((_size(shape),), len(sources), dtype=torch.int32) for shape in shapes]
            sources += [(name, None)] if shapes else []
        return sources, self._finish([slot[None] for slot in slots])[0]

    def distillation_targets(self) -> None:
        """There is nothing to distil.

        Returns:
            None.
        """
        return None

    def _kept_cond_embs(self) -> list[tuple[nn.Parameter, int]]:
        return [found for hnet in self._hnets for found in hnet._kept_cond_embs()]

    def _kept_chunk_embs(self) -> list[tuple[Tensor, int, int | None]]:
        return [found for hnet in self._hnets for found in hnet._kept_chunk_embs()]

    def _kept_params_of(self, cond_id: int) -> list[nn.Parameter]:
        if cond_id >= self._num_known_conds:
            raise no_such_condition(cond_id, self._num_known_conds)
        having = [hnet for hnet in self._hnets if hnet.conditional_params]
        return [p for hnet in having for p in hnet._kept_params_of(cond_id)] + self.own_cond_params(cond_id)

    # --- state ----------------------------------------------------------------------------------------

    def _apply(self, fn: Callable, recurse: bool = True) -> HContainer:
        ties = find_ties(self)
        super()._apply(fn, recurse)
        for hnet in self._hnets:  # for what they have besides registered parameters and statistics
            hnet._apply(fn, recurse)
        tie_again(ties)
        return self

    def add_conditions(self, num_conditions: int) -> list[nn.Parameter]:
        """Make further conditions known, with new parameters.

        The container becomes as if it had been constructed with more conditions, so the names of parameters
        change. The new IDs start at the former ``num_known_conds``.

        Args:
            num_conditions: Number of conditions to add.

        Returns:
            The new parameters, which an existing optimiser does not know yet (``optimizer.add_param_group``):
            those of the hypernetworks, then the container's own ones.

        Raises:
            TypeError, ValueError: If the number is not a positive integer, or nothing depends on conditions.
        """
        num_conditions = check_integer("num_conditions", num_conditions, 1)
        growing = [hnet for hnet in self._hnets if hnet.num_known_conds > 0]
        if not growing and not self._cond_param_shapes:
            raise InputError("add_conditions: nothing in the container depends on conditions")
        params = self._internal_params
        count = len(self._cond_param_shapes)

        def own(keys: Sequence[str]) -> list[nn.Parameter | None]:
            return [None if key == "-1" else params[int(key)] for key in keys]

        uncond = own(self._uncond_keys)
        cond_keys = self._own_cond_keys
        cond = [own(cond_keys[count * c : count * (c + 1)]) for c in range(self._num_cond_embs)]
        like = next(iter(params), None)
        new_params = [param for hnet in growing for param in hnet.add_conditions(num_conditions)]
        for _ in range(num_conditions):
            external = self._no_cond_weights
            cond.append([None if external else _new_parameter(s, like) for s in self._cond_param_shapes])
            new_params += [param for param in cond[-1] if param is not None]
        self._num_cond_embs += num_conditions
        self._num_known_conds = self._num_cond_embs
        self._register_parameters(uncond, cond)
        return new_params

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, metadata: Any, strict: bool, *args: Any
    ):
        check_checkpoint(self, state_dict, prefix, strict)
        super()._load_from_state_dict(state_dict, prefix, metadata, strict, *args)


def _size(shape: Sequence[int]) -> int:
    return MainNetInterface.shapes_to_num_weights([shape])


def _flat_rows(uncond: list[Tensor], cond: list[list[Tensor]]) -> list[Tensor]:
    """Shared tensors and tensors of conditions, ``[1 or B, n]`` each."""
    rows = [tensor.reshape(1, -1) for tensor in uncond]
    return rows + [torch.stack([t.reshape(-1) for t in tensors]) for tensors in cond]


def _new_parameter(shape: Sequence[int], like: Tensor | None) -> nn.Parameter:
    options = {} if like is None else {"dtype": like.dtype, "device": like.device}
    return nn.Parameter(nn.init.normal_(torch.empty(*shape, **options), std=_STD))
