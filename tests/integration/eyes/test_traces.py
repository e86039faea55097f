"""The real service as a process, an engine that speaks HTTP, and a collector that understands what it is told."""

import asyncio
import json
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from adapters.keys import NewKey, Scope
from adapters.ledger import open_ledger
from adapters.settings import TelemetrySettings
from adapters.traces import place_of_job, trace_id_of_job
from tests.integration.service.conftest import BASE, Running, ledger_settings, serving, until
from tests.support.collector import Collector, Told, collecting
from tests.support.fake_engine import FakeEngine

CANARY = "xyzzy-what-a-user-says"
TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED = {"traceparent": f"00-{TRACE}-{CALLER}-01", "tracestate": "vendor=1"}
SAYS = {"messages": [{"role": "user", "content": f"Say {CANARY}."}]}
ROW = {"input": CANARY, "target": f"{CANARY}!"}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def process(home: Path, port: int, **environment: str) -> Iterator[Path]:
    """`python -m service` on that home; its log."""
    config, log = home / "graft.yaml", home / "service.log"
    models = [model.model_dump() for model in ledger_settings(home).base_models]
    config.write_text(json.dumps({"ledger": {"home": str(home), "base_models": models}}))
    given = {
        "PATH": "/usr/bin:/bin",
        "GRAFT_CONFIG": str(config),
        "GRAFT_LOG_FORMAT": "json",
        "GRAFT_SERVICE_AUTH": "true",
        **environment,
    }
    command = [sys.executable, "-m", "service", "--port", str(port)]
    with (
        log.open("wb") as output,
        subprocess.Popen(command, stderr=output, env=given, cwd=Path(__file__).parents[3]) as p,
    ):
        try:
            yield log
        finally:
            p.terminate()
            p.wait(30)


@asynccontextmanager
async def house(home: Path, **environment: str) -> AsyncIterator[tuple[Running, str, Path]]:
    """The service, ready; a key to it; its log."""
    settings, port = ledger_settings(home), free_port()
    engine = FakeEngine(settings.engine_socket(BASE), BASE)
    await engine.start()
    ledger = open_ledger(settings)
    key = ledger.keys.make(NewKey(tenant="default", scopes=(Scope.INFER, Scope.TUNE))).secret
    url = f"http://127.0.0.1:{port}"
    headers = {"authorization": f"Bearer {key}"}
    with process(home, port, **environment) as log:
        async with httpx.AsyncClient(base_url=url, timeout=30, headers=headers) as client:
            running = Running(client, engine, ledger, home, url)

            async def ready() -> bool:
                try:
                    return await running._ready()
                except httpx.TransportError:
                    return False

            await until(ready, timeout=60)
            yield running, key, log
    ledger.close()
    await engine.kill()


def one(collector: Collector, name: str, trace_id: str = TRACE) -> Told:
    """The only span of that name in that trace."""
    found = [span for span in collector.named(name) if span.trace_id == trace_id]
    assert len(found) == 1, (name, found)
    return found[0]


@dataclass
class Seen:
    """What was asked, what the collector and the engine were told, and what was logged."""

    collector: Collector
    engine: FakeEngine
    key: str
    bot: str
    job_id: str
    lines: list[dict[str, Any]]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """After a stream by a cold adapter, an error, an unknown path and an order, each with words that nobody may see."""
    home = tmp_path_factory.mktemp("traces")

    async def use(collector: Collector) -> Seen:
        given = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "OTEL_EXPORTER_OTLP_HEADERS": "x-scope-orgid=graft,authorization=Basic%20YTpi",
        }
        async with house(home, **given) as (running, key, log):
            bot = await _published(running)
            body = {"model": bot, **SAYS, "stream": True}
            answer = await running.http.post("/v1/chat/completions", json=body, headers=SAMPLED)
            assert answer.status_code == 200, answer.text
            wrong = {"model": BASE, **SAYS, CANARY: 1}
            await running.http.post("/v1/chat/completions", json=wrong)
            await running.http.get(f"/{CANARY}?key={CANARY}")
            order = {"name": "mine", "data": [ROW] * 3}
            submitted = await running.http.post("/finetune", json=order)
            assert submitted.status_code == 202, submitted.text
            names = ("POST /v1/chat/completions", "POST /finetune", "GET unknown")
            await asyncio.to_thread(collector.wait_for, *names)
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        return Seen(collector, running.engine, key, bot, submitted.json()["id"], lines)

    with collecting() as collector:
        return asyncio.run(use(collector))


def test_a_request_is_told_below_its_caller(seen: Seen) -> None:
    asked = one(seen.collector, "POST /v1/chat/completions")
    assert (asked.service, asked.parent_id, asked.kind) == ("graft-service", CALLER, 2)
    assert asked.about["http.response.status_code"] == 200
    assert asked.about["http.route"] == "/v1/chat/completions"
    assert asked.about["graft.tenant"] == "default"
    assert not seen.collector.named("GET /readyz")


def test_a_load_is_told_with_its_parts(seen: Seen) -> None:
    asked = one(seen.collector, "POST /v1/chat/completions")
    wait, load = (
        one(seen.collector, "graft.adapter.wait"),
        one(seen.collector, "graft.adapter.load"),
    )
    assert (wait.parent_id, load.parent_id) == (asked.span_id, wait.span_id)
    for part in ("adapter.fetch", "adapter.inspect", "engine.load", "adapter.prove"):
        assert one(seen.collector, f"graft.{part}").parent_id == load.span_id, part
    admissions = [
        span for span in seen.collector.named("graft.admission") if span.trace_id == TRACE
    ]
    # For its place, and for it once more after others have had it during the load.
    assert [span.parent_id for span in admissions] == [asked.span_id] * 2


