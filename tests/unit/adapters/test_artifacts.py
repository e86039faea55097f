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
