"""R22: a node of a real Ray cluster is lost with a job in training."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.chaos.nursery import ROOT
from tests.chaos.siege import Siege, until
from tests.chaos.sizes import Chaos
from tests.chaos.toy import EVERY, STEPS
from tests.support.samples import BASE
from tools import ray_env


class Town:
    """The process of ray_town.py."""

    def __init__(self, home: Path) -> None:
        assert ray_env.STAMP.is_file(), "Ray is set up by: make ray"
        self._log = home / "town.log"
        # Ray's Cluster notes its address beside its default folder for temporary files, which nobody need have made.
        (home / "ray").mkdir()
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.chaos.ray_town"],
                cwd=ROOT,
                env=ray_env.environment(
                    GRAFT_HOME=str(home),
                    RAY_TMPDIR=str(home),
                    GRAFT_BASE_MODELS=json.dumps([{"id": BASE, "source": "nowhere"}]),
                    # Long: a trainer that comes back takes back what it held, and waits for no lease.
                    GRAFT_TRAINER_LEASE_SECONDS="120",
                    GRAFT_TRAINER_HEARTBEAT_SECONDS="0.5",
                ),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self.hear() == "ready"

    def ask(self, word: str) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{word}\n")
        self._process.stdin.flush()
        return self.hear()

    def hear(self) -> str:
        """The next answer. Between them is what Ray prints of its processes."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("> "):
                return line.removeprefix("> ").strip()
        self.kill()
        pytest.fail(f"the town has ended: {self._log.read_text()[-3000:]}")

    def end(self) -> None:
        """Every trainer is let go, then the cluster ends."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        assert self.hear() == "ended"
        self._process.wait(60)

    def kill(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        self._process.kill()
        self._process.wait()


@pytest.fixture
def town(tmp_path: Path) -> Iterator[Town]:
    town = Town(tmp_path)
    yield town
    town.kill()


def test_a_lost_ray_node_costs_a_job_the_steps_since_its_checkpoint(
    chaos: Chaos, town: Town, tmp_path: Path
) -> None:
    """It goes on from there on another node, and comes to the same end as if nothing had been."""
    dice, losses = chaos.dice("R22"), chaos.of_size(ci=2, release=20)
    away = 0.0
    with chaos.experiment(
        "R22", "the Ray node with the job in training killed, of 2 and the head"
    ) as found:
        siege = Siege(tmp_path, nursery=None)
        while found.trials < losses:
            siege.submit()
            job_id, step = siege.ids[-1], dice.randint(EVERY + 1, STEPS - 3)
            job = partial(siege.ledger.jobs.get, job_id)
            until(lambda job=job, step=step: job().progress.step >= step)
            before = job()
            lost = town.ask("kill")
            began = time.monotonic()
            assert town.ask("where") != lost
            until(lambda job=job: job().status.terminal)
            after = job()
            if after.attempt == before.attempt:
                continue  # it had ended by the time that the node was dead
            assert after.attempt == before.attempt + 1
            assert resumed_at(siege, job_id) >= EVERY, "it began anew"
            away = max(away, time.monotonic() - began)
            found.trials += 1
        found.unit = "nodes"
        found.result = (
            f"{siege.check()}; each resumed from its checkpoint, and ended within {away:.0f} s"
        )
        town.end()
        siege.end()


def resumed_at(siege: Siege, job_id: str) -> int:
    """The step after which the newest attempt went on."""
    events = siege.ledger.jobs.events(job_id)
    told = [event.data for event in events if event.data and "resumed_from_step" in event.data]
    return int(str(told[-1]["resumed_from_step"]))
