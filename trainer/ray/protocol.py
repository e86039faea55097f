"""What we need of a cluster, and what it needs to know of a trainer that it is to keep alive."""

import hashlib
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol
from urllib.parse import urlsplit

from adapters.settings import LedgerSettings

#: How names of trainers begin. What else there is in a namespace is somebody else's.
PREFIX = "trainer-"


class State(StrEnum):
    """How a trainer is."""

    #: For a place, for its start, or nothing was heard of it: the cluster looks after that.
    WAITING = "waiting"
    WORKING = "working"
    #: It has given back its jobs and does nothing any more; its place is still its own.
    DRAINED = "drained"
    #: It could not be started, and the cluster will not try again.
    BROKEN = "broken"


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What a trainer is told. No secret: Ray keeps it where every node can read it."""

    name: str
    #: Of the ledger that it is to find in its own configuration.
    mark: str
    gpu: bool
    forsaken_seconds: float


class Cluster(Protocol):
    """Places that trainers can have, and those that have one. What is known of them is asked anew each time."""

    def devices(self) -> int:
        """How many trainers the nodes that are there have room for."""

    def trainers(self) -> Mapping[str, State]:
        """All of this crew, whoever placed them, by name. They hear from it that they are wanted."""

    def place(self, name: str) -> None:
        """Have one of that name. Where there is one, it stays as it is."""

    def drain(self, name: str) -> None:
        """Ask it to write checkpoints and give back its jobs. Returns at once."""

    def remove(self, name: str) -> None:
        """End it, whatever it does, and free its place. Where there is none, nothing happens."""


def mark_of(ledger: LedgerSettings) -> str:
    """The same wherever the same database is meant: 12 hexadecimal digits, in which no password has a part.

    A file counts as this machine's own: somewhere else there is another one under its path.
    """
    url = urlsplit(ledger.database)
    where = url.netloc.rpartition("@")[2] or socket.gethostname()
    return hashlib.sha256(f"{where}{url.path}?{url.query}".encode()).hexdigest()[:12]
