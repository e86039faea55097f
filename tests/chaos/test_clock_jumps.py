"""R7: the clock of the machine jumps by an hour, while one worker trains and another looks for work."""

from pathlib import Path

import pytest

from adapters.ledger import open_ledger
from adapters.records import JobStatus
from adapters.settings import LedgerSettings
from tests.chaos.sizes import Chaos
from tests.support.clock import Clock
from tests.support.fake_process import FakeProcess
from tests.unit.trainer.workshop import make_worker, submit, work_until

HOUR = 3600.0


@pytest.mark.parametrize("jump", [HOUR, -HOUR])
def test_a_clock_that_jumps_neither_loses_a_job_nor_doubles_one(
    jump: float, chaos: Chaos, tmp_path: Path
) -> None:
    """Who holds the job by then publishes it, and nobody else; what the other one still says is refused."""
    dice, jumps = chaos.dice(f"R7 {jump}"), chaos.of_size(ci=3, release=50)
    taken = 0
    with chaos.experiment(f"R7 {jump / HOUR:+.0f} h", "the clock jumps by an hour") as found:
        for number in range(jumps):
            home = tmp_path / str(number)
            home.mkdir()
            clock = Clock()
            ledger = open_ledger(LedgerSettings(home=home), clock=clock)
            checkpoints: dict[str, int] = {}
            one, other = (
                make_worker(
                    ledger, FakeProcess(steps=9, checkpoints=checkpoints), home, worker_id=name
                )
                for name in ("one", "other")
            )
            ids = [submit(ledger, home, f"bot-{at}") for at in range(3)]
            work_until(
                one, lambda ids=ids, ledger=ledger: ledger.jobs.count()["running"] == len(ids)
            )
            for _ in range(dice.randrange(12)):
                one.turn()
            clock.tick(jump)
            for _ in range(400):
                dice.choice([one, other]).turn()
                if ledger.jobs.count()["succeeded"] == len(ids):
                    break
            jobs = [ledger.jobs.get(job_id) for job_id in ids]
            assert {job.status for job in jobs} == {JobStatus.SUCCEEDED}
            made = [v.job_id for adapter in ledger.registry.list() for v in adapter.versions]
            assert sorted(made) == sorted(ids)
            taken += sum(job.attempt > 1 for job in jobs)
            ledger.close()
        if jump < 0:
            assert not taken
        found.trials, found.unit = jumps, "jumps"
        found.result = f"0 lost, 0 doubled; {taken} of {3 * jumps} jobs went to the other worker, which went on with them"
