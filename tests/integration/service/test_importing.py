"""Adapters that were trained elsewhere: the good ones answer, the bad ones never come near the engine."""

import asyncio
import io
import json
import tarfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from adapters.keys import NewKey, Scope
from adapters.ledger import open_ledger
from adapters.manifest import load_manifest
from tests.integration.service.conftest import BASE, Running, ledger_settings, serving
from tests.support.bad_adapters import MAX_BYTES, WORDS, all_archives, downloaded
from tests.support.fake_engine import FakeEngine
from tests.support.house import prepare_base
from tests.support.peft_adapters import LAYERS, Adapter, good_adapter, packed

LAYER = "model.layers.1.self_attn.q_proj"


@asynccontextmanager
async def living(home: Path, **more: object) -> AsyncIterator[Running]:
    """A service whose base model is prepared, and that takes small adapters only."""
    settings = ledger_settings(home)
    prepare_base(settings)
    engine = FakeEngine(settings.engine_socket(BASE), BASE)
    await engine.start()
    ledger = open_ledger(settings)
    folder = home / "shared"
    folder.mkdir()
    async with serving(
        home,
        engine_wait_seconds=0.2,
        max_adapter_bytes=MAX_BYTES,
        max_upload_bytes=MAX_BYTES,
        import_folders=(folder,),
        **more,
    ) as (client, url):
        running = Running(client, engine, ledger, home, url)
        await running.up()
        yield running
    ledger.close()
    await engine.kill()


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[Running]:
    async with living(tmp_path) as running:
        yield running


async def bring(
    house: Running, adapter: Adapter | bytes, name: str = "foreign", **fields: str
) -> httpx.Response:
    archive = adapter if isinstance(adapter, bytes) else packed(adapter, zipped=True)
    return await house.http.post(
        "/adapters", files={"archive": ("adapter.tar.gz", archive)}, data={"name": name, **fields}
    )


async def ask(house: Running, model: str) -> httpx.Response:
    messages = [{"role": "user", "content": "hello"}]
    return await house.http.post(
        "/v1/chat/completions", json={"model": model, "messages": messages}
    )


def leftovers(house: Running) -> list[Path]:
    versions = house.home / "artifacts" / "versions"
    return [*(house.home / "incoming").glob("*/*"), *versions.iterdir()]


async def test_no_bad_adapter_is_ever_listed_or_shown_to_the_engine(house: Running) -> None:
    for flaw, make in all_archives().values():
        refused = await bring(house, make())
        assert refused.status_code in {400, 413}, refused.text
        error = refused.json()["error"]
        if refused.status_code == 400:
            assert error["code"] == "invalid_adapter"
            told = {one["code"]: one["message"] for one in error["details"]}
            assert WORDS[flaw] in told[flaw]
    assert (await house.http.get("/adapters")).json()["data"] == []
    models = (await house.http.get("/v1/models")).json()["data"]
    assert [card["id"] for card in models] == [BASE]
    assert (house.engine.loads, house.engine.bodies) == ([], [])
    assert leftovers(house) == []
    told = (await house.http.get("/metrics")).text
    assert 'graft_adapter_imports_total{outcome="not_finite"} 4.0' in told
    assert 'outcome="accepted"' not in told


GOOD = {
    "float32": good_adapter(),
    "float16": good_adapter(dtype="F16"),
    "bfloat16": good_adapter(dtype="BF16"),
    "another rank for a layer": good_adapter(ranks={LAYER: 2}),
    "a part of the layers": good_adapter(layers={LAYER: LAYERS[LAYER]}),
}


