"""Keys over HTTP: nothing answers without one, each opens what it says, and whose it is decides what there is."""

import json
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest
from fastapi.routing import APIRoute
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from adapters.errors import InvalidValue
from adapters.keys import NewKey, Scope, digest_of
from adapters.ledger import Ledger, open_ledger
from adapters.names import new_id
from adapters.sharing import Share
from adapters.webhooks import ENDINGS, NewEndpoint
from service.settings import ServiceSettings
from service.state import whole
from tests.support.in_process import BASE, answering, ledger_settings, sdk
from tests.support.samples import adapter_directory, manifest, new_job, render

OPEN = {"/healthz", "/readyz", "/openapi.json", "/docs", "/redoc"}
ROWS = [{"input": f"question {n}", "target": f"answer {n}"} for n in range(3)]
BOTH = (Scope.INFER, Scope.TUNE)


@dataclass
class House:
    """The service with keys on, and a second hand in its ledger."""

    http: TestClient
    ledger: Ledger
    home: Path

    def key(self, tenant: str = "ours", *scopes: Scope) -> dict[str, str]:
        """The header of a fresh key."""
        new = NewKey(tenant=tenant, scopes=scopes or BOTH)
        return {"authorization": f"Bearer {self.ledger.keys.make(new).secret}"}

    def publish(self, tenant: str, adapter: str) -> str:
        """Train nothing, publish something; returns the job's id."""
        job_id = self.ledger.of(tenant).jobs.submit(new_job(adapter, BASE), render=render).body
        while True:  # others may wait before it
            job = self.ledger.jobs.claim(
                worker="w", base_model=BASE, lease_seconds=600, max_losses=9
            )
            assert job is not None
            if job.id == job_id:
                break
        source = adapter_directory(self.home / "made" / job.id, content=job.id.encode())
        self.ledger.registry.publish(job, source, manifest(job), promote=True)
        return job_id


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    home = tmp_path_factory.mktemp("keys")
    with answering(home, auth=True) as client:
        ledger = open_ledger(ledger_settings(home))
        yield House(client, ledger, home)
        ledger.close()


def operations(http: TestClient) -> list[tuple[str, str]]:
    """Every method and path of the application, mounted ones too, with placeholders filled in."""
    return [
        (method, re.sub(r"\{[^}]+\}", "x", path))
        for path, route in walked(http.app.routes)
        for method in sorted(getattr(route, "methods", None) or {"GET"})
    ]


