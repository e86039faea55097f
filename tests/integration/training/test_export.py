"""What is published: a directory that PEFT loads to the same logits, and a manifest that can be checked."""

import json
import warnings

import pytest
import torch
from safetensors.torch import load_file

from adapters.errors import NotServable
from adapters.peft.check import BaseNames, check_adapter
from adapters.spec import LoraSpec
from tests.integration.training.tiny import (
    load_tiny,
    make_job,
    make_loop,
    make_spec,
    of_kind,
    random_rows,
    randomise,
    run_to_end,
    share_of,
)
from trainer.messages import Finished
from trainer.warm.base import measure
from trainer.warm.export import export, read_into
from trainer.warm.finish import finished_before
from trainer.warm.probe import CONTEXT_TOKENS, PROBES, REPLY_TOKENS, Taught, take_probes
from trainer.warm.rows import Row


@pytest.mark.parametrize("targets", ["all-linear", ("v_proj", "gate_proj")])
def test_peft_loads_the_directory_and_gives_the_same_logits(base, model_dir, tmp_path, targets):
    from peft import PeftModel

    spec = make_spec(lora=LoraSpec(rank=4, alpha=16.0, target_modules=targets))
    rows = random_rows(1, seed=1)
    job = make_job(base, spec, tmp_path, train=rows)
    randomise(job.adapter)
    export(job.adapter, tmp_path / "adapter", base_id="tiny", dtype=base.dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peft = PeftModel.from_pretrained(load_tiny(model_dir), tmp_path / "adapter")
    with torch.no_grad():
        theirs_TV = peft(input_ids=rows[0].tokens_T[None], use_cache=False).logits[0]
        ours_TV = base.head.logits(base.hidden(base.assemble([share_of(rows, job.adapter)])))
        plain_TV = base.head.logits(base.hidden(base.assemble([share_of(rows)])))
    torch.testing.assert_close(ours_TV, theirs_TV[: rows[0].read], rtol=1e-4, atol=1e-4)
    assert (ours_TV - plain_TV).norm() > 0.1 * plain_TV.norm()


def test_the_config_names_its_targets_and_switches_off_what_engines_refuse(base, tmp_path):
    job = make_job(base, make_spec(), tmp_path, train=random_rows(1, seed=1))
    export(job.adapter, tmp_path / "adapter", base_id="tiny", dtype=torch.bfloat16)
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["target_modules"] == sorted(base.card.linear_modules)
    assert (config["r"], config["lora_alpha"], config["bias"]) == (4, 8.0, "none")
    assert not config["use_dora"]
    assert config["modules_to_save"] is None
    tensors = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    name = "base_model.model.model.layers.1.mlp.down_proj.lora_A.weight"
    assert tensors[name].shape == (4, 96)
    assert tensors[name].dtype == torch.bfloat16
    assert sorted(path.name for path in (tmp_path / "adapter").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_what_is_exported_passes_the_check_that_imports_go_through(
    base, model_dir, tmp_path, dtype
):
    spec = make_spec(lora=LoraSpec(rank=4, alpha=16.0, target_modules=("v_proj", "gate_proj")))
    job = make_job(base, spec, tmp_path, train=random_rows(1, seed=1))
    randomise(job.adapter)
    export(job.adapter, tmp_path / "adapter", base_id="tiny", dtype=dtype)
    checked = check_adapter(
        tmp_path / "adapter", layers=measure(model_dir), max_rank=4, names=BaseNames(("tiny",))
    )
    assert (checked.rank, checked.alpha, checked.uniform, checked.warnings) == (4, 16.0, True, ())
    assert sorted(checked.target_modules) == ["gate_proj", "v_proj"]


def test_what_peft_saves_passes_the_check_too(model_dir, tmp_path):
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=4,
        lora_alpha=8,
        target_modules=["q_proj", "down_proj"],
        rank_pattern={"layers.1.mlp.down_proj": 2},
        alpha_pattern={"^model.layers.0.self_attn.q_proj": 3},
        task_type="CAUSAL_LM",
        init_lora_weights=False,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        get_peft_model(load_tiny(model_dir), config).save_pretrained(tmp_path / "adapter")
    checked = check_adapter(tmp_path / "adapter", layers=measure(model_dir), max_rank=4)
    assert (checked.rank, checked.uniform) == (4, False)


def test_a_target_that_matches_nothing_is_refused(base, tmp_path):
    spec = make_spec(lora=LoraSpec(target_modules=("q_proj", "lm_head")))
    with pytest.raises(NotServable, match="'lm_head' is not a linear layer"):
        make_job(base, spec, tmp_path, train=random_rows(1, seed=1))


def test_probes_say_what_adapter_and_base_think_of_the_reply(base, model_dir, tmp_path):
    rows = (*random_rows(6, seed=1), *random_rows(1, seed=2, shortest=300, longest=300))
    job = make_job(base, make_spec(), tmp_path, train=rows)
    randomise(job.adapter)
    (probes,) = take_probes(base, [Taught(job.adapter, rows)], 1000)
    assert len(probes) == PROBES
    model = load_tiny(model_dir)
    for probe in probes:
        reply = probe.token_ids[probe.reply_start :]
        assert len(reply) == len(probe.adapter_logprobs) == len(probe.base_logprobs)
        with torch.no_grad():
            logits_TV = model(torch.tensor([probe.token_ids]), use_cache=False).logits[0]
        logprobs_TV = logits_TV.log_softmax(-1)
        expected = [
            float(logprobs_TV[probe.reply_start - 1 + at, token]) for at, token in enumerate(reply)
        ]
        assert probe.base_logprobs == pytest.approx(expected, abs=1e-4)
        assert probe.adapter_logprobs != pytest.approx(expected, abs=1e-2)


def test_of_long_rows_the_beginning_of_the_reply_is_probed_and_a_little_before_it(base, tmp_path):
    long = random_rows(1, seed=2, shortest=300, longest=300)
    job = make_job(base, make_spec(), tmp_path, train=long)
    ((probe,),) = take_probes(base, [Taught(job.adapter, long)], 1000)
    (row,) = long
    start = int(row.targets_at_N[0])
    asked_T = row.tokens_T[start - CONTEXT_TOKENS : start + REPLY_TOKENS]
    assert list(probe.token_ids) == asked_T.tolist()
    assert (probe.reply_start, len(probe.adapter_logprobs)) == (CONTEXT_TOKENS, REPLY_TOKENS)


@pytest.mark.parametrize(("room", "fewest", "most"), [(10_000, 2, 2), (90, 2, 3), (1, 5, 5)])
def test_many_are_probed_in_few_passes_within_the_room(base, tmp_path, room, fewest, most):
    jobs = []
    for at, count in enumerate((4, 1, 3, 0)):
        own = random_rows(count, seed=at) if count else [without_targets()]
        jobs.append(make_job(base, make_spec(), tmp_path, train=own))
        randomise(jobs[-1].adapter, seed=at)
        # So little that the first probe is never enough.
        jobs[-1].adapter.weights_P.mul_(0.3)
    taught = [Taught(job.adapter, [s.rows[0] for s in job.dataset.train]) for job in jobs]
    passes = []
    hook = base.decoder.register_forward_pre_hook(
        lambda module, args, kwargs: passes.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    try:
        together = take_probes(base, taught, room)
    finally:
        hook.remove()
    assert fewest <= len(passes) <= most
    assert room == 1 or max(passes) <= room
    assert [len(own) for own in together] == [2, 1, 2, 0]
    for own, one in zip(together, taught, strict=True):
        (alone,) = take_probes(base, [one], room)
        assert [probe.token_ids for probe in own] == [probe.token_ids for probe in alone]
        for ours, theirs in zip(own, alone, strict=True):
            assert ours.adapter_logprobs == pytest.approx(theirs.adapter_logprobs, abs=1e-4)
            assert ours.base_logprobs == pytest.approx(theirs.base_logprobs, abs=1e-4)


def test_who_has_learnt_much_is_probed_once_and_others_twice(base, tmp_path):
    jobs = []
    for scale in (0.1, 1.0, 0.1):
        # Replies of more than eight tokens, as most are.
        rows = random_rows(3, seed=3, shortest=60, longest=60)
        jobs.append(make_job(base, make_spec(), tmp_path, train=rows))
        randomise(jobs[-1].adapter)
        jobs[-1].adapter.weights_P.mul_(scale)
    taught = [Taught(job.adapter, [s.rows[0] for s in job.dataset.train]) for job in jobs]
    assert [len(own) for own in take_probes(base, taught, 1000)] == [2, 1, 2]


def without_targets():
    return Row(torch.arange(3, 9), torch.zeros(6))


def test_a_finished_job_leaves_a_manifest_that_a_new_attempt_finds(base, tmp_path):
    job = make_job(base, make_spec(), tmp_path, train=random_rows(8, seed=1))
    loop, reports = make_loop(base, job)
    assert finished_before(job.identity.work_dir, "ftjob-1") is None
    run_to_end(loop)
    (finished,) = of_kind(reports, Finished)
    result = finished.manifest.result
    assert (result.steps, result.best_step, result.epochs) == (4, 4, 2.0)
    assert (result.valid_loss, result.base_valid_loss, result.stopped_early) == (None, None, False)
    assert result.trained_tokens == 2 * sum(sample.targets for sample in job.dataset.train)
    assert finished.manifest.target_modules == base.card.linear_modules
    assert finished.adapter_dir.is_dir()
    assert finished_before(job.identity.work_dir, "ftjob-1") == finished.manifest
    assert finished_before(job.identity.work_dir, "ftjob-2") is None


def test_what_was_exported_is_where_a_continuing_job_starts(base, tmp_path):
    job = make_job(base, make_spec(), tmp_path, train=random_rows(1, seed=1))
    randomise(job.adapter)
    export(job.adapter, tmp_path / "adapter", base_id="tiny", dtype=base.dtype)
    heir = make_job(base, make_spec(seed=9), tmp_path, train=random_rows(1, seed=1)).adapter
    read_into(heir, tmp_path / "adapter")
    assert torch.equal(heir.weights_P, job.adapter.weights_P)


@pytest.mark.parametrize("lora", [LoraSpec(rank=8), LoraSpec(rank=4, target_modules="all-linear")])
def test_a_parent_of_another_shape_is_refused(base, tmp_path, lora):
    small = make_spec(lora=LoraSpec(rank=4, target_modules=("q_proj",)))
    job = make_job(base, small, tmp_path, train=random_rows(1, seed=1))
    export(job.adapter, tmp_path / "adapter", base_id="tiny", dtype=base.dtype)
    heir = base.new_adapter(lora, seed=1)
    with pytest.raises(NotServable, match="of another shape"):
        read_into(heir, tmp_path / "adapter")
