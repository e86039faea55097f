"""The warm process: reads orders, trains, reports, until it is told to stop or the worker dies."""

import logging
import time

from adapters.errors import GraftError
from trainer.messages import Admit, Drop, Dropped, Failed, Finished, Ready, Shutdown
from trainer.warm.admission import Admission, Admitted, admit
from trainer.warm.limits import Limits
from trainer.warm.loop import Interrupted, Loop
from trainer.warm.mailbox import Mailbox
from trainer.warm.model import BaseModel
from trainer.warm.render import Renderer
from trainer.warm.threads import Threads

log = logging.getLogger(__name__)

#: How long tokenising may keep a training micro-batch waiting.
ADMISSION_SECONDS = 0.5


class WarmProcess:
    """One base model and the jobs that train on it."""

    def __init__(self, base: BaseModel, mailbox: Mailbox, limits: Limits, threads: Threads) -> None:
        self._base = base
        self._mailbox = mailbox
        self._threads = threads
        self._renderer = Renderer(base)
        self._loop = Loop(base, mailbox.send, limits)
        self._admissions: dict[str, tuple[Admit, Admission]] = {}
        base.routing.breathe = self._breathe

    def run(self) -> None:
        """Return on `Shutdown`, with every job's latest step durable.

        Raises:
            WorkerGone: at once, also in the middle of a micro-batch.
        """
        self._mailbox.send(Ready(card=self._base.card))
        while self._obey_orders():
            self._advance_admissions()
            try:
                self._loop.turn()
            except Interrupted:
                log.info("micro-batch abandoned for an order")
        self._loop.checkpoint_all()

    def _breathe(self) -> None:
        """Called in the middle of a pass, some hundred times; costs a system call."""
        self._threads.look()
        self._mailbox.fill()
        if self._mailbox.urgent:
            raise Interrupted

    def _obey_orders(self) -> bool:
        """Whether to go on."""
        self._mailbox.fill(wait=self._loop.idle and not self._admissions)
        while (order := self._mailbox.next()) is not None:
            match order:
                case Admit():
                    self._forget(order.job_id)
                    self._admissions[order.job_id] = order, admit(order, self._base, self._renderer)
                case Drop():
                    self._forget(order.job_id)
                    self._mailbox.send(Dropped(job_id=order.job_id))
                case Shutdown():
                    return False
        return True

    def _forget(self, job_id: str) -> None:
        self._admissions.pop(job_id, None)
        self._loop.drop(job_id)

    def _advance_admissions(self) -> None:
        deadline = time.monotonic() + ADMISSION_SECONDS
        for job_id, (order, admission) in list(self._admissions.items()):
            if self._advance(order, admission, deadline):
                del self._admissions[job_id]

    def _advance(self, order: Admit, admission: Admission, deadline: float) -> bool:
        """Whether the admission is over, well or not."""
        try:
            while time.monotonic() < deadline:
                next(admission)
        except StopIteration as ended:
            self._welcome(order, ended.value)
            return True
        except GraftError as error:
            self._refuse(order, error.code, error.message)
            return True
        except OSError as error:
            self._refuse(
                order, "storage_error", f"The data cannot be read: {error}", retryable=True
            )
            return True
        except Exception as error:  # one job's data must not take its neighbours down
            log.exception("%s could not be prepared", order.job_id)
            self._refuse(order, "internal_error", f"Preparing the data failed: {error!r}")
            return True
        return False

    def _welcome(self, order: Admit, outcome: Admitted | Finished) -> None:
        if isinstance(outcome, Finished):
            self._mailbox.send(outcome)
        else:
            self._mailbox.send(outcome.started)
            self._loop.admit(outcome.job, order.prove_past)

    def _refuse(self, order: Admit, code: str, message: str, *, retryable: bool = False) -> None:
        self._mailbox.send(
            Failed(
                job_id=order.job_id,
                attempt=order.attempt,
                code=code,
                message=message,
                retryable=retryable,
            )
        )
