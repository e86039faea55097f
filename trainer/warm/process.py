"""The warm process: reads orders, trains, reports, until it is told to stop or the worker dies."""

import logging
import time

from trainer.messages import (
    Admit,
    Drop,
    Dropped,
    Failed,
    Finished,
    Ready,
    Shutdown,
    decode_order,
    encode_order,
)
from trainer.warm.admission import admit
from trainer.warm.arrivals import Arrivals, Outcome, Refused
from trainer.warm.limits import Limits
from trainer.warm.loop import Interrupted, Loop
from trainer.warm.mailbox import Following, Mailbox
from trainer.warm.model import BaseModel
from trainer.warm.presence import Presence
from trainer.warm.render import Renderer
from trainer.warm.threads import Threads

log = logging.getLogger(__name__)

#: How long an idle process waits for an order before the ranks meet again, so that none gives up on the others.
IDLE_SECONDS = 30.0
#: How long the first of some jobs that come one right after the other waits for the rest to be prepared.
GATHERING_SECONDS = 1.0


class WarmProcess:
    """One base model and the jobs that train on it."""

    def __init__(
        self,
        base: BaseModel,
        mailbox: Mailbox | Following,
        limits: Limits,
        threads: Threads,
        presence: Presence,
    ) -> None:
        self._base = base
        self._mailbox = mailbox
        self._threads = threads
        self._presence = presence
        self._renderer = Renderer(base)
        self._loop = Loop(base, mailbox.send, limits)
        self._arrivals = Arrivals(base.crew)
        base.routing.breathe = self._breathe

    def run(self) -> None:
        """Return on `Shutdown`, with every job's latest step durable.

        Raises:
            WorkerGone: at once, also in the middle of a micro-batch.
        """
        self._mailbox.send(Ready(card=self._base.card))
        gathering, latest = False, 0.0
        while self._obey_orders():
            if self._loop.idle:
                gathering, latest = True, time.monotonic() + GATHERING_SECONDS
            for order, outcome in self._arrivals.advance():
                self._welcome(order, outcome)
            gathering = gathering and self._more_come(latest)
            if gathering:
                continue
            try:
                self._loop.turn()
            except Interrupted:
                log.info("micro-batch abandoned for an order")
        self._loop.checkpoint_all()

    def _more_come(self, latest: float) -> bool:
        """Whether there are more jobs at the door, for which those that are in have the time to wait.

        Who comes together begins together, and ends together: what follows an end, on a CPU the first questions to a
        new adapter above all, takes cores from whoever still trains.
        """
        self._mailbox.fill()
        coming = bool(self._arrivals) or self._mailbox.waiting
        return self._base.crew.agree(coming and time.monotonic() < latest)

    def _breathe(self) -> None:
        """Called in the middle of a pass, some hundred times; costs a system call."""
        self._threads.look()
        if self._base.crew.size > 1:  # the other ranks would wait for the rest of the pass
            return
        self._mailbox.fill()
        if self._mailbox.urgent:
            raise Interrupted

    def _obey_orders(self) -> bool:
        """Whether to go on."""
        for order in self._orders():
            match order:
                case Admit():
                    self._forget(order.job_id)
                    self._arrivals.add(order, admit(order, self._base, self._renderer))
                case Drop():
                    if order.keep:
                        self._loop.keep(order.job_id)
                    self._forget(order.job_id)
                    self._mailbox.send(Dropped(job_id=order.job_id))
                case Shutdown():
                    return False
        return True

    def _orders(self) -> list[Admit | Drop | Shutdown]:
        """What the leader has been told since the last turn."""
        waiting = self._loop.idle and not self._arrivals
        if waiting:
            self._presence.end()
        self._mailbox.fill(wait=IDLE_SECONDS if waiting else 0.0)
        self._presence.begin()
        lines = []
        while (order := self._mailbox.next()) is not None:
            lines.append(encode_order(order).decode())
        return [decode_order(line.encode()) for line in self._base.crew.agree(lines)]

    def _forget(self, job_id: str) -> None:
        self._arrivals.forget(job_id)
        self._loop.drop(job_id)

    def _welcome(self, order: Admit, outcome: Outcome) -> None:
        match outcome:
            case Finished():
                self._mailbox.send(outcome)
            case Refused():
                self._mailbox.send(
                    Failed(
                        job_id=order.job_id,
                        attempt=order.attempt,
                        code=outcome.code,
                        message=outcome.message,
                        retryable=outcome.retryable,
                    )
                )
            case _:
                self._mailbox.send(outcome.started)
                self._loop.admit(outcome.job, order.prove_past)
