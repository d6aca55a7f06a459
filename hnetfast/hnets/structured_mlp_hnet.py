"""Hypernetwork whose chunks follow the architecture of the target network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any
from warnings import warn

from torch import Tensor, distributed, nn

from hnetfast import ops
from hnetfast._embeddings import select_parameters, touch_parameters
from hnetfast._errors import InputError, InputTypeError, UnsupportedError
from hnetfast.hnets._arguments import check_size, check_target_shapes
from hnetfast.hnets._assembly import Assembly
from hnetfast.hnets._conditions import (
    check_checkpoint,
    insert_conditional,
    new_embedding,
)
from hnetfast.hnets._inputs import (
    RET_FORMATS,
    batch_size_of,
    check_complete,
    check_input,
    check_ret_format,
    check_weights,
    parse_cond_ids,
    sort_weights,
)
from hnetfast.hnets._part import Part
from hnetfast.hnets._part_arguments import check_structure
from hnetfast.hnets.hnet_interface import HyperNetInterface, Targets
from hnetfast.hnets.mlp_hnet import HMLP
from hnetfast.mnets._weights import look_up
from hnetfast.mnets.mnet_interface import MainNetInterface
from hnetfast.ops.grouped_mlp import Group

__all__ = ["StructuredHMLP"]

_CHUNK_EMBEDDINGS = "chunk embeddings"


class StructuredHMLP(nn.Module, HyperNetInterface):
    """Structured chunked hypernetwork: each of several full hypernetworks generates chunks of one kind, such
    as the equal layers of a block, and a function puts the tensors of the target network together from them.

    Sacramento et al., "Economical ensembles with hypernetworks", 2020, https://arxiv.org/abs/2007.12927; soft
    sharing of templates as in Savarese and Maire, "Learning implicitly recurrent CNNs through parameter
    sharing", 2019, is the case without hidden layers. Chunk embeddings are standard normal at first. All
    hypernetworks see the same inputs. Other arguments are those of :class:`~hnetfast.hnets.mlp_hnet.HMLP`.

    Args:
        target_shapes: Shapes of the tensors to generate.
        chunk_shapes: For each internal hypernetwork the shapes of the tensors of its chunks.
        num_per_chunk: For each internal hypernetwork how many chunks it generates.
        chunk_emb_sizes: Width of its chunk embeddings, one for all or a list; may be 0 where there is one
            chunk.
        hmlp_kwargs: Further arguments of the internal hypernetworks, a dictionary for all or a list of them.
        assembly_fct: Called with a list of chunks, each a list of tensors, in the order of ``chunk_shapes``;
            returns tensors of the target shapes. It is called some times at once, to see what it does: a
            function that only moves elements (see :attr:`assembly`) is not called again, and generation
            writes to the final place.
        cond_chunk_embs: Whether every condition has its own chunk embeddings.
        uncond_in_size: Width of the unconditional input.
        cond_in_size: Width of the conditional input.
        verbose: Print what was created.
        no_uncond_weights: Keep no unconditional parameters; they are given to :meth:`forward`.
        no_cond_weights: Keep no conditional parameters; they are given to :meth:`forward`.
        num_cond_embs: Number of conditions.

    Raises:
        TypeError, ValueError: If an argument is not accepted; it is named.
    """

    def __init__(
        self,
        target_shapes: Sequence[Sequence[int]],
        chunk_shapes: Sequence[Sequence[Sequence[int]]],
        num_per_chunk: Sequence[int],
        chunk_emb_sizes: Sequence[int] | int,
        hmlp_kwargs: Sequence[Mapping[str, Any]] | Mapping[str, Any],
        assembly_fct: Callable[[list[list[Tensor]]], Sequence[Tensor]],
        cond_chunk_embs: bool = False,
        uncond_in_size: int = 0,
        cond_in_size: int = 8,
        verbose: bool = True,
        no_uncond_weights: bool = False,
        no_cond_weights: bool = False,
        num_cond_embs: int = 1,
    ) -> None:
        check_target_shapes(target_shapes)
        uncond_in_size = check_size("uncond_in_size", uncond_in_size, 0)
        cond_in_size = check_size("cond_in_size", cond_in_size, 0)
        num_cond_embs = check_size("num_cond_embs", num_cond_embs, 0)
        num_per_chunk, chunk_emb_sizes, hmlp_kwargs = check_structure(
            chunk_shapes, num_per_chunk, chunk_emb_sizes, hmlp_kwargs
        )
        if not callable(assembly_fct):
            raise InputTypeError(f"assembly_fct: a function is accepted, got {assembly_fct!r}")
        if cond_chunk_embs and num_cond_embs == 0:
            raise InputError("cond_chunk_embs=True needs num_cond_embs of at least 1, got 0")
        if uncond_in_size == 0 and cond_in_size == 0:
            if not cond_chunk_embs:
                raise InputError(
                    "uncond_in_size and cond_in_size are both 0, so the hypernetwork would have no input and "
                    "could only learn one output; if that is wanted, set cond_chunk_embs=True and "
                    "num_cond_embs=1"
                )
            if 0 in chunk_emb_sizes:
                raise InputError(
                    f"chunk_emb_sizes: without other inputs every chunk needs an "
                    f"embedding, got {chunk_emb_sizes}"
                )
        nn.Module.__init__(self)
        HyperNetInterface.__init__(self)

        self._uncond_in_size = uncond_in_size
        self._cond_in_size = cond_in_size
        self._no_uncond_weights = bool(no_uncond_weights)
        self._no_cond_weights = bool(no_cond_weights)
        self._num_cond_embs = num_cond_embs
        self._chunk_shapes = chunk_shapes
        self._num_per_chunk = num_per_chunk
        self._chunk_emb_sizes = chunk_emb_sizes
        self._chunk_emb_shapes = [
            [n, s] for n, s in zip(num_per_chunk, chunk_emb_sizes, strict=True) if s > 0
        ]
        self._cond_chunk_embs = bool(cond_chunk_embs)
        self._assembly_fct = assembly_fct

        self._target_shapes = target_shapes
        self._num_known_conds = num_cond_embs
        self._find_assembly()

        self._param_shapes = []
        self._param_shapes_meta = []
        self._hyper_shapes_learned = []
        self._hyper_shapes_learned_ref = []
        # In the order that hypnettorch's parameters have.
        self._layer_weight_tensors = nn.ParameterList()
        self._layer_bias_vectors = nn.ParameterList()
        self._internal_params = nn.ParameterList()
        self._unconditional_param_shapes_ref = []
        # A plain list: its members' parameters are registered once, as the whole's.
        self._hnets: list[HMLP] = []
        for i, (shapes, kwargs) in enumerate(zip(chunk_shapes, hmlp_kwargs, strict=True)):
            self._add_hnet(i, shapes, kwargs)
        has_bias = [hnet.has_bias for hnet in self._hnets]
        self._has_bias = all(has_bias)
        if any(has_bias) and not self._has_bias:
            warn(
                "Some internal hypernetworks have biases and some have none; has_bias is False.", stacklevel=2
            )
        self._has_fc_out = all(hnet.has_fc_out for hnet in self._hnets)
        self._mask_fc_out = False  # the last layers generate chunks, which are no output heads
        self._has_linear_out = all(hnet.has_linear_out for hnet in self._hnets)
        batchnorm_layers = [layer for hnet in self._hnets for layer in hnet.batchnorm_layers or ()]
        if batchnorm_layers:
            self._batchnorm_layers = nn.ModuleList(batchnorm_layers)
        norms = [norm for hnet in self._hnets if hnet._use_spectral_norm for norm in hnet._spectral_norms]
        if norms:
            self._spectral_norms = nn.ModuleList(norms)

        for cond_id in range(num_cond_embs) if cond_chunk_embs else [-1]:
            for shape, meta in self._chunk_embeddings_meta(cond_id):
                external = no_cond_weights if cond_chunk_embs else no_uncond_weights
                self._register_shape(shape, "embedding", 0, None if external else new_embedding(shape, None))
                self._param_shapes_meta[-1].update(meta)
                if not cond_chunk_embs:
                    self._unconditional_param_shapes_ref.append(len(self._param_shapes) - 1)
        if not no_uncond_weights:
            meta = self._param_shapes_meta
            self._unconditional_params_ref = [meta[i]["index"] for i in self._unconditional_param_shapes_ref]
        self._set_keys()
        self._is_properly_setup()
        if verbose:
            per_chunk = sum(MainNetInterface.shapes_to_num_weights(shapes) for shapes in chunk_shapes)
            print(
                f"Created Structured Chunked MLP Hypernet with {len(self._hnets)} internal hypernetworks, "
                f"which generate {self.num_chunks} chunks.\nTogether they have {per_chunk} outputs, for "
                f"{self.num_outputs} target weights."
            )
            print(self)

    # --- construction ---------------------------------------------------------------------------------

    def _find_assembly(self) -> None:
        """Find out what the assembly function does, and where generation stores chunks."""
        pieces = [
            shape
            for shapes, count in zip(self._chunk_shapes, self._num_per_chunk, strict=True)
            for _ in range(count)
            for shape in shapes
        ]
        assembly = Assembly(self._assemble, pieces, self._target_shapes)
        rows = [MainNetInterface.shapes_to_num_weights(shapes) for shapes in self._chunk_shapes]
        self._placement, self._finish = assembly.placement(self._num_per_chunk, rows)
        generated = sum(n * s for n, s in zip(self._num_per_chunk, rows, strict=True))
        self._num_generated = self.num_outputs if self._finish is None else generated
        assembly.forget_sources()
        self._assembly = assembly

    def _assemble(self, pieces: list[Tensor]) -> Sequence[Tensor]:
        """Call the assembly function with chunks made of the pieces."""
        chunks, start = [], 0
        for shapes, count in zip(self._chunk_shapes, self._num_per_chunk, strict=True):
            for _ in range(count):
                chunks.append(pieces[start : start + len(shapes)])
                start += len(shapes)
        return self._assembly_fct(chunks)

    def _add_hnet(self, index: int, shapes: Sequence[Sequence[int]], kwargs: Mapping[str, Any]) -> None:
        """Create an internal hypernetwork and register its parameters."""
        first = index == 0
        hnet = HMLP(
            shapes,
            **{"verbose": False, **kwargs},
            uncond_in_size=self._uncond_in_size + self._chunk_emb_sizes[index],
            cond_in_size=self._cond_in_size,
            no_uncond_weights=self._no_uncond_weights,
            # The embeddings of conditions are shared: the first network keeps them for all.
            no_cond_weights=self._no_cond_weights if first else True,
            num_cond_embs=self._num_cond_embs if first else 0,
        )
        self._hnets.append(hnet)
        unconditional = set(hnet.unconditional_param_shapes_ref)
        for i, (shape, meta) in enumerate(zip(hnet.param_shapes, hnet.param_shapes_meta, strict=True)):
            param = None if meta["index"] == -1 else hnet.internal_params[meta["index"]]
            if i in unconditional:
                self._unconditional_param_shapes_ref.append(len(self._param_shapes))
            self._register_shape(list(shape), meta["name"], meta["layer"] if first else -1, param)
            self._param_shapes_meta[-1]["hnet_ind"] = index
        self._layer_weight_tensors.extend(hnet.layer_weight_tensors)
        self._layer_bias_vectors.extend(hnet.layer_bias_vectors)

    def _chunk_embeddings_meta(self, cond_id: int) -> list[tuple[list[int], dict[str, Any]]]:
        """Shape and metadata of each set of chunk embeddings."""
        return [
            ([n, size], {"info": _CHUNK_EMBEDDINGS, "hnet_ind": i, "cond_id": cond_id})
            for i, (n, size) in enumerate(zip(self._num_per_chunk, self._chunk_emb_sizes, strict=True))
            if size > 0
        ]

    def _set_keys(self) -> None:
        """Keep the names of the parameters in their list, which :meth:`forward` looks them up by."""
        meta = self._param_shapes_meta
        self._uncond_keys = tuple(map(str, self._unconditional_params_ref or ()))
        conditional = [meta[i]["index"] for i in self.conditional_param_shapes_ref]
        self._cond_keys = tuple(str(index) for index in conditional if index != -1)
        # Ends of what each internal hypernetwork has in a list of unconditional weights.
        ends = [0]
        for hnet in self._hnets:
            ends.append(ends[-1] + len(hnet.unconditional_param_shapes))
        self._hnet_weights = [slice(a, b) for a, b in pairwise(ends)]
        self._num_embeddings = self._hnets[0]._num_cond_embs

    # --- attributes -----------------------------------------------------------------------------------

    @property
    def internal_hnets(self) -> list[HMLP]:
        """The hypernetworks that generate the chunks, one for each entry of ``chunk_shapes``."""
        return self._hnets

    @property
    def num_chunks(self) -> int:
        """Number of chunks of all internal hypernetworks."""
        return sum(self._num_per_chunk)

    @property
    def chunk_emb_shapes(self) -> list[list[int]]:
        """Shapes of the chunk embeddings that a condition needs, of those hypernetworks that have any."""
        return self._chunk_emb_shapes

    @property
    def cond_chunk_embs(self) -> bool:
        """Whether every condition has its own chunk embeddings."""
        return self._cond_chunk_embs

    @property
    def assembly(self) -> str:
        """What ``assembly_fct`` turned out to do.

        "moves": it only moves elements, and is not called any more. "vmap": it computes, and is called for
        all conditions at once by :func:`torch.vmap`. "loop": it is called one condition at a time.
        """
        return self._assembly.kind

    def get_chunk_embs(self, cond_id: int | None = None) -> list[nn.Parameter]:
        """Return the chunk embeddings.

        Args:
            cond_id: The condition; needed if chunk embeddings belong to conditions, else not accepted.

        Returns:
            Parameters of the shapes :attr:`chunk_emb_shapes`.

        Raises:
            RuntimeError: If the condition does not exist, or embeddings are not kept internally.
        """
        if self._cond_chunk_embs:
            if cond_id is None:
                raise InputError("cond_id: needed, because chunk embeddings belong to conditions")
            cond_id = check_size("cond_id", cond_id, 0)
            if cond_id >= self._num_cond_embs:
                raise InputError(f"cond_id: must be between 0 and {self._num_cond_embs - 1}, got {cond_id}")
        elif cond_id is not None:
            raise InputError(f"cond_id: chunk embeddings do not belong to conditions, got {cond_id!r}")
        if self._no_cond_weights if self._cond_chunk_embs else self._no_uncond_weights:
            raise InputError("get_chunk_embs: chunk embeddings are not kept internally")
        count = len(self._chunk_emb_shapes)
        if self._cond_chunk_embs:
            first = len(self._cond_keys) - count * (self._num_cond_embs - cond_id)
            keys = self._cond_keys[first : first + count]
        else:
            keys = self._uncond_keys[len(self._uncond_keys) - count :]
        return [self._internal_params[int(key)] for key in keys]

    def get_cond_in_emb(self, cond_id: int) -> nn.Parameter:
        """Return the embedding of a condition.

        Args:
            cond_id: The condition.

        Returns:
            The parameter ``[cond_in_size]``.

        Raises:
            RuntimeError: If the condition does not exist or embeddings are not kept internally.
        """
        return self._hnets[0].get_cond_in_emb(cond_id)

    # --- generation -----------------------------------------------------------------------------------

    def forward(
        self,
        uncond_input: Tensor | None = None,
        cond_input: Tensor | None = None,
        cond_id: int | Sequence[int] | Tensor | None = None,
        weights: list[Tensor] | dict[str, Any] | None = None,
        distilled_params: Any = None,
        condition: int | None = None,
        ret_format: str = "squeezed",
    ) -> Tensor | Targets:
        """Generate the weights of the target network.

        Args:
            uncond_input: See :meth:`~hnetfast.hnets.hnet_interface.HyperNetInterface.forward`, as for the
                others.
            cond_input: See there.
            cond_id: See there.
            weights: See there. With conditional chunk embeddings a dictionary may have the key "chunk_embs",
                a list of tensors ``[B, *shape]`` for the shapes :attr:`chunk_emb_shapes` instead of those of
                ``cond_id``, needed if ``cond_id`` is not given.
            distilled_params: Not supported, None only.
            condition: Which of several stored sets of batch statistics to use.
            ret_format: See there.

        Returns:
            See there.

        Raises:
            TypeError, ValueError: If an argument is not accepted; it is named. Nothing has changed by then.
            NotImplementedError: If ``distilled_params`` are given.
        """
        if ret_format not in RET_FORMATS:
            check_ret_format(ret_format)
        if distilled_params is not None:
            raise UnsupportedError(
                "distilled_params: this hypernetwork does not support them, None is accepted"
            )
        groups = self._groups(uncond_input, cond_input, cond_id, weights, condition)
        flat = ops.grouped_mlp(groups, self._placement, self._num_generated)
        if self._finish is not None:
            flat = self._finish([flat])
        return self._flat_to_ret_format(flat, ret_format)

    def _groups(
        self, uncond_input: Any, cond_input: Any, cond_id: Any, weights: Any, condition: Any
    ) -> list[Group]:
        """What :func:`hnetfast.ops.grouped_mlp` takes, from the arguments of :meth:`forward`."""
        uncond_weights = cond_weights = chunk_embs = ids = None
        if weights is not None:
            uncond_weights, cond_weights = sort_weights(self, weights, ("chunk_embs",))
            if isinstance(weights, dict) and "chunk_embs" in weights:
                chunk_embs = self._checked_chunk_embs(weights["chunk_embs"], cond_id)
        if cond_id is not None:
            if cond_input is not None:
                raise InputError("cond_input and cond_id exclude each other, both were given")
            ids = parse_cond_ids(cond_id, self._num_known_conds)
            if self._cond_in_size == 0 and not self._cond_chunk_embs:
                raise InputError("cond_id: this hypernetwork has no conditional parameters to choose by it")
        check_complete(uncond_input, cond_input, cond_id, self._uncond_in_size, self._cond_in_size)

        params = self._internal_params
        own_weights = uncond_weights is None
        if own_weights:
            if self._no_uncond_weights:
                raise InputTypeError("weights: needed, because unconditional weights are not kept internally")
            uncond_weights = look_up(params, self._uncond_keys)
        if chunk_embs is None:
            chunk_embs = self._chunk_embeddings(ids, params, uncond_weights, cond_weights)

        names, common = (
            [],
            [],
        )  # what all internal hypernetworks read, and between them their chunk embeddings
        if uncond_input is not None:
            check_input("uncond_input", uncond_input, self._uncond_in_size)
            names.append("uncond_input")
            common.append(uncond_input.unsqueeze(1))
        position = len(common)
        if cond_input is not None:
            check_input("cond_input", cond_input, self._cond_in_size)
            names.append("cond_input")
            common.append(cond_input.unsqueeze(1))
        elif ids is not None and self._cond_in_size > 0:
            names.append("cond_id")
            if cond_weights is None and self._no_cond_weights:
                raise InputTypeError(
                    "weights: needed for cond_id, because embeddings are not kept internally"
                )
            given = None if cond_weights is None else cond_weights[: self._num_embeddings]
            keys = self._cond_keys[: self._num_embeddings]
            common.append(select_parameters(params, keys, given, ids, (1, self._cond_in_size)))
        if condition is not None:
            for layer in self._batchnorm_layers or ():
                layer.get_stats(
                    condition
                )  # refuses a wrong condition before any layer changes its statistics
        if distributed.is_available() and distributed.is_initialized():
            touched = next(iter(common), None)
            if touched is not None:
                common[0] = touch_parameters(touched, look_up(params, self._cond_keys))
            else:
                chunk_embs[0] = touch_parameters(chunk_embs[0], look_up(params, self._cond_keys))

        checks = weights is not None or uncond_input is not None or cond_input is not None
        groups = []
        for hnet, own, embeddings in zip(self._hnets, self._hnet_weights, chunk_embs, strict=True):
            parts, of_hnet = list(common), uncond_weights[own]
            if embeddings is not None:
                parts.insert(position, embeddings)
            if checks:
                part_names = list(names)
                if embeddings is not None:
                    part_names.insert(position, "chunk embeddings")
                parts = hnet._checked_parts(part_names, parts, of_hnet)
                batch_size_of(part_names, parts)
            groups.append((hnet, parts, of_hnet))
        return [hnet._group(parts, of_hnet, own_weights, condition) for hnet, parts, of_hnet in groups]

    def _is_plain(self) -> bool:
        return self._has_forward_of(StructuredHMLP) and all(
            hnet._has_independent_rows() for hnet in self._hnets
        )

    def _parts(self, cond_ids: Sequence[int] | None, weights: dict[str, Any] | None) -> list[Part] | None:
        if self._assembly.kind != "moves":
            return None
        groups = zip(self._groups(None, None, cond_ids, weights, None), self._num_per_chunk, strict=True)
        return [Part(group, count * group.weights[-1].shape[0]) for group, count in groups]

    def _part_positions(self, positions: Tensor) -> Tensor:
        return self._assembly.sources_of(positions)

    @property
    def _num_part_outputs(self) -> int:
        return self._assembly.num_elements

    def _checked_chunk_embs(self, chunk_embs: Any, cond_id: Any) -> list[Tensor | None]:
        if not self._cond_chunk_embs:
            raise InputError(
                "weights['chunk_embs']: accepted only if the hypernetwork has cond_chunk_embs=True"
            )
        if cond_id is not None:
            raise InputError("weights['chunk_embs'] and cond_id exclude each other, both were given")
        if not isinstance(chunk_embs, (list, tuple)):
            raise InputTypeError(
                f"weights['chunk_embs']: a list of tensors is accepted, got {type(chunk_embs).__name__}"
            )
        batch_size = None
        for tensor in chunk_embs[:1]:
            if isinstance(tensor, Tensor) and tensor.dim() > 0:
                batch_size = tensor.shape[0]
        check_weights("weights['chunk_embs']", chunk_embs, [[batch_size, *s] for s in self._chunk_emb_shapes])
        return self._by_hnet(chunk_embs)

    def _by_hnet(self, chunk_embs: Sequence[Tensor]) -> list[Tensor | None]:
        """Embeddings of the shapes ``chunk_emb_shapes``, and None for the hypernetworks that have none."""
        remaining = iter(chunk_embs)
        return [next(remaining) if size > 0 else None for size in self._chunk_emb_sizes]

    def _chunk_embeddings(
        self,
        ids: list[int] | Tensor | None,
        params: nn.ParameterList,
        uncond_weights: list[Tensor],
        cond_weights: list[Tensor] | None,
    ) -> list[Tensor | None]:
        """Chunk embeddings of the requested conditions, ``[B or 1, N_g, size]`` for each hypernetwork."""
        count = len(self._chunk_emb_shapes)
        if not self._cond_chunk_embs:
            tensors = uncond_weights[len(uncond_weights) - count :]
            return self._by_hnet([t.unsqueeze(0) for t in tensors])
        if ids is None:
            raise InputError(
                "weights: needs the key 'chunk_embs' if cond_id is not given, because chunk embeddings "
                "belong to conditions"
            )
        if cond_weights is None and self._no_cond_weights:
            raise InputTypeError(
                "weights: needed for cond_id, because chunk embeddings are not kept internally"
            )
        given = None if cond_weights is None else cond_weights[self._num_embeddings :]
        keys = self._cond_keys[self._num_embeddings :]
        return self._by_hnet(
            [
                select_parameters(
                    params, keys[i::count], None if given is None else given[i::count], ids, tuple(shape)
                )
                for i, shape in enumerate(self._chunk_emb_shapes)
            ]
        )

    def distillation_targets(self) -> None:
        """There is nothing to distil.

        Returns:
            None.
        """
        return None

    # --- state ----------------------------------------------------------------------------------------

    def train(self, mode: bool = True) -> StructuredHMLP:
        """Set the mode of this network and of the internal ones, see :meth:`torch.nn.Module.train`."""
        for hnet in self._hnets:
            hnet.train(mode)
        return super().train(mode)

    def add_conditions(self, num_conditions: int) -> list[nn.Parameter]:
        """Make further conditions known, with new (standard normal) embeddings.

        The network becomes as if it had been constructed with more conditions: the parameters follow the
        existing ones of their kind, so the names of those behind them change. The new IDs start at the former
        ``num_known_conds``.

        Args:
            num_conditions: Number of conditions to add.

        Returns:
            The new parameters, which an existing optimiser does not know yet (``optimizer.add_param_group``):
            the embeddings of the conditions and then, if they have their own, their chunk embeddings. Empty
            if these are not kept internally.

        Raises:
            TypeError, ValueError: If the number is not a positive integer, or there are no conditional
                parameters.
        """
        num_conditions = check_size("num_conditions", num_conditions, 1)
        if self._cond_in_size == 0 and not self._cond_chunk_embs:
            raise InputError(
                "add_conditions: the hypernetwork has no conditional parameters (cond_in_size=0 and "
                "cond_chunk_embs=False)"
            )
        like = next(iter(self._internal_params), None)
        new_params = []
        if self._cond_in_size > 0:
            position = self._num_embeddings
            new_params += self._hnets[0].add_conditions(num_conditions)
            params = new_params or [None] * num_conditions
            shapes = [[self._cond_in_size]] * num_conditions
            insert_conditional(self, position, shapes, params, hnet_ind=0)
        for cond_id in range(self._num_cond_embs, self._num_cond_embs + num_conditions):
            for shape, meta in self._chunk_embeddings_meta(cond_id) if self._cond_chunk_embs else ():
                param = None if self._no_cond_weights else new_embedding(shape, like)
                insert_conditional(self, len(self._param_shapes), [shape], [param], **meta)
                new_params += [] if param is None else [param]
        self._num_cond_embs += num_conditions
        self._num_known_conds = self._num_cond_embs
        self._set_keys()
        return new_params

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, metadata: Any, strict: bool, *args: Any
    ):
        check_checkpoint(self, state_dict, prefix, strict)
        super()._load_from_state_dict(state_dict, prefix, metadata, strict, *args)
