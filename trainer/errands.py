"""What may take long at the bucket, done beside the worker's loop; and what must wait, since nobody answers."""

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import ParamSpec, TypeVar

from trainer.messages import Exported, Finished

P = ParamSpec("P")
T = TypeVar("T")
Postponable = Exported | Finished

#: How long a report waits for the bucket before it is taken up again.
_LATER_S = 2.0


class Errands:
    """Runs one at a time."""

    def __init__(self, meanwhile: Callable[[], None], *, every: float, beside: bool) -> None:
        """`meanwhile` is done every so many seconds. Where nothing travels, errands need not be `beside` the loop."""
        self._meanwhile, self._every = meanwhile, every
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="errands") if beside else None

    def run(self, errand: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
        """Its result. Raises what it raises, and what `meanwhile` does: it goes on then, and its result is lost."""
        if self._thread is None:
            return errand(*args, **options)
        done = self._thread.submit(errand, *args, **options)
        while not wait([done], timeout=self._every).done:
            self._meanwhile()
        return done.result()

    def close(self) -> None:
        """Run no more."""
        if self._thread is not None:
            self._thread.shutdown(wait=False, cancel_futures=True)


class Postponed:
    """Reports that cannot be acted on yet, in their order."""

    def __init__(self) -> None:
        self._reports: deque[Postponable] = deque()
        self._due_at = 0.0

    def add(self, report: Postponable) -> None:
        """Take it up again in a while."""
        self._reports.append(report)
        self._due_at = time.monotonic() + _LATER_S

    def concerns(self, job_id: str) -> bool:
        """Whether something of that job is waiting; the next of its kind must wait too."""
        return any(report.job_id == job_id for report in self._reports)

    def due(self) -> list[Postponable]:
        """All of them, once it is time."""
        if not self._reports or time.monotonic() < self._due_at:
            return []
        due = list(self._reports)
        self._reports.clear()
        return due

    def clear(self) -> None:
        """Forget them: whoever made the reports will make them again."""
        self._reports.clear()
