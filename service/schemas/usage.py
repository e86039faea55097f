"""What a tenant uses and may use, on the wire."""

from typing import Literal

from pydantic import BaseModel


class WireStored(BaseModel):
    """Bytes; `limit` is null where nothing bounds them."""

    bytes: int
    limit: int | None
    files: int
    uploads: int
    versions: int
    checkpoints: int


class WireQueued(BaseModel):
    """Jobs that wait, and what a job may ask for."""

    queued: int
    limit: int
    highest_priority: Literal["low", "normal", "high"]


class WireRate(BaseModel):
    """What may be asked for in a minute, in the process that answers."""

    limit_per_minute: int
    remaining: int
    reset_seconds: float


class WireUsage(BaseModel):
    """What a tenant uses, and what it may use."""

    object: Literal["usage"]
    tenant: str
    stored: WireStored
    jobs: WireQueued
    #: Null where nothing bounds them.
    requests: WireRate | None
    tokens: WireRate | None
