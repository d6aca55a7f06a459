"""Context-dependent modulation of activations by gains and shifts."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from hnetfast._checks import check_integer, check_integers, check_tensor

__all__ = ["ContextModLayer"]


class ContextModLayer(nn.Module):
    r"""Layer that computes :math:`x \odot g + s` with a gain :math:`g` and a shift :math:`s`.

    Args:
        num_features: Shape of gain and shift, which are broadcast against the input: an integer for a linear
            layer, e.g. ``(C, 1, 1)`` for one gain a feature map or ``(C, H, W)`` for one a pixel.
        no_weights: Keep no parameters; they must be given to :meth:`forward`.
        no_gains: Leave out the gain.
        no_shifts: Leave out the shift.
        apply_gain_offset: Use :math:`1 + g`, so that parameters close to zero leave the input unchanged.
        apply_gain_softplus: Use the softplus of the gain parameters, so that gains are positive.
        softplus_scale: Sharpness of that softplus.

    Raises:
        ValueError: If gain and shift are both left out, offset and softplus both applied, or a size is
            negative.
        TypeError: If ``num_features`` is not an integer or a sequence of integers.
    """

    gain: nn.Parameter | None
    shift: nn.Parameter | None
    _num_ckpts: torch.Tensor

    def __init__(
        self,
        num_features: int | Sequence[int],
        no_weights: bool = False,
        no_gains: bool = False,
        no_shifts: bool = False,
        apply_gain_offset: bool = False,
        apply_gain_softplus: bool = False,
        softplus_scale: float = 1.0,
    ) -> None:
        super().__init__()
        if no_gains and no_shifts:
            raise ValueError("no_gains and no_shifts are both True, which leaves nothing to modulate with")
        if apply_gain_offset and apply_gain_softplus:
            raise ValueError("apply_gain_offset and apply_gain_softplus exclude each other, both are True")
        given = num_features if isinstance(num_features, (list, tuple)) else [num_features]
        sizes = check_integers("num_features", given, 0)

        self._num_features: Any = type(given)(sizes) if type(given) in (list, tuple) else given
        self._no_weights = no_weights
        self._no_gains = no_gains
        self._no_shifts = no_shifts
        self._apply_gain_offset = apply_gain_offset
        self._apply_gain_softplus = apply_gain_softplus
        self._sps = softplus_scale

        self.register_buffer("_num_ckpts", torch.tensor(0, dtype=torch.long))
        # The buffer belongs to checkpoints; this mirror spares a synchronisation where it lives on a GPU.
        self._ckpt_count = 0
        self._weights: nn.ParameterList | None = None
        self._param_shapes: list[Sequence[int]] = []
        self._param_shapes_meta: list[str] = []
        for name, absent in (("gain", no_gains), ("shift", no_shifts)):
            if not absent:
                self._param_shapes.append(self._num_features)
                self._param_shapes_meta.append(name)
            if not no_weights:
                self.register_parameter(name, None if absent else nn.Parameter(torch.empty(sizes)))
        if not no_weights:
            self._weights = nn.ParameterList([w for w in (self.gain, self.shift) if w is not None])
            self._reset()

    def _reset(self) -> None:
        """Make the layer the identity (up to the softplus, if there is one)."""
        with torch.no_grad():
            if self.gain is not None:
                self.gain.fill_(self._gain_mean)
            if self.shift is not None:
                self.shift.zero_()

    @property
    def _gain_mean(self) -> float:
        return 0.0 if self._apply_gain_offset else 1.0

    @property
    def weights(self) -> nn.ParameterList | None:
        """Gain and shift kept by this layer (those that exist), None if it keeps none."""
        return self._weights

    @property
    def param_shapes(self) -> list[Sequence[int]]:
        """Shapes of gain and shift (those that exist), whether kept by this layer or not."""
        return self._param_shapes

    @property
    def param_shapes_meta(self) -> list[str]:
        """For every entry of :attr:`param_shapes` either "gain" or "shift"."""
        return self._param_shapes_meta

    @property
    def num_ckpts(self) -> int:
        """Number of stored sets of weights."""
        return self._ckpt_count

    @property
    def gain_offset_applied(self) -> bool:
        """Whether 1 is added to gains."""
        return self._apply_gain_offset

    @property
    def gain_softplus_applied(self) -> bool:
        """Whether gains go through a softplus."""
        return self._apply_gain_softplus

    @property
    def has_gains(self) -> bool:
        """Whether the layer multiplies by a gain."""
        return not self._no_gains

    @property
    def has_shifts(self) -> bool:
        """Whether the layer adds a shift."""
        return not self._no_shifts

    def forward(
        self,
        x: torch.Tensor,
        weights: Sequence[torch.Tensor] | None = None,
        ckpt_id: int | None = None,
        bs_dim: int = 0,
    ) -> torch.Tensor:
        """Modulate activations.

        Args:
            x: Activations, broadcastable with ``num_features``.
            weights: Tensors to use instead of the layer's own, in the order of :attr:`param_shapes` and with
                these shapes, or with a leading dimension of the size of ``x``'s batch dimension: one set a
                sample.
            ckpt_id: Which stored set of weights to use; ignored if ``weights`` are given.
            bs_dim: Batch dimension of ``x``.

        Returns:
            The modulated activations.

        Raises:
            ValueError: If ``weights`` are missing or of a wrong number or shape, or ``ckpt_id`` is out of
                range.
            TypeError: If ``weights`` does not hold tensors or ``ckpt_id`` is not an integer.
        """
        if weights is None:
            if self._no_weights:
                raise ValueError("weights: the layer was built without weights (no_weights=True), pass them")
            gain, shift = self.get_weights(ckpt_id)
        else:
            weights = self._align_weights(x, weights, bs_dim)
            gain = None if self._no_gains else weights[0]
            shift = None if self._no_shifts else weights[-1]
        if gain is not None:
            x = x.mul(self.preprocess_gain(gain))
        if shift is not None:
            x = x.add(shift)
        return x

    def _align_weights(
        self, x: torch.Tensor, weights: Sequence[torch.Tensor], bs_dim: int
    ) -> Sequence[torch.Tensor]:
        """Check weights from outside, and line up those that differ between samples with the batch."""
        shapes = self._param_shapes
        if len(weights) != len(shapes):
            raise ValueError(
                f"weights: expected {len(shapes)} tensors {self._param_shapes_meta}, got {len(weights)}"
            )
        if all(
            isinstance(weight, torch.Tensor) and weight.shape == tuple(shape)
            for weight, shape in zip(weights, shapes, strict=True)
        ):
            return weights
        return [self._align_weight(x, weight, i, bs_dim) for i, weight in enumerate(weights)]

    def _align_weight(self, x: torch.Tensor, weight: torch.Tensor, index: int, bs_dim: int) -> torch.Tensor:
        check_tensor(f"weights[{index}]", weight)
        shape = tuple(self._param_shapes[index])
        if weight.shape == shape:
            return weight
        batch_size, bs_dim = x.shape[bs_dim], bs_dim % x.ndim
        num_leading = x.ndim - len(shape)
        if num_leading == 0 and shape[bs_dim] == 1:
            # E.g. num_features=(1, C, 1, 1): the shape already has a place for samples.
            per_sample = (*shape[:bs_dim], batch_size, *shape[bs_dim + 1 :])
            if weight.shape == per_sample:
                return weight
        elif bs_dim < num_leading and weight.shape == (batch_size, *shape):
            leading = [1] * num_leading
            leading[bs_dim] = batch_size
            return weight.reshape(*leading, *shape)
        raise ValueError(
            f"weights[{index}] ({self._param_shapes_meta[index]}): expected the shape {list(shape)}, or one "
            f"such tensor for each of {batch_size} samples, got {list(weight.shape)}"
        )

    def preprocess_gain(self, gain: torch.Tensor) -> torch.Tensor:
        """Turn gain parameters into the gains that are applied.

        Args:
            gain: Gain parameters of any shape.

        Returns:
            The gains, offset by 1 or passed through a softplus if the layer is configured so.
        """
        if self._apply_gain_softplus:
            gain = F.softplus(gain * self._sps) * (1.0 / self._sps)
        elif self._apply_gain_offset:
            gain = gain + 1.0
        return gain

    def checkpoint_weights(self, device: torch.device | str | None = None, no_reinit: bool = False) -> None:
        """Store a copy of the current weights as buffers and reset them to gain 1 and shift 0.

        Args:
            device: Device of the copy; that of the current weights if None.
            no_reinit: Leave the current weights as they are.

        Raises:
            ValueError: If the layer keeps no weights.
        """
        if self._no_weights:
            raise ValueError("checkpoint_weights: the layer was built without weights (no_weights=True)")
        gain_name, shift_name = self._weight_names(self._ckpt_count)
        for name, weight in ((gain_name, self.gain), (shift_name, self.shift)):
            copy = None
            if weight is not None:
                copy = weight.detach().clone().to(weight.device if device is None else device)
            self.register_buffer(name, copy)
        self._set_ckpt_count(self._ckpt_count + 1)
        if not no_reinit:
            self._reset()

    def _set_ckpt_count(self, count: int) -> None:
        self._ckpt_count = count
        # A new tensor: a state_dict taken earlier shares the old one.
        self._num_ckpts = torch.full_like(self._num_ckpts, count)

    def get_weights(self, ckpt_id: int | None = None) -> tuple[torch.Tensor | Any, torch.Tensor | Any]:
        """Return the current or a stored set of weights.

        Args:
            ckpt_id: Index of the stored set. None and :attr:`num_ckpts` stand for the current weights.

        Returns:
            The pair ``(gain, shift)``, None for what the layer does not have.

        Raises:
            ValueError: If there is no such set.
            TypeError: If ``ckpt_id`` is not an integer.
            AttributeError: If the layer keeps no weights.
        """
        if ckpt_id is not None:
            index = check_integer("ckpt_id", ckpt_id, 0, self._ckpt_count + 1)
            if index < self._ckpt_count:
                gain_name, shift_name = self._weight_names(index)
                return getattr(self, gain_name), getattr(self, shift_name)
        if self._no_weights:
            raise AttributeError("get_weights: the layer was built without weights (no_weights=True)")
        return self.gain, self.shift

    def _weight_names(self, ckpt_id: int) -> tuple[str, str]:
        """Names under which a set of weights is stored."""
        return f"gain_ckpt_{ckpt_id}", f"shift_ckpt_{ckpt_id}"

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        # A partial load may change the stored counter, but never adds weights.
        self._set_ckpt_count(self._ckpt_count)

    def _require_weights(self) -> None:
        if self._no_weights:
            raise ValueError(
                "the layer was built without weights (no_weights=True), there is nothing to initialise"
            )

    def normal_init(self, std: float = 1.0) -> None:
        """Draw gains and shifts from normal distributions around the identity.

        Args:
            std: Standard deviation.

        Raises:
            ValueError: If the layer keeps no weights.
        """
        self._require_weights()
        if self.gain is not None:
            nn.init.normal_(self.gain, mean=self._gain_mean, std=std)
        if self.shift is not None:
            nn.init.normal_(self.shift, mean=0.0, std=std)

    def uniform_init(self, width: float = 1.0) -> None:
        """Draw gains and shifts from uniform distributions around the identity.

        Args:
            width: Half the width of the distributions.

        Raises:
            ValueError: If the layer keeps no weights.
        """
        self._require_weights()
        if self.gain is not None:
            nn.init.uniform_(self.gain, a=self._gain_mean - width, b=self._gain_mean + width)
        if self.shift is not None:
            nn.init.uniform_(self.shift, a=-width, b=width)

    def sparse_init(self, sparsity: float = 0.8) -> None:
        """Switch a random share of the gains off, set the others to 1 and the shifts to 0.

        The gains are chosen by numpy's global generator.

        Args:
            sparsity: Share of the gains to switch off, between 0 and 1.

        Raises:
            ValueError: If the layer keeps no weights or ``sparsity`` is not in [0, 1].
        """
        self._require_weights()
        if not 0 <= sparsity <= 1:
            raise ValueError(f"sparsity: expected a number in [0, 1], got {sparsity}")
        self._reset()
        if self.gain is not None:
            num_gains = self.gain.numel()
            off = torch.from_numpy(np.random.permutation(num_gains) < int(num_gains * sparsity))
            with torch.no_grad():
                self.gain.view(-1)[off.to(self.gain.device)] = self._gain_mean - 1.0
