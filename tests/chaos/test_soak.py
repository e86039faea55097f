"""R15: hours of everything at once, in minutes: what grows with it shows as a slope."""

import asyncio
import time
from contextlib import ExitStack, closing
from pathlib import Path

import httpx
import pytest

from tests.chaos.custom import Custom
from tests.chaos.machines import Common, Machine
from tests.chaos.nursery import Nursery, Order, Process
from tests.chaos.sizes import CI, RELEASE, Chaos
from tests.chaos.vitals import LONG_BOUND, SHORT_BOUND, Vitals, growth, rises, tenths, vitals
from tests.chaos.watched import TASKS

_MB = 1 << 20
_SAMPLE_S = 0.5
#: A soak of the full size lasts an hour, of which the first ten minutes are for warming up.
_HOUR = 3600.0
_MORE = {"files": 8, "threads": 3, "tasks": 8}


async def test_what_is_asked_all_the_time_leaves_nothing_behind(
    chaos: Chaos,
    nursery: Nursery,
    tmp_path: Path,
    shared: Common,
    pytestconfig: pytest.Config,
) -> None:
    seconds = float(pytestconfig.getoption("--soak"))
    size = RELEASE if seconds >= _HOUR else CI
    bound = LONG_BOUND if size == RELEASE else SHORT_BOUND
    with (
        chaos.experiment("R15", "soak: answers, streams, files, jobs and new adapters") as found,
        ExitStack() as stack,
    ):
        machines = [
            stack.enter_context(
                closing(Machine(tmp_path / name, shared, module="tests.chaos.watched"))
            )
            for name in ("m1", "m2")
        ]
        workers = []
        for machine in machines:
            machine.open()
            order = Order(
                home=str(machine.home),
                database_url=shared.database_url,
                store=shared.store,
                name=machine.home.name,
                step_seconds=0.02,
            )
            workers.append(nursery.bear(order))
            stack.callback(workers[-1].kill)
        custom = Custom([machine.url for machine in machines], chaos.dice("R15"))
        async with asyncio.TaskGroup() as group:
            group.create_task(custom.come(8))
            warm = seconds / (6 if size == RELEASE else 3)
            await asyncio.sleep(warm)
            courses = await watch(machines, workers, seconds - warm)
            custom.stop()
        assert custom.unforeseen() == {}
        slopes = {name: growth(course) for name, course in courses.items()}
        print({name: f"{slope / 1024:.2f} kB/s" for name, slope in slopes.items()})  # noqa: T201
        print({name: rises(course) for name, course in courses.items()})  # noqa: T201
        # Growth that ends looks otherwise than growth that goes on.
        print({name: tenths(course) for name, course in courses.items()})  # noqa: T201
        assert max(slopes.values()) < bound, slopes
        for name, course in courses.items():
            grown = {what: by for what, by in rises(course).items() if by > _MORE[what]}
            assert not grown, f"{name} has ever more: {grown}"
        steepest = max(slopes, key=lambda name: slopes[name])
        found.size, found.bounded = size, False
        found.trials, found.unit = custom.answers.total(), f"answers in {seconds / 60:.1f} min"
        found.result = (
            f"{custom.jobs:,} jobs and adapters; 0 unforeseen answers; memory grows by at most "
            f"{slopes[steepest] * _HOUR / _MB:.1f} MB/h ({steepest}); files, threads and tasks do not"
        )


async def watch(
    machines: list[Machine], workers: list[Process], seconds: float
) -> dict[str, list[Vitals]]:
    """How each process does, sampled for so many seconds."""
    courses: dict[str, list[Vitals]] = {}
    began = time.monotonic()
    async with httpx.AsyncClient(timeout=60) as http:
        while (at := time.monotonic() - began) < seconds:
            for machine, worker in zip(machines, workers, strict=True):
                name = machine.home.name
                tasks = int((await http.get(machine.url + TASKS)).text)
                seen = vitals(machine.pid("service"), at, tasks)
                courses.setdefault(f"service {name}", []).append(seen)
                courses.setdefault(f"trainer {name}", []).append(vitals(worker.pid, at))
            await asyncio.sleep(_SAMPLE_S)
    return courses
