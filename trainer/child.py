"""The warm training process, seen from the worker: start it, talk to it, notice its death."""

import logging
import select
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Protocol

from trainer.messages import (
    Admit,
    Drop,
    JobReport,
    Shutdown,
    Word,
    decode_report,
    encode_order,
)

log = logging.getLogger(__name__)

AnyReport = JobReport | Word
_READ_BYTES = 1 << 16


class ProcessDied(Exception):
    """The training process is gone; whatever it was doing must be taken up again."""


class TrainingProcess(Protocol):
    """A process that trains the jobs it is given."""

    def start(self) -> None:
        """Start it anew. It answers `Ready` once the base model is loaded."""

    def send(self, order: Admit | Drop | Shutdown) -> None:
        """Give an order. Raises ProcessDied."""

    def receive(self, timeout: float) -> Sequence[AnyReport]:
        """What it has reported, waiting up to `timeout` seconds for the first word. Raises ProcessDied."""

    def wake(self) -> None:
        """Have `receive` return, the one that waits or else the next. Called from any thread; never fails."""

    def stop(self, grace: float) -> None:
        """Ask it to write checkpoints and exit; kill it after `grace` seconds."""


class WarmProcess:
    """`python -m trainer.warm` at the other end of a socket pair."""

    def __init__(self, base_model: str, device: str) -> None:
        self._name = f"{base_model} on {device}"
        self._arguments = [base_model, "--device", device]
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._unread = b""
        #: What is written to the second wakes whoever waits at the first.
        self._alarm: tuple[socket.socket, socket.socket] | None = None

    def start(self) -> None:
        self._reap()
        ours, theirs = socket.socketpair()
        with theirs:
            number = theirs.fileno()
            command = [sys.executable, "-m", "trainer.warm", *self._arguments, "--fd", str(number)]
            self._process = subprocess.Popen(command, pass_fds=[number])  # noqa: S603  our own module
        self._connect(ours)
        log.info("training process of %s started, pid %d", self._name, self._process.pid)

    def send(self, order: Admit | Drop | Shutdown) -> None:
        try:
            self._connection().sendall(encode_order(order))
        except OSError as error:
            raise ProcessDied(self._last_words()) from error

    def receive(self, timeout: float) -> Sequence[AnyReport]:
        connection = self._connection()
        alarms = [] if self._alarm is None else [self._alarm[0]]
        readable, _, _ = select.select([connection, *alarms], [], [], timeout)
        for alarm in alarms:
            if alarm in readable:
                alarm.recv(_READ_BYTES)
        if connection not in readable:
            return []
        try:
            data = connection.recv(_READ_BYTES)
        except OSError as error:
            raise ProcessDied(self._last_words()) from error
        if not data:
            raise ProcessDied(self._last_words())
        *lines, self._unread = (self._unread + data).split(b"\n")
        return [decode_report(line) for line in lines]

    def wake(self) -> None:
        alarm = self._alarm
        if alarm is not None:
            with suppress(OSError):  # it has been woken often enough, or is being stopped
                alarm[1].send(b"!")

    def stop(self, grace: float) -> None:
        if self._process is None:
            return
        try:
            self.send(Shutdown())
            self._process.wait(grace)
        except (ProcessDied, subprocess.TimeoutExpired):
            log.warning("the training process of %s did not stop in time", self._name)
        self._reap()

    def _connect(self, ours: socket.socket) -> None:
        self._socket, self._unread = ours, b""
        self._alarm = socket.socketpair()
        self._alarm[1].settimeout(0)

    def _connection(self) -> socket.socket:
        if self._socket is None:
            raise ProcessDied("it was never started")
        return self._socket

    def _last_words(self) -> str:
        if self._process is None:
            return "it was never started"
        try:
            code = self._process.wait(5)
        except subprocess.TimeoutExpired:
            return "it closed its end and did not exit"
        return f"killed by signal {-code}" if code < 0 else f"exit status {code}"

    def _reap(self) -> None:
        for end in (self._socket, *(self._alarm or ())):
            if end is not None:
                end.close()
        self._socket = self._alarm = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
