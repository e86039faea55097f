"""What travels between machines for a job: its data and its checkpoints, by way of the bucket.

Checkpoints are sent beside everything else, by a thread of their own, the newest of each job: nothing waits for them,
and what was not sent before the machine died is some steps that are trained once more.
"""

import logging
import shutil
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path

from adapters.errors import ArtifactCorrupt, StoreUnavailable
from adapters.ledger import Ledger
from adapters.records import Job
from trainer.messages import Admit, checkpoints_dir

log = logging.getLogger(__name__)

#: Why a job of which the data could not be fetched goes back to the queue, and for how long.
WAITS = "The artifact store does not answer; the job waits for it"
AGAIN_S = 5.0
#: In a job's work folder: what it reads, where that is not a folder of this machine's anyway.
_INPUTS = "inputs"
#: How long a trainer that stops waits for checkpoints to be sent.
_LAST_S = 15.0


class Freight:
    """Brings what jobs need, and sends their checkpoints."""

    def __init__(self, ledger: Ledger, work_dir: Path) -> None:
        self._ledger, self._work_dir = ledger, work_dir
        self._sender = ThreadPoolExecutor(1, thread_name_prefix="checkpoints")
        #: By job: the name of its newest checkpoint that is in the bucket.
        self._sent: dict[str, str] = {}

    def bring(self, job: Job) -> Admit:
        """All that the job needs, on this machine.

        Raises:
            GraftError: a file or a version is not there any more.
            StoreUnavailable: nobody can be asked for it now.
        """
        folder = self._work_dir / job.id
        inputs, files, parent = folder / _INPUTS, self._ledger.files, job.spec.parent
        self._bring_checkpoint(job, folder)
        return Admit(
            job_id=job.id,
            attempt=job.attempt,
            spec=job.spec,
            data=files.lend(job.training_file, inputs),
            validation=files.lend(job.validation_file, inputs) if job.validation_file else None,
            work_dir=folder,
            dataset_digest=job.dataset.digest,
            parent=self._ledger.lend(parent, inputs) if parent else None,
            prove_past=job.lost_at if job.suspect else None,
        )

    def send(self, job_id: str) -> None:
        """Send the job's newest checkpoint soon, if it has not been sent."""
        if self._ledger.states is not None:
            self._soon(self._send, job_id)

    def close(self, job_ids: Iterable[str]) -> None:
        """Send the newest checkpoints of these, if that is possible within some seconds, and then nothing any more."""
        if self._ledger.states is not None:
            wait([self._soon(self._send, job_id) for job_id in job_ids], _LAST_S)
        self._sender.shutdown(wait=False, cancel_futures=True)

    def forget(self, job: Job) -> None:
        """The job has ended: remove its work folder, and its checkpoints everywhere."""
        shutil.rmtree(self._work_dir / job.id, ignore_errors=True)
        if self._ledger.states is not None:
            self._soon(self._forget, job.id)

    def _soon(self, errand: Callable[[str], None], job_id: str) -> Future[None]:
        future = self._sender.submit(errand, job_id)
        future.add_done_callback(_fail_visibly)
        return future

    def _bring_checkpoint(self, job: Job, folder: Path) -> None:
        """The newest, where another machine has got further than this one. Without, the job begins anew."""
        if self._ledger.states is None or job.attempt == 1:
            return
        checkpoints = checkpoints_dir(folder)
        here = max((path.name for path in checkpoints.glob("step-*")), default="")
        try:
            name = self._ledger.states.fetch(job.id, checkpoints, beyond=here)
        except StoreUnavailable:
            if not here:
                raise
            return  # at worst some steps are trained once more
        except ArtifactCorrupt as error:
            log.warning("a checkpoint of %s cannot be used: %s", job.id, error)
            return
        if name is not None:
            self._sent[job.id] = name
            log.info("%s goes on from %s of another machine", job.id, name)

    def _send(self, job_id: str) -> None:
        assert self._ledger.states is not None
        folder = checkpoints_dir(self._work_dir / job_id)
        newest = max(folder.glob("step-*"), default=None)
        if newest is None or newest.name <= self._sent.get(job_id, ""):
            return
        try:
            self._ledger.states.put(job_id, newest)
        except StoreUnavailable:
            log.warning("%s of %s could not be sent; the next will be", newest.name, job_id)
        except OSError:
            log.info("%s of %s has gone for a newer one", newest.name, job_id)
        else:
            self._sent[job_id] = newest.name

    def _forget(self, job_id: str) -> None:
        assert self._ledger.states is not None
        self._sent.pop(job_id, None)
        try:
            self._ledger.states.delete(job_id)
        except StoreUnavailable:
            log.warning("the checkpoints of %s stay in the bucket until a sweep", job_id)


def _fail_visibly(future: Future[None]) -> None:
    if not future.cancelled() and (error := future.exception()) is not None:
        log.error("a checkpoint could not be sent or removed", exc_info=error)