def test_the_call_of_the_engine_is_told_and_goes_on_in_the_engine(seen: Seen) -> None:
    asked, call = (
        one(seen.collector, "POST /v1/chat/completions"),
        one(seen.collector, f"chat {seen.bot}"),
    )
    assert (call.parent_id, call.kind, call.failed) == (asked.span_id, 3, False)
    assert call.about["gen_ai.operation.name"] == "chat"
    assert call.about["gen_ai.request.model"] == seen.bot
    assert call.about["gen_ai.usage.output_tokens"] > 0
    assert 0 < call.events["gen_ai.first_token"]["graft.seconds"] < 10
    load = one(seen.collector, "graft.adapter.load")
    assert load.end <= call.start <= call.end <= asked.end
    told = {"traceparent": f"00-{TRACE}-{call.span_id}-01", "tracestate": "vendor=1"}
    assert told in seen.engine.traces


def test_an_order_points_to_the_trace_of_its_job(seen: Seen) -> None:
    place = place_of_job(seen.job_id)
    order = seen.collector.named("POST /finetune")[0]
    assert order.links == [(f"{place.trace_id:032x}", f"{place.span_id:016x}")]
    assert order.about["graft.job.id"] == seen.job_id


def test_nothing_that_users_say_is_told_and_no_key(seen: Seen) -> None:
    sent = b"".join(seen.collector.bodies)
    assert b"graft.adapter.load" in sent
    assert CANARY.encode() not in sent
    assert seen.key.encode() not in sent


def test_the_collector_gets_the_headers_that_it_wants(seen: Seen) -> None:
    assert seen.collector.headers[0]["x-scope-orgid"] == "graft"
    assert seen.collector.headers[0]["authorization"] == "Basic YTpi"


def test_lines_of_the_log_say_in_which_trace_they_are(seen: Seen) -> None:
    access = [line for line in seen.lines if line["logger"] == "graft.access"]
    asked = {line["trace_id"] for line in access if line["route"] == "/v1/chat/completions"}
    told = {span.trace_id for span in seen.collector.named("POST /v1/chat/completions")}
    assert asked == told
    assert TRACE in told


async def _published(running: Running) -> str:
    """A version that nothing loads ahead of the first request."""
    version = running.publish("bot", promote=False)

    async def is_known() -> bool:
        return (await running.http.get(f"/adapters/{version.adapter}")).status_code == 200

    await until(is_known)
    return version.name


async def test_what_the_caller_does_not_want_told_is_not_told(tmp_path: Path) -> None:
    with collecting() as collector:
        async with house(tmp_path, GRAFT_TELEMETRY_OTLP_ENDPOINT=collector.url) as (running, *_):
            body = {"model": BASE, **SAYS}
            silent = {"traceparent": f"00-{TRACE}-{CALLER}-00"}
            await running.http.post("/v1/chat/completions", json=body, headers=silent)
            # Sent after it, told of with it.
            await running.http.get("/v1/models")
            version = running.publish("bot")
            names = ("GET /v1/models", "graft.adapter.activate", "graft.adapter.load")
            await asyncio.to_thread(collector.wait_for, *names)
    assert not collector.named("POST /v1/chat/completions")
    # What the trainer has published, the service brings in as a part of the job.
    assert version.job_id is not None
    activated = one(collector, "graft.adapter.activate", trace_id_of_job(version.job_id))
    assert activated.parent_id == f"{place_of_job(version.job_id).span_id:016x}"
    assert one(collector, "graft.adapter.load", activated.trace_id)


async def test_where_nothing_is_sampled_requests_pass_and_only_jobs_are_told(
    tmp_path: Path,
) -> None:
    with collecting() as collector:
        given = {"otlp_endpoint": collector.url, "sample_ratio": 0.0}
        async with busy(tmp_path, TelemetrySettings(**given)) as running:
            for _ in range(20):
                assert (await ask(running)).status_code == 200
            running.publish("bot")
            await until(lambda: told_of(collector, "graft.adapter.activate"))
    assert not collector.named("POST /v1/chat/completions")
    # The engine decides by what it is told: nothing, so that it begins nothing.
    assert running.engine.traces[-1] == {}


@pytest.mark.parametrize("how", ["dead", "slow", "rude"])
async def test_a_collector_that_fails_costs_no_request_anything(tmp_path: Path, how: str) -> None:
    with collecting(seconds=60.0 if how == "slow" else 0.0, status=503) as collector:
        port = free_port() if how == "dead" else collector.port
        telemetry = TelemetrySettings(otlp_endpoint=f"http://127.0.0.1:{port}")
        began = time.monotonic()
        async with busy(tmp_path, telemetry) as running:
            # More than may wait to be sent: each is three spans.
            for _ in range(30):
                answers = await asyncio.gather(*(ask(running) for _ in range(50)))
                assert {answer.status_code for answer in answers} == {200}
        # Far below what a single request to the slow one takes, the end of the service included.
        assert time.monotonic() - began < 50


@asynccontextmanager
async def busy(home: Path, telemetry: TelemetrySettings) -> AsyncIterator[Running]:
    """The service in this process, without keys."""
    settings = ledger_settings(home)
    engine = FakeEngine(settings.engine_socket(BASE), BASE)
    await engine.start()
    ledger = open_ledger(settings)
    async with serving(home, telemetry=telemetry) as (client, url):
        running = Running(client, engine, ledger, home, url)
        await running.up()
        yield running
    ledger.close()
    await engine.kill()


async def ask(running: Running) -> httpx.Response:
    return await running.http.post("/v1/chat/completions", json={"model": BASE, **SAYS})


async def told_of(collector: Collector, name: str) -> bool:
    return bool(collector.named(name))
