"""Two services in homes of their own, with one ledger: PostgreSQL and a bucket. And what an outage of it costs."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from adapters.ledger import open_ledger
from adapters.settings import BaseModelSettings
from tests.integration.service.conftest import BASE, Running, serving, until
from tests.support.fake_engine import FakeEngine
from tests.support.faulty_link import FaultyLink

ROWS = b'{"input": "one", "target": "two"}\n' * 12


@dataclass
class Pair:
    one: Running
    other: Running
    #: By which the other reaches the bucket.
    link: FaultyLink


@pytest.fixture
async def pair(tmp_path: Path, database_url: str, seaweed: Any) -> AsyncIterator[Pair]:
    url = seaweed.url()
    async with AsyncExitStack() as stack:
        link = stack.enter_context(FaultyLink(seaweed.port))

        async def machine(name: str, port: int | None) -> Running:
            settings = seaweed.settings(
                tmp_path / name,
                url,
                port=port,
                database_url=database_url,
                base_models=(BaseModelSettings(id=BASE, source="/nowhere"),),
            )
            settings.run_dir.mkdir(parents=True)
            engine = FakeEngine(settings.engine_socket(BASE), BASE)
            await engine.start()
            stack.push_async_callback(engine.kill)
            ledger = open_ledger(settings)
            stack.callback(ledger.close)
            context = serving(settings.home, ledger=settings, engine_wait_seconds=0.2)
            client, address = await stack.enter_async_context(context)
            running = Running(client, engine, ledger, settings.home, address)
            await running.up()
            return running

        yield Pair(await machine("one", None), await machine("other", link.port), link)


async def ask(machine: Running, model: str) -> httpx.Response:
    body = {"model": model, "messages": [{"role": "user", "content": "hello"}]}
    return await machine.http.post("/v1/chat/completions", json=body)


async def test_what_one_machine_has_the_other_has_too(pair: Pair) -> None:
    version = pair.one.publish("bot")
    for machine in (pair.one, pair.other):
        answer = await ask(machine, "bot")
        assert (answer.status_code, answer.headers["x-graft-version"]) == (200, version.name)
        assert Path(machine.engine.adapters[version.name]).is_relative_to(machine.home / "lent")

    kept = await pair.one.http.post(
        "/v1/files", data={"purpose": "fine-tune"}, files={"file": ("t.jsonl", ROWS)}
    )
    content = await pair.other.http.get(f"/v1/files/{kept.json()['id']}/content")
    assert content.content == ROWS


async def test_an_upload_may_come_in_parts_to_whichever_machine(pair: Pair) -> None:
    about = {
        "filename": "t.jsonl",
        "purpose": "fine-tune",
        "bytes": len(ROWS),
        "mime_type": "text/jsonl",
    }
    upload = (await pair.one.http.post("/v1/uploads", json=about)).json()["id"]
    parts = []
    for machine, piece in ((pair.one, ROWS[:100]), (pair.other, ROWS[100:])):
        part = await machine.http.post(f"/v1/uploads/{upload}/parts", files={"data": piece})
        parts.append(part.json()["id"])
    done = await pair.one.http.post(f"/v1/uploads/{upload}/complete", json={"part_ids": parts})
    assert done.json()["status"] == "completed", done.text
    content = await pair.other.http.get(f"/v1/files/{done.json()['file']['id']}/content")
    assert content.content == ROWS


async def test_an_outage_of_the_bucket_costs_only_what_needs_it(pair: Pair) -> None:
    pair.one.publish("warm")
    assert (await ask(pair.other, "warm")).status_code == 200
    about = {
        "filename": "t.jsonl",
        "purpose": "fine-tune",
        "bytes": len(ROWS),
        "mime_type": "text/jsonl",
    }
    upload = (await pair.other.http.post("/v1/uploads", json=about)).json()["id"]
    pair.link.down = True
    cold = pair.one.publish("cold")

    for _ in range(20):
        assert (await ask(pair.other, "warm")).status_code == 200
    refused = [
        await ask(pair.other, cold.name),
        await pair.other.http.post(
            "/v1/files", data={"purpose": "fine-tune"}, files={"file": ("t.jsonl", ROWS)}
        ),
        await pair.other.http.post(f"/v1/uploads/{upload}/parts", files={"data": ROWS}),
    ]
    for answer in refused:
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "store_unavailable")
        assert int(answer.headers["retry-after"]) >= 1
    assert (await ask(pair.other, "warm")).status_code == 200

    pair.link.down = False

    async def answers() -> bool:
        return (await ask(pair.other, cold.name)).status_code == 200

    await until(answers)
    # What was refused has left nothing behind that is named.
    assert (await pair.other.http.get("/v1/files")).json()["data"] == []


async def test_what_an_engine_may_read_outlives_the_service(pair: Pair, tmp_path: Path) -> None:
    version = pair.one.publish("bot")
    await ask(pair.one, "bot")
    lent = Path(pair.one.engine.adapters[version.name])
    pair.one.ledger.aliases.promote("bot", version.number)
    pair.one.ledger.registry._artifacts.delete_version(version.digest)
    assert (lent / "adapter_config.json").is_file()
    await pair.one.http.delete("/adapters/bot")

    async def gone() -> bool:
        return not lent.exists()  # noqa: ASYNC240  a look

    await until(gone)
    assert version.name not in pair.one.engine.adapters
