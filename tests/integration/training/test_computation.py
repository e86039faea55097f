"""The packed computation is the model's own, and its gradients are autograd's."""

from dataclasses import replace

import pytest
import torch

from adapters.spec import LoraSpec
from tests.integration.training.tiny import (
    as_peft,
    gradients,
    load_tiny,
    make_job,
    make_spec,
    peft_factors,
    peft_loss,
    random_rows,
    randomise,
    share_of,
)
from trainer.warm import attention
from trainer.warm.adapter import Adapter
from trainer.warm.attention import (
    Packing,
    Piece,
    group_by_length,
    packed_attention,
    pieces_of,
)
from trainer.warm.batch import assemble, by_share
from trainer.warm.frozen import AsTheyAre
from trainer.warm.lora import LinearGroup, Routing
from trainer.warm.loss import Head, Wanted, cross_entropy
from trainer.warm.plan import Segment
from trainer.warm.rows import Row


def logits_of(base, rows, adapter=None):
    with torch.no_grad():
        return base.head.logits(base.hidden(base.assemble([share_of(rows, adapter)])))


def separate_logits(model, rows):
    """Of what is laid down of each row, by the model itself."""
    logits = [model(row.tokens_T[None], use_cache=False).logits[0] for row in rows]
    return torch.cat([own_TV[: row.read] for own_TV, row in zip(logits, rows, strict=True)])


def test_packed_rows_give_the_logits_of_separate_sequences(base64, model_dir):
    rows = random_rows(7, seed=1)
    model = load_tiny(model_dir, torch.float64)
    separate_TV = separate_logits(model, rows)
    torch.testing.assert_close(logits_of(base64, rows), separate_TV, rtol=0, atol=1e-9)


def test_uneven_rows_are_padded_in_groups_and_still_equal(base64, model_dir):
    rows = (
        *random_rows(3, seed=1, shortest=4, longest=8),
        *random_rows(2, seed=2, shortest=60, longest=80),
        *random_rows(2, seed=3, shortest=9, longest=12),
    )
    packing = Packing.of(pieces_of([len(row) for row in rows]), torch.device("cpu"))
    assert 1 < len(packing.groups) < len(rows)
    model = load_tiny(model_dir, torch.float64)
    separate_TV = separate_logits(model, rows)
    torch.testing.assert_close(logits_of(base64, rows), separate_TV, rtol=0, atol=1e-9)


def test_adjacent_rows_share_a_call_where_padding_costs_less_than_another():
    lengths = [2000, 1990, 900, 30, 20, 25, 30, 30]
    groups = group_by_length(pieces_of(lengths))
    assert [[piece.length for piece in group] for group in groups] == [
        [2000],
        [1990],
        [900],
        [30, 20, 25, 30, 30],
    ]


@pytest.mark.parametrize("window", [None, 5])
def test_attention_of_short_pieces_is_that_of_long_ones(monkeypatch, window):
    """Values and gradients, with query heads that share a key head, padding, stems and windows."""
    pieces = [Piece(0, 9), Piece(9, 16, 0, 9), Piece(16, 21, 0, 9), Piece(21, 33), Piece(33, 36)]
    generator = torch.Generator().manual_seed(1)

    def attend():
        packing = Packing.of(pieces, torch.device("cpu"))
        qkv = [
            torch.randn(1, heads, 36, 4, generator=generator, dtype=torch.float64).requires_grad_()
            for heads in (6, 2, 2)
        ]
        out_1THD, _ = packed_attention(
            torch.nn.Module(), *qkv, None, graft_packing=packing, sliding_window=window, scaling=0.3
        )
        weights = torch.randn(out_1THD.shape, generator=generator, dtype=torch.float64)
        return out_1THD, *torch.autograd.grad((out_1THD * weights).sum(), qkv)

    short = attend()
    monkeypatch.setattr(attention, "PAIRS_OF_A_SHORT_PIECE", 0)
    generator.manual_seed(1)
    for ours, reference in zip(short, attend(), strict=True):
        torch.testing.assert_close(ours, reference, rtol=0, atol=1e-12)


def test_rows_attend_across_each_other_with_a_cache_which_is_why_there_is_none(model_dir):
    """The trap of transformers that BaseModel.hidden avoids: should it vanish, so may our care."""
    rows = random_rows(3, seed=3)
    model = load_tiny(model_dir, torch.float64)
    tokens_1T = torch.cat([row.tokens_T for row in rows])[None]
    positions_1T = torch.cat([torch.arange(len(row)) for row in rows])[None]
    with torch.no_grad():
        leaking = model(tokens_1T, position_ids=positions_1T).logits[0]
        honest = torch.cat([model(row.tokens_T[None]).logits[0] for row in rows])
    assert (leaking - honest).norm() > 0.01 * honest.norm()


def test_no_cache_object_reaches_the_model(base):
    seen = []
    hook = base.decoder.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["use_cache"]), with_kwargs=True
    )
    try:
        output = base.hidden(base.assemble([share_of(random_rows(2, seed=1))]))
    finally:
        hook.remove()
    assert seen == [False]
    assert output.shape[1] == 64


