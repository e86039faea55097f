"""One process of ours, running under its guard."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from cli import guard


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildSpec:
    """What to start, and when to stop it."""

    name: str
    command: tuple[str, ...]
    #: Shutdown goes through the stages in ascending order, all of a stage together.
    stage: int
    #: Set on top of the launcher's own environment.
    environment: Mapping[str, str] = field(default_factory=dict)


class Child:
    """A started process. Starting is synchronous, so that no pid exists that its owner does not know yet."""

    def __init__(self, spec: ChildSpec, environment: Mapping[str, str], log: BinaryIO) -> None:
        self._log_start = log.tell()
        self._started = time.monotonic()
        self._lifeline, theirs = socket.socketpair()
        self._lifeline.settimeout(0)  # non-blocking, as the event loop wants it
        with theirs:
            self._guard = subprocess.Popen(
                [sys.executable, "-I", "-S", str(Path(guard.__file__)), "--", *spec.command],
                stdin=theirs.fileno(),
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**environment, **spec.environment},
                start_new_session=True,
            )

    @property
    def guard_pid(self) -> int:
        """Also the id of the group that guard, child and most of its descendants are in."""
        return self._guard.pid

    @property
    def log_start(self) -> int:
        """Where in the log this run begins."""
        return self._log_start

    def lived(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._started

    async def pid(self) -> int | None:
        """The child's own pid, as its guard tells it; None if the guard died before."""
        loop = asyncio.get_running_loop()
        try:
            told = await loop.sock_recv(self._lifeline, 32)
        except OSError:
            return None
        return int(told) if told.strip() else None

    async def ended(self) -> None:
        """Returns once the guard has ended; it stays a zombie, and so its pid stays ours, until `bury`."""
        loop = asyncio.get_running_loop()
        done = asyncio.Event()
        descriptor = os.pidfd_open(self._guard.pid)
        loop.add_reader(descriptor, done.set)
        try:
            await done.wait()
        finally:
            loop.remove_reader(descriptor)
            os.close(descriptor)

    def terminate(self) -> None:
        """Ask to end; the guard passes it on. Popen's own method would first reap, and give the pid away."""
        os.kill(self._guard.pid, signal.SIGTERM)

    def kill(self) -> None:
        """End the whole group now."""
        try:
            os.killpg(self._guard.pid, signal.SIGKILL)
        except ProcessLookupError:
            return

    def bury(self) -> int:
        """After `ended`: kill what is left of the group and collect the exit code, in shell convention (128 + signal).

        The group goes first: a zombie's pid cannot have been given to a stranger yet.
        """
        self.kill()
        self._lifeline.close()
        code = self._guard.wait()
        return code if code >= 0 else 128 - code


def describe_exit(code: int) -> str:
    """What a person wants to read: `exited with 3`, `was killed by SIGKILL`."""
    if code <= 128:  # noqa: PLR2004  the shell's convention, see bury
        return f"exited with {code}"
    try:
        return f"was killed by {signal.Signals(code - 128).name}"
    except ValueError:
        return f"exited with {code}"
