"""Webhooks over real HTTP: the service calls a receiver, and OpenAI's SDK verifies what arrives."""

import asyncio
import json
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI, InvalidWebhookSignatureError, OpenAI

from adapters.ledger import Ledger, open_ledger
from adapters.webhooks import ENDINGS, DeliveryStatus, Happening, NewEndpoint
from service.metrics import Metrics
from service.settings import WebhookSettings
from service.webhooks.courier import Courier
from service.webhooks.guard import Guard
from service.webhooks.post import Postman
from service.webhooks.sign import new_secret
from tests.integration.service.conftest import ledger_settings, serving, until
from tests.support.clock import Clock
from tests.support.receiver import Call, Receiver
from tests.support.samples import BASE, adapter_directory, manifest, new_job, render

ROOT = Path(__file__).parents[3]
ROWS = [{"input": f"question {n}", "target": f"answer {n}"} for n in range(40)]
OPEN = WebhookSettings(allow_private=True, poll_seconds=0.02, timeout_seconds=5)
UNWRAP = OpenAI(api_key="unused").webhooks.unwrap


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    await receiver.start()
    yield receiver
    await receiver.stop()


@dataclass
class Serving:
    http: httpx.AsyncClient
    sdk: AsyncOpenAI
    ledger: Ledger

    async def job(self, **options: Any) -> dict[str, Any]:
        response = await self.http.post("/finetune", json={"data": ROWS, **options})
        assert response.status_code == 202, response.text
        return response.json()

    async def cancel(self, job_id: str) -> None:
        assert (await self.http.post(f"/finetune/{job_id}/cancel")).status_code == 200

    async def log(self, endpoint_id: str) -> list[dict[str, Any]]:
        return (await self.http.get(f"/v1/webhook_endpoints/{endpoint_id}/deliveries")).json()[
            "data"
        ]


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Serving]:
    ledger = open_ledger(ledger_settings(tmp_path))
    async with (
        serving(tmp_path, webhooks=OPEN) as (http, url),
        AsyncOpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0) as sdk,
    ):
        yield Serving(http, sdk, ledger)
    ledger.close()


async def called(receiver: Receiver, times: int = 1) -> Call:
    async def enough() -> bool:
        return len(receiver.calls) >= times

    await until(enough)
    return receiver.calls[times - 1]


# ---- a job's own webhook


async def test_a_jobs_webhook_hears_how_it_ended(service: Serving, receiver: Receiver) -> None:
    job = await service.job(webhook=receiver.url, name="bot")
    await service.cancel(job["id"])
    call = await called(receiver)
    event = UNWRAP(call.body, call.headers, secret=job["webhook"]["signing_secret"])
    assert (event.type, event.data.id) == ("fine_tuning.job.cancelled", job["id"])
    assert call.headers["webhook-id"] == event.id
    assert call.headers["content-type"] == "application/json"
    assert json.loads(call.body) == {
        "object": "event",
        "id": event.id,
        "type": "fine_tuning.job.cancelled",
        "created_at": event.created_at,
        "data": {
            "id": job["id"],
            "status": "cancelled",
            "fine_tuned_model": None,
            "adapter": {"name": "bot", "base_model": BASE},
            "error": None,
        },
    }


async def test_a_webhook_names_a_model_that_is_there(
    service: Serving, receiver: Receiver, tmp_path: Path
) -> None:
    asked = await service.job(
        name="bot",
        webhook={"url": receiver.url, "events": ["fine_tuning.job.succeeded", "adapter.ready"]},
    )
    job = service.ledger.jobs.claim(worker="w", base_model=BASE, lease_seconds=60, max_losses=9)
    made = adapter_directory(tmp_path / "made")
    service.ledger.registry.publish(job, made, manifest(job), promote=True)
    await called(receiver, 2)
    secret = asked["webhook"]["signing_secret"]
    events = [UNWRAP(call.body, call.headers, secret=secret) for call in receiver.calls]
    assert {event.type for event in events} == {"fine_tuning.job.succeeded", "adapter.ready"}
    for event in events:
        assert (event.data.id, event.data.status) == (job.id, "succeeded")
        model = await service.sdk.models.retrieve(event.data.fine_tuned_model)
        assert model.id == event.data.fine_tuned_model
        assert model.id.startswith(f"ft:{BASE}:graft:bot:")


