"""The first peer: PEFT as its documentation has it, one job after the other on a model that stays in memory.

Shapes: S rows, M longest row.
"""

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM

from bench.proof import Outcome
from bench.workloads import (
    ALPHA,
    IGNORED,
    LEARNING_RATE,
    MAX_GRAD_NORM,
    RANK,
    UNTIMED_STEPS,
    WEIGHT_DECAY,
    Lesson,
    Tokens,
)

#: A lesson's initial weights, by their names in PEFT's files.
Initial = Callable[[Lesson], Mapping[str, Tensor]]


class PlainPeft:
    """Batches are padded to their longest row; changing from job to job is not on its clock."""

    def __init__(self, model: Any, targets: Sequence[str]) -> None:
        config = LoraConfig(
            r=RANK,
            lora_alpha=ALPHA,
            target_modules=list(targets),
            task_type="CAUSAL_LM",
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._model: Any = get_peft_model(model, config)
        self._model.train()
        self._factors = {
            name.replace(".default.", "."): parameter
            for name, parameter in self._model.named_parameters()
            if parameter.requires_grad
        }

    @classmethod
    def of_directory(cls, directory: Path, targets: Sequence[str]) -> "PlainPeft":
        """On a prepared base model, in float32 on the CPU."""
        return cls(AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32), targets)

    @property
    def frozen(self) -> list[Tensor]:
        """The weights of the layers that are adapted: what every trainer's matrix products go through."""
        layers = [one for name, one in self._model.named_modules() if name.endswith(".base_layer")]
        return [layer.weight for layer in layers if isinstance(layer, nn.Linear)]

    @property
    def head(self) -> Tensor:
        """The output head's weights."""
        head: Tensor = self._model.get_output_embeddings().weight
        return head

    def train(self, lessons: Sequence[Lesson], steps: int, initial: Initial) -> Outcome:
        """Steps of every lesson. Between lessons the clock stands still."""
        took = 0.0
        losses: list[float] = []
        norms: list[float] = []
        for one in lessons:
            self._start_from(initial(one))
            # The fused one is what the Trainer of transformers takes by default, and the fastest on a CPU.
            optimizer = torch.optim.AdamW(
                self._factors.values(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=True
            )
            for step in range(UNTIMED_STEPS + steps):
                began = time.perf_counter()
                loss, norm = self._step(one.rows, optimizer)
                took += (time.perf_counter() - began) if step >= UNTIMED_STEPS else 0.0
                losses.append(loss)
                norms.append(norm)
        return Outcome(took, tuple(losses), tuple(norms))

    def _step(
        self, rows: Sequence[Tokens], optimizer: torch.optim.Optimizer
    ) -> tuple[float, float]:
        device = self._model.device
        batch = {name: tensor.to(device) for name, tensor in padded(rows).items()}
        loss = self._model(**batch, use_cache=False).loss
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self._factors.values(), MAX_GRAD_NORM)
        optimizer.step()
        # Reading them waits for a GPU, so the clock sees all of the step.
        return float(loss.detach()), float(norm)

    def _start_from(self, initial: Mapping[str, Tensor]) -> None:
        assert self._factors.keys() == initial.keys(), "the peer adapts other layers"
        with torch.no_grad():
            for name, tensor in initial.items():
                self._factors[name].copy_(tensor)


def padded(rows: Sequence[Tokens]) -> dict[str, Tensor]:
    """What a data collator makes of rows [S, M]."""
    ids = [torch.tensor(row.ids) for row in rows]
    labels = [torch.tensor(row.labels) for row in rows]
    return {
        "input_ids": pad_sequence(ids, batch_first=True),
        "attention_mask": pad_sequence([torch.ones_like(row) for row in ids], batch_first=True),
        "labels": pad_sequence(labels, batch_first=True, padding_value=IGNORED),
    }
