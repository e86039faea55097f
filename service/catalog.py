"""What `model` may say, from memory. The hot path asks here and never the database."""

import asyncio
import copy
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from adapters.errors import AdapterNotFound, ModelNotFound, ModelQuarantined, Unavailable
from adapters.ledger import BEHIND_S, Changes, CheckpointShelf, Registry, Topic
from adapters.names import is_checkpoint, parse_fine_tuned_name, parse_model_name
from adapters.proof import quarantine_message
from adapters.records import Adapter, JsonObject, Version
from adapters.sharing import Use
from adapters.weights import Weights
from service import split
from service.hearing import happens, heard

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Target:
    """What a `model` means right now: a base model, or one version or checkpoint of an adapter on it."""

    base_model: str
    version: Weights | None = None
    #: What requests are given where they leave something open; the first that says something counts.
    defaults: tuple[JsonObject, ...] = ()
    #: Another version that is to get the same request, and whose answer nobody sees.
    shadow: "Target | None" = None

    @property
    def engine_name(self) -> str:
        """The name that the engine knows it by, and that the response carries."""
        return self.version.name if self.version else self.base_model


@dataclass(slots=True)
class _Copy:
    """What is known of the ledger: everybody's, and shared by all views."""

    registry: Registry
    adapters: dict[str, Adapter] = field(default_factory=dict)
    #: By who asks and by name, until anything changes in the ledger that may have deleted one.
    checkpoints: dict[tuple[str | None, str], Target] = field(default_factory=dict)
    revision: int = 0
    refreshing: asyncio.Lock = field(default_factory=asyncio.Lock)
    listeners: list[Callable[[Sequence[Adapter]], None]] = field(default_factory=list)


