"""Small valid records for tests that do not care which."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from adapters.demand import Place
from adapters.manifest import BaseModelCard, Import, Manifest, TrainingResult
from adapters.names import new_id
from adapters.records import (
    DatasetSummary,
    Job,
    NewJob,
    Reply,
    Version,
)
from adapters.spec import TrainingSpec
from tests.support.peft_adapters import good_adapter, safetensors

BASE = "tiny-base"
ONE_LAYER = {"model.layers.0.self_attn.q_proj": (8, 8)}


def card(model_id: str = BASE) -> BaseModelCard:
    return BaseModelCard(
        id=model_id,
        digest="b" * 64,
        chat_template_digest="c" * 64,
        tokenizer_digest="d" * 64,
        architecture="LlamaForCausalLM",
        max_seq_length=2048,
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


def new_job(adapter: str = "support-bot", base_model: str = BASE) -> NewJob:
    return NewJob(
        id=new_id("ftjob-"),
        adapter=adapter,
        base_model=base_model,
        training_file="file-1",
        spec=TrainingSpec(),
        dataset=DatasetSummary(format="messages", rows=3, duplicates=0, digest="e" * 64),
    )


def version(number: int = 1, **shape: Any) -> Version:
    """A version of an adapter with that shape: `rank`, `alpha`, `target_modules`, `rslora`."""
    new = new_job()
    made = replace(manifest(new), **shape)
    return Version(
        adapter=new.adapter,
        number=number,
        base_model=new.base_model,
        digest="a" * 64,
        job_id=new.id,
        rank=made.rank,
        manifest=made,
        created_at=0.0,
    )


def manifest(job: Job | NewJob, valid_loss: float | None = 1.0) -> Manifest:
    return Manifest(
        base=card(job.base_model),
        rank=16,
        alpha=32.0,
        target_modules=("q_proj",),
        dataset_digest=job.dataset.digest,
        job_id=job.id,
        result=TrainingResult(
            steps=3,
            best_step=3,
            epochs=1.0,
            trained_tokens=100,
            train_loss=0.5,
            valid_loss=valid_loss,
            base_valid_loss=2.0,
            stopped_early=False,
            seconds=1.0,
        ),
    )


def brought(files: str = "f" * 64, base_model: str = BASE) -> Manifest:
    """The manifest of an adapter from elsewhere; `files` is the digest of what was brought."""
    return Manifest(
        base=card(base_model),
        rank=16,
        alpha=8.0,
        target_modules=("q_proj",),
        dataset_digest=None,
        job_id=None,
        result=None,
        imported=Import(id=new_id("import-"), digest=files, base_model=base_model),
    )


def adapter_directory(path: Path, *, content: bytes = b"weights") -> Path:
    """An adapter that engines take, other bytes for other content."""
    made = good_adapter(rank=16, layers=ONE_LAYER)
    made.raw_weights = weights_of(content)
    return made.write(path)


def weights_of(content: bytes) -> bytes:
    """What `adapter_directory` writes as the weights."""
    made = good_adapter(rank=16, layers=ONE_LAYER)
    return safetensors(made.tensors, {"content": content.decode()})


def made_by(job: Job) -> str:
    """What OpenAI's clients call the version that a job makes."""
    return f"ft:{job.base_model}:graft:{job.adapter}:{job.id[-8:]}"


def render(job: Job, place: Place | None) -> Reply:
    return Reply(status=202, body=job.id, location=f"/finetune/{job.id}")
