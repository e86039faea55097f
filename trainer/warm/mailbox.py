"""The warm process's end of the socket pair: newline-delimited JSON orders in, reports out."""

import select
import socket
from collections import deque

from trainer.messages import (
    Admit,
    Drop,
    JobReport,
    Shutdown,
    Word,
    decode_order,
    encode_report,
)

RECEIVE_BYTES = 65536


class WorkerGone(ConnectionError):
    """The other end is closed: the worker died, so that nobody will publish what is trained here."""


class Mailbox:
    """Orders are read whenever there are any; only an idle process waits for them."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._buffer = b""
        self._orders: deque[Admit | Drop | Shutdown] = deque()

    def fill(self, *, wait: float = 0.0) -> None:
        """Read what has arrived; where nothing has, wait so many seconds for an order.

        Raises:
            WorkerGone: end of file.
        """
        while self._readable(0.0 if self._orders else wait):
            try:
                received = self._connection.recv(RECEIVE_BYTES)
            except ConnectionError as error:
                raise WorkerGone(str(error)) from error
            if not received:
                raise WorkerGone("the worker closed its end")
            *lines, self._buffer = (self._buffer + received).split(b"\n")
            self._orders.extend(decode_order(line) for line in lines if line)

    def next(self) -> Admit | Drop | Shutdown | None:
        """The oldest order that was read, if any."""
        return self._orders.popleft() if self._orders else None

    @property
    def waiting(self) -> bool:
        """Whether an order was read that nobody has taken."""
        return bool(self._orders)

    @property
    def urgent(self) -> bool:
        """Whether an order is waiting that should interrupt a micro-batch."""
        return any(isinstance(order, Drop | Shutdown) for order in self._orders)

    def send(self, report: JobReport | Word) -> None:
        """Raises WorkerGone where nobody listens any more."""
        try:
            self._connection.sendall(encode_report(report))
        except ConnectionError as error:
            raise WorkerGone(str(error)) from error

    def _readable(self, wait: float) -> bool:
        readable, _, _ = select.select([self._connection], [], [], wait)
        return bool(readable)


class Following:
    """The mailbox of a rank that does not lead: the leader reads and answers."""

    #: See Mailbox.
    waiting = urgent = False

    def fill(self, *, wait: float = 0.0) -> None:
        """See Mailbox."""

    def next(self) -> None:
        """See Mailbox."""

    def send(self, report: JobReport | Word) -> None:
        """See Mailbox."""
