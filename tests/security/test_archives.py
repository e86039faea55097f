"""Archives, uploads and pickles of strangers: bounded before they are read, and nothing in them runs or leads out."""

import gzip
import io
import json
import pickle
import resource
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from adapters.errors import InvalidAdapter
from adapters.peft.tar import Limits
from adapters.peft.unpack import unpack
from tests.security.house import House
from tests.support.bad_adapters import ARCHIVES
from tests.support.peft_adapters import good_adapter, packed

pytestmark = pytest.mark.asyncio(loop_scope="module")

FORM = {"content-type": "multipart/form-data; boundary=xyz"}
#: Beyond what the test itself builds.
MOST_MIB = 100


def form(content: bytes, field: str = "archive", filename: str = "a.tar", **more: str) -> bytes:
    head = f'Content-Disposition: form-data; name="{field}"; filename="{filename}"'
    parts = [f"--xyz\r\n{head}\r\n\r\n".encode() + content + b"\r\n"]
    parts += [
        f'--xyz\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in more.items()
    ]
    return b"".join(parts) + b"--xyz--\r\n"


def archive(*members: tuple[str, bytes]) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return target.getvalue()


def most_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@pytest.mark.parametrize("name", ARCHIVES)
async def test_an_archive_that_means_harm_is_refused_and_leaves_nothing(
    house: House, name: str
) -> None:
    before = house.files()
    _, make = ARCHIVES[name]
    answer = await house.ask("POST", "/adapters", form(make(), name="bad"), headers=FORM)
    # The bomb of that corpus is no larger than what this server takes; it fails for what is in it.
    await house.refused(answer, 400)
    assert answer.json()["error"]["code"] == "invalid_adapter"
    assert house.files() == before
    await house.canary()


@pytest.mark.parametrize(
    "way",
    ["../x", "/x", "a/../../x", "..\\x", "C:\\x", "./../x", "a/\0/x", "a/./../../x", "~/../x"],
)
async def test_no_member_of_an_archive_is_written_outside(house: House, way: str) -> None:
    before = house.files()
    for name in (f"{way}/adapter_config.json", f"{way}", f"{way}.json"):
        content = archive((name, b"{}"), *good_adapter().contents().items())
        answer = await house.ask("POST", "/adapters", form(content, name="slip"), headers=FORM)
        if answer.status >= 400:
            await house.refused(answer, 400)
        else:
            await house.ask("DELETE", "/adapters/slip")
    outside = {name for name in house.files() if not name.startswith("home/")}
    assert outside == {name for name in before if not name.startswith("home/")}
    assert not [name for name in house.files() if name.endswith(("/x", "x.json"))]


async def test_a_gigabyte_of_nothing_costs_no_memory_and_is_given_up_early(tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.tar.gz"
    info = tarfile.TarInfo("adapter_model.safetensors")
    info.size = 1 << 34
    with gzip.open(bomb, "wb", compresslevel=1) as file:
        file.write(info.tobuf(tarfile.GNU_FORMAT))
        for _ in range(64):
            file.write(bytes(1 << 20))
    before = most_mib()
    (tmp_path / "target").mkdir()
    with pytest.raises(InvalidAdapter, match="comes to more than"):
        unpack(bomb, tmp_path / "target", Limits(32 << 20))
    assert most_mib() - before < MOST_MIB
    assert sum(path.stat().st_size for path in tmp_path.joinpath("target").rglob("*")) <= 33 << 20


async def test_a_hundred_thousand_members_are_given_up_at_the_first_thousand(
    tmp_path: Path,
) -> None:
    crowd = tmp_path / "crowd.tar"
    with crowd.open("wb") as file:
        for number in range(100_000):
            file.write(tarfile.TarInfo(f"file-{number}").tobuf(tarfile.USTAR_FORMAT))
        file.write(bytes(1024))
    before = most_mib()
    (tmp_path / "target").mkdir()
    with pytest.raises(InvalidAdapter, match="more than 1000 members"):
        unpack(crowd, tmp_path / "target", Limits(1 << 30))
    assert most_mib() - before < MOST_MIB


# ---- what runs code when it is read


class Canary:
    """Reading it writes a file."""

    def __init__(self, file: Path) -> None:
        self.file = str(file)

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (self.file, "w"))