def walked(routes: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for route in routes:
        path = prefix + route.path
        yield path, route
        if isinstance(route, Mount):
            yield from walked(route.routes, path)


def ask(http: TestClient, method: str, path: str, **more: Any) -> Any:
    return http.request(method, path, **more)


# ---- the gate


def test_no_route_answers_without_a_key_and_those_that_do_are_written_down_here(
    house: House,
) -> None:
    told = {
        (method, path): ask(house.http, method, path) for method, path in operations(house.http)
    }
    refused = {at: answer for at, answer in told.items() if answer.status_code == 401}
    assert {path for _, path in told.keys() - refused.keys()} == OPEN
    assert len(refused) > 50
    for (method, _), answer in refused.items():
        assert answer.headers["www-authenticate"] == "Bearer"
        assert answer.headers["x-request-id"]
        if method != "HEAD":
            error = answer.json()["error"]
            assert (error["type"], error["code"]) == ("authentication_error", "invalid_api_key")
            assert error["message"].startswith("You didn't provide an API key.")


@pytest.mark.parametrize("scope", list(Scope))
def test_a_key_opens_what_its_scope_says_and_nothing_else(house: House, scope: Scope) -> None:
    header = house.key("ours", scope)
    opened = {
        f"{method} {path}"
        for method, path in operations(house.http)
        if path not in OPEN and ask(house.http, method, path, headers=header).status_code != 403
    }
    asked = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages")
    counted = ("/v1/messages/count_tokens", "/tokenize", "/detokenize")
    infer = {f"POST {path}" for path in (*asked, *counted, "/v1/tokenize", "/v1/detokenize")}
    models = {"GET /v1/models", "GET /v1/models/x", "GET /v1/usage"}
    admin = {"POST /v1/keys", "GET /v1/keys", "DELETE /v1/keys/x", "GET /metrics"}
    admin.add("GET /metrics/engines")
    # What is added is the operator's at first.
    admin |= {"GET /docs/oauth2-redirect", "HEAD /docs/oauth2-redirect"}
    everything = {f"{m} {p}" for m, p in operations(house.http) if p not in OPEN}
    assert infer | models | admin < everything
    expected = {
        Scope.INFER: infer | models,
        Scope.TUNE: everything - infer - admin,
        Scope.ADMIN: admin,
    }
    assert opened == expected[scope]


def test_who_may_tune_may_say_which_version_answers_and_who_may_only_ask_may_not(
    house: House,
) -> None:
    house.publish("movers", "mover")
    changes: list[tuple[str, str, dict[str, Any]]] = [
        ("PUT", "/adapters/mover/aliases/canary", {"version": 1, "weight": 0.5}),
        ("POST", "/adapters/mover/promote", {"alias": "canary"}),
        ("POST", "/adapters/mover/rollback", {"expected": 1}),
        ("PUT", "/adapters/mover/defaults", {"temperature": 0.5}),
        ("DELETE", "/adapters/mover/aliases/canary", {}),
    ]
    asks = house.key("movers", Scope.INFER)
    for method, path, body in changes:
        told = house.http.request(method, path, json=body, headers=asks)
        assert (told.status_code, told.json()["error"]["code"]) == (403, "missing_scope")
    house.publish("movers", "mover")
    statuses = [
        house.http.request(method, path, json=body, headers=house.key("movers", Scope.TUNE))
        for method, path, body in changes
    ]
    # The canary went live, and back it went to what was live before.
    assert [one.status_code for one in statuses] == [200] * 5, [one.text for one in statuses]
    assert [one.json()["live"] for one in statuses] == ["mover@2", "mover@1"] + ["mover@2"] * 3


def test_a_missing_scope_is_named(house: House) -> None:
    told = house.http.get("/adapters", headers=house.key("ours", Scope.INFER))
    assert told.status_code == 403
    error = told.json()["error"]
    assert (error["type"], error["code"]) == ("permission_error", "missing_scope")
    assert "Missing scopes: tune." in error["message"]


def test_what_is_mounted_later_is_shut_at_first_and_so_is_what_there_is_not(
    tmp_path: Path,
) -> None:
    with answering(tmp_path, auth=True) as http:
        inner = Route("/inner", lambda _: PlainTextResponse("secret"))
        http.app.mount("/odd", Mount("", routes=[inner]))
        for path in ("/odd/inner", "/odd", "/nothing", "/healthz/", "//healthz", "/v1//keys"):
            assert http.get(path).status_code == 401, path
        with pytest.raises(WebSocketDisconnect) as closed, http.websocket_connect("/odd/inner"):
            pass
        assert closed.value.code == 1008


def test_the_key_may_come_in_the_headers_of_several_clients(house: House) -> None:
    secret = house.key()["authorization"].removeprefix("Bearer ")
    for header in (
        {"authorization": f"Bearer {secret}"},
        {"authorization": f"bearer  {secret}"},
        {"api-key": secret},
        {"x-api-key": secret},
    ):
        assert house.http.get("/adapters", headers=header).status_code == 200
    assert house.http.get(f"/adapters?api_key={secret}").status_code == 401


@pytest.mark.parametrize(
    "wrong", ["", "sk-123", "graft-", "graft-" + "x" * 43, "graft-" + "x" * 5000, "\xe9" * 49]
)
def test_a_wrong_key_is_refused_in_openais_words_and_not_repeated(house: House, wrong: str) -> None:
    header = {"authorization": f"Bearer {wrong}".encode("latin-1")}
    told = house.http.get("/adapters", headers=header)
    assert told.status_code == 401
    assert told.json()["error"]["code"] == "invalid_api_key"
    assert not wrong or wrong not in told.text


def test_the_sdk_knows_what_is_meant(house: House) -> None:
    with pytest.raises(openai.AuthenticationError):
        sdk(house.http, max_retries=0).models.list()
    secret = house.key("ours", Scope.INFER)["authorization"].removeprefix("Bearer ")
    client = sdk(house.http, max_retries=0).with_options(api_key=secret)
    assert [model.id for model in client.models.list()] == [BASE]
    with pytest.raises(openai.PermissionDeniedError):
        client.files.list()


def test_the_body_of_who_may_not_ask_is_not_read(house: House) -> None:
    def endless() -> Iterator[bytes]:
        yield b"x"
        raise AssertionError("it was read")

    told = house.http.post("/finetune", content=endless())
    assert told.status_code == 401


def test_where_keys_are_on_the_open_paths_say_little(house: House) -> None:
    assert house.http.get("/readyz").json().keys() == {"status", "engines"}
    assert house.http.get("/metrics").status_code == 401
    told = house.http.get("/metrics", headers=house.key("ops", Scope.ADMIN))
    assert "graft_" in told.text


def test_metrics_can_be_opened(tmp_path: Path) -> None:
    with answering(tmp_path, auth=True, open_metrics=True) as http:
        assert http.get("/metrics").status_code == 200


def test_the_document_says_which_operations_want_a_key(house: House, tmp_path: Path) -> None:
    document = house.http.get("/openapi.json").json()
    assert document["components"]["securitySchemes"] == {
        "key": {"type": "http", "scheme": "bearer"}
    }
    assert document["security"] == [{"key": []}]
    without = {
        path
        for path, item in document["paths"].items()
        if any(operation.get("security") == [] for operation in item.values())
    }
    assert without == {"/healthz", "/readyz"}
    with answering(tmp_path) as http:
        assert "security" not in http.get("/openapi.json").json()


# ---- off and on


def test_without_keys_everybody_is_the_default_tenant(tmp_path: Path) -> None:
    with answering(tmp_path) as http:
        job = http.post("/finetune", json={"data": ROWS, "name": "bot"}).json()
        assert http.get("/readyz").json()["jobs"]["queued"] == 1
    ledger = open_ledger(ledger_settings(tmp_path))
    assert ledger.jobs.get(job["id"]).tenant == "default"
    secret = ledger.keys.make(NewKey(tenant="default", scopes=BOTH)).secret
    ledger.close()
    with answering(tmp_path, auth=True) as http:
        told = http.get(f"/finetune/{job['id']}", headers={"authorization": f"Bearer {secret}"})
        assert told.status_code == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "10.0.0.1", "graft.example", "127.0.0.1x"])
