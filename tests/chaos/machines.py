"""Machines of one installation: each a home of its own with a service and an engine, as processes.

What they have in common is a database and a bucket, and nothing else.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from adapters.ledger import Ledger
from adapters.settings import BaseModelSettings, LedgerSettings
from tests.chaos.nursery import ROOT
from tests.chaos.siege import until
from tests.chaos.toy import outcome
from tests.e2e.conftest import free_port
from tests.support.faulty_link import FaultyLink
from tests.support.samples import BASE, adapter_directory, manifest, new_job, render
from tests.support.seaweed import ACCESS, SECRET, SeaweedServer

START_S = 90.0


@dataclass(frozen=True, kw_only=True)
class Common:
    """What machines share, and the link by which they reach the bucket."""

    database_url: str
    bucket: str
    link: FaultyLink
    source: str = "/nowhere"

    @property
    def store(self) -> dict[str, str]:
        return {
            "store_url": self.bucket,
            "store_endpoint": f"http://127.0.0.1:{self.link.port}",
            "aws_access_key_id": ACCESS,
            "aws_secret_access_key": SECRET,
        }

    def settings(self, home: Path) -> LedgerSettings:
        base = BaseModelSettings(id=BASE, source=self.source)
        given: dict[str, Any] = {"database_url": self.database_url, **self.store}
        return LedgerSettings(home=home, base_models=(base,), **given)

    def environment(self, home: Path) -> dict[str, str]:
        named = {name if "aws" in name else f"graft_{name}": it for name, it in self.store.items()}
        named |= {"graft_home": str(home), "graft_database_url": self.database_url}
        return os.environ | {name.upper(): it for name, it in named.items()}  # noqa: TID251


@contextmanager
def common(database_url: str, seaweed: SeaweedServer, source: str = "/nowhere") -> Iterator[Common]:
    with FaultyLink(seaweed.port) as link:
        yield Common(database_url=database_url, bucket=seaweed.url(), link=link, source=source)


class Machine:
    """Its processes by name: `service`, `engine`, and `trainer` where training is real."""

    def __init__(
        self, home: Path, common: Common, *, module: str = "service", **sections: object
    ) -> None:
        """`module` runs as the service; `sections` are those of its configuration."""
        self.home, self.settings, self.port = home, common.settings(home), free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        home.mkdir()
        models = [{"id": BASE, "source": common.source}]
        config = {"ledger": {"base_models": models}, **sections}
        (home / "graft.yaml").write_text(yaml.safe_dump(config))
        self._environment = common.environment(home)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._log = (home / "log").open("ab")
        self._commands = {
            "service": ["-m", module, "--port", str(self.port)],
            "engine": ["-m", "tests.chaos.engine", str(self.settings.engine_socket(BASE)), BASE],
            "trainer": ["-m", "trainer"],
        }

    def start(self, name: str) -> None:
        # Should the tests be killed, the kernel takes it along.
        command = ["setpriv", "--pdeathsig=KILL", sys.executable, *self._commands[name]]
        self._processes[name] = subprocess.Popen(
            command, cwd=ROOT, env=self._environment, stdout=self._log, stderr=self._log
        )

    def kill(self, name: str) -> None:
        """kill -9, and wait until it is gone."""
        process = self._processes.pop(name)
        process.kill()
        process.wait()

    def announce(self, wait: float) -> None:
        """The service says that it leaves, and for `wait` seconds that may get around."""
        command = [sys.executable, "-m", "service.drain", "--wait", str(wait)]
        subprocess.run(command, cwd=ROOT, env=self._environment, check=True)

    def stop(self, name: str) -> None:
        """Tell it to stop, and wait until it has."""
        process = self._processes.pop(name)
        process.terminate()
        process.wait(START_S)

    def send(self, name: str, number: int) -> None:
        self._processes[name].send_signal(number)

    def sings(self) -> bool:
        """Whether the probe of its engine's container finds that it lives."""
        command = [sys.executable, "-m", "service.engine.canary", BASE, "--timeout", "3"]
        done = subprocess.run(
            command, cwd=ROOT, env=self._environment, check=False, capture_output=True
        )
        return done.returncode == 0

    def pid(self, name: str) -> int:
        return self._processes[name].pid

    def revive(self) -> None:
        """Start what has ended again: what finds no database or bucket when it starts may do so, and nothing else."""
        for name, process in list(self._processes.items()):
            if process.poll() is not None:
                told = self.log[-8000:]
                assert "does not answer" in told, f"{name} died of something else: {told}"
                self.start(name)

    def is_ready(self) -> bool:
        return self._asked("/readyz")

    def answers(self) -> bool:
        return self._asked("/healthz")

    def open(self) -> None:
        """Start engine and service, and wait until it is ready."""
        self.start("engine")
        self.start("service")
        until(self.is_ready, START_S)

    def close(self) -> None:
        for name in list(self._processes):
            self.kill(name)
        self._log.close()

    @property
    def log(self) -> str:
        return (self.home / "log").read_text(errors="replace")

    def _asked(self, path: str) -> bool:
        try:
            return httpx.get(self.url + path, timeout=5).status_code == 200
        except httpx.TransportError:
            return False


def publish(ledger: Ledger, folder: Path, adapter: str, *, promote: bool = True) -> tuple[str, str]:
    """Train nothing, publish something: its name, and what its engine will say of it."""
    ledger.jobs.submit(new_job(adapter), render=render)
    job = ledger.jobs.claim(worker="test", base_model=BASE, lease_seconds=600, max_losses=9)
    assert job is not None
    content = outcome(job.id)
    source = adapter_directory(folder / job.id, content=content.encode())
    return ledger.registry.publish(job, source, manifest(job), promote=promote).name, content
