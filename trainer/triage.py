"""Which job comes in next, and when one looks.

The oldest comes first. A suspect (a job that was lost twice in a row without getting further) comes in alone:

* It is taken only when nothing is in hand, and ahead of all others then.
* Until it has proved itself, by a checkpoint beyond where it was lost, nobody else comes in.
* A suspect that is first in the queue while others train throws nobody out; but nobody overtakes it either. So it waits
  for those that train, and those behind it wait until it has proved itself or failed.
* Where several wait, one that has proved itself makes way for the next (`Worker`), so that the last of them waits for
  proofs, not for whole trainings.
"""

import threading
import time
from collections.abc import Callable

from adapters.ledger import BEHIND_S, Ledger, Topic
from adapters.records import Job
from trainer.hands import Hands
from trainer.placement import Placement
from trainer.settings import TrainerSettings


class Triage:
    """Claims jobs for one worker."""

    def __init__(
        self,
        ledger: Ledger,
        settings: TrainerSettings,
        placement: Placement,
        wake: Callable[[], None] = lambda: None,
        *,
        base_model: str,
        worker_id: str,
    ) -> None:
        """`wake` is called, from a thread, when there may be a job and `patience` is over."""
        self._jobs = ledger.jobs
        self._settings = settings
        self._placement = placement
        self._base_model = base_model
        self._worker_id = worker_id
        self._look_at = 0.0
        self._changes = ledger.changes
        self._news = threading.Event()
        self._wake = wake
        self._changes.follow(Topic.QUEUED, self._hear)

    @property
    def patience(self) -> float:
        """Seconds until the next look: none after a claim, since jobs that come together shall start together."""
        left = 0.0 if self._news.is_set() else self._look_at - time.monotonic()
        return min(max(0.0, left), self._settings.poll_seconds)

    def next(self, hands: Hands, *, ready: bool) -> Job | None:
        """Claim a job, if it is time to look, and there is one, and it may come in here and now."""
        willing = ready and len(hands) < self._settings.max_jobs and not hands.proving
        self._tell(len(hands) if willing else None)
        if self.patience > 0:
            return None
        self._news.clear()
        job = self._claim(alone=not len(hands)) if willing else None
        if job is None:
            self._look_at = time.monotonic() + self._pause(willing=willing)
        else:
            self._look_at = 0.0
            self._tell(None if job.suspect else len(hands) + 1)
        return job

    def close(self) -> None:
        """Nothing comes in here for now."""
        self._placement.close(self._worker_id)

    def must_make_way(self) -> bool:
        """Whether another suspect waits for a process of its own."""
        return self._jobs.suspects_wait(base_model=self._base_model)

    def _hear(self) -> None:
        self._news.set()
        self._wake()

    def _pause(self, *, willing: bool) -> float:
        """Seconds until the next look, where nothing was found. It can be late only where one is told of new jobs.

        Who has no room, or is not the one whose turn it is, is told by nobody when that changes.
        """
        mine = willing and self._placement.least(self._worker_id)
        poll = self._settings.poll_seconds
        return max(poll, BEHIND_S) if mine and self._changes.told else poll

    def _tell(self, load: int | None) -> None:
        if load is None:
            self.close()
        else:
            self._placement.open(self._worker_id, load)

    def _claim(self, *, alone: bool) -> Job | None:
        # A look is a read: it holds up nobody, twenty times a second. Only a claim takes the write lock.
        if not self._placement.least(self._worker_id) or not self._jobs.waits(
            base_model=self._base_model, alone=alone, max_losses=self._settings.max_losses
        ):
            return None
        return self._jobs.claim(
            worker=self._worker_id,
            base_model=self._base_model,
            lease_seconds=self._settings.lease_seconds,
            max_losses=self._settings.max_losses,
            alone=alone,
        )
