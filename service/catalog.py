"""What `model` may say, from memory. The hot path asks here and never the database."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from adapters.errors import ModelNotFound, Unavailable
from adapters.ledger import Registry
from adapters.names import parse_model_name
from adapters.records import Adapter, Version

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Target:
    """What a `model` means right now: a base model, or one version of an adapter on it."""

    base_model: str
    version: Version | None = None

    @property
    def engine_name(self) -> str:
        """The name that the engine knows it by, and that the response carries."""
        return self.version.name if self.version else self.base_model


class Catalog:
    """A copy of the registry that follows it."""

    def __init__(self, registry: Registry, base_models: Sequence[str]) -> None:
        self._registry = registry
        self._base_models = tuple(base_models)
        self._adapters: dict[str, Adapter] = {}
        self._revision = 0
        self._refreshing = asyncio.Lock()

    @property
    def base_models(self) -> tuple[str, ...]:
        """Ids of the base models, the default first."""
        return self._base_models

    @property
    def adapters(self) -> list[Adapter]:
        """All adapters, by name."""
        return [self._adapters[name] for name in sorted(self._adapters)]

    async def resolve(self, model: str) -> Target:
        """The version or base model that a name means. An unknown name is looked up once more in the ledger.

        Raises:
            ModelNotFound: it means nothing, or an adapter without a live version.
        """
        target = self._lookup(model)
        if target is None:
            await self.refresh()
            target = self._lookup(model)
        if target is None:
            raise ModelNotFound(self._explain(model), param="model")
        return target

    async def refresh(self) -> Sequence[Adapter]:
        """Take over what has changed in the ledger; returns the changed adapters. Raises Unavailable."""
        async with self._refreshing:
            revision, changed = await asyncio.to_thread(
                self._registry.changes, since=self._revision
            )
            for adapter in changed:
                if adapter.versions:
                    self._adapters[adapter.name] = adapter
                else:
                    self._adapters.pop(adapter.name, None)
            self._revision = revision
            return changed

    async def follow(
        self, every: float, on_change: Callable[[Sequence[Adapter]], Awaitable[None]]
    ) -> None:
        """Refresh for ever; tell `on_change` of adapters that changed."""
        while True:
            try:
                if changed := await self.refresh():
                    await on_change(changed)
            except Unavailable as error:
                log.warning("the catalog could not be refreshed: %s", error)
            await asyncio.sleep(every)

    def _lookup(self, model: str) -> Target | None:
        if model in self._base_models:
            return Target(model)
        name = parse_model_name(model)
        adapter = self._adapters.get(name.adapter)
        version = _select(adapter, name.selector) if adapter else None
        return Target(version.base_model, version) if version else None

    def _explain(self, model: str) -> str:
        adapter = self._adapters.get(parse_model_name(model).adapter)
        if adapter is None:
            return (
                f"The model '{model}' does not exist. It is neither a base model "
                f"({', '.join(self._base_models)}) nor an adapter; GET /v1/models lists all."
            )
        known = ", ".join(version.name for version in adapter.versions)
        if "@" in model:
            return f"The adapter '{adapter.name}' has no '{model}'. Its versions: {known}."
        return (
            f"The adapter '{adapter.name}' has no live version yet: none has beaten the base model. "
            f"Name one ({known}), or promote it with POST /adapters/{adapter.name}/promote."
        )


def _select(adapter: Adapter, selector: str | None) -> Version | None:
    if selector is None:
        return adapter.live
    number = int(selector) if selector.isdecimal() else adapter.aliases.get(selector)
    return next((version for version in adapter.versions if version.number == number), None)
