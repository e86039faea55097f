"""Worker processes by the hundred. A process that has imported everything forks them: a birth costs milliseconds.

What is forked is the real worker (`trainer.worker.Worker`) on a real ledger; what it supervises is the toy of toy.py.
"""

import json
import os
import select
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from adapters.heap import share_arenas

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, kw_only=True)
class Order:
    """Which worker is wanted."""

    home: str
    database_url: str = ""
    #: Of the bucket, as `LedgerSettings` takes it; empty where there is none.
    store: dict[str, str] = field(default_factory=dict)
    name: str = "w"
    base: str = "tiny-base"
    lease_seconds: float = 1.01
    heartbeat_seconds: float = 0.2
    max_jobs: int = 4
    step_seconds: float = 0.003


class Process:
    """One of the forked, by its file descriptor: its number may be somebody else's once it is dead."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._handle = os.pidfd_open(pid)

    @property
    def alive(self) -> bool:
        return not select.select([self._handle], [], [], 0)[0]

    def send(self, number: int) -> None:
        signal.pidfd_send_signal(self._handle, number)

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        if self.alive:
            self.send(signal.SIGKILL)
        select.select([self._handle], [], [])
        os.close(self._handle)


class Nursery:
    """The process that forks."""

    def __init__(self) -> None:
        self._mother = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.nursery"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def bear(self, order: Order) -> Process:
        """A new worker, which begins at once."""
        assert self._mother.stdin is not None
        assert self._mother.stdout is not None
        self._mother.stdin.write(json.dumps(asdict(order)) + "\n")
        self._mother.stdin.flush()
        return Process(int(self._mother.stdout.readline()))

    def close(self) -> None:
        """It takes what it has borne along."""
        self._mother.kill()
        self._mother.wait()
        for pipe in (self._mother.stdin, self._mother.stdout):
            assert pipe is not None
            pipe.close()


def main() -> None:
    work, die_with_parent = _loaded()
    share_arenas()  # as a trainer does
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the dead
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            die_with_parent()
            try:
                work(Order(**json.loads(line)))
            except BaseException:
                traceback.print_exc()
                raise
            finally:
                os._exit(1)
        sys.stdout.write(f"{pid}\n")
        sys.stdout.flush()


def _loaded() -> tuple[Callable[[Order], None], Callable[[], None]]:
    from adapters.db import postgres  # noqa: F401  its driver too, before anybody is forked
    from adapters.errors import Unavailable
    from adapters.ledger import Ledger, open_ledger
    from adapters.settings import LedgerSettings, QueueSettings
    from tests.chaos.toy import ToyProcess, die_with_parent
    from trainer.metrics import Metrics
    from trainer.placement import Placement
    from trainer.settings import TrainerSettings
    from trainer.worker import Worker

    def opened(settings: LedgerSettings) -> Ledger:
        # A trainer that finds no database when it starts ends, and whoever started it starts it again.
        while True:
            try:
                return open_ledger(settings, queue=QueueSettings())
            except Unavailable:
                time.sleep(0.1)

    def work(order: Order) -> None:
        settings = LedgerSettings(
            home=Path(order.home), database_url=order.database_url, **order.store
        )
        Worker(
            ledger=opened(settings),
            process=ToyProcess(base=order.base, step_seconds=order.step_seconds),
            settings=TrainerSettings(
                lease_seconds=order.lease_seconds,
                heartbeat_seconds=order.heartbeat_seconds,
                poll_seconds=0.01,
                max_jobs=order.max_jobs,
                max_losses=10**6,
                retry_seconds=(0.0,),
            ),
            base_model=order.base,
            worker_id=order.name,
            work_dir=settings.work_dir,
            metrics=Metrics(),
            placement=Placement(),
        ).run(lambda: False)

    return work, die_with_parent


if __name__ == "__main__":
    main()
