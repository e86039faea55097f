"""A guard: one small process around each process that `graft up` starts, so that nothing outlives its purpose.

    launcher ──socket──▶ guard (own session and group) ──▶ child ──▶ whatever the child starts

* The child dies: the guard kills what it left behind and exits with the child's status.
* The launcher dies, by kill -9 too: the socket closes, and the guard kills everything below it.
* The guard dies by kill -9: the kernel kills the child (PR_SET_PDEATHSIG), the launcher kills the rest of the group.

Killing the group alone would miss a descendant that made a group of its own. So the guard is a "subreaper": whoever
loses its parent below it becomes its child, and is found among its children.

It runs by its path, isolated and without site-packages (`python -I -S guard.py -- command`): 10 ms, and 11 MB
beside each of the few processes that it guards. Linux only.
"""

import ctypes
import os
import select
import signal
import sys
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
LIFELINE = 0  # standard input: the socket whose other end the launcher holds
FORWARDED = (signal.SIGTERM, signal.SIGINT)


def main() -> None:
    command = sys.argv[sys.argv.index("--") + 1 :]
    wake = wake_on_signals()
    adopt_orphans()
    child = start(command)
    tell_launcher(child)
    status = watch(child, wake)
    kill_children()
    sys.exit(status if status >= 0 else 128 - status)


def prctl(option: int, value: int) -> None:
    ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def adopt_orphans() -> None:
    """From now on, a process that loses its parent anywhere below this one becomes this one's child."""
    prctl(PR_SET_CHILD_SUBREAPER, 1)


def wake_on_signals() -> int:
    """A pipe end on which each arriving signal appears as a byte, its number."""
    wake, arrived = os.pipe()
    os.set_blocking(arrived, False)
    signal.set_wakeup_fd(arrived)
    for number in (*FORWARDED, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)
    return wake


def start(command: list[str]) -> int:
    """Fork and exec. The child joins the guard's group and dies with the guard."""
    guard = os.getpid()
    child = os.fork()
    if child:
        return child
    try:
        for number in (*FORWARDED, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != guard:  # it died before we asked to die with it
            os._exit(1)
        os.dup2(os.open(os.devnull, os.O_RDONLY), LIFELINE)
        os.execvp(command[0], command)  # noqa: S606  no shell wanted
    except OSError as error:
        os.write(2, f"cannot start {command[0]}: {error}\n".encode())
    finally:
        os._exit(127)


def tell_launcher(child: int) -> None:
    try:
        os.write(LIFELINE, f"{child}\n".encode())
    except OSError:
        return  # the launcher is gone; watch() sees it


def watch(child: int, wake: int) -> int:
    """Until the child ends (its exit code, negative for a signal) or the launcher is gone (as if killed)."""
    while True:
        ready, _, _ = select.select([LIFELINE, wake], [], [])
        if LIFELINE in ready and launcher_gone():
            return -signal.SIGKILL
        for number in os.read(wake, 64) if wake in ready else b"":
            if number == signal.SIGCHLD:
                status = reap(child)
                if status is not None:
                    return status
            else:
                os.kill(child, signal.SIGTERM)


def launcher_gone() -> bool:
    try:
        return not os.read(LIFELINE, 1)
    except ConnectionError:
        return True


def reap(child: int) -> int | None:
    """Collect whatever has ended, adopted orphans too; the child's exit code if it is among them."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return None
        if pid == 0:
            return None
        if pid == child:
            return os.waitstatus_to_exitcode(status)


def kill_children() -> None:
    """Kill every child, then the orphans that this makes, until there is none."""
    while True:
        for pid in children_of(os.getpid()):
            os.kill(pid, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def children_of(parent: int) -> list[int]:
    """From /proc/<pid>/stat: `pid (name) state parent ...`, where the name may hold spaces and brackets."""
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            fields = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()
        except OSError:
            continue  # it ended while we looked
        if int(fields[1]) == parent:
            found.append(int(folder.name))
    return found


if __name__ == "__main__":
    main()
