"""Which versions an engine holds, and how one comes in.

At most `capacity` versions are registered with the engine, half of what it may hold in host memory: vLLM forgets an
unloaded adapter only by its own least-recently-used order, and the slack keeps that from touching one that we count on
(an adapter that fell out is read from disk again inside an engine step, which stalls everybody).

A version in use is pinned and stays. Loads are shared (two requests for a cold version cause one), and one at a time,
because vLLM runs them inside its loop while every stream waits. Before anybody has an answer of a version, the engine
is compared with what training saw of it (prover.py); neither the next load waits for that, nor do the questions. A
version that the engine refuses is an error of those who asked for it, and is not tried again for some seconds: each try
stalls everybody.
"""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from adapters.errors import EngineFault, ModelQuarantined, Overloaded
from adapters.traces import current
from adapters.weights import Weights
from service.engine.protocol import Engine
from service.metrics import Metrics
from service.prover import Prover

log = logging.getLogger(__name__)

#: How long a version that the engine has refused is not tried again.
_REFUSED_S = 10.0
#: So many of them are remembered.
_MOST_REFUSED = 1000


@dataclass(frozen=True, slots=True)
class _Load:
    """A version that comes in, and is compared."""

    task: asyncio.Task[None]
    #: Done once the engine has it; never, where it cannot be loaded.
    there: asyncio.Future[None]


