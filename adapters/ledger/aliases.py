"""Which version a name means. Each method is one transaction, which every process' catalog follows.

Callers may say where they expect an alias to point, and learn that somebody else was first. What is so already is no
error, whatever is expected: a request that is repeated because its answer was lost changes nothing.
"""

from adapters.db import history, registry
from adapters.db.connect import Database
from adapters.db.revision import hold_revision
from adapters.errors import (
    AdapterNotFound,
    AliasMoved,
    InvalidRequest,
    InvalidValue,
    ModelQuarantined,
)
from adapters.names import LIVE, check_alias
from adapters.records import Adapter, JsonObject


class Aliases:
    """Names for versions, shares of the traffic, and sampling defaults: what may change about an adapter."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def point(
        self,
        name: str,
        alias: str,
        number: int,
        *,
        weight: float = 0.0,
        expected: int | None = None,
    ) -> Adapter:
        """Point an alias at a version. `weight` is its share of the requests for the bare name, 0 to 1.

        `expected` is the version that it points at so far, 0 for none.

        Raises:
            InvalidValue: no alias may be called that, or have a share.
            AdapterNotFound: there is no such adapter or version.
            ModelQuarantined: the version is not to be served.
            AliasMoved: it points at another version than expected.
        """
        check_alias(alias, weight=weight)
        with self._db.write() as tx:
            hold_revision(tx)  # the lock: what is read from here on stays so
            adapter = registry.get_adapter(tx, name)
            if (adapter.aliases.get(alias), adapter.weights.get(alias, 0.0)) == (number, weight):
                return adapter
            _refuse_quarantined(adapter, number)
            _check(adapter, alias, expected)
            registry.set_alias(tx, name, alias, number, weight=weight)
            return registry.get_adapter(tx, name)

    def remove(self, name: str, alias: str) -> Adapter:
        """Remove an alias; one that is not there is no error.

        Raises:
            InvalidValue: it is `live`.
            AdapterNotFound: there is no such adapter.
        """
        if check_alias(alias) == LIVE:
            raise InvalidValue(
                f"'{LIVE}' cannot be removed. Promote another version, or delete the adapter.",
                param="alias",
            )
        with self._db.write() as tx:
            hold_revision(tx)
            if alias in registry.get_adapter(tx, name).aliases:
                registry.remove_alias(tx, name, alias)
            return registry.get_adapter(tx, name)

    def promote(self, name: str, number: int, *, expected: int | None = None) -> Adapter:
        """Make a version the live one. Raises AdapterNotFound, ModelQuarantined, AliasMoved."""
        return self.point(name, LIVE, number, expected=expected)

    def promote_alias(self, name: str, alias: str, *, expected: int | None = None) -> Adapter:
        """Make the version live that an alias points at. Its own share, if it has one, ends: everybody gets it now.

        Raises:
            AdapterNotFound: there is no such adapter, or the alias points nowhere.
            ModelQuarantined: its version is not to be served.
            AliasMoved: another version than expected is live.
        """
        with self._db.write() as tx:
            hold_revision(tx)
            adapter = registry.get_adapter(tx, name)
            number = adapter.aliases.get(alias)
            if number is None:
                known = ", ".join(sorted(adapter.aliases)) or "none"
                raise AdapterNotFound(
                    f"'{name}' has no alias '{alias}'. Its aliases: {known}.", param="alias"
                )
            if adapter.aliases.get(LIVE) != number:
                _refuse_quarantined(adapter, number)
                _check(adapter, LIVE, expected)
                registry.set_alias(tx, name, LIVE, number)
            if alias in adapter.weights:
                registry.set_alias(tx, name, alias, number)
            return registry.get_adapter(tx, name)

    def roll_back(self, name: str, *, expected: int | None = None) -> Adapter:
        """Make the version live that was live before. `expected` is the one to go back from.

        With `expected`, to go back twice from the same version is to go back once.

        Raises:
            AdapterNotFound: there is no such adapter.
            InvalidRequest: nothing that is still there and may be served was live before.
            AliasMoved: another version than expected is live.
        """
        with self._db.write() as tx:
            hold_revision(tx)
            adapter = registry.get_adapter(tx, name)
            moved = expected is not None and expected != adapter.aliases.get(LIVE)
            if moved and history.last_undone(tx, name) == expected:
                return adapter
            _check(adapter, LIVE, expected)
            quarantined = {one.number for one in adapter.versions if one.quarantined is not None}
            before = history.step_back(tx, name, past=quarantined)
            if before is None:
                raise InvalidRequest(
                    f"No other version of '{name}' that is still there was live before. "
                    "Promote one by its number.",
                    param="name",
                )
            registry.set_alias(tx, name, LIVE, before)
            return registry.get_adapter(tx, name)

    def set_sampling(self, name: str, sampling: JsonObject) -> Adapter:
        """Replace what requests for the adapter are given where they leave something open. Raises AdapterNotFound."""
        with self._db.write() as tx:
            hold_revision(tx)
            if registry.get_adapter(tx, name).sampling != sampling:
                registry.touch(tx, name, sampling=sampling or None)
            return registry.get_adapter(tx, name)


def _refuse_quarantined(adapter: Adapter, number: int) -> None:
    version = adapter.version(number)
    if version is not None and version.quarantined is not None:
        raise ModelQuarantined(
            f"{version.name} is quarantined: {version.quarantined}", param="version"
        )


def _check(adapter: Adapter, alias: str, expected: int | None) -> None:
    number = adapter.aliases.get(alias)
    if expected is not None and expected != (number or 0):
        there, wanted = (
            f"{adapter.name}@{one}" if one else "nothing" for one in (number, expected)
        )
        raise AliasMoved(
            f"'{alias}' of '{adapter.name}' means {there} and not {wanted}: somebody else has moved it. "
            "Look again, then decide.",
            param="expected",
        )