class Catalog:
    """A copy of the registry that follows it, and of the checkpoints that have been asked for.

    `of` makes a tenant's view of it, in which others' names mean nothing unless they are shared.
    """

    def __init__(
        self,
        registry: Registry,
        base_models: Sequence[str],
        shelf: CheckpointShelf,
        sampling: Mapping[str, JsonObject] | None = None,
    ) -> None:
        """`sampling` are the configured defaults of base models, by their ids."""
        self._copy = _Copy(registry)
        self._shelf = shelf
        self._base_models = tuple(base_models)
        self._sampling = sampling or {}
        #: Whose view it is; None is everybody's.
        self._tenant: str | None = None
        self._answered = True

    def of(self, tenant: str, shelf: CheckpointShelf) -> "Catalog":
        """What that tenant sees of the same copy; `shelf` has its checkpoints."""
        view = copy.copy(self)
        view._tenant, view._shelf = tenant, shelf  # noqa: SLF001  it is one of us
        return view

    @property
    def base_models(self) -> tuple[str, ...]:
        """Ids of the base models, the default first."""
        return self._base_models

    @property
    def adapters(self) -> list[Adapter]:
        """The adapters of configured base models, by name."""
        known = self._copy.adapters
        found = [known[name] for name in sorted(known) if known[name].allows(self._tenant, Use.ASK)]
        return [adapter for adapter in found if adapter.base_model in self._base_models]

    async def resolve(self, model: str, ticket: str | None = None) -> Target:
        """What a name means, to be asked. An unknown name is looked up once more in the ledger.

        A bare name means the live version. With a `ticket`, which says whose request it is, it means what a request
        from there gets: the canary has its share of them, and so has the shadow.

        Raises:
            ModelNotFound: it means nothing, or an adapter without a live version.
            ModelQuarantined: it means a version that is not to be served.
        """
        target = await self.find(model, ticket)
        version = target.version
        if isinstance(version, Version) and version.quarantined is not None:
            message = quarantine_message(version.name, version.quarantined)
            raise ModelQuarantined(message, param="model")
        return target

    async def find(self, model: str, ticket: str | None = None) -> Target:
        """The same whether it may be served or not. Raises ModelNotFound."""
        target = self._lookup(model, ticket)
        if target is None:
            await self.refresh()
            target = self._lookup(model, ticket) or await self._checkpoint(model)
        if target is None:
            raise ModelNotFound(self._explain(model), param="model")
        return target

    def listen(self, listener: Callable[[Sequence[Adapter]], None]) -> None:
        """Tell `listener` of adapters that have changed, whoever caused the refresh that noticed it."""
        self._copy.listeners.append(listener)

    async def refresh(self) -> None:
        """Take over what has changed in the ledger. Raises Unavailable."""
        known = self._copy
        async with known.refreshing:
            revision, changed = await asyncio.to_thread(
                known.registry.changes, since=known.revision
            )
            for adapter in changed:
                if adapter.versions:
                    known.adapters[adapter.name] = adapter
                else:
                    known.adapters.pop(adapter.name, None)
            if revision != known.revision:
                known.checkpoints.clear()
            known.revision = revision
        if changed:
            for listener in known.listeners:
                listener(changed)

    async def follow(self, changes: Changes, every: float) -> None:
        """Refresh for ever: when there is news, and every so many seconds, more seldom while news are told."""
        with heard(changes, Topic.SERVED) as news:
            while True:
                news.clear()
                await self._try_to_refresh()
                await happens(news, within=max(every, BEHIND_S) if changes.told else every)

    async def _try_to_refresh(self) -> None:
        try:
            await self.refresh()
            self._answered = True
        except Unavailable as error:
            if self._answered:  # an outage is told once
                log.warning("the catalog cannot be refreshed for now: %s", error)
            self._answered = False

    async def _checkpoint(self, model: str) -> Target | None:
        if not is_checkpoint(model):
            return None
        seen = self._copy.revision
        try:
            checkpoint = await asyncio.to_thread(self._shelf.find, model)
        except AdapterNotFound:
            return None
        if checkpoint.base_model not in self._base_models:
            return None
        target = self._target(checkpoint, {})
        if seen == self._copy.revision:  # else it may have been deleted since
            self._copy.checkpoints[self._tenant, model] = target
        return target

    def _lookup(self, model: str, ticket: str | None) -> Target | None:
        if model in self._base_models:
            return Target(model, defaults=(self._sampling.get(model, {}),))
        checkpoint = self._copy.checkpoints.get((self._tenant, model))
        if checkpoint is not None:
            return checkpoint
        made, name = parse_fine_tuned_name(model), parse_model_name(model)
        adapter = self._seen(made.adapter if made else name.adapter)
        if adapter is None or adapter.base_model not in self._base_models:
            return None
        if made is None and name.selector is None and ticket is not None:
            return self._shared(adapter, ticket)
        version = adapter.made(made) if made else adapter.select(name.selector)
        return self._target(version, adapter.sampling) if version else None

    def _shared(self, adapter: Adapter, ticket: str) -> Target | None:
        """Who answers this request for the bare name, and who looks on."""
        version, shadow = split.answering(adapter, ticket), split.looking_on(adapter)
        if version is None:
            return None
        target = self._target(version, adapter.sampling)
        if shadow is None or shadow.number == version.number:
            return target
        return replace(target, shadow=self._target(shadow, adapter.sampling))

    def _target(self, weights: Weights, sampling: JsonObject) -> Target:
        base_model = weights.base_model
        own, configured = weights.manifest.default_sampling, self._sampling.get(base_model, {})
        return Target(base_model, weights, (sampling, own, configured))

    def _seen(self, name: str) -> Adapter | None:
        adapter = self._copy.adapters.get(name)
        return adapter if adapter is not None and adapter.allows(self._tenant, Use.ASK) else None

    def _explain(self, model: str) -> str:
        if is_checkpoint(model):
            return (
                f"There is no checkpoint '{model}'. A job keeps its last three; "
                "GET /finetune/{id}/checkpoints lists them."
            )
        adapter = self._seen(parse_model_name(model).adapter)
        if adapter is None:
            return (
                f"The model '{model}' does not exist. It is neither a base model "
                f"({', '.join(self._base_models)}) nor an adapter; GET /v1/models lists all."
            )
        if adapter.base_model not in self._base_models:
            return (
                f"The adapter '{adapter.name}' needs the base model '{adapter.base_model}', which this server "
                "is not configured for."
            )
        known = ", ".join(version.name for version in adapter.versions)
        if "@" in model:
            return f"The adapter '{adapter.name}' has no '{model}'. Its versions: {known}."
        return (
            f"The adapter '{adapter.name}' has no live version yet: none has beaten the base model. "
            f"Name one ({known}), or promote it with POST /adapters/{adapter.name}/promote."
        )
