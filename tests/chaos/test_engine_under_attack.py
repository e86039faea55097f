"""R8 to R11: what an engine needs fails, it is killed, it hangs, its adapters come and go; clients go on asking."""

import asyncio
import random
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, closing
from pathlib import Path
from statistics import median, quantiles

import httpx

from adapters.ledger import open_ledger
from tests.chaos.balancer import CHAT, Clients, Only, streamed
from tests.chaos.machines import START_S, Common, Machine, publish
from tests.chaos.sizes import Chaos
from tests.support.faulty_link import FAULTS
from tests.support.samples import BASE

_LOOK_S = 0.02
_GONE = "engine_unavailable"


def open_machine(
    stack: ExitStack,
    home: Path,
    shared: Common,
    *,
    adapters: int = 0,
    cold: int = 0,
    **sections: object,
) -> tuple[Machine, dict[str, str]]:
    """A machine, and what each of its adapters has to say; so many more of them nobody loads ahead of use."""
    machine = stack.enter_context(closing(Machine(home / "m1", shared, **sections)))
    ledger = stack.enter_context(closing(open_ledger(shared.settings(home / "desk"))))
    contents = dict(
        publish(ledger, home / "made", f"bot-{at}", promote=at < adapters)
        for at in range(adapters + cold)
    )
    machine.open()
    return machine, contents


async def say(http: httpx.AsyncClient, machine: Machine, model: str) -> str:
    """What it answers; where that is an error, its status."""
    body = {"model": model, "messages": [{"role": "user", "content": "hello"}]}
    answer = await http.post(machine.url + CHAT, json=body)
    if answer.status_code != 200:
        assert int(answer.headers["retry-after"]) >= 1, answer.text
        return str(answer.status_code)
    return str(answer.json()["choices"][0]["message"]["content"])


async def after(condition: Callable[[], Awaitable[bool]]) -> float:
    """How many seconds it takes until that holds."""
    began = time.monotonic()
    while not await condition():
        assert time.monotonic() - began < START_S, "it never came to that"
        await asyncio.sleep(_LOOK_S)
    return time.monotonic() - began


async def test_an_engine_killed_under_load_ends_no_stream_without_a_word(
    chaos: Chaos, tmp_path: Path, shared: Common
) -> None:
    """Whoever had been told something is told that it ends; everybody else is answered by the next engine."""
    kills, dice = chaos.of_size(ci=3, release=50), chaos.dice("R9")
    noticed, back = [], []
    patient = {"engine_wait_seconds": START_S}
    with chaos.experiment("R9", "kill -9 of the engine under load") as found, ExitStack() as stack:
        machine, contents = open_machine(stack, tmp_path, shared, adapters=6, service=patient)
        clients = Clients(Only(machine.url), contents, dice)
        async with httpx.AsyncClient(timeout=60) as http, asyncio.TaskGroup() as group:

            async def ready() -> bool:
                return (await http.get(f"{machine.url}/readyz")).status_code == 200

            async def unready() -> bool:
                return not await ready()

            group.create_task(clients.ask(12))
            for _ in range(kills):
                await asyncio.sleep(dice.uniform(0.3, 1))
                machine.kill("engine")
                noticed.append(await after(unready))
                machine.start("engine")
                back.append(await after(ready))
                for model, content in contents.items():  # the new one knows of none
                    assert await say(http, machine, model) == f"{model}: {content}"
            clients.stop()
        tally = clients.tally
        assert all(_GONE in failure for failure in tally.failures), tally.failures
        found.trials, found.unit = kills, f"kills during {tally.requests:,} requests"
        found.result = (
            f"{len(tally.failures)} streams ended with an error event, all others were answered; "
            f"noticed after {median(noticed):.2f} s ({max(noticed):.2f} s at most), ready "
            f"{median(back):.1f} s ({max(back):.1f} s) after the start of the next"
        )


async def test_an_engine_that_hangs_is_noticed_and_its_streams_end_when_it_is_restarted(
    chaos: Chaos, tmp_path: Path, shared: Common
) -> None:
    """SIGSTOP. Its probe fails, and whoever watches it (a kubelet) kills it and starts another."""
    rounds = chaos.of_size(ci=1, release=5)
    noticed = []
    with chaos.experiment("R10", "SIGSTOP of the engine") as found, ExitStack() as stack:
        machine, _ = open_machine(stack, tmp_path, shared)
        said = [{"role": "user", "content": "say it 1000 times"}]
        body = {"model": BASE, "messages": said, "stream": True}
        async with httpx.AsyncClient(timeout=60) as http:

            async def ready() -> bool:
                return (await http.get(f"{machine.url}/readyz")).status_code == 200

            async def unready() -> bool:
                return not await ready()

            for _ in range(rounds):
                stream = asyncio.create_task(streamed(http, machine.url, body))
                await asyncio.sleep(0.3)
                machine.send("engine", signal.SIGSTOP)
                noticed.append(await after(unready))
                assert not await asyncio.to_thread(machine.sings)
                machine.kill("engine")
                [ended] = await asyncio.gather(stream, return_exceptions=True)
                assert _GONE in str(ended)
                machine.start("engine")
                await after(ready)
                assert await asyncio.to_thread(machine.sings)
        found.trials, found.unit = rounds, "hangs"
        found.result = (
            f"not ready after {max(noticed):.1f} s at most, its probe fails; "
            "the stream ends with an error event, the next engine answers"
        )


