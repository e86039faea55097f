"""A fine-tuning job on the wire: OpenAI's `fine_tuning.job` with what else is worth knowing."""

from typing import Any, Final, Literal

from pydantic import BaseModel

from adapters.demand import Place
from adapters.names import ORGANISATION, FineTunedName
from adapters.records import (
    DatasetSummary,
    Event,
    Job,
    JobStatus,
    Priority,
    Progress,
)
from adapters.spec import Dpo, TrainingSpec
from adapters.webhooks import JobWebhook
from service.schemas.method import usual_rate
from service.schemas.pages import Listed, Page

#: What ids of result files begin with; those of uploaded files have no second hyphen.
RESULT_FILE: Final = "file-result-"


class WireError(BaseModel):
    """`job.error`."""

    code: str
    message: str
    param: str | None


class WireProgress(BaseModel):
    """How far the job is."""

    percent: float
    step: int
    total_steps: int
    epoch: float
    tokens_seen: int
    train_loss: float | None
    valid_loss: float | None
    base_valid_loss: float | None
    train_mean_token_accuracy: float | None
    valid_mean_token_accuracy: float | None
    reward_accuracy: float | None
    tokens_per_second: float | None
    eta_seconds: float | None


class WireQueue(BaseModel):
    """Where a waiting job stands; 1 is next."""

    position: int
    #: None where nobody can tell.
    estimated_start: int | None


class WireAdapter(BaseModel):
    """What the job makes a version of."""

    name: str
    base_model: str
    rank: int
    version: str | None


class WireDataset(BaseModel):
    """What was found in the data."""

    format: str
    rows: int
    duplicates: int
    ignored_fields: list[str]
    digest: str


class WireJobWebhook(BaseModel):
    """Who is told of this job only."""

    id: str
    url: str
    events: list[str]
    signing_secret_hint: str


class WireJob(Listed):
    """The job object."""

    object: Literal["fine_tuning.job"]
    status: JobStatus
    phase: str
    priority: Priority
    model: str
    fine_tuned_model: str | None
    training_file: str
    validation_file: str | None
    hyperparameters: dict[str, Any]
    method: dict[str, Any]
    organization_id: str
    result_files: list[str]
    integrations: list[Any]
    seed: int
    metadata: dict[str, str] | None
    created_at: int
    started_at: int | None
    finished_at: int | None
    estimated_finish: int | None
    trained_tokens: int | None
    error: WireError | None
    adapter: WireAdapter
    queue: WireQueue | None
    progress: WireProgress
    dataset: WireDataset
    attempt: int
    webhook: WireJobWebhook | None
    links: dict[str, str]


class WireJobList(Page[WireJob]):
    """A page of jobs, newest first."""


class WireEvent(Listed):
    """A line of a job's log."""

    object: Literal["fine_tuning.job.event"]
    created_at: int
    level: str
    message: str
    type: Literal["message", "metrics"]
    data: dict[str, Any] | None


class WireEventList(Page[WireEvent]):
    """A page of a job's log, newest first."""


def wire_job(
    job: Job, *, place: Place | None = None, now: float, openai_status: bool = False
) -> WireJob:
    """The job as clients see it. With `openai_status` a paused job is `queued`: OpenAI's enum knows no other word."""
    hyperparameters = wire_hyperparameters(job.spec)
    kind = job.spec.method.kind
    return WireJob(
        id=job.id,
        object="fine_tuning.job",
        status=_status(job, strict=openai_status),
        phase=job.phase.value,
        priority=job.priority,
        model=job.base_model,
        fine_tuned_model=_fine_tuned_model(job),
        training_file=job.training_file,
        validation_file=job.validation_file,
        hyperparameters=hyperparameters,
        method={"type": kind, kind: {"hyperparameters": hyperparameters}},
        organization_id=ORGANISATION,
        result_files=[result_file_id(job.id)] if job.fine_tuned_model else [],
        integrations=list(job.integrations),
        seed=job.spec.seed,
        metadata=job.metadata,
        created_at=int(job.created_at),
        started_at=_whole(job.started_at),
        finished_at=_whole(job.finished_at),
        estimated_finish=estimated_finish(job, now),
        trained_tokens=job.trained_tokens,
        error=WireError(**_error(job)) if job.error else None,
        adapter=WireAdapter(
            name=job.adapter,
            base_model=job.base_model,
            rank=job.spec.lora.rank,
            version=job.fine_tuned_model,
        ),
        queue=wire_place(place, now) if place is not None else None,
        progress=_progress(job.progress),
        dataset=wire_dataset(job.dataset),
        attempt=job.attempt,
        webhook=_webhook(job.webhook) if job.webhook else None,
        links=_links(job),
    )


