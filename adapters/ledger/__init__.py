"""The ledger: database and artifact store together, one method for each thing that happens.

Each method is one transaction. What a caller is told is durable by then.
"""

import time
from dataclasses import dataclass, replace
from pathlib import Path

from adapters.artifacts import Artifacts, LocalArtifacts
from adapters.clock import Clock
from adapters.db.connect import Database
from adapters.db.migrate import migrate
from adapters.ledger.checkpoints import CheckpointShelf
from adapters.ledger.files import FileShelf
from adapters.ledger.jobs import JobQueue
from adapters.ledger.keys import KeyCabinet
from adapters.ledger.registry import Registry
from adapters.ledger.uploads import UploadDesk
from adapters.ledger.webhooks import Webhooks
from adapters.names import is_checkpoint
from adapters.parts import LocalParts
from adapters.settings import LedgerSettings

__all__ = [
    "CheckpointShelf",
    "FileShelf",
    "JobQueue",
    "KeyCabinet",
    "Ledger",
    "Registry",
    "UploadDesk",
    "Webhooks",
    "open_ledger",
]


@dataclass(frozen=True, slots=True)
class Ledger:
    """Everything that outlives a process."""

    files: FileShelf
    uploads: UploadDesk
    jobs: JobQueue
    registry: Registry
    checkpoints: CheckpointShelf
    webhooks: Webhooks
    keys: KeyCabinet
    _drawer: "_Drawer"

    def of(self, tenant: str) -> "Ledger":
        """The same, with what is one tenant's only: of what is another's, it behaves as if it were not there.

        It is closed with the one that it was taken from.
        """
        return _arranged(replace(self._drawer, database=self._drawer.database.of(tenant)))

    def weights(self, name: str) -> Path:
        """A local directory with the PEFT files of `adapter@N` or of a checkpoint. Raises AdapterNotFound."""
        if is_checkpoint(name):
            return self.registry.directory(self.checkpoints.find(name, also_deleted=True))
        return self.registry.directory(self.registry.version(name))

    def close(self) -> None:
        """Close the database connections."""
        self._drawer.database.close()


@dataclass(frozen=True, slots=True)
class _Drawer:
    """What the parts of a ledger have in common."""

    database: Database
    artifacts: Artifacts
    parts: LocalParts
    clock: Clock


def open_ledger(settings: LedgerSettings, *, clock: Clock = time.time) -> Ledger:
    """Open, and where needed create or upgrade, the ledger that the settings name."""
    database = Database(settings.database)
    migrate(database)
    artifacts = LocalArtifacts(settings.artifacts_dir)
    return _arranged(_Drawer(database, artifacts, LocalParts(settings.parts_dir), clock))


def _arranged(drawer: _Drawer) -> Ledger:
    database, artifacts, clock = drawer.database, drawer.artifacts, drawer.clock
    return Ledger(
        files=FileShelf(database, artifacts, clock),
        uploads=UploadDesk(database, artifacts, drawer.parts, clock),
        jobs=JobQueue(database, clock),
        registry=Registry(database, artifacts, clock),
        checkpoints=CheckpointShelf(database, artifacts, clock),
        webhooks=Webhooks(database, clock),
        keys=KeyCabinet(database, clock),
        _drawer=drawer,
    )
