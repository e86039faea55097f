"""The queue of each base model, as one tenant sees it."""

from typing import Literal

from pydantic import BaseModel

from adapters.records import Priority


class WireRunning(BaseModel):
    """A job in training."""

    id: str
    adapter: str
    priority: Priority
    phase: str
    started_at: int | None
    percent: float
    #: None where no speed is known yet.
    estimated_finish: int | None


class WireWaiting(BaseModel):
    """A job that waits. Its position counts everybody's."""

    id: str
    adapter: str
    priority: Priority
    position: int
    created_at: int
    #: None where nobody can tell.
    estimated_start: int | None


class WireOthers(BaseModel):
    """How many jobs of others there are."""

    running: int
    waiting: int


class WireModelQueue(BaseModel):
    """A base model: what trains on it, and what waits, in the order in which it would be taken up now."""

    base_model: str
    #: Jobs that are trained at a time; None while no trainer is there.
    max_concurrent_jobs: int | None
    running: list[WireRunning]
    waiting: list[WireWaiting]
    others: WireOthers
    #: Until one more job would start; None where nobody can tell.
    estimated_wait_seconds: float | None


class WireQueues(BaseModel):
    """`GET /queue`."""

    object: Literal["list"]
    data: list[WireModelQueue]