async def test_adapters_come_and_go_under_load_and_nobody_gets_anothers_answer(
    chaos: Chaos, tmp_path: Path, shared: Common
) -> None:
    """Two that are asked all the time, and many that are asked once each, in an engine that holds four."""
    many, dice = chaos.of_size(ci=100, release=1_000), chaos.dice("R11")
    with (
        chaos.experiment("R11", "adapters are loaded and unloaded under load") as found,
        ExitStack() as stack,
    ):
        engine = {"max_loras": 4, "max_cpu_loras": 8}
        machine, contents = open_machine(
            stack, tmp_path, shared, adapters=2, cold=many, engine=engine
        )
        steady = dict(list(contents.items())[:2])
        quiet = await asked(machine, steady, dice, 3.0)
        others = {name: it for name, it in contents.items() if name not in steady}
        clients = Clients(Only(machine.url), steady, dice)
        async with httpx.AsyncClient(timeout=60) as http, asyncio.TaskGroup() as group:
            group.create_task(clients.ask(4))
            order = dice.sample(list(others), len(others))
            for model in order:
                assert await say(http, machine, model) == f"{model}: {others[model]}"
            clients.stop()
        assert clients.tally.failures == []
        found.trials, found.unit = many, "adapters"
        slower = p99(clients.tally.seconds) / p99(quiet)
        found.result = (
            f"0 of {clients.tally.requests + many:,} requests dropped, 0 answers from a wrong adapter; "
            f"the p99 of those that stay is {slower:.1f} times that without loads"
        )


async def test_a_bucket_that_fails_costs_loaded_adapters_nothing_and_gives_nobody_another(
    chaos: Chaos, tmp_path: Path, shared: Common
) -> None:
    """Each kind of fault while an adapter is fetched; then it is away, and whoever needs it is told to come back."""
    away = chaos.of_size(ci=2, release=60)
    with (
        chaos.experiment("R8", "S3 fails in every way, and is away") as found,
        ExitStack() as stack,
    ):
        machine, contents = open_machine(stack, tmp_path, shared, adapters=2, cold=len(FAULTS) + 1)
        warm, cold = dict(list(contents.items())[:2]), list(contents.items())[2:]
        clients = Clients(Only(machine.url), warm, chaos.dice("R8"))
        async with httpx.AsyncClient(timeout=60) as http, asyncio.TaskGroup() as group:
            for model, content in warm.items():
                assert await say(http, machine, model) == f"{model}: {content}"
            group.create_task(clients.ask(4))
            for fault, (model, content) in zip(FAULTS, cold, strict=False):
                shared.link.plan(fault, times=2, method="GET", path="versions/")
                assert await say(http, machine, model) == f"{model}: {content}", fault
                assert shared.link.all_done
            [(model, content)] = cold[len(FAULTS) :]
            shared.link.down, began = True, time.monotonic()
            while time.monotonic() - began < away:
                assert await say(http, machine, model) == "503"
            shared.link.down = False

            async def is_back() -> bool:
                return await say(http, machine, model) == f"{model}: {content}"

            back = await after(is_back)
            clients.stop()
        assert clients.tally.failures == []
        found.trials, found.unit = len(FAULTS) + 1, f"faults, the last for {away} s"
        found.result = (
            f"0 of {clients.tally.requests:,} requests for loaded adapters failed; every other one "
            f"was fetched whole, and {back:.1f} s after the bucket was back"
        )


async def asked(
    machine: Machine, contents: dict[str, str], dice: random.Random, seconds: float
) -> list[float]:
    """How long the shortest answers take while nothing is loaded."""
    clients = Clients(Only(machine.url), contents, dice)
    async with asyncio.TaskGroup() as group:
        group.create_task(clients.ask(4))
        await asyncio.sleep(seconds)
        clients.stop()
    assert clients.tally.failures == []
    return clients.tally.seconds


def p99(seconds: list[float]) -> float:
    return quantiles(seconds, n=100)[-1]
