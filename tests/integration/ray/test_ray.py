"""Trainers on a real Ray cluster of this machine. `make ray` sets Ray up."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.conformance import cluster_suite
from tools import install, ray_env

MARK = "GRAFT_TEST_MARK"


def test_ray_does_what_the_fake_cluster_does() -> None:
    assert ray_env.STAMP.is_file(), "Ray is set up by: make ray"
    command = [sys.executable, "-m", "tests.integration.ray.conformance"]
    done = subprocess.run(
        command,
        env=ray_env.environment(),
        cwd=install.ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    for check in cluster_suite.SUITE:
        assert check.__name__ in done.stdout


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Driven:
    """`python -m trainer.ray` in a home, and eyes on everything that it has started, by a mark in the environment."""

    def __init__(self, home: Path) -> None:
        self.mark = uuid.uuid4().hex
        self.port = free_port()
        self.log = home / "driver.log"
        self.environment = ray_env.environment(
            GRAFT_HOME=str(home),
            GRAFT_TRAINER_METRICS_PORT=str(self.port),
            **{MARK: self.mark},
        )
        self.process = self.start()

    def start(self) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "trainer.ray"]
        with self.log.open("ab") as log:
            return subprocess.Popen(
                command, env=self.environment, cwd=install.ROOT, stdout=log, stderr=log
            )

    def metric(self, name: str) -> float | None:
        with suppress(OSError):
            told = urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=5).read()
            found = re.search(rf"^{re.escape(name)} (\S+)$", told.decode(), re.MULTILINE)
            return float(found[1]) if found else None
        return None

    def left(self) -> list[int]:
        """Processes of ours that live."""
        wanted, found = f"{MARK}={self.mark}".encode(), []
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit():
                with suppress(OSError):
                    alive = b") Z " not in (folder / "stat").read_bytes()
                    if alive and wanted in (folder / "environ").read_bytes().split(b"\0"):
                        found.append(int(folder.name))
        return found

    def end(self) -> None:
        for pid in self.left():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def driven(tmp_path: Path) -> Iterator[Driven]:
    driven = Driven(tmp_path)
    yield driven
    driven.end()


def test_a_trainer_is_placed_and_everything_ends_with_its_driver(driven: Driven) -> None:
    working = 'graft_placed_trainers{state="working"}'
    until(lambda: driven.metric(working) == 1, driven)
    assert driven.metric("graft_placed_trainers_wanted") == 1
    second = driven.start()
    assert second.wait(60) == 1
    assert "another trainer works in this home already" in driven.log.read_text()
    driven.process.send_signal(signal.SIGTERM)
    assert driven.process.wait(40) == 0
    until(lambda: driven.left() == [], driven)


def until(true: Callable[[], bool], driven: Driven, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, driven.log.read_text()[-4000:]
        time.sleep(0.2)