def test_keys_can_be_off_on_this_machine_only(host: str) -> None:
    with pytest.raises(InvalidValue, match=r"GRAFT_SERVICE_AUTH=true.*graft keys create"):
        ServiceSettings(host=host)
    assert ServiceSettings(host=host, auth=True).host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_on_loopback_keys_may_be_off(host: str) -> None:
    assert not ServiceSettings(host=host).auth


# ---- the life of a key


def test_a_revoked_key_is_refused_within_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.keys.ring.REMEMBERED_S", 0.0)
    with answering(tmp_path, auth=True) as http:
        ledger = open_ledger(ledger_settings(tmp_path))
        made = ledger.keys.make(NewKey(tenant="ours", scopes=BOTH))
        header = {"authorization": f"Bearer {made.secret}"}
        assert http.get("/adapters", headers=header).status_code == 200
        ledger.keys.revoke(made.key.id)
        told = http.get("/adapters", headers=header)
        ledger.close()
    assert told.status_code == 401
    assert (
        told.json()["error"]["message"] == f"The API key provided, {made.key.id}, has been revoked."
    )


def test_an_operator_makes_lists_and_revokes_keys(house: House) -> None:
    admin = house.key("ops", Scope.ADMIN)
    made = house.http.post(
        "/v1/keys",
        headers=admin,
        json={"tenant": "new", "scopes": ["tune", "tune"], "name": "ci", "expires_in_seconds": 60},
    )
    assert made.status_code == 200
    body = made.json()
    secret = body.pop("key")
    assert body["object"] == "api_key"
    assert (body["tenant"], body["scopes"], body["name"]) == ("new", ["tune"], "ci")
    assert body["hint"] == f"graft-...{secret[-4:]}"
    assert body["expires_at"] - body["created_at"] == 60
    assert house.http.get("/finetune", headers={"api-key": secret}).status_code == 200
    listed = house.http.get("/v1/keys?tenant=new", headers=admin)
    assert secret not in listed.text
    assert [one["id"] for one in listed.json()["data"]] == [body["id"]]
    for _ in range(2):
        gone = house.http.delete(f"/v1/keys/{body['id']}", headers=admin)
        assert gone.json() == {"id": body["id"], "object": "api_key.deleted", "deleted": True}
    assert house.http.get("/v1/keys?tenant=new", headers=admin).json()["data"][0]["revoked_at"]
    assert house.http.delete("/v1/keys/key_none", headers=admin).status_code == 404


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"scopes": ["tune"]}, "tenant"),
        ({"tenant": "a"}, "scopes"),
        ({"tenant": "a", "scopes": []}, "scopes"),
        ({"tenant": "a", "scopes": ["root"]}, "scopes.0"),
        ({"tenant": "A b", "scopes": ["tune"]}, "tenant"),
        ({"tenant": "a/b", "scopes": ["tune"]}, "tenant"),
        ({"tenant": "a", "scopes": ["tune"], "expires_in_seconds": 0}, "expires_in_seconds"),
        ({"tenant": "a", "scopes": ["tune"], "expires": 5}, "expires"),
    ],
)
def test_a_key_that_cannot_be_made_is_refused(
    house: House, body: dict[str, Any], param: str
) -> None:
    admin = house.key("ops", Scope.ADMIN)
    told = house.http.post("/v1/keys", headers=admin, json=body)
    assert (told.status_code, told.json()["error"]["param"]) == (400, param)