def disguises(poison: bytes) -> dict[str, dict[str, bytes]]:
    """Where a pickle may lie in an adapter."""
    good = good_adapter().contents()
    config, weights = good["adapter_config.json"], good["adapter_model.safetensors"]
    header = len(poison).to_bytes(8, "little") + poison
    return {
        "as PEFT's pickle": {"adapter_config.json": config, "adapter_model.bin": poison},
        "beside the weights": good | {"adapter_model.bin": poison},
        "as safetensors": {"adapter_config.json": config, "adapter_model.safetensors": poison},
        "as a safetensors header": {
            "adapter_config.json": config,
            "adapter_model.safetensors": header,
        },
        "as configuration": {"adapter_config.json": poison, "adapter_model.safetensors": weights},
        "as a checkpoint": {"adapter_config.json": config, "adapter_model.pt": poison},
    }


async def test_the_canary_would_sing(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Canary(tmp_path / "sung"))).close()
    assert (tmp_path / "sung").exists()


async def test_a_pickle_is_never_loaded_wherever_it_lies(house: House, tmp_path: Path) -> None:
    poison = pickle.dumps(Canary(tmp_path / "sung"))
    for name, files in disguises(poison).items():
        content = archive(*files.items())
        answer = await house.ask("POST", "/adapters", form(content, name="pickle"), headers=FORM)
        await house.refused(answer, 400)
        assert answer.json()["error"]["code"] == "invalid_adapter", name
    for path, field in (
        ("/v1/files", "file"),
        ("/finetune", "data"),
        ("/datasets/validate", "data"),
    ):
        more = {"purpose": "fine-tune"} if field == "file" else {}
        sent = form(poison, field, "x.jsonl", **more)
        answer = await house.ask("POST", path, sent, headers=FORM)
        assert answer.status < 500
        told = answer.json()
        assert answer.status >= 400 or told.get("status") == "error" or told["valid"] is False
    assert not (tmp_path / "sung").exists()
    await house.canary()


async def test_what_lies_beside_an_adapter_is_not_kept(house: House) -> None:
    """Code, chat templates and other people's configurations among them: an engine would read some of it."""
    beside = {
        "chat_template.jinja": b"{{ ''.__class__ }}",
        "config.json": json.dumps({"auto_map": {"AutoModel": "evil.Model"}}).encode(),
        "evil.py": b"raise SystemExit",
        "optimizer.pt": b"\x80\x04.",
        "tokenizer_config.json": json.dumps({"chat_template": "{{ 1 }}"}).encode(),
        "README.md": b"hello",
    }
    content = archive(*good_adapter().contents().items(), *beside.items())
    answer = await house.ask("POST", "/adapters", form(content, name="plain"), headers=FORM)
    assert answer.status == 201, answer.body
    version = house.home / "artifacts" / "versions" / answer.json()["versions"][0]["digest"]
    kept = {"adapter_config.json", "adapter_model.safetensors", "graft.json"}
    assert {path.name for path in version.iterdir()} == kept


@pytest.mark.parametrize(
    "option",
    [
        {"auto_mapping": {"base_model_class": "x", "parent_library": "evil"}},
        {"trust_remote_code": True},
        {"custom_pipelines": {"x": {"impl": "evil.py"}}},
        {"auto_map": {"AutoConfig": "evil.Config"}},
        {"base_model_name_or_path": "https://evil.example/model"},
        {"base_model_name_or_path": "/etc"},
        {"modules_to_save": ["lm_head"]},
        {"megatron_core": "evil.core"},
        {"_custom_modules": {"a": "b"}},
    ],
    ids=str,
)
async def test_a_configuration_cannot_name_code(house: House, option: dict[str, Any]) -> None:
    adapter = good_adapter()
    adapter.config |= option
    before = house.files()
    answer = await house.ask("POST", "/adapters", form(packed(adapter), name="code"), headers=FORM)
    await house.refused(answer, 400)
    assert house.files() == before


# ---- sizes


