"""QLoRA: trained on a base in four bits, published for the base as it is, and measured there."""

import builtins
import math
import warnings
from itertools import count
from pathlib import Path

import pytest
import torch

from adapters.errors import InvalidValue
from adapters.manifest import dump_base_card
from adapters.spec import (
    Dpo,
    LoraSpec,
    OptimizerSpec,
)
from tests.integration.training.tiny import (
    gradients,
    load_tiny,
    make_base,
    make_job,
    make_loop,
    make_spec,
    of_kind,
    peft_loss,
    random_rows,
    randomise,
    run_to_end,
    share_of,
)
from trainer.messages import Checkpointed, Evaluated, Failed, Finished
from trainer.warm import checkpoint
from trainer.warm.frozen import BLOCK, InNf4
from trainer.warm.lora import LinearGroup
from trainer.warm.model import BaseModel, Held, UnsupportedBaseModel, adopt, load
from trainer.warm.probe import PROBES
from trainer.warm.rows import Sample

CPU = torch.device("cpu")


def quantise(directory: Path, dtype: torch.dtype = torch.float32) -> BaseModel:
    plain = make_base(directory)
    keeper = InNf4(directory, CPU, dtype)
    return adopt(load_tiny(directory, dtype), plain.tokenizer, plain.card, Held(keeper))


@pytest.fixture(scope="module")
def nf4(model_dir) -> BaseModel:
    return quantise(model_dir)


@pytest.fixture(autouse=True)
def _serves_nobody(nf4):
    """No pass leaves the original weights in use."""
    yield
    assert not nf4.keeper._originals.in_use


def groups(base: BaseModel) -> list[LinearGroup]:
    return [module for module in base.decoder.modules() if isinstance(module, LinearGroup)]


def model_of_dequantised_weights(nf4: BaseModel, directory: Path):
    model = load_tiny(directory)
    with torch.no_grad():
        for group in groups(nf4):
            parts = group.frozen.dense().split(group.widths)
            for name, weight_OI in zip(group.names, parts, strict=True):
                model.get_submodule(name).weight.copy_(weight_OI)
    return model


def rounded_by_hand(dense: torch.Tensor) -> torch.Tensor:
    """NF4 after the paper: the nearest of its 16 levels, times the block's largest magnitude, not rounded here."""
    levels = torch.tensor(
        [
            *(-1.0, -0.6961928, -0.5250731, -0.3949175, -0.2844414, -0.1847734, -0.0910500, 0.0),
            *(0.0795803, 0.1609302, 0.2461123, 0.3379152, 0.4407098, 0.5626170, 0.7229568, 1.0),
        ]
    )
    blocks = dense.reshape(-1, BLOCK)
    scale = blocks.abs().amax(1, keepdim=True)
    nearest = (blocks[..., None] / scale[..., None] - levels).abs().argmin(-1)
    return (levels[nearest] * scale).view_as(dense)


def test_weights_are_the_papers_nf4_up_to_the_rounding_of_scales(nf4):
    for group in groups(nf4):
        with nf4.as_served():
            weight_OI = group.frozen.dense()
        held_OI, expected_OI = group.frozen.dense(), rounded_by_hand(weight_OI)
        assert (held_OI - weight_OI).norm() > 0.05 * weight_OI.norm(), "nothing was quantised"
        assert (held_OI - expected_OI).norm() < 0.01 * weight_OI.norm()


def test_gradients_are_those_of_lora_on_the_dequantised_weights(nf4, model_dir):
    plain = adopt(model_of_dequantised_weights(nf4, model_dir), nf4.tokenizer, nf4.card)
    rows, found = random_rows(6, seed=1), {}
    for base in (nf4, plain):
        adapter = base.new_adapter(LoraSpec(rank=4, alpha=8.0), seed=1)
        randomise(adapter)
        losses_N, _ = base.train([share_of(rows, adapter, step_size=100.0)])
        found[base.quantization] = losses_N, gradients(adapter)
    torch.testing.assert_close(found["nf4"][0], found[None][0], rtol=0, atol=1e-6)
    for name, both in found[None][1].items():
        for mine, expected in zip(found["nf4"][1][name], both, strict=True):
            assert expected.norm() > 0
            torch.testing.assert_close(mine, expected, rtol=0, atol=1e-6)


