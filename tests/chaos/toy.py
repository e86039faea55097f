"""A training process that trains nothing and loses nothing: a chain of hashes instead of weights.

It is a process of its own at the other end of a socket pair, as the real one is, speaks the same protocol, writes its
checkpoints with the same means, and is killed in the same ways. A step that is lost, or made twice, gives another end
of the chain: what is published tells whether the job was continued where it was.
"""

import ctypes
import os
import random
import select
import signal
import socket
import subprocess
import time
import traceback
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

from adapters.durable import new_directory
from adapters.records import NewJob, Progress
from tests.support.samples import BASE, adapter_directory, card, manifest, new_job
from trainer.child import WarmProcess
from trainer.messages import (
    Admit,
    Checkpointed,
    Drop,
    Dropped,
    Finished,
    Ready,
    Shutdown,
    Started,
    Stepped,
    decode_order,
    encode_report,
)

STEPS = 12
EVERY = 4
_PDEATHSIG = 1
_READ = 1 << 16


def outcome(job_id: str, steps: int = STEPS) -> str:
    """What training the job comes to."""
    return _chain(job_id, job_id, 0, steps)


def _chain(job_id: str, state: str, done: int, steps: int) -> str:
    for step in range(done + 1, steps + 1):
        state = sha256(f"{state} {job_id} {step}".encode()).hexdigest()
    return state


def die_with_parent() -> None:
    """As the real one does."""
    ctypes.CDLL(None).prctl(_PDEATHSIG, signal.SIGKILL)


class ToyProcess(WarmProcess):
    """`WarmProcess`, but for what runs at the other end: a fork, which costs milliseconds."""

    def __init__(self, *, base: str = BASE, step_seconds: float = 0.003) -> None:
        super().__init__(base, "cpu")
        self._base, self._step_seconds = base, step_seconds

    def start(self) -> None:
        self._reap()
        ours, theirs = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            ours.close()
            try:
                die_with_parent()
                Toy(theirs, self._base, self._step_seconds).run()
            except BaseException:
                traceback.print_exc()
                raise
            finally:
                os._exit(0)
        theirs.close()
        self._process, self._socket, self._unread = Forked(pid), ours, b""


class Forked:
    """A child that was forked, as `subprocess.Popen` would be."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._code: int | None = None

    def wait(self, timeout: float | None = None) -> int:
        deadline = None if timeout is None else time.monotonic() + timeout
        while self._code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._code = os.waitstatus_to_exitcode(status)
            elif deadline is not None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("toy", timeout)
            else:
                time.sleep(0.001)
        return self._code

    def kill(self) -> None:
        if self._code is None:
            os.kill(self.pid, signal.SIGKILL)


class Toy:
    """What runs at the other end."""

    def __init__(self, connection: socket.socket, base: str, step_seconds: float) -> None:
        self._connection, self._base, self._step_seconds = connection, base, step_seconds
        self._unread = b""
        #: Of each job: its order, what it has come to, after how many steps.
        self._jobs: dict[str, tuple[Admit, str, int]] = {}
        self._random = random.Random(os.getpid())

    def run(self) -> None:
        self._send(Ready(card=card(self._base)))
        while self._obey():
            for job_id in list(self._jobs):
                self._step(job_id)
                time.sleep(self._random.uniform(0, 2 * self._step_seconds))
        for job_id in list(self._jobs):
            self._keep(job_id)

    def _send(self, report) -> None:
        self._connection.sendall(encode_report(report))

    def _obey(self) -> bool:
        wait = 0.0 if self._jobs else None
        while select.select([self._connection], [], [], wait)[0]:
            try:
                data = self._connection.recv(_READ)
            except ConnectionResetError:  # the worker died with something unread
                return False
            if not data:
                return False
            *lines, self._unread = (self._unread + data).split(b"\n")
            for line in lines:
                order = decode_order(line)
                if isinstance(order, Shutdown):
                    return False
                self._follow(order)
            wait = 0.0
        return True

    def _follow(self, order: Admit | Drop) -> None:
        if isinstance(order, Drop):
            if order.keep:
                self._keep(order.job_id)
            self._jobs.pop(order.job_id, None)
            self._send(Dropped(job_id=order.job_id))
            return
        state, done = _newest(order)
        self._jobs[order.job_id] = (order, state, done)
        self._send(
            Started(
                job_id=order.job_id,
                attempt=order.attempt,
                total_steps=STEPS,
                train_rows=9,
                valid_rows=1,
                dropped_rows=0,
                tokens_per_epoch=90,
                trained_tokens_per_epoch=30,
                resumed_from_step=done,
                warnings=(),
            )
        )

    def _step(self, job_id: str) -> None:
        order, state, done = self._jobs[job_id]
        if done == STEPS:
            self._finish(order, state)
            return
        done += 1
        self._jobs[job_id] = (order, _chain(job_id, state, done - 1, done), done)
        progress = Progress(step=done, total_steps=STEPS, percent=100 * done / STEPS)
        named = {"job_id": job_id, "attempt": order.attempt}
        self._send(Stepped(**named, progress=progress, learning_rate=1e-4, grad_norm=1.0))
        if done % EVERY == 0 or (order.prove_past is not None and done == order.prove_past + 1):
            self._keep(job_id)

    def _keep(self, job_id: str) -> None:
        if job_id not in self._jobs:
            return
        order, state, done = self._jobs[job_id]
        with new_directory(order.work_dir / "checkpoints" / f"step-{done:08d}") as aside:
            (aside / "state").write_text(state)
        self._send(Checkpointed(job_id=job_id, attempt=order.attempt, step=done))

    def _finish(self, order: Admit, state: str) -> None:
        del self._jobs[order.job_id]
        made = order.work_dir / f"adapter-{order.attempt}"
        adapter_directory(made, content=state.encode())
        trained = manifest(_as_new(order, self._base))
        result = replace(trained.result, steps=STEPS, best_step=STEPS)
        self._send(
            Finished(
                job_id=order.job_id,
                attempt=order.attempt,
                adapter_dir=made,
                manifest=replace(trained, result=result),
            )
        )


def _newest(order: Admit) -> tuple[str, int]:
    kept = sorted((order.work_dir / "checkpoints").glob("step-*"))
    if not kept:
        return order.job_id, 0
    newest: Path = kept[-1]
    return (newest / "state").read_text(), int(newest.name.removeprefix("step-"))


def _as_new(order: Admit, base: str) -> NewJob:
    return replace(new_job(base_model=base), id=order.job_id, spec=order.spec)
