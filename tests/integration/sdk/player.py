"""Plays the trainer: claims jobs, reports steps, publishes. No model, no torch; everything else is real."""

import asyncio
from pathlib import Path

from adapters.errors import LeaseLost
from adapters.ledger import Ledger
from adapters.records import (
    EventKind,
    Job,
    JobNote,
    NewEvent,
    Phase,
    Progress,
)
from tests.integration.sdk.scenarios import SLOW
from tests.support.samples import adapter_directory, manifest

STEPS = 3


class Player:
    """A trainer of one base model, one job at a time."""

    def __init__(self, ledger: Ledger, base_model: str, made: Path) -> None:
        self._ledger = ledger
        self._base_model = base_model
        self._made = made
        self._stopped = False

    def stop(self) -> None:
        self._stopped = True

    async def play(self) -> None:
        """Until told to stop."""
        while not self._stopped:
            # A little late, so that a job that was just made can be cancelled and paused while it waits.
            await asyncio.sleep(0.3)
            job = self._ledger.jobs.claim(
                worker="player", base_model=self._base_model, lease_seconds=60, max_losses=9
            )
            if job is not None:
                await self._train(job)

    async def _train(self, job: Job) -> None:
        slow = job.metadata == SLOW
        for step in range(1, STEPS + 1):
            note = self._note(job, step)
            if self._ledger.jobs.record([note]):
                self._ledger.jobs.requeue([note], reason="told to stop", lost=False)
                return
            await asyncio.sleep(1.0 if slow else 0.01)
        try:
            source = adapter_directory(self._made / job.id, content=job.id.encode())
            self._ledger.registry.publish(job, source, manifest(job), promote=True)
        except LeaseLost:
            self._ledger.jobs.requeue([self._note(job, STEPS)], reason="told to stop", lost=False)

    def _note(self, job: Job, step: int) -> JobNote:
        progress = Progress(
            step=step, total_steps=STEPS, percent=100 * step / STEPS, train_loss=1 / step
        )
        data = {"step": step, "total_steps": STEPS, "train_loss": 1 / step}
        message = f"Step {step}/{STEPS}: training loss={1 / step:.2f}"
        event = NewEvent(kind=EventKind.METRICS, message=message, data=data)
        return JobNote(job=job, phase=Phase.TRAINING, progress=progress, events=(event,))
