"""What the worker and the warm process say to each other: one JSON object a line, over a socket pair.

JSON and not pickle: nothing that crosses a process here can run code. The worker sends `Order`s, the warm process
answers with `Report`s. Every report about a job carries the attempt it was admitted under, so that a late word from an
earlier attempt is never taken for news.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import Field, TypeAdapter

from adapters.manifest import BaseModelCard, Manifest
from adapters.records import Progress
from adapters.spec import TrainingSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Admit:
    """Take this job in beside those already training; continue from the newest checkpoint in `work_dir`, if any."""

    kind: Literal["admit"] = "admit"
    job_id: str
    attempt: int
    spec: TrainingSpec
    data: Path
    validation: Path | None
    work_dir: Path
    dataset_digest: str
    #: The PEFT directory of the version that the job starts from.
    parent: Path | None = None
    #: Write a checkpoint as soon as more than this many steps are done: proof that the job gets past where it died.
    prove_past: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Drop:
    """Stop this job at the next micro-step and forget it. Answered by `Dropped`, also when it is not there."""

    kind: Literal["drop"] = "drop"
    job_id: str
    #: Write a checkpoint of its latest step first, for it goes on later.
    keep: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Shutdown:
    """Write a checkpoint of every job, then exit 0."""

    kind: Literal["shutdown"] = "shutdown"


Order: TypeAlias = Annotated[Admit | Drop | Shutdown, Field(discriminator="kind")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """The base model is loaded; orders are being read."""

    kind: Literal["ready"] = "ready"
    card: BaseModelCard


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """The data is tokenised, the adapter exists, the first step comes next."""

    kind: Literal["started"] = "started"
    job_id: str
    attempt: int
    total_steps: int
    train_rows: int
    valid_rows: int
    #: Rows longer than `max_seq_length`: reported and left out, never cut.
    dropped_rows: int
    tokens_per_epoch: int
    trained_tokens_per_epoch: int
    resumed_from_step: int
    warnings: tuple[str, ...]
    #: In what the base model computes.
    dtype: str = "float32"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stepped:
    """One optimizer step is done."""

    kind: Literal["stepped"] = "stepped"
    job_id: str
    attempt: int
    progress: Progress
    learning_rate: float
    #: Before clipping.
    grad_norm: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated:
    """Held-out loss (mean over target tokens, natural log) of the adapter and, for comparison, of the base."""

    kind: Literal["evaluated"] = "evaluated"
    job_id: str
    attempt: int
    step: int
    valid_loss: float
    base_valid_loss: float
    #: The share of held-out target tokens that the adapter holds likeliest; None for DPO.
    accuracy: float | None = None
    #: DPO: the share of held-out pairs whose preferred reply gained more on the reference than the other one.
    reward_accuracy: float | None = None
    best: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpointed:
    """A checkpoint is durable; a new attempt would continue after `step`."""

    kind: Literal["checkpointed"] = "checkpointed"
    job_id: str
    attempt: int
    step: int
    #: What writing it took.
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """Training goes on; `adapter_dir` holds the adapter as it is after `manifest.result.steps`, as for `Finished`."""

    kind: Literal["exported"] = "exported"
    job_id: str
    attempt: int
    adapter_dir: Path
    manifest: Manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """Training is over; `adapter_dir` holds the best adapter as a plain PEFT directory, without the manifest file."""

    kind: Literal["finished"] = "finished"
    job_id: str
    attempt: int
    adapter_dir: Path
    manifest: Manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """The job cannot go on. `retryable` says whether another attempt could end differently."""

    kind: Literal["failed"] = "failed"
    job_id: str
    attempt: int
    code: str
    message: str
    retryable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Squeezed:
    """A pass did not fit into memory; from now on one has so many tokens at most."""

    kind: Literal["squeezed"] = "squeezed"
    token_budget: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped:
    """The job is no longer here."""

    kind: Literal["dropped"] = "dropped"
    job_id: str


JobReport: TypeAlias = Started | Stepped | Evaluated | Checkpointed | Exported | Finished | Failed
#: What is not about the training of one job.
Word: TypeAlias = Ready | Squeezed | Dropped
Report: TypeAlias = Annotated[JobReport | Word, Field(discriminator="kind")]

_orders: TypeAdapter[Admit | Drop | Shutdown] = TypeAdapter(Order)
_reports: TypeAdapter[JobReport | Word] = TypeAdapter(Report)


def checkpoints_dir(work_dir: Path) -> Path:
    """Where in a job's work folder its checkpoints lie, whose names sort as they follow each other: `step-…`.

    The warm process writes and reads them; the worker carries them to other machines.
    """
    return work_dir / "checkpoints"


def encode_order(order: Admit | Drop | Shutdown) -> bytes:
    """One line, newline included."""
    return _orders.dump_json(order) + b"\n"


def decode_order(line: bytes) -> Admit | Drop | Shutdown:
    """The inverse of `encode_order`."""
    return _orders.validate_json(line)


def encode_report(report: JobReport | Word) -> bytes:
    """One line, newline included."""
    return _reports.dump_json(report) + b"\n"


def decode_report(line: bytes) -> JobReport | Word:
    """The inverse of `encode_report`."""
    return _reports.validate_json(line)


# JSON has no infinity or NaN: a loss that is not finite is reported through `Failed`, never as a number.