async def test_a_good_adapter_answers_from_the_moment_of_the_answer(house: Running) -> None:
    for number, adapter in enumerate(GOOD.values()):
        name = f"foreign-{number}"
        made = await bring(house, adapter, name)
        assert made.status_code == 201, made.text
        entry = made.json()
        assert (entry["version"], entry["live"], entry["warnings"]) == (
            f"{name}@1",
            f"{name}@1",
            [],
        )
        [version] = entry["versions"]
        assert (version["imported"], version["job_id"], version["train_loss"]) == (True, None, None)
        assert version["rank"] == adapter.config["r"]
        models = (await house.http.get("/v1/models")).json()["data"]
        assert {name, f"{name}@1"} <= {card["id"] for card in models}
        answered = await ask(house, name)
        assert (answered.status_code, answered.json()["model"]) == (200, f"{name}@1")
        assert house.engine.loads.count(f"{name}@1") == 1


async def test_what_was_brought_can_be_downloaded_with_its_manifest_and_deleted(
    house: Running,
) -> None:
    adapter = good_adapter()
    await bring(house, adapter)
    response = await house.http.get("/adapters/foreign/download")
    with tarfile.open(fileobj=io.BytesIO(response.content)) as tar:
        found = {name: tar.extractfile(name).read() for name in tar.getnames()}
    assert found["foreign-1/adapter_model.safetensors"] == adapter.weights()
    manifest = load_manifest(found["foreign-1/graft.json"].decode())
    assert (manifest.base.id, manifest.job_id, manifest.result) == (BASE, None, None)
    assert (manifest.rank, manifest.alpha, manifest.uniform) == (4, 8.0, True)
    assert manifest.imported is not None
    assert manifest.imported.base_model == "tiny-base"
    # What was downloaded here is an adapter like any other.
    again = await bring(house, response.content, "again")
    assert again.status_code == 201
    assert (await house.http.delete("/adapters/foreign")).json()["deleted"]
    assert (await ask(house, "foreign")).status_code == 404


async def test_what_was_brought_is_tried_promoted_and_gone_back_from(house: Running) -> None:
    await bring(house, good_adapter())
    other = await bring(house, good_adapter(dtype="F16"), promote="false")
    assert (other.json()["version"], other.json()["live"]) == ("foreign@2", "foreign@1")
    at = "/adapters/foreign"
    share = {"version": 2, "weight": 1}
    assert (await house.http.put(f"{at}/aliases/canary", json=share)).status_code == 200
    for model, version in (("foreign", 2), ("foreign@canary", 2), ("foreign@live", 1)):
        assert (await ask(house, model)).json()["model"] == f"foreign@{version}"
    promoted = await house.http.post(f"{at}/promote", json={"alias": "canary"})
    assert (promoted.json()["live"], promoted.json()["weights"]) == ("foreign@2", {})
    # The same files again are what they have made, and move nothing.
    again = await bring(house, good_adapter())
    assert (again.status_code, again.json()["live"]) == (200, "foreign@2")
    assert (await house.http.post(f"{at}/rollback")).json()["live"] == "foreign@1"
    assert (await ask(house, "foreign")).json()["model"] == "foreign@1"


async def test_what_was_brought_has_the_sampling_defaults_that_came_with_it(house: Running) -> None:
    given = {"temperature": 0.3, "stop": ["###"]}
    made = await bring(house, good_adapter(), defaults=json.dumps(given))
    assert made.json()["versions"][0]["defaults"] == given
    assert (made.json()["defaults"], made.status_code) == ({}, 201)
    await ask(house, "foreign")
    assert house.engine.bodies[-1].items() > given.items()
    for wrong, param in (({"top_p": 2}, "defaults.top_p"), ({"max_tokens": 10**6}, "max_tokens")):
        refused = await bring(house, good_adapter(), "other", defaults=json.dumps(wrong))
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)