def test_nothing_dense_is_kept_for_the_backward_pass(nf4):
    adapter = nf4.new_adapter(LoraSpec(rank=4, alpha=8.0), seed=1)
    batch = nf4.assemble([share_of(random_rows(2, seed=1, longest=7), adapter)])
    saved: list[torch.Size] = []
    with (
        nf4.routing.to(batch.segments, batch.tokens_T.numel()),
        torch.autograd.graph.saved_tensors_hooks(
            lambda tensor: saved.append(tensor.shape) or tensor, lambda tensor: tensor
        ),
    ):
        nf4.losses(batch)
    dense = {group.frozen.dense().shape for group in groups(nf4)}
    assert saved
    assert not dense & set(saved)


@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 0.3), (torch.bfloat16, 0.6)])
def test_held_weights_take_a_fraction_of_the_memory(model_dir, dtype, most):
    base, plain = quantise(model_dir, dtype), make_base(model_dir, dtype)
    held = sum(group.frozen.held_bytes for group in groups(base))
    assert held < most * sum(group.frozen.held_bytes for group in groups(plain))
    weights = sum(group.frozen.dense().numel() for group in groups(base))
    assert 4 < 8 * held / weights < 4.2, "with float32 scales it would be 4.5"
    inside = {name for name, _ in base.decoder.named_parameters()}
    assert not [name for name in inside if "proj" in name], "the dense weights are still there"
    assert all(group.frozen.dense().dtype == dtype for group in groups(base))


def test_as_served_the_model_is_the_unquantised_one(nf4, base):
    rows = random_rows(4, seed=3)
    quantised_N, _ = nf4.look([share_of(rows)])
    with nf4.as_served():
        served_N, _ = nf4.look([share_of(rows)])
    expected_N, _ = base.look([share_of(rows)])
    torch.testing.assert_close(served_N, expected_N, rtol=0, atol=1e-6)
    assert (quantised_N - expected_N).abs().max() > 1e-2
    assert torch.equal(nf4.look([share_of(rows)])[0], quantised_N)


def finish_a_job(base: BaseModel, work_dir: Path, **changes):
    job = make_job(
        base,
        make_spec(optimizer=OptimizerSpec(learning_rate=1e-2), **changes),
        work_dir,
        train=random_rows(12, seed=1),
        valid=random_rows(6, seed=2),
    )
    loop, reports = make_loop(base, job, budget=100)
    run_to_end(loop)
    (finished,) = of_kind(reports, Finished)
    return job, finished, reports


def load_peft(directory: Path, adapter_dir: Path):
    from peft import PeftModel

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return PeftModel.from_pretrained(load_tiny(directory), adapter_dir)


def test_the_published_adapter_has_the_reported_loss_on_the_unquantised_base(
    nf4, model_dir, tmp_path
):
    job, finished, reports = finish_a_job(nf4, tmp_path)
    result = finished.manifest.result
    held_out = [row for sample in job.dataset.valid for row in sample.rows]
    peft = load_peft(model_dir, finished.adapter_dir)
    with torch.no_grad():
        served = float(peft_loss(peft, held_out))
        alone = float(peft_loss(load_tiny(model_dir), held_out))
    assert result.quantization == "nf4"
    assert result.served_valid_loss == pytest.approx(served, abs=1e-5)
    assert result.published_valid_loss == result.served_valid_loss
    assert result.base_valid_loss == pytest.approx(alone, abs=1e-5)
    assert result.valid_loss == min(one.valid_loss for one in of_kind(reports, Evaluated))
    on_nf4 = sum(float(nf4.look([share_of([row], job.adapter)])[0].sum()) for row in held_out)
    assert result.valid_loss == pytest.approx(
        on_nf4 / sum(row.targets for row in held_out), rel=1e-5
    )
    assert abs(result.valid_loss - result.served_valid_loss) > 1e-4, "the gap shows nothing"


def test_probes_are_what_the_unquantised_model_thinks(nf4, model_dir, tmp_path):
    _, finished, _ = finish_a_job(nf4, tmp_path)
    peft = load_peft(model_dir, finished.adapter_dir)
    assert len(finished.manifest.probes) == PROBES
    for probe in finished.manifest.probes:
        reply = probe.token_ids[probe.reply_start :]

        def logprobs(probe=probe, reply=reply):
            with torch.no_grad():
                logits_TV = peft(torch.tensor([probe.token_ids]), use_cache=False).logits[0]
            rows_NV = logits_TV.log_softmax(-1)[probe.reply_start - 1 : -1]
            return rows_NV.gather(1, torch.tensor(reply)[:, None])[:, 0].tolist()

        assert probe.adapter_logprobs == pytest.approx(logprobs(), abs=1e-4)
        with peft.disable_adapter():
            assert probe.base_logprobs == pytest.approx(logprobs(), abs=1e-4)


