"""A tiny random Llama with a tiny tokenizer: real classes, real files, milliseconds a step."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from adapters.manifest import BaseModelCard
from adapters.spec import (
    EarlyStopping,
    LoraSpec,
    OptimizerSpec,
    TrainingSpec,
)
from trainer.warm.adapter import Adapter
from trainer.warm.adopt import Held, adopt
from trainer.warm.batch import Share
from trainer.warm.crew import Crew, Solo
from trainer.warm.data import Dataset
from trainer.warm.job import Identity, Job
from trainer.warm.limits import Limits
from trainer.warm.loop import Loop
from trainer.warm.model import BaseModel
from trainer.warm.native.library import Kernels
from trainer.warm.objective import CrossEntropy, objective_of
from trainer.warm.rows import Row, Sample

CHATML = (
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CORPUS = [
    "the quick brown fox jumps over the lazy dog",
    "what is the capital of france? it is paris.",
    "system user assistant be kind. hello there, how are you today? fine, thanks!",
] * 4


def write_model(directory: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.save_pretrained(directory)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.2,
        eos_token_id=tokenizer.eos_token_id,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(directory)


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    fast.chat_template = CHATML
    return fast


def load_tiny(directory: Path, dtype: torch.dtype = torch.float32) -> LlamaForCausalLM:
    model = LlamaForCausalLM.from_pretrained(directory, dtype=dtype).eval()
    return precise(model) if dtype == torch.float64 else model


def precise(model: Any) -> Any:
    """In float64 all through.

    transformers' norms compute in float32 whatever the model is in. A difference of 1e-16 before one then becomes one
    of 1e-8 behind it, once in some million numbers: often enough for a test that looks at many runs.
    """
    for name, norm in list(model.named_modules()):
        if type(norm).__name__.endswith("RMSNorm"):
            path, _, child = name.rpartition(".")
            plain = torch.nn.RMSNorm(len(norm.weight), norm.variance_epsilon, dtype=torch.float64)
            plain.load_state_dict(norm.state_dict())
            setattr(model.get_submodule(path), child, plain.requires_grad_(requires_grad=False))
    return model.double()


def make_base(
    directory: Path,
    dtype: torch.dtype = torch.float32,
    crew: Crew | None = None,
    kernels: Kernels | None = None,
) -> BaseModel:
    card = BaseModelCard(
        id="tiny",
        digest="d",
        chat_template_digest="c",
        tokenizer_digest="t",
        architecture="LlamaForCausalLM",
        max_seq_length=512,
        linear_modules=(
            "q_proj",
            "k_proj",
            "v_proj",
            "o_proj",
            "gate_proj",
            "up_proj",
            "down_proj",
        ),
    )
    tokenizer = PreTrainedTokenizerFast.from_pretrained(directory)
    held = Held(crew=crew or Solo(), kernels=kernels or Kernels())
    return adopt(load_tiny(directory, dtype), tokenizer, card, held)


def random_rows(count: int, *, seed: int, shortest: int = 6, longest: int = 40) -> tuple[Row, ...]:
    """Random tokens; about the last half of each row is the reply."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for _ in range(count):
        length = int(torch.randint(shortest, longest + 1, (), generator=generator))
        weights_T = torch.zeros(length)
        weights_T[length // 2 :] = 1.0
        rows.append(Row(torch.randint(3, 300, (length,), generator=generator), weights_T))
    return tuple(rows)


def alone(rows: Sequence[Row]) -> tuple[Sample, ...]:
    """Each row a sample by itself, as in supervised training."""
    return tuple(Sample((row,)) for row in rows)


def share_of(rows: Sequence[Row], adapter: Adapter | None = None, step_size: float = 1.0) -> Share:
    return Share(alone(rows), adapter, CrossEntropy(), step_size)


def make_spec(**changes: Any) -> TrainingSpec:
    spec = TrainingSpec(
        lora=LoraSpec(rank=4, alpha=8.0),
        optimizer=OptimizerSpec(learning_rate=1e-3),
        early_stopping=EarlyStopping(),
        n_epochs=2,
        batch_size=4,
    )
    return replace(spec, **changes)


def make_job(
    base: BaseModel,
    spec: TrainingSpec,
    work_dir: Path,
    *,
    train: Sequence[Row | Sample],
    valid: Sequence[Row | Sample] = (),
    job_id: str = "ftjob-1",
    parent: Adapter | None = None,
) -> Job:
    adapter = base.new_adapter(spec.lora, spec.seed)
    if parent is not None:
        adapter.load(parent.weights_P)
    identity = Identity(job_id=job_id, attempt=1, work_dir=work_dir / job_id, dataset_digest="data")
    dataset = Dataset(_samples(train), _samples(valid), 0, 0)
    return Job(identity, spec, dataset, adapter, objective_of(spec.method, parent))


def _samples(given: Sequence[Row | Sample]) -> tuple[Sample, ...]:
    return tuple(one if isinstance(one, Sample) else Sample((one,)) for one in given)


def make_loop(
    base: BaseModel,
    *jobs: Job,
    budget: int = 256,
    checkpoint_seconds: float = 1e9,
    **limits: Any,
) -> tuple[Loop, list[Any]]:
    """Checkpoints come as often as the test says, however long they take."""
    reports: list[Any] = []
    limits = {"checkpoint_share": math.inf} | limits
    loop = Loop(base, reports.append, Limits(budget, checkpoint_seconds, **limits))
    for job in jobs:
        loop.admit(job)
    return loop, reports


def run_to_end(loop: Loop) -> None:
    while not loop.idle:
        loop.turn()


def of_kind(reports: list[Any], kind: type) -> list[Any]:
    return [report for report in reports if isinstance(report, kind)]


def randomise(adapter: Adapter, *, seed: int = 5) -> None:
    """B is zero at first, which hides half of the gradients."""
    generator = torch.Generator().manual_seed(seed)
    drawn_P = torch.randn(
        adapter.weights_P.shape, generator=generator, dtype=adapter.weights_P.dtype
    )
    adapter.load(0.1 * drawn_P)


def gradients(adapter: Adapter) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Of A and B of each layer."""
    return adapter._views(adapter.gradient_P)


def as_peft(model: LlamaForCausalLM, adapter: Adapter) -> Any:
    """PEFT's own implementation of the same adapter, trainable: the oracle."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=adapter.spec.rank,
        lora_alpha=adapter.spec.alpha,
        use_rslora=adapter.spec.rslora,
        target_modules=sorted({name.rpartition(".")[2] for name in adapter.shapes}),
        task_type="CAUSAL_LM",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peft = get_peft_model(model, config, autocast_adapter_dtype=False)
    factors = peft_factors(peft)
    with torch.no_grad():
        for name, (a_RI, b_OR) in adapter.views().items():
            factors[f"{name}.lora_A"].copy_(a_RI)
            factors[f"{name}.lora_B"].copy_(b_OR)
    return peft


def peft_factors(peft: Any) -> dict[str, torch.nn.Parameter]:
    return {
        name.removeprefix("base_model.model.").removesuffix(".default.weight"): parameter
        for name, parameter in peft.named_parameters()
        if "lora_" in name
    }


def peft_loss(peft: Any, rows: Sequence[Row]) -> torch.Tensor:
    """Mean loss over the target tokens of all rows, each row by itself, without packing or padding."""
    total, targets = torch.zeros((), dtype=peft.dtype), 0
    for row in rows:
        logits_TV = peft(input_ids=row.tokens_T[None], use_cache=False).logits[0]
        wanted_T = row.tokens_T.clone()
        wanted_T[row.weights_T == 0] = -100
        total = total + torch.nn.functional.cross_entropy(
            logits_TV[:-1], wanted_T[1:], reduction="sum", ignore_index=-100
        )
        targets += row.targets
    return total / targets
