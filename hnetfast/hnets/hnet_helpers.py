"""What is done to embeddings, whatever kind of hypernetwork has them."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from hnetfast._errors import InputError, InputTypeError, UnsupportedError
from hnetfast.hnets._arguments import check_size
from hnetfast.hnets._chunked_hnet import ChunkedHyperNet
from hnetfast.hnets._full_hnet import FullHyperNet
from hnetfast.hnets.hnet_container import HContainer
from hnetfast.hnets.hnet_interface import HyperNetInterface
from hnetfast.hnets.hnet_perturbation_wrapper import HPerturbWrapper
from hnetfast.hnets.structured_mlp_hnet import StructuredHMLP

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
    for part in _parts(hnet):
        if not _keeps_embeddings(part):
            continue
        for cond_id in range(part.num_known_conds):
            embedding = part.get_cond_in_emb(cond_id)
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
    for part in _parts(hnet, chunks=True):
        if not isinstance(part, (ChunkedHyperNet, StructuredHMLP)):
            continue
        if part._no_cond_weights if part.cond_chunk_embs else part._no_uncond_weights:
            continue
        for cond_id in range(part.num_known_conds) if part.cond_chunk_embs else [None]:
            if isinstance(part, StructuredHMLP):
                embeddings = part.get_chunk_embs(cond_id=cond_id)
            else:
                embeddings = [part.get_chunk_emb(i, cond_id=cond_id) for i in range(part.num_chunks)]
            for i, embedding in enumerate(embeddings):
                if init_fct is None:
                    nn.init.normal_(embedding, normal_mean, normal_std)
                else:
                    init_fct(embedding, i, cond_id=cond_id)


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
    parts = _parts(hnet)
    cond_id = check_size("cond_id", cond_id, 0)
    if not parts:
        return []
    if cond_id >= hnet.num_known_conds:
        raise InputError(
            f"cond_id: condition {cond_id} does not exist, the hypernetwork knows {hnet.num_known_conds}"
        )
    found: list[nn.Parameter] = []
    for part in parts:
        if part.num_known_conds == 0 or part._no_cond_weights:
            continue
        if _keeps_embeddings(part):
            found.append(part.get_cond_in_emb(cond_id))
        if isinstance(part, HContainer):
            found += part.own_cond_params(cond_id)
        elif isinstance(part, StructuredHMLP) and part.cond_chunk_embs:
            found += part.get_chunk_embs(cond_id=cond_id)
        elif isinstance(part, ChunkedHyperNet) and part.cond_chunk_embs:
            found.append(part.get_chunk_emb(cond_id=cond_id))
    return found


def _parts(hnet: HyperNetInterface, chunks: bool = False) -> list[HyperNetInterface]:
    """The hypernetworks in wrappers and containers, and behind their members the containers themselves.

    Args:
        hnet: The hypernetwork.
        chunks: Whether chunk embeddings matter; else what has no conditional parameters may be of any class.
    """
    if isinstance(hnet, HPerturbWrapper):
        return _parts(hnet.internal_hnet, chunks)
    if isinstance(hnet, HContainer):
        return [part for inner in hnet.internal_hnets for part in _parts(inner, chunks)] + [hnet]
    if isinstance(hnet, (FullHyperNet, ChunkedHyperNet, StructuredHMLP)):
        return [hnet]
    if not isinstance(hnet, HyperNetInterface):
        raise InputTypeError(f"hnet: a hypernetwork is accepted, got {type(hnet).__name__}")
    if chunks or hnet.conditional_params:
        raise UnsupportedError(
            f"hnet: it is not known where a {type(hnet).__name__} keeps its embeddings, accepted are classes "
            "derived from those of hnetfast"
        )
    return []


def _keeps_embeddings(hnet: HyperNetInterface) -> bool:
    return not isinstance(hnet, HContainer) and hnet._cond_in_size > 0 and not hnet._no_cond_weights