async def test_the_secret_that_was_made_is_shown_once(service: Serving, receiver: Receiver) -> None:
    headers = {"Idempotency-Key": "k"}
    body = {"data": ROWS, "webhook": {"url": receiver.url}}
    first = await service.http.post("/finetune", json=body, headers=headers)
    again = await service.http.post("/finetune", json=body, headers=headers)
    assert again.json() == first.json()
    webhook = first.json()["webhook"]
    secret = webhook.pop("signing_secret")
    assert secret.startswith("whsec_")
    assert webhook["signing_secret_hint"] == f"whsec_...{secret[-4:]}"
    assert webhook["events"] == list(ENDINGS)
    job_id = first.json()["id"]
    shown = await service.http.get(f"/finetune/{job_id}")
    assert shown.json()["webhook"] == webhook
    told = await service.http.get(f"/v1/webhook_endpoints/{webhook['id']}")
    listed = await service.http.get("/finetune")
    await service.cancel(job_id)
    cancelled = await service.http.get(f"/finetune/{job_id}")
    for response in (shown, told, listed, cancelled):
        assert secret not in response.text
    assert len(service.ledger.jobs.list()) == 1


async def test_a_form_brings_the_webhook_as_json_text_with_a_secret_of_its_own(
    service: Serving, receiver: Receiver
) -> None:
    secret = new_secret()
    webhook = {"url": receiver.url, "secret": secret, "events": ["fine_tuning.job.running"]}
    rows = "\n".join(json.dumps(row) for row in ROWS).encode()
    response = await service.http.post(
        "/finetune",
        files={"data": ("t.jsonl", rows)},
        data={"webhook": json.dumps(webhook)},
    )
    assert response.status_code == 202, response.text
    assert secret not in response.text
    job = service.ledger.jobs.claim(worker="w", base_model=BASE, lease_seconds=60, max_losses=9)
    call = await called(receiver)
    event = UNWRAP(call.body, call.headers, secret=secret)
    assert (event.type, event.data.id) == ("fine_tuning.job.running", job.id)
    await service.cancel(job.id)
    log = await service.log(response.json()["webhook"]["id"])
    assert [one["event_type"] for one in log] == ["fine_tuning.job.running"]


@pytest.mark.parametrize(
    ("webhook", "param", "says"),
    [
        ("nonsense", "webhook.url", "https://example.com/hook"),
        ({"url": "https://127.0.0.1/", "secret": "s"}, "webhook.secret", "whsec_"),
        ({"uri": "https://127.0.0.1/"}, "webhook.uri", "webhook.url"),
        ({}, "webhook.url", "required"),
        ({"url": "https://127.0.0.1/", "events": []}, "webhook.events", "1 item"),
        ({"url": "https://127.0.0.1/", "events": ["x"]}, "webhook.events.0", "adapter.ready"),
        ("{bad", "webhook", "JSON"),
        (7, "webhook", "7"),
    ],
)
async def test_a_webhook_that_will_not_do_is_a_400_and_no_job(
    service: Serving, webhook: Any, param: str, says: str
) -> None:
    response = await service.http.post("/finetune", json={"data": ROWS, "webhook": webhook})
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, param), error
    assert says in error["message"]
    assert service.ledger.jobs.list() == []
    assert list(service.ledger.files.list()) == []


async def test_private_addresses_and_http_are_refused_unless_they_are_allowed(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path, webhooks=WebhookSettings()) as (http, _):
        for url, says in [
            ("http://127.0.0.1:9/x", "https://"),
            ("https://127.0.0.1:9/x", "127.0.0.1, which is not a public address"),
            ("https://localhost/x", "not a public address"),
            ("https://[::ffff:10.0.0.1]/x", "not a public address"),
        ]:
            job = await http.post("/finetune", json={"data": ROWS, "webhook": url})
            endpoint = await http.post("/v1/webhook_endpoints", json={"url": url, "name": "x"})
            assert (job.status_code, endpoint.status_code) == (400, 400)
            assert says in job.json()["error"]["message"]
            assert says in endpoint.json()["error"]["message"]
            assert endpoint.json()["error"]["param"] == "url"


