"""A directory as a tar, streamed: never whole in memory, never a second time on disk."""

import tarfile
from collections.abc import Iterator
from pathlib import Path

_CHUNK = 1 << 20


def tar_stream(directory: Path, prefix: str) -> Iterator[bytes]:
    """The files directly inside `directory`, under `prefix/` (POSIX.1-2001 ustar). Same files, same bytes."""
    for path in sorted(entry for entry in directory.iterdir() if entry.is_file()):
        info = tarfile.TarInfo(f"{prefix}/{path.name}")
        info.size = path.stat().st_size
        info.mode = 0o644
        yield info.tobuf(tarfile.USTAR_FORMAT)
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                yield chunk
        yield b"\0" * (-info.size % tarfile.BLOCKSIZE)
    yield b"\0" * tarfile.BLOCKSIZE * 2
