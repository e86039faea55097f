"""Everything at once, in real processes: two machines with service, engine and trainer; PostgreSQL, S3; tenants."""

import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import httpx

from adapters.errors import Unavailable
from adapters.keys import NewKey, Scope
from adapters.ledger import open_ledger
from adapters.records import JobStatus, Version
from tests.chaos.engine import content_of
from tests.chaos.machines import START_S, Common, Machine
from tests.chaos.nursery import Nursery, Order, Process
from tests.chaos.siege import until
from tests.chaos.toy import outcome
from tests.support.faulty_link import FAULTS
from tests.support.postgres import Server

ROWS = [{"input": f"question {number}", "target": f"answer {number}"} for number in range(12)]
_LATER = {409, 429, 502, 503}
_PATIENCE_S = 90.0


@dataclass
class Answer:
    model: str
    text: str


class Town:
    """What is killed comes back at once, as a launcher or a cluster sees to it."""

    def __init__(self, home: Path, common: Common, postgres: Server, crew: "Crew") -> None:
        self._common, self._postgres, self.crew = common, postgres, crew
        self.settings = common.settings(home / "desk")
        self.ledger = open_ledger(self.settings)
        service = {"auth": True, "engine_wait_seconds": 2}
        self.machines = {
            f"m{number}": Machine(home / f"m{number}", common, service=service, **crew.sections)
            for number in (1, 2)
        }
        self.killed: Counter[str] = Counter()
        #: After so many strikes the bucket answers again.
        self._outage = 0

    # ---- processes

    def open(self) -> None:
        for machine in self.machines.values():
            machine.start("engine")
            machine.start("service")
        for machine in self.machines.values():
            until(machine.is_ready, START_S)

    def begin_work(self) -> None:
        for machine in self.machines.values():
            self.crew.bear(machine, self._common)

    def close(self) -> None:
        self.crew.close()
        for machine in self.machines.values():
            machine.close()
        self.ledger.close()

    def strike(self, dice: random.Random) -> None:
        """One of them is killed, whichever, and started again; or what they have in common is."""
        victims = ["service", "engine", "trainer", "training", "postgres", "bucket"]
        machine, victim = dice.choice(list(self.machines.values())), dice.choice(victims)
        if victim == "service" and not all(one.answers() for one in self.machines.values()):
            victim = (
                "training"  # one takes seconds to come back, and two of them are there for that
            )
        self.killed[victim] += 1
        match victim:
            case "postgres":
                self._postgres.crash()
                time.sleep(dice.uniform(0, 0.3))
                self._postgres.start()
            case "bucket":
                self._trouble_the_bucket(dice)
            case "training":
                self.crew.kill_training(machine)
            case "trainer":
                self.crew.kill(machine)
                self.crew.bear(machine, self._common)
            case _:
                machine.kill(victim)
                machine.start(victim)
        self.crew.look()
        for machine in self.machines.values():
            machine.revive()
        self._outage -= 1
        if self._outage <= 0:
            self._common.link.down = False

    def calm(self) -> None:
        """Nobody attacks any more."""
        self._common.link.down = False
        self._common.link.forget()

    def _trouble_the_bucket(self, dice: random.Random) -> None:
        """It is away until some other things have happened, or does this and that wrong."""
        if dice.random() < 0.5:
            self._common.link.down, self._outage = True, dice.randint(2, 4)
        else:
            for _ in range(4):
                self._common.link.plan(dice.choice(FAULTS))

    # ---- tenants

    def key_of(self, tenant: str) -> str:
        new = NewKey(tenant=tenant, name="", scopes=(Scope.INFER, Scope.TUNE), lifetime=None)
        return self.ledger.keys.make(new).secret

    def ask(
        self, dice: random.Random, key: str, method: str, path: str, **options
    ) -> httpx.Response:
        """At one service or the other, until it is answered. `Idempotency-Key` makes repeating safe."""
        headers = {"Authorization": f"Bearer {key}", **options.pop("headers", {})}
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            url = dice.choice([machine.url for machine in self.machines.values()]) + path
            try:
                answer = httpx.request(method, url, headers=headers, timeout=20, **options)
            except httpx.TransportError:
                answer = None
            if answer is not None and answer.status_code not in _LATER:
                return answer
            assert time.monotonic() < deadline, f"{method} {path} is never answered"
            time.sleep(0.05)

    # ---- what must be true

    @property
    def ended(self) -> bool:
        count = self.ledger.jobs.count()
        return count["queued"] + count["running"] == 0

    def check(self, asked: dict[str, str]) -> None:
        """`asked`: the tenant of each job that a client was told of."""
        jobs = {job.id: job for job in self.ledger.jobs.list(limit=10_000)}
        assert set(jobs) == set(asked), "a job is lost, or made twice"
        others = [job for job in jobs.values() if job.status is not JobStatus.SUCCEEDED]
        assert not others, [(job.id, job.status, job.error) for job in others]
        assert all(job.tenant == asked[job.id] for job in jobs.values())
        made = Counter(one.job_id for one in self.versions())
        assert made == Counter(asked.keys()), f"a version is lost or doubled: {made}"
        for version in self.versions():
            self.crew.check(version, self.ledger.registry.directory(version))

    def versions(self) -> list[Version]:
        return [one for adapter in self.ledger.registry.list() for one in adapter.versions]

    def unfairness(self) -> float:
        """Of the first half of the jobs that were taken up: how far a tenant is off its share, as a part of that."""
        jobs = sorted(self.ledger.jobs.list(limit=10_000), key=lambda job: job.started_at)
        tenants = {job.tenant for job in jobs}
        first = Counter(job.tenant for job in jobs[: len(jobs) // 2])
        fair = len(jobs) / 2 / len(tenants)
        return max(abs(first[tenant] - fair) / fair for tenant in tenants)


class Crew:
    """The trainers of a town, one on each machine: real workers, over a toy that trains nothing."""

    sections: ClassVar[dict[str, object]] = {}

    def __init__(self, nursery: Nursery, step_seconds: float) -> None:
        self._nursery, self._step_seconds = nursery, step_seconds
        self._workers: dict[str, Process] = {}

    def bear(self, machine: Machine, common: Common) -> None:
        self._workers[machine.home.name] = self._nursery.bear(
            Order(
                home=str(machine.home),
                database_url=common.database_url,
                store=common.store,
                name=machine.home.name,
                max_jobs=2,
                step_seconds=self._step_seconds,
            )
        )

    def kill(self, machine: Machine) -> None:
        self._workers.pop(machine.home.name).kill()

    def kill_training(self, machine: Machine) -> None:
        kill_children(self._workers[machine.home.name].pid)

    def look(self) -> None:
        for name, worker in self._workers.items():
            assert worker.alive, f"the trainer of {name} died of something that was not done to it"

    def close(self) -> None:
        for worker in self._workers.values():
            worker.kill()

    def content(self, version: Version, _directory: Callable[[], Path]) -> str:
        """What the version's engine must tell."""
        return outcome(version.job_id)

    def check(self, version: Version, directory: Path) -> None:
        assert content_of(directory) == outcome(version.job_id), f"{version.name} is torn"


class Asking(threading.Thread):
    """A client that asks whatever versions there are, and looks at what it is told."""

    def __init__(self, town: Town, keys: dict[str, str], seed: int) -> None:
        super().__init__()
        self._town, self._keys, self._dice = town, keys, random.Random(seed)
        self.stop = threading.Event()
        #: What was told, by version.
        self.told: list[tuple[Version, str]] = []

    def run(self) -> None:
        while not self.stop.is_set():
            try:
                versions = self._town.ledger.registry.list()
            except Unavailable:
                versions = []
            if versions:
                adapter = self._dice.choice(versions)
                self.ask(adapter.tenant, self._dice.choice(adapter.versions))
            time.sleep(0.02)

    def ask(self, tenant: str, version: Version) -> None:
        body = {"model": version.name, "messages": [{"role": "user", "content": "who are you?"}]}
        key = self._keys[tenant]
        answer = self._town.ask(self._dice, key, "POST", "/v1/chat/completions", json=body)
        told = answer.text
        if answer.status_code == 200:
            told = answer.json()["choices"][0]["message"]["content"]
        self.told.append((version, told))

    def wrong(self) -> list[Answer]:
        """Answers that are not those of the version that was asked."""
        registry, crew = self._town.ledger.registry, self._town.crew
        wanted = {
            version.name: crew.content(version, lambda version=version: registry.directory(version))
            for version, _ in self.told
        }
        return [
            Answer(version.name, text)
            for version, text in self.told
            if text != f"{version.name}: {wanted[version.name]}"
        ]


class Ordering(threading.Thread):
    """Clients of all tenants who want jobs, one after the other in turn."""

    def __init__(self, town: Town, keys: dict[str, str], seed: int) -> None:
        super().__init__()
        self._town, self._keys, self._dice = town, keys, random.Random(seed)
        self._rounds: range = range(0)
        #: The tenant of each job that was promised.
        self.asked: dict[str, str] = {}

    def order(self, rounds: range) -> None:
        for number in rounds:
            for tenant, key in self._keys.items():
                body = {"data": ROWS, "name": f"{tenant}-bot"}
                headers = {"Idempotency-Key": f"{tenant}-{number}"}
                told = self._town.ask(
                    self._dice, key, "POST", "/finetune", json=body, headers=headers
                )
                assert told.status_code == 202, told.text
                self.asked[told.json()["id"]] = tenant

    def begin(self, rounds: range) -> None:
        """The same, beside everything else."""
        self._rounds = rounds
        self.start()

    def run(self) -> None:
        self.order(self._rounds)


def kill_children(pid: int) -> None:
    """Of all its threads; those that its parent has just buried are no more."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):
            for child in (thread / "children").read_text().split():
                os.kill(int(child), 9)
