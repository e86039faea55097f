"""What nobody needs any more: files of deleted versions, expired files, parts of uploads, old logs, work folders."""

import logging
import time
from contextlib import suppress
from pathlib import Path

from adapters.errors import JobNotFound, StoreUnavailable
from adapters.ledger import Ledger
from adapters.records import Job
from trainer.freight import Freight
from trainer.hands import Hands
from trainer.settings import TrainerSettings

log = logging.getLogger(__name__)

#: What nobody names is looked for that often. All of the store is read through for it.
_SWEEP_S, _FIRST_SWEEP_S = 6 * 3600.0, 600.0
#: Nobody takes this long to name what they have stored.
_FORGOTTEN_S = 24 * 3600.0


class Leftovers:
    """Removes them."""

    def __init__(
        self, ledger: Ledger, work_dir: Path, settings: TrainerSettings, freight: Freight
    ) -> None:
        self._ledger = ledger
        self._freight = freight
        self._sweep_at = time.monotonic() + _FIRST_SWEEP_S
        self._work_dir = work_dir
        self._purge_after = settings.purge_after_seconds
        self._deliveries_after = settings.keep_deliveries_seconds

    def remove(self, job: Job) -> None:
        """The work folder of a job that has ended, and its checkpoints."""
        self._freight.forget(job)

    def purge(self, hands: Hands) -> None:
        """All of them: also of jobs that ended while no process had them, cancelled in the queue or lost too often."""
        purged = self._ledger.registry.purge(older_than=self._purge_after)
        purged += self._ledger.checkpoints.purge(older_than=self._purge_after)
        self._ledger.storage.weigh()
        if purged:
            log.info("removed the files of %d deleted versions and checkpoints", purged)
        expired = self._ledger.files.purge(older_than=self._purge_after)
        if expired:
            log.info("removed %d expired files", expired)
        parts = self._ledger.uploads.purge(older_than=self._purge_after)
        if parts:
            log.info("removed %d parts of uploads that have ended", parts)
        deliveries = self._ledger.webhooks.purge(older_than=self._deliveries_after)
        if deliveries:
            log.info("removed %d webhook deliveries from their log", deliveries)
        self._clear_folders(hands)
        if time.monotonic() >= self._sweep_at:
            self.sweep()

    def _clear_folders(self, hands: Hands) -> None:
        for folder in self._work_dir.glob("ftjob-*"):
            if hands.get(folder.name) is None:
                # Of a job that this ledger does not know it is no rubbish: the database may be an older one or another.
                with suppress(JobNotFound):
                    job = self._ledger.jobs.get(folder.name)
                    if job.status.terminal:
                        self.remove(job)

    def sweep(self) -> None:
        """What lies in the store and nobody names."""
        self._sweep_at = time.monotonic() + _SWEEP_S
        try:
            removed = self._ledger.sweeper.sweep(now=time.time(), older_than=_FORGOTTEN_S)
        except StoreUnavailable:
            return  # another time
        if removed:
            log.info("removed %d things from the store that nobody names", removed)
