"""``torch.nn.ModuleList`` whose entries have a known type, for type checkers."""

from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Generic, TypeVar

    Layer = TypeVar("Layer", bound=nn.Module)

    class LayerList(nn.ModuleList, Generic[Layer]):
        """A list of layers of one kind."""

        def __init__(self, modules: Iterable[Layer] | None = None) -> None: ...
        def __iter__(self) -> Iterator[Layer]: ...
        def __getitem__(self, idx: int) -> Layer: ...

else:
    LayerList = nn.ModuleList
