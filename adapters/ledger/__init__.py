"""The ledger: database and artifact store together, one method for each thing that happens.

Each method is one transaction. What a caller is told is durable by then.
"""

import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from adapters.artifacts import Artifacts, LocalArtifacts
from adapters.bucket.artifacts import BucketArtifacts
from adapters.bucket.cache import Cache
from adapters.bucket.client import Bucket
from adapters.bucket.parts import BucketParts
from adapters.bucket.states import BucketStates
from adapters.bucket.watch import Watch
from adapters.clock import Clock
from adapters.db.bells import Bells
from adapters.db.connect import Database
from adapters.db.migrate import migrate
from adapters.db.notices import BEHIND_S, Changes, Topic, changes_of
from adapters.ledger.aliases import Aliases
from adapters.ledger.board import QueueBoard
from adapters.ledger.checkpoints import CheckpointShelf
from adapters.ledger.files import FileShelf
from adapters.ledger.jobs import JobQueue
from adapters.ledger.keys import KeyCabinet
from adapters.ledger.registry import Registry
from adapters.ledger.sharing import Sharing
from adapters.ledger.storage import Storage
from adapters.ledger.sweeping import Sweeper
from adapters.ledger.uploads import UploadDesk
from adapters.ledger.verdicts import Verdicts
from adapters.ledger.webhooks import Webhooks
from adapters.names import is_checkpoint
from adapters.parts import LocalParts, Parts
from adapters.settings import LedgerSettings, QueueSettings, QuotaSettings
from adapters.weights import Weights

__all__ = [
    "BEHIND_S",
    "Aliases",
    "Changes",
    "CheckpointShelf",
    "FileShelf",
    "JobQueue",
    "KeyCabinet",
    "Ledger",
    "QueueBoard",
    "Registry",
    "Sharing",
    "Storage",
    "Topic",
    "UploadDesk",
    "Verdicts",
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
    sharing: Sharing
    storage: Storage
    checkpoints: CheckpointShelf
    verdicts: Verdicts
    webhooks: Webhooks
    queue: QueueBoard
    keys: KeyCabinet
    sweeper: Sweeper
    #: Where checkpoints of running jobs wait for another machine; None where there is only this one.
    states: BucketStates | None
    changes: Changes
    _drawer: "_Drawer"

    def of(self, tenant: str) -> "Ledger":
        """The same, with what is one tenant's only: of what is another's, it behaves as if it were not there.

        It is closed with the one that it was taken from.
        """
        return _arranged(replace(self._drawer, database=self._drawer.database.of(tenant)))

    def weights(self, name: str) -> Path:
        """A local directory with the PEFT files of `adapter@N` or of a checkpoint. Raises AdapterNotFound."""
        return self.registry.directory(self._named(name))

    def lend(self, name: str, into: Path) -> Path:
        """The same, and it stays until the caller removes the folder `into`, in which it may lie."""
        return self.registry.lend(self._named(name), into)

    def _named(self, name: str) -> Weights:
        if is_checkpoint(name):
            return self.checkpoints.find(name, also_deleted=True)
        return self.registry.version(name)

    def close(self) -> None:
        """Close the database connections."""
        self.changes.close()
        self._drawer.database.close()


@dataclass(frozen=True, slots=True)
class Store:
    """Where bytes are kept."""

    artifacts: Artifacts
    parts: Parts
    states: BucketStates | None


@dataclass(frozen=True, slots=True)
class _Drawer:
    """What the parts of a ledger have in common."""

    database: Database
    store: Store
    changes: Changes
    clock: Clock
    rules: QueueSettings
    quotas: QuotaSettings


def open_ledger(
    settings: LedgerSettings,
    *,
    queue: QueueSettings | None = None,
    quotas: QuotaSettings | None = None,
    clock: Clock = time.time,
    watch: Watch | None = None,
) -> Ledger:
    """Open, and where needed create or upgrade, the ledger that the settings name.

    `queue`: whose turn it is. `quotas`: how much a tenant may take, in its own view of the ledger. `watch`: who
    looks on while the bucket is asked.
    """
    with ExitStack() as undo:
        bells = Bells(settings.run_dir / "bells")
        database = Database(
            settings.database,
            connections=settings.database_connections,
            committed=bells.ring,
        )
        undo.callback(database.close)
        migrate(database)
        ledger = _arranged(
            _Drawer(
                database=database,
                store=_open_store(settings, watch),
                changes=changes_of(database.engine, bells),
                clock=clock,
                rules=queue or QueueSettings(),
                quotas=quotas or QuotaSettings(),
            )
        )
        undo.pop_all()
    return ledger


def _open_store(settings: LedgerSettings, watch: Watch | None) -> Store:
    if settings.store is None:
        return Store(LocalArtifacts(settings.artifacts_dir), LocalParts(settings.parts_dir), None)
    bucket = Bucket(settings.store, watch=watch)
    cache = Cache(settings.cache_dir, most_bytes=settings.store_cache_bytes)
    return Store(
        BucketArtifacts(bucket, cache),
        BucketParts(bucket, settings.cache_dir / "staging"),
        BucketStates(bucket),
    )


def _arranged(drawer: _Drawer) -> Ledger:
    database, clock, store = drawer.database, drawer.clock, drawer.store
    artifacts = store.artifacts
    tenant, rules, most = database.tenant, drawer.rules, None
    if tenant is not None:
        rules = drawer.quotas.rules_of(tenant, rules)
        most = drawer.quotas.of(tenant).stored_bytes
    return Ledger(
        files=FileShelf(database, artifacts, clock, most_bytes=most),
        uploads=UploadDesk(database, artifacts, store.parts, clock, most_bytes=most),
        jobs=JobQueue(database, clock, rules),
        registry=Registry(database, artifacts, clock, rules, most_bytes=most),
        aliases=Aliases(database),
        sharing=Sharing(database, clock),
        checkpoints=CheckpointShelf(database, artifacts, clock),
        verdicts=Verdicts(database, clock),
        webhooks=Webhooks(database, clock),
        queue=QueueBoard(database, clock, rules),
        storage=Storage(database, artifacts, clock, most),
        keys=KeyCabinet(database, clock),
        sweeper=Sweeper(database, artifacts, store.states),
        states=store.states,
        changes=drawer.changes,
        _drawer=drawer,
    )
