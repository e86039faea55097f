"""A real Prometheus scrapes the real service and a worker's metrics; every query of every dashboard is asked of it."""

import asyncio
import json
import math
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from threading import Event, Thread
from typing import Any

import httpx
import pytest
import yaml
from prometheus_client import start_http_server

from adapters.ledger import open_ledger
from adapters.settings import BaseModelSettings, LedgerSettings
from tests.integration.service.conftest import BASE, Running, serving, until
from tests.support.fake_engine import FakeEngine
from tests.support.fake_process import FakeProcess
from tests.support.samples import adapter_directory, brought
from tests.unit.trainer.workshop import submit
from tools import prometheus
from tools.dashboards import queries
from trainer.metrics import Instruments, Metrics
from trainer.placement import Placement
from trainer.settings import TrainerSettings
from trainer.storage import count, folders
from trainer.worker import Worker

ROOT = Path(__file__).parents[3]
#: Nothing here brings adapters from elsewhere: no series until somebody does, and Grafana says "No data".
WITHOUT_DATA = {"graft-adapters: Brought from elsewhere: {{outcome}}"}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def scraping(folder: Path, service: str, trainer_port: int) -> Iterator[httpx.Client]:
    """A Prometheus of its own; a client that asks it."""
    binaries = prometheus.binaries()
    assert binaries is not None, "make prometheus"
    target = service.removeprefix("http://")
    jobs = [
        {"job_name": "graft", "targets": [target], "path": "/metrics"},
        {"job_name": "graft-engines", "targets": [target], "path": "/metrics/engines"},
        {"job_name": "graft-trainer", "targets": [f"127.0.0.1:{trainer_port}"], "path": "/metrics"},
    ]
    configuration = {
        "global": {"scrape_interval": "500ms", "evaluation_interval": "1s"},
        "rule_files": [str(file) for file in (ROOT / "helm/graft/files/alerts").glob("*.yaml")],
        "scrape_configs": [
            {
                "job_name": job["job_name"],
                "metrics_path": job["path"],
                "static_configs": [{"targets": job["targets"]}],
            }
            for job in jobs
        ],
    }
    file, port = folder / "prometheus.yml", free_port()
    file.write_text(yaml.safe_dump(configuration))
    command = [binaries / "prometheus", f"--config.file={file}"]
    command += [f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address=127.0.0.1:{port}"]
    with (folder / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as p:
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}/api/v1", timeout=30) as client:
                yield client
        finally:
            p.kill()


def ask(client: httpx.Client, query: str, at: float | None = None) -> list[float]:
    """The values that Prometheus has for it (at a moment, or now), those that are no number left out."""
    query = query.replace("$__rate_interval", "30s")
    query = query.replace("$job", ".*").replace("$namespace", ".*").replace("$base_model", ".*")
    moment = {} if at is None else {"time": f"{at:.3f}"}
    answer = client.get("/query", params={"query": query, **moment})
    assert answer.status_code == 200, (query, answer.text)
    found = answer.json()["data"]["result"]
    values = [float(one["value"][1]) for one in found]
    return [value for value in values if not math.isnan(value)]


async def scraped(client: httpx.Client, at: float | None = None) -> bool:
    """Whether every target was, the last time before a moment (or now)."""
    try:
        return await asyncio.to_thread(ask, client, "up", at) == [1.0, 1.0, 1.0]
    except (httpx.HTTPError, AssertionError):
        return False


async def good_moment(client: httpx.Client) -> float:
    """One at which every series is there.

    A scrape that takes longer than the interval, as on a machine with much to do, makes every gauge of its target
    stale until the next one. A second back, so that no scrape with an earlier time is still under way.
    """
    while not await scraped(client, moment := time.time() - 1):
        await asyncio.sleep(0.1)
    return moment


@asynccontextmanager
async def house(settings: LedgerSettings) -> AsyncIterator[tuple[Running, int]]:
    """Service, fake engine, a worker with a fake process, a bucket; and the port of the worker's metrics."""
    home = settings.home
    engine = FakeEngine(settings.engine_socket(BASE), BASE)
    await engine.start()
    instruments, port, stop = Instruments(), free_port(), Event()
    instruments.store.expect()
    ledger = open_ledger(settings, watch=instruments.store)
    server, serving_thread = start_http_server(port, "127.0.0.1", registry=instruments.registry)
    worker = Worker(
        ledger=ledger,
        process=SlowProcess(steps=100, checkpoint_every=2),
        settings=TrainerSettings(max_jobs=2, heartbeat_seconds=0.2),
        base_model=BASE,
        worker_id="w",
        work_dir=settings.work_dir,
        metrics=Metrics(instruments, base_model=BASE, device="cpu"),
        placement=Placement(),
    )
    thread = Thread(target=worker.run, args=(stop.is_set,))
    thread.start()
    try:
        async with serving(home, ledger=settings) as (client, url):
            running = Running(client, engine, ledger, home, url)
            await running.up()
            count(folders(settings), instruments)
            yield running, port
    finally:
        stop.set()
        thread.join()
        server.shutdown()
        serving_thread.join()
        server.server_close()
        ledger.close()
        await engine.kill()


class SlowProcess(FakeProcess):
    """Reports a step every hundredth of a second, so that there is a speed."""

    def receive(self, timeout: float):
        time.sleep(0.01)
        return super().receive(timeout)


async def use(running: Running, seconds: float) -> None:
    """Traffic of every kind that dashboards show, for so long."""
    for number in range(6):
        # Not by a job: those the worker would take.
        source = adapter_directory(running.home / f"made-{number}", content=bytes([65 + number]))
        made = brought(str(number) * 64)
        running.ledger.registry.bring_in(f"bot-{number}", source, made, promote=True)
    end, asked = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        asked += 1
        for model in (BASE, f"bot-{asked % 6}"):
            body = {"model": model, "messages": [{"role": "user", "content": "Say it."}]}
            for more in ({}, {"stream": True}, {"temperature": 9}):
                await running.http.post("/v1/chat/completions", json={**body, **more})
        await running.http.get("/v1/models")
        await asyncio.sleep(0.1)


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory, seaweed: Any) -> dict[str, list[float]]:
    """What Prometheus has for each query of each panel, and for some of ours, after some seconds of use."""
    home = tmp_path_factory.mktemp("eyes")
    models = (BaseModelSettings(id=BASE, source="/nowhere"),)
    settings = seaweed.settings(home, seaweed.url(), base_models=models)

    async def watch() -> dict[str, list[float]]:
        async with house(settings) as (running, trainer_port):
            with scraping(home, running.url, trainer_port) as client:
                await until(partial(scraped, client))
                # Some end meanwhile, and some run when the questions are asked.
                for number in range(60):
                    submit(running.ledger, home, f"new-{number}")
                await use(running, 9.0)
                await running.engine.kill()
                await asyncio.sleep(1.5)
                await running.engine.start()
                await use_again(running)
                asked = dict(queries()) | {
                    "up": "up",
                    "unbounded": "vllm:lora_requests_info",
                    "engine down": 'ALERTS{alertname="GraftEngineDown"}',
                    "exported": '{exported_job!=""}',
                }
                moment = await good_moment(client)
                return await asyncio.to_thread(
                    lambda: {where: ask(client, query, moment) for where, query in asked.items()}
                )

    return asyncio.run(watch())


