"""Our side of a rival's process: started once, then told to train job after job."""

import contextlib
import socket
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.measure import CannotRun, Settings
from bench.processes import running
from bench.proof import Outcome
from bench.rivals.orders import Order, decode_reply, encode
from bench.workloads import LEARNING_RATE, MAX_GRAD_NORM, UNTIMED_STEPS, WEIGHT_DECAY, Lesson

#: For one job. On a busy machine the imports alone take a minute.
PATIENCE = 600.0


@dataclass(frozen=True, slots=True)
class Folders:
    """What a job reads from and writes to."""

    model: Path
    adapter: Path
    scratch: Path


class Rival:
    """Trains lessons one after the other in a process that has imported everything."""

    def __init__(self, connection: socket.socket, model: Path) -> None:
        connection.settimeout(PATIENCE)
        self._connection = connection
        self._lines = connection.makefile("rb")
        self._model = model

    def wait_until_ready(self) -> None:
        """Everything is imported."""
        assert self._lines.readline(), "the rival ended while it started"

    def train(
        self,
        lessons: Sequence[Lesson],
        steps: int,
        adapter: Callable[[Lesson], Path],
        *,
        tuned: bool,
    ) -> Outcome:
        """Steps of every lesson. Between lessons the clock stands still, whatever the rival does there."""
        took = 0.0
        losses: list[float] = []
        norms: list[float] = []
        for one in lessons:
            with tempfile.TemporaryDirectory(prefix="graft-bench-") as scratch:
                folders = Folders(self._model, adapter(one), Path(scratch))
                order = order_of(one, steps, folders, tuned=tuned)
                self._connection.sendall(encode(order))
                line = self._lines.readline()
            assert line, "the rival is gone"
            reply = decode_reply(line)
            took += reply.seconds
            losses += reply.losses
            norms += reply.grad_norms
        return Outcome(took, tuple(losses), tuple(norms))

    def close(self) -> None:
        """Hang up."""
        self._lines.close()
        self._connection.close()


def order_of(one: Lesson, steps: int, folders: Folders, *, tuned: bool) -> Order:
    """A lesson as an order."""
    return Order(
        model=str(folders.model),
        adapter=str(folders.adapter),
        scratch=str(folders.scratch),
        rows=[list(row.ids) for row in one.rows],
        labels=[list(row.labels) for row in one.rows],
        steps=steps,
        untimed_steps=UNTIMED_STEPS,
        learning_rate=LEARNING_RATE,
        weight_decay=WEIGHT_DECAY,
        max_grad_norm=MAX_GRAD_NORM,
        tuned=tuned,
    )


def rival_python(settings: Settings, name: str) -> Path:
    """The interpreter of a rival's environment.

    Raises:
        CannotRun: it is not there.
    """
    python = settings.rivals / name / "bin" / "python"
    if not python.is_file():
        raise CannotRun(
            f"{name} is not in {settings.rivals}: run `make bench-rivals` first, or name other --peers."
        )
    return python


def quiet_environment(threads: int) -> list[str]:
    """`env` and its arguments: so many threads, no network, no GPU."""
    return [
        "env",
        f"OMP_NUM_THREADS={threads}",
        "HF_HUB_OFFLINE=1",
        "TOKENIZERS_PARALLELISM=false",
        "CUDA_VISIBLE_DEVICES=",
        "PYTHONWARNINGS=ignore",
    ]


@contextmanager
def rival(settings: Settings, name: str, model: Path, log: Path) -> Iterator[Rival]:
    """The rival's process; started, and not waited for."""
    ours, theirs = socket.socketpair()
    command = [
        *quiet_environment(settings.threads),
        *(str(rival_python(settings, name)), "-m", f"bench.rivals.{name}_worker"),
        *("--fd", str(theirs.fileno()), "--threads", str(settings.threads)),
    ]
    with running(command, log, inherit=[theirs.fileno()]):
        theirs.close()
        client = Rival(ours, model)
        with contextlib.closing(client):
            yield client