def test_attention_refuses_to_guess_boundaries():
    with pytest.raises(TypeError, match="row boundaries"):
        packed_attention(torch.nn.Module(), *[torch.zeros(1, 1, 2, 4)] * 3, None)


def test_sliding_windows_hide_what_is_too_far_away():
    packing = Packing.of(pieces_of([6, 4]), torch.device("cpu"))
    query, key, value = torch.randn(3, 1, 2, 10, 4, dtype=torch.float64)
    out, _ = packed_attention(
        torch.nn.Module(), query, key, value, None, graft_packing=packing, sliding_window=3
    )
    scores = query @ key.transpose(-1, -2) / 2
    row = torch.tensor([0] * 6 + [1] * 4)
    distance = torch.arange(10)[:, None] - torch.arange(10)[None]
    visible = (row[:, None] == row[None]) & (distance >= 0) & (distance < 3)
    expected = scores.masked_fill(~visible, -torch.inf).softmax(-1) @ value
    torch.testing.assert_close(out, expected.transpose(1, 2))


@pytest.mark.parametrize("targets", ["all-linear", ("q_proj", "down_proj")])
def test_loss_and_gradients_equal_peft_and_autograd(base64, model_dir, tmp_path, targets):
    rows = random_rows(5, seed=4)
    spec = make_spec(lora=LoraSpec(rank=3, alpha=7.0, target_modules=targets))
    job = make_job(base64, spec, tmp_path, train=rows)
    randomise(job.adapter)
    peft = as_peft(load_tiny(model_dir, torch.float64), job.adapter)
    expected = peft_loss(peft, rows)
    expected.backward()

    targets = sum(row.targets for row in rows)
    batch = base64.assemble([share_of(rows, job.adapter, targets)])
    total, (losses_N, _) = base64.losses(batch)
    total.backward()

    assert float(total.detach()) == pytest.approx(float(expected.detach()), abs=1e-12)
    assert float(losses_N.sum() / targets) == pytest.approx(float(expected.detach()), abs=1e-12)
    factors = peft_factors(peft)
    assert len(factors) == 2 * len(job.adapter.shapes)
    for name, (grad_a_RI, grad_b_OR) in gradients(job.adapter).items():
        torch.testing.assert_close(grad_a_RI, factors[f"{name}.lora_A"].grad, rtol=0, atol=1e-9)
        torch.testing.assert_close(grad_b_OR, factors[f"{name}.lora_B"].grad, rtol=0, atol=1e-9)


def test_frozen_weights_get_no_gradient(base, tmp_path):
    rows = random_rows(2, seed=4)
    job = make_job(base, make_spec(), tmp_path, train=rows)
    base.train([share_of(rows, job.adapter)])
    assert job.adapter.gradient_P.norm() > 0
    assert all(parameter.grad is None for parameter in base.decoder.parameters())


def test_a_layer_with_two_jobs_and_dropout_equals_autograd():
    torch.manual_seed(0)
    plain = torch.nn.Linear(6, 5).double()
    specs = [LoraSpec(rank=2, alpha=4.0, dropout=0.3), LoraSpec(rank=3, alpha=1.0)]
    cpu = torch.device("cpu")
    adapters = [
        Adapter({"it": (5, 6)}, spec, seed=at, device=cpu, dtype=torch.float64)
        for at, spec in enumerate(specs)
    ]
    for adapter in adapters:
        randomise(adapter)
    segments = (Segment(0, 4, adapters[0], ((0, 4, 9),)), Segment(4, 7, adapters[1], ((4, 7, 9),)))
    routing = Routing()
    layer = LinearGroup(("it",), [plain], routing, AsTheyAre())
    x_TI = torch.randn(8, 6, dtype=torch.float64, requires_grad=True)
    dy_TO = torch.randn(8, 5, dtype=torch.float64)
    with routing.to(segments, 8):
        y_TO = layer(x_TI)
        y_TO.backward(dy_TO)
        (kept_NI,) = routing.plan.parts[0].block(("it",), x_TI).kept_NI
    ours, x_TI.grad = x_TI.grad, None

    assert kept_NI.unique().numel() == 2
    expected_TO = plain(x_TI)
    factors = []
    for (start, stop), adapter, kept in [
        ((0, 4), adapters[0], kept_NI),
        ((4, 7), adapters[1], 1.0),
    ]:
        a_RI, b_OR = (t.clone().requires_grad_() for t in adapter.views()["it"])
        factors.append((a_RI, b_OR))
        own = adapter.scale * (x_TI[start:stop] * kept) @ a_RI.t() @ b_OR.t()
        expected_TO = expected_TO + torch.nn.functional.pad(own, (0, 0, start, 8 - stop))
    expected_TO.backward(dy_TO)
    torch.testing.assert_close(y_TO, expected_TO)
    torch.testing.assert_close(ours, x_TI.grad)
    for adapter, (a_RI, b_OR) in zip(adapters, factors, strict=True):
        grad_a_RI, grad_b_OR = gradients(adapter)["it"]
        torch.testing.assert_close(grad_a_RI, a_RI.grad)
        torch.testing.assert_close(grad_b_OR, b_OR.grad)


