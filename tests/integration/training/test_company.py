"""Jobs that come one right after the other begin together."""

from collections import deque

import torch

from tests.integration.training.test_process import admit
from trainer.messages import Admit, Finished, Shutdown, Started, Stepped
from trainer.warm import process
from trainer.warm.limits import limits_for
from trainer.warm.presence import Presence
from trainer.warm.process import WarmProcess
from trainer.warm.threads import threads_for


class Door:
    """A mailbox that is given another order each time that somebody looks."""

    urgent = False

    def __init__(self, *orders) -> None:
        self.coming, self.read = deque(orders), deque()
        self.reports = []
        self.jobs = len(orders)

    @property
    def waiting(self) -> bool:
        return bool(self.read)

    def fill(self, *, wait: float = 0.0) -> None:
        if self.coming:
            self.read.append(self.coming.popleft())

    def next(self):
        return self.read.popleft() if self.read else None

    def send(self, report) -> None:
        self.reports.append(report)
        if sum(isinstance(one, Finished) for one in self.reports) == self.jobs:
            self.coming.append(Shutdown())
            self.jobs = -1


def told(base, door) -> list[tuple[type, str]]:
    """Beginnings and steps, in the order in which they were told."""
    breathe = base.routing.breathe
    cpu = torch.device("cpu")
    try:
        WarmProcess(
            base, door, limits_for(cpu, 1e9), threads_for(1, lambda _: None), Presence(None)
        ).run()
    finally:
        base.routing.breathe = breathe
    return [(type(one), one.job_id) for one in door.reports if isinstance(one, Started | Stepped)]


def jobs(tmp_path, count: int) -> list[Admit]:
    return [admit(tmp_path, f"ftjob-{at}", rows=8, n_epochs=2) for at in range(count)]


def test_jobs_that_come_while_the_first_is_prepared_begin_with_it(base, tmp_path):
    reports = told(base, Door(*jobs(tmp_path, 3)))

    assert reports[:6] == [(kind, f"ftjob-{at}") for kind in (Started, Stepped) for at in range(3)]


def test_nobody_waits_for_company_longer_than_that(base, tmp_path, monkeypatch):
    monkeypatch.setattr(process, "GATHERING_SECONDS", 0.0)

    reports = told(base, Door(*jobs(tmp_path, 2)))

    assert reports[:2] == [(Started, "ftjob-0"), (Stepped, "ftjob-0")]
    assert (Started, "ftjob-1") in reports
