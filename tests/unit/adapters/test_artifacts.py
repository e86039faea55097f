import os
from pathlib import Path

import pytest

from adapters.artifacts import LocalArtifacts
from tests.support.samples import adapter_directory, weights_of


def test_a_version_costs_no_second_copy_and_outlives_what_it_was_made_from(tmp_path: Path) -> None:
    artifacts = LocalArtifacts(tmp_path / "store")
    source = adapter_directory(tmp_path / "made")
    kept = artifacts.version(artifacts.put_version(source)) / "adapter_model.safetensors"
    assert kept.samefile(source / "adapter_model.safetensors")
    (source / "adapter_model.safetensors").unlink()
    assert kept.read_bytes() == weights_of(b"weights")


def test_a_version_is_copied_where_there_are_no_hard_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    artifacts = LocalArtifacts(tmp_path / "store")
    source = adapter_directory(tmp_path / "made")
    kept = artifacts.version(artifacts.put_version(source)) / "adapter_model.safetensors"
    assert kept.read_bytes() == weights_of(b"weights")
    assert not kept.samefile(source / "adapter_model.safetensors")


def test_what_killed_writers_left_is_swept_and_nothing_else(tmp_path: Path) -> None:
    artifacts = LocalArtifacts(tmp_path / "store")
    (tmp_path / "kept").write_text("kept")
    artifacts.take_file(tmp_path / "kept", "file-1")
    staging, files = tmp_path / "store" / "staging", tmp_path / "store" / "files"
    left = [adapter_directory(staging / "half"), staging / "one", files / ".file-2.0123"]
    for path in left[1:]:
        path.write_text("half of it")
    (files / ".file-3.4567").write_text("being written")
    for path in [*left, files / "file-1"]:
        os.utime(path, (0, 0))
    artifacts.sweep(older_than=60)
    assert not any(path.exists() for path in left)
    assert sorted(path.name for path in files.iterdir()) == [".file-3.4567", "file-1"]
    assert artifacts.file("file-1", "").read_text() == "kept"