def wire_place(place: Place, now: float) -> WireQueue:
    """Where a job stands."""
    start = int(now + place.starts_in) if place.starts_in is not None else None
    return WireQueue(position=place.position, estimated_start=start)


def _fine_tuned_model(job: Job) -> str | None:
    """OpenAI's name for what the ledger calls `name@N`; the job's `adapter.version` is that."""
    if job.fine_tuned_model is None:
        return None
    return str(FineTunedName.of_job(job.id, base_model=job.base_model, adapter=job.adapter))


def _links(job: Job) -> dict[str, str]:
    """What there is to see of the job and to do with it; the results once there are some."""
    here = f"/finetune/{job.id}"
    links = {"self": here} | {
        what: f"{here}/{what}" for what in ("events", "checkpoints", "cancel", "pause", "resume")
    }
    links["metrics"] = f"/v1/fine_tuning/jobs/{job.id}/metrics"
    if job.fine_tuned_model is not None:
        links["results"] = f"/v1/files/{result_file_id(job.id)}/content"
    return links


def result_file_id(job_id: str) -> str:
    """The id of the file with what the job measured; see `service/results.py`."""
    return RESULT_FILE + job_id.removeprefix("ftjob-")


def _status(job: Job, *, strict: bool) -> JobStatus:
    return JobStatus.QUEUED if strict and job.status is JobStatus.PAUSED else job.status


def wire_dataset(found: DatasetSummary) -> WireDataset:
    """What was found in the data."""
    return WireDataset(
        format=found.format,
        rows=found.rows,
        duplicates=found.duplicates,
        ignored_fields=list(found.ignored_fields),
        digest=found.digest,
    )


def wire_event(event: Event) -> WireEvent:
    """An event as OpenAI's `fine_tuning.job.event`."""
    return WireEvent(
        object="fine_tuning.job.event",
        id=f"ftevent-{event.job_id.removeprefix('ftjob-')}-{event.seq}",
        created_at=int(event.created_at),
        level=event.level,
        message=event.message,
        type="metrics" if event.kind == "metrics" else "message",
        data=event.data,
    )


def wire_hyperparameters(spec: TrainingSpec) -> dict[str, Any]:
    """What a job computes with, every "auto" resolved."""
    rate = spec.optimizer.learning_rate
    found: dict[str, Any] = {
        "n_epochs": spec.n_epochs,
        "batch_size": spec.batch_size,
        "learning_rate": rate,
        "learning_rate_multiplier": rate / usual_rate(spec.method),
        "lora_rank": spec.lora.rank,
        "lora_alpha": spec.lora.alpha,
        "use_rslora": spec.lora.rslora,
        "lora_plus_ratio": spec.optimizer.lora_plus_ratio,
        "continue_from": spec.parent,
        "max_seq_length": spec.max_seq_length,
        "gate": spec.gate,
    }
    return found | {"beta": spec.method.beta} if isinstance(spec.method, Dpo) else found


def _progress(progress: Progress) -> WireProgress:
    return WireProgress(
        percent=round(progress.percent, 2),
        step=progress.step,
        total_steps=progress.total_steps,
        epoch=round(progress.epoch, 3),
        tokens_seen=progress.tokens_seen,
        train_loss=progress.train_loss,
        valid_loss=progress.valid_loss,
        base_valid_loss=progress.base_valid_loss,
        train_mean_token_accuracy=progress.train_accuracy,
        valid_mean_token_accuracy=progress.valid_accuracy,
        reward_accuracy=progress.reward_accuracy,
        tokens_per_second=progress.tokens_per_second,
        eta_seconds=progress.eta_seconds,
    )


def _webhook(webhook: JobWebhook) -> WireJobWebhook:
    return WireJobWebhook(
        id=webhook.id,
        url=webhook.url,
        events=list(webhook.event_types),
        signing_secret_hint=webhook.secret_hint,
    )


def estimated_finish(job: Job, now: float) -> int | None:
    """When a job that runs is likely to end; None where no speed is known yet."""
    if job.status is not JobStatus.RUNNING or job.progress.eta_seconds is None:
        return None
    return int(now + job.progress.eta_seconds)


def _error(job: Job) -> dict[str, Any]:
    assert job.error is not None
    return {"code": job.error.code, "message": job.error.message, "param": job.error.param}


def _whole(seconds: float | None) -> int | None:
    return int(seconds) if seconds is not None else None
