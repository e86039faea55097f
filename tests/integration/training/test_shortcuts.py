"""Norms, feed-forward and attention parts that are taken over compute what transformers computes, forward and back."""

import pytest
import torch
from torch import nn
from torch.nn.functional import silu
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaRMSNorm

from adapters.spec import LoraSpec
from tests.integration.training.architectures import random_base
from tests.integration.training.runs import relative
from tests.integration.training.tiny import alone, random_rows, randomise
from trainer.warm import adopt
from trainer.warm.batch import Share
from trainer.warm.objective import CrossEntropy
from trainer.warm.rotary import RotaryAttention, Turn
from trainer.warm.shortcuts import RmsNorm, SwiGlu, take_shortcuts


def test_the_norms_gradient_is_autograds():
    x = torch.randn(2, 3, 8, dtype=torch.float64, requires_grad=True)
    weight_D = torch.randn(8, dtype=torch.float64)

    assert torch.autograd.gradcheck(lambda x: RmsNorm.apply(x, weight_D, 1e-5), (x,))


def test_the_gated_units_gradient_is_autograds():
    both = torch.randn(2, 3, 8, dtype=torch.float64, requires_grad=True)

    assert torch.autograd.gradcheck(SwiGlu.apply, (both,))
    gate, up = both.chunk(2, -1)
    assert torch.equal(SwiGlu.apply(both), silu(gate) * up)


def test_a_turns_gradient_is_autograds():
    qkv_TO = torch.randn(3, (2 + 1 + 1) * 4, dtype=torch.float64, requires_grad=True)
    # Angles that no model has: each number of its own, so that none can be taken for another.
    cos_TD, sin_TD = torch.randn(2, 3, 4, dtype=torch.float64)

    assert torch.autograd.gradcheck(
        lambda given: Turn.apply(given, cos_TD, sin_TD, (2, 1)), (qkv_TO,)
    )


def losses_and_gradient(base):
    adapter = base.new_adapter(LoraSpec(rank=3, alpha=6.0), 0)
    randomise(adapter, seed=0)
    rows = random_rows(3, seed=1)
    share = Share(alone(rows), adapter, CrossEntropy(), 10.0, range(len(rows)))
    batch = base.assemble([share])
    with base.computing(batch):
        total, told_2N = base.losses(batch)
        total.backward()
    return told_2N[0], adapter.gradient_P


#: Llama; one with biases; one whose tokens see three others only; one with norms of heads too; one with another gate
#: and norms that add 1; one that turns neighbours; one that clamps what it has projected, in place; one with nothing
#: of this.
ARCHITECTURES = {
    "llama": {},
    "qwen2": {"num_key_value_heads": 2},
    "mistral": {"num_key_value_heads": 2, "head_dim": 8, "sliding_window": 4},
    "qwen3": {"num_key_value_heads": 2, "head_dim": 8},
    "gemma": {"num_key_value_heads": 1, "head_dim": 8},
    "cohere": {"num_key_value_heads": 2},
    "olmo": {"clip_qkv": 0.5},
    "gpt_neox": {},
}
#: How many of their two attention parts are taken over.
ROTARY = {
    "llama": 2,
    "qwen2": 2,
    "mistral": 2,
    "qwen3": 0,
    "gemma": 2,
    "cohere": 0,
    "olmo": 0,
    "gpt_neox": 0,
}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_model_with_shortcuts_has_the_same_losses_and_gradients(architecture, monkeypatch):
    short_losses_N, short_P = losses_and_gradient(
        random_base(architecture, torch.float32, **ARCHITECTURES[architecture])
    )
    monkeypatch.setattr(adopt, "take_shortcuts", lambda decoder: 0)
    monkeypatch.setattr(adopt, "take_rotary", lambda decoder: 0)
    losses_N, gradient_P = losses_and_gradient(
        random_base(architecture, torch.float32, **ARCHITECTURES[architecture])
    )

    assert relative(short_losses_N, losses_N) < 1e-5
    assert relative(short_P, gradient_P) < 1e-5


def taken(model):
    return sum("forward" in module.__dict__ for module in model.modules())


def test_a_llama_takes_one_for_each_norm_feed_forward_and_attention_part():
    base = random_base("llama", torch.float32)
    layers = base.decoder.config.num_hidden_layers

    # The last feed-forward part has one more before it, which leaves the count what it is (narrow.py).
    assert taken(base.decoder) == 2 * layers + 1 + layers + layers


def rotary_parts(architecture, **changes):
    base = random_base(architecture, torch.float32, **changes)
    found = [one.__dict__.get("forward") for one in base.decoder.modules()]
    return sum(isinstance(one, RotaryAttention) for one in found)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_attention_is_taken_over_where_it_is_turned_as_a_llamas_is(architecture):
    assert rotary_parts(architecture, **ARCHITECTURES[architecture]) == ROTARY[architecture]


def test_attention_that_clamps_what_is_large_is_left_alone(monkeypatch):
    whole = LlamaAttention.forward

    def clamped(self, hidden_states, *others, **options):
        return whole(self, hidden_states.clamp(-100, 100), *others, **options)

    monkeypatch.setattr(LlamaAttention, "forward", clamped)
    assert rotary_parts("llama") == 0


def test_what_computes_something_else_under_a_known_name_is_left_alone():
    class LoudRMSNorm(LlamaRMSNorm):
        def forward(self, hidden_states):
            return super().forward(hidden_states) * 1.001

    decoder = nn.ModuleList([LoudRMSNorm(8), LlamaRMSNorm(8)])

    assert take_shortcuts(decoder) == 1
    assert taken(decoder[0]) == 0
    assert taken(decoder[1]) == 1


def test_another_dtype_is_left_alone():
    assert take_shortcuts(nn.ModuleList([LlamaRMSNorm(8).double()])) == 0
