"""What users of OpenAI's SDK do: `python scenarios.py BASE_URL sync|async FOLDER`, by the interpreter that has the SDK.

Imports nothing of the project: an old SDK has an environment of its own. Prints one JSON object: by scenario, null
where all went well, else what went wrong. A synchronous client answers at once, an asynchronous one with something to
await; `get` takes both, so that each scenario is written once.
"""

import asyncio
import hashlib
import inspect
import json
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import openai

ROWS = [
    {
        "messages": [
            {"role": "user", "content": f"Question {number}?"},
            {"role": "assistant", "content": f"Answer {number}."},
        ]
    }
    for number in range(12)
]
DATA = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
BASE = "tiny-base"
#: Trained slowly enough to be met on the way; see player.py.
SLOW = {"pace": "slow"}


async def get(answer: Any) -> Any:
    return await answer if inspect.isawaitable(answer) else answer


async def everything(listing: Any) -> list[Any]:
    """All items of all pages."""
    if hasattr(listing, "__aiter__"):
        return [item async for item in listing]
    return list(await get(listing))


async def refused(kind: type[openai.APIStatusError], answer: Any) -> openai.APIStatusError:
    """The error that the call raised, which must be of that class."""
    try:
        # A synchronous client has raised before it came here; see `attempt`.
        await get(answer() if callable(answer) else answer)
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__}")


async def upload(client: Any, data: bytes = DATA, name: str = "train.jsonl") -> Any:
    return await get(client.files.create(file=(name, data), purpose="fine-tune"))


async def start(client: Any, **options: Any) -> Any:
    file = await upload(client, DATA + json.dumps(ROWS[0]).encode())
    return await get(client.fine_tuning.jobs.create(model=BASE, training_file=file.id, **options))


async def ended(client: Any, job_id: str, timeout: float = 60) -> Any:
    until = time.monotonic() + timeout
    while time.monotonic() < until:
        job = await get(client.fine_tuning.jobs.retrieve(job_id))
        if job.status in {"succeeded", "failed", "cancelled"}:
            return job
        await asyncio.sleep(0.1)
    raise AssertionError(f"{job_id} has not ended: {job.status}")


# ---- files and uploads


async def files_come_back_as_they_went(client: Any, folder: Path) -> None:
    path = folder / "rows.jsonl"
    path.write_bytes(DATA)
    with path.open("rb") as stream:
        file = await get(client.files.create(file=stream, purpose="fine-tune"))
    assert (file.object, file.purpose, file.bytes) == ("file", "fine-tune", len(DATA))
    assert file.filename == "rows.jsonl"
    waited = await get(
        client.files.wait_for_processing(file.id, poll_interval=0.1, max_wait_seconds=10)
    )
    assert waited.status == "processed"
    assert waited.id in [one.id for one in await everything(client.files.list(purpose="fine-tune"))]
    content = await get(client.files.content(file.id))
    assert content.content == DATA
    deleted = await get(client.files.delete(file.id))
    assert (deleted.id, deleted.deleted, deleted.object) == (file.id, True, "file")
    error = await refused(openai.NotFoundError, lambda: client.files.retrieve(file.id))
    assert error.code == "file_not_found"


async def files_are_listed_page_by_page(client: Any, folder: Path) -> None:
    made = [(await upload(client, DATA, f"{number}.jsonl")).id for number in range(5)]
    # An SDK without `after` takes the first page for all there is, and asks for no limit.
    limit = {"limit": 2} if "after" in inspect.signature(client.files.list).parameters else {}
    listed = await everything(client.files.list(purpose="fine-tune", extra_query=limit))
    assert [one.id for one in listed if one.id in made] == made[::-1]
    oldest_first = await everything(client.files.list(extra_query={**limit, "order": "asc"}))
    assert [one.id for one in oldest_first if one.id in made] == made


