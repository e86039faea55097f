"""Files that are either wholly there or not at all, also after a power cut: written aside, fsynced, renamed."""

import errno
import glob
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_ASIDE = re.compile("[0-9a-f]{32}")


def keep_private() -> None:
    """From now on, what this process and its children make is their user's alone: files, folders, sockets."""
    os.umask(0o077)


@contextmanager
def new_directory(target: Path) -> Iterator[Path]:
    """A directory to fill, which becomes `target` when the block ends well and vanishes when it does not.

    An older `target` is replaced; between the two renames there is none, never a half one.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.parent / f".{target.name}.{uuid.uuid4().hex}"
    aside.mkdir()
    try:
        yield aside
        for path in [*aside.rglob("*"), aside]:
            sync(path)
        if target.exists():
            shutil.rmtree(target)
        aside.rename(target)
        sync(target.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def clear_aside(target: Path) -> None:
    """Remove what was written aside for `target` by processes that were killed. Only for who is alone at writing it."""
    for left in target.parent.glob(f".{glob.escape(target.name)}.*"):
        if _ASIDE.fullmatch(left.name.rpartition(".")[2]):
            shutil.rmtree(left, ignore_errors=True)


def write_text(target: Path, text: str) -> None:
    """Write a small file."""
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.parent / f".{target.name}.{uuid.uuid4().hex}"
    aside.write_text(text)
    sync(aside)
    aside.replace(target)
    sync(target.parent)


def move(source: Path, target: Path) -> None:
    """Give a whole file its final name; copied where that is on another file system."""
    sync(source)
    try:
        source.replace(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        aside = target.parent / f".{target.name}.{uuid.uuid4().hex}"
        shutil.copyfile(source, aside)
        sync(aside)
        aside.replace(target)
    sync(target.parent)


def link(source: Path, target: Path) -> None:
    """Give a file a second name, or a copy where there are no hard links between the two."""
    try:
        target.hardlink_to(source)
    except FileNotFoundError:
        raise
    except OSError:
        shutil.copyfile(source, target)


def rename(aside: Path, target: Path) -> None:
    """Give it its name, or remove it if somebody was faster with the same."""
    try:
        aside.rename(target)
    except OSError:
        if not target.exists():
            raise
        remove(aside)


def remove(path: Path) -> None:
    """Remove a file or a directory, if it is there."""
    shutil.rmtree(path, ignore_errors=True)
    with suppress(OSError):
        path.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Flush one file, or the names in one directory, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
