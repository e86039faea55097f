"""The base model in memory: frozen, its linear layers ready for adapters, its attention ready for packed rows.

Shapes: T tokens, N target positions, D hidden size, V vocabulary.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from adapters.manifest import BaseModelCard
from adapters.spec import LoraSpec
from trainer.warm.adapter import Adapter, LinearShape, Siblings, choose_layers
from trainer.warm.batch import MicroBatch, Share, assemble
from trainer.warm.crew import Crew
from trainer.warm.frozen import Keeper
from trainer.warm.lora import Routing
from trainer.warm.loss import Head, cross_entropy
from trainer.warm.narrow import LastFeedForward
from trainer.warm.parts import over_ranks

log = logging.getLogger(__name__)


@dataclass(slots=True)
class BaseModel:
    """A causal language model as the trainer uses it."""

    card: BaseModelCard
    tokenizer: Any
    decoder: nn.Module
    head: Head
    linears: dict[str, LinearShape]
    siblings: tuple[Siblings, ...]
    routing: Routing
    last: LastFeedForward
    #: Tokens at which an engine stops generating.
    stop_tokens: frozenset[int]
    device: torch.device
    dtype: torch.dtype
    #: Of the linear layers' weights.
    keeper: Keeper
    #: The processes that hold it together.
    crew: Crew
    #: Whether layers are computed twice; see `checkpoint_layers`.
    checkpointing: bool = False

    @property
    def quantization(self) -> str | None:
        """How weights are held where it is not how they are served."""
        return self.keeper.quantization

    def as_served(self) -> AbstractContextManager[None]:
        """Inside, the model computes what an engine computes, from weights that are not quantised."""
        return self.keeper.as_served()

    @property
    def loss_dtype(self) -> torch.dtype:
        """Losses are summed in float32 at least."""
        return torch.promote_types(self.dtype, torch.float32)

    def new_adapter(self, spec: LoraSpec, seed: int) -> Adapter:
        """An adapter that starts as the base model. Raises NotServable for targets that do not exist."""
        return Adapter(
            choose_layers(spec.target_modules, self.linears),
            spec,
            seed=seed,
            device=self.device,
            dtype=self.dtype,
            siblings=self.siblings,
        )

    def assemble(self, shares: Sequence[Share]) -> MicroBatch:
        """The shares as one micro-batch on the model's device."""
        return assemble(shares, self.device, self.loss_dtype)

    def hidden(self, batch: MicroBatch) -> Tensor:
        """Hidden states of all tokens [T, D], each job's tokens through its own adapter."""
        with self.routing.to(batch.segments, batch.tokens_T.numel()):
            # Without use_cache=False the default cache makes transformers forget that rows are packed.
            output = self.decoder(
                input_ids=batch.tokens_T[None],
                position_ids=batch.positions_T[None],
                use_cache=False,
                graft_packing=batch.packing,
            )
        return output.last_hidden_state[0]

    def losses(self, batch: MicroBatch) -> tuple[Tensor, Tensor]:
        """Something to differentiate, and what there is to tell of each target token [2, N]; see `cross_entropy`."""
        return cross_entropy(self.predicting(batch), self.head, batch.wanted)

    def predicting(self, batch: MicroBatch) -> Tensor:
        """Hidden states of the tokens whose next one is a target [N, D]."""
        with self.computing(batch):
            return self.hidden(batch).index_select(0, batch.predicts_N)

    @contextmanager
    def computing(self, batch: MicroBatch) -> Iterator[None]:
        """Around forward and backward: checkpointed layers are computed again in the backward pass."""
        segments = self.routing.to(batch.segments, batch.tokens_T.numel())
        with segments, self.last.only(batch.narrow):
            yield

    def train(self, shares: Sequence[Share], room: int | None = None) -> Tensor:
        """Forward and backward: adds to each adapter's gradient.

        Returns:
            Each target token's loss, and 1 where it is the likeliest token [2, N].

        With several ranks, each adds the gradient of its own samples (at most `room` tokens in a pass, or one sample),
        and all know all that is returned.
        """
        return over_ranks(self.crew, shares, room, self._train, backward=True)

    def look(self, shares: Sequence[Share], room: int | None = None) -> Tensor:
        """What `train` returns, without gradient."""
        return over_ranks(self.crew, shares, room, self._look, backward=False)

    def _train(self, shares: Sequence[Share]) -> Tensor:
        batch = self.assemble(shares)
        with self.computing(batch):
            total, told_2N = self.losses(batch)
            total.backward()
        return told_2N

    def _look(self, shares: Sequence[Share]) -> Tensor:
        with torch.no_grad():
            return self.losses(self.assemble(shares))[1]

    def checkpoint_layers(self, *, on: bool) -> None:
        """Gradient checkpointing (Chen et al., arXiv:1604.06174).

        Of each decoder layer only the input is kept for the backward pass, the rest computed again: a fraction of the
        memory for a third more work. The gradients are the same.
        """
        if on == self.checkpointing:
            return
        self.checkpointing = on
        for layer in self.decoder.modules():
            if isinstance(layer, GradientCheckpointingLayer):
                layer.__dict__.pop("forward", None)
                if on:
                    # Not by transformers' flag, which asks for `layer.training` and would wake a layer's own dropout.
                    layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
