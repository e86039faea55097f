"""When something goes wrong on the way, the SDK repeats what can be repeated, and nothing happens twice."""

import asyncio
import json
import socket
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import openai
import pytest
import uvicorn
from fastapi import FastAPI

from adapters import errors
from service.errors import install_error_handlers
from tests.integration.sdk import retries
from tests.integration.sdk.scenarios import DATA
from tests.integration.sdk.test_sdk import NEWEST, VERSIONS, python_of
from tests.integration.service.conftest import BASE, serving

ONCE, THRICE = 1, 3


@asynccontextmanager
async def refusing(cases: dict[str, errors.GraftError]) -> AsyncIterator[tuple[str, Counter[str]]]:
    """A server that answers every request for a model with the error of that name, and how often it was asked."""
    app, asked = FastAPI(), Counter()
    install_error_handlers(app)

    @app.get("/v1/models/{case}")
    async def model(case: str) -> None:
        asked[case] += 1
        raise cases[case]

    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None))
    task = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started:
        await asyncio.sleep(0.01)
    yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1", asked
    server.should_exit = True
    await task
    listener.close()


@pytest.mark.parametrize(
    ("error", "attempts", "kind"),
    [
        (errors.InvalidValue("no"), ONCE, openai.BadRequestError),
        (errors.JobNotFound("no"), ONCE, openai.NotFoundError),
        (errors.PayloadTooLarge("no"), ONCE, openai.APIStatusError),
        (errors.UnsupportedMediaType("no"), ONCE, openai.APIStatusError),
        (errors.IdempotencyKeyReused("no"), ONCE, openai.UnprocessableEntityError),
        (errors.Overloaded("later", retry_after=0.01), THRICE, openai.RateLimitError),
        (errors.Unavailable("later", retry_after=0.01), THRICE, openai.InternalServerError),
        (errors.GraftError("our fault"), THRICE, openai.InternalServerError),
        (errors.ArtifactCorrupt("gone"), ONCE, openai.InternalServerError),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
async def test_the_sdk_repeats_what_may_go_better_the_next_time(error, attempts, kind):
    async with (
        refusing({"any": error}) as (base_url, asked),
        openai.AsyncOpenAI(base_url=base_url, api_key="any", max_retries=2) as client,
    ):
        with pytest.raises(kind) as caught:
            await client.models.retrieve("any")
    assert asked["any"] == attempts
    assert error.message in caught.value.message


def an_error(status: int, retry: bool | None) -> errors.GraftError:
    """Of a class of its own, as the tree's are."""
    told = {"status": status, "retry": retry, "code": f"case_{status}"}
    return type(f"Case{status}", (errors.GraftError,), told)("no")


STATUSES = {
    400: "BadRequestError",
    408: "APIStatusError",
    409: "ConflictError",
    422: "UnprocessableEntityError",
    429: "RateLimitError",
    500: "InternalServerError",
    503: "InternalServerError",
}
REPEATED = {408, 409, 429, 500, 503}
MATRIX = {
    f"{status}-{retry}": an_error(status, retry)
    for status in STATUSES
    for retry in (None, True, False)
}


@pytest.mark.parametrize("version", VERSIONS)
async def test_an_error_that_says_whether_to_repeat_overrules_its_status(version):
    async with refusing(MATRIX) as (base_url, asked):
        process = await asyncio.create_subprocess_exec(
            python_of(version),
            retries.__file__,
            base_url,
            *MATRIX,
            stdout=asyncio.subprocess.PIPE,
        )
        out, _ = await process.communicate()
    told = json.loads(out)
    assert told["version"] == (openai.__version__ if version == NEWEST else version)
    for case, error in MATRIX.items():
        repeated = error.status in REPEATED if error.retry is None else error.retry
        assert asked[case] == (THRICE if repeated else ONCE), case
        assert told["found"][case] == STATUSES[error.status], case


class LossyProxy:
    """Passes everything on; of the first answer to a request with `marker` in it nothing comes back."""

    def __init__(self, port: int, marker: bytes) -> None:
        self._port = port
        self._marker = marker
        self.lost = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._port)
        losing = asyncio.Event()
        await asyncio.gather(
            self._forth(reader, up_writer, losing), self._back(up_reader, writer, losing)
        )
        for one in (up_writer, writer):
            one.close()

    async def _forth(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, losing: asyncio.Event
    ) -> None:
        while data := await reader.read(1 << 16):
            if self._marker in data and not self.lost:
                losing.set()
            writer.write(data)
            await writer.drain()
        writer.close()

    async def _back(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, losing: asyncio.Event
    ) -> None:
        while data := await reader.read(1 << 16):
            if losing.is_set() and not self.lost:
                self.lost += 1
                writer.transport.abort()
                return
            writer.write(data)
            await writer.drain()


@pytest.mark.parametrize("path", ["/v1/fine_tuning/jobs", "/v1/files"])
async def test_an_answer_that_is_lost_does_not_make_things_twice(tmp_path, path):
    async with serving(tmp_path) as (http, url):
        proxy = LossyProxy(int(url.rpartition(":")[2]), f"POST {path} ".encode())
        server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with openai.AsyncOpenAI(
            base_url=f"http://127.0.0.1:{port}/v1", api_key="any"
        ) as client:
            file = await client.files.create(file=("train.jsonl", DATA), purpose="fine-tune")
            job = await client.fine_tuning.jobs.create(model=BASE, training_file=file.id)
        assert proxy.lost == 1
        jobs = (await http.get("/v1/fine_tuning/jobs")).json()["data"]
        files = (await http.get("/v1/files")).json()["data"]
        server.close()
    assert [one["id"] for one in jobs] == [job.id]
    assert [one["id"] for one in files] == [file.id]


class Gate:
    """Nothing can be written into the ledger until the gate is opened."""

    def __init__(self, home: Path) -> None:
        self._connection = sqlite3.connect(home / "graft.db", isolation_level=None)
        self._connection.execute("BEGIN IMMEDIATE")

    def open(self) -> None:
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")

    def close(self) -> None:
        self._connection.close()


async def test_who_asks_again_while_the_first_is_being_answered_gets_its_answer_later(tmp_path):
    """Two requests with one key: one waits for the ledger, and the other is told to come back."""
    told: list[Any] = []
    async with serving(tmp_path) as (http, url):
        file = await _uploaded(http)
        with closing(Gate(tmp_path)) as gate:

            async def heard(response: Any) -> None:
                told.append(response)
                if response.status_code == 409:
                    gate.open()

            async with openai.AsyncOpenAI(
                base_url=f"{url}/v1",
                api_key="any",
                max_retries=9,
                http_client=openai.DefaultAsyncHttpxClient(event_hooks={"response": [heard]}),
            ) as client:
                one, other = await asyncio.gather(*(_keyed(client, file) for _ in range(2)))
        jobs = (await http.get("/v1/fine_tuning/jobs")).json()["data"]
    assert [job["id"] for job in jobs] == [one.id] == [other.id]
    refused = told[0]
    assert (refused.status_code, told[-1].status_code) == (409, 200)
    assert (refused.headers["x-should-retry"], refused.headers["retry-after"]) == ("true", "1")
    assert [answer.headers.get("idempotent-replayed") for answer in told].count("true") == 1


async def test_two_services_on_one_ledger_make_one_job_of_one_key(tmp_path):
    """Neither knows what the other is answering: the stored reply's key lets one through."""
    async with serving(tmp_path) as (http, url), serving(tmp_path) as (_, second_url):
        file = await _uploaded(http)
        clients = [
            openai.AsyncOpenAI(base_url=f"{at}/v1", api_key="any") for at in (url, second_url)
        ]
        with closing(Gate(tmp_path)) as gate:
            asking = [asyncio.create_task(_keyed(client, file)) for client in clients]
            await asyncio.sleep(0.1)  # both on their way; the outcome is the same if one is not
            gate.open()
            one, other = await asyncio.gather(*asking)
        for client in clients:
            await client.close()
        jobs = (await http.get("/v1/fine_tuning/jobs")).json()["data"]
    assert [job["id"] for job in jobs] == [one.id] == [other.id]


async def _uploaded(http: Any) -> str:
    form = {"files": {"file": ("t.jsonl", DATA)}, "data": {"purpose": "fine-tune"}}
    return (await http.post("/v1/files", **form)).json()["id"]


async def _keyed(client: openai.AsyncOpenAI, file: str) -> Any:
    return await client.fine_tuning.jobs.create(
        model=BASE, training_file=file, extra_headers={"Idempotency-Key": "k"}
    )