# ---- endpoints, by OpenAI's SDK


async def test_openais_sdk_manages_endpoints(service: Serving, receiver: Receiver) -> None:
    hooks = service.sdk.webhooks
    made = await hooks.create(name="mine", url=receiver.url, event_types=list(ENDINGS))
    assert made.signing_secret.startswith("whsec_")
    got = await hooks.retrieve(made.id)
    assert (got.id, got.object, got.name, got.url) == (
        made.id,
        "webhook_endpoint",
        "mine",
        receiver.url,
    )
    assert got.event_types == list(ENDINGS)
    assert not hasattr(got, "signing_secret")
    assert got.signing_secret_hint.endswith(made.signing_secret[-4:])
    changed = await hooks.update(made.id, name="yours", event_types=["fine_tuning.job.failed"])
    assert (changed.name, changed.event_types) == ("yours", ["fine_tuning.job.failed"])
    for number in range(4):
        await hooks.create(name=f"n{number}", url=receiver.url, event_types=list(ENDINGS))
    assert [one.name async for one in await hooks.list(limit=2)] == [
        "n3",
        "n2",
        "n1",
        "n0",
        "yours",
    ]
    gone = await hooks.delete(made.id)
    assert (gone.id, gone.deleted, gone.object) == (made.id, True, "webhook_endpoint.deleted")
    missing = await service.http.get(f"/v1/webhook_endpoints/{made.id}")
    assert missing.json()["error"]["code"] == "webhook_endpoint_not_found"
    assert (await hooks.event_types.list()).data == [one.value for one in Happening]


async def test_a_test_is_signed_and_sent_at_once(service: Serving, receiver: Receiver) -> None:
    receiver.answers = [202, 302, 500]
    made = await service.sdk.webhooks.create(name="x", url=receiver.url, event_types=list(ENDINGS))
    for status in (202, 302, 500):
        result = await service.sdk.webhooks.test(made.id, event_type="fine_tuning.job.failed")
        assert (result.status_code, result.success) == (status, True)
        assert (result.object, result.webhook_endpoint_id) == ("webhook_endpoint.test", made.id)
        assert result.event_type == "fine_tuning.job.failed"
    call = receiver.calls[0]
    event = UNWRAP(call.body, call.headers, secret=made.signing_secret)
    assert (event.type, event.data.error["code"]) == ("fine_tuning.job.failed", "test")
    assert await service.log(made.id) == []


async def test_a_test_of_who_does_not_answer_says_so(service: Serving, receiver: Receiver) -> None:
    made = await service.sdk.webhooks.create(name="x", url=receiver.url, event_types=list(ENDINGS))
    await receiver.stop()
    response = await service.http.post(
        f"/v1/webhook_endpoints/{made.id}/test", json={"event_type": "adapter.ready"}
    )
    assert (response.status_code, response.json()["error"]["code"]) == (400, "webhook_unreachable")


async def test_both_secrets_sign_after_a_rotation_that_keeps_the_old_one(
    service: Serving, receiver: Receiver
) -> None:
    hooks = service.sdk.webhooks
    made = await hooks.create(name="x", url=receiver.url, event_types=list(ENDINGS))
    kept = await hooks.rotate_secret(made.id, keep_old_secret_active_for_24_hours=True)
    await service.cancel((await service.job())["id"])
    call = await called(receiver)
    assert len(call.headers["webhook-signature"].split()) == 2
    for secret in (made.signing_secret, kept.signing_secret):
        assert UNWRAP(call.body, call.headers, secret=secret).type == "fine_tuning.job.cancelled"
    alone = await hooks.rotate_secret(made.id)
    await service.cancel((await service.job())["id"])
    call = await called(receiver, 2)
    UNWRAP(call.body, call.headers, secret=alone.signing_secret)
    for secret in (made.signing_secret, kept.signing_secret):
        with pytest.raises(InvalidWebhookSignatureError):
            UNWRAP(call.body, call.headers, secret=secret)


