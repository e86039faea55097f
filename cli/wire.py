"""What the service answers, as far as the command line reads it. Unknown fields are let through unread."""

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

ENDED = frozenset({"succeeded", "failed", "cancelled"})


class Wire(BaseModel):
    """A server may be newer than its client: what is unknown is ignored, what may be missing has a default."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Progress(Wire):
    """How far a job is."""

    percent: float = 0.0
    step: int = 0
    total_steps: int | None = None
    epoch: float | None = None
    tokens_seen: int | None = None
    train_loss: float | None = None
    valid_loss: float | None = None
    base_valid_loss: float | None = None
    reward_accuracy: float | None = None
    tokens_per_second: float | None = None
    eta_seconds: float | None = None


class JobError(Wire):
    """Why a job failed."""

    code: str | None = None
    message: str = ""
    param: str | None = None


class Queue(Wire):
    """Where a waiting job stands."""

    position: int | None = None


class Method(Wire):
    """What a job learns by."""

    type: str | None = None


class AdapterName(Wire):
    """The adapter that a job trains, and the version that it has made."""

    name: str | None = None
    version: str | None = None


class Webhook(Wire):
    """Who is told of a job; the secret in the answer to its creation only."""

    url: str = ""
    signing_secret: str | None = None


class Job(Wire):
    """A fine-tuning job."""

    id: str
    status: str
    phase: str | None = None
    model: str | None = None
    fine_tuned_model: str | None = None
    created_at: int | None = None
    finished_at: int | None = None
    error: JobError | None = None
    trained_tokens: int | None = None
    method: Method | None = None
    hyperparameters: dict[str, Any] = Field(default_factory=dict)
    progress: Progress | None = None
    queue: Queue | None = None
    adapter: AdapterName | None = None
    webhook: Webhook | None = None
    attempt: int | None = None

    @property
    def ended(self) -> bool:
        """Nothing more will happen to it."""
        return self.status in ENDED

    @property
    def adapter_name(self) -> str | None:
        """The name to chat with, once it has succeeded."""
        return self.adapter.name if self.adapter else None

    @property
    def made(self) -> str | None:
        """What it has made, by the shortest name that always means it: `support-bot@3`."""
        version = self.adapter.version if self.adapter else None
        return version or self.fine_tuned_model


class JobEvent(Wire):
    """One line of a job's history."""

    id: str | int | None = None
    created_at: int | None = None
    level: Literal["info", "warn", "error"] | str = "info"  # noqa: PYI051  the literals are documentation
    message: str = ""
    type: str = "message"
    data: dict[str, Any] | None = None


class Version(Wire):
    """One version of an adapter."""

    name: str
    number: int
    created_at: int | datetime | None = None
    rank: int | None = None
    valid_loss: float | None = None
    base_valid_loss: float | None = None
    job_id: str | None = None


class Adapter(Wire):
    """An adapter, its versions and its aliases."""

    name: str
    base_model: str | None = None
    live: str | None = None
    shared: bool = False
    owner: str | None = None
    versions: tuple[Version, ...] = ()
    aliases: dict[str, Any] = Field(default_factory=dict)


class Share(Wire):
    """What a tenant, or everybody (`*`), may do with an adapter besides asking it."""

    tenant: str
    may_continue: bool = False
    may_download: bool = False


class ShareList(Wire):
    """With whom an adapter is shared."""

    data: tuple[Share, ...] = ()


class Stored(Wire):
    """Bytes that are kept, and how many may be."""

    bytes: int = 0
    limit: int | None = None
    files: int = 0
    uploads: int = 0
    versions: int = 0
    checkpoints: int = 0


class QueuedJobs(Wire):
    """Jobs that wait, and how many may."""

    queued: int = 0
    limit: int | None = None
    highest_priority: str | None = None


class Rate(Wire):
    """What may be asked for in a minute."""

    limit_per_minute: int
    remaining: int = 0
    reset_seconds: float = 0.0


class Usage(Wire):
    """What a tenant uses, and what it may use."""

    tenant: str
    stored: Stored = Stored()
    jobs: QueuedJobs = QueuedJobs()
    requests: Rate | None = None
    tokens: Rate | None = None


class ApiKey(Wire):
    """A key, without itself but in the moment in which it is made."""

    id: str
    tenant: str
    name: str = ""
    scopes: tuple[str, ...] = ()
    hint: str = ""
    created_at: int | None = None
    expires_at: int | None = None
    last_used_at: int | None = None
    revoked_at: int | None = None
    key: str | None = Field(None, repr=False)


class Problem(Wire):
    """One thing that is wrong with a request: usually a line of the dataset."""

    line: int | None = None
    field: str | None = None
    code: str | None = None
    message: str = ""


class Memory(Wire):
    """What a job needs beside the base model."""

    adapter_parameters: int = 0
    adapter_bytes: int = 0
    activation_bytes: int = 0
    available_bytes: int | None = None


class Advice(Wire):
    """Something that is probably not meant."""

    code: str | None = None
    message: str = ""


class Dataset(Wire):
    """What was found in the data."""

    format: str | None = None
    rows: int = 0
    duplicates: int = 0


class Estimate(Wire):
    """What a job would come to."""

    model: str
    method: str | None = None
    steps: int
    steps_per_epoch: int | None = None
    train_rows: int | None = None
    valid_rows: int | None = None
    dropped_rows: int | None = None
    tokens: int | None = None
    trained_tokens: int | None = None
    longest: int | None = None
    sampled: bool = False
    duration_seconds: float | None = None
    tokens_per_second: float | None = None
    duration_basis: str | None = None
    memory: Memory | None = None
    fits: bool | None = None
    queue_wait_seconds: float | None = None
    hyperparameters: dict[str, Any] = Field(default_factory=dict)
    dataset: Dataset | None = None
    warnings: tuple[Advice, ...] = ()


class Span(Wire):
    """Tokens that are trained, in a row of a preview."""

    start: int
    stop: int
    weight: float = 1.0


class PreviewRow(Wire):
    """A row as training sees it."""

    line: int
    side: str | None = None
    tokens: tuple[str, ...] = ()
    trained_spans: tuple[Span, ...] = ()
    num_tokens: int = 0
    num_trained_tokens: int = 0
    too_long: bool = False
    truncated: bool = False


class Preview(Wire):
    """The first rows."""

    model: str
    max_seq_length: int | None = None
    rows: tuple[PreviewRow, ...]


class JobPage(Wire):
    """A page of jobs, newest first."""

    data: tuple[Job, ...]
    has_more: bool = False


class AdapterList(Wire):
    """All adapters."""

    data: tuple[Adapter, ...]
