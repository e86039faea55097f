"""Whom we dare to call. A URL comes from a client; what it leads to must not be a neighbour of ours.

The name is resolved here, once, and every address that it has is looked at. What is given back is what is connected to:
a name that means another address a moment later (DNS rebinding) gains nothing by it.
"""

import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final, TypeAlias
from urllib.parse import SplitResult, urlsplit

from adapters.errors import InvalidValue

Address: TypeAlias = IPv4Address | IPv6Address
#: Takes a host and a port, returns addresses as text. Raises OSError.
Resolver: TypeAlias = Callable[[str, int], Sequence[str]]

_LONGEST = 2048
_PORTS: Final = {"https": 443, "http": 80}
# IANA's special-purpose registries. Not `is_global`: what that says differs between releases of Python, and it takes
# addresses that carry an IPv4 address inside for public ones.
_CLOSED: Final = tuple(
    ip_network(block)
    for block in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/3",
        # Of IPv6 only what is given out as public, 2000::/3, and in there not these:
        "2001::/23",
        "2001:db8::/32",
        "2002::/16",
        "3fff::/20",
    )
)
_OPEN_V6: Final = ip_network("2000::/3")


@dataclass(frozen=True, slots=True)
class Target:
    """A URL that may be called, taken apart."""

    scheme: str
    host: str
    port: int
    #: With the query.
    path: str
    addresses: tuple[Address, ...]

    @property
    def host_header(self) -> str:
        """As HTTP's `Host` wants it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    def url_at(self, address: Address) -> str:
        """The URL with the address in the place of the name: nothing is left to resolve."""
        host = f"[{address}]" if address.version == 6 else str(address)  # noqa: PLR2004  a version
        return f"{self.scheme}://{host}:{self.port}{self.path}"


def resolve(host: str, port: int) -> list[str]:
    """The system's resolver. Raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class Guard:
    """Looks at URLs before they are called."""

    def __init__(self, *, allow_private: bool, resolver: Resolver = resolve) -> None:
        self._allow_private, self._resolver = allow_private, resolver

    def check(self, url: str, *, param: str = "url") -> Target:
        """Resolve the URL's host and look at every address. Blocks for as long as the name service takes.

        Raises:
            InvalidValue: it is no URL that may be called; the message says why.
        """
        parts = _split(url, param)
        if parts.scheme != "https" and not self._allow_private:
            raise InvalidValue(f"{param} must begin with https://.", param=param)
        host, port = _host(parts, param), _port(parts, param)
        addresses = self._addresses(host, port, param)
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        return Target(parts.scheme, host, port, path, addresses)

    def _addresses(self, host: str, port: int, param: str) -> tuple[Address, ...]:
        try:
            found = tuple(ip_address(one) for one in self._resolver(host, port))
        except (OSError, UnicodeError) as error:
            raise InvalidValue(
                f"{param}: the host '{host}' cannot be resolved.", param=param
            ) from error
        closed = [address for address in found if not is_public(address)]
        if closed and not self._allow_private:
            raise InvalidValue(
                f"{param}: the host '{host}' leads to {closed[0]}, which is not a public address. Whoever runs this "
                "server can allow that (webhooks.allow_private).",
                param=param,
            )
        return found


def is_public(address: Address) -> bool:
    """Whether it is an address out there: neither ours, nor a neighbour's, nor nobody's, nor another in disguise."""
    if isinstance(address, IPv6Address) and address not in _OPEN_V6:
        return False
    return not any(address in block for block in _CLOSED)


def _split(url: str, param: str) -> SplitResult:
    # Spaces and control characters: urlsplit would drop some of them, and say nothing.
    if len(url) > _LONGEST or not url.isprintable() or " " in url:
        raise InvalidValue(
            f"{param} must be a URL of at most {_LONGEST} characters, without spaces.", param=param
        )
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise InvalidValue(f"{param} is not a URL: {error}.", param=param) from error
    if parts.scheme not in _PORTS or not parts.netloc:
        raise InvalidValue(f"{param} must be a URL such as https://example.com/hook.", param=param)
    if parts.username is not None or parts.password is not None:
        raise InvalidValue(
            f"{param} must not carry a user name or password. Calls are signed; check the signature.",
            param=param,
        )
    return parts


def _host(parts: SplitResult, param: str) -> str:
    try:
        host = (parts.hostname or "").encode("idna").decode()
    except UnicodeError as error:
        raise InvalidValue(f"{param} has a host that cannot be a name.", param=param) from error
    if not host:
        raise InvalidValue(f"{param} has no host.", param=param)
    return host


def _port(parts: SplitResult, param: str) -> int:
    try:
        port = parts.port
    except ValueError as error:
        raise InvalidValue(f"{param} has a port that does not exist.", param=param) from error
    return port or _PORTS[parts.scheme]
