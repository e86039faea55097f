"""Everything that an engine would refuse, die of, or pass over without a word is found by looking at the files."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from adapters.errors import InvalidAdapter
from adapters.peft.check import BaseNames, check_adapter
from adapters.peft.flaws import Flaw
from adapters.peft.origin import take_origin
from adapters.peft.tar import Limits
from adapters.peft.unpack import take_folder, unpack
from tests.support.bad_adapters import ARCHIVES, FOLDERS, MAX_BYTES, MAX_RANK, WORDS, all_archives
from tests.support.peft_adapters import LAYERS, good_adapter
from tests.support.samples import card

NAMES = BaseNames(("tiny-base", "/nowhere"))
LIMITS = Limits(MAX_BYTES)


def look(fetch: Callable[..., None], source: Path, target: Path) -> dict[Flaw, str]:
    """What is found wrong with an adapter on the way that an import takes, in a word and in a sentence."""
    target.mkdir()
    try:
        fetch(source, target, LIMITS)
        check_adapter(target, layers=LAYERS, max_rank=MAX_RANK, names=NAMES)
        take_origin(target, card(), vouched=None)
    except InvalidAdapter as error:
        return {Flaw(str(one["code"])): str(one["message"]) for one in error.details or []}
    return {}


@pytest.mark.parametrize("name", all_archives())
def test_a_bad_archive_is_refused_for_what_is_wrong_with_it(name: str, tmp_path: Path) -> None:
    flaw, make = all_archives()[name]
    archive, target = tmp_path / "archive", tmp_path / "target"
    archive.write_bytes(make())
    assert WORDS[flaw] in look(unpack, archive, target)[flaw]
    outside = {path for path in tmp_path.rglob("*") if target not in path.parents}
    assert outside == {archive, target}


@pytest.mark.parametrize("name", FOLDERS)
def test_a_bad_folder_is_refused_for_the_same(name: str, tmp_path: Path) -> None:
    flaw, make = FOLDERS[name]
    found = look(take_folder, make().write(tmp_path / "folder"), tmp_path / "target")
    assert WORDS[flaw] in found[flaw]


def test_the_corpus_has_every_flaw_there_is() -> None:
    corpus = all_archives()
    assert len(corpus) >= 100
    assert {flaw for flaw, _ in corpus.values()} == set(Flaw) == WORDS.keys()
    assert len(ARCHIVES) + len(FOLDERS) == len(corpus)


@pytest.mark.parametrize(("kind", "flaw"), [("link", Flaw.LINK), ("pipe", Flaw.SPECIAL_MEMBER)])
def test_a_folder_with_a_link_or_a_pipe_in_it_is_not_read(
    kind: str, flaw: Flaw, tmp_path: Path
) -> None:
    folder = good_adapter().write(tmp_path / "folder")
    weights = folder / "adapter_model.safetensors"
    elsewhere = weights.rename(tmp_path / "elsewhere")
    if kind == "link":
        weights.symlink_to(elsewhere)
    else:
        os.mkfifo(weights)
    assert look(take_folder, folder, tmp_path / "target").keys() == {flaw}
