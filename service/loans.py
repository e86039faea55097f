"""What engines may read is lent to them: it stays on this machine until its engine holds it no longer.

    <home>/lent/<base model>/<version's name>/<digest>/

An engine outlives the service, and may read an adapter's files anew at any time. So what it was lent lies on the disk
and not in this process, and goes only when an engine says, or has been told, that it no longer holds it.
"""

import shutil
from collections.abc import Callable, Collection
from pathlib import Path

from adapters.weights import Weights


class Loans:
    """Directories of versions and checkpoints, for engines."""

    def __init__(self, lend: Callable[[Weights, Path], Path], root: Path) -> None:
        self._lend, self._root = lend, root

    def directory(self, weights: Weights) -> Path:
        """A local directory with the PEFT files. Raises ArtifactCorrupt, StoreUnavailable."""
        into = self._of(weights.base_model) / _plain(weights.name)
        return self._lend(weights, into)

    def keep_only(self, model_id: str, names: Collection[str]) -> None:
        """The engine of that base model holds these, and may read nothing else."""
        folder = self._of(model_id)
        if not folder.is_dir():
            return
        kept = {_plain(name) for name in names}
        for path in folder.iterdir():
            if path.name not in kept:
                shutil.rmtree(path, ignore_errors=True)

    def _of(self, model_id: str) -> Path:
        return self._root / _plain(model_id)


def _plain(name: str) -> str:
    """As a folder's name."""
    return name.replace("/", "--")
