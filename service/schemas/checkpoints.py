"""Checkpoints on the wire: OpenAI's `fine_tuning.job.checkpoint`."""

from typing import Literal

from adapters.weights import Checkpoint
from service.schemas.pages import Listed, Page


class WireCheckpoint(Listed):
    """What a job's adapter was after a step."""

    object: Literal["fine_tuning.job.checkpoint"]
    created_at: int
    fine_tuned_model_checkpoint: str
    fine_tuning_job_id: str
    step_number: int
    metrics: dict[str, float]


class WireCheckpointList(Page[WireCheckpoint]):
    """A page of them, newest first."""


def wire_checkpoint(checkpoint: Checkpoint) -> WireCheckpoint:
    """The checkpoint as clients see it."""
    return WireCheckpoint(
        id=checkpoint.id,
        object="fine_tuning.job.checkpoint",
        created_at=int(checkpoint.created_at),
        fine_tuned_model_checkpoint=checkpoint.name,
        fine_tuning_job_id=checkpoint.job_id,
        step_number=checkpoint.step,
        metrics=checkpoint.metrics,
    )