# ---- whose things are


@pytest.fixture(scope="module")
def things(house: House) -> dict[str, str]:
    """One of each kind, another tenant's; by the placeholder that routes have for it."""
    theirs, owner = house.ledger.of("theirs"), house.key("theirs")
    job_id = house.publish("theirs", "their-bot")
    file = {"file": ("t.jsonl", json.dumps(ROWS[0]).encode())}
    kept = house.http.post("/v1/files", headers=owner, files=file, data={"purpose": "fine-tune"})
    options = {"bytes": 4, "filename": "a", "mime_type": "text/plain", "purpose": "fine-tune"}
    begun = house.http.post("/v1/uploads", headers=owner, json=options)
    url, endpoint_id = "https://hooks.example/", new_id("we_")
    theirs.webhooks.add(
        NewEndpoint(id=endpoint_id, name="n", url=url, event_types=ENDINGS, secret="whsec_x")
    )
    # For its log of deliveries.
    theirs.jobs.cancel(theirs.jobs.submit(new_job("their-other", BASE), render=render).body)
    theirs.sharing.put("their-bot", Share(tenant="third"))
    return {
        "job_id": job_id,
        "file_id": kept.json()["id"],
        "upload_id": begun.json()["id"],
        "endpoint_id": endpoint_id,
        "delivery_id": theirs.webhooks.deliveries(endpoint_id)[0].id,
        "name": "their-bot",
        "alias": "canary",
        "model": "their-bot@1",
        "tenant": "third",
        "tail": job_id.removeprefix("ftjob-"),
    }


#: Bodies that get past what is looked at before the id, by the end of the path.
BODIES: dict[str, dict[str, Any]] = {
    "/promote": {"json": {"version": 1}},
    "/recheck": {"json": {"version": 1}},
    "/shares": {"json": {"tenant": "third"}},
    "/{alias}": {"json": {"version": 1}},
    "/defaults": {"json": {"temperature": 0.5}},
    "/parts": {"files": {"data": ("data", b"rows")}},
    "/complete": {"json": {"part_ids": ["part_1"]}},
    "/test": {"json": {"event_type": "fine_tuning.job.succeeded"}},
}