def test_two_jobs_side_by_side_are_as_each_alone(nf4, tmp_path):
    def job(at, work_dir):
        spec = make_spec(lora=LoraSpec(rank=2 + 2 * at, alpha=4.0), batch_size=3 + at, seed=at)
        train, valid = random_rows(8 + at, seed=at), random_rows(3, seed=9)
        return make_job(nf4, spec, work_dir, train=train, valid=valid, job_id=f"ftjob-{at}")

    together = [job(at, tmp_path / "together") for at in range(2)]
    loop, reports = make_loop(nf4, *together, budget=100)
    run_to_end(loop)
    results = {one.job_id: one.manifest.result for one in of_kind(reports, Finished)}
    assert len(results) == 2
    for at in range(2):
        alone = job(at, tmp_path / "alone")
        loop, reports = make_loop(nf4, alone, budget=100)
        run_to_end(loop)
        (finished,) = of_kind(reports, Finished)
        torch.testing.assert_close(
            together[at].adapter.weights_P, alone.adapter.weights_P, rtol=0, atol=1e-5
        )
        served = results[finished.job_id].served_valid_loss
        assert finished.manifest.result.served_valid_loss == pytest.approx(served, abs=1e-5)


def test_an_evaluation_as_served_lets_others_train_on_what_is_quantised(nf4, tmp_path):
    ending = make_job(
        nf4, make_spec(), tmp_path, train=random_rows(4, seed=1), valid=random_rows(12, seed=2)
    )
    other = make_job(
        nf4, make_spec(n_epochs=15), tmp_path, train=random_rows(8, seed=3), job_id="other"
    )
    loop, reports = make_loop(nf4, ending, other, budget=60)
    while ending.evaluation is None or not ending.evaluation.served:
        loop.turn()
    before = other.state.tokens_seen + other.state.step
    while not of_kind(reports, Finished):
        loop.turn()
    assert other.state.tokens_seen + other.state.step > before
    run_to_end(loop)
    alone = make_job(nf4, make_spec(n_epochs=15), tmp_path / "b", train=random_rows(8, seed=3))
    run_to_end(make_loop(nf4, alone, budget=60)[0])
    torch.testing.assert_close(other.adapter.weights_P, alone.adapter.weights_P, rtol=0, atol=1e-4)


def test_preferences_are_measured_against_the_served_base_too(nf4, base, tmp_path):
    rows = random_rows(24, seed=4)
    pairs = [Sample((rows[at], rows[at + 1])) for at in range(0, 24, 2)]
    spec = make_spec(method=Dpo(beta=0.5), optimizer=OptimizerSpec(learning_rate=3e-3))
    job = make_job(nf4, spec, tmp_path, train=pairs[:8], valid=pairs[8:])
    loop, reports = make_loop(nf4, job, budget=100)
    run_to_end(loop)
    result = of_kind(reports, Finished)[0].manifest.result
    adapter = base.new_adapter(spec.lora, spec.seed)
    adapter.load(job.adapter.weights_P)
    losses, ahead = [], []
    for pair in pairs[8:]:
        gains = [
            float(
                base.look([share_of([row], None)])[0].sum()
                - base.look([share_of([row], adapter)])[0].sum()
            )
            for row in pair.rows
        ]
        losses.append(math.log1p(math.exp(-0.5 * (gains[0] - gains[1]))))
        ahead.append(gains[0] > gains[1])
    assert result.served_valid_loss == pytest.approx(sum(losses) / 4, abs=1e-5)
    assert result.reward_accuracy == sum(ahead) / 4
    assert result.base_valid_loss == math.log(2)
    assert result.valid_loss != pytest.approx(result.served_valid_loss, abs=1e-5)


def test_a_job_with_nothing_held_out_is_published_without_a_gap(nf4, tmp_path):
    job = make_job(nf4, make_spec(), tmp_path, train=random_rows(4, seed=1))
    loop, reports = make_loop(nf4, job)
    run_to_end(loop)
    result = of_kind(reports, Finished)[0].manifest.result
    assert (result.quantization, result.valid_loss, result.served_valid_loss) == ("nf4", None, None)