async def test_the_same_files_under_the_same_name_are_one_version(house: Running) -> None:
    archive = packed(good_adapter())
    several = await asyncio.gather(*(bring(house, archive) for _ in range(4)))
    assert sorted(one.status_code for one in several) == [200, 200, 200, 201]
    assert {one.json()["version"] for one in several} == {"foreign@1"}
    packed_otherwise = await bring(house, good_adapter())
    assert (packed_otherwise.status_code, packed_otherwise.json()["version"]) == (200, "foreign@1")
    changed = await bring(house, good_adapter(dtype="F16"), promote="false")
    assert (changed.status_code, changed.json()["version"]) == (201, "foreign@2")
    assert changed.json()["live"] == "foreign@1"
    assert len(list((house.home / "artifacts" / "versions").iterdir())) == 2
    await house.http.delete("/adapters/foreign")
    anew = await bring(house, archive)
    assert (anew.status_code, anew.json()["version"]) == (201, "foreign@3")


async def test_what_was_brought_belongs_to_the_tenant_of_the_key(tmp_path: Path) -> None:
    async with living(tmp_path, auth=True) as house:

        def act_as(tenant: str, *scopes: Scope) -> None:
            made = house.ledger.keys.make(NewKey(tenant=tenant, scopes=scopes))
            house.http.headers["authorization"] = f"Bearer {made.secret}"

        archive, both = packed(good_adapter()), (Scope.INFER, Scope.TUNE)
        act_as("theirs", Scope.INFER)
        assert (await bring(house, archive)).json()["error"]["code"] == "missing_scope"
        act_as("theirs", *both)
        assert (await bring(house, archive)).status_code == 201
        assert (await ask(house, "foreign")).json()["model"] == "foreign@1"
        act_as("ours", *both)
        assert (await ask(house, "foreign")).status_code == 404
        for other in (archive, good_adapter(dtype="F16")):
            refused = await bring(house, other)
            error = refused.json()["error"]
            assert (refused.status_code, error["code"]) == (400, "adapter_name_conflict")
            assert error["param"] == "name"
        assert (await house.http.get("/adapters")).json()["data"] == []
        assert len(leftovers(house)) == 1
        own = await bring(house, archive, "own")
        assert (own.status_code, own.json()["version"]) == (201, "own@1")
        assert (await ask(house, "own")).json()["model"] == "own@1"
        act_as("theirs", *both)
        again = await bring(house, archive)
        assert (again.status_code, again.json()["version"]) == (200, "foreign@1")
        [card] = (await house.http.get("/adapters")).json()["data"]
        assert card["name"] == "foreign"


NAMES = (
    *(BASE, "text", "image_url", "input", "base", "live", "default", "", "Bot", "a\n", "\0"),
    *("../../etc", "..", ".", "/etc", "a/b", "org/adapter", "a\\b", "bot@2", "@", "bot@live"),
    *("ft:a:b:c:12345678", "ft:", "-bot", "a b", "bót", "a" * 64, "bot\u202e", "%2e%2e"),
)


async def test_no_name_hijacks_a_base_model_or_another_adapter(house: Running) -> None:
    for name in NAMES:
        error = (await bring(house, good_adapter(), name)).json()["error"]
        assert (error["code"], error["param"]) == ("invalid_value", "name"), name
    assert leftovers(house) == []


async def test_fields_that_are_wrong_are_named(house: Running) -> None:
    for fields, param in (
        ({"base_model": "none"}, "base_model"),
        ({"promote": "perhaps"}, "promote"),
        ({"trained_on": "a\nb"}, "trained_on"),
        ({"nme": "x"}, "nme"),
    ):
        refused = await bring(house, good_adapter(), **fields)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)
    no_archive = await house.http.post("/adapters", files={"file": b""}, data={"name": "a"})
    assert (no_archive.status_code, no_archive.json()["error"]["param"]) == (400, "archive")
    text = await house.http.post("/adapters", content="a", headers={"content-type": "text/plain"})
    assert text.status_code == 415
    large = await bring(house, bytes(MAX_BYTES + 1))
    assert (large.status_code, large.json()["error"]["code"]) == (413, "file_too_large")


