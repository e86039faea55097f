"""Adapters, versions, aliases, and the one transaction that publishes a version and settles its job."""

from collections.abc import Sequence
from pathlib import Path

from adapters.artifacts import Artifacts, size_of
from adapters.clock import Clock
from adapters.db import (
    checkpoints,
    events as event_rows,
    jobs as job_rows,
    owners,
    registry,
    storage,
    use,
)
from adapters.db.connect import Conflict, Database
from adapters.db.revision import current_revision, hold_revision
from adapters.db.tenancy import owner
from adapters.errors import AdapterNotFound, InvalidRequest, OverQuota
from adapters.ledger.checkpoints import KEPT, created, new_checkpoint
from adapters.manifest import Manifest
from adapters.names import LIVE, parse_fine_tuned_name, parse_model_name
from adapters.records import (
    Adapter,
    EventKind,
    Job,
    JobNote,
    NewEvent,
    Version,
)
from adapters.settings import QueueSettings
from adapters.sharing import Use
from adapters.weights import Weights

#: No write into the artifact store takes this long; what is older was left by a process that was killed.
_ABANDONED_S = 24 * 3600.0


class Registry:
    """Adapters, versions, aliases."""

    def __init__(
        self,
        database: Database,
        artifacts: Artifacts,
        clock: Clock,
        rules: QueueSettings,
        *,
        most_bytes: int | None = None,
    ) -> None:
        self._db, self._artifacts, self._clock = database, artifacts, clock
        #: What a tenant may keep in all. Looked at where something is brought; what was trained is kept in any case.
        self._most_bytes = most_bytes
        self._half_life = rules.half_life_seconds

    def publish(
        self,
        job: Job,
        source: Path,
        manifest: Manifest,
        *,
        promote: bool,
        note: JobNote | None = None,
    ) -> Version:
        """Make a trained directory the adapter's next version and settle the job: both or neither.

        `note` is what there was still to say of the job; it is written in the same transaction.

        The bytes are in the store before the transaction begins, so a crash leaves at most bytes that nobody names.

        Raises:
            LeaseLost: the job was cancelled, or belongs to a later attempt. Nothing was published.
        """
        digest = self._artifacts.put_version(source)
        with self._db.write() as tx:
            now = self._clock()
            use.charge_jobs(tx, [job.id], now=now, half_life=self._half_life)
            job_rows.hold_job(tx, job.id, job.attempt)
            if note is not None:
                job_rows.take_note(tx, note, now)
            version = registry.add_version(
                tx, job.adapter, manifest, digest, now, tenant=job.tenant
            )
            storage.note_size(tx, digest, size_of(source))
            if promote:
                registry.set_alias(tx, job.adapter, LIVE, version.number)
            job_rows.settle_job(
                tx,
                job.id,
                job.attempt,
                model=version.name,
                trained_tokens=manifest.trained.trained_tokens,
                now=now,
            )
            told = _published(version, promote=promote)
            if manifest.trained.best_step == manifest.trained.steps:
                # The last checkpoint has the same weights: it is the same files.
                last = new_checkpoint(job, manifest, digest, now)
                if checkpoints.add_checkpoint(tx, last):
                    checkpoints.prune_checkpoints(tx, job.id, kept=KEPT, now=now)
                    told = [created(last), *told]
            event_rows.append_events(tx, job.id, told, now)
        return version

    def bring_in(
        self, name: str, source: Path, manifest: Manifest, *, promote: bool
    ) -> tuple[Version, bool]:
        """Make a directory from elsewhere the adapter's next version; with it, whether it is new.

        The same files under the same name again are the version that they have made, as it stands: brought twice is
        brought once.

        Raises:
            AdapterNameConflict: the name is another tenant's.
            InvalidRequest: the adapter belongs to another base model.
            OverQuota: the tenant may not keep so much.
        """
        digest, size = self._artifacts.put_version(source), size_of(source)
        try:
            version = self._take_in(name, manifest, (digest, size), promote=promote)
        except (InvalidRequest, OverQuota):
            self._artifacts.delete_version(digest)
            raise
        new = version.digest == digest
        if not new:
            # No version names it, and none will: the digest is this import's own.
            self._artifacts.delete_version(digest)
        return version, new

    def _take_in(
        self, name: str, manifest: Manifest, stored: tuple[str, int], *, promote: bool
    ) -> Version:
        try:
            return self._add_import(name, manifest, stored, promote=promote)
        except Conflict:
            # A job has claimed the name in the same moment: its claim is there to be found now.
            return self._add_import(name, manifest, stored, promote=promote)

    def _add_import(
        self, name: str, manifest: Manifest, stored: tuple[str, int], *, promote: bool
    ) -> Version:
        digest, size = stored
        assert manifest.imported is not None, "publish takes what a job has made"
        base = manifest.base.id
        with self._db.write() as tx:
            # Those wait who bring the same at the same time.
            hold_revision(tx)
            same = registry.find_import(tx, name, base, manifest.imported.digest)
            if same is not None:
                return same
            now = self._clock()
            # Before anything else is said of the name: of another tenant's, nobody is told what it belongs to.
            owners.claim_name(tx, name, base, owner(tx), now)
            other = registry.base_model_of(tx, name)
            if other not in {None, base}:
                raise InvalidRequest(
                    f"The adapter '{name}' belongs to the base model '{other}'. Choose another name.",
                    param="name",
                )
            storage.require_room(tx, self._most_bytes, now, more=size)
            version = registry.add_version(tx, name, manifest, digest, now)
            storage.note_size(tx, digest, size)
            if promote:
                registry.set_alias(tx, name, LIVE, version.number)
            return version

    def find_import(self, name: str, base_model: str, digest: str) -> Version | None:
        """One's own living version that files of that digest have made under that name."""
        with self._db.read() as tx:
            return registry.find_import(tx, name, base_model, digest)

    def directory(self, weights: Weights) -> Path:
        """A local directory with the PEFT files of a version or checkpoint."""
        return self._artifacts.version(weights.digest)

    def lend(self, weights: Weights, into: Path) -> Path:
        """The same, and it stays until the caller removes the folder `into`, in which it may lie."""
        return self._artifacts.lend_version(weights.digest, into)

    def version(self, name: str) -> Version:
        """The living version of that name, `adapter@N`. Raises AdapterNotFound."""
        parsed = parse_model_name(name)
        version = self.get(parsed.adapter).version(parsed.number)
        if version is None:
            raise AdapterNotFound(f"There is no version {name}.", param="name")
        return version

    def get(self, name: str, use: Use = Use.CHANGE) -> Adapter:
        """One's own, or what others share for such a use. Raises AdapterNotFound, AdapterReadOnly."""
        with self._db.read() as tx:
            return registry.get_adapter(tx, name, use)

    def resolve(self, name: str, use: Use = Use.CHANGE) -> Version:
        """The version that `support-bot`, `support-bot@3`, `support-bot@live` or an `ft:` name means at this moment.

        Raises:
            AdapterNotFound: it means none, or one that has been deleted.
            AdapterReadOnly: it is shared, and not for that use.
        """
        asked, made = parse_model_name(name), parse_fine_tuned_name(name)
        if (
            not name.isascii()
        ):  # no adapter is called so, and half a surrogate pair cannot even be asked for
            raise AdapterNotFound(f"No adapter is called {name!r:.80}.", param="name")
        with self._db.read() as tx:
            meant = made.adapter if made else asked.adapter
            adapter = registry.get_adapter(tx, meant, use)
        version = adapter.made(made) if made else adapter.select(asked.selector)
        if version is None:
            known = ", ".join(one.name for one in adapter.versions) or "none"
            what = f"'{name}'" if made or asked.selector else "live version"
            raise AdapterNotFound(
                f"The adapter '{adapter.name}' has no {what}. Its versions: {known}.", param="name"
            )
        return version

    def list(self) -> Sequence[Adapter]:
        """All adapters, by name."""
        with self._db.read() as tx:
            return registry.list_adapters(tx)

    def changes(self, *, since: int) -> tuple[int, Sequence[Adapter]]:
        """The newest revision, and what changed after `since`. A deleted adapter comes without versions."""
        with self._db.read() as tx:
            revision = current_revision(tx)
            changed = registry.changed_adapters(tx, since=since) if revision > since else []
            return revision, changed

    def delete(self, name: str) -> Adapter:
        """Delete an adapter, with the checkpoints of its jobs. Raises AdapterNotFound."""
        with self._db.write() as tx:
            hold_revision(tx)
            now = self._clock()
            checkpoints.delete_of_adapter(tx, name, now)
            return registry.delete_adapter(tx, name, now)

    def delete_version(self, name: str, number: int) -> Version:
        """Delete one version, with its job's checkpoints. Raises AdapterNotFound, InvalidRequest."""
        with self._db.write() as tx:
            hold_revision(tx)
            now = self._clock()
            version = registry.delete_version(tx, name, number, now)
            checkpoints.delete_of_job(tx, version.job_id, now)
            return version

    def delete_model(self, version: Version) -> None:
        """Delete a version, as OpenAI's clients mean it: whatever else there is of its adapter is no reason against it.

        The only version takes the adapter with it. After the live one, the newest of the others is live, one that may
        be served if there is one.

        Raises:
            AdapterNotFound: it has been deleted meanwhile.
        """
        with self._db.write() as tx:
            hold_revision(tx)
            now, adapter = self._clock(), registry.get_adapter(tx, version.adapter)
            others = [one for one in adapter.versions if one.number != version.number]
            if not others:
                checkpoints.delete_of_adapter(tx, version.adapter, now)
                registry.delete_adapter(tx, version.adapter, now)
                return
            for alias, number in adapter.aliases.items():
                if number == version.number and alias != LIVE:
                    registry.remove_alias(tx, version.adapter, alias)
            if adapter.aliases.get(LIVE) == version.number:
                registry.set_alias(tx, version.adapter, LIVE, _newest(others))
            checkpoints.delete_of_job(tx, version.job_id, now)
            registry.delete_version(tx, version.adapter, version.number, now)

    def purge(self, *, older_than: float) -> int:
        """Remove the files of versions that were deleted that many seconds ago; returns how many.

        Also sweeps up what processes left half-written when they were killed.
        """
        self._artifacts.sweep(older_than=_ABANDONED_S)
        now = self._clock()
        with self._db.read() as tx:
            condemned = registry.purgeable_versions(tx, before=now - older_than)
        for version in condemned:
            with self._db.write() as tx:
                unused = registry.mark_purged(tx, version, now)
                if unused:
                    storage.forget_size(tx, version.digest)
            if unused:
                self._artifacts.delete_version(version.digest)
        return len(condemned)


def _newest(versions: Sequence[Version]) -> int:
    """The number of the newest version that may be served; if none may, of the newest."""
    sound = [version.number for version in versions if version.quarantined is None]
    return max(sound or [version.number for version in versions])


def _published(version: Version, *, promote: bool) -> list[NewEvent]:
    data = {"kind": "published", "version": version.name, "live": promote}
    told = [
        NewEvent(
            kind=EventKind.MESSAGE,
            message=f"New fine-tuned model created: {version.fine_tuned_name or version.name}",
            data=data,
        )
    ]
    if not promote:
        told.append(
            NewEvent(
                kind=EventKind.MESSAGE,
                level="warn",
                message=f"{version.name} does not beat the base model on held-out rows, so "
                f"'{version.adapter}' does not mean it yet. Use '{version.name}', or promote it.",
            )
        )
    told.append(NewEvent(kind=EventKind.STATUS, message="The job has successfully completed"))
    return told