async def use_again(running: Running) -> None:
    await running.up()
    for number in range(6):
        body = {"model": f"bot-{number}", "messages": [{"role": "user", "content": "Say it."}]}
        await running.http.post("/v1/chat/completions", json=body)
    await asyncio.sleep(2.2)


def test_every_target_is_scraped(answers: dict[str, list[float]]) -> None:
    assert answers["up"] == [1.0, 1.0, 1.0]


def test_every_query_of_every_dashboard_finds_something(answers: dict[str, list[float]]) -> None:
    asked = dict(queries())
    empty = {where for where in asked if not answers[where]}
    assert empty == WITHOUT_DATA, json.dumps({one: asked[one] for one in empty}, indent=1)
    assert len(empty) <= 0.05 * len(asked)


def test_no_label_of_ours_is_one_that_prometheus_sets_itself(
    answers: dict[str, list[float]],
) -> None:
    assert answers["exported"] == []


def test_what_cannot_be_bounded_does_not_get_through(answers: dict[str, list[float]]) -> None:
    assert answers["unbounded"] == []


def test_figures_are_what_happened(answers: dict[str, list[float]]) -> None:
    assert max(answers["graft-serving: Completions: {{outcome}}"]) > 1
    assert max(answers["graft-training: Tokens: {{base_model}}"]) > 0
    assert answers["graft-adapters: Registered: registered"][0] > 6
    assert answers["graft-serving: Went away: {{base_model}}"][0] > 0
    assert sum(answers["graft-training: Submitted: submitted"]) == 0
    assert set(answers["graft-serving: Up: {{base_model}}"]) == {1.0}
    assert max(answers["graft-serving: Bytes to and from the bucket: {{operation}}"]) > 0
    assert set(answers["graft-serving: Failed tries: {{job}} {{operation}}"]) == {0.0}
    assert answers["graft-serving: Last token: {{base_model}}"][0] < 60
