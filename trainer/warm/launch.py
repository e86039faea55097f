"""How the ranks of a training process come about, and how they go.

The process that the worker starts is rank 0. It starts the others as its children, and they meet in a process group on
this machine. Nothing outlives it: the kernel kills the others when it dies. When one of the others dies, rank 0 ends at
once, however busy it is, which the worker notices.
"""

import ctypes
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Self

import torch
import torch.distributed as dist

from trainer.warm.crew import Crew, Solo
from trainer.warm.mailbox import WorkerGone
from trainer.warm.ranks import Ranks

log = logging.getLogger(__name__)

#: How long ranks wait for one that has hung. One that died is noticed at once.
TIMEOUT = timedelta(minutes=10)
TO_TELL_SECONDS = 1.0
#: Exit status of rank 0 where another rank has died.
LOST_A_RANK = 3
#: From <linux/prctl.h>.
PR_SET_PDEATHSIG = 1
HERE = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a rank that does not lead belongs."""

    rank: int
    size: int
    #: Of the leader's store, where the ranks find each other.
    port: int
    leader: int

    def __str__(self) -> str:
        """As one argument."""
        return f"{self.rank}/{self.size}:{self.port}:{self.leader}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """The inverse. Raises ValueError."""
        who, port, leader = text.split(":")
        rank, size = who.split("/")
        return cls(int(rank), int(size), int(port), int(leader))


def die_with_parent() -> None:
    """Have the kernel kill us when our parent dies, however busy we are. Linux only; elsewhere sockets tell."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


@contextmanager
def lead(devices: Sequence[str], base_id: str, device: torch.device) -> Iterator[Crew]:
    """The crew of this process and one more for each further device, which are started here and end with the block."""
    ranks = len(devices)
    if ranks == 1:
        yield Solo()
        return
    store, port = _serve()
    ending = threading.Event()
    followers = []
    try:
        for rank in range(1, ranks):
            place = Place(rank, ranks, port, os.getpid())
            arguments = [base_id, "--follow", str(place), "--device", devices[rank]]
            command = [sys.executable, "-m", "trainer.warm", *arguments]
            follower = subprocess.Popen(command)  # noqa: S603  our own module
            followers.append(follower)
            threading.Thread(target=_watch, args=(follower, rank, ending), daemon=True).start()
        with _group(store, 0, ranks, device):
            yield Ranks(device)
            ending.set()
    except (
        RuntimeError
    ):  # from a collective, perhaps because of a death that `_watch` is about to tell
        time.sleep(TO_TELL_SECONDS)
        raise
    finally:
        ending.set()
        for follower in followers:
            follower.kill()
            follower.wait()


@contextmanager
def follow(place: Place, device: torch.device) -> Iterator[Crew]:
    """The crew of the leader that has started this process.

    Raises:
        WorkerGone: the leader is gone already, and its worker is or will be.
    """
    if os.getppid() != place.leader:  # it died before we asked to die with it
        raise WorkerGone("the leader is gone")
    store = dist.TCPStore(HERE, place.port, timeout=TIMEOUT)
    with _group(store, place.rank, place.size, device):
        yield Ranks(device)


def _serve() -> tuple[dist.Store, int]:
    """A store on a port that the system chooses, which only this machine reaches."""
    listener = socket.create_server((HERE, 0))
    port = listener.getsockname()[1]
    store = dist.TCPStore(
        HERE,
        port,
        is_master=True,
        wait_for_workers=False,
        timeout=TIMEOUT,
        master_listen_fd=listener.detach(),
    )
    return store, port


@contextmanager
def _group(store: dist.Store, rank: int, size: int, device: torch.device) -> Iterator[None]:
    """What lies in CPU memory goes through gloo, also on GPUs: waiting for orders must not keep a GPU busy."""
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=TIMEOUT)
    yield
    # Not where something was raised: it could wait for ranks that are no longer there.
    dist.destroy_process_group()


def _watch(follower: subprocess.Popen[bytes], rank: int, ending: threading.Event) -> None:
    code = follower.wait()
    if not ending.is_set() and code != 0:
        log.error("rank %d died (%d), so that the training process ends", rank, code)
        # The main thread may be waiting for that rank, in code that nothing interrupts.
        os._exit(LOST_A_RANK)
