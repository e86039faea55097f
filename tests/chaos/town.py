"""Everything at once, each a real process: two services, two trainers' workers, an engine, PostgreSQL; and tenants."""

import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import httpx

from adapters.errors import Unavailable
from adapters.keys import NewKey, Scope
from adapters.ledger import open_ledger
from adapters.records import JobStatus
from adapters.settings import BaseModelSettings, LedgerSettings
from tests.chaos.nursery import ROOT, Nursery, Order, Process
from tests.chaos.siege import until
from tests.chaos.toy import outcome
from tests.e2e.conftest import free_port
from tests.support.postgres import Server
from tests.support.samples import BASE

ROWS = [{"input": f"question {number}", "target": f"answer {number}"} for number in range(12)]
_LATER = {409, 429, 502, 503}


@dataclass
class Answer:
    model: str
    text: str


class Town:
    """What is killed comes back at once, as a launcher or a cluster sees to it."""

    def __init__(self, home: Path, nursery: Nursery, postgres: Server, url: str) -> None:
        self.home, self._nursery, self._postgres, self._url = home, nursery, postgres, url
        base = BaseModelSettings(id=BASE, source="/nowhere")
        self.settings = LedgerSettings(home=home, database_url=url, base_models=(base,))
        self.ledger = open_ledger(self.settings)
        (home / "graft.yaml").write_text(
            f"ledger: {{base_models: [{{id: {BASE}, source: /nowhere}}]}}\n"
            "service: {auth: true, engine_wait_seconds: 2}\n"
        )
        self.ports = {"service-1": free_port(), "service-2": free_port()}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.workers: dict[str, Process] = {}
        self.killed: Counter[str] = Counter()
        self._log = (home / "town.log").open("ab")

    # ---- processes

    def open(self) -> None:
        for name in (*self.ports, "engine"):
            self._start(name)
        for name in self.ports:
            until(lambda name=name: self._is_up(name), 60)

    def begin_work(self) -> None:
        for name in ("trainer-1", "trainer-2"):
            self._bear(name)

    def close(self) -> None:
        for worker in self.workers.values():
            worker.kill()
        for process in self.processes.values():
            process.kill()
            process.wait()
        self.ledger.close()
        self._log.close()

    def strike(self, dice: random.Random) -> None:
        """One of them is killed, whichever, and started again; or the database is."""
        name = dice.choice(
            ["service-1", "service-2", "engine", "trainer-1", "trainer-2", "postgres", "training"]
        )
        self.killed[name.partition("-")[0]] += 1
        if name == "postgres":
            self._postgres.crash()
            time.sleep(dice.uniform(0, 0.3))
            self._postgres.start()
        elif name == "training":
            kill_children(self.workers["trainer-1"].pid)
        elif name.startswith("trainer"):
            self.workers[name].kill()
            self._bear(name)
        else:
            self.processes[name].kill()
            self.processes[name].wait()
            self._start(name)
        for trainer, worker in list(self.workers.items()):
            assert worker.alive, f"{trainer} died of something that was not done to it"

    def _bear(self, name: str) -> None:
        self.workers[name] = self._nursery.bear(
            Order(
                home=str(self.home),
                database_url=self._url,
                name=name,
                max_jobs=2,
                step_seconds=0.01,
            )
        )

    def _start(self, name: str) -> None:
        command = ["-m", "tests.chaos.engine", str(self.settings.engine_socket(BASE)), BASE]
        if name in self.ports:
            command = ["-m", "service", "--port", str(self.ports[name])]
        environment = os.environ | {"GRAFT_HOME": str(self.home), "GRAFT_DATABASE_URL": self._url}  # noqa: TID251
        self.processes[name] = subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            env=environment,
            stdout=self._log,
            stderr=self._log,
        )

    def _is_up(self, name: str) -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{self.ports[name]}/healthz").status_code == 200
        except httpx.TransportError:
            return False

    # ---- tenants

    def key_of(self, tenant: str) -> str:
        new = NewKey(tenant=tenant, name="", scopes=(Scope.INFER, Scope.TUNE), lifetime=None)
        return self.ledger.keys.make(new).secret

    def ask(
        self, dice: random.Random, key: str, method: str, path: str, **options
    ) -> httpx.Response:
        """At one service or the other, until it is answered. `Idempotency-Key` makes repeating safe."""
        headers = {"Authorization": f"Bearer {key}", **options.pop("headers", {})}
        deadline = time.monotonic() + 60
        while True:
            url = f"http://127.0.0.1:{dice.choice(list(self.ports.values()))}{path}"
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
        assert {job.status for job in jobs.values()} == {JobStatus.SUCCEEDED}
        assert all(job.tenant == asked[job.id] for job in jobs.values())
        versions = [one for adapter in self.ledger.registry.list() for one in adapter.versions]
        made = Counter(one.job_id for one in versions)
        assert made == Counter(asked.keys()), f"a version is lost or doubled: {made}"

    def unfairness(self) -> float:
        """Of the first half of the jobs that were taken up: how far a tenant is off its share, as a part of that."""
        jobs = sorted(self.ledger.jobs.list(limit=10_000), key=lambda job: job.started_at)
        tenants = {job.tenant for job in jobs}
        first = Counter(job.tenant for job in jobs[: len(jobs) // 2])
        fair = len(jobs) / 2 / len(tenants)
        return max(abs(first[tenant] - fair) / fair for tenant in tenants)


class Asking(threading.Thread):
    """A client that asks whatever versions there are, and looks at what it is told."""

    def __init__(self, town: Town, keys: dict[str, str], seed: int) -> None:
        super().__init__()
        self._town, self._keys, self._dice = town, keys, random.Random(seed)
        self.stop = threading.Event()
        self.answers = 0
        self.wrong: list[Answer] = []

    def run(self) -> None:
        while not self.stop.is_set():
            try:
                adapters = self._town.ledger.registry.list()
            except Unavailable:
                adapters = []
            if adapters:
                adapter = self._dice.choice(adapters)
                self.ask(adapter.tenant, self._dice.choice(adapter.versions))
            time.sleep(0.02)

    def ask(self, tenant: str, version) -> None:
        body = {"model": version.name, "messages": [{"role": "user", "content": "who are you?"}]}
        key = self._keys[tenant]
        answer = self._town.ask(self._dice, key, "POST", "/v1/chat/completions", json=body)
        told = answer.text
        if answer.status_code == 200:
            told = answer.json()["choices"][0]["message"]["content"]
        if told != f"{version.name}: {outcome(version.job_id)}":
            self.wrong.append(Answer(version.name, told))
        self.answers += 1


def kill_children(pid: int) -> None:
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        os.kill(int(child), 9)
