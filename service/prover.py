"""After the first load of a version, the engine is held to what training saw. Design, section 3, the probe.

Once for each version and engine: the ledger remembers it, also over restarts. An engine is another one when its
release, its number format or its base model is.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from adapters.errors import EngineFault, ModelQuarantined, Unavailable
from adapters.ledger import Verdicts
from adapters.manifest import Probe, read_base_card
from adapters.proof import (
    Measured,
    Outcome,
    Verdict,
    compare,
    most_telling_first,
    quarantine_message,
    tolerance,
    verify_alone,
)
from adapters.weights import Weights
from service.engine.protocol import Engine
from service.metrics import Metrics

log = logging.getLogger(__name__)

_ABSENT, _UNANSWERED = "absent", "unanswered"
#: An engine that fails so often in a row is not asked for a while: it may be the question that kills it.
_MOST_IN_VAIN, _LEFT_ALONE_S = 3, 600.0


@dataclass(frozen=True, slots=True)
class Standing:
    """What is known of a version before it is loaded."""

    #: Which engine it is, as the ledger tells engines apart. Asked for once in a load; empty where nobody will compare.
    engine: str
    #: Whether that engine has been compared before.
    compared: bool


class Prover:
    """Compares one engine with training."""

    def __init__(
        self,
        engine: Engine,
        verdicts: Verdicts,
        *,
        number_format: Callable[[], str],
        base_model_dir: Callable[[str], Path],
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._verdicts = verdicts
        self._number_format = number_format
        self._base_model_dir = base_model_dir
        self._metrics = metrics
        self._clock = clock
        self._in_vain, self._again_at = 0, 0.0

    async def recall(self, weights: Weights) -> Standing:
        """Which engine this is, and whether it has been compared before.

        Raises:
            ModelQuarantined: some engine has been, and computed something else.
            Unavailable: the engine or the ledger does not answer.
        """
        if not weights.manifest.probes:
            return Standing(engine="", compared=False)
        engine = await self._identity(weights)
        verdict = await asyncio.to_thread(self._verdicts.find, weights, engine=engine)
        if verdict is not None:
            _raise_if_quarantined(weights, verdict)
        return Standing(engine, compared=verdict is not None)

    async def prove(self, weights: Weights, engine: str) -> None:
        """Compare the engine, which holds the version, with what training saw, and remember what came out.

        `engine` is which one it is, as `recall` has said before the load.

        Raises:
            ModelQuarantined: it computes something else. The ledger knows of it by then.
            EngineFault: it failed.
            Unavailable: the engine or the ledger does not answer.
        """
        if not weights.manifest.probes:
            self._count(weights, _ABSENT)
            return
        verdict = await self._try_to_compare(weights)
        if verdict is None:
            log.warning("%s is served without a comparison: the engine tells nothing", weights.name)
            self._count(weights, _UNANSWERED)
            return
        if verdict.lasts:
            verdict = await asyncio.to_thread(self._verdicts.note, weights, verdict, engine=engine)
        self._count(weights, verdict.outcome)
        level = logging.ERROR if verdict.outcome is Outcome.QUARANTINED else logging.INFO
        log.log(level, "%s is %s: %s", weights.name, verdict.outcome, verdict.reason)
        _raise_if_quarantined(weights, verdict)

    async def _try_to_compare(self, weights: Weights) -> Verdict | None:
        if self._in_vain >= _MOST_IN_VAIN and self._clock() < self._again_at:
            return None
        try:
            verdict = await self._compare(weights)
        except (EngineFault, Unavailable):
            self._in_vain += 1
            self._again_at = self._clock() + _LEFT_ALONE_S
            raise
        self._in_vain = 0
        return verdict

    async def _compare(self, weights: Weights) -> Verdict | None:
        within = await self._tolerance(weights)
        probes = most_telling_first(weights.manifest.probes)
        replies: list[Sequence[float]] = []
        # Each prompt is a pass of the engine's, for which whoever asks the version first waits.
        for asked in filter(None, (probes[:1], probes[1:])):
            adapter = await self._engine.logprobs(weights.name, _prompts(asked))
            if adapter is None:
                return None
            replies += map(_reply, asked, adapter)
            verdict = verify_alone(probes[: len(replies)], replies, within=within)
            if verdict is not None:
                return verdict
        base = await self._engine.logprobs(weights.base_model, _prompts(probes))
        if base is None:
            return None
        measured = [
            Measured(adapter_logprobs=reply, base_logprobs=_reply(probe, without))
            for probe, reply, without in zip(probes, replies, base, strict=True)
        ]
        return compare(probes, measured, within=within)

    async def _tolerance(self, weights: Weights) -> float:
        theirs = await asyncio.to_thread(self._number_format)
        result = weights.manifest.result
        return tolerance(result.dtype if result else theirs, theirs)

    async def _identity(self, weights: Weights) -> str:
        """What makes an engine another one."""
        directory = self._base_model_dir(weights.base_model)
        card, number_format = await asyncio.to_thread(
            lambda: (read_base_card(directory), self._number_format())
        )
        base = card.digest[:16] if card else "unknown"
        return f"{await self._engine.build()} {number_format} {base}"[:200]

    def _count(self, weights: Weights, outcome: str) -> None:
        self._metrics.weights.probes.labels(weights.base_model, outcome).inc()


def _prompts(probes: Sequence[Probe]) -> list[Sequence[int]]:
    return [probe.token_ids for probe in probes]


def _reply(probe: Probe, logprobs: Sequence[float]) -> Sequence[float]:
    """Of a whole prompt's, which begin with its second token's, those that training recorded."""
    return logprobs[probe.reply_start - 1 :]


def _raise_if_quarantined(weights: Weights, verdict: Verdict) -> None:
    if verdict.outcome is Outcome.QUARANTINED:
        raise ModelQuarantined(quarantine_message(weights.name, verdict.reason), param="model")
