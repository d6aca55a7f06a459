"""Interface of classification networks, with the losses that they are trained with."""

from collections.abc import Iterable, Sequence
from warnings import warn

import torch
import torch.nn.functional as F
from torch import nn

from hnetfast.mnets.mnet_interface import MainNetInterface

__all__ = ["Classifier"]


class Classifier(nn.Module, MainNetInterface):
    """Base class of classification networks.

    Args:
        num_classes: Number of output units.
        verbose: Whether a subclass may print what it has built.

    Raises:
        ValueError: If ``num_classes`` is not positive.
        TypeError: If ``num_classes`` is not a number.
    """

    def __init__(self, num_classes: int, verbose: bool) -> None:
        nn.Module.__init__(self)
        MainNetInterface.__init__(self)
        if not num_classes > 0:
            raise ValueError(f"num_classes: expected a positive integer, got {num_classes}")
        self._num_classes = num_classes
        self._verbose = verbose

    @property
    def num_classes(self) -> int:
        """Number of output units."""
        return self._num_classes

    @staticmethod
    def logit_cross_entropy_loss(h: torch.Tensor, t: torch.Tensor, reduction: str = "mean") -> torch.Tensor:
        """Cross entropy between logits and the most probable class of the targets.

        Args:
            h: Logits ``[B, C]``.
            t: Targets ``[B, C]``, one-hot or soft.
            reduction: Argument of :func:`torch.nn.functional.cross_entropy`.

        Returns:
            The loss.

        Raises:
            ValueError: If the shapes differ.
        """
        _check_logits(h, t)
        return F.cross_entropy(h, torch.argmax(t, dim=1), reduction=reduction)

    @staticmethod
    def knowledge_distillation_loss(
        logits: torch.Tensor,
        target_logits: torch.Tensor,
        target_mapping: Sequence[int] | None = None,
        device: torch.device | str | None = None,
        T: float = 2.0,
    ) -> torch.Tensor:
        """Distillation loss of Hinton et al., "Distilling the Knowledge in a Neural Network", 2015.

        Args:
            logits: Logits ``[B, C]`` of the network that learns.
            target_logits: Logits ``[B, C']`` of the network that teaches; not detached here.
            target_mapping: For each of the teacher's outputs the index of the learner's; needed if C and C'
                differ.
            device: Ignored: targets live where the logits do.
            T: Temperature of both softmax functions.

        Returns:
            The loss, averaged over the batch and scaled by T².

        Raises:
            ValueError: If C and C' differ without a mapping, or the mapping does not have C' entries.
        """
        targets = F.softmax(target_logits / T, dim=1)
        if target_mapping is not None:
            if len(target_mapping) != target_logits.shape[1]:
                raise ValueError(
                    f"target_mapping: expected one index for each of {target_logits.shape[1]} target logits, "
                    f"got {len(target_mapping)}"
                )
            index = torch.as_tensor(target_mapping, dtype=torch.long, device=targets.device)
            padded = torch.zeros(
                targets.shape[0], logits.shape[1], dtype=targets.dtype, device=targets.device
            )
            targets = padded.index_copy(1, index, targets)
        elif logits.shape[1] != target_logits.shape[1]:
            raise ValueError(
                f"target_mapping: needed, as logits have {logits.shape[1]} and target_logits "
                f"{target_logits.shape[1]} classes"
            )
        return -(targets * F.log_softmax(logits / T, dim=1)).sum(dim=1).mean() * T**2

    @staticmethod
    def softmax_and_cross_entropy(
        h: torch.Tensor, t: torch.Tensor, reduction_sum: bool = False
    ) -> torch.Tensor:
        """Cross entropy between logits and soft targets.

        Args:
            h: Logits ``[B, C]``.
            t: Target probabilities ``[B, C]``.
            reduction_sum: Sum over the batch instead of averaging.

        Returns:
            The loss.

        Raises:
            ValueError: If the shapes differ.
        """
        _check_logits(h, t)
        losses = -(t * F.log_softmax(h, dim=1)).sum(dim=1)
        return losses.sum() if reduction_sum else losses.mean()

    @staticmethod
    def accuracy(y: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """Share of samples whose most probable class is that of the target.

        Args:
            y: Outputs ``[B, C]``.
            t: Targets ``[B, C]``, one-hot or soft.

        Returns:
            A scalar between 0 and 1.

        Raises:
            ValueError: If the shapes differ.
        """
        _check_logits(y, t)
        return (y.argmax(dim=1) == t.argmax(dim=1)).float().mean()

    @staticmethod
    def num_hyper_weights(dims: Iterable[Sequence[int]]) -> int:
        """Deprecated name of :meth:`~hnetfast.mnets.mnet_interface.MainNetInterface.shapes_to_num_weights`.

        Args:
            dims: Shapes of tensors.

        Returns:
            The number of weights.
        """
        warn('Use "MainNetInterface.shapes_to_num_weights" instead.', DeprecationWarning, stacklevel=2)
        return MainNetInterface.shapes_to_num_weights(dims)


def _check_logits(outputs: torch.Tensor, targets: torch.Tensor) -> None:
    if outputs.ndim != 2 or outputs.shape != targets.shape:
        raise ValueError(
            "outputs, targets: expected the same shape [B, C], "
            f"got {list(outputs.shape)} and {list(targets.shape)}"
        )