class Residency:
    """The versions that one engine holds."""

    def __init__(  # noqa: PLR0913  whom it asks and whom it tells
        self,
        engine: Engine,
        *,
        capacity: int,
        directory_of: Callable[[Weights], Path],
        prover: Prover,
        metrics: Metrics,
        on_holding: Callable[[Collection[str]], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`on_holding` is told what the engine holds, or is about to, whenever that may have become less."""
        self._engine = engine
        self._capacity = capacity
        self._directory_of = directory_of
        self._prover = prover
        self._metrics = metrics
        self._on_holding = on_holding
        #: Names in the order of their last use, oldest first.
        self._resident: OrderedDict[str, None] = OrderedDict()
        #: Names that this engine process has been compared with, or that there is nothing to compare of.
        self._proven: set[str] = set()
        #: How many engine processes there have been.
        self._restarts = 0
        self._pins: dict[str, int] = {}
        self._loads: dict[str, _Load] = {}
        #: Versions that the engine has refused of late: when they may be tried again, and what it said.
        self._refused: OrderedDict[str, tuple[float, str]] = OrderedDict()
        self._clock = clock
        self._turn = asyncio.Lock()

    @property
    def capacity(self) -> int:
        """How many versions it is given to hold."""
        return self._capacity

    @property
    def resident(self) -> tuple[str, ...]:
        """Names that the engine holds, least recently used first."""
        return tuple(self._resident)

    def holds(self, version: Weights) -> bool:
        """Whether the version can be used without loading it first."""
        return version.name in self._resident and version.name in self._proven

    def doubt(self, version: Weights) -> None:
        """Have the version compared with its probes before it is used again."""
        self._proven.discard(version.name)

    def restart(self, names: frozenset[str]) -> None:
        """Start over from what an engine process says that it holds."""
        known = [name for name in self._resident if name in names]
        self._resident = OrderedDict.fromkeys([*known, *sorted(names.difference(known))])
        self._refused.clear()
        # It may be another engine, and whoever loaded these may have been killed before the comparison.
        self._proven.clear()
        self._restarts += 1
        self._tell()

    async def lost(self, version: Weights) -> bool:
        """Whether the engine, which has just not known the version, is another process than we thought.

        Takes over what it says that it holds. Raises Unavailable.
        """
        held = await self._engine.loaded()
        if version.name in held:
            return False
        self.restart(held)
        return True

    @asynccontextmanager
    async def pinned(self, version: Weights) -> AsyncIterator[None]:
        """Have the version in the engine, and keep it there inside the context.

        It may be asked from then on; nothing of an answer may be passed on before `ensure` has returned.

        Raises:
            EngineFault: the engine refuses it, or has refused it some seconds ago.
            ModelQuarantined: the engine computes something else of it than training saw.
            Unavailable: the engine went away.
            Overloaded: every place is taken by a version in use.
        """
        with self._kept(version.name):
            if version.name not in self._resident:
                self._metrics.weights.cold_requests.labels(version.base_model).inc()
            if not self.holds(version):
                with current().begin("graft.adapter.wait", {"graft.version": version.name}):
                    await self._wait_until_there(version)
            self._resident.move_to_end(version.name)
            yield

    async def ensure(self, version: Weights) -> None:
        """Load the version unless it is there, and have it compared unless it has been. Raises as `pinned` does."""
        if not self.holds(version):
            with current().begin("graft.adapter.wait", {"graft.version": version.name}):
                await self._wait_for(version)

    async def drop(self, name: str) -> None:
        """Take a version out of the engine once nobody uses it. Raises Unavailable."""
        while name in self._pins:  # noqa: ASYNC110  deletions are rare; an event per version is not worth it
            await asyncio.sleep(0.05)
        self._proven.discard(name)
        if name in self._resident:
            self._resident.pop(name)
            await self._engine.unload(name)
            self._tell()

    async def _wait_for(self, version: Weights) -> None:
        while not self.holds(version):
            # Shielded: the one who asked first may leave; the load is everybody's.
            await asyncio.shield(self._load_of(version).task)

    async def _wait_until_there(self, version: Weights) -> None:
        while not self.holds(version):
            load = self._load_of(version)
            if not load.there.done():
                await asyncio.wait((load.there, load.task), return_when=asyncio.FIRST_COMPLETED)
            if load.there.done() and version.name in self._resident:
                return
            await asyncio.shield(load.task)

    def _load_of(self, version: Weights) -> _Load:
        """The one under way, or a new one. Raises EngineFault where the last one failed a moment ago."""
        self._raise_if_refused(version.name)
        load = self._loads.get(version.name)
        if load is None:
            there = asyncio.get_running_loop().create_future()
            load = _Load(asyncio.create_task(self._load(version, there)), there)
            self._loads[version.name] = load
            load.task.add_done_callback(lambda task: self._loaded(version.name, task))
        return load

    def _loaded(self, name: str, task: asyncio.Task[None]) -> None:
        self._loads.pop(name, None)
        if not task.cancelled():
            task.exception()  # where all have left who asked, nobody else looks at it

    async def _load(self, version: Weights, there: asyncio.Future[None]) -> None:
        restarts = self._restarts
        # A part of what the one does who asked first.
        about = {"graft.version": version.name, "graft.base_model": version.base_model}
        with self._kept(version.name), current().begin("graft.adapter.load", about):
            known = version.name in self._proven
            standing = None if known else await self._prover.recall(version)
            await self._bring_in(version)
            there.set_result(None)
            if standing is not None and not standing.compared:
                await self._prove(version, standing.engine)
            if restarts == self._restarts:  # else it was another process, and `ensure` starts over
                self._proven.add(version.name)

    async def _prove(self, version: Weights, engine: str) -> None:
        try:
            with current().begin("graft.adapter.prove"):
                await self._prover.prove(version, engine)
        except ModelQuarantined:
            self._resident.pop(version.name, None)
            await self._engine.unload(version.name)
            self._tell()
            raise
        except EngineFault as fault:
            self._note_refusal(version, fault)
            raise

    @contextmanager
    def _kept(self, name: str) -> Iterator[None]:
        """Inside the context the version does not make room for others."""
        self._pins[name] = self._pins.get(name, 0) + 1
        try:
            yield
        finally:
            self._pins[name] -= 1
            if not self._pins[name]:
                del self._pins[name]

    async def _bring_in(self, version: Weights) -> None:
        if version.name in self._resident:
            return
        # Not in turn: it may have to come from afar, and those that are here need not wait for it.
        directory = await asyncio.to_thread(self._directory_of, version)
        async with self._turn:
            if version.name in self._resident:
                return
            await self._make_room(version.base_model)
            started = time.monotonic()
            try:
                with current().begin("graft.engine.load", kind="client"):
                    await self._engine.load(version.name, directory)
            except EngineFault as fault:
                self._note_refusal(version, fault)
                raise
            self._resident[version.name] = None
            took = time.monotonic() - started
        self._metrics.weights.load_seconds.labels(version.base_model).observe(took)
        log.info("loaded %s in %.0f ms", version.name, took * 1000)

    async def _make_room(self, base_model: str) -> None:
        while len(self._resident) >= self._capacity:
            idle = next((name for name in self._resident if name not in self._pins), None)
            if idle is None:
                raise Overloaded(
                    f"All {self._capacity} places for adapters are in use. Try again in a moment.",
                    retry_after=2,
                )
            self._resident.pop(idle)
            self._metrics.weights.evictions.labels(base_model).inc()
            await self._engine.unload(idle)
            self._tell()

    def _tell(self) -> None:
        self._on_holding({*self._resident, *self._loads})

    def _note_refusal(self, version: Weights, fault: EngineFault) -> None:
        self._metrics.weights.load_failures.labels(version.base_model).inc()
        log.warning("%s", fault)
        self._refused[version.name] = (self._clock() + _REFUSED_S, fault.message)
        self._refused.move_to_end(version.name)
        if len(self._refused) > _MOST_REFUSED:
            self._refused.popitem(last=False)

    def _raise_if_refused(self, name: str) -> None:
        until, message = self._refused.get(name, (0.0, ""))
        if self._clock() < until:
            raise EngineFault(message)
        self._refused.pop(name, None)
