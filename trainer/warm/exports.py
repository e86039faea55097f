"""Adapters on the way: what a job has learnt so far, exported by a thread while everybody trains on.

To write one stopped everybody for 0.07 to 0.1 s on a small machine, most of it for the disk (bench/LOG.md).
"""

from concurrent.futures import ThreadPoolExecutor

from trainer.warm.active import Active
from trainer.warm.finish import export_on_the_way
from trainer.warm.model import BaseModel
from trainer.warm.progress import Send


class Exports:
    """Those of all jobs. One after the other: they share the disk."""

    def __init__(self, base: BaseModel, send: Send) -> None:
        self._base = base
        self._send = send
        self._aside = ThreadPoolExecutor(1, "export")

    def begin(self, active: Active, now: float) -> None:
        """Have the job's weights exported as they are now. Raises OSError, where one before it failed."""
        active.progress.flush()
        self.tell(active)
        active.exporting = self._aside.submit(export_on_the_way(self._base, active.job))
        active.exported_at = now

    def ready(self, active: Active) -> bool:
        """Whether there is something to tell: the same on all ranks."""
        return active.exporting is not None and self._base.crew.agree(active.exporting.done())

    def tell(self, active: Active) -> None:
        """Report what is exported of the job, once it is, if anything is. Raises OSError, where it leads."""
        if active.exporting is not None:
            exporting, active.exporting = active.exporting, None
            self._send(exporting.result())
