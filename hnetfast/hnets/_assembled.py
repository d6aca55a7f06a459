"""What hypernetworks share whose targets a function puts together from what their members generate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from hnetfast._layer_lists import LayerList
from hnetfast.hnets._assembly import Assembly
from hnetfast.hnets.hnet_interface import HyperNetInterface
from hnetfast.ops._corrections import Corrections
from hnetfast.ops._library import remembered
from hnetfast.utils._spectral_norm import SpectralNorm

if TYPE_CHECKING:

    class _Network(nn.Module, HyperNetInterface): ...

else:
    _Network = object  # a subclass is a network by its other bases


class Assembled(_Network):
    """Mixin of hypernetworks, before :class:`torch.nn.Module` among the bases.

    ``_hnets`` is a plain list of the members, whose parameters are registered once, as the whole's.
    """

    _hnets: Sequence[HyperNetInterface]
    _assembly: Assembly

    @property
    def assembly(self) -> str:
        """What ``assembly_fct`` turned out to do.

        "moves": it only moves elements, and is not called any more. "vmap": it computes, and is called for
        all conditions at once by :func:`torch.vmap`. "loop": it is called one condition at a time.
        """
        return self._assembly.kind

    def _register_layers_of_members(self) -> None:
        """Register layers with a state of their own."""
        batchnorm_layers = [layer for hnet in self._hnets for layer in hnet.batchnorm_layers or ()]
        if batchnorm_layers:
            self._batchnorm_layers = LayerList(batchnorm_layers)
        modules = dict.fromkeys(m for h in self._hnets if isinstance(h, nn.Module) for m in h.modules())
        norms = [module for module in modules if isinstance(module, SpectralNorm)]
        if norms:
            self._spectral_norms = nn.ModuleList(norms)

    def _uneven_outputs(self) -> Corrections | None:
        def find() -> Corrections | None:
            elements = self._part_positions(torch.arange(self.num_outputs, device="cpu"))
            uses = elements.bincount(minlength=self._num_part_outputs)
            uneven = uses.ne(1).nonzero().flatten()
            return Corrections(uneven, (1.0 - uses[uneven]).unsqueeze(0)) if len(uneven) else None

        return remembered(vars(self), "_found_uneven_outputs", find)

    def train(self, mode: bool = True) -> Any:
        """Set the mode of the whole and of its members.

        Args:
            mode: Training (True) or evaluation (False).

        Returns:
            The network itself.
        """
        for hnet in self._hnets:
            hnet.train(mode)
        return super().train(mode)
