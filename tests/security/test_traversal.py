"""R18: no name or id, in a path, a query or a field, leads anywhere but to what has that name."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.routing import APIRoute

from adapters.webhooks import ENDINGS
from tests.security.house import Answer, House
from tests.security.traversal import in_paths, payloads
from tests.support.samples import BASE

pytestmark = pytest.mark.asyncio(loop_scope="module")

PAYLOADS, IN_PATHS = payloads(), in_paths()
FORM = "multipart/form-data; boundary=x"
ROWS = [{"input": f"question {n}", "target": f"answer {n}"} for n in range(3)]
#: What a route wants beside its path, so that it comes to look at the name.
BODIES: dict[str, Any] = {
    "promote": {"version": 1},
    "share": {"shared": True},
    "complete": {"part_ids": ["part_x"]},
    "test": {"event_type": ENDINGS[0]},
}
PART = b'--x\r\nContent-Disposition: form-data; name="data"; filename="x"\r\n\r\nx\r\n--x--\r\n'


async def test_the_corpus_is_as_large_as_it_says() -> None:
    assert len(PAYLOADS) >= 200
    assert len(IN_PATHS) >= 150


def named(house: House) -> Iterator[tuple[str, str]]:
    """Every method and path with a name or an id in it; of two spellings of one route, one."""
    for route in house.app.routes:
        if isinstance(route, APIRoute) and "{" in route.path and route.include_in_schema:
            yield from ((method, route.path) for method in sorted(route.methods))


async def ask(house: House, method: str, path: str) -> Answer:
    last = path.rpartition("/")[2]
    if last == "parts":
        return await house.ask(method, path, PART, headers={"content-type": FORM})
    return await house.ask(method, path, BODIES.get(last, {}))


async def test_no_name_in_a_path_leads_anywhere(house: House) -> None:
    house.publish("there")
    before, routes = house.files(), list(named(house))
    assert len(routes) > 25
    for method, template in routes:
        for payload in IN_PATHS:
            path = re.sub(r"\{[^}]+\}", lambda _, name=payload: name, template)
            await house.refused(await ask(house, method, path), 400, 404, 405)
    assert house.files() == before
    assert (await house.ask("GET", "/adapters/there")).status == 200


async def test_the_second_spelling_of_a_route_is_the_same_route(house: House) -> None:
    """What is asked of one above holds for both: they have one handler."""
    handlers: dict[Any, set[bool]] = {}
    for route in house.app.routes:
        if isinstance(route, APIRoute):
            handlers.setdefault(route.endpoint, set()).add(route.include_in_schema)
    assert all(True in shown for shown in handlers.values())


FILES = {"training_file", "validation_file"}
FIELDS: list[tuple[str, dict[str, Any], str]] = [
    ("/v1/chat/completions", {"messages": []}, "model"),
    ("/v1/completions", {"prompt": "x"}, "model"),
    ("/tokenize", {"prompt": "x"}, "model"),
    ("/finetune", {"data": ROWS, "dry_run": True}, "name"),
    ("/finetune", {"data": ROWS, "dry_run": True}, "base_model"),
    ("/finetune", {"data": ROWS, "dry_run": True}, "continue_from"),
    ("/finetune", {"name": "x"}, "training_file"),
    ("/finetune", {"name": "x", "data": ROWS}, "validation_file"),
    ("/datasets/validate", {}, "training_file"),
    ("/v1/fine_tuning/estimate", {"model": BASE}, "training_file"),
    ("/v1/fine_tuning/preview", {"model": BASE}, "training_file"),
    ("/v1/fine_tuning/jobs", {"training_file": "file-x"}, "model"),
    ("/v1/fine_tuning/jobs", {"model": BASE}, "training_file"),
    ("/v1/fine_tuning/jobs", {"model": BASE, "training_file": "file-x"}, "validation_file"),
    ("/v1/fine_tuning/jobs", {"model": BASE, "training_file": "file-x"}, "suffix"),
    ("/adapters", {"name": "x"}, "source"),
    ("/adapters", {"source": "file:///x"}, "name"),
    ("/adapters", {"name": "x", "source": "file:///x"}, "base_model"),
    ("/adapters", {"name": "x", "source": "file:///x"}, "trained_on"),
    ("/v1/keys", {"scopes": ["tune"]}, "tenant"),
    ("/v1/webhook_endpoints", {}, "url"),
]


@pytest.mark.parametrize(
    ("path", "body", "field"), FIELDS, ids=lambda it: it if isinstance(it, str) else ""
)
async def test_no_name_in_a_field_leads_anywhere(
    house: House, path: str, body: dict[str, Any], field: str
) -> None:
    before, seen = house.files(), len(house.engine.bodies)
    for payload in PAYLOADS[turn(path, field) :: 3 if field in FILES else 1]:
        answer = await house.ask("POST", path, body | {field: payload})
        if fine(path, field, payload):
            assert answer.status < 300, (payload, answer.body)
        else:
            await house.refused(answer, 400, 404)
    assert house.files() == before
    assert len(house.engine.bodies) == seen


def turn(path: str, field: str) -> int:
    """Files are looked up in one place for all of these: they share the corpus, and each payload comes twice."""
    looked_up = [one for one in FIELDS if one[2] in FILES]
    return [(one[0], one[2]) for one in looked_up].index((path, field)) % 3 if field in FILES else 0


def fine(path: str, field: str, payload: str) -> bool:
    """A few of these are plain names after all."""
    plain = re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,62}", payload) is not None
    return plain and (path, field) in {("/finetune", "name"), ("/v1/keys", "tenant")}


@pytest.mark.parametrize("parameter", ["after", "limit", "tenant", "purpose", "order"])
async def test_no_name_in_a_query_leads_anywhere(house: House, parameter: str) -> None:
    from urllib.parse import quote

    before = house.files()
    for payload in PAYLOADS[::4]:
        for path in ("/v1/files", "/finetune", "/v1/keys", "/v1/fine_tuning/jobs"):
            answer = await house.ask("GET", path, query=f"{parameter}={quote(payload[:1000])}")
            assert answer.status < 500
            if answer.status >= 400:
                await house.refused(answer)
            else:
                assert len(answer.body) < 200_000  # what has been made here, and no more
    assert house.files() == before


@pytest.mark.parametrize("path", ["/v1/files", "/finetune", "/v1/uploads"])
async def test_a_files_name_is_kept_as_words_and_never_as_a_path(house: House, path: str) -> None:
    line = b'{"input": "a", "target": "b"}\n'
    outside = {name for name in house.files() if not name.startswith("home/")}
    folders = {path for path in house.home.rglob("*") if path.is_dir()}
    for payload in PAYLOADS[::3]:
        if path == "/v1/uploads":
            about = {"bytes": 9, "mime_type": payload, "purpose": "fine-tune"}
            answer = await house.ask("POST", path, about | {"filename": payload})
        else:
            field = "data" if path == "/finetune" else "file"
            answer = await house.ask(
                "POST",
                path,
                form(field, payload, line, dry_run="true")
                if field == "data"
                else form(field, payload, line, purpose="fine-tune"),
                headers={"content-type": FORM},
            )
        assert answer.status < 500
        if answer.status >= 400:
            await house.refused(answer, 400)
    assert {name for name in house.files() if not name.startswith("home/")} == outside
    for file in house.home.joinpath("artifacts", "files").iterdir():
        assert re.fullmatch("file-[0-9A-Za-z]{24}", file.name)
    assert {path for path in house.home.rglob("*") if path.is_dir()} == folders


def form(field: str, filename: str, content: bytes, **more: str) -> bytes:
    quoted = filename.encode().replace(b'"', b"%22").replace(b"\r", b"").replace(b"\n", b"")
    head = b'Content-Disposition: form-data; name="%s"' % field.encode()
    parts = [b'--x\r\n%s; filename="%s"\r\n\r\n%s\r\n' % (head, quoted, content)]
    parts += [
        f'--x\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in more.items()
    ]
    return b"".join(parts) + b"--x--\r\n"