async def test_the_log_tells_what_was_sent_and_a_retry_sends_it_again(
    service: Serving, receiver: Receiver
) -> None:
    made = await service.sdk.webhooks.create(name="x", url=receiver.url, event_types=list(ENDINGS))
    job = await service.job()
    await service.cancel(job["id"])
    await called(receiver)

    async def delivered() -> bool:
        return [one["status"] for one in await service.log(made.id)] == ["delivered"]

    await until(delivered)
    [entry] = await service.log(made.id)
    assert (entry["attempts"], entry["last_status_code"], entry["last_error"]) == (1, 204, None)
    assert (entry["job_id"], entry["event_type"]) == (job["id"], "fine_tuning.job.cancelled")
    again = await service.http.post(
        f"/v1/webhook_endpoints/{made.id}/deliveries/{entry['id']}/retry"
    )
    assert again.json()["status"] == "pending"
    second = await called(receiver, 2)
    assert second.body == receiver.calls[0].body
    assert second.headers["webhook-id"] == receiver.calls[0].headers["webhook-id"]


@pytest.mark.parametrize(
    ("method", "path", "body", "param", "says"),
    [
        ("POST", "", {"url": "x", "event_types": ["batch.completed"]}, "event_types.0", "ready"),
        ("POST", "", {"name": "x"}, "url", "required"),
        ("POST", "", {"ulr": "x"}, "ulr", "'url'"),
        ("POST", "/{id}", {"event_types": []}, "event_types", "1 item"),
        ("POST", "/{id}", {"url": "x"}, "url", "https://"),
        ("POST", "/{id}/test", {}, "event_type", "required"),
        ("POST", "/{id}/rotate_secret", {"keep": True}, "keep", "24_hours"),
    ],
)
async def test_a_wrong_field_is_a_400_that_names_it(
    service: Serving, receiver: Receiver, method: str, path: str, body: Any, param: str, says: str
) -> None:
    made = await service.sdk.webhooks.create(name="x", url=receiver.url, event_types=list(ENDINGS))
    url = "/v1/webhook_endpoints" + path.replace("{id}", made.id)
    response = await service.http.request(method, url, json=body)
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, param), error
    assert says in error["message"]


# ---- the courier, with a clock that is moved


@dataclass
class Rounds:
    """A courier that sets out when it is told to."""

    ledger: Ledger
    courier: Courier
    clock: Clock
    secret: str

    async def round(self) -> None:
        await self.courier.set_out()
        while self.courier.under_way:
            await asyncio.sleep(0.005)

    def entry(self) -> Any:
        [entry] = self.ledger.webhooks.deliveries("we_1")
        return entry

    def cancel_a_job(self) -> None:
        new = new_job()
        self.ledger.jobs.submit(new, render=render)
        self.ledger.jobs.cancel(new.id)


def hire(ledger: Ledger, clock: Clock, settings: WebhookSettings = OPEN) -> Courier:
    postman = Postman(Guard(allow_private=settings.allow_private), timeout=settings.timeout_seconds)
    return Courier(
        ledger.webhooks, ledger.changes, postman, settings, metrics=Metrics(), clock=clock
    )


@pytest.fixture
async def rounds(tmp_path: Path, receiver: Receiver) -> AsyncIterator[Rounds]:
    clock = Clock(time.time())
    ledger = open_ledger(ledger_settings(tmp_path), clock=clock)
    secret = new_secret()
    ledger.webhooks.add(NewEndpoint(id="we_1", name="x", url=receiver.url, secret=secret))
    rounds = Rounds(ledger, hire(ledger, clock), clock, secret)
    rounds.cancel_a_job()
    yield rounds
    ledger.close()


async def test_an_error_is_tried_again_with_the_same_id_and_body(
    rounds: Rounds, receiver: Receiver
) -> None:
    receiver.answers = [500, 204]
    await rounds.round()
    assert (rounds.entry().status, rounds.entry().last_error) == (
        DeliveryStatus.PENDING,
        "it answered 500",
    )
    await rounds.round()
    assert len(receiver.calls) == 1
    rounds.clock.tick(5)
    await rounds.round()
    assert rounds.entry().status is DeliveryStatus.DELIVERED
    first, second = receiver.calls
    assert (first.body, first.headers["webhook-id"]) == (second.body, second.headers["webhook-id"])
    assert first.headers["webhook-timestamp"] != second.headers["webhook-timestamp"]
    for call in receiver.calls:
        UNWRAP(call.body, call.headers, secret=rounds.secret)


