"""The worker's side of a warm process, for measuring it."""

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from adapters.settings import DEMO_MODEL
from bench.processes import python, running
from trainer.messages import (
    Admit,
    Drop,
    Dropped,
    Failed,
    Ready,
    Report,
    Stepped,
    decode_report,
    encode_order,
)

#: For one report. A cold start on a busy machine takes half a minute.
PATIENCE = 180.0


class WarmClient:
    """Gives orders and waits for what they lead to."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(PATIENCE)
        self._connection = connection
        self._lines = connection.makefile("rb")

    def wait_until_ready(self) -> None:
        """The base model is loaded."""
        while not isinstance(self._next(), Ready):
            pass

    def admit(self, order: Admit) -> Stepped:
        """The job's first step."""
        self._connection.sendall(encode_order(order))
        while True:
            report = self._next()
            assert not isinstance(report, Failed), report
            if isinstance(report, Stepped) and report.job_id == order.job_id:
                assert report.progress.step == 1, "the first step went by unseen"
                return report

    def drop(self, job_id: str) -> None:
        """The job is gone."""
        self._connection.sendall(encode_order(Drop(job_id=job_id)))
        while self._next() != Dropped(job_id=job_id):
            pass

    def close(self) -> None:
        """Hang up."""
        self._lines.close()
        self._connection.close()

    def _next(self) -> Report:
        line = self._lines.readline()
        assert line, "the warm process is gone"
        return decode_report(line)


@contextmanager
def warm_process(config: Path, log: Path) -> Iterator[WarmClient]:
    """`python -m trainer.warm` of the demo model, on one thread; started, and not waited for."""
    ours, theirs = socket.socketpair()
    command = python(
        config,
        *("trainer.warm", DEMO_MODEL, "--fd", str(theirs.fileno()), "--device", "cpu"),
        GRAFT_TRAINER_THREADS="1",
    )
    with running(command, log, inherit=[theirs.fileno()]):
        theirs.close()
        client = WarmClient(ours)
        try:
            yield client
        finally:
            client.close()


def timed_admission(client: WarmClient, order: Admit, began: float) -> tuple[float, Stepped]:
    """Seconds since `began` until the job's first step, and the step."""
    step = client.admit(order)
    return time.perf_counter() - began, step
