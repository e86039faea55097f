"""The launcher with small children of the test's own: what restarts, what ends, and that nothing is left behind."""

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from cli.launcher.home import Home, HomeLocked

ROOT = Path(__file__).parents[3]
DRIVER = Path(__file__).with_name("driver.py")

SLEEPER = "import time; time.sleep(600)"
#: Like vLLM's API server: a child in its group, and another one in a session of its own.
FAMILY = """
import subprocess, sys, time
sleeper = [sys.executable, "-c", "import time; time.sleep(600)"]
subprocess.Popen(sleeper)
subprocess.Popen(sleeper, start_new_session=True)
print("family complete", flush=True)
time.sleep(600)
"""
CRASHER = "import sys; print('out of luck', flush=True); sys.exit(3)"
STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("deaf", flush=True)
while True: time.sleep(600)
"""
SAYS_GOODBYE = """
import pathlib, signal, sys, time
def end(*_):
    with open({path!r}, "a") as file: file.write({name!r} + "\\n")
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
print("polite", flush=True)
while True: time.sleep(600)
"""


class Launched:
    """A running launcher, and eyes on everything that it started (by a mark in the environment)."""

    def __init__(self, mark: str, home: Path, table: dict[str, str], grace: float) -> None:
        self.mark = mark
        self.home = Home(home)
        self.screen = home.with_name("screen")
        with self.screen.open("wb") as screen:
            self.process = subprocess.Popen(
                [sys.executable, str(DRIVER), str(home), json.dumps(table), str(grace)],
                stdout=screen,
            )

    def marked(self) -> set[int]:
        found = set()
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit():
                try:
                    if self.mark.encode() in (folder / "environ").read_bytes():
                        found.add(int(folder.name))
                except OSError:
                    continue
        return found

    def pid(self, name: str, other_than: int | None = None) -> int:
        until(lambda: self.home.read_table().get(name) not in {None, other_than})
        return self.home.read_table()[name]

    def logged(self, name: str, text: str) -> None:
        log = self.home.log_file(name)
        until(lambda: log.exists() and text in log.read_text())

    def finish(self, *signals: int) -> str:
        for number in signals:
            self.process.send_signal(number)
            time.sleep(0.2)
        self.process.wait(timeout=10)
        return self.screen.read_text()


def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def guard_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def running(pid: int) -> bool:
    return (
        Path(f"/proc/{pid}/environ").exists() and b"=" in Path(f"/proc/{pid}/environ").read_bytes()
    )


@pytest.fixture
def launch(tmp_path: Path, monkeypatch) -> Iterator[Callable[..., Launched]]:
    started: list[Launched] = []
    mark = str(uuid.uuid4())
    monkeypatch.setenv("GRAFT_TEST_MARK", mark)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))

    def start(grace: float = 20.0, **table: str) -> Launched:
        started.append(Launched(f"GRAFT_TEST_MARK={mark}", tmp_path / "home", table, grace))
        return started[-1]

    yield start
    for launched in started:
        for pid in launched.marked():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        launched.process.wait()


def test_a_child_that_is_killed_is_restarted_and_its_whole_family_is_gone(launch):
    launched = launch(engine=FAMILY)
    launched.logged("engine", "family complete")
    first = launched.pid("engine")
    before = launched.marked()
    os.kill(first, signal.SIGKILL)
    launched.pid("engine", other_than=first)
    assert before & launched.marked() == {launched.process.pid}
    assert "engine: was killed by SIGKILL" in launched.finish(signal.SIGTERM)


def test_a_guard_that_is_killed_takes_everything_with_it_and_is_restarted(launch):
    launched = launch(engine=FAMILY)
    launched.logged("engine", "family complete")
    first = launched.pid("engine")
    before = launched.marked()
    os.kill(guard_of(first), signal.SIGKILL)
    launched.pid("engine", other_than=first)
    assert before & launched.marked() == {launched.process.pid}
    launched.finish(signal.SIGTERM)
    assert launched.marked() == set()


def test_a_launcher_that_is_killed_leaves_no_orphan(launch):
    launched = launch(engine=FAMILY, service=SLEEPER, trainer=STUBBORN)
    launched.logged("engine", "family complete")
    launched.logged("trainer", "deaf")
    launched.pid("service")
    assert len(launched.marked()) == 1 + 3 * 2 + 2
    launched.process.kill()
    until(lambda: launched.marked() == set(), seconds=3)


def test_killing_launcher_and_guards_at_once_still_ends_the_children(launch):
    launched = launch(service=SLEEPER)
    child = launched.pid("service")
    guard = guard_of(child)
    os.kill(launched.process.pid, signal.SIGSTOP)
    os.kill(guard, signal.SIGKILL)
    launched.process.kill()
    until(lambda: launched.marked() == set(), seconds=3)


def test_a_crashing_child_is_restarted_with_growing_pauses_and_its_last_words_are_shown_once(
    launch,
):
    launched = launch(trainer=CRASHER)
    until(lambda: "in 2 s" in launched.screen.read_text())
    said = launched.finish(signal.SIGTERM)
    assert [f"in {delay} s" in said for delay in ("0.5", "1", "2", "4")] == [
        True,
        True,
        True,
        False,
    ]
    assert "trainer: exited with 3" in said
    assert said.count("| out of luck") == 1


def test_shutdown_goes_in_the_order_of_the_stages_and_exits_with_zero(launch, tmp_path):
    path = str(tmp_path / "goodbyes")
    names = ["service", "trainer", "engine"]
    launched = launch(**{name: SAYS_GOODBYE.format(path=path, name=name) for name in names})
    for name in names:
        launched.logged(name, "polite")
    launched.finish(signal.SIGTERM)
    assert launched.process.returncode == 0
    assert Path(path).read_text().split() == names
    assert launched.marked() == set()
    assert launched.home.read_table().keys() == {"launcher"}


def test_a_child_that_ignores_the_request_is_killed_after_its_grace(launch):
    launched = launch(grace=0.5, trainer=STUBBORN)
    launched.logged("trainer", "deaf")
    assert "did not end in time" in launched.finish(signal.SIGTERM)
    assert launched.process.returncode == 0
    assert launched.marked() == set()


def test_a_second_interrupt_kills_at_once(launch):
    launched = launch(grace=60, trainer=STUBBORN, engine=STUBBORN)
    launched.logged("trainer", "deaf")
    launched.logged("engine", "deaf")
    began = time.monotonic()
    launched.finish(signal.SIGINT, signal.SIGINT)
    assert time.monotonic() - began < 3
    assert launched.process.returncode == 0
    assert launched.marked() == set()


def test_the_table_names_running_processes(launch):
    launched = launch(service=SLEEPER, trainer=SLEEPER)
    pids = [launched.pid("service"), launched.pid("trainer"), launched.pid("launcher")]
    assert all(running(pid) for pid in pids)
    assert launched.home.read_table()["launcher"] == launched.process.pid


def test_a_second_launcher_on_the_same_home_is_told_who_holds_it(launch):
    launched = launch(service=SLEEPER)
    launched.pid("service")
    with pytest.raises(HomeLocked, match=rf"pid {launched.process.pid}\b"):
        launched.home.lock()
    launched.process.kill()
    launched.process.wait()
    launched.home.lock().close()