async def a_file_that_is_no_data_is_marked(client: Any, folder: Path) -> None:
    file = await upload(client, b"this is no JSON\n", "bad.jsonl")
    waited = await get(
        client.files.wait_for_processing(file.id, poll_interval=0.1, max_wait_seconds=10)
    )
    assert waited.status == "error"
    assert "JSON" in json.dumps(waited.model_dump())


async def uploads_are_put_together_in_order(client: Any, folder: Path) -> None:
    cut = len(DATA) // 3
    pieces = [DATA[:cut], DATA[cut : 2 * cut], DATA[2 * cut :]]
    begun = await get(
        client.uploads.create(
            bytes=len(DATA),
            filename="parts.jsonl",
            mime_type="application/jsonl",
            purpose="fine-tune",
        )
    )
    assert begun.status == "pending"
    parts = {}
    for at in (2, 0, 1):
        part = await get(client.uploads.parts.create(begun.id, data=pieces[at]))
        parts[at] = part.id
    in_order = [parts[at] for at in range(3)]
    await refused(
        openai.BadRequestError,
        lambda: client.uploads.complete(begun.id, part_ids=in_order, md5="0" * 32),
    )
    whole = await get(
        client.uploads.complete(begun.id, part_ids=in_order, md5=hashlib.md5(DATA).hexdigest())
    )
    assert whole.status == "completed"
    content = await get(client.files.content(whole.file.id))
    assert content.content == DATA
    other = await get(
        client.uploads.create(bytes=5, filename="x", mime_type="text/plain", purpose="fine-tune")
    )
    assert (await get(client.uploads.cancel(other.id))).status == "cancelled"


async def a_large_file_is_sent_in_chunks(client: Any, folder: Path) -> None:
    if not hasattr(client.uploads, "upload_file_chunked"):
        return  # came with 1.52
    path = folder / "chunked.jsonl"
    path.write_bytes(DATA)
    whole = await get(
        client.uploads.upload_file_chunked(
            file=path, mime_type="application/jsonl", purpose="fine-tune", part_size=500
        )
    )
    assert (whole.status, whole.file.bytes) == ("completed", len(DATA))


# ---- jobs


async def a_job_is_trained_and_its_model_answers(client: Any, folder: Path) -> None:
    job = await start(client, suffix="My Bot", seed=7, hyperparameters={"n_epochs": 2})
    assert job.object == "fine_tuning.job"
    assert job.hyperparameters.n_epochs == 2
    assert isinstance(job.hyperparameters.batch_size, int)
    assert job.seed == 7
    done = await ended(client, job.id)
    assert done.status == "succeeded", done
    assert done.fine_tuned_model.startswith(f"ft:{BASE}:")
    assert "/" not in done.fine_tuned_model
    answer = await get(
        client.chat.completions.create(
            model=done.fine_tuned_model, messages=[{"role": "user", "content": "one two"}]
        )
    )
    assert answer.choices[0].message.content.endswith("one two")
    model = await get(client.models.retrieve(done.fine_tuned_model))
    assert model.id == done.fine_tuned_model
    assert model.id in [one.id for one in await everything(client.models.list())]
    await _told_of(client, done)
    again = await start(client, suffix="again")
    continued = await get(
        client.fine_tuning.jobs.create(
            model=done.fine_tuned_model, training_file=again.training_file, suffix="further"
        )
    )
    assert (await ended(client, continued.id)).status == "succeeded"
    await ended(client, again.id)
    deleted = await get(client.models.delete(done.fine_tuned_model))
    assert deleted.deleted
    await refused(openai.NotFoundError, lambda: client.models.retrieve(done.fine_tuned_model))


async def _told_of(client: Any, done: Any) -> None:
    """Events, result file and checkpoints of a job that has succeeded."""
    events = await everything(client.fine_tuning.jobs.list_events(done.id, limit=3))
    messages = [event.message for event in events]
    assert f"New fine-tuned model created: {done.fine_tuned_model}" in messages
    assert messages[-1] == f"Created fine-tuning job: {done.id}"
    assert "The job has successfully completed" in messages
    assert any(event.type == "metrics" and event.data["step"] for event in events)
    (result,) = done.result_files
    table = (await get(client.files.content(result))).text
    header = "step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy"
    assert table.splitlines()[0] == header
    assert len(table.splitlines()) > 1
    checkpoints = await everything(client.fine_tuning.jobs.checkpoints.list(done.id))
    assert all(one.object == "fine_tuning.job.checkpoint" for one in checkpoints)


