"""What is done to embeddings, whatever kind of hypernetwork has them."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from hnetfast._checks import check_integer
from hnetfast.hnets._arguments import check_hnet
from hnetfast.hnets.hnet_interface import HyperNetInterface

__all__ = ["get_conditional_parameters", "init_chunk_embeddings", "init_conditional_embeddings"]


def init_conditional_embeddings(
    hnet: HyperNetInterface,
    normal_mean: float = 0.0,
    normal_std: float = 1.0,
    init_fct: Callable[[Tensor, int], object] | None = None,
) -> None:
    """Initialise the embeddings of conditions that a hypernetwork keeps, if it has any.

    Args:
        hnet: The hypernetwork. In a container those of its hypernetworks are initialised.
        normal_mean: Mean of the normal distribution they are drawn from.
        normal_std: Its standard deviation.
        init_fct: Called instead with each embedding, to be changed in place, and its condition.

    Raises:
        TypeError: If ``hnet`` is no hypernetwork.
        NotImplementedError: If it is, or contains, one of a class that is not derived from those of this
            package (also a ``ValueError``).
    """
    for embedding, cond_id in check_hnet(hnet)._kept_cond_embs():
        if init_fct is None:
            nn.init.normal_(embedding, normal_mean, normal_std)
        else:
            init_fct(embedding, cond_id)


def init_chunk_embeddings(
    hnet: HyperNetInterface,
    normal_mean: float = 0.0,
    normal_std: float = 1.0,
    init_fct: Callable[..., object] | None = None,
) -> None:
    """Initialise the embeddings of chunks that a hypernetwork keeps, if it has any.

    Args:
        hnet: The hypernetwork. In a container those of its hypernetworks are initialised.
        normal_mean: Mean of the normal distribution they are drawn from.
        normal_std: Its standard deviation.
        init_fct: Called instead with each embedding, to be changed in place, its chunk, and the keyword
            argument ``cond_id``, None if it belongs to no condition. A
            :class:`~hnetfast.hnets.structured_mlp_hnet.StructuredHMLP` passes the embeddings of all chunks of
            an internal hypernetwork in one tensor, and the number of that tensor.

    Raises:
        TypeError: If ``hnet`` is no hypernetwork.
        NotImplementedError: If it is, or contains, one of a class that is not derived from those of this
            package (also a ``ValueError``).
    """
    for embedding, chunk, cond_id in check_hnet(hnet)._kept_chunk_embs():
        if init_fct is None:
            nn.init.normal_(embedding, normal_mean, normal_std)
        else:
            init_fct(embedding, chunk, cond_id=cond_id)


def get_conditional_parameters(hnet: HyperNetInterface, cond_id: int) -> list[nn.Parameter]:
    """Collect the parameters that belong to a condition.

    Args:
        hnet: The hypernetwork.
        cond_id: The condition.

    Returns:
        Those of ``hnet.conditional_params`` that belong to it: the embedding of the condition, its chunk
        embeddings, and what a container has for it. Empty if none are kept internally.

    Raises:
        TypeError: If ``hnet`` is no hypernetwork.
        NotImplementedError: If it is, or contains, one of a class that is not derived from those of this
            package (also a ``ValueError``).
        ValueError: If it does not know the condition.
    """
    return check_hnet(hnet)._kept_params_of(check_integer("cond_id", cond_id, 0))
