"""R1, R2, R6: real workers with a toy training process, killed and stopped at random moments."""

import signal
import time
from pathlib import Path

import pytest

from adapters.records import JobStatus
from tests.chaos.nursery import Nursery
from tests.chaos.siege import Siege, until
from tests.chaos.sizes import Chaos
from tests.support.in_process import answering
from tests.support.postgres import Server


def test_workers_killed_at_random_moments_on_sqlite(
    chaos: Chaos, nursery: Nursery, tmp_path: Path
) -> None:
    """Half of the dead come back under their name and take back what they held; of the others the lease runs out."""
    dice, kills = chaos.dice("R1"), chaos.of_size(ci=60, release=3000)
    with chaos.experiment("R1", "kill -9 of one of 3 workers at random moments, SQLite") as found:
        siege = Siege(tmp_path, nursery)
        for name in "abc":
            siege.bear(name)
        for number in range(kills):
            siege.supply(12)
            time.sleep(dice.uniform(0, 0.1))
            name = dice.choice(sorted(siege.workers))
            siege.kill(name)
            siege.bear(name if dice.random() < 0.5 else f"{name[0]}-{number}")
        siege.settle()
        found.trials, found.unit, found.result = kills, "kills", siege.check()
        siege.end()


def test_workers_killed_while_postgresql_is_restarted(
    chaos: Chaos,
    nursery: Nursery,
    tmp_path: Path,
    postgres: Server,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`pg_ctl stop -m immediate` and a start, in the middle of it all."""
    monkeypatch.setenv("GRAFT_DATABASE_URL", database_url)
    dice = chaos.dice("R2")
    restarts, kills = chaos.of_size(ci=3, release=200), chaos.of_size(ci=15, release=15)
    away = 0.0
    with chaos.experiment(
        "R2", "kill -9 of one of 3 workers, and PostgreSQL restarted in crash recovery"
    ) as found:
        siege = Siege(tmp_path, nursery, database_url)
        for name in "abc":
            siege.bear(name)
        with answering(tmp_path) as client:
            for _ in range(restarts):
                for _ in range(kills):
                    siege.supply(12)
                    time.sleep(dice.uniform(0, 0.1))
                    name = dice.choice(sorted(siege.workers))
                    siege.kill(name)
                    siege.bear(name)
                postgres.crash()
                time.sleep(dice.uniform(0, 0.3))
                # A worker must outlive what its ledger does not.
                assert all(process.alive for process in list(siege.workers.values())[:-1])
                postgres.start()
                began = time.monotonic()
                until(lambda: client.get("/finetune").status_code == 200, 10)
                away = max(away, time.monotonic() - began)
                siege.revive_the_dead()
        siege.settle()
        found.trials, found.unit = restarts * (kills + 1), f"kills, {restarts} of them PostgreSQL's"
        found.result = f"{siege.check()}; requests fail for {away:.1f} s at most after a restart"
        assert away < 5
        siege.end()


@pytest.mark.parametrize("database", ["sqlite", "postgres"])
def test_workers_stopped_past_their_lease_and_awakened(
    database: str, chaos: Chaos, nursery: Nursery, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """SIGSTOP and SIGCONT. What such a worker still says is refused, and then it works on."""
    url = "" if database == "sqlite" else request.getfixturevalue("database_url")
    dice, rounds = chaos.dice("R6"), chaos.of_size(ci=1, release=10)
    with chaos.experiment(
        f"R6 {database}", f"SIGSTOP of a worker past its lease, then SIGCONT, {database}"
    ) as found:
        siege = Siege(tmp_path, nursery, url, max_jobs=1, step_seconds=0.1)
        names = [f"zombie-{number}" for number in range(5)]
        for name in names:
            siege.bear(name)
        for number in range(rounds):
            until(lambda: siege.supply(len(names)) or siege.running == len(names))
            for name in names:
                time.sleep(dice.uniform(0, 0.05))
                stop_outside_of_a_transaction(siege, name)
            asleep = {
                job.id: job.attempt
                for job in siege.ledger.jobs.list(limit=10**6)
                if job.status is JobStatus.RUNNING
            }
            siege.bear(f"rescuer-{number}")
            until(lambda: siege.open == 0)
            for job_id, attempt in asleep.items():
                assert siege.ledger.jobs.get(job_id).attempt == attempt + 1
            siege.kill(f"rescuer-{number}")
            siege.check()
            found.trials += len(asleep)
            for name in names:
                siege.workers[name].send(signal.SIGCONT)
            # Only they can train these: so each has let go of what it held.
            siege.submit(2 * len(names))
            until(lambda: siege.open == 0)
            assert all(process.alive for process in siege.workers.values())
        assert found.trials
        found.unit, found.result = "zombies", f"all fenced; {siege.check()}"
        siege.end()


def stop_outside_of_a_transaction(siege: Siege, name: str) -> None:
    """One that is stopped inside of one keeps its locks: on SQLite that of the whole database, and all wait for it."""
    while True:
        siege.workers[name].send(signal.SIGSTOP)
        if siege.can_write():
            return
        siege.workers[name].send(signal.SIGCONT)
        time.sleep(0.005)
