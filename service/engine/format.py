"""Which numbers an engine computes in. It says so beside its socket: in a pod, the service does not see its GPU."""

from pathlib import Path

from adapters.durable import write_text


def write_number_format(socket: Path, number_format: str) -> None:
    """Before the engine listens on the socket. Raises OSError."""
    write_text(_path(socket), number_format)


def read_number_format(socket: Path, *, otherwise: str) -> str:
    """What the engine said that listens there; `otherwise` where it said nothing, as an older release does not."""
    try:
        return _path(socket).read_text().strip() or otherwise
    except OSError:
        return otherwise


def _path(socket: Path) -> Path:
    return socket.with_suffix(".dtype")