async def methods_and_extensions_are_understood(client: Any, folder: Path) -> None:
    method = {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": "auto"}}}
    # By extra_body: older SDKs know no `method` and `metadata`.
    job = await start(
        client, extra_body={"lora": {"rank": 8}, "method": method, "metadata": {"who": "me"}}
    )
    body = job.model_dump()
    assert body["method"]["type"] == "supervised"
    assert isinstance(body["method"]["supervised"]["hyperparameters"]["n_epochs"], int)
    assert body["adapter"]["rank"] == 8
    inside = await start(
        client, hyperparameters={"n_epochs": 3, "lora_r": 4, "learning_rate": 1e-3}
    )
    assert inside.model_dump()["adapter"]["rank"] == 4
    error = await refused(
        openai.BadRequestError,
        lambda: client.fine_tuning.jobs.create(
            model=BASE, training_file=job.training_file, extra_body={"lora_rnk": 8}
        ),
    )
    assert "lora_rank" in error.message
    mine = await everything(client.fine_tuning.jobs.list(extra_query={"metadata[who]": "me"}))
    assert [one.id for one in mine] == [job.id]


async def a_job_is_cancelled(client: Any, folder: Path) -> None:
    job = await start(client, extra_body={"metadata": SLOW})
    cancelled = await get(client.fine_tuning.jobs.cancel(job.id))
    assert cancelled.status == "cancelled"
    assert (await get(client.fine_tuning.jobs.cancel(job.id))).status == "cancelled"


async def a_job_is_paused_and_resumed(client: Any, folder: Path) -> None:
    if not hasattr(client.fine_tuning.jobs, "pause"):
        return  # came with 1.109
    job = await start(client, extra_body={"metadata": SLOW})
    assert (await get(client.fine_tuning.jobs.pause(job.id))).status == "paused"
    assert (await get(client.fine_tuning.jobs.resume(job.id))).status in {"queued", "running"}
    assert (await ended(client, job.id)).status == "succeeded"


async def a_job_with_bad_rows_fails(client: Any, folder: Path) -> None:
    file = await upload(client, b'{"messages": []}\n' * 12)
    job = await get(client.fine_tuning.jobs.create(model=BASE, training_file=file.id))
    done = await ended(client, job.id)
    assert done.status == "failed"
    assert done.error.code == "invalid_training_file"
    assert done.error.param == "training_file"
    assert done.error.message


async def jobs_are_listed_page_by_page(client: Any, folder: Path) -> None:
    """250 jobs that the test has queued, and whatever is there besides."""
    found = await everything(client.fine_tuning.jobs.list(limit=100))
    ids = [one.id for one in found]
    assert len(ids) == len(set(ids))
    assert len(ids) >= 250
    page = await get(client.fine_tuning.jobs.list())
    assert len(page.data) == 20
    assert page.has_more


async def mistakes_are_explained(client: Any, folder: Path) -> None:
    error = await refused(
        openai.NotFoundError, lambda: client.fine_tuning.jobs.retrieve("ftjob-none")
    )
    assert error.code == "job_not_found"
    error = await refused(
        openai.BadRequestError,
        lambda: client.fine_tuning.jobs.create(model=BASE, training_file="file-none"),
    )
    assert error.param == "training_file"
    assert error.request_id
    error = await refused(
        openai.NotFoundError,
        lambda: client.chat.completions.create(model="ft:no:such:model:12345678", messages=[]),
    )
    assert error.code == "model_not_found"
    error = await refused(openai.NotFoundError, lambda: client.models.retrieve("org/none"))
    assert error.code == "model_not_found"


# ---- webhooks


@contextmanager
def listening() -> Iterator[tuple[str, list[tuple[dict[str, str], bytes]]]]:
    """A URL, and the headers and body of each call of it."""
    calls: list[tuple[dict[str, str], bytes]] = []

    class Listener(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            calls.append((dict(self.headers.items()), body))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Listener)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/hook", calls
    server.shutdown()
    server.server_close()


async def webhooks_are_verified(client: Any, folder: Path) -> None:
    if not hasattr(client, "webhooks"):
        assert openai.__version__ == "1.50.0"  # they came with 1.97
        return
    with listening() as (url, calls):
        # By hand: only the newest SDK can make endpoints. All that have `webhooks` verify what these are told.
        endpoint = await get(client.post("/webhook_endpoints", body={"url": url}, cast_to=object))
        job = await start(client, extra_body={"metadata": SLOW})
        await get(client.fine_tuning.jobs.cancel(job.id))
        headers, body = await _told_by_webhook(calls, job.id)
        await get(client.delete(f"/webhook_endpoints/{endpoint['id']}", cast_to=object))
    secret = endpoint["signing_secret"]
    event = client.webhooks.unwrap(body, headers, secret=secret)
    assert type(event).__name__ == "FineTuningJobCancelledWebhookEvent"
    assert (event.type, event.data.id) == ("fine_tuning.job.cancelled", job.id)
    assert event.id == headers["webhook-id"]
    for wrong in ({"payload": body + b" "}, {"secret": "whsec_c29tZWJvZHkgZWxzZQ=="}):
        try:
            client.webhooks.unwrap(
                **{"payload": body, "headers": headers, "secret": secret} | wrong
            )
        except openai.InvalidWebhookSignatureError:
            continue
        raise AssertionError(f"verified with another {next(iter(wrong))}")


async def _told_by_webhook(calls: list[Any], job_id: str) -> Any:
    """Of that job: others end meanwhile."""
    until = time.monotonic() + 20
    while time.monotonic() < until:
        for headers, body in list(calls):
            if json.loads(body)["data"]["id"] == job_id:
                return headers, body
        await asyncio.sleep(0.02)
    raise AssertionError(f"nobody was told of {job_id}")


async def raw_responses_have_headers(client: Any, folder: Path) -> None:
    raw = await get(client.fine_tuning.jobs.with_raw_response.list(limit=1))
    assert raw.headers["x-request-id"]
    assert raw.parse().data is not None
    listed = await get(client.models.with_raw_response.list())
    assert listed.headers["x-request-id"]


SCENARIOS = [
    files_come_back_as_they_went,
    files_are_listed_page_by_page,
    a_file_that_is_no_data_is_marked,
    uploads_are_put_together_in_order,
    a_large_file_is_sent_in_chunks,
    a_job_is_trained_and_its_model_answers,
    methods_and_extensions_are_understood,
    a_job_is_cancelled,
    a_job_is_paused_and_resumed,
    a_job_with_bad_rows_fails,
    jobs_are_listed_page_by_page,
    mistakes_are_explained,
    webhooks_are_verified,
    raw_responses_have_headers,
]


async def main() -> None:
    base_url, mode, folder = sys.argv[1:]
    kind = {"sync": openai.OpenAI, "async": openai.AsyncOpenAI}[mode]
    found: dict[str, str | None] = {}
    for scenario in SCENARIOS:
        client = kind(base_url=base_url, api_key="any", timeout=30, max_retries=0)
        own = Path(folder) / scenario.__name__
        own.mkdir()
        try:
            await scenario(client, own)
        except Exception:  # noqa: BLE001  whatever it is, the test tells
            found[scenario.__name__] = traceback.format_exc()
        else:
            found[scenario.__name__] = None
        await get(client.close())
    sys.stdout.write(json.dumps({"version": openai.__version__, "found": found}))


if __name__ == "__main__":
    asyncio.run(main())