async def test_who_answers_410_is_not_called_again(rounds: Rounds, receiver: Receiver) -> None:
    receiver.answers = [410]
    await rounds.round()
    assert "410" in rounds.ledger.webhooks.get("we_1").disabled_reason
    rounds.cancel_a_job()
    rounds.clock.tick(10**6)
    await rounds.round()
    assert len(receiver.calls) == 1


async def test_a_redirect_is_a_failure_and_is_not_followed(
    rounds: Rounds, receiver: Receiver
) -> None:
    receiver.answers = [307]
    receiver.location = f"http://127.0.0.1:{receiver.port}/elsewhere"
    await rounds.round()
    assert [call.path for call in receiver.calls] == ["/hook"]
    assert rounds.entry().status is DeliveryStatus.PENDING
    assert rounds.entry().last_error == "it answered 307, and redirects are not followed"


async def test_who_does_not_answer_in_time_has_failed(rounds: Rounds, receiver: Receiver) -> None:
    receiver.answers = [0]
    courier = hire(
        rounds.ledger, rounds.clock, WebhookSettings(allow_private=True, timeout_seconds=0.2)
    )
    impatient = replace(rounds, courier=courier)
    began = time.monotonic()
    await impatient.round()
    assert time.monotonic() - began < 10
    assert rounds.entry().last_error == "no answer within 0.2 s"
    assert rounds.entry().attempts == 1


async def test_who_is_not_there_has_failed(rounds: Rounds, receiver: Receiver) -> None:
    await receiver.stop()
    await rounds.round()
    assert rounds.entry().last_error.startswith("no answer: ")
    await receiver.start()
    rounds.clock.tick(5)
    await rounds.round()
    assert rounds.entry().status is DeliveryStatus.DELIVERED


async def test_an_address_is_looked_at_again_before_every_call(
    rounds: Rounds, receiver: Receiver
) -> None:
    rounds.ledger.webhooks.update("we_1", url=receiver.url.replace("http", "https"))
    strict = replace(rounds, courier=hire(rounds.ledger, rounds.clock, WebhookSettings()))
    await strict.round()
    assert receiver.calls == []
    assert "not a public address" in rounds.entry().last_error


async def test_proxies_of_the_environment_are_not_asked(
    rounds: Rounds, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    await rounds.round()
    assert len(receiver.calls) == 1


async def test_two_couriers_send_one_delivery_once(rounds: Rounds, receiver: Receiver) -> None:
    receiver.seconds = 0.2
    other = replace(rounds, courier=hire(rounds.ledger, rounds.clock))
    for _ in range(5):
        rounds.cancel_a_job()
    while rounds.ledger.webhooks.waits():
        await asyncio.gather(rounds.round(), other.round())
    ids = [call.headers["webhook-id"] for call in receiver.calls]
    assert (len(ids), len(set(ids))) == (6, 6)
    assert receiver.most_at_once == 1


async def test_a_service_that_stops_gives_back_what_it_has_not_told(
    rounds: Rounds, receiver: Receiver
) -> None:
    receiver.answers = [0, 204]
    running = asyncio.create_task(rounds.courier.run())
    await called(receiver)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert (rounds.entry().status, rounds.entry().attempts) == (DeliveryStatus.PENDING, 0)
    await replace(rounds, courier=hire(rounds.ledger, rounds.clock)).round()
    assert rounds.entry().status is DeliveryStatus.DELIVERED


# ---- processes that die

TELLER = """
import os, sys
from pathlib import Path
from adapters.ledger import open_ledger
from tests.integration.service.conftest import ledger_settings
from tests.support.samples import new_job, render

ledger = open_ledger(ledger_settings(Path(sys.argv[1])))
new = new_job()
ledger.jobs.submit(new, render=render)
ledger.jobs.cancel(new.id)
print(new.id, flush=True)
os.kill(os.getpid(), 9)
"""
SERVER = """
import asyncio, sys
from pathlib import Path
from service.settings import WebhookSettings
from tests.integration.service.conftest import serving

async def main():
    settings = WebhookSettings(allow_private=True, poll_seconds=0.02, timeout_seconds=30)
    async with serving(Path(sys.argv[1]), webhooks=settings):
        print("up", flush=True)
        await asyncio.sleep(600)

asyncio.run(main())
"""


async def test_what_was_committed_before_a_crash_is_sent_by_the_next_process(
    tmp_path: Path, receiver: Receiver
) -> None:
    ledger = open_ledger(ledger_settings(tmp_path))
    secret = new_secret()
    ledger.webhooks.add(NewEndpoint(id="we_1", name="x", url=receiver.url, secret=secret))
    teller = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", TELLER, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert teller.returncode == -signal.SIGKILL
    assert receiver.calls == []
    async with serving(tmp_path, webhooks=OPEN):
        call = await called(receiver)
    assert UNWRAP(call.body, call.headers, secret=secret).data.id == teller.stdout.strip()
    ledger.close()


async def test_a_service_that_is_killed_while_it_calls_is_followed_by_one_that_calls_again(
    tmp_path: Path, receiver: Receiver
) -> None:
    clock = Clock(time.time())
    ledger = open_ledger(ledger_settings(tmp_path), clock=clock)
    secret = new_secret()
    ledger.webhooks.add(NewEndpoint(id="we_1", name="x", url=receiver.url, secret=secret))
    receiver.answers = [0, 204]
    first = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SERVER, str(tmp_path), cwd=ROOT, stdout=subprocess.PIPE
    )
    try:
        assert first.stdout is not None
        assert await first.stdout.readline() == b"up\n"
        new = new_job()
        ledger.jobs.submit(new, render=render)
        ledger.jobs.cancel(new.id)
        await called(receiver)
    finally:
        first.kill()
        await first.wait()
    rounds = Rounds(ledger, hire(ledger, clock), clock, secret)
    await rounds.round()
    assert len(receiver.calls) == 1
    clock.tick(120)
    await rounds.round()
    one, two = receiver.calls
    assert (one.body, one.headers["webhook-id"]) == (two.body, two.headers["webhook-id"])
    assert rounds.entry().status is DeliveryStatus.DELIVERED
    ledger.close()


