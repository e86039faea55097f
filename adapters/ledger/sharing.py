"""Adapters that others may use: who, and for what."""

from collections.abc import Sequence
from dataclasses import replace

from adapters.clock import Clock
from adapters.db import registry, shares
from adapters.db.connect import Database
from adapters.db.revision import hold_revision
from adapters.errors import InvalidValue, NotFound
from adapters.records import Adapter
from adapters.sharing import EVERYBODY, Share


class Sharing:
    """What an owner lets others do. Each change is one of the adapter, which all who follow the ledger hear of."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._db, self._clock = database, clock

    def put(self, name: str, share: Share) -> Adapter:
        """Share an adapter with a tenant or with everybody, or otherwise than before.

        Raises:
            AdapterNotFound, AdapterReadOnly
            InvalidValue: the tenant is its owner.
        """
        with self._db.write() as tx:
            hold_revision(tx)
            if registry.get_adapter(tx, name).tenant == share.tenant:
                raise InvalidValue("An adapter's owner need not be shared with.", param="tenant")
            shares.put_share(tx, name, replace(share, created_at=self._clock()))
            registry.touch(tx, name)
            return registry.get_adapter(tx, name)

    def list(self, name: str) -> Sequence[Share]:
        """With whom one's own adapter is shared, by name. Raises AdapterNotFound, AdapterReadOnly."""
        with self._db.read() as tx:
            return registry.get_adapter(tx, name).shares

    def end(self, name: str, tenant: str) -> Adapter:
        """Share it with that tenant, or with everybody, no longer.

        Raises:
            AdapterNotFound, AdapterReadOnly
            NotFound: it is not shared with them.
        """
        with self._db.write() as tx:
            hold_revision(tx)
            registry.get_adapter(tx, name)
            if not shares.end_share(tx, name, tenant):
                whom = "everybody" if tenant == EVERYBODY else f"'{tenant}'"
                raise NotFound(f"The adapter '{name}' is not shared with {whom}.", param="tenant")
            registry.touch(tx, name)
            return registry.get_adapter(tx, name)
