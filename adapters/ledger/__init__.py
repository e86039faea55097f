"""The ledger: database and artifact store together, one method for each thing that happens.

Each method is one transaction. What a caller is told is durable by then.
"""

import time
from dataclasses import dataclass
from pathlib import Path

from adapters.artifacts import LocalArtifacts
from adapters.clock import Clock
from adapters.db.connect import Database
from adapters.db.migrate import migrate
from adapters.ledger.board import QueueBoard
from adapters.ledger.checkpoints import CheckpointShelf
from adapters.ledger.files import FileShelf
from adapters.ledger.jobs import JobQueue
from adapters.ledger.registry import Registry
from adapters.ledger.uploads import UploadDesk
from adapters.ledger.webhooks import Webhooks
from adapters.names import is_checkpoint
from adapters.parts import LocalParts
from adapters.settings import LedgerSettings, QueueSettings

__all__ = [
    "CheckpointShelf",
    "FileShelf",
    "JobQueue",
    "Ledger",
    "QueueBoard",
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
    queue: QueueBoard
    _database: Database

    def weights(self, name: str) -> Path:
        """A local directory with the PEFT files of `adapter@N` or of a checkpoint. Raises AdapterNotFound."""
        if is_checkpoint(name):
            return self.registry.directory(self.checkpoints.find(name, also_deleted=True))
        return self.registry.directory(self.registry.version(name))

    def close(self) -> None:
        """Close the database connections."""
        self._database.close()


def open_ledger(
    settings: LedgerSettings, *, queue: QueueSettings | None = None, clock: Clock = time.time
) -> Ledger:
    """Open, and where needed create or upgrade, the ledger that the settings name. `queue`: whose turn it is."""
    rules = queue or QueueSettings()
    database = Database(settings.database)
    migrate(database)
    artifacts = LocalArtifacts(settings.artifacts_dir)
    return Ledger(
        files=FileShelf(database, artifacts, clock),
        uploads=UploadDesk(database, artifacts, LocalParts(settings.parts_dir), clock),
        jobs=JobQueue(database, clock, rules),
        registry=Registry(database, artifacts, clock, rules),
        checkpoints=CheckpointShelf(database, artifacts, clock),
        webhooks=Webhooks(database, clock),
        queue=QueueBoard(database, clock, rules),
        _database=database,
    )
