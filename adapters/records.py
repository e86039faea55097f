"""Domain records: what the ledger is about. Frozen, keyword-only; nothing here knows SQL or HTTP.

Times are Unix seconds (float). Ids are prefixed as OpenAI prefixes them, `ftjob-`. Files and uploads: `files.py`.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, TypeAlias

from adapters.manifest import Manifest
from adapters.names import FineTunedName
from adapters.sharing import Share, Use
from adapters.spec import TrainingSpec
from adapters.webhooks import JobWebhook, NewEndpoint

#: A job that was lost this often in a row, without getting further, is a suspect: it is retried alone.
SUSPECT_LOSSES = 2
#: Whose everything is where no keys tell one from another.
DEFAULT_TENANT = "default"

JsonObject: TypeAlias = dict[str, Any]


class JobStatus(StrEnum):
    """The states of OpenAI's `fine_tuning.job`.

    queued -> running -> succeeded | failed | cancelled
    running -> queued        the worker gave the job back, or its lease expired
    queued -> cancelled
    queued | running -> paused -> queued | running | cancelled
    """

    QUEUED = "queued"
    RUNNING = "running"
    #: Not terminal: it waits for its owner. Phase `stopping` until no process trains it any more.
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def terminal(self) -> bool:
        """Whether a job in this state never changes again."""
        return self in {JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED}


class Priority(StrEnum):
    """How urgent a job is to whoever asks for it, the least urgent first."""

    LOW = "low"
    NORMAL = "normal"
    HIGH = "high"

    @property
    def rank(self) -> int:
        """0 for the least urgent."""
        return list(Priority).index(self)


class Phase(StrEnum):
    """What a job is doing right now, finer than its status."""

    QUEUED = "queued"
    PREPARING = "preparing"
    TRAINING = "training"
    PUBLISHING = "publishing"
    STOPPING = "stopping"
    PAUSED = "paused"
    ENDED = "ended"


class EventKind(StrEnum):
    """The `event:` field of the SSE stream."""

    STATUS = "status"
    METRICS = "metrics"
    CHECKPOINT = "checkpoint"
    MESSAGE = "message"
    ERROR = "error"


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a job is. `percent` never falls within one attempt."""

    step: int = 0
    total_steps: int = 0
    epoch: float = 0.0
    percent: float = 0.0
    tokens_seen: int = 0
    train_loss: float | None = None
    valid_loss: float | None = None
    base_valid_loss: float | None = None
    #: The share of target tokens that the model holds likeliest: of the latest step's, and held out. None for DPO.
    train_accuracy: float | None = None
    valid_accuracy: float | None = None
    #: DPO: the share of held-out pairs whose preferred reply gained more on the reference than the other one.
    reward_accuracy: float | None = None
    tokens_per_second: float | None = None
    eta_seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobError:
    """Why a job failed, in the words of OpenAI's `job.error`."""

    code: str
    message: str
    param: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetSummary:
    """What was found in the training data when it arrived."""

    format: str
    rows: int
    duplicates: int
    #: Top-level keys of rows that nothing reads.
    ignored_fields: tuple[str, ...] = ()
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NewJob:
    """A job as it is asked for."""

    id: str
    adapter: str
    base_model: str
    training_file: str
    validation_file: str | None = None
    spec: TrainingSpec
    dataset: DatasetSummary
    metadata: dict[str, str] | None = None
    integrations: tuple[JsonObject, ...] = ()
    #: Why the job has failed from the start; `problems` are the first bad rows.
    error: JobError | None = None
    problems: tuple[JsonObject, ...] = ()
    #: Who is told of this job only.
    webhook: NewEndpoint | None = None
    #: Whose it is.
    tenant: str = DEFAULT_TENANT
    priority: Priority = Priority.NORMAL


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A job as it is."""

    id: str
    adapter: str
    base_model: str
    training_file: str
    validation_file: str | None
    spec: TrainingSpec
    dataset: DatasetSummary
    metadata: dict[str, str] | None
    status: JobStatus
    phase: Phase
    progress: Progress
    created_at: float
    started_at: float | None
    finished_at: float | None
    #: How often a worker has taken the job up. Also the fencing number: a write carrying an older one is refused.
    attempt: int
    #: How often in a row the job was lost without getting further; a checkpoint beyond `lost_at` starts anew.
    losses: int
    #: The furthest step that the job had reached when it was lost.
    lost_at: int
    worker: str | None
    lease_expires_at: float | None
    error: JobError | None
    #: `name@N`, set together with SUCCEEDED.
    fine_tuned_model: str | None
    trained_tokens: int | None
    integrations: tuple[JsonObject, ...] = ()
    webhook: JobWebhook | None = None
    #: Whose it is.
    tenant: str = DEFAULT_TENANT
    priority: Priority = Priority.NORMAL
    #: How long it has been in training, all attempts together.
    ran_seconds: float = 0.0

    @property
    def suspect(self) -> bool:
        """Whether it may be this job that brings its process down."""
        return self.losses >= SUSPECT_LOSSES


@dataclass(frozen=True, slots=True, kw_only=True)
class NewEvent:
    """Something worth telling about a job."""

    kind: EventKind
    message: str
    level: Literal["info", "warn", "error"] = "info"
    data: JsonObject | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobNote:
    """What the worker that holds a job has to say of it."""

    job: Job
    phase: Phase
    progress: Progress
    events: tuple[NewEvent, ...] = ()
    #: The step of a checkpoint that is durable since the last note.
    checkpoint: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A recorded event. `seq` counts from 1 within its job, without gaps."""

    job_id: str
    seq: int
    kind: EventKind
    level: str
    message: str
    data: JsonObject | None
    created_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """An immutable version of an adapter, `support-bot@3`."""

    adapter: str
    number: int
    base_model: str
    digest: str
    job_id: str | None
    rank: int
    manifest: Manifest
    created_at: float
    deleted_at: float | None = None
    #: Why it is not to be served; None where it may be. See `proof.py`.
    quarantined: str | None = None

    @property
    def name(self) -> str:
        """The name that the engine loads it under and that responses carry."""
        return f"{self.adapter}@{self.number}"

    @property
    def fine_tuned_name(self) -> str | None:
        """What OpenAI's clients call it; None where no job has made it."""
        job, base, name = self.job_id, self.base_model, self.adapter
        return str(FineTunedName.of_job(job, base_model=base, adapter=name)) if job else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """A name, its living versions (oldest first) and its aliases."""

    name: str
    base_model: str
    created_at: float
    versions: tuple[Version, ...]
    aliases: dict[str, int]
    #: The share of the requests for the bare name, 0 to 1, of aliases that have one.
    weights: dict[str, float] = field(default_factory=dict)
    #: What requests leave open, whichever version they ask; its own defaults are in a version's manifest.
    sampling: JsonObject = field(default_factory=dict)
    #: Whose it is.
    tenant: str = DEFAULT_TENANT
    #: What others may do with it, each of whom once.
    shares: tuple[Share, ...] = ()

    @property
    def shared(self) -> bool:
        """Whether it is shared with anybody."""
        return bool(self.shares)

    def allows(self, tenant: str | None, use: Use) -> bool:
        """Whether that tenant may do that with it; None is everybody's own hand, the trainer's for one."""
        if tenant is None or tenant == self.tenant:
            return True
        return any(share.is_for(tenant) and share.allows(use) for share in self.shares)

    @property
    def live(self) -> Version | None:
        """The version that the bare name means."""
        return self.version(self.aliases.get("live"))

    def sharing(self, alias: str) -> tuple[float, Version] | None:
        """The share of an alias and the version that gets it; None where it has no share."""
        weight, version = self.weights.get(alias, 0.0), self.version(self.aliases.get(alias))
        return (weight, version) if weight and version else None

    def version(self, number: int | None) -> Version | None:
        """The living version of that number; None where there is none."""
        return next((version for version in self.versions if version.number == number), None)

    def select(self, selector: str | None) -> Version | None:
        """What a number or an alias behind the @ means, without one the live version; None where it means nothing."""
        if selector is None:
            return self.live
        # Compared as text: `int` refuses thousands of digits.
        numbered = (version for version in self.versions if str(version.number) == selector)
        return next(numbered, None) or self.version(self.aliases.get(selector))

    def made(self, name: FineTunedName) -> Version | None:
        """The living version that OpenAI's clients call that; None where there is none."""
        of_job = (one for one in self.versions if (one.job_id or "").endswith(name.job))
        return next((one for one in of_job if one.fine_tuned_name == str(name)), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A stored answer, replayed for a repeated idempotency key."""

    status: int
    body: str
    location: str | None = None
    #: Whether it was stored before, for an earlier request with this key.
    replayed: bool = field(default=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class IdempotencyKey:
    """A client's key, with the digest of the request that it came with."""

    key: str
    request_digest: str