@pytest.mark.parametrize(
    ("path", "limit"),
    [
        ("/v1/files", 512 << 20),
        ("/finetune", 512 << 20),
        ("/adapters", 512 << 20),
        ("/v1/uploads/upload_x/parts", (64 << 20) + (1 << 20)),
        ("/v1/chat/completions", 8 << 20),
        ("/v1/keys", 8 << 20),
        ("/nowhere", 8 << 20),
    ],
)
async def test_what_is_announced_as_too_large_is_refused_unread(
    house: House, path: str, limit: int
) -> None:
    read = []

    async def body() -> AsyncIterator[bytes]:
        read.append(1)
        yield b"x"

    for length in (limit + 1, 10**12, 10**30):
        answer = await house.ask(
            "POST", path, headers={"content-length": str(length), **FORM}, chunks=body()
        )
        await house.refused(answer, 413)
    assert not read


async def test_what_is_not_announced_is_cut_where_it_is_too_large(house: House) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 1 << 20
            yield b" " * (1 << 20)

    before = most_mib()
    for length in (None, "0", "x", "-1", "12"):
        sent = 0
        headers = {} if length is None else {"content-length": length}
        answer = await house.ask("POST", "/v1/chat/completions", headers=headers, chunks=endless())
        await house.refused(answer, 413)
        assert sent <= 10 << 20
    assert most_mib() - before < MOST_MIB


@pytest.mark.parametrize(
    "body",
    [
        b"".join(
            b'--xyz\r\nContent-Disposition: form-data; name="a%d"\r\n\r\n\r\n' % n
            for n in range(2000)
        ),
        b"".join(
            b'--xyz\r\nContent-Disposition: form-data; name="a%d"; filename="x"\r\n\r\n\r\n' % n
            for n in range(2000)
        ),
        b'--xyz\r\nContent-Disposition: form-data; name="a"\r\n\r\n'
        + b"x" * (3 << 20)
        + b"\r\n--xyz--",
        b"--xyz\r\n" + b"a: b\r\n" * 100_000,
        b"--xyz\r\nContent-Disposition: " + b"x" * (1 << 20),
        b"--xyz",
        b"--other\r\n",
    ],
    ids=["fields", "files", "a long field", "headers", "a long header", "an end", "another"],
)
async def test_a_form_that_is_a_bomb_is_refused(house: House, body: bytes) -> None:
    for path in ("/finetune", "/v1/files", "/adapters", "/datasets/validate"):
        await house.refused(await house.ask("POST", path, body, headers=FORM), 400)
    await house.canary()


@pytest.mark.parametrize(
    "rows",
    [
        b'{"input": ' + b"[" * 200_000,
        b'{"input": "a", "target": NaN}\n',
        b'{"input": "a", "target": 1e999}\n',
        b'{"input": "\xff\xfe", "target": "b"}\n',
        b'{"input": "\\ud800", "target": "b"}\n',
        b'{"input": "a", "input": "b", "target": "c", "target": "d"}\n',
        b"\xef\xbb\xbf\xef\xbb\xbf{}\n",
        b"",
        b"\n" * 100_000,
        b"\0" * 1000,
        b"x" * (9 << 20),
        b'{"a": 1}\n' * 20_000,
        b'{"messages": []}\n{"messages": [{"role": "system", "content": "x"}]}\n',
    ],
    ids=[
        "deep",
        "nan",
        "inf",
        "bytes",
        "half",
        "twice",
        "marks",
        "empty",
        "lines",
        "nul",
        "long",
        "many",
        "none",
    ],
)
async def test_rows_that_are_none_are_refused_with_their_line(house: House, rows: bytes) -> None:
    before = most_mib()
    for path in ("/finetune", "/datasets/validate"):
        sent = form(rows, "data", "x.jsonl", **({"dry_run": "true"} if path == "/finetune" else {}))
        answer = await house.ask("POST", path, sent, headers=FORM)
        if path == "/finetune":
            await house.refused(answer, 400)
        assert answer.status < 500
        assert b"Traceback" not in answer.body
    assert most_mib() - before < MOST_MIB
    await house.canary()
