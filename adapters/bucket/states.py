"""What a job needs to go on, in a bucket, so that another machine can take it up.

states/<job id>/step-00000012-<digest>/…    states/<job id>/step-00000012-<digest>.index
"""

from hashlib import sha256
from pathlib import Path

from adapters.artifacts import index_of
from adapters.bucket.client import Absent, Bucket
from adapters.bucket.directories import INDEX, delete_directory, fetch_directory, put_directory
from adapters.durable import new_directory

#: Of each job: the newest, and one before it, for whoever is just reading that.
KEPT = 2


class BucketStates:
    """Checkpoints of running jobs. Their names sort as they follow each other."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket

    def put(self, job_id: str, directory: Path) -> None:
        """Keep a checkpoint; older ones go. Raises StoreUnavailable, and OSError where its files vanish meanwhile."""
        index = index_of(directory)
        name = f"{directory.name}-{sha256(index).hexdigest()}"
        put_directory(self._bucket, f"states/{job_id}/{name}", directory, index)
        for old in self._names(job_id)[:-KEPT]:
            delete_directory(self._bucket, f"states/{job_id}/{old}")

    def fetch(self, job_id: str, into: Path, *, beyond: str) -> str | None:
        """Bring the newest checkpoint into a folder if its name comes after `beyond`. Returns its name, or None.

        Raises:
            ArtifactCorrupt: it is not what was stored.
            StoreUnavailable: nobody knows whether there is one.
        """
        for full in reversed(self._names(job_id)):
            name, _, digest = full.rpartition("-")
            if name <= beyond:
                return None
            try:
                with new_directory(into / name) as aside:
                    fetch_directory(self._bucket, f"states/{job_id}/{full}", aside, digest)
            except Absent:
                continue  # a newer one has been stored meanwhile, by an attempt that does not know of its end yet
            return name
        return None

    def delete(self, job_id: str) -> None:
        """Forget all of a job's. What cannot be removed now is left to a sweep. Raises StoreUnavailable."""
        self._bucket.delete([entry.key for entry in self._bucket.entries(f"states/{job_id}/")])

    def jobs(self) -> set[str]:
        """The jobs of which there are any."""
        return {entry.key.split("/")[1] for entry in self._bucket.entries("states/")}

    def _names(self, job_id: str) -> list[str]:
        """Of those that are whole, oldest first."""
        prefix = f"states/{job_id}/"
        keys = (entry.key for entry in self._bucket.entries(prefix))
        return sorted(
            key.removeprefix(prefix).removesuffix(INDEX) for key in keys if key.endswith(INDEX)
        )
