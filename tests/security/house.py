"""The service with keys on, called as a server would call it, and an engine that writes down what reaches it.

No socket and no HTTP parser in between: a path arrives here exactly as a test has written it, also where a decent
client or server would have put it right.
"""

import asyncio
import hashlib
import json
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from fastapi import FastAPI

from adapters.errors import Unavailable
from adapters.keys import NewKey, Scope
from adapters.ledger import Ledger, open_ledger
from adapters.settings import BaseModelSettings, LedgerSettings
from service.app import Configuration, create_app
from service.settings import EngineSettings, ServiceSettings, WebhookSettings
from tests.integration.service.conftest import until
from tests.support.fake_engine import FakeEngine
from tests.support.house import prepare_base
from tests.support.samples import BASE, adapter_directory, manifest, new_job, render

#: What no error may tell: addresses in memory, code, where we live.
LEAKS = re.compile(
    rb"0x[0-9a-f]{9,}|Traceback|File \\?\"|site-packages|\.py\\?\", line|line [0-9]+, in "
)
TYPES = {
    "authentication_error",
    "invalid_request_error",
    "permission_error",
    "rate_limit_error",
    "server_error",
}


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class House:
    """Two tenants: `ours` has every scope, `theirs` asks whether the models still answer."""

    app: FastAPI
    state: Mapping[str, Any]
    engine: FakeEngine
    ledger: Ledger
    root: Path
    keys: dict[str, str] = field(default_factory=dict)

    @property
    def home(self) -> Path:
        return self.root / "home"

    async def ask(
        self,
        method: str,
        path: str,
        body: Any = b"",
        *,
        key: str | None = "ours",
        query: str = "",
        headers: Mapping[str, str] | None = None,
        chunks: AsyncIterator[bytes] | None = None,
    ) -> Answer:
        """One request. A body that is not bytes is sent as JSON; `chunks` are sent one by one, length unannounced."""
        sent = {"host": "graft", "content-type": "application/json", **(headers or {})}
        if key is not None:
            sent["authorization"] = f"Bearer {self.keys[key]}"
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        if chunks is None:
            sent.setdefault("content-length", str(len(raw)))
        return await call(self, method, path, query, sent, chunks or _once(raw))

    async def refused(self, answer: Answer, *statuses: int) -> None:
        """It is a 4xx, in the one envelope that there is, and gives nothing away."""
        assert 400 <= answer.status < 500, (answer.status, answer.body[:500])
        assert not statuses or answer.status in statuses, (answer.status, answer.body[:500])
        self.discreet(answer)

    def discreet(self, answer: Answer) -> None:
        error = answer.json()["error"]
        assert {"message", "type", "param", "code"} <= error.keys()
        assert error["type"] in TYPES
        assert error["message"]
        assert len(answer.body) < 100_000
        assert LEAKS.search(answer.body) is None, answer.body[:500]
        for secret in (str(self.root), *self.keys.values()):
            assert secret.encode() not in answer.body

    async def canary(self) -> None:
        """Somebody else asks, and is answered."""
        said = [{"role": "user", "content": "canary"}]
        body = {"model": BASE, "messages": said}
        answer = await self.ask("POST", "/v1/chat/completions", body, key="theirs")
        assert answer.status == 200, answer.body[:500]
        assert answer.json()["choices"][0]["message"]["content"] == f"{BASE}: canary"

    def publish(self, adapter: str, tenant: str = "ours") -> str:
        """Train nothing, publish something; returns the job's id."""
        job_id = self.ledger.of(tenant).jobs.submit(new_job(adapter), render=render).body
        job = self.ledger.jobs.claim(worker="w", base_model=BASE, lease_seconds=600, max_losses=9)
        assert job is not None
        source = adapter_directory(self.root / "made" / job.id, content=job.id.encode())
        self.ledger.registry.publish(job, source, manifest(job), promote=True)
        return str(job_id)

    def files(self) -> dict[str, str]:
        """Every file there is, with a digest of its bytes; without the database's own and what is being read."""
        return {
            str(path.relative_to(self.root)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in self.root.rglob("*")
            if path.is_file() and not path.name.startswith("graft.db")
        }


async def _once(raw: bytes) -> AsyncIterator[bytes]:
    yield raw


async def call(
    house: House,
    method: str,
    path: str,
    query: str,
    headers: Mapping[str, str],
    chunks: AsyncIterator[bytes],
) -> Answer:
    """What a server does with a request: a scope, a body in pieces, an answer in pieces."""
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(errors="replace"),
        "root_path": "",
        "query_string": query.encode(errors="replace"),
        "headers": [
            (name.lower().encode(), value.encode("latin-1", "replace"))
            for name, value in headers.items()
        ],
        "client": ("192.0.2.1", 1),
        "server": ("graft", 80),
        "state": dict(house.state),
    }
    answer, ended = Answer(0, {}, b""), False

    async def receive() -> dict[str, Any]:
        nonlocal ended
        piece = await anext(chunks, None)
        if piece is not None:
            return {"type": "http.request", "body": piece, "more_body": True}
        if not ended:
            ended = True
            return {"type": "http.request", "body": b"", "more_body": False}
        return {"type": "http.disconnect"} if answer.status else await _for_ever()

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            answer.status = message["status"]
            answer.headers = {
                name.decode(): value.decode("latin-1") for name, value in message["headers"]
            }
        else:
            answer.body += message.get("body", b"")

    await house.app(scope, receive, send)  # type: ignore[arg-type]
    return answer


async def _for_ever() -> dict[str, Any]:
    await asyncio.Event().wait()
    raise AssertionError


class Silent:
    """Nobody counts tokens here: a process for that costs seconds, and no test of these is about it."""

    async def ask(self, question: Any) -> NoReturn:
        raise Unavailable("Nobody is there to count.", retry_after=5)

    async def close(self) -> None:
        return


@asynccontextmanager
async def living(root: Path, **settings: Any) -> AsyncIterator[House]:
    """A house in that folder; its home is a folder inside, so that there is something around it to get at."""
    home = root / "home"
    ledger_settings = LedgerSettings(
        home=home, base_models=(BaseModelSettings(id=BASE, source="/nowhere"),)
    )
    prepare_base(ledger_settings)
    engine = FakeEngine(ledger_settings.engine_socket(BASE), BASE)
    await engine.start()
    app = create_app(
        Configuration(
            ledger=ledger_settings,
            service=ServiceSettings(**{"auth": True, **settings}),
            engine=EngineSettings(),
            webhooks=WebhookSettings(),
        ),
        tokens=Silent(),
    )
    async with app.router.lifespan_context(app) as state:
        ledger = open_ledger(ledger_settings)
        house = House(app, state, engine, ledger, root)
        for tenant, scopes in (("ours", tuple(Scope)), ("theirs", (Scope.INFER, Scope.TUNE))):
            house.keys[tenant] = ledger.keys.make(NewKey(tenant=tenant, scopes=scopes)).secret

        async def ready() -> bool:
            return (await house.ask("GET", "/readyz", key=None)).status == 200

        await until(ready)
        yield house
        ledger.close()
    await engine.kill()
