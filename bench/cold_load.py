"""What a request waits for when its adapter has to come in first, and what running streams notice of it."""

import asyncio
import itertools
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from adapters.settings import DEMO_MODEL
from bench.made import make_adapter, probes_of, prompt_of, publish
from bench.measure import Settings, interleave, spread
from bench.real_stage import RealStage, Streamed, on_real_stage
from bench.table import Row, Table
from service.engine.client import VllmEngine

#: The engine holds so many in host memory, and the service half of them: fewer than there are adapters, so that each
#: has been thrown out when its turn comes again.
HELD = 8
FEWEST = HELD // 2 + 2
#: Adapters that answer while others are loaded, and the tokens of each answer.
STREAMS, TOKENS = 2, 40
PROMPT_TOKENS = 4


def run(settings: Settings) -> Table:
    """First tokens, then stalls."""
    with on_real_stage(settings, GRAFT_ENGINE_MAX_CPU_LORAS=str(HELD)) as (stage, runner):
        rows = _measure(settings.rounds, stage, runner)
    return Table(
        name="cold_load",
        what=(
            f"demo model in vLLM with our flags, asked through the service; adapters of rank 16, float32, 20 MB each, in the "
            f"page cache. Milliseconds until the first token of a completion of {PROMPT_TOKENS} tokens; the peer is the same "
            f"adapter once more, right after. Stalls: the longest gap in {STREAMS} streams of {TOKENS} tokens, less their "
            "median gap, while other adapters are asked for one token each, one after the other"
        ),
        rows=rows,
    )


def _measure(rounds: int, stage: RealStage, runner: asyncio.Runner) -> list[Row]:
    cold = runner.run(_prepare(stage, max(rounds, FEWEST)))
    live = [
        publish(stage.ledger, f"live-{n}", make_adapter(stage.folder / f"live-{n}", stage.layers, 100 + n)).name
        for n in range(STREAMS + 1)
    ]  # fmt: skip
    runner.run(
        _first_tokens(stage, live)
    )  # they come in by themselves, too; and what is done but once is done
    first, first_loads = _loading(stage, lambda: runner.run(_first_tokens(stage, cold)))
    later, later_loads = _loading(stage, lambda: runner.run(_first_tokens(stage, cold)))
    assert len(first_loads) == len(later_loads) == len(cold), "something was loaded twice, or not"
    probes = stage.probes()
    assert len(probes) == len(cold), "something was not compared, or not found to be right"
    busy = _Busy(stage, live, cold, runner)
    turns = interleave(rounds, busy.loading, busy.asking, warm=0)
    return [
        _waits("first load of a version, with its probe", first, first_loads, probes),
        _waits("later load", later, later_loads),
        *_stalls(turns),
    ]


async def _prepare(stage: RealStage, count: int) -> list[str]:
    """So many versions with probes that the service has never loaded."""
    engine, names = VllmEngine(stage.engine_socket, DEMO_MODEL), []
    try:
        for number in range(count):
            folder = make_adapter(stage.folder / f"cold-{number}", stage.layers, number)
            probes = await probes_of(engine, folder, number)
            names.append(publish(stage.ledger, f"cold-{number}", folder, probes).name)
    finally:
        await engine.close()
    return names


Waits = list[tuple[float, float]]


async def _first_tokens(stage: RealStage, names: Sequence[str]) -> Waits:
    """Seconds until the first token of each, and once more when it is there."""
    prompt = prompt_of(0, PROMPT_TOKENS)
    waits = []
    for name in names:
        cold, warm = [await stage.ours.complete(name, prompt, 1) for _ in range(2)]
        waits.append((cold.first, warm.first))
    return waits


def _loading(stage: RealStage, act: Callable[[], Waits]) -> tuple[Waits, list[int]]:
    """What came of it, and the milliseconds of each load that the service has had made meanwhile."""
    before = len(stage.loads())
    waits = act()
    return waits, [took for _, took in stage.loads()[before:]]


