"""The queue of each base model, as one tenant sees it."""

from collections.abc import Sequence

from adapters.demand import Place
from adapters.ledger import QueueBoard
from adapters.records import Job, JobStatus, Priority
from service.schemas.jobs import estimated_finish, wire_place
from service.schemas.queue import (
    WireModelQueue,
    WireOthers,
    WireQueues,
    WireRunning,
    WireWaiting,
)


class Lines:
    """Reads the ledger; routes call it in a thread."""

    def __init__(self, board: QueueBoard, base_models: Sequence[str]) -> None:
        self._board, self._base_models = board, base_models

    def look(self, tenant: str, now: float) -> WireQueues:
        """What runs and what waits, for each base model. Of other tenants only how many."""
        slots = {load.base_model: load.slots for load in self._board.loads()}
        data = [self._of(one, slots.get(one), tenant, now) for one in self._base_models]
        return WireQueues(object="list", data=data)

    def _of(self, base_model: str, slots: int | None, tenant: str, now: float) -> WireModelQueue:
        busy, places = self._board.busy(base_model)
        own = {job.id: job for job in busy if job.tenant == tenant}
        running = [job for job in own.values() if job.status is JobStatus.RUNNING]
        waiting = [
            own[job_id]
            for job_id in places
            if job_id in own and own[job_id].status is JobStatus.QUEUED
        ]
        others = [job for job in busy if job.tenant != tenant]
        return WireModelQueue(
            base_model=base_model,
            max_concurrent_jobs=slots,
            running=[_running(job, now) for job in running],
            waiting=[_waiting(job, places[job.id], now) for job in waiting],
            others=WireOthers(
                running=sum(job.status is JobStatus.RUNNING for job in others),
                waiting=sum(job.status is JobStatus.QUEUED for job in others),
            ),
            estimated_wait_seconds=self._board.wait(base_model, priority=Priority.NORMAL),
        )


def _running(job: Job, now: float) -> WireRunning:
    return WireRunning(
        id=job.id,
        adapter=job.adapter,
        priority=job.priority,
        phase=job.phase.value,
        started_at=int(job.started_at) if job.started_at is not None else None,
        percent=round(job.progress.percent, 2),
        estimated_finish=estimated_finish(job, now),
    )


def _waiting(job: Job, place: Place, now: float) -> WireWaiting:
    return WireWaiting(
        id=job.id,
        adapter=job.adapter,
        priority=job.priority,
        created_at=int(job.created_at),
        **wire_place(place, now).model_dump(),
    )