def test_a_resumed_job_ends_bit_for_bit_as_one_that_never_stopped(nf4, model_dir, tmp_path):
    def fresh(name, base):
        spec = make_spec(lora=LoraSpec(rank=4, alpha=8.0, dropout=0.1), n_epochs=3)
        train, valid = random_rows(9, seed=1), random_rows(4, seed=2)
        return make_job(base, spec, tmp_path / name, train=train, valid=valid)

    through = fresh("through", nf4)
    loop, reports = make_loop(nf4, through, budget=80)
    run_to_end(loop)
    expected = of_kind(reports, Finished)[0].manifest

    stopped = fresh("stopped", nf4)
    loop, _ = make_loop(nf4, stopped, budget=80)
    while stopped.state.step < 5:
        loop.turn()
    loop.checkpoint_all()

    elsewhere = quantise(model_dir)  # as another process would
    resumed = fresh("stopped", elsewhere)
    assert checkpoint.resume(resumed) == 5
    loop, reports = make_loop(elsewhere, resumed, budget=80)
    run_to_end(loop)
    found = of_kind(reports, Finished)[0].manifest
    assert torch.equal(resumed.adapter.weights_P, through.adapter.weights_P)
    assert found.result.served_valid_loss == expected.result.served_valid_loss
    assert found.probes == expected.probes


def test_a_job_that_was_being_measured_as_served_trains_no_step_twice(nf4, tmp_path):
    def fresh():
        train, valid = random_rows(4, seed=1), random_rows(8, seed=2)
        return make_job(nf4, make_spec(), tmp_path, train=train, valid=valid)

    job = fresh()
    loop, reports = make_loop(nf4, job, budget=60)
    while job.evaluation is None or not job.evaluation.served:
        loop.turn()
    assert of_kind(reports, Checkpointed)[-1].step == job.total_steps
    again = fresh()
    assert checkpoint.resume(again) == again.total_steps
    loop, reports = make_loop(nf4, again, budget=60)
    run_to_end(loop)
    (finished,) = of_kind(reports, Finished)
    assert finished.manifest.result.served_valid_loss is not None
    assert again.state.tokens_seen == job.state.tokens_seen


def test_an_adapter_that_is_no_number_when_served_is_not_published(nf4, tmp_path, monkeypatch):
    job = make_job(
        nf4, make_spec(), tmp_path, train=random_rows(4, seed=1), valid=random_rows(2, seed=2)
    )
    loop, reports = make_loop(nf4, job)
    honest = nf4.keeper._originals.read
    while job.evaluation is None or not job.evaluation.served:
        loop.turn()
    monkeypatch.setattr(nf4.keeper._originals, "read", lambda names: honest(names) * math.nan)
    run_to_end(loop)
    assert not of_kind(reports, Finished)
    assert [one.code for one in of_kind(reports, Failed)] == ["not_servable"]


def prepared(nf4: BaseModel, model_dir: Path, tmp_path: Path) -> Path:
    directory = tmp_path / "prepared"
    directory.mkdir()
    for file in model_dir.iterdir():
        (directory / file.name).write_bytes(file.read_bytes())
    (directory / "graft-base.json").write_text(dump_base_card(nf4.card))
    return directory


def test_a_prepared_model_is_quantised_when_it_is_loaded(nf4, model_dir, tmp_path):
    directory = prepared(nf4, model_dir, tmp_path)
    assert load(directory, CPU, torch.float32).quantization is None
    base = load(directory, CPU, torch.bfloat16, "nf4")
    assert base.quantization == "nf4"
    assert base.dtype == torch.bfloat16


def test_the_proof_is_made_with_the_weights_that_are_served(model_dir, monkeypatch):
    """A base whose originals are not its own would be measured as something that no engine serves."""
    plain, keeper = make_base(model_dir), InNf4(model_dir, CPU, torch.float32)
    honest, calls = keeper._originals.read, count()
    keeping = len(groups(plain))
    monkeypatch.setattr(
        keeper._originals,
        "read",
        lambda names: honest(names) if next(calls) < keeping else honest(names).flip(0),
    )
    with pytest.raises(UnsupportedBaseModel, match="other logits"):
        adopt(load_tiny(model_dir), plain.tokenizer, plain.card, Held(keeper))


def test_weights_that_the_files_hold_otherwise_are_refused(model_dir):
    plain, model = make_base(model_dir), load_tiny(model_dir)
    with torch.no_grad():
        model.get_submodule("model.layers.1.mlp.down_proj").weight[0, 0] += 1e-3
    with pytest.raises(InvalidValue, match=r"layers\.1\.mlp\.down_proj under that name"):
        adopt(model, plain.tokenizer, plain.card, Held(InNf4(model_dir, CPU, torch.float32)))


def test_without_bitsandbytes_the_error_says_what_to_install(model_dir, monkeypatch):
    honest = builtins.__import__

    def absent(name, *arguments, **more):
        if name == "bitsandbytes":
            raise ModuleNotFoundError(f"No module named '{name}'")
        return honest(name, *arguments, **more)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(InvalidValue, match="pip install bitsandbytes") as raised:
        InNf4(model_dir, CPU, torch.float32)
    assert raised.value.param == "trainer.quantization"
