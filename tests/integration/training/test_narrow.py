"""The last layer's feed-forward part sees the tokens that predict a target, and nothing else changes."""

from dataclasses import replace

import pytest
import torch

from adapters.spec import LoraSpec
from tests.integration.training.architectures import SMALL, random_base
from tests.integration.training.runs import relative
from tests.integration.training.tiny import alone, random_rows, randomise
from trainer.warm.batch import Share
from trainer.warm.lora import LoraLinear
from trainer.warm.narrow import Narrow
from trainer.warm.objective import CrossEntropy
from trainer.warm.rows import Row

HIDDEN = SMALL["hidden_size"]
ARCHITECTURES = {
    "llama": {},
    "gpt_neox": {},  # feeds forward beside attention, not behind it
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},  # has no part of a known name
}


def computed(base, jobs, *, narrowly, dropout=0.0):
    """Losses, gradients, and how many tokens are multiplied by the last weights of each layer."""
    shares = []
    for at, rows in enumerate(jobs):
        adapter = base.new_adapter(LoraSpec(rank=3 + at, alpha=6.0, dropout=dropout), at)
        randomise(adapter, seed=at)
        shares.append(Share(alone(rows), adapter, CrossEntropy(), 10.0, range(len(rows))))
    batch = base.assemble(shares)
    counted: list[int] = []
    linears = [one for one in base.decoder.modules() if isinstance(one, LoraLinear)]
    last = [one for one in linears if one.group.inputs > HIDDEN]
    hooks = [
        one.register_forward_pre_hook(lambda _, given: counted.append(given[0].shape[-2]))
        for one in last
    ]
    chosen = batch if narrowly else replace(batch, narrow=None)
    with base.computing(chosen):
        total, told_2N = base.losses(chosen)
        total.backward()
    for hook in hooks:
        hook.remove()
    return told_2N, [share.adapter.gradient_P for share in shares], counted, batch


def some_jobs():
    """Several rows, one row, and rows that begin alike and predict different tokens from the same one."""
    beginning_T = torch.arange(40, 80)
    alike = [
        Row(
            torch.cat([beginning_T, torch.tensor([100 + at, 7, 9])]), (torch.arange(43) >= 40) * 1.0
        )
        for at in range(3)
    ]
    return [random_rows(3, seed=1), random_rows(1, seed=2), alike]


@pytest.mark.parametrize("kind", list(ARCHITECTURES))
@pytest.mark.parametrize("checkpointing", [False, True])
def test_nothing_that_is_looked_at_changes(kind, checkpointing):
    base = random_base(kind, **ARCHITECTURES[kind])
    base.checkpoint_layers(on=checkpointing)
    told_2N, gradients, counted, batch = computed(base, some_jobs(), narrowly=True)
    whole_2N, expected, _, _ = computed(base, some_jobs(), narrowly=False)
    torch.testing.assert_close(told_2N, whole_2N, rtol=0, atol=1e-12)
    for ours, theirs in zip(gradients, expected, strict=True):
        assert theirs.norm() > 0
        assert relative(ours, theirs) < 1e-12
    tokens, narrow = batch.tokens_T.numel(), batch.narrow
    if kind != "opt":
        assert set(counted) == {tokens, narrow.at_M.numel()}
        assert counted[-1] == (tokens if checkpointing else narrow.at_M.numel())
    else:
        assert set(counted) == {tokens}


def test_dropout_is_drawn_for_whole_rows_so_all_of_them_are_computed():
    base = random_base("llama")
    _, _, counted, batch = computed(base, some_jobs(), narrowly=True, dropout=0.1)
    assert batch.narrow is None
    assert set(counted) == {batch.tokens_T.numel()}


def test_a_token_that_two_rows_predict_from_counts_once():
    narrow = Narrow.of(torch.tensor([4, 5, 4, 7]), (), 20)
    assert narrow.at_M.tolist() == [4, 5, 7]


@pytest.mark.parametrize("predicts", [[], list(range(19))])
def test_where_it_would_save_nothing_all_tokens_are_computed(predicts):
    assert Narrow.of(torch.tensor(predicts, dtype=torch.int64), (), 20) is None


def test_where_another_layer_would_be_meant_all_tokens_are_computed(monkeypatch):
    """Found out when a model is loaded."""
    monkeypatch.setattr("trainer.warm.narrow._find", lambda decoder: decoder.layers[0].mlp)
    base = random_base("llama")
    _, _, counted, batch = computed(base, some_jobs(), narrowly=True)
    assert batch.narrow is not None
    assert set(counted) == {batch.tokens_T.numel()}
