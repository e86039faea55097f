"""Directories in a bucket: their files under a key, and an index beside it, which is written last and removed first."""

from pathlib import Path

from adapters.artifacts import read_index
from adapters.bucket.client import Bucket

INDEX = ".index"


def put_directory(bucket: Bucket, key: str, source: Path, index: bytes) -> None:
    """Store the files of a directory, then its index (`index_of`). Raises StoreUnavailable."""
    for entry in read_index(index):
        bucket.put(f"{key}/{entry.name}", source / entry.name)
    bucket.put(key + INDEX, index)


def fetch_directory(bucket: Bucket, key: str, target: Path, digest: str) -> None:
    """Make `target` the directory of that digest. Raises Absent, ArtifactCorrupt, StoreUnavailable."""
    index = bucket.proven(key + INDEX, digest)
    target.mkdir(exist_ok=True)
    for entry in read_index(index):
        bucket.fetch(
            f"{key}/{entry.name}", target / entry.name, size=entry.bytes, digest=entry.sha256
        )


def delete_directory(bucket: Bucket, key: str) -> None:
    """Remove it, what was never completed included."""
    keys = [entry.key for entry in bucket.entries(f"{key}/")]
    bucket.delete([key + INDEX, *keys])
