"""Shared adapters over HTTP: what a sharee may do, on every route that an adapter has."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.routing import APIRoute
from starlette.testclient import TestClient

from adapters.keys import NewKey, Scope
from adapters.ledger import Ledger, open_ledger
from tests.support.in_process import BASE, answering, ledger_settings
from tests.support.samples import adapter_directory, manifest, new_job, render

ROWS = [{"input": f"question {n}", "target": f"answer {n}"} for n in range(3)]
#: What sharing brings: the adapter may be asked; and what its owner may allow besides.
PLAIN = {"may_continue": False, "may_download": False}


class House:
    """The service with keys on, and an adapter `bot` of the tenant `theirs`."""

    def __init__(self, http: TestClient, ledger: Ledger, home: Path) -> None:
        self.http, self.ledger = http, ledger
        self.owner, self.sharee, self.stranger = map(self.key, ("theirs", "ours", "third"))
        job_id = ledger.of("theirs").jobs.submit(new_job("bot", BASE), render=render).body
        job = ledger.jobs.claim(worker="w", base_model=BASE, lease_seconds=600, max_losses=9)
        assert job is not None
        assert job.id == job_id
        source = adapter_directory(home / "made", content=b"weights")
        version = ledger.registry.publish(job, source, manifest(job), promote=True)
        self.fine_tuned_name = str(version.fine_tuned_name)

    def key(self, tenant: str) -> dict[str, str]:
        new = NewKey(tenant=tenant, scopes=(Scope.INFER, Scope.TUNE))
        return {"authorization": f"Bearer {self.ledger.keys.make(new).secret}"}

    def share(self, tenant: str = "ours", **more: bool) -> dict[str, Any]:
        body = {"tenant": tenant, **more}
        told = self.http.post("/adapters/bot/shares", json=body, headers=self.owner)
        assert told.status_code == 201, told.text
        shown: dict[str, Any] = told.json()
        return shown

    def unshare(self, tenant: str = "ours") -> None:
        self.http.delete(f"/adapters/bot/shares/{tenant}", headers=self.owner)

    def models(self, header: dict[str, str]) -> set[str]:
        return {one["id"] for one in self.http.get("/v1/models", headers=header).json()["data"]}

    def chat(self, model: str, header: dict[str, str]) -> str:
        """How far a question gets: no engine is up, so one that is let through meets that."""
        body = {"model": model, "messages": [{"role": "user", "content": "hello"}]}
        told = self.http.post("/v1/chat/completions", json=body, headers=header)
        return str(told.json()["error"]["code"])


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    home = tmp_path_factory.mktemp("shares")
    with answering(home, auth=True, engine_wait_seconds=0) as client:
        ledger = open_ledger(ledger_settings(home))
        yield House(client, ledger, home)
        ledger.close()


@pytest.fixture
def house(built: House) -> Iterator[House]:
    yield built
    for tenant in ("ours", "*"):
        built.unshare(tenant)


#: What becomes of a sharee's request on each route of an adapter, by the end of its path.
REFUSED = (403, "adapter_read_only")
ROUTES: dict[tuple[str, str], tuple[dict[str, Any], Any]] = {
    ("GET", "/adapters/{name}"): ({}, 200),
    ("DELETE", "/adapters/{name}"): ({}, REFUSED),
    ("GET", "/adapters/{name}/download"): ({}, REFUSED),
    ("POST", "/adapters/{name}/promote"): ({"json": {"version": 1}}, REFUSED),
    ("POST", "/adapters/{name}/rollback"): ({}, REFUSED),
    ("POST", "/adapters/{name}/recheck"): ({"json": {"version": 1}}, REFUSED),
    ("PUT", "/adapters/{name}/aliases/{alias}"): ({"json": {"version": 1}}, REFUSED),
    ("DELETE", "/adapters/{name}/aliases/{alias}"): ({}, REFUSED),
    ("PUT", "/adapters/{name}/defaults"): ({"json": {"temperature": 0.5}}, REFUSED),
    ("GET", "/adapters/{name}/shares"): ({}, REFUSED),
    ("POST", "/adapters/{name}/shares"): (
        {"json": {"tenant": "ours", "may_download": True}},
        REFUSED,
    ),
    ("DELETE", "/adapters/{name}/shares/{tenant}"): ({}, REFUSED),
    ("GET", "/v1/models/{model:path}"): ({}, 200),
    ("DELETE", "/v1/models/{model:path}"): ({}, REFUSED),
}


def routes_of_an_adapter(http: TestClient) -> set[tuple[str, str]]:
    """Every operation whose path names an adapter, once where it has two addresses."""
    return {
        (method, path.removeprefix("/v1") if "/adapters/" in path else path)
        for route in http.app.routes
        if isinstance(route, APIRoute)
        for path in [route.path]
        if "/adapters/{name}" in path or "{model" in path
        for method in route.methods
    }


def test_every_route_of_an_adapter_is_walked_here(house: House) -> None:
    assert routes_of_an_adapter(house.http) == ROUTES.keys()


@pytest.mark.parametrize("whom", ["ours", "*"])
@pytest.mark.parametrize("by", ["bare", "number", "openai"])
def test_a_sharee_sees_an_adapter_on_every_route_and_changes_it_on_none(
    house: House, whom: str, by: str
) -> None:
    house.share(whom)
    name = {"bare": "bot", "number": "bot@1", "openai": house.fine_tuned_name}[by]
    for (method, path), (body, outcome) in ROUTES.items():
        if by != "bare" and "download" not in path and "{model" not in path and method != "DELETE":
            continue  # these speak of a whole adapter
        if by != "bare" and ("shares" in path or "aliases" in path):
            continue
        at = (
            path.replace("{name}", name)
            .replace("{model:path}", name)
            .replace("{tenant}", "ours")
            .replace("{alias}", "canary")
        )
        told = house.http.request(method, at, headers=house.sharee, **body)
        if outcome == 200:
            assert told.status_code == 200, (method, at)
        else:
            assert (told.status_code, told.json()["error"]["code"]) == outcome, (method, at)
            assert "theirs" in told.json()["error"]["message"]
    assert house.chat(name, house.sharee) == "engine_unavailable"
    assert {"bot", "bot@1", house.fine_tuned_name} <= house.models(house.sharee)
    # And nothing has changed.
    entry = house.http.get("/adapters/bot", headers=house.owner).json()
    assert (entry["live"], len(entry["versions"])) == ("bot@1", 1)


def test_a_sharee_is_shown_whose_it_is_and_not_how_it_came_to_be(house: House) -> None:
    house.share()
    own, theirs = (
        house.http.get("/adapters/bot", headers=header).json()
        for header in (house.owner, house.sharee)
    )
    assert (own["owner"], theirs["owner"], theirs["shared"]) == ("theirs", "theirs", True)
    assert own["versions"][0]["job_id"].startswith("ftjob-")
    assert theirs["versions"][0]["job_id"] is None
    listed = house.http.get("/adapters", headers=house.sharee).json()["data"]
    assert [(one["name"], one["owner"], one["versions"][0]["job_id"]) for one in listed] == [
        ("bot", "theirs", None)
    ]


def test_what_is_shared_with_one_tenant_is_not_there_for_another(house: House) -> None:
    house.share()
    assert house.http.get("/adapters/bot", headers=house.stranger).status_code == 404
    assert house.http.get("/adapters", headers=house.stranger).json()["data"] == []
    assert house.models(house.stranger) == {BASE}
    assert house.chat("bot", house.stranger) == "model_not_found"


def test_it_is_continued_only_where_sharing_says_so(house: House) -> None:
    house.share()
    body = {"data": ROWS, "name": "mine", "continue_from": "bot"}
    told = house.http.post("/finetune", json=body, headers=house.sharee)
    assert (told.status_code, told.json()["error"]["code"]) == REFUSED
    assert told.json()["error"]["param"] == "continue_from"
    house.share(may_continue=True)
    told = house.http.post("/finetune", json=body, headers=house.sharee)
    assert told.status_code == 202, told.text
    job = house.ledger.of("ours").jobs.get(told.json()["id"])
    assert (job.adapter, job.spec.parent) == ("mine", "bot@1")
    into_theirs = house.http.post("/finetune", json=body | {"name": "bot"}, headers=house.sharee)
    assert into_theirs.json()["error"]["code"] == "adapter_name_conflict"


def test_its_files_are_fetched_only_where_sharing_says_so(house: House) -> None:
    house.share(may_download=True)
    for name in ("bot", "bot@1", house.fine_tuned_name):
        told = house.http.get(f"/adapters/{name}/download", headers=house.sharee)
        assert (told.status_code, told.headers["content-type"]) == (200, "application/x-tar")
    assert house.http.delete("/adapters/bot", headers=house.sharee).status_code == 403


def test_shares_are_listed_changed_and_ended_by_the_owner(house: House) -> None:
    shown = house.share(may_continue=True)
    assert shown | {"created_at": 0} == {
        "object": "adapter.share",
        "tenant": "ours",
        "may_continue": True,
        "may_download": False,
        "created_at": 0,
    }
    house.share("*")
    listed = house.http.get("/v1/adapters/bot/shares", headers=house.owner).json()
    assert [(one["tenant"], one["may_continue"]) for one in listed["data"]] == [
        ("*", False),
        ("ours", True),
    ]
    assert house.http.get("/adapters/bot", headers=house.stranger).status_code == 200
    gone = house.http.delete("/adapters/bot/shares/*", headers=house.owner)
    assert gone.json() == {"id": "*", "object": "adapter.share", "deleted": True}
    assert house.http.delete("/adapters/bot/shares/*", headers=house.owner).status_code == 404
    assert house.http.get("/adapters/bot", headers=house.stranger).status_code == 404
    assert house.http.get("/adapters/bot", headers=house.sharee).status_code == 200


def test_what_is_no_longer_shared_is_gone_at_once_here(house: House) -> None:
    house.share()
    assert house.chat("bot", house.sharee) == "engine_unavailable"
    house.unshare()
    assert house.chat("bot", house.sharee) == "model_not_found"
    assert house.http.get("/v1/models/bot@1", headers=house.sharee).status_code == 404
    assert house.chat("bot", house.owner) == "engine_unavailable"


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({}, "invalid_value", "tenant"),
        ({"tenant": "Über"}, "invalid_value", "tenant"),
        ({"tenant": "theirs"}, "invalid_value", "tenant"),
        ({"tenant": "ours", "may_continu": True}, "unknown_field", "may_continu"),
        ({"tenant": "ours", "may_continue": "perhaps"}, "invalid_value", "may_continue"),
    ],
)
def test_a_share_that_makes_no_sense_is_refused(
    house: House, body: dict[str, Any], code: str, param: str
) -> None:
    told = house.http.post(
        "/adapters/bot/shares", content=json.dumps(body), headers=house.owner
    ).json()["error"]
    assert (told["code"], told["param"]) == (code, param)
    assert house.http.get("/adapters/bot/shares", headers=house.owner).json()["data"] == []
