"""Keeps a table of processes running, and ends them in order.

All that happens here happens in one thread: between two awaits, the table is true.
"""

import asyncio
import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import groupby

from cli import guard
from cli.launcher.backoff import Backoff
from cli.launcher.child import Child, ChildSpec, describe_exit
from cli.launcher.home import Home
from cli.launcher.report import Report


@dataclass(slots=True)
class _Kept:
    """One line of the table."""

    spec: ChildSpec
    child: Child | None = None  # None while it waits to be started again
    pid: int | None = None
    stopping: asyncio.Event = field(default_factory=asyncio.Event)


class Supervisor:
    """Starts what it is given; restarts what dies; stops when told.

    `grace` is how long a process may take to end on SIGTERM: the trainer writes a checkpoint in it.
    """

    def __init__(
        self,
        specs: Sequence[ChildSpec],
        home: Home,
        report: Report,
        *,
        environment: Mapping[str, str],
        grace: float = 20.0,
    ) -> None:
        self._kept = [_Kept(spec) for spec in sorted(specs, key=lambda spec: spec.stage)]
        self._home = home
        self._report = report
        self._environment = environment
        self._grace = grace
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()

    def stop(self) -> None:
        """First call: end everything in order. Second call: kill everything now."""
        if self._stop.is_set():
            self._hurry.set()
        self._stop.set()

    async def run(self) -> None:
        """Until `stop`. If keeping a process fails for a reason of our own, end all of them, then raise it."""
        guard.adopt_orphans()
        self._write_table()
        tasks = [asyncio.create_task(self._keep(kept)) for kept in self._kept]
        stop = asyncio.create_task(self._stop.wait())
        await asyncio.wait([stop, *tasks], return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        self._report.stopping()
        for _, stage in groupby(
            zip(self._kept, tasks, strict=True), key=lambda pair: pair[0].spec.stage
        ):
            await asyncio.gather(*(self._end(kept, task) for kept, task in stage))
        self._report.stopped()
        for task in tasks:
            task.result()

    async def _keep(self, kept: _Kept) -> None:
        backoff = Backoff()
        while not kept.stopping.is_set():
            child = self._start(kept)
            kept.pid = await child.pid()
            self._write_table()
            await child.ended()
            code = child.bury()
            kept.child = kept.pid = None
            self._kill_strays()
            self._write_table()
            if kept.stopping.is_set():
                return
            delay = backoff.after(child.lived())
            said = self._home.last_lines(kept.spec.name, since=child.log_start)
            self._report.died(kept.spec.name, describe_exit(code), delay, said)
            with suppress(TimeoutError):
                await asyncio.wait_for(kept.stopping.wait(), delay)

    def _start(self, kept: _Kept) -> Child:
        with self._home.open_log(kept.spec.name) as log:
            kept.child = Child(kept.spec, self._environment, log)
        self._report.started(kept.spec.name)
        return kept.child

    async def _end(self, kept: _Kept, task: asyncio.Task[None]) -> None:
        kept.stopping.set()
        if kept.child:
            kept.child.terminate()
        hurry = asyncio.create_task(self._hurry.wait())
        await asyncio.wait([task, hurry], timeout=self._grace, return_when=asyncio.FIRST_COMPLETED)
        hurry.cancel()
        if kept.child:
            self._report.killing(kept.spec.name)
            kept.child.kill()
        await asyncio.wait([task])

    def _kill_strays(self) -> None:
        """Kill the orphans that came to us because their guard was killed and they had left its group."""
        guards = {kept.child.guard_pid for kept in self._kept if kept.child}
        while strays := set(guard.children_of(os.getpid())) - guards:
            for pid in strays:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)

    def _write_table(self) -> None:
        running = {kept.spec.name: kept.pid for kept in self._kept if kept.pid is not None}
        self._home.write_table({"launcher": os.getpid(), **running})
