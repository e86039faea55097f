"""Everything that an engine would refuse, die of, or pass over without a word is found by looking at the files."""

from collections.abc import Callable
from pathlib import Path

import pytest

from adapters.errors import InvalidAdapter
from adapters.peft.check import BaseNames, check_adapter
from adapters.peft.flaws import Flaw
from adapters.peft.tar import Limits
from adapters.peft.unpack import take_folder, unpack
from tests.support.bad_adapters import ARCHIVES, FOLDERS, MAX_BYTES, MAX_RANK, all_archives
from tests.support.peft_adapters import LAYERS, Adapter

NAMES = BaseNames(("tiny-base", "/nowhere"))
LIMITS = Limits(MAX_BYTES)


def codes(error: InvalidAdapter) -> set[str]:
    return {str(one["code"]) for one in error.details or []}


@pytest.mark.parametrize("name", all_archives())
def test_a_bad_archive_is_refused_for_what_is_wrong_with_it(name: str, tmp_path: Path) -> None:
    flaw, make = all_archives()[name]
    archive, target = tmp_path / "archive", tmp_path / "target"
    archive.write_bytes(make())
    target.mkdir()
    with pytest.raises(InvalidAdapter) as refused:
        unpack(archive, target, LIMITS)
        check_adapter(target, layers=LAYERS, max_rank=MAX_RANK, names=NAMES)
    assert flaw in codes(refused.value)
    assert len(refused.value.message) > 20
    outside = {path for path in tmp_path.rglob("*") if target not in path.parents}
    assert outside == {archive, target}


@pytest.mark.parametrize("name", FOLDERS)
def test_a_bad_folder_is_refused_for_the_same(
    name: str, tmp_path: Path, folders: dict[str, tuple[Flaw, Callable[[], Adapter]]] = FOLDERS
) -> None:
    flaw, make = folders[name]
    target = tmp_path / "target"
    target.mkdir()
    with pytest.raises(InvalidAdapter) as refused:
        take_folder(make().write(tmp_path / "folder"), target, LIMITS)
        check_adapter(target, layers=LAYERS, max_rank=MAX_RANK, names=NAMES)
    assert flaw in codes(refused.value)


def test_the_corpus_has_every_flaw_there_is() -> None:
    corpus = all_archives()
    assert len(corpus) >= 100
    assert {flaw for flaw, _ in corpus.values()} == set(Flaw)
    assert len(ARCHIVES) + len(FOLDERS) == len(corpus)


def test_a_folder_with_links_or_pipes_in_it_is_not_read(tmp_path: Path) -> None:
    import os

    from tests.support.peft_adapters import good_adapter

    for kind in ("link", "pipe"):
        folder = good_adapter().write(tmp_path / kind)
        weights = folder / "adapter_model.safetensors"
        weights.rename(tmp_path / f"{kind}-weights")
        if kind == "link":
            weights.symlink_to(tmp_path / "link-weights")
        else:
            os.mkfifo(weights)
        target = tmp_path / f"{kind}-target"
        target.mkdir()
        with pytest.raises(InvalidAdapter) as refused:
            take_folder(folder, target, LIMITS)
        assert codes(refused.value) <= {Flaw.LINK, Flaw.SPECIAL_MEMBER}
