"""A link to an S3 server on which things go wrong when a test says so: cut, slow, 500, torn, forged."""

import socket
import socketserver
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import Self

#: What can go wrong with a request.
#: `cut`: the connection ends before anything is answered. `error`: 500, and the server has not been asked.
#: `torn`: half of the answer's body, then the connection ends. `short`: half of it, with a header that says so.
#: `forged`: a byte of the body is another. `etag`: the ETag is another. `slow`: nothing for `SLOW_S` seconds.
#: `lost`: the server has done it, and the answer does not arrive.
FAULTS = ("cut", "error", "torn", "short", "forged", "etag", "slow", "lost")
SLOW_S = 0.1
_ERROR = b"HTTP/1.1 500 Oh no\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


@dataclass
class _Planned:
    fault: str
    method: str
    path: str


class FaultyLink:
    """Listens on a port of its own while it is entered, and passes on what comes."""

    def __init__(self, upstream: int) -> None:
        self._upstream = upstream
        self._planned: deque[_Planned] = deque()
        self._guard = threading.Lock()
        #: Methods and paths of what came.
        self.seen: list[tuple[str, str]] = []
        #: Whether nobody answers at all.
        self.down = False
        link = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                link._serve(self.request)

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self.port: int = self._server.server_address[1]

    def plan(self, fault: str, *, times: int = 1, method: str = "", path: str = "") -> None:
        """Let this go wrong with the next requests of that method whose path contains that."""
        assert fault in FAULTS
        self._planned.extend([_Planned(fault, method, path)] * times)

    def forget(self) -> None:
        """Let nothing of what was planned go wrong."""
        self._planned.clear()

    @property
    def all_done(self) -> bool:
        """Whether everything that was planned has gone wrong."""
        return not self._planned

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _serve(self, client: socket.socket) -> None:
        if self.down:
            return
        try:
            head, body = _read_message(client)
        except (ConnectionError, ValueError):
            return
        method, path, _ = head.split(b"\r\n", 1)[0].decode().split(" ", 2)
        with self._guard:
            self.seen.append((method, path))
            fault = self._fault_of(method, path)
        if self.down or fault == "cut":
            return
        if fault == "error":
            client.sendall(_ERROR)
            return
        if fault == "slow":
            time.sleep(SLOW_S)
        answer = self._ask(head, body)
        if fault != "lost":
            client.sendall(_spoilt(answer, fault))

    def _fault_of(self, method: str, path: str) -> str | None:
        for planned in list(self._planned):
            if planned.method in {"", method} and planned.path in path:
                self._planned.remove(planned)
                return planned.fault
        return None

    def _ask(self, head: bytes, body: bytes) -> bytes:
        """One request a connection, so that the answer ends where the connection does."""
        lines = [
            line for line in head.split(b"\r\n") if not line.lower().startswith(b"connection:")
        ]
        with socket.create_connection(("127.0.0.1", self._upstream)) as server:
            server.sendall(b"\r\n".join([*lines, b"Connection: close"]) + b"\r\n\r\n" + body)
            pieces = []
            while piece := server.recv(1 << 16):
                pieces.append(piece)
        return b"".join(pieces)


def _read_message(client: socket.socket) -> tuple[bytes, bytes]:
    data = b""
    while b"\r\n\r\n" not in data:
        more = client.recv(1 << 16)
        if not more:
            raise ConnectionError
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    size = int(_header(head, b"content-length") or 0)
    while len(body) < size:
        more = client.recv(1 << 16)
        if not more:
            raise ConnectionError
        body += more
    return head, body


def _header(head: bytes, name: bytes) -> bytes | None:
    for line in head.split(b"\r\n")[1:]:
        found, _, value = line.partition(b":")
        if found.strip().lower() == name:
            return value.strip()
    return None


def _spoilt(answer: bytes, fault: str | None) -> bytes:
    head, gap, body = answer.partition(b"\r\n\r\n")
    half = body[: len(body) // 2]
    match fault:
        case "torn":
            return head + gap + half
        case "short":
            lines = [
                b"Content-Length: %d" % len(half)
                if line.lower().startswith(b"content-length:")
                else line
                for line in head.split(b"\r\n")
            ]
            return b"\r\n".join(lines) + gap + half
        case "forged" if body:
            return head + gap + body[:-1] + bytes([body[-1] ^ 1])
        case "etag":
            lines = [
                b'ETag: "00000000000000000000000000000000"'
                if line.lower().startswith(b"etag:")
                else line
                for line in head.split(b"\r\n")
            ]
            return b"\r\n".join(lines) + gap + body
        case _:
            return answer
