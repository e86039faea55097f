"""What it costs that our service stands between a client and the engine."""

import asyncio
from collections.abc import Sequence

from bench.measure import Settings, interleave, percentile, spread
from bench.stage import Way, staged
from bench.table import Row, Table

#: Pairs of requests in a round: enough that the 99th percentile is not the single worst.
REQUESTS = 200
WORDS = 2000
STREAMS = 15


def run(settings: Settings) -> Table:
    """One client, one request at a time: latency, not capacity."""
    with asyncio.Runner() as runner:
        context = staged()
        ours, engine = runner.run(context.__aenter__())
        try:
            replies = [runner.run(_replies(ours, engine)) for _ in range(1 + settings.rounds)][1:]
            streams = interleave(
                settings.rounds,
                lambda: runner.run(_chunks_per_second(ours)),
                lambda: runner.run(_chunks_per_second(engine)),
            )
        finally:
            runner.run(context.__aexit__(None, None, None))
    return Table(
        name="hop",
        what=(
            f"one client, one adapter, one request at a time, through `python -m service` (TCP) and from the engine's "
            f"Unix socket directly. The engine is the tests' fake one, which answers at once; all three are processes "
            f"of their own. Replies: {REQUESTS} pairs of requests a round, by turns one by one. Stream: {STREAMS} "
            f"replies of {WORDS} chunks a measurement"
        ),
        rows=[
            _latency("whole reply, median", replies, 0.5),
            _latency("whole reply, p99", replies, 0.99),
            Row(
                name="stream",
                unit="chunks/s",
                better="higher",
                ours=[mine for mine, _ in streams],
                peer=[other for _, other in streams],
            ),
        ],
    )


Latencies = tuple[list[float], list[float]]


async def _replies(ours: Way, engine: Way) -> Latencies:
    """Milliseconds of each request, ours and the engine's."""
    through, direct = [], []
    for number in range(REQUESTS):
        said = f"Say {number}."
        mine, my_answer = await ours.ask(said)
        other, its_answer = await engine.ask(said)
        assert my_answer == its_answer, (my_answer, its_answer)
        through.append(1e3 * mine)
        direct.append(1e3 * other)
    return through, direct


async def _chunks_per_second(way: Way) -> float:
    said = " ".join(["word"] * (WORDS - 1))  # the engine puts its name before it
    took = 0.0
    for _ in range(STREAMS):
        seconds, chunks = await way.stream(said)
        assert chunks == WORDS, chunks
        took += seconds
    return STREAMS * WORDS / took


def _latency(name: str, rounds: Sequence[Latencies], share: float) -> Row:
    ours = [percentile(through, share) for through, _ in rounds]
    engine = [percentile(direct, share) for _, direct in rounds]
    added = spread([mine - other for mine, other in zip(ours, engine, strict=True)])
    note = f"adds {added.median:.2f} ms ({added.low:.2f}..{added.high:.2f})"
    return Row(name=name, unit="ms", better="lower", ours=ours, peer=engine, note=note)
