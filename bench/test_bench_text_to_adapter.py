"""A step of training adapters from descriptions: ``pytest bench/test_bench_text_to_adapter.py``.

The network, the hypernetwork and the lines are those of the example. The other side calls the network once
for each task, with the task's adapter in the places of PEFT's.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from random import Random

import pytest
import torch
from torch import Tensor
from torch.func import functional_call

from bench.harness import check
from bench.tables import Rows, Table, field, over, speed_ups, times, times_as_fast
from hnetfast.adapters import LoRA
from hnetfast.examples.text_to_adapter._base_model import ADAPTED, Decoder, answer_loss
from hnetfast.examples.text_to_adapter._learning import draw_lines
from hnetfast.examples.text_to_adapter._tasks import seen_tasks
from hnetfast.examples.text_to_adapter._text import encode_lines
from hnetfast.hnets import LayerHMLP
from hnetfast.mnets import ModuleTarget, from_module

# Tasks of a batch, the mean of the lines of each, and the rank.
CASES = {
    "32 tasks of 4 lines, rank 8": (32, 4, 8),
    "54 tasks of 2 lines, rank 8": (54, 2, 8),
    "16 tasks of 8 lines, rank 8": (16, 8, 8),
}


class _Step:
    """Adapters from descriptions, loss on ragged lines of many tasks, all gradients, Adam."""

    def __init__(self, name: str) -> None:
        num_tasks, num_lines, rank = CASES[name]
        torch.manual_seed(0)
        base = Decoder(width=64, depth=3, heads=4).requires_grad_(False).eval()
        self.target: ModuleTarget = from_module(
            base, adapters=LoRA(rank=rank, alpha=2 * rank, modules=list(ADAPTED))
        )
        self.hnet = LayerHMLP(
            self.target, cond_in_size=384, layers=(256, 256), num_cond_embs=0, use_offsets=True, verbose=False
        )
        self.hnet.apply_bias_hyperinit(self.target, weight_scale=0.1)
        self.optimizer = torch.optim.Adam(self.hnet.parameters(), lr=1e-3, fused=True)
        random = Random(0)
        self.counts = [
            random.randint(num_lines // 2 + 1, num_lines + num_lines // 2) for _ in range(num_tasks)
        ]
        self.inputs, self.targets = encode_lines(
            [
                line
                for task, count in zip(seen_tasks(), self.counts, strict=False)
                for line in draw_lines(task, count, random)
            ]
        )
        self.embeddings = torch.randn(num_tasks, 384)
        self._adapt_base(base, rank)

    def _adapt_base(self, base: Decoder, rank: int) -> None:
        peft = pytest.importorskip("peft")
        pattern = rf".*\.({'|'.join(name.removeprefix('*.') for name in ADAPTED[:-1])})|{ADAPTED[-1]}"
        config = peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=pattern)
        self.peft_model = peft.inject_adapter_in_model(config, copy.deepcopy(base)).eval()
        self.names = []
        for name in self.target.generated_names:
            module, _, kind = name.rpartition(".")
            self.names.append(f"{module}.{kind}.default.weight")
        missing = set(self.names) ^ {name for name, _ in self.peft_model.named_parameters() if "lora" in name}
        assert not missing

    def in_one_call(self) -> Tensor:
        weights = self.hnet(cond_input=self.embeddings, ret_format="flattened")
        return self.target.forward_batched(self.inputs, weights, rows=self.counts)

    def task_by_task(self) -> Tensor:
        sets = self.hnet(cond_input=self.embeddings, ret_format="sequential")
        logits = [
            functional_call(self.peft_model, dict(zip(self.names, weights, strict=True)), (inputs,))
            for weights, inputs in zip(sets, self.inputs.split(self.counts), strict=True)
        ]
        return torch.cat(logits)

    def gradients(self, predict: Callable[[], Tensor]) -> list[Tensor]:
        self.optimizer.zero_grad()
        answer_loss(predict(), self.targets).backward()
        return [p.grad for p in self.hnet.parameters() if p.grad is not None]

    def __call__(self, predict: Callable[[], Tensor]) -> None:
        self.gradients(predict)
        self.optimizer.step()


@pytest.mark.parametrize("name", CASES)
def test_step(name, bench):
    step = _Step(name)
    with torch.no_grad():  # so that adapters differ from the base, and all parameters have a gradient
        for parameter in step.hnet.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    check(step.gradients(step.in_one_call), step.gradients(step.task_by_task), 1e-3, name)
    calls = {"hnetfast": lambda: step(step.in_one_call), "loop": lambda: step(step.task_by_task)}
    durations = bench.time(calls, minimum=7)
    bench.add(TABLE, durations, what=name, threads=torch.get_num_threads())


def _facts(rows: Rows) -> list[str]:
    return over(
        "Steps of training adapters from descriptions, against a loop over tasks", speed_ups(rows, "loop")
    )


TABLE = Table(
    key="text_to_adapter_steps",
    title="Adapters from descriptions",
    intro=(
        "A training step of `hnetfast.examples.text_to_adapter` (adapters generated from descriptions, loss "
        "on one batch with lines of many tasks, all gradients, Adam), in milliseconds. The loop generates "
        "with the same hypernetwork, and then calls the network once a task, with PEFT's layers of which the "
        "weights are replaced."
    ),
    columns={
        "batch": field("what"),
        "threads": field("threads"),
        **times("hnetfast", "loop"),
        "× loop": times_as_fast("loop"),
    },
    place=48,
    facts=_facts,
)
