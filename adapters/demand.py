"""What the queue is asked for: requests that come again, and how much there is to do."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Sending:
    """One sending of a request by a client that repeats by itself and names no key, as OpenAI's SDK does."""

    #: Of what was meant; the same each time that it is sent.
    digest: str
    #: How often it has been sent before.
    retries: int
    arrived_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueLoad:
    """How much there is to do on a base model."""

    base_model: str
    queued: int
    running: int
    #: Until the first of the running jobs ends; None where no speed is known yet.
    soonest_end: float | None
    #: When the oldest of those that wait was submitted.
    oldest: float | None = None
    #: How many can be trained at a time; None where no trainer has said.
    slots: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a waiting job stands."""

    #: From 1, which is next.
    position: int
    #: Seconds until it is likely to start; None where nobody can tell.
    starts_in: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """How many jobs of a tenant may wait, and how many more than do."""

    limit: int
    left: int
    queued: int
    #: Seconds until a place more is expected: 0 where none is taken, None where nobody can tell.
    next_in: float | None
