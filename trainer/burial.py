"""What becomes of the jobs of a training process that died, and when it is started again."""

import logging
import time

from adapters.errors import Unavailable
from adapters.ledger import Ledger
from trainer.hands import Hands
from trainer.settings import TrainerSettings

log = logging.getLogger(__name__)

_MAX_PAUSE_S = 30.0


class Burial:
    """Gives the jobs of the dead back. A ledger that does not answer then is told again before the next start."""

    def __init__(
        self, ledger: Ledger, hands: Hands, settings: TrainerSettings, worker_id: str
    ) -> None:
        self._ledger = ledger
        self._hands = hands
        self._settings = settings
        self._worker_id = worker_id
        self._reason = ""
        self._start_at = 0.0
        self._pause_s = 0.0

    def take_back(self) -> bool:
        """Give back what an earlier process of this worker held. False where the ledger does not answer."""
        try:
            taken = self._ledger.jobs.take_back(self._worker_id)
        except Unavailable as error:
            log.warning("the ledger does not answer: %s", error)
            return False
        if taken:
            log.info("took back %d jobs of an earlier process", taken)
        return True

    def hold(self, death: Exception) -> None:
        """The process has died. One that dies again and again waits longer each time."""
        log.error(
            "the training process of %s died with %d jobs: %s",
            self._worker_id,
            len(self._hands),
            death,
        )
        self._start_at = time.monotonic() + self._pause_s
        self._pause_s = min(_MAX_PAUSE_S, self._pause_s * 2 or 0.5)
        self._reason = f"The training process died ({death}); continuing from the last checkpoint"
        try:
            self._give_back()
        except Unavailable as error:
            log.warning("its jobs are in hand until the ledger answers: %s", error)

    def is_over(self) -> bool:
        """Whether the process may be started. Raises Unavailable, while its jobs cannot be given back."""
        self._give_back()
        return time.monotonic() >= self._start_at

    def forget(self) -> None:
        """The process lives: its next death is the first in a row."""
        self._pause_s = 0.0

    def _give_back(self) -> None:
        if not self._reason:
            return
        self._hands.give_all_back(reason=self._reason, delay=self._settings.retry_after)
        self._reason = ""
