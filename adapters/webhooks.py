"""Webhooks, in the domain's words: who is told, of what, and how often it is tried. Times are Unix seconds."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

#: Seconds from one failed attempt to the next. The first attempt is made at once; after the last of these none follows.
RETRY_AFTER_S: Final = (5.0, 300.0, 1800.0, 7200.0, 18_000.0, 36_000.0, 36_000.0)
#: An endpoint that nothing has reached for this long is told no more.
DISABLED_AFTER_S: Final = 5 * 24 * 3600.0
#: How long a secret still signs after its successor has come, where that is wanted.
OLD_SECRET_S: Final = 24 * 3600.0
_SHOWN = 4


class Happening(StrEnum):
    """What there is to tell of a job."""

    SUCCEEDED = "fine_tuning.job.succeeded"
    FAILED = "fine_tuning.job.failed"
    CANCELLED = "fine_tuning.job.cancelled"
    RUNNING = "fine_tuning.job.running"
    PAUSED = "fine_tuning.job.paused"
    CHECKPOINT_CREATED = "fine_tuning.job.checkpoint.created"
    ADAPTER_READY = "adapter.ready"


#: OpenAI's own. The others are sent to those who name them only: OpenAI's SDK takes an unknown type for a known one.
ENDINGS: Final = (Happening.SUCCEEDED, Happening.FAILED, Happening.CANCELLED)


class DeliveryStatus(StrEnum):
    """pending -> delivered | failed; a retry by hand makes it pending again."""

    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class NewEndpoint:
    """An endpoint as it is asked for."""

    id: str
    name: str
    url: str
    event_types: tuple[Happening, ...] = ENDINGS
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Somebody who is told."""

    id: str
    #: Set where it belongs to one job and hears of that one only.
    job_id: str | None
    name: str
    url: str
    event_types: tuple[Happening, ...]
    secret: str = field(repr=False)
    old_secret: str | None = field(repr=False)
    old_secret_until: float | None
    created_at: float
    updated_at: float
    #: When the first of the deliveries failed that have failed since the last success.
    failing_since: float | None
    disabled_at: float | None
    disabled_reason: str | None

    def secrets(self, now: float) -> tuple[str, ...]:
        """What signs at this moment, the newest first."""
        if self.old_secret is None or (self.old_secret_until or 0.0) <= now:
            return (self.secret,)
        return (self.secret, self.old_secret)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobWebhook:
    """What a job remembers of its own endpoint."""

    id: str
    url: str
    event_types: tuple[Happening, ...]
    secret_hint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobNews:
    """How a job stood when something happened to it."""

    job_id: str
    status: str
    adapter: str
    base_model: str
    #: `name@N`, once there is one.
    fine_tuned_model: str | None
    error: dict[str, str | None] | None = None
    #: Of a checkpoint.
    step: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Announcement:
    """Something that happened, under the id that it has for everybody who is told."""

    id: str
    type: Happening
    created_at: float
    news: JobNews


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One announcement for one endpoint: an entry of the outbox, and later of the log."""

    id: str
    endpoint_id: str
    announcement: Announcement
    status: DeliveryStatus
    #: Attempts that have ended.
    attempts: int
    #: How often it was taken up. The fencing number: who took it up before has nothing to say any more.
    claims: int
    due_at: float
    lease_expires_at: float | None
    last_attempt_at: float | None
    last_status: int | None
    last_error: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Errand:
    """A delivery that was taken up, and where it goes."""

    delivery: Delivery
    endpoint: Endpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How an attempt went."""

    #: What the endpoint answered; None where it did not.
    status: int | None
    #: Why that is no success; None where it is one.
    error: str | None = None
    #: The endpoint says that it is gone for good.
    gone: bool = False


def secret_hint(secret: str) -> str:
    """Enough to tell secrets apart, and no more."""
    return f"whsec_...{secret[-_SHOWN:]}"
