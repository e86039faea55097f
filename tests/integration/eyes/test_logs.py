"""What the service writes into its log, as JSON, while all kinds of requests come: facts, and nothing of the users'."""

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from adapters.keys import NewKey, Scope
from adapters.ledger import open_ledger
from adapters.logs import JsonFormatter
from tests.integration.service.conftest import BASE, Running, ledger_settings, serving, until
from tests.support.fake_engine import FakeEngine

CANARY = "Kanarienvogel-7731"


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """All that is logged from INFO on, as `service` writes it with GRAFT_LOG_FORMAT=json."""
    stream, root = io.StringIO(), logging.getLogger()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    # The client is in this process too; and uvicorn's own access log is off in `service/__main__.py`.
    handler.addFilter(lambda record: record.name not in {"httpx", "uvicorn.access"})
    before = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    yield stream
    root.removeHandler(handler)
    root.setLevel(before)


async def ask_everything(running: Running, headers: dict[str, str]) -> str:
    """Requests of all kinds, right and wrong, each with the canary in it; the key is one too. The id of a job."""
    chat = {"messages": [{"role": "user", "content": CANARY}]}
    row = json.dumps({"input": CANARY, "target": CANARY})
    http = running.http
    for body in (
        {"model": BASE, **chat},
        {"model": BASE, **chat, "stream": True},
        {"model": "bot", **chat},
        {"model": CANARY, **chat},
        {"model": BASE, **chat, "temperature": 99},
        {"model": BASE, **chat, CANARY: 1},
        {"model": BASE, "messages": CANARY},
    ):
        await http.post("/v1/chat/completions", json=body, headers=headers)
    await http.post("/v1/chat/completions", content=f'{{"{CANARY}', headers=headers)
    await http.get(f"/{CANARY}?key={CANARY}", headers=headers)
    await http.get(f"/finetune/{CANARY}", headers=headers)
    await http.get("/v1/models", headers={"authorization": f"Bearer {CANARY}"})
    wrong = {"data": ("facts.jsonl", f'{{"input": "{CANARY}"}}\n')}
    await http.post("/finetune", files=wrong, data={"name": "bot"}, headers=headers)
    right = {"data": ("facts.jsonl", "\n".join([row] * 3))}
    told = await http.post("/finetune", files=right, data={"name": "mine"}, headers=headers)
    assert told.status_code == 202, told.text
    # The engine dies in the middle, and refuses a version.
    running.engine.die_in_event = 1
    body = {"model": BASE, **chat, "stream": True}
    await http.post("/v1/chat/completions", json=body, headers=headers)
    return str(told.json()["id"])


async def test_logs_have_facts_and_neither_secrets_nor_what_users_say(
    tmp_path: Path, lines: io.StringIO
) -> None:
    settings = ledger_settings(tmp_path)
    engine = FakeEngine(settings.engine_socket(BASE), BASE)
    await engine.start()
    ledger = open_ledger(settings)
    made = ledger.keys.make(NewKey(tenant="acme", scopes=(Scope.INFER, Scope.TUNE)))
    async with serving(tmp_path, auth=True, engine_wait_seconds=0.1) as (client, url):
        running = Running(client, engine, ledger, tmp_path, url)
        await until(running._ready)
        await ask_everything(running, {"authorization": f"Bearer {made.secret}"})
    ledger.close()
    await engine.kill()
    text = lines.getvalue()
    told: list[dict[str, Any]] = [json.loads(line) for line in text.splitlines()]
    assert len(told) > 15
    assert CANARY not in text
    assert made.secret not in text
    access = [one for one in told if one["logger"] == "graft.access"]
    answered = [one for one in access if one["route"] == "/v1/chat/completions"]
    assert {one["tenant"] for one in answered} == {"acme"}
    assert {one.get("adapter") for one in answered} == {BASE, None}
    assert all(one["request_id"] and one["milliseconds"] >= 0 for one in access)
    assert {one["status"] for one in access} >= {200, 202, 400, 401, 404}
    probed = [one["status"] for one in access if one["route"] in {"/healthz", "/readyz"}]
    assert 200 not in probed  # nobody reads that every few seconds
