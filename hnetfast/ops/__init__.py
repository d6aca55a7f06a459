"""The operations that weight generation spends its time in.

Every op has a schema in the ``hnetfast`` namespace of :mod:`torch.library`, a reference in plain PyTorch
that runs on any device, a shape function for tracing, gradients (``pixel_rows`` aside), and, where they are
built, compiled kernels that PyTorch's dispatcher picks by device. ``_register.py`` makes them. ``output_reg``
and the two that cut generated weights into views are made in another way, which their files explain.
"""

from hnetfast.ops.batched_linear import batched_linear
from hnetfast.ops.batched_lora import AdapterRows, batched_lora
from hnetfast.ops.batched_mlp import batched_mlp
from hnetfast.ops.chunked_mlp import chunked_mlp
from hnetfast.ops.elman_states import elman_states
from hnetfast.ops.grouped_mlp import grouped_mlp
from hnetfast.ops.local_conv2d import local_conv2d
from hnetfast.ops.output_reg import output_reg
from hnetfast.ops.pixel_rows import pixel_rows
from hnetfast.ops.split_targets import split_stacked, split_targets
from hnetfast.ops.squared_change import squared_change

__all__ = [
    "AdapterRows",
    "batched_linear",
    "batched_lora",
    "batched_mlp",
    "chunked_mlp",
    "elman_states",
    "grouped_mlp",
    "local_conv2d",
    "output_reg",
    "pixel_rows",
    "split_stacked",
    "split_targets",
    "squared_change",
]
