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
