"""Low-rank adaptation of linear maps, embeddings and convolutions."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hnetfast._checks import check_integer
from hnetfast._errors import InputError, InputTypeError
from hnetfast.adapters._kinds import Features, embedding_scale, find_features, float_weight
from hnetfast.adapters._layers import Adapter, OutputLayer
from hnetfast.mnets._module.rows import SampleRows
from hnetfast.ops.batched_lora import batched_lora

__all__ = ["LoRA"]


class LoRA(Adapter):
    """Low-rank adaptation: ``W0 x + s · B (A x)`` in place of ``W0 x``.

    Hu et al., "LoRA: low-rank adaptation of large language models", 2022. The parameters "lora_A"
    ``[rank, in]`` and "lora_B" ``[out, rank]`` start, like PEFT's, at Kaiming-uniform numbers and at zero;
    those of an embedding, "lora_embedding_A" and "lora_embedding_B", at zero and at normal ones; those of a
    convolution are ``[rank, in, height, width]`` and ``[out, rank, 1, 1]``.

    Linear maps are ``nn.Linear``, GPT-2's ``Conv1D`` with its transposed matrix, and any module with
    ``in_features`` and ``out_features``. A module that is quantised is called as it is. A matrix of queries,
    keys and values in one is one linear map with one pair of parameters.

    Args:
        rank: Rows of A and columns of B.
        alpha: The scale s is ``alpha / rank``, or ``alpha / sqrt(rank)`` with ``rslora``.
        modules: Names of modules, or patterns like ``"*.q_proj"`` as :mod:`fnmatch` understands them.
        dropout: Rate of dropout of what A gets, in training mode. Embeddings have none.
        rslora: Whether the scale is that of Kalajdzievski, "A rank stabilization scaling factor for
            fine-tuning with LoRA", 2023.

    Raises:
        ValueError: If a number is out of range.
        TypeError: If an argument is of a wrong type.

    Example:
        >>> from hnetfast.mnets import from_module
        >>> base = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4)).requires_grad_(False)
        >>> target = from_module(base, adapters=LoRA(rank=2, alpha=4, modules=["0"]))
        >>> target.generated_names, target.hyper_shapes_learned
        (['0.lora_A', '0.lora_B'], [[2, 6], [5, 2]])
        >>> weights = torch.randn(3, 22)  # of three adapters
        >>> target.forward_batched(torch.randn(9, 6), weights, rows=[2, 3, 4]).shape
        torch.Size([9, 4])
    """

    _accepted = (
        "a linear map (nn.Linear, Conv1D, a module with in_features and out_features), an nn.Embedding that "
        "looks up what it gets, or an nn.Conv2d without groups that pads with zeros"
    )

    def __init__(
        self,
        rank: int,
        alpha: float,
        modules: Sequence[str] | str,
        dropout: float = 0.0,
        rslora: bool = False,
    ) -> None:
        super().__init__(modules)
        self.rank = check_integer("rank", rank, 1)
        if not isinstance(alpha, (int, float)) or not math.isfinite(alpha):
            raise InputTypeError(f"alpha: expected a number, got {alpha!r}")
        if not isinstance(dropout, (int, float)) or not 0 <= dropout < 1:
            raise InputError(f"dropout: expected a number in [0, 1), got {dropout!r}")
        self.alpha, self.dropout, self.rslora = alpha, float(dropout), bool(rslora)

    @property
    def scale(self) -> float:
        """The factor s."""
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)

    def _features(self, module: nn.Module) -> Features | None:
        features = find_features(module)
        if features is None or features.kind == "norm":
            return None
        if isinstance(module, nn.Conv2d) and (module.groups > 1 or module.padding_mode != "zeros"):
            return None
        return features if features.kind != "embedding" or _looks_up_its_input(module) else None

    def _layer(self, name: str, module: Any, features: Features) -> LoRALayer:
        largest = min(features.inputs, features.outputs)
        if features.kind == "conv2d":
            largest = min(features.inputs * math.prod(module.kernel_size), features.outputs)
        if self.rank > largest:
            raise InputError(
                f"rank: expected at most {largest} for {name!r}, which maps {features.inputs} to "
                f"{features.outputs} features, got {self.rank}"
            )
        cls = {"linear": LoRALayer, "embedding": _Embedding, "conv2d": _Conv2d}[features.kind]
        return cls(name, module, features, self)


def _looks_up_its_input(module: nn.Module) -> bool:
    """Whether an embedding does, and does not make positions of it, for which those take further inputs."""
    arguments = inspect.signature(module.forward).parameters.values()
    return sum(a.kind not in (a.VAR_POSITIONAL, a.VAR_KEYWORD) for a in arguments) <= 1


class LoRALayer(OutputLayer):
    """Low-rank adaptation of one linear map.

    Args:
        place: The qualified name of the module.
        module: The module.
        features: What it computes with.
        adapter: What the user asked for.
    """

    lora_A: Tensor
    lora_B: Tensor

    def __init__(self, place: str, module: nn.Module, features: Features, adapter: LoRA) -> None:
        super().__init__(place, module, features)
        self.rank, self.alpha, self.rslora = adapter.rank, adapter.alpha, adapter.rslora
        self.scale, self.dropout = adapter.scale, adapter.dropout
        self._add_parameters(module)

    def _add_parameters(self, module: nn.Module) -> None:
        a = self.add_parameter("lora_A", self.rank, self.features.inputs)
        nn.init.kaiming_uniform_(a, a=math.sqrt(5))
        self.add_parameter("lora_B", self.features.outputs, self.rank)

    def adapt(self, x: Any, output: Tensor) -> Tensor:
        """Add the low-rank product to the output.

        Args:
            x: What the module got.
            output: What it returned.

        Returns:
            A tensor in the dtype of ``output``.
        """
        a, b = self.lora_A, self.lora_B
        if self.dropout and self.training:
            x = F.dropout(x.to(a.dtype), self.dropout)
        if self.rows is not None:
            x = self.rows.spread(x, self.place)
            return batched_lora(x, a, b, self.rows.of(x), base=output, scale=self.scale)
        return self._sum(output, F.linear(F.linear(x.to(a.dtype), a), b))

    def _sum(self, output: Tensor, product: Tensor) -> Tensor:
        return (output + product * self.scale).to(output.dtype)

    def fold(self, module: nn.Module, values: Mapping[str, Tensor]) -> None:
        """Add ``s · B A`` to the matrix of a module.

        Args:
            module: A copy of the module that is adapted.
            values: A and B.

        Raises:
            NotImplementedError: If the matrix is quantised.
        """
        a, b = values.values()
        weight = float_weight(module, self.place)
        change = self._change(a.detach(), b.detach()) * self.scale
        module.weight = nn.Parameter((weight + change).to(weight.dtype), requires_grad=False)

    def _change(self, a: Tensor, b: Tensor) -> Tensor:
        """The change of the matrix, in its shape."""
        return (b @ a).T if self.features.transposed else b @ a


class _Embedding(LoRALayer):
    """Low-rank adaptation of an embedding."""

    lora_embedding_A: Tensor
    lora_embedding_B: Tensor

    def attach(self, module: nn.Module) -> None:
        super().attach(module)
        self._module = [module]  # not registered

    def _add_parameters(self, module: nn.Module) -> None:
        self.add_parameter("lora_embedding_A", self.rank, self.features.inputs)
        nn.init.normal_(self.add_parameter("lora_embedding_B", self.features.outputs, self.rank))

    def adapt(self, x: Any, output: Tensor) -> Tensor:
        a, b = self.lora_embedding_A, self.lora_embedding_B
        if self.rows is None:
            return self._sum(output, F.embedding(x, a.T) @ b.T)
        x = self.rows.spread(x, self.place)
        sets = self.rows.index(x).reshape(-1, *(1,) * (x.ndim - 1))
        return self._sum(output, self.rows.linear(a.mT[sets, x], b))  # [rows, …, out]

    def _sum(self, output: Tensor, product: Tensor) -> Tensor:
        return super()._sum(output, product * embedding_scale(self._module[0]))

    def _change(self, a: Tensor, b: Tensor) -> Tensor:
        return (b @ a).T


class _Conv2d(LoRALayer):
    """Low-rank adaptation of a convolution: another one to ``rank`` channels, and a matrix for each pixel."""

    def _add_parameters(self, module: Any) -> None:
        a = self.add_parameter("lora_A", self.rank, self.features.inputs, *module.kernel_size)
        nn.init.kaiming_uniform_(a, a=math.sqrt(5))
        self.add_parameter("lora_B", self.features.outputs, self.rank, 1, 1)
        self._options = (module.stride, module.padding, module.dilation)
        self.is_dilated = any(step != 1 for step in module.dilation)

    def adapt(self, x: Any, output: Tensor) -> Tensor:
        a, b = self.lora_A, self.lora_B
        x = x.to(a.dtype)
        if self.dropout and self.training:
            x = F.dropout(x, self.dropout)
        if self.rows is not None and len(x) == 0:  # there are no convolutions of no groups
            a, b = a.sum(0), b.sum(0)
        elif self.rows is not None:
            return self._sum(output, self._of_rows(self.rows, x, a, b).reshape(output.shape))
        return self._sum(output, F.conv2d(F.conv2d(x, a, None, *self._options), b))

    def _of_rows(self, rows: SampleRows, x: Tensor, a: Tensor, b: Tensor) -> Tensor:
        x = rows.spread(x, self.place)
        kernels = rows.select(a, x)  # [rows, rank, in, height, width]
        images = x.reshape(1, -1, *x.shape[2:])  # one group of channels for each row
        hidden = F.conv2d(images, kernels.flatten(0, 1), None, *self._options, groups=x.shape[0])
        hidden = hidden.reshape(x.shape[0], self.rank, -1)
        return rows.select(b.flatten(2), x) @ hidden  # [rows, out, pixels]

    def _change(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.einsum("or,rihw->oihw", b.flatten(1), a)