def test_dropout_of_a_row_does_not_depend_on_its_neighbours(base64, tmp_path):
    first, second = random_rows(2, seed=7)
    spec = make_spec(lora=LoraSpec(rank=2, alpha=4.0, dropout=0.5))
    job = make_job(base64, spec, tmp_path, train=(first, second))
    randomise(job.adapter)

    def losses(rows, seeds):
        share = replace(share_of(rows, job.adapter), seeds=seeds)
        return base64.losses(base64.assemble([share]))[1][0]

    by_itself = losses([second], (2,))
    both = losses([first, second], (1, 2))
    torch.testing.assert_close(both[first.targets :], by_itself, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    "head", [{}, {"scale": 0.25}, {"softcap": 3.0}, {"scale": 2.0, "softcap": 5.0}]
)
def test_chunked_cross_entropy_equals_the_plain_one(head, monkeypatch):
    monkeypatch.setattr("trainer.warm.loss.CHUNK_LOGITS", 7 * 50)
    torch.manual_seed(0)
    weight_VD = torch.randn(50, 8, dtype=torch.float64)
    hidden_ND = torch.randn(23, 8, dtype=torch.float64, requires_grad=True)
    targets_N, weights_N = torch.randint(50, (23,)), torch.rand(23, dtype=torch.float64)
    targets_N[::3] = (hidden_ND[::3] @ weight_VD.t()).argmax(-1)
    total, (losses_N, hits_N) = cross_entropy(
        hidden_ND, Head(weight_VD, **head), Wanted(targets_N, weights_N)
    )
    total.backward()
    ours, hidden_ND.grad = hidden_ND.grad, None

    logits_NV = hidden_ND @ weight_VD.t() * head.get("scale", 1.0)
    if "softcap" in head:
        logits_NV = head["softcap"] * torch.tanh(logits_NV / head["softcap"])
    plain_N = torch.nn.functional.cross_entropy(logits_NV, targets_N, reduction="none")
    (plain_N * weights_N).sum().backward()
    torch.testing.assert_close(losses_N, plain_N.detach())
    assert hits_N.tolist() == (logits_NV.argmax(-1) == targets_N).tolist()
    assert 0 < hits_N.sum() < 23
    torch.testing.assert_close(ours, hidden_ND.grad)


def test_a_batch_counts_targets_of_each_share_and_predicts_from_the_token_before():
    rows = random_rows(3, seed=8)
    shares = [share_of(rows[:1], step_size=2.0), share_of(rows[1:], step_size=4.0)]
    batch = assemble(shares, torch.device("cpu"), torch.float32)
    targets_N, weights_N = batch.wanted.targets_N, batch.wanted.weights_N
    parts = by_share(shares, weights_N)
    assert [len(part) for part in parts] == [rows[0].targets, rows[1].targets + rows[2].targets]
    read = [batch.tokens_T[at] for at in batch.predicts_N]
    expected = [row.tokens_T[at - 1] for row in rows for at in row.targets_at_N]
    assert read == expected
    assert targets_N.tolist() == [int(row.tokens_T[at]) for row in rows for at in row.targets_at_N]
    assert [part.unique().tolist() for part in parts] == [[0.5], [0.25]]
    starts = {0, rows[0].read, rows[0].read + rows[1].read}
    assert {at for at, position in enumerate(batch.positions_T.tolist()) if position == 0} == starts


def test_a_row_is_laid_down_as_far_as_its_last_target_follows_from_it():
    weights_T = torch.tensor([0.0, 0.0, 1.0, 0.0, 0.5, 0.0, 0.0])
    rows = [Row(torch.arange(10, 17), weights_T), Row(torch.arange(20, 23), torch.ones(3))]
    batch = assemble([share_of(rows)], torch.device("cpu"), torch.float32)
    assert batch.tokens_T.tolist() == [10, 11, 12, 13, 20, 21]
    assert batch.predicts_N.tolist() == [1, 3, 4, 5]
    assert batch.wanted.targets_N.tolist() == [12, 14, 21, 22]


def test_a_row_without_targets_is_laid_down_with_its_first_token():
    row = Row(torch.arange(10, 17), torch.zeros(7))
    batch = assemble([share_of([row, row])], torch.device("cpu"), torch.float32)
    assert batch.tokens_T.tolist() == [10, 10]
    assert batch.predicts_N.numel() == 0


def test_the_first_token_is_never_a_target():
    (row,) = random_rows(1, seed=8)
    everything = Row(row.tokens_T, torch.ones(len(row)))
    assert everything.targets == everything.weight == len(row) - 1
    batch = assemble([share_of([everything, everything])], torch.device("cpu"), torch.float32)
    assert len(batch.wanted.targets_N) == 2 * (len(row) - 1)
