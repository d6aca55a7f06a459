"""Spectral normalisation of weights that are a layer's own or given from outside."""

import torch
import torch.nn.functional as F
from torch import nn

_NUM_START_ITERATIONS = 15
_EPS = 1e-12


class SpectralNorm(nn.Module):
    """Divide a matrix by an estimate of its largest singular value.

    Miyato et al., "Spectral Normalization for Generative Adversarial Networks", 2018, https://arxiv.org/abs/1802.05957.
    The singular vectors are estimated by power iteration: for a layer's own weights they are kept and refined
    by one step a training forward, as in :func:`torch.nn.utils.parametrizations.spectral_norm`. Weights from
    outside may be others in each call, so their vectors are estimated afresh from a fixed start and not kept.

    Args:
        weight: The layer's own matrix ``[out, in]``, None if it has none.
        num_outputs: Size of the first dimension.
        num_inputs: Size of the second dimension.
    """

    _u: torch.Tensor
    _v: torch.Tensor

    def __init__(self, weight: torch.Tensor | None, num_outputs: int, num_inputs: int) -> None:
        super().__init__()
        self.register_buffer("_u", F.normalize(torch.randn(num_outputs), dim=0, eps=_EPS))
        self.register_buffer("_v", F.normalize(torch.randn(num_inputs), dim=0, eps=_EPS))
        if weight is not None:
            u, v = _power_iteration(weight.detach(), self._u, _NUM_START_ITERATIONS)
            self._u.copy_(u)
            self._v.copy_(v)

    def forward(self, weight: torch.Tensor, own: bool) -> torch.Tensor:
        """Normalise a matrix.

        Args:
            weight: The matrix ``[out, in]``.
            own: Whether it is the layer's own, whose estimate is kept.

        Returns:
            The matrix divided by its largest singular value; gradients flow through both.
        """
        u, v = self._u, self._v
        with torch.no_grad():
            if not own:
                u, v = _power_iteration(weight.detach(), u, _NUM_START_ITERATIONS)
            elif self.training:
                u, v = _power_iteration(weight.detach(), u, 1)
                self._u.copy_(u)
                self._v.copy_(v)
            else:
                # The buffers may change before the backward pass, which needs the vectors used here.
                u, v = u.clone(), v.clone()
        return weight / torch.dot(u, torch.mv(weight, v))


def _power_iteration(
    weight: torch.Tensor, u: torch.Tensor, num_iterations: int
) -> tuple[torch.Tensor, torch.Tensor]:
    for _ in range(num_iterations):
        v = F.normalize(torch.mv(weight.t(), u), dim=0, eps=_EPS)
        u = F.normalize(torch.mv(weight, v), dim=0, eps=_EPS)
    return u, v