def about_something(http: TestClient) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Method, path and body of every operation on something that belongs to a tenant."""
    for path, route in walked(http.app.routes):
        if not isinstance(route, APIRoute) or "{" not in path or "{key_id}" in path:
            continue
        body = BODIES.get("/" + path.rpartition("/")[2], {"json": {}})
        for method in sorted(route.methods):
            yield method, path, {} if method == "GET" else body


def filled(path: str, ids: dict[str, str]) -> str:
    return re.sub(r"\{(\w+)[^}]*\}", lambda match: ids[match[1]], path)


def test_what_is_anothers_is_answered_as_if_it_were_not_there(
    house: House, things: dict[str, str]
) -> None:
    ours, owner, seen = house.key("ours"), house.key("theirs"), 0
    unknown = {name: f"{thing[:-4]}none" for name, thing in things.items()}
    unknown |= {"name": "none-bot", "model": "none-bot@1"}
    for method, path, body in about_something(house.http):
        told = [
            house.http.request(method, filled(path, ids), headers=ours, **body)
            for ids in (things, unknown)
        ]
        assert [answer.status_code for answer in told] == [404, 404], (method, path)
        foreign, missing = (answer.text for answer in told)
        for name in (*re.findall(r"\{(\w+)", path), "name"):
            foreign = foreign.replace(things[name], unknown[name])
        assert foreign == missing, (method, path)
        if method == "GET" and not path.endswith("/events"):
            found = house.http.get(filled(path, things), headers=owner)
            assert found.status_code == 200, (method, path)
        seen += 1
    assert seen > 40


def test_lists_have_what_is_ones_own(house: House, things: dict[str, str]) -> None:
    ours, owner = house.key("nobody"), house.key("theirs")
    for path in (
        "/finetune",
        "/v1/fine_tuning/jobs",
        "/adapters",
        "/v1/files",
        "/v1/webhook_endpoints",
    ):
        assert house.http.get(path, headers=ours).json()["data"] == [], path
        assert house.http.get(path, headers=owner).json()["data"], path
    models = house.http.get("/v1/models", headers=ours).json()["data"]
    assert [model["id"] for model in models] == [BASE]
    models = house.http.get("/v1/models", headers=owner).json()["data"]
    assert {"their-bot", "their-bot@1"} < {model["id"] for model in models}


def test_routes_that_see_everything_are_few(house: House) -> None:
    see_all = {
        route.path
        for _, route in walked(house.http.app.routes)
        if isinstance(route, APIRoute)
        and any(one.call is whole for one in route.dependant.dependencies)
    }
    assert see_all == {"/readyz", "/metrics", "/metrics/engines", "/v1/keys", "/v1/keys/{key_id}"}


def refused(house: House, model: str, header: dict[str, str]) -> list[str]:
    """What two endpoints answer to who asks for a model that is not there."""
    body = {"model": model, "messages": [{"role": "user", "content": "hello"}]}
    told = [
        house.http.post("/v1/chat/completions", json=body, headers=header),
        house.http.get(f"/v1/models/{model}", headers=header),
    ]
    for answer in told:
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
    return [answer.text for answer in told]


def test_a_foreign_model_is_as_unknown_as_one_that_never_was(
    tmp_path: Path, things: dict[str, str], house: House
) -> None:
    ours, owner = house.key("ours", Scope.INFER), house.key("theirs", Scope.INFER)
    share = {"version": 1, "weight": 0.5}
    pointed = house.http.put(
        "/adapters/their-bot/aliases/canary", json=share, headers=house.key("theirs")
    )
    assert pointed.status_code == 200
    fine_tuned = house.http.get(f"/finetune/{things['job_id']}", headers=house.key("theirs"))
    points = house.http.get(
        f"/finetune/{things['job_id']}/checkpoints", headers=house.key("theirs")
    ).json()["data"]
    names = [
        "their-bot",
        "their-bot@1",
        "their-bot@live",
        "their-bot@canary",
        fine_tuned.json()["fine_tuned_model"],
        points[0]["fine_tuned_model_checkpoint"],
    ]
    # With the owner first, so that what is remembered for one is not told to the other.
    for model in names:
        assert model
        assert house.http.get(f"/v1/models/{model}", headers=owner).status_code == 200
        foreign = refused(house, model, ours)
        missing = refused(house, model.replace("their-bot", "none-bot"), ours)
        assert [answer.replace("their-bot", "none-bot") for answer in foreign] == missing


def test_what_is_anothers_cannot_be_trained_on_or_continued(
    house: House, things: dict[str, str]
) -> None:
    ours = house.key("ours")
    for body, code in [
        ({"training_file": things["file_id"]}, "file_not_found"),
        ({"data": ROWS, "validation_file": things["file_id"]}, "file_not_found"),
        ({"data": ROWS, "continue_from": "their-bot"}, "adapter_not_found"),
        ({"data": ROWS, "name": "their-bot"}, "adapter_name_conflict"),
    ]:
        told = house.http.post("/finetune", json=body, headers=ours)
        assert told.json()["error"]["code"] == code
    told = house.http.post(
        "/v1/fine_tuning/jobs",
        json={"model": BASE, "training_file": things["file_id"]},
        headers=ours,
    )
    assert told.json()["error"]["param"] == "training_file"


# ---- what is written down


def test_no_key_is_logged_whatever_happens(
    house: House, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level(logging.DEBUG)

    def broken(request: Any) -> Any:
        raise RuntimeError(f"unforeseen: {request!r}")

    with answering(tmp_path, auth=True) as http:
        ledger = open_ledger(ledger_settings(tmp_path))
        secret = ledger.keys.make(NewKey(tenant="ours", scopes=tuple(Scope))).secret
        digest = digest_of(secret)
        ledger.close()
        http.app.add_route("/broken", broken)
        for header in ({"authorization": f"Bearer {secret}"}, {"x-api-key": secret}):
            for path in ("/adapters", "/nothing", "/broken", "/v1/files?limit=x"):
                told = http.get(path, headers=header)
                assert secret not in told.text
        assert told.status_code == 400
    assert "unforeseen error in GET /broken" in caplog.text
    for kept in (secret, secret.removeprefix("graft-"), digest):
        assert kept not in caplog.text
