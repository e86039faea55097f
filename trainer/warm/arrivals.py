"""Jobs on their way in: every rank prepares them for itself, and they come in when all ranks are ready."""

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import torch

from adapters.errors import GraftError
from adapters.manifest import dump_manifest
from trainer.messages import Admit, Finished, encode_report
from trainer.warm.admission import Admission, Admitted
from trainer.warm.crew import Crew

log = logging.getLogger(__name__)

#: How long tokenising may keep a training micro-batch waiting.
ADMISSION_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Refused:
    """A job that cannot be prepared."""

    code: str
    message: str
    retryable: bool = False


Outcome: TypeAlias = Admitted | Finished | Refused

DIFFERENT = Refused(
    "internal_error", "The ranks of the training process read different files.", retryable=True
)


@dataclass(slots=True)
class Arrival:
    """One job, prepared step by step."""

    order: Admit
    admission: Admission
    outcome: Outcome | None = None

    def advance(self, deadline: float) -> None:
        """Go on until it is over, well or not, or time is."""
        try:
            while self.outcome is None and time.monotonic() < deadline:
                next(self.admission)
        except StopIteration as ended:
            self.outcome = ended.value
        except GraftError as error:
            self.outcome = Refused(error.code, error.message)
        except OSError as error:
            message = f"The data cannot be read: {error}"
            self.outcome = Refused("storage_error", message, retryable=True)
        except Exception as error:  # one job's data must not take its neighbours down
            log.exception("%s could not be prepared", self.order.job_id)
            self.outcome = Refused("internal_error", f"Preparing the data failed: {error!r}")


class Arrivals:
    """The jobs that are being prepared; the same ones on every rank."""

    def __init__(self, crew: Crew) -> None:
        self._crew = crew
        self._arrivals: dict[str, Arrival] = {}

    def __bool__(self) -> bool:
        return bool(self._arrivals)

    def add(self, order: Admit, admission: Admission) -> None:
        """Prepare this job from now on."""
        self._arrivals[order.job_id] = Arrival(order, admission)

    def forget(self, job_id: str) -> None:
        """Prepare it no longer."""
        self._arrivals.pop(job_id, None)

    def advance(self) -> Iterator[tuple[Admit, Outcome]]:
        """Go on for a moment. Yields what is over on every rank, with the same outcome."""
        if not self._arrivals:
            return
        deadline = time.monotonic() + ADMISSION_SECONDS
        arrivals = list(self._arrivals.values())
        for arrival in arrivals:
            arrival.advance(deadline)
        ready = torch.tensor([int(arrival.outcome is not None) for arrival in arrivals])
        self._crew.sum_(ready)
        for arrival, count in zip(arrivals, ready.tolist(), strict=True):
            if count == self._crew.size:
                del self._arrivals[arrival.order.job_id]
                yield arrival.order, self._agreed(arrival)

    def _agreed(self, arrival: Arrival) -> Outcome:
        outcome = arrival.outcome
        assert outcome is not None
        mark = _mark(outcome)
        alike = self._crew.least(int(self._crew.agree(mark) == mark))
        if alike or isinstance(outcome, Refused):
            return outcome
        return DIFFERENT


def _mark(outcome: Outcome) -> str:
    """Equal where training would go the same way."""
    match outcome:
        case Admitted():
            return encode_report(outcome.started).decode()
        case Finished():
            return dump_manifest(outcome.manifest)
        case Refused():
            return outcome.code