async def test_another_name_for_the_base_model_must_be_vouched_for(house: Running) -> None:
    adapter = good_adapter(base_model="somebody/tiny-base-bnb-4bit")
    refused = await bring(house, adapter)
    assert refused.json()["error"]["details"][0]["code"] == "wrong_base_model"
    accepted = await bring(house, adapter, trained_on="somebody/tiny-base-bnb-4bit")
    assert accepted.status_code == 201
    elsewhere = await bring(house, good_adapter(base_model="org/Tiny_Base"), "elsewhere")
    assert elsewhere.status_code == 201
    adapter = good_adapter()
    adapter.files["graft.json"] = downloaded(digest="9" * 64)
    assert (await bring(house, adapter, "download")).status_code == 400
    vouched = await bring(house, adapter, "download", trained_on=BASE)
    assert vouched.status_code == 201


async def test_an_adapter_that_does_nothing_is_taken_with_a_warning(house: Running) -> None:
    adapter = good_adapter()
    for name, tensor in adapter.tensors.items():
        tensor.value = -0.0 if "lora_B" in name else tensor.value
    adapter.config["base_model_name_or_path"] = None
    made = await bring(house, adapter)
    assert made.status_code == 201
    zero, nameless = made.json()["warnings"]
    assert "zero" in zero
    assert "which base model" in nameless


async def test_a_source_is_read_from_allowed_folders_only(house: Running) -> None:
    shared = good_adapter().write(house.home / "shared" / "mine")
    (house.home / "shared" / "mine.tar").write_bytes(packed(good_adapter(dtype="F16")))
    outside = good_adapter().write(house.home / "outside")
    (house.home / "shared" / "link").symlink_to(outside)

    async def take(source: str) -> httpx.Response:
        return await house.http.post("/v1/adapters", json={"name": "shared", "source": source})

    for source in (
        outside.as_uri(),
        (house.home / "shared" / "link").as_uri(),
        f"{shared.as_uri()}/../../outside",
        f"{house.home.as_uri()}/shared/none",
        "hf://org/adapter",
        "org/adapter",
        "s3://bucket/adapter",
        "file://elsewhere/adapter",
    ):
        refused = await take(source)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "source"), source
    assert (await take(shared.as_uri())).json()["version"] == "shared@1"
    assert (await take(f"{shared.as_uri()}.tar")).json()["version"] == "shared@2"
    assert (await ask(house, "shared")).json()["model"] == "shared@2"


async def test_a_base_model_that_is_not_ready_is_waited_for(service: Running) -> None:
    early = await bring(service, good_adapter())
    assert early.status_code == 503
    assert early.headers["retry-after"]


async def test_training_does_not_go_on_from_layers_of_different_ranks(house: Running) -> None:
    await bring(house, good_adapter(ranks={LAYER: 2}))
    rows = [{"input": "a", "target": "b"}]
    refused = await house.http.post("/finetune", json={"data": rows, "continue_from": "foreign"})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "continue_from")
    await bring(house, good_adapter(), "even")
    accepted = await house.http.post("/finetune", json={"data": rows, "continue_from": "even"})
    assert accepted.status_code == 202


async def test_files_that_have_gone_bad_on_the_disk_are_not_shown_to_the_engine(
    house: Running,
) -> None:
    made = await bring(house, good_adapter(), promote="false")  # nobody loads it ahead of use
    [version] = made.json()["versions"]
    weights = house.home / "artifacts/versions" / version["digest"] / "adapter_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + b"\1")
    refused = await ask(house, "foreign@1")
    assert (refused.status_code, refused.json()["error"]["code"]) == (500, "artifact_corrupt")
    assert house.engine.loads == []
    weights.write_bytes(whole)
    assert (await ask(house, "foreign@1")).status_code == 200


async def test_a_version_that_this_engine_cannot_serve_is_not_shown_to_it(house: Running) -> None:
    version = house.publish("old", promote=False)
    prepared = house.home / "models" / BASE / "graft-layers.json"
    prepared.write_text('{"model.layers.0.self_attn.q_proj": [16, 16]}')
    refused = await ask(house, version.name)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "not_servable")
    assert house.engine.loads == []
