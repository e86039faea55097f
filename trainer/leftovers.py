"""What nobody needs any more: files of deleted versions, expired files, parts of uploads, old logs, work folders."""

import logging
import shutil
from pathlib import Path

from adapters.ledger import Ledger
from adapters.records import Job
from trainer.hands import Hands
from trainer.settings import TrainerSettings

log = logging.getLogger(__name__)


class Leftovers:
    """Removes them."""

    def __init__(self, ledger: Ledger, work_dir: Path, settings: TrainerSettings) -> None:
        self._ledger = ledger
        self._work_dir = work_dir
        self._purge_after = settings.purge_after_seconds
        self._deliveries_after = settings.keep_deliveries_seconds

    def remove(self, job: Job) -> None:
        """The work folder of a job that has ended."""
        shutil.rmtree(self._work_dir / job.id, ignore_errors=True)

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
        for folder in self._work_dir.glob("ftjob-*"):
            if hands.get(folder.name) is None:
                job = self._ledger.jobs.get(folder.name)
                if job.status.terminal:
                    self.remove(job)
