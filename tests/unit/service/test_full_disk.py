"""What the service says when the disk is full; with a disk that really is: tests/chaos/test_disk_full.py."""

import errno
from pathlib import Path

import pytest

from adapters.artifacts import LocalArtifacts
from tests.support.in_process import answering

FILE = {"file": ("t.jsonl", b'{"input": "a", "target": "b"}\n')}


@pytest.mark.parametrize(
    ("number", "status"), [(errno.ENOSPC, 507), (errno.EDQUOT, 507), (errno.EIO, 500)]
)
def test_a_full_disk_is_told_apart_from_a_broken_one(
    number: int, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, "the disk")

    monkeypatch.setattr(LocalArtifacts, "take_file", refuse)
    with answering(tmp_path) as client:
        answer = client.post("/v1/files", data={"purpose": "fine-tune"}, files=FILE)
        assert answer.status_code == status
        assert str(tmp_path) not in answer.text
        if status == 507:
            assert answer.json()["error"]["code"] == "storage_full"
            assert answer.headers["retry-after"] == "60"
            assert answer.headers["x-should-retry"] == "false"
        assert client.get("/v1/files").json()["data"] == []
