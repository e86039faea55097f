"""Attention with rotary positions, by a shorter way: queries and keys turned together, in fewer passes over memory.

transformers turns queries and keys one after the other, in five passes each, and autograd puts the gradients of
queries, keys and values together for the one product that made them all. Here they are turned in two passes, and their
gradients written where that product reads them. A module is taken over only if it is seen to compute the same; what it
tells its attention function (a scale, a window) is overheard meanwhile, and told again in each pass.

On CPUs and in float32 only: nothing was measured elsewhere.

Shapes: T tokens, H query heads, G key-value heads, D head size, O = (H + 2 G) D.
"""

import logging
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from trainer.warm.attention import Packing, overheard, packed_attention, pieces_of
from trainer.warm.lora import LinearGroup, LoraLinear, whole_group
from trainer.warm.shortcuts import LOUD, PROOF_TOKENS, agree, pays

log = logging.getLogger(__name__)

#: As transformers names the modules of such a part.
QKV, OUT = ("q_proj", "k_proj", "v_proj"), "o_proj"

#: Cosines and sines of each token's angles, each [1, T, D].
Angles: TypeAlias = tuple[Tensor, Tensor]


def take_rotary(decoder: nn.Module) -> int:
    """Take over what can be, in place, keeping every name. Returns how many parts that were.

    Call once linear layers are replaced (adopt.py) and attention is packed.
    """
    if not pays(decoder):
        return 0
    taken = 0
    for module in decoder.modules():
        found = RotaryAttention.of(module)
        shortcut = None if found is None else _proven(found)
        if shortcut is not None:
            # Not a module around it, which would change the names of what is inside.
            module.forward = shortcut
            taken += 1
    log.info("%d attention parts take the short way", taken)
    return taken


class Turn(torch.autograd.Function):
    """RoPE (Su et al., arXiv:2104.09864) as transformers has it: the first half of a head is turned with the second."""

    @staticmethod
    def forward(
        ctx: Any, qkv_TO: Tensor, cos_TD: Tensor, sin_TD: Tensor, heads: tuple[int, int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """[T, O] to [T, H, D], [T, G, D] and [T, G, D], of which the last is a view of what it was given."""
        queries, keys = heads
        all_THD = qkv_TO.unflatten(1, (queries + 2 * keys, -1))
        ctx.save_for_backward(cos_TD, sin_TD)
        turned_THD = torch.empty(
            len(qkv_TO), queries + keys, all_THD.shape[2], dtype=qkv_TO.dtype, device=qkv_TO.device
        )
        _turn(all_THD[:, : queries + keys], cos_TD, sin_TD, turned_THD)
        return turned_THD[:, :queries], turned_THD[:, queries:], all_THD[:, queries + keys :]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        """Turned back, all in one tensor [T, O]."""
        cos_TD, sin_TD = ctx.saved_tensors
        sizes = [grad.shape[1] for grad in grads]
        (tokens, _, size), total = grads[0].shape, sum(sizes)
        all_THD = torch.empty(tokens, total, size, dtype=cos_TD.dtype, device=cos_TD.device)
        *turned, values_TGD = all_THD.split(sizes, 1)
        for into, grad in zip(turned, grads[:2], strict=True):
            _turn(grad, cos_TD, sin_TD, into, back=True)
        values_TGD.copy_(grads[2])
        return all_THD.flatten(1), None, None, None


def _turn(
    x_THD: Tensor, cos_TD: Tensor, sin_TD: Tensor, into_THD: Tensor, *, back: bool = False
) -> None:
    """Write x cos + (-second half, first half) sin; or, `back`, what the transposed of this makes of x."""
    cos, sin = cos_TD[:, None].chunk(2, -1), sin_TD[:, None].chunk(2, -1)
    way = 1.0
    if back:
        sin, way = (sin[1], sin[0]), -1.0
    first, second = x_THD.chunk(2, -1)
    new_first, new_second = into_THD.chunk(2, -1)
    torch.mul(first, cos[0], out=new_first).addcmul_(second, sin[0], value=-way)
    torch.mul(second, cos[1], out=new_second).addcmul_(first, sin[1], value=way)


@dataclass(frozen=True, slots=True)
class RotaryAttention:
    """What is called instead of a module's `forward`."""

    module: nn.Module
    #: Of queries, keys and values.
    group: LinearGroup
    heads: tuple[int, int]
    out: nn.Module
    #: What the module tells its attention function in every pass.
    options: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, module: Any) -> "RotaryAttention | None":
        """None for a module that is put together in another way."""
        group = whole_group(*(getattr(module, name, None) for name in QKV))
        out = getattr(module, OUT, None)
        size = getattr(module, "head_dim", None)
        if group is None or not isinstance(out, LoraLinear) or not isinstance(size, int):
            return None
        queries, keys = group.widths[0] // size, group.widths[1] // size
        if group.widths != [queries * size, keys * size, keys * size]:
            return None
        return cls(module, group, (queries, keys), out)

    def turned(self, hidden_states: Tensor, angles: Angles) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values as attention functions want them: [1, H, T, D] and twice [1, G, T, D]."""
        cos_1TD, sin_1TD = angles
        qkv = Turn.apply(self.group(hidden_states)[0], cos_1TD[0], sin_1TD[0], self.heads)
        query, key, value = (one_THD.transpose(0, 1)[None] for one_THD in qkv)
        return query, key, value

    def __call__(
        self,
        hidden_states: Tensor,
        position_embeddings: Angles,
        attention_mask: Tensor | None = None,
        **told: Any,
    ) -> tuple[Tensor, None]:
        """As `LlamaAttention.forward`, for one flat sequence [1, T, I]; never asked to remember keys."""
        query, key, value = self.turned(hidden_states, position_embeddings)
        options = {**self.options, **told}
        attended_1THD, _ = packed_attention(
            self.module, query, key, value, attention_mask, **options
        )
        return self.out(attended_1THD.flatten(2)), None


def _proven(attention: RotaryAttention) -> RotaryAttention | None:
    """With what the module tells its attention function, if both make the same of something random.

    And of something loud: some modules clamp what they have projected, which something quiet does not show.
    """
    chance = torch.Generator().manual_seed(0)
    group, size = attention.group, attention.group.widths[0] // attention.heads[0]
    x_1TI = torch.randn(1, PROOF_TOKENS, group.inputs, generator=chance)
    cos_1TD, sin_1TD = torch.randn(2, 1, PROOF_TOKENS, size, generator=chance)
    angles, states = (cos_1TD, sin_1TD), (x_1TI, LOUD * x_1TI)
    told = {"graft_packing": Packing.of(pieces_of([PROOF_TOKENS]), x_1TI.device)}
    with torch.no_grad(), overheard() as heard:
        try:
            own = [attention.module(x, angles, attention_mask=None, **told)[0] for x in states]
        except (TypeError, ValueError, RuntimeError, AttributeError, LookupError):
            return None  # it wants something else, or turns in another way
        if len(heard) != len(states):
            return None
        for x, one in zip(states, heard, strict=True):
            turned = attention.turned(x, angles)
            if not all(map(agree, one.query_key_value, turned)):
                return None
        options = {name: option for name, option in heard[0].options.items() if name not in told}
        attention = replace(attention, options=options)
        return attention if agree(own[0], attention(x_1TI, angles, **told)[0]) else None
