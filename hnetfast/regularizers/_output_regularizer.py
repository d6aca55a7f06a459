"""The output regulariser as an object that remembers what a hypernetwork was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from hnetfast._checks import check_integer
from hnetfast._errors import InputError, InputTypeError
from hnetfast.hnets._arguments import check_hnet
from hnetfast.hnets.hnet_interface import HyperNetInterface
from hnetfast.mnets.mnet_interface import MainNetInterface
from hnetfast.regularizers._output_change import Earlier
from hnetfast.regularizers._output_penalty import check_task, listed, output_penalty

__all__ = ["OutputRegularizer"]


class OutputRegularizer:
    r"""Keep what a hypernetwork generates for earlier tasks as it was when the last of them was learned.

    .. math:: \frac{1}{T} \sum_{j<T} s_j \|h(e_j, \theta) - h(e^*_j, \theta^*)\|^2

    Von Oswald et al., "Continual learning with hypernetworks", 2020, https://arxiv.org/abs/1906.00695, eq. 2.
    Only the parameters are remembered, not what was generated, and for the hypernetworks that
    docs/regulariser.md lists the cost hardly grows with the number of tasks.

    It is no module and has no parameters; gradients reach those of the hypernetwork. Add it to the loss of
    the task before one common backward pass, which is also what DistributedDataParallel needs. Automatic
    mixed precision does not lower its precision where nothing is generated.

    .. code-block:: python

        regularizer = OutputRegularizer(hnet)
        for task in range(num_tasks):
            for inputs, labels in batches(task):
                loss = cross_entropy(mnet(inputs, weights=hnet(cond_id=task)), labels)
                (loss + 0.01 * regularizer.loss(task)).backward()
                ...
            regularizer.snapshot()

    Args:
        hnet: The hypernetwork, or what DistributedDataParallel or :func:`torch.compile` made of it.
        mnet: The main network, needed with ``inds_of_out_heads``.
        inds_of_out_heads: For each task the output units it uses; weights of other output units may change.
        reg_scaling: A factor of at least 0 for each task, 1 by default.
        batch_size: Take only as many earlier tasks, drawn anew in every call by numpy's global generator.
        device: Where to keep snapshots; by default where the parameters are. From elsewhere they are copied
            in every call.
        dtype: What to keep them in; by default that of the parameters. With less precision, such as
            :attr:`torch.bfloat16`, the loss right after a snapshot is not exactly zero.

    Raises:
        TypeError, ValueError: If an argument is not accepted; it is named.

    Example:
        >>> from hnetfast.hnets import HMLP
        >>> hnet = HMLP([[4, 3], [4]], num_cond_embs=2, verbose=False)
        >>> regularizer = OutputRegularizer(hnet)
        >>> regularizer.snapshot()  # the first task has been learned
        >>> float(regularizer.loss(1).detach())
        0.0
        >>> with torch.no_grad():
        ...     _ = hnet.unconditional_params[0].add_(0.1)  # a step on the second task
        >>> bool(regularizer.loss(1) > 0)
        True
    """

    def __init__(
        self,
        hnet: nn.Module | HyperNetInterface,
        *,
        mnet: MainNetInterface | None = None,
        inds_of_out_heads: Sequence[Sequence[int]] | None = None,
        reg_scaling: Sequence[float] | None = None,
        batch_size: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        for wrapper in ("module", "_orig_mod"):
            if not isinstance(hnet, HyperNetInterface):
                hnet = getattr(hnet, wrapper, hnet)
        network = check_hnet(hnet)
        if network.unconditional_params is None or not network.conditional_params:
            raise InputError(
                "hnet: needs internal parameters, unconditional ones and those of conditions; see the "
                "arguments no_uncond_weights, no_cond_weights and num_cond_embs of hypernetworks"
            )
        if inds_of_out_heads is not None and mnet is None:
            raise InputError("mnet: needed with inds_of_out_heads, got None")
        if batch_size is not None:
            batch_size = check_integer("batch_size", batch_size, 1)
        if dtype is not None and not dtype.is_floating_point:
            raise InputError(f"dtype: expected a floating-point type, got {dtype}")
        self._hnet = network
        self._mnet = mnet
        self._inds_of_out_heads = inds_of_out_heads
        self._reg_scaling = reg_scaling
        self._batch_size = batch_size
        self._device = None if device is None else torch.device(device)
        self._dtype = dtype
        self._earlier: Earlier | None = None
        self._num_conditions = 0
        self._embeddings: list[tuple[nn.Parameter, Tensor]] = []

    @property
    def has_snapshot(self) -> bool:
        """Whether :meth:`snapshot` has been called, or a state with one loaded."""
        return self._earlier is not None

    def snapshot(self) -> None:
        """Remember the parameters as they are now, instead of what was remembered before.

        To be called when a task has been learned, before the next one begins.
        """
        self._remember(self._hnet.unconditional_params or (), self._hnet.conditional_params or ())

    def _remember(self, theta: Sequence[Tensor], embeddings: Sequence[Tensor]) -> None:
        @torch.inference_mode(False)  # or autograd could not save them
        def keep(tensors: Sequence[Tensor]) -> list[Tensor]:
            return [
                t.detach().to(self._device or t.device, self._dtype or t.dtype, copy=True) for t in tensors
            ]

        weights = {"uncond_weights": keep(theta), "cond_weights": keep(embeddings)}
        self._earlier = Earlier(weights)
        self._num_conditions = self._hnet.num_known_conds
        self._embeddings = list(
            zip(self._hnet.conditional_params or (), weights["cond_weights"], strict=True)
        )

    def loss(self, current_task: int, lookahead: Sequence[Tensor] | None = None) -> Tensor:
        """The penalty for the tasks before ``current_task``.

        Args:
            current_task: The task that is being learned. For task 0 there is nothing to keep: the loss is a
                zero whose backward pass does nothing.
            lookahead: A change of the unconditional parameters, a tensor for each, at which the penalty is
                evaluated, such as the step that the optimiser would take; gradients reach it.

        Returns:
            Scalar tensor, the mean over the earlier tasks.

        Raises:
            TypeError, ValueError, IndexError: If an argument is not accepted, or there is no snapshot yet.
        """
        hnet = self._hnet
        current_task = check_task("current_task", current_task, 0, hnet)
        like = next(hnet.parameters())
        if current_task == 0:
            return like.new_zeros((), requires_grad=True)
        if self._earlier is None:
            raise InputError(f"current_task: {current_task}, but snapshot() has not been called after task 0")
        weights = None
        if lookahead is not None:
            weights = {"uncond_weights": hnet.add_to_uncond_params(listed("lookahead", lookahead))}
        return output_penalty(
            hnet,
            current_task,
            previous=self._earlier_like(like),
            weights=weights,
            mnet=self._mnet,
            inds_of_out_heads=self._inds_of_out_heads,
            batch_size=self._batch_size,
            reg_scaling=self._reg_scaling,
        )

    def _earlier_like(self, like: Tensor) -> Earlier:
        """What was remembered, in a tensor's dtype and on its device."""
        earlier = cast("Earlier", self._earlier)
        weights = {**earlier.weights, "cond_weights": self._previous_embeddings()}
        has_grown = self._hnet.num_known_conds != self._num_conditions
        tensors = [t for ts in weights.values() for t in ts]
        if not has_grown and all(t.device == like.device and t.dtype == like.dtype for t in tensors):
            return earlier
        return Earlier({key: [t.to(like.device, like.dtype) for t in ts] for key, ts in weights.items()})

    def _previous_embeddings(self) -> list[Tensor]:
        """What was remembered of conditional parameters; those that have been added since as they are."""
        if self._hnet.num_known_conds == self._num_conditions:
            return [value for _, value in self._embeddings]
        known = {id(parameter): value for parameter, value in self._embeddings}
        found = [known.pop(id(p), p.detach()) for p in self._hnet.conditional_params or ()]
        if known:
            raise InputError(
                f"hnet: {len(known)} of its conditional parameters at the time of snapshot() are gone; only "
                "adding conditions is accepted"
            )
        return found

    def state_dict(self) -> dict[str, list[Tensor]]:
        """The snapshot: lists of tensors, "theta" and "embeddings"; empty if there is none.

        Embeddings that have been added since are in it as they are.
        """
        if self._earlier is None:
            return {}
        return {
            "theta": list(self._earlier.weights["uncond_weights"]),
            "embeddings": self._previous_embeddings(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Remember what another regulariser did.

        Args:
            state: What its :meth:`state_dict` returned when its hypernetwork had as many conditions.

        Raises:
            TypeError, ValueError: If it is not that, or of another hypernetwork.
        """
        if not isinstance(state, Mapping) or (state and set(state) != {"theta", "embeddings"}):
            given = sorted(map(str, state)) if isinstance(state, Mapping) else type(state).__name__
            raise InputTypeError(f'state: expected a dictionary with "theta" and "embeddings", got {given}')
        if not state:
            self._earlier, self._embeddings = None, []
            return
        shapes = {
            "theta": self._hnet.unconditional_param_shapes,
            "embeddings": self._hnet.conditional_param_shapes,
        }
        for name, expected in shapes.items():
            if not isinstance(state[name], Sequence) or not all(isinstance(t, Tensor) for t in state[name]):
                raise InputTypeError(f"state[{name!r}]: expected a list of tensors, got {state[name]!r:.100}")
            found = [list(t.shape) for t in state[name]]
            if found != [list(shape) for shape in expected]:
                raise InputError(f"state[{name!r}]: expected tensors of the shapes {expected}, got {found}")
        self._remember(state["theta"], state["embeddings"])
