"""Adapters of pretrained networks, whose parameters a hypernetwork generates.

``hnetfast.mnets.from_module(base, adapters=LoRA(…))`` makes a main network of a copy of ``base`` in which
nothing but the parameters of adapters is given. Its ``forward_batched`` evaluates it with many adapters in
one call of ``base``, each on samples of its own. What is generated can be folded into the weights
(:func:`merge`) and exchanged with PEFT (:func:`save_peft`, :func:`load_peft`).
"""

from hnetfast.adapters.bottleneck import BottleneckAdapter
from hnetfast.adapters.ia3 import IA3
from hnetfast.adapters.lora import LoRA
from hnetfast.adapters.merging import merge, unmerge
from hnetfast.adapters.modulation import Modulation
from hnetfast.adapters.peft_files import load_peft, save_peft
from hnetfast.adapters.residual import Residual
from hnetfast.adapters.scale import Scale

__all__ = [
    "IA3",
    "BottleneckAdapter",
    "LoRA",
    "Modulation",
    "Residual",
    "Scale",
    "load_peft",
    "merge",
    "save_peft",
    "unmerge",
]
