"""What an engine is about to read is looked at first, and not again for as long as this process remembers it.

Files that have gone bad on the disk, a version that was trained for an engine with larger ranks, a base model that was
exchanged: an engine would refuse some of it, die of some, and pass over the rest.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock

from adapters.artifacts import digest_directory
from adapters.errors import ArtifactCorrupt, InvalidAdapter, NotServable
from adapters.layers import LinearLayers
from adapters.peft.check import check_adapter
from adapters.traces import current
from adapters.weights import Weights

log = logging.getLogger(__name__)

#: Of so many it is known that they are fit, the last ones that were asked for: 2 MB. To look again costs a reading.
_MOST_KNOWN = 10_000


class Inspector:
    """Hands out the directories of versions and checkpoints that are fit to be loaded. Sync: it reads every byte."""

    def __init__(
        self,
        directory_of: Callable[[Weights], Path],
        layers_of: Callable[[str], LinearLayers | None],
        *,
        max_rank: int,
        most_known: int = _MOST_KNOWN,
    ) -> None:
        self._directory_of = directory_of
        self._layers_of = layers_of
        self._max_rank = max_rank
        self._most_known = most_known
        #: By digest whose they are, the one that was asked for last at the end; what has a digest never changes.
        self._passed: OrderedDict[str, str] = OrderedDict()
        self._lock = Lock()

    def directory(self, weights: Weights) -> Path:
        """A local directory with its PEFT files.

        Raises:
            ArtifactCorrupt: the files are gone, or are not what they were.
            NotServable: the engine could not serve them.
        """
        with current().begin("graft.adapter.fetch"):
            directory = self._directory_of(weights)
        if not self._knows(weights.digest):
            with current().begin("graft.adapter.inspect"):
                self._inspect(weights, directory)
            self._remember(weights)
        return directory

    def forget(self, adapter: str) -> None:
        """Once it is deleted: nobody will ask for it again."""
        with self._lock:
            for digest in [digest for digest, whose in self._passed.items() if whose == adapter]:
                del self._passed[digest]

    def _knows(self, digest: str) -> bool:
        with self._lock:
            if digest not in self._passed:
                return False
            self._passed.move_to_end(digest)
            return True

    def _remember(self, weights: Weights) -> None:
        with self._lock:
            self._passed[weights.digest] = weights.adapter
            if len(self._passed) > self._most_known:
                self._passed.popitem(last=False)

    def _inspect(self, weights: Weights, directory: Path) -> None:
        layers = self._layers_of(weights.base_model)
        # Both read every byte, and leave the interpreter to others meanwhile.
        with ThreadPoolExecutor(1, "check") as aside:
            checked = aside.submit(check_adapter, directory, layers=layers, max_rank=self._max_rank)
            digest = digest_directory(directory)
        if digest != weights.digest:
            raise ArtifactCorrupt(
                f"The files of {weights.name} are not what they were. Restore versions/{weights.digest}."
            )
        try:
            checked.result()
        except InvalidAdapter as error:
            log.warning("%s is not loaded: %s", weights.name, error)
            raise NotServable(
                f"{weights.name} cannot be served: {error.message}", param="model"
            ) from error
