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
from adapters.ledger.aliases import Aliases
from adapters.ledger.checkpoints import CheckpointShelf
from adapters.ledger.files import FileShelf
from adapters.ledger.jobs import JobQueue
from adapters.ledger.registry import Registry
from adapters.ledger.uploads import UploadDesk
from adapters.ledger.webhooks import Webhooks
from adapters.names import is_checkpoint
from adapters.parts import LocalParts
from adapters.settings import LedgerSettings

__all__ = [
    "Aliases",
    "CheckpointShelf",
    "FileShelf",
    "JobQueue",
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
    aliases: Aliases
    checkpoints: CheckpointShelf
    webhooks: Webhooks
    _database: Database

    def weights(self, name: str) -> Path:
        """A local directory with the PEFT files of `adapter@N` or of a checkpoint. Raises AdapterNotFound."""
        if is_checkpoint(name):
            return self.registry.directory(self.checkpoints.find(name, also_deleted=True))
        return self.registry.directory(self.registry.version(name))

    def close(self) -> None:
        """Close the database connections."""
        self._database.close()


def open_ledger(settings: LedgerSettings, *, clock: Clock = time.time) -> Ledger:
    """Open, and where needed create or upgrade, the ledger that the settings name."""
    database = Database(settings.database)
    migrate(database)
    artifacts = LocalArtifacts(settings.artifacts_dir)
    return Ledger(
        files=FileShelf(database, artifacts, clock),
        uploads=UploadDesk(database, artifacts, LocalParts(settings.parts_dir), clock),
        jobs=JobQueue(database, clock),
        registry=Registry(database, artifacts, clock),
        aliases=Aliases(database),
        checkpoints=CheckpointShelf(database, artifacts, clock),
        webhooks=Webhooks(database, clock),
        _database=database,
    )
