"""Our DPO is TRL's: loss, reward accuracy and every parameter's gradient, on the same tokens."""

import warnings

import pytest
import torch

from adapters.spec import Dpo, LoraSpec
from tests.integration.training.runs import pairs
from tests.integration.training.tiny import (
    as_peft,
    gradients,
    load_tiny,
    make_job,
    make_spec,
    peft_factors,
    random_rows,
    randomise,
    tiny_tokenizer,
)
from trainer.warm.batch import Share
from trainer.warm.evaluate import look_up_references

BETA = 0.3


def quiet_trainer(model, peft_config, out):
    """TRL's DPOTrainer, as one would set it up. It wants a text dataset, of which nothing is used."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    config = DPOConfig(
        output_dir=str(out),
        beta=BETA,
        use_cpu=True,
        report_to=[],
        bf16=False,
        fp16=False,
        gradient_checkpointing=False,
        max_length=None,
        disable_tqdm=True,
    )
    return DPOTrainer(
        model,
        args=config,
        train_dataset=Dataset.from_list([{"prompt": "a", "chosen": "b", "rejected": "c"}] * 2),
        processing_class=tiny_tokenizer(),
        peft_config=peft_config,
    )


def theirs(model_dir, job, parent, samples, out):
    """TRL's loss, reward accuracy and gradients, by PEFT's names."""
    model = load_tiny(model_dir, torch.float64)
    if parent is None:  # TRL's reference is then the model with the adapter off
        peft_config = as_peft(load_tiny(model_dir, torch.float64), job.adapter).peft_config
        trainer = quiet_trainer(model, peft_config["default"], out)
    else:  # and here a copy of what the adapter is when the trainer is made
        trainer = quiet_trainer(as_peft(model, parent), None, out)
    peft = trainer.model.double()
    factors = {n: p for n, p in peft_factors(peft).items() if ".ref" not in n}
    with torch.no_grad():
        for name, (a_RI, b_OR) in job.adapter.views().items():
            factors[f"{name}.lora_A"].copy_(a_RI)
            factors[f"{name}.lora_B"].copy_(b_OR)
    examples = []
    for sample in samples:
        start = int(sample.rows[0].targets_at_N[0])
        chosen, rejected = (row.tokens_T.tolist() for row in sample.rows)
        examples.append(
            {
                "prompt_ids": chosen[:start],
                "chosen_ids": chosen[start:],
                "rejected_ids": rejected[start:],
            }
        )
    peft.train()
    loss = trainer.compute_loss(peft, trainer.data_collator(examples))
    loss.backward()
    ahead = trainer._metrics["train"]["rewards/accuracies"][-1]
    return float(loss.detach()), ahead, {name: p.grad for name, p in factors.items()}


@pytest.mark.parametrize("with_parent", [False, True])
@pytest.mark.parametrize("rslora", [False, True])
def test_loss_accuracy_and_gradients_are_trls(base64, model_dir, tmp_path, with_parent, rslora):
    samples = pairs(random_rows(6, seed=1), seed=2)
    spec = make_spec(method=Dpo(beta=BETA), lora=LoraSpec(rank=4, alpha=8.0, rslora=rslora))
    parent = None
    if with_parent:
        parent = base64.new_adapter(spec.lora, 42)
        randomise(parent, seed=11)
    job = make_job(base64, spec, tmp_path, train=samples, parent=parent)
    randomise(job.adapter, seed=6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loss, ahead, expected = theirs(model_dir, job, parent, samples, tmp_path)

    share = Share(samples, job.adapter, job.objective, step_size=len(samples))
    look_up_references([share], base64)
    judged = job.objective.judge(samples, base64.train([share])[0])
    assert float(judged.total) / 6 == pytest.approx(loss, rel=1e-5)
    assert int(judged.ahead) / 6 == pytest.approx(ahead)
    assert 0 < ahead < 1
    found = gradients(job.adapter)
    assert len(expected) == 2 * len(found) > 0
    for name, (grad_a_RI, grad_b_OR) in found.items():
        for ours, which in ((grad_a_RI, "lora_A"), (grad_b_OR, "lora_B")):
            trls = expected[f"{name}.{which}"]
            assert float((ours - trls).norm() / trls.norm()) < 1e-5, name