# ---- TLS


def certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """A self-signed certificate for the name, and its key."""
    cert, key = folder / f"{name}.pem", folder / f"{name}.key"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-nodes", "-days", "2", "-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}",
         "-keyout", str(key), "-out", str(cert)],
        check=True,
        capture_output=True,
    )  # fmt: skip
    return cert, key


async def test_the_name_is_verified_though_the_address_is_what_is_called(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path, "hooks.example")
    asked: list[str] = []
    looked_up: list[str] = []
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(cert, key)
    server.sni_callback = lambda _socket, name, _context: asked.append(name)
    receiver = Receiver()
    await receiver.start(server)

    def resolver(host: str, _port: int) -> Sequence[str]:
        looked_up.append(host)
        return ["127.0.0.1"]

    postman = Postman(
        Guard(allow_private=True, resolver=resolver),
        timeout=5,
        tls=ssl.create_default_context(cafile=str(cert)),
    )
    good = await postman.post(f"https://hooks.example:{receiver.port}/in?x=1", b"{}", {"a": "b"})
    assert (good.status, good.error) == (204, None)
    [call] = receiver.calls
    assert (call.path, call.body) == ("/in?x=1", b"{}")
    assert call.headers["host"] == f"hooks.example:{receiver.port}"
    assert (asked, looked_up) == (["hooks.example"], ["hooks.example"])
    other = await postman.post(f"https://other.example:{receiver.port}/", b"{}", {})
    assert other.status is None
    assert "other.example" in other.error
    strangers = Postman(Guard(allow_private=True, resolver=resolver), timeout=5)
    unknown = await strangers.post(f"https://hooks.example:{receiver.port}/", b"{}", {})
    assert "certificate" in unknown.error.lower()
    assert len(receiver.calls) == 1
    await receiver.stop()


async def test_a_name_with_several_addresses_is_called_at_the_first_that_is_up(
    receiver: Receiver,
) -> None:
    guard = Guard(allow_private=True, resolver=lambda _host, _port: ["127.0.0.2", "127.0.0.1"])
    postman = Postman(guard, timeout=5)
    outcome = await postman.post(f"http://hooks.example:{receiver.port}/", b"{}", {})
    assert (outcome.status, len(receiver.calls)) == (204, 1)