def _waits(name: str, waits: Waits, loads: Sequence[int], probes: Sequence[float] = (0.0,)) -> Row:
    added = spread([1e3 * (cold - warm) for cold, warm in waits])
    return Row(
        name=name,
        unit="ms",
        better="lower",
        ours=[1e3 * cold for cold, _ in waits],
        peer=[1e3 * warm for _, warm in waits],
        note=(
            f"adds {added.median:.0f} ms ({added.low:.0f}..{added.high:.0f}), "
            f"of which the engine's load {statistics.median(loads):.0f}, the probe {statistics.median(probes):.0f}"
        ),
    )


@dataclass(frozen=True, slots=True)
class Turn:
    """The streams once, with others asking meanwhile."""

    gaps: list[float]
    seconds: float
    #: What was loaded meanwhile, in milliseconds each.
    loads: list[int]
    asked: int


class _Busy:
    """Streams of adapters that stay, beside requests to others. Every answer must be that of a quiet engine."""

    def __init__(
        self, stage: RealStage, live: Sequence[str], cold: Sequence[str], runner: asyncio.Runner
    ) -> None:
        self._stage, self._runner = stage, runner
        self._live, self._warm = live, live[STREAMS]
        self._cold = itertools.cycle(cold)
        self._alone = [runner.run(self._stream(number)).text for number in range(STREAMS)]

    def loading(self) -> Turn:
        """The others have to come in, each of them."""
        return self._turn(self._cold)

    def asking(self) -> Turn:
        """The others are one that is there."""
        return self._turn(itertools.repeat(self._warm))

    def _turn(self, others: Iterator[str]) -> Turn:
        self._runner.run(_first_tokens(self._stage, self._live))  # they are there, last used of all
        before = len(self._stage.loads())
        streams, asked = self._runner.run(self._together(others))
        for number, stream in enumerate(streams):
            assert stream.text == self._alone[number], (stream.text, self._alone[number])
        return Turn(
            [gap for stream in streams for gap in stream.gaps[:-2]],  # usage and [DONE] at the end
            max(stream.arrivals[-1] - stream.began for stream in streams),
            [took for _, took in self._stage.loads()[before:]],
            asked,
        )

    async def _together(self, others: Iterator[str]) -> tuple[list[Streamed], int]:
        asked = 0
        async with asyncio.TaskGroup() as group:
            streams = [group.create_task(self._stream(number)) for number in range(STREAMS)]
            while not all(stream.done() for stream in streams):
                await self._stage.ours.complete(next(others), prompt_of(asked, PROMPT_TOKENS), 1)
                asked += 1
        return [stream.result() for stream in streams], asked

    async def _stream(self, number: int) -> Streamed:
        prompt = prompt_of(number, PROMPT_TOKENS)
        return await self._stage.ours.complete(self._live[number], prompt, TOKENS)


def _stalls(turns: Sequence[tuple[Turn, Turn]]) -> list[Row]:
    loading, asking = [turn for turn, _ in turns], [turn for _, turn in turns]
    loads = sum(len(turn.loads) for turn in loading)
    assert all(turn.loads for turn in loading), "nothing was loaded"
    assert not any(turn.loads for turn in asking), "the peer had to wait for loads"
    return [
        Row(
            name="longest stall of a stream; peer: the longest load meanwhile",
            unit="ms",
            better="lower",
            ours=[1e3 * (max(turn.gaps) - statistics.median(turn.gaps)) for turn in loading],
            peer=[float(max(turn.loads)) for turn in loading],
            note=f"{loads} loads, {len(turns) * STREAMS * 2} streams, all whole and as on a quiet engine",
        ),
        Row(
            name="the same; peer: others are asked that are there",
            unit="ms",
            better="lower",
            ours=[1e3 * (max(turn.gaps) - statistics.median(turn.gaps)) for turn in loading],
            peer=[1e3 * (max(turn.gaps) - statistics.median(turn.gaps)) for turn in asking],
        ),
        Row(
            name="tokens a second of the streams; peer: the same",
            unit="tok/s",
            better="higher",
            ours=[STREAMS * TOKENS / turn.seconds for turn in loading],
            peer=[STREAMS * TOKENS / turn.seconds for turn in asking],
            note=f"{sum(t.asked for t in loading)} requests beside them, {sum(t.asked for t in asking)} of the peer",
        ),
    ]
