"""Batch normalisation whose gains, offsets and statistics may come from a hypernetwork."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from hnetfast._checks import check_integer
from hnetfast._errors import InputTypeError

__all__ = ["BatchNormLayer"]

EPS = 1e-5  # added to variances


def check_statistics(inputs: torch.Tensor, mean: torch.Tensor | None) -> None:
    """Refuse inputs of another dtype than running statistics, if there are such.

    Args:
        inputs: What is normalised.
        mean: One of the statistics; None if there are none.

    Raises:
        TypeError: If they have, and it is not half precision with statistics in float32.
    """
    if mean is None or mean.dtype == inputs.dtype:
        return
    if mean.dtype != torch.float32 or inputs.dtype not in (torch.float16, torch.bfloat16):
        raise InputTypeError(
            f"inputs: expected {mean.dtype}, the dtype of the running statistics, got {inputs.dtype}"
        )


class BatchNormLayer(nn.Module):
    r"""Batch normalisation with externally given or checkpointed statistics.

    .. math:: y = (x - m^{(t)}) / \sqrt{v^{(t)} + \epsilon} \cdot \gamma^{(t)} + \beta^{(t)}

    The statistics :math:`m, v` are those of the batch, running estimates, one of several stored sets of
    running estimates (see :meth:`checkpoint_stats`), or given to :meth:`forward`; so may be gain and offset.

    Args:
        num_features: Number of features, the size of dimension 1 of the input.
        momentum: Share of the batch's statistics in an update of the running ones.
        affine: Whether the layer has its own gain and offset. If not, they must be given to :meth:`forward`.
        track_running_stats: Whether running statistics are kept, and used in evaluation mode.
        frozen_stats: Normalise with mean 0 and variance 1 always; needs ``track_running_stats=False``.
        learnable_stats: Make the statistics parameters: training normalises with the batch and moves them
            towards its statistics; evaluation uses them, and gradients reach them. Needs
            ``track_running_stats=False``. They are not part of :attr:`weights`.

    Raises:
        ValueError: If options contradict each other, or ``num_features`` is negative.
        TypeError: If ``num_features`` is not an integer.
        NotImplementedError: If ``momentum`` is None.
    """

    scale: nn.Parameter
    bias: nn.Parameter
    mean_0: torch.Tensor
    var_0: torch.Tensor
    _num_stats: torch.Tensor

    def __init__(
        self,
        num_features: int,
        momentum: float = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        frozen_stats: bool = False,
        learnable_stats: bool = False,
    ) -> None:
        super().__init__()
        if momentum is None:
            raise NotImplementedError("momentum: a cumulative average (None) is not supported, pass a number")
        if isinstance(num_features, (tuple, list)) and len(num_features) == 1:
            num_features = num_features[0]
        num_features = check_integer("num_features", num_features, 0)
        for name, value in (("frozen_stats", frozen_stats), ("learnable_stats", learnable_stats)):
            if value and track_running_stats:
                raise ValueError(f"{name}=True needs track_running_stats=False")
        if frozen_stats and learnable_stats:
            raise ValueError("frozen_stats and learnable_stats exclude each other, both are True")

        self._num_features = num_features
        self._momentum = momentum
        self._affine = affine
        self._track_running_stats = track_running_stats
        self._frozen_stats = frozen_stats
        self._learnable_stats = learnable_stats

        self.register_buffer("_num_stats", torch.tensor(0, dtype=torch.long))
        # The buffer belongs to checkpoints; this mirror spares a synchronisation where it lives on a GPU.
        self._stats_count = 0
        self._weights: nn.ParameterList | None = None
        self._param_shapes = [[num_features], [num_features]]
        if affine:
            self.register_parameter("scale", nn.Parameter(torch.ones(num_features)))
            self.register_parameter("bias", nn.Parameter(torch.zeros(num_features)))
            self._weights = nn.ParameterList([self.scale, self.bias])

        if learnable_stats:
            self.register_parameter("mean_0", nn.Parameter(torch.zeros(num_features)))
            self.register_parameter("var_0", nn.Parameter(torch.ones(num_features)))
            self._set_stats_count(1)
        elif track_running_stats or frozen_stats:
            self._register_stats(None)
        else:
            self.register_buffer("mean_0", None)
            self.register_buffer("var_0", None)

    def _set_stats_count(self, count: int) -> None:
        self._stats_count = count
        # A new tensor: a state_dict taken earlier shares the old one.
        self._num_stats = torch.full_like(self._num_stats, count)

    def _register_stats(self, device: torch.device | str | None, dtype: torch.dtype | None = None) -> None:
        mean_name, var_name = self._stats_names(self._stats_count)
        self.register_buffer(mean_name, torch.zeros(self._num_features, device=device, dtype=dtype))
        self.register_buffer(var_name, torch.ones(self._num_features, device=device, dtype=dtype))
        self._set_stats_count(self._stats_count + 1)

    @property
    def weights(self) -> nn.ParameterList | None:
        """Gain and offset kept by this layer, None if ``affine`` is False."""
        return self._weights

    @property
    def param_shapes(self) -> list[list[int]]:
        """Shapes of gain and offset, whether kept by this layer or not."""
        return self._param_shapes

    @property
    def hyper_shapes(self) -> list[list[int]] | None:
        """Shapes of the tensors that must be given to :meth:`forward`, None if ``affine`` is True."""
        return None if self._affine else self._param_shapes

    @property
    def momentum(self) -> float:
        """Share of the batch's statistics in an update of the running ones."""
        return self._momentum

    @property
    def num_stats(self) -> int:
        """Number of sets of statistics kept by this layer."""
        return self._stats_count

    @property
    def _uses_batch(self) -> bool:
        """Whether the statistics of the batch are used where none are given."""
        is_constant = self._frozen_stats or self._learnable_stats or self._track_running_stats
        return not self._frozen_stats and (self.training or not is_constant)

    def forward(
        self,
        inputs: torch.Tensor,
        running_mean: torch.Tensor | None = None,
        running_var: torch.Tensor | None = None,
        weight: torch.Tensor | None = None,
        bias: torch.Tensor | None = None,
        stats_id: int | None = None,
    ) -> torch.Tensor:
        """Normalise a batch of activations.

        In training mode the statistics of the batch are used, and the selected running statistics (the given
        ones too) are updated in place; frozen ones are used as they are and never change. In evaluation mode
        the selected statistics are used, or the batch's if there are none.

        Args:
            inputs: Activations ``[B, num_features, ...]``.
            running_mean: Means ``[num_features]`` to use instead of the layer's own; needs ``running_var``.
            running_var: Variances ``[num_features]``; needs ``running_mean``.
            weight: Gain ``[num_features]`` to use instead of the layer's own.
            bias: Offset ``[num_features]`` to use instead of the layer's own.
            stats_id: Which of several stored sets of statistics to use; ignored if statistics are given.

        Returns:
            The normalised activations, of the shape of ``inputs``.

        Raises:
            ValueError: If only one of ``running_mean`` and ``running_var`` is given, gain or offset is
                missing, or ``stats_id`` is missing or out of range.
            TypeError: If ``stats_id`` is not an integer, or inputs and statistics differ in dtype (but for
                half precision with statistics in float32).
        """
        if (running_mean is None) != (running_var is None):
            raise ValueError("running_mean, running_var: expected both or none of them, got one")
        if not self._affine and (weight is None or bias is None):
            raise ValueError(
                "weight, bias: the layer was built without gain and offset (affine=False), pass them"
            )
        weight = self.scale if weight is None else weight
        bias = self.bias if bias is None else bias

        if running_mean is not None:
            return self._normalise(inputs, running_mean, running_var, weight, bias, self.training)
        if self._frozen_stats:
            return self._normalise(inputs, self.mean_0, self.var_0, weight, bias, False)
        if self._learnable_stats:
            return self._forward_learnable(inputs, weight, bias)
        if not self._track_running_stats:
            return self._normalise(inputs, None, None, weight, bias, True)
        if stats_id is None:
            if self._stats_count > 1:
                raise ValueError(
                    f"stats_id: expected an integer in [0, {self._stats_count}), got None, but the layer "
                    "keeps several sets of statistics"
                )
            stats_id = 0
        return self._normalise(inputs, *self.get_stats(stats_id), weight, bias, self.training)

    def _normalise(
        self, inputs: Any, mean: Any, var: Any, weight: Any, bias: Any, by_batch: bool
    ) -> torch.Tensor:
        """Normalise by the statistics of the batch, which move the given ones, or by the given ones."""
        check_statistics(inputs, mean)
        return F.batch_norm(inputs, mean, var, weight, bias, by_batch, self._momentum, EPS)

    def _forward_learnable(
        self, inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor
    ) -> torch.Tensor:
        if self.training:
            # detach() shares memory: the update is in place, but no step of the graph.
            mean, var = self.mean_0.detach(), self.var_0.detach()
            return self._normalise(inputs, mean, var, weight, bias, True)
        check_statistics(inputs, self.mean_0)
        # F.batch_norm has no gradient with respect to statistics.
        shape = [1, -1] + [1] * (inputs.ndim - 2)
        factor = weight * torch.rsqrt(self.var_0 + EPS)
        return inputs * factor.view(shape) + (bias - self.mean_0 * factor).view(shape)

    def checkpoint_stats(self, device: torch.device | str | None = None) -> None:
        """Keep the current running statistics and start a new set (mean 0, variance 1).

        Args:
            device: Device of the new set; that of the most recent set if None.

        Raises:
            ValueError: If the layer does not track running statistics.
        """
        if not self._track_running_stats:
            raise ValueError(
                "checkpoint_stats: the layer does not track statistics (track_running_stats=False)"
            )
        latest, _ = self.get_stats()
        self._register_stats(latest.device if device is None else device, latest.dtype)

    def get_stats(self, stats_id: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a set of statistics.

        Args:
            stats_id: Index of the set, the most recent one if None.

        Returns:
            The pair ``(running_mean, running_var)``, each ``[num_features]``.

        Raises:
            ValueError: If there is no such set.
            TypeError: If ``stats_id`` is not an integer.
        """
        count = self._stats_count
        index = check_integer("stats_id", count - 1 if stats_id is None else stats_id, 0, count)
        mean_name, var_name = self._stats_names(index)
        return getattr(self, mean_name), getattr(self, var_name)

    def _stats_names(self, stats_id: int) -> tuple[str, str]:
        """Names under which a set of statistics is registered."""
        return f"mean_{stats_id}", f"var_{stats_id}"

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        # A partial load may change the stored counter, but never adds statistics.
        self._set_stats_count(self._stats_count)
