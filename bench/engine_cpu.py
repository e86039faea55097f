"""An engine on a CPU as we start it, with all cores in one process, against vLLM's own way."""

import asyncio
import itertools
import json
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from adapters.layers import read_layers
from adapters.ledger import open_ledger
from adapters.settings import DEMO_MODEL, LedgerSettings
from bench.demo import MODELS, demo_model
from bench.made import make_adapter, prompt_of
from bench.measure import Better, Settings, percentile
from bench.processes import configure, python, running
from bench.real_stage import PATIENCE, Side
from bench.table import Row, Table
from service.engine.client import VllmEngine

ADAPTER = "bench"
#: Tokens of prompts that are answered by one token, one request at a time, and how many of each in a turn.
PROMPTS, REQUESTS = (4, 17, 40), 12
#: Streams at a time, and tokens of each.
STREAMS, TOKENS = (1, 8), 24
#: Longer than an engine of vLLM's goes on looking for work without sleeping.
REST_S = 1.5
#: How vLLM is told to have the model in a process of its own.
THEIRS = {"GRAFT_ENGINE_EXTRA_ARGS": json.dumps(["--distributed-executor-backend", "mp"])}


def run(settings: Settings) -> Table:
    """Both engines are up all the time, and asked by turns."""
    demo_model(settings)
    with asyncio.Runner() as runner:
        rows = runner.run(_measure(settings))
    return Table(
        name="engine_cpu",
        what=(
            "vLLM with our flags, as `python -m service.engine` starts it, asked on its Unix socket, against the same with "
            "--distributed-executor-backend mp, which is vLLM's way on a CPU: the model in a process of its own, on all "
            f"cores but one. Demo model, float32, an adapter of rank 16. First tokens: the median of {REQUESTS} requests, one "
            f"at a time; streams: {TOKENS} tokens each, of prompts of {PROMPTS[0]}"
        ),
        rows=rows,
    )


@dataclass(frozen=True, slots=True)
class Turn:
    """What one engine did: milliseconds to a first token by length of the prompt, tokens a second by streams."""

    firsts: Mapping[int, float]
    rates: Mapping[int, float]


async def _measure(settings: Settings) -> list[Row]:
    async with _engine(settings, {}) as ours, _engine(settings, THEIRS) as theirs:
        numbers = itertools.count()
        sides = (ours, theirs)
        rounds = range(1 + settings.rounds)
        turns = [[await _turn(side, numbers) for side in sides] for _ in rounds]
        mine, other = zip(*turns[1:], strict=True)  # the first is thrown away
    firsts = {
        f"first token of {n} in": [[t.firsts[n] for t in side] for side in (mine, other)]
        for n in PROMPTS
    }
    rates = {
        f"{n} streams": [[t.rates[n] for t in side] for side in (mine, other)] for n in STREAMS
    }
    return [*_rows(firsts, "ms", "lower"), *_rows(rates, "tok/s", "higher")]


def _rows(figures: Mapping[str, list[list[float]]], unit: str, better: Better) -> list[Row]:
    """Of what both sides came to, by name."""
    return [
        Row(name=name, unit=unit, better=better, ours=ours, peer=peer)
        for name, (ours, peer) in figures.items()
    ]


async def _turn(side: Side, numbers: "itertools.count[int]") -> Turn:
    await asyncio.sleep(REST_S)
    firsts = {count: await _first(side, count, numbers) for count in PROMPTS}
    return Turn(firsts, {count: await _rate(side, count, numbers) for count in STREAMS})


async def _first(side: Side, count: int, numbers: "itertools.count[int]") -> float:
    waits = [
        1e3 * (await side.complete(ADAPTER, prompt_of(next(numbers), count), 1)).first
        for _ in range(REQUESTS)
    ]
    return percentile(waits, 0.5)


async def _rate(side: Side, count: int, numbers: "itertools.count[int]") -> float:
    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(count):
            group.create_task(side.complete(ADAPTER, prompt_of(next(numbers), PROMPTS[0]), TOKENS))
    return count * TOKENS / (time.perf_counter() - began)


@asynccontextmanager
async def _engine(settings: Settings, environment: Mapping[str, str]) -> AsyncIterator[Side]:
    """One engine that has the adapter."""
    with tempfile.TemporaryDirectory(prefix="graft-bench-") as directory:
        home = Path(directory)
        (home / "models").symlink_to(settings.home / "models")
        ledger = LedgerSettings(home=home, base_models=MODELS, database_url="")
        config, socket = configure(ledger, home), ledger.engine_socket(DEMO_MODEL)
        open_ledger(ledger).close()
        command = python(config, "service.engine", DEMO_MODEL, **environment)
        connector, timeout = aiohttp.UnixConnector(str(socket)), aiohttp.ClientTimeout(PATIENCE)
        with running(command, home / "engine.log", grace=20) as process:
            async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
                engine = VllmEngine(socket, DEMO_MODEL)
                while not await engine.healthy():
                    assert process.poll() is None, "the engine has ended"
                    await asyncio.sleep(0.2)
                layers = read_layers(settings.home / "models" / DEMO_MODEL) or {}
                await engine.load(ADAPTER, make_adapter(home / "made", layers, 0))
                await engine.close()
                yield Side(session, "http://engine", process.pid)
