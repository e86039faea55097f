"""API keys: made, looked up by their digests, revoked."""

from collections.abc import Sequence

from adapters.clock import Clock
from adapters.db import keys as rows
from adapters.db.connect import Conflict, Database
from adapters.keys import Key, MadeKey, NewKey, digest_of, hint_of, new_secret
from adapters.names import new_id

#: A use is written down once in this time, so that requests do not write.
NOTED_EVERY_S = 600.0


class KeyCabinet:
    """Everybody's keys."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._db, self._clock = database, clock

    def make(self, new: NewKey) -> MadeKey:
        """Make a key, and its tenant if there is none of that name. Nothing has the secret afterwards."""
        secret, now = new_secret(), self._clock()
        key = Key(
            id=new_id("key_"),
            tenant=new.tenant,
            name=new.name,
            digest=digest_of(secret),
            hint=hint_of(secret),
            scopes=new.scopes,
            created_at=now,
            expires_at=None if new.lifetime is None else now + new.lifetime,
            last_used_at=None,
            revoked_at=None,
        )
        try:
            self._add(key)
        except Conflict:  # somebody else has made the tenant in this moment
            self._add(key)
        return MadeKey(key=key, secret=secret)

    def find(self, digest: str) -> Key | None:
        """The key of that digest, good or not; that a good one is used is written down now and then."""
        with self._db.read() as tx:
            key, now = rows.find_key(tx, digest), self._clock()
        if key is not None and key.good(now) and now - (key.last_used_at or 0.0) >= NOTED_EVERY_S:
            with self._db.write() as tx:
                rows.note_use(tx, key.id, now)
        return key

    def get(self, key_id: str) -> Key:
        """Raises KeyNotFound."""
        with self._db.read() as tx:
            return rows.get_key(tx, key_id)

    def list(
        self, *, tenant: str | None = None, after: str | None = None, limit: int = 100
    ) -> Sequence[Key]:
        """Newest first, of one tenant or of all, revoked ones too. Raises KeyNotFound for an unknown `after`."""
        with self._db.read() as tx:
            return rows.list_keys(tx, tenant=tenant, after=after, limit=limit)

    def revoke(self, key_id: str) -> Key:
        """Make a key good for nothing; again, it answers the same. Raises KeyNotFound."""
        with self._db.write() as tx:
            return rows.revoke_key(tx, key_id, self._clock())

    def _add(self, key: Key) -> None:
        with self._db.write() as tx:
            rows.add_tenant(tx, key.tenant, key.created_at)
            rows.add_key(tx, key)
