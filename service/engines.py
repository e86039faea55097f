"""The engines of this process: which one serves a base model, and whether it is up.

A watch asks each engine for its health, so that nobody finds out by failing. When an engine comes up it has forgotten
every adapter, and its residency starts from what it says it has.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Mapping

from adapters.errors import EngineFault, Unavailable
from service.engine.protocol import Engine
from service.engine.singing import sing
from service.metrics import Metrics
from service.residency import Residency

log = logging.getLogger(__name__)

_WATCH_S = 1.0
_LISTEN_S = 5.0
#: How long a single token may take.
_CANARY_S = 20.0
#: Requests that wait for one engine to come up; more would only grow the memory.
_MOST_HOPING = 1024
#: Two tokens that every vocabulary has: of a prompt's first there is nothing to say.
_FIRST_PROMPT = (0, 1)
#: What a start takes on two cores, until one has been measured.
_USUAL_START_S = 45.0


class EngineHost:
    """One engine, its residency and its state."""

    def __init__(
        self,
        model_id: str,
        engine: Engine,
        residency: Residency,
        *,
        metrics: Metrics,
        forget: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`forget` is told of adapters that are deleted."""
        self.model_id = model_id
        self.forget = forget
        self.engine = engine
        self.residency = residency
        self._metrics = metrics
        # Found once: every first token waits for what is noted of it.
        self._last_token = metrics.engines.last_token.labels(model_id)
        self._up = asyncio.Event()
        self._down_since = time.monotonic()
        self._usual_start_s = _USUAL_START_S
        self._hoping = 0
        self._spoke_at = time.monotonic()

    @property
    def up(self) -> bool:
        """Whether the engine answered when last asked."""
        return self._up.is_set()

    def retry_after(self) -> float:
        """Honest seconds until the engine is likely to be up."""
        return max(1.0, self._usual_start_s - (time.monotonic() - self._down_since))

    async def wait_up(self, timeout: float) -> None:  # noqa: ASYNC109  the bound belongs in the message
        """Return once the engine is up.

        Raises:
            Unavailable: it is not up within `timeout` seconds, or too many wait for it already.
        """
        if self._hoping >= _MOST_HOPING:
            raise self.unavailable()
        self._hoping += 1
        try:
            await asyncio.wait_for(self._up.wait(), timeout)
        except TimeoutError:
            raise self.unavailable() from None
        finally:
            self._hoping -= 1

    def unavailable(self) -> Unavailable:
        """The error that tells a client when to come back."""
        wait = self.retry_after()
        return Unavailable(
            f"The engine of '{self.model_id}' is starting. Try again in about {wait:.0f} s.",
            retry_after=wait,
        )

    def mark_down(self) -> None:
        """Note that the engine does not answer."""
        if self._up.is_set():
            log.warning("engine %s is down", self.model_id)
            self._up.clear()
            self._down_since = time.monotonic()
            self._metrics.engines.restarts.labels(self.model_id).inc()
        self._metrics.engines.up.labels(self.model_id).set(0)

    async def look(self) -> None:
        """Ask the engine for its health once."""
        if not await self.engine.healthy():
            self.mark_down()
            return
        self._metrics.engines.last_answer.labels(self.model_id).set(time.time())
        if not self._up.is_set():
            await self._welcome()

    def spoke(self) -> None:
        """Note that the engine has generated something."""
        self._spoke_at = time.monotonic()
        self._last_token.set(time.time())

    async def ask_for_a_token(self, *, unless_within: float) -> None:
        """Ask the base model for one, unless something was generated in the last so many seconds.

        An engine whose core is dead or hangs answers for its health all the same (CVE-2026-114051).
        """
        if not self.up or time.monotonic() - self._spoke_at < unless_within:
            return
        try:
            wrong = await sing(self.engine, self.model_id, _CANARY_S)
        except Unavailable:
            return  # the watch finds that out, too
        if wrong:
            log.warning("%s", wrong)
        else:
            self.spoke()

    async def _welcome(self) -> None:
        self.residency.restart(await self.engine.loaded())
        await self._ask_first()
        took = time.monotonic() - self._down_since
        self._usual_start_s = took
        self._metrics.engines.up.labels(self.model_id).set(1)
        self.spoke()
        self._up.set()
        log.info("engine %s is up after %.1f s", self.model_id, took)

    async def _ask_first(self) -> None:
        """Ask for log-probabilities before anybody waits for some, as whoever trains does for the comparison.

        vLLM compiles the function for the ranks of tokens when it first needs it (`batched_count_greater_than`,
        v1/sample/ops/logprobs.py): ten seconds on two cores, before that was turned off there (engine/start.py).
        """
        try:
            await self.engine.logprobs(self.model_id, [_FIRST_PROMPT])
        except EngineFault as error:
            log.warning(
                "engine %s does not say what it thinks of a prompt: %s", self.model_id, error
            )


class Engines:
    """All engines by base model."""

    def __init__(self, hosts: Mapping[str, EngineHost]) -> None:
        self._hosts = hosts

    def __getitem__(self, model_id: str) -> EngineHost:
        return self._hosts[model_id]

    def __iter__(self) -> Iterator[EngineHost]:
        return iter(self._hosts.values())

    def get(self, model_id: str) -> EngineHost | None:
        """The engine of a base model; None where it is not configured (any more)."""
        return self._hosts.get(model_id)

    @property
    def up(self) -> dict[str, bool]:
        """Which base models answer."""
        return {model_id: host.up for model_id, host in self._hosts.items()}

    async def watch(self, on_up: Callable[[str], None], *, silence_seconds: float) -> None:
        """Look after all engines until cancelled; `on_up` is told of each one that has just come up.

        One that has been silent for so long is asked for a token; 0: never.
        """
        async with asyncio.TaskGroup() as group:
            for host in self._hosts.values():
                group.create_task(_watch(host, on_up))
                if silence_seconds:
                    group.create_task(_listen(host, silence_seconds))


async def _watch(host: EngineHost, on_up: Callable[[str], None]) -> None:
    while True:
        was_up = host.up
        try:
            await host.look()
        except Unavailable:
            host.mark_down()
        if host.up and not was_up:
            on_up(host.model_id)
        await asyncio.sleep(_WATCH_S)


async def _listen(host: EngineHost, silence_seconds: float) -> None:
    # Beside the watch: an engine that hangs would keep it from its next look.
    while True:
        await asyncio.sleep(min(silence_seconds / 2, _LISTEN_S))
        await host.ask_for_a_token(unless_within=silence_seconds)
