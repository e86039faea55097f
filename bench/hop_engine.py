"""What it costs that our service stands between a client and a real engine, which computes what it answers."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from adapters.settings import DEMO_MODEL
from bench.made import make_adapter, prompt_of, publish
from bench.measure import Settings, interleave, percentile, spread
from bench.processes import cpu_seconds
from bench.real_stage import RealStage, Side, on_real_stage
from bench.table import Row, Table

#: Streams at a time, of one adapter, and the tokens of each, prompt and answer.
STREAMS, PROMPT_TOKENS, TOKENS = 8, 4, 32
#: Pairs of requests in a round to an engine that does nothing else.
REQUESTS = 100
#: Nobody asks anything for so long, to see what the processes do by themselves.
IDLE_S = 30.0
ADAPTER = "bench"


def run(settings: Settings) -> Table:
    """Saturation, latency, processor time."""
    with on_real_stage(settings) as (stage, runner):
        rows = _measure(settings.rounds, stage, runner)
    return Table(
        name="hop_engine",
        what=(
            "`python -m service` (TCP) against the vLLM process behind it, asked directly on its Unix socket: demo model, "
            f"our flags, {STREAMS} streams at a time of a rank-16 adapter, {PROMPT_TOKENS} tokens in and {TOKENS} out each; "
            f"first tokens: the base model, {PROMPT_TOKENS} tokens in, one at a time, {REQUESTS} pairs a round, who is asked first by turns. "
            "Processor time is utime + stime, while clients go through the service"
        ),
        rows=rows,
    )


@dataclass(frozen=True, slots=True)
class Turn:
    """All streams once, on one way: how long it took, and processor seconds meanwhile."""

    seconds: float
    service: float
    api_server: float
    client: float
    tokens: int = STREAMS * TOKENS

    @property
    def rate(self) -> float:
        """Tokens a second."""
        return self.tokens / self.seconds


def _measure(rounds: int, stage: RealStage, runner: asyncio.Runner) -> list[Row]:
    folder = make_adapter(stage.folder / "made", stage.layers, 0)
    version = publish(stage.ledger, ADAPTER, folder).name
    runner.run(stage.ours.complete(version, prompt_of(0, PROMPT_TOKENS), 1))
    turns = interleave(
        rounds,
        lambda: runner.run(_streams(stage, stage.ours, ADAPTER)),
        lambda: runner.run(_streams(stage, stage.engine, version)),
    )
    idle = runner.run(_idle(stage))
    first = [runner.run(_first_tokens(stage)) for _ in range(1 + rounds)][1:]
    through = [turn for turn, _ in turns]
    return [
        Row(
            name=f"{STREAMS} streams, tokens a second",
            unit="tok/s",
            better="higher",
            ours=[turn.rate for turn, _ in turns],
            peer=[turn.rate for _, turn in turns],
            note=f"the client computes {_per_token(_together(through))}",
        ),
        _added("time to first token, median", first, partial(percentile, share=0.5)),
        _added("time to first token, p99", first, partial(percentile, share=0.99)),
        _cpu("CPU of a streamed token; peer: vLLM's API server", through),
        _cpu("the same of all rounds together", [_together(through)]),
        _cpu("without what they do when idle", [_less(_together(through), idle)], _at_rest(idle)),
    ]


async def _streams(stage: RealStage, side: Side, model: str) -> Turn:
    """All at once, until the last has ended."""
    before = _processors(stage)
    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for number in range(STREAMS):
            group.create_task(side.complete(model, prompt_of(number, PROMPT_TOKENS), TOKENS))
    return _turn(time.perf_counter() - began, before, _processors(stage))


async def _idle(stage: RealStage) -> Turn:
    before = _processors(stage)
    await asyncio.sleep(IDLE_S)
    return _turn(IDLE_S, before, _processors(stage))


Processors = tuple[float, float, float]


def _turn(took: float, before: Processors, after: Processors) -> Turn:
    service, api_server, client = (b - a for a, b in zip(before, after, strict=True))
    return Turn(took, service, api_server, client)


def _processors(stage: RealStage) -> Processors:
    return cpu_seconds(stage.ours.pid), cpu_seconds(stage.engine.pid), time.process_time()


Latencies = tuple[list[float], list[float]]


async def _first_tokens(stage: RealStage) -> Latencies:
    """Milliseconds of each request, ours and the engine's."""
    through: list[float] = []
    direct: list[float] = []
    sides = [(stage.ours, through), (stage.engine, direct)]
    for number in range(REQUESTS):
        for side, heard in sides if number % 2 else reversed(sides):
            # Short, since on a CPU each of its tokens takes the engine twice as long as what is looked for.
            prompt = prompt_of(number, PROMPT_TOKENS)
            heard.append(1e3 * (await side.complete(DEMO_MODEL, prompt, 1)).first)
    return through, direct


def _added(name: str, rounds: Sequence[Latencies], of: "partial[float]") -> Row:
    ours, engine = [of(mine) for mine, _ in rounds], [of(other) for _, other in rounds]
    added = spread([mine - other for mine, other in zip(ours, engine, strict=True)])
    note = f"adds {added.median:.2f} ms ({added.low:.2f}..{added.high:.2f})"
    return Row(name=name, unit="ms", better="lower", ours=ours, peer=engine, note=note)


def _cpu(name: str, turns: Sequence[Turn], note: str = "") -> Row:
    return Row(
        name=name,
        unit="us",
        better="lower",
        ours=[1e6 * turn.service / turn.tokens for turn in turns],
        peer=[1e6 * turn.api_server / turn.tokens for turn in turns],
        note=note,
    )


def _together(turns: Sequence[Turn]) -> Turn:
    """As one, since the kernel's clock has steps of 10 ms, and a turn is not many of them."""
    return Turn(
        sum(turn.seconds for turn in turns),
        sum(turn.service for turn in turns),
        sum(turn.api_server for turn in turns),
        sum(turn.client for turn in turns),
        sum(turn.tokens for turn in turns),
    )


def _less(turn: Turn, idle: Turn) -> Turn:
    """What the streams have cost beyond what passes anyway; no less than a step of the kernel's clock."""
    share, least = turn.seconds / idle.seconds, 0.01
    return Turn(
        turn.seconds,
        max(least, turn.service - share * idle.service),
        max(least, turn.api_server - share * idle.api_server),
        turn.client,
        turn.tokens,
    )


def _at_rest(idle: Turn) -> str:
    service, api_server = (1e3 * used / idle.seconds for used in (idle.service, idle.api_server))
    return f"which is {service:.1f} and {api_server:.1f} ms of a second"


def _per_token(turn: Turn) -> str:
    return f"{1e6 * turn.client / turn.tokens:.0f} us a token"
