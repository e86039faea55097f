"""A version that the engine computes wrongly answers nobody, and everybody learns why."""

import asyncio

import httpx
import pytest

from adapters.records import Version
from tests.integration.service.conftest import BASE, Running, serving, until
from tests.support.probes import probed
from tests.support.samples import adapter_directory, manifest, new_job, render


def publish(service: Running, adapter: str = "bot", *, promote: bool = True) -> Version:
    """A version with the probes of what the fake engine computes of its files."""
    new = new_job(adapter)
    service.ledger.jobs.submit(new, render=render)
    job = service.ledger.jobs.claim(worker="t", base_model=BASE, lease_seconds=60, max_losses=9)
    assert job is not None
    source = adapter_directory(service.home / "made" / job.id, content=job.id.encode())
    made = probed(manifest(job), source)
    return service.ledger.registry.publish(job, source, made, promote=promote)


async def ask(http: httpx.AsyncClient, model: str) -> httpx.Response:
    body = {"model": model, "messages": [{"role": "user", "content": "hello"}]}
    return await http.post("/v1/chat/completions", json=body)


async def listed(service: Running) -> set[str]:
    return {card["id"] for card in (await service.http.get("/v1/models")).json()["data"]}


async def told(service: Running, outcome: str) -> float:
    text = (await service.http.get("/metrics")).text
    wanted = f'graft_adapter_probes_total{{base_model="{BASE}",outcome="{outcome}"}} '
    lines = [line for line in text.splitlines() if line.startswith(wanted)]
    return float(lines[0].removeprefix(wanted)) if lines else 0.0


async def test_a_version_that_is_what_it_should_be_answers_and_is_looked_at_once(
    service: Running,
) -> None:
    publish(service)
    assert {
        one.status_code
        for one in await asyncio.gather(*(ask(service.http, "bot@1") for _ in range(9)))
    } == {200}
    assert service.engine.probes == [BASE, "bot@1"]  # the base model as the engine came up
    assert await told(service, "verified") == 1
    service.publish("plain")  # as if an older release had trained it
    assert (await ask(service.http, "plain")).status_code == 200
    assert await told(service, "absent") == 1


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("good", [False, True])
async def test_a_question_is_on_its_way_while_the_version_is_compared_and_no_answer_leaves_before(
    service: Running, *, good: bool, stream: bool
) -> None:
    service.engine.slow_probes = asyncio.Event()
    publish(service)
    if not good:
        service.engine.passes_over.add("bot@1")
    asked = len(service.engine.bodies)
    body = {"model": "bot@1", "messages": [{"role": "user", "content": "hello"}], "stream": stream}
    answer = asyncio.create_task(service.http.post("/v1/chat/completions", json=body))

    async def answered() -> bool:
        return len(service.engine.bodies) > asked and not service.engine.running

    await until(answered)
    assert service.engine.bodies[-1]["model"] == "bot@1"
    done, _ = await asyncio.wait([answer], timeout=0.2)
    assert not done
    service.engine.slow_probes.set()
    told = await answer
    assert told.status_code == (200 if good else 400)
    assert ("hello" in told.text, "model_quarantined" in told.text) == (good, not good)


@pytest.mark.parametrize("how", ["not applied", "another"])
async def test_a_version_that_the_engine_computes_wrongly_is_quarantined_for_good(
    service: Running, how: str
) -> None:
    publish(service)
    if how == "another":
        other = adapter_directory(service.home / "other", content=b"other")
        service.engine.mixes_up["bot@2"] = other
    else:
        service.engine.passes_over.add("bot@2")
    bad = publish(service, promote=False)
    refused = await ask(service.http, "bot@2")
    error = refused.json()["error"]
    assert (refused.status_code, error["code"], error["param"]) == (
        400,
        "model_quarantined",
        "model",
    )
    assert "bot@2 is quarantined" in error["message"]
    assert "bot@2" not in service.engine.adapters
    assert await told(service, "quarantined") == 1
    names = await listed(service)
    assert {"bot", "bot@1"} <= names
    assert not {"bot@2", bad.fine_tuned_name} & names
    for name in ("bot@2", bad.fine_tuned_name or ""):
        assert (await ask(service.http, name)).json()["error"]["code"] == "model_quarantined"
        found = await service.http.get(f"/v1/models/{name}")
        assert found.json()["error"]["code"] == "model_quarantined"
    assert service.engine.loads.count("bot@2") == 1
    entry = (await service.http.get("/adapters/bot")).json()
    assert (entry["live"], entry["versions"][0]["quarantined"]) == ("bot@1", None)
    assert "nats" in entry["versions"][1]["quarantined"]
    promoted = await service.http.post("/adapters/bot/promote", json={"version": 2})
    assert promoted.json()["error"]["code"] == "model_quarantined"
    events = (await service.http.get(f"/finetune/{bad.job_id}/events")).text
    assert "bot@2 is quarantined and no longer answers" in events
    assert (await ask(service.http, "bot")).json()["model"] == "bot@1"


async def test_a_quarantine_of_the_live_version_leaves_the_alias_and_outlives_the_service(
    service: Running,
) -> None:
    service.engine.passes_over.add("bot@1")
    publish(service)

    async def quarantined() -> bool:  # the service loads it ahead of use
        return service.ledger.registry.version("bot@1").quarantined is not None

    await until(quarantined)
    refused = await ask(service.http, "bot")
    assert refused.json()["error"]["code"] == "model_quarantined"
    assert await listed(service) == {BASE}
    assert service.ledger.registry.get("bot").aliases == {"live": 1}
    service.engine.passes_over.clear()
    async with serving(service.home, engine_wait_seconds=5) as (http, _):
        assert (await ask(http, "bot")).json()["error"]["code"] == "model_quarantined"
    assert service.engine.loads == ["bot@1"]


async def test_what_was_verified_is_not_compared_again_by_the_next_service(
    service: Running,
) -> None:
    publish(service)
    assert (await ask(service.http, "bot")).status_code == 200
    async with serving(service.home, engine_wait_seconds=5) as (http, _):
        assert (await ask(http, "bot")).status_code == 200
    assert service.engine.probes == [BASE, "bot@1", BASE]  # it came up twice


async def test_whoever_looks_after_the_server_can_have_a_version_compared_anew_or_delete_it(
    service: Running,
) -> None:
    service.engine.passes_over.add("bot@1")
    publish(service)
    assert (await ask(service.http, "bot")).status_code == 400
    service.engine.passes_over.clear()
    again = await service.http.post("/adapters/bot/recheck", json={"version": 1})
    assert (again.status_code, again.json()["versions"][0]["quarantined"]) == (200, None)
    assert (await ask(service.http, "bot")).status_code == 200
    assert await told(service, "verified") == 1
    service.engine.passes_over.add("bot@1")
    await service.http.post("/adapters/bot/recheck", json={"version": 1})
    assert (await ask(service.http, "bot")).status_code == 400
    assert (await service.http.delete("/v1/models/bot@1")).status_code == 200
    assert (await ask(service.http, "bot")).status_code == 404
    missing = await service.http.post("/adapters/bot/recheck", json={"version": 1})
    assert missing.status_code == 404
