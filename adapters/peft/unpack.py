"""From an archive or a folder to the two files that make an adapter, alone in a directory of ours.

Where graft has made it, its manifest comes along, as a third.
"""

import os
import shutil
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from adapters.manifest import MANIFEST_FILE
from adapters.peft.flaws import Flaw, refusal
from adapters.peft.tar import Limits, Member, TarReader

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
#: Larger than any that PEFT writes.
LONGEST_CONFIG = 1 << 20
_PICKLES = frozenset({"adapter_model.bin", "adapter_model.pt", "adapter_model.pth"})
_OF_AN_ADAPTER = frozenset({CONFIG, WEIGHTS, MANIFEST_FILE}) | _PICKLES


@dataclass(frozen=True, slots=True)
class _Found:
    """A file of an adapter somewhere in the archive; those that are never read have no copy."""

    folder: tuple[str, ...]
    name: str
    copy: Path | None


def unpack(archive: Path, target: Path, limits: Limits) -> None:
    """Fill the empty directory `target` with the adapter of a tar. Everything else in the archive is left unread.

    The adapter may lie in a folder, and may have checkpoints in folders of its own beside it, as trainers leave them.

    Raises:
        InvalidAdapter: see `TarReader`; or there is no adapter, or several, or one in a format that can run code.
    """
    aside = target / "members"
    aside.mkdir()
    found = []
    with archive.open("rb") as file:
        reader = TarReader(file, limits)
        for number, member in enumerate(reader.files()):
            if member.path[-1] in _OF_AN_ADAPTER:
                found.append(_keep(reader, member, aside / str(number)))
    for one in _chosen(found):
        if one.copy is not None:
            one.copy.rename(target / one.name)
    shutil.rmtree(aside)


def take_folder(source: Path, target: Path, limits: Limits) -> None:
    """Fill the empty directory `target` with the adapter that lies in a folder of this machine.

    Raises:
        InvalidAdapter: a file is missing, is no plain file, or is too large; or it is in a format that can run code.
    """
    names = _OF_AN_ADAPTER & {path.name for path in source.iterdir()}
    _chosen([_Found((), name, None) for name in sorted(names)])
    left = limits.bytes
    for name in sorted(names):
        left -= _copy(source / name, target / name, left)
        _expect_size(name, (target / name).stat().st_size)


def _keep(reader: TarReader, member: Member, target: Path) -> _Found:
    folder, name = member.path[:-1], member.path[-1]
    if name in _PICKLES:
        return _Found(folder, name, None)
    _expect_size(name, member.size)
    with target.open("xb") as file:
        reader.copy(file)
    return _Found(folder, name, target)


def _chosen(found: list[_Found]) -> list[_Found]:
    """The files of the adapter that is meant: the one that is nearest to the top."""
    own = [one for one in found if one.name != MANIFEST_FILE]
    depth = min((len(one.folder) for one in own), default=0)
    top = [one for one in own if len(one.folder) == depth]
    folders = {one.folder for one in top}
    if len(folders) > 1:
        names = ", ".join(sorted("/".join(folder) for folder in folders))
        raise refusal(
            Flaw.SEVERAL_ADAPTERS, f"There are several adapters: {names:.300}. Send one at a time."
        )
    names_there = {one.name for one in top}
    if names_there & _PICKLES:
        raise refusal(
            Flaw.PICKLE,
            f"{min(names_there & _PICKLES)} is a pickle, which runs code when it is read. Save the adapter as "
            "safetensors: model.save_pretrained(folder, safe_serialization=True)",
        )
    for name in (CONFIG, WEIGHTS):
        if name not in names_there:
            raise refusal(
                Flaw.MISSING_FILE,
                f"There is no {name}. An adapter is a folder with {CONFIG} and {WEIGHTS}, as PEFT's save_pretrained "
                "writes it.",
            )
    return top + [one for one in found if one.name == MANIFEST_FILE and one.folder in folders]


def _copy(source: Path, target: Path, limit: int) -> int:
    """Copy a plain file; links are not followed. Returns its size."""
    try:
        # Not blocking: a pipe would wait for ever for somebody to write.
        descriptor = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise refusal(Flaw.LINK, f"{source.name} cannot be read: {error.strerror}.") from error
    with os.fdopen(descriptor, "rb") as file, target.open("xb") as copy:
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode):
            raise refusal(Flaw.SPECIAL_MEMBER, f"{source.name} is not a plain file.")
        if about.st_size > limit:
            raise refusal(Flaw.TOO_LARGE, f"The adapter is larger than {limit:,} bytes.")
        with suppress(BlockingIOError):
            shutil.copyfileobj(file, copy, 1 << 20)
        return copy.tell()


def _expect_size(name: str, size: int) -> None:
    if name != WEIGHTS and size > LONGEST_CONFIG:
        raise refusal(Flaw.TOO_LARGE, f"{name} is larger than {LONGEST_CONFIG:,} bytes.")
