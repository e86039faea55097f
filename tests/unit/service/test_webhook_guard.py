from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given, strategies as st

from adapters.errors import InvalidValue
from service.webhooks.guard import Guard, is_public, resolve

PUBLIC = ["8.8.8.8", "1.1.1.1", "100.63.0.1", "172.32.0.1", "2606:4700::1111", "2a00:1450::1"]
CLOSED = [
    "0.0.0.0",
    "10.1.2.3",
    "100.64.0.1",
    "127.0.0.1",
    "127.255.255.254",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.8",
    "192.168.1.1",
    "198.18.0.1",
    "224.0.0.1",
    "239.1.1.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:8.8.8.8",
    "64:ff9b::7f00:1",
    "64:ff9b:1::1",
    "2001::1",
    "2001:db8::1",
    "2002:7f00:1::",
    "fc00::1",
    "fd12::1",
    "fe80::1",
    "fe80::1%lo",
    "fec0::1",
    "ff02::1",
    "ff0e::1",
]


def guard(*addresses: str, allow_private: bool = False) -> Guard:
    return Guard(allow_private=allow_private, resolver=lambda _host, _port: addresses)


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_may_be_called(address: str) -> None:
    target = guard(address).check("https://hooks.example/in?x=1")
    assert target.addresses == (ip_address(address),)
    assert (target.host, target.port, target.path) == ("hooks.example", 443, "/in?x=1")


@pytest.mark.parametrize("address", CLOSED)
def test_an_address_that_is_not_public_is_refused(address: str) -> None:
    with pytest.raises(InvalidValue, match=r"not a public address.*webhooks\.allow_private"):
        guard(address).check("https://hooks.example/in")


def test_one_closed_address_among_open_ones_is_enough() -> None:
    with pytest.raises(InvalidValue, match=r"10\.0\.0\.1"):
        guard("8.8.8.8", "10.0.0.1").check("https://hooks.example/in")


@given(st.ip_addresses(v=4))
def test_what_python_knows_to_be_private_is_never_public(address: IPv4Address) -> None:
    if address.is_private or address.is_multicast or address.is_reserved or address.is_loopback:
        assert not is_public(address)


@given(st.ip_addresses(v=4))
def test_an_ipv4_address_in_the_clothes_of_ipv6_is_never_public(address: IPv4Address) -> None:
    number = int(address)
    for prefix in ("::", "::ffff:0:0", "64:ff9b::"):
        assert not is_public(IPv6Address(int(IPv6Address(prefix)) + number))
    assert not is_public(IPv6Address((0x2002 << 112) + (number << 80)))


@pytest.mark.parametrize(
    "host", ["localhost", "127.0.0.1", "127.1", "0x7f.1", "0177.0.0.1", "2130706433", "[::1]", "0"]
)
def test_this_machine_is_refused_however_it_is_spelt(host: str) -> None:
    with pytest.raises(InvalidValue):
        Guard(allow_private=False, resolver=resolve).check(f"https://{host}/")


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://hooks.example/", "https://"),
        ("ftp://hooks.example/", "must be a URL"),
        ("hooks.example", "must be a URL"),
        ("", "must be a URL"),
        ("https://", "must be a URL"),
        ("https://user:pass@hooks.example/", "password"),
        ("https://user@hooks.example/", "password"),
        ("https://hooks.example:99999/", "port"),
        ("https://hooks.example:x/", "port"),
        ("https://[::1/", "not a URL"),
        ("https://:443/", "no host"),
        ("https://hooks.example/a b", "spaces"),
        ("https://hooks.example/\r\nHost: x", "spaces"),
        ("https://hooks.\texample/", "spaces"),
        ("https://" + "a" * 300 + ".example/", "cannot be a name"),
        ("https://hooks.example/" + "a" * 2048, "2048"),
    ],
)
def test_what_is_no_url_to_call_is_refused_with_a_reason(url: str, says: str) -> None:
    with pytest.raises(InvalidValue, match=says) as caught:
        guard("8.8.8.8").check(url, param="webhook.url")
    assert caught.value.param == "webhook.url"


def test_a_name_that_nobody_knows_is_refused() -> None:
    def nobody(_host: str, _port: int) -> Sequence[str]:
        raise OSError("Name or service not known")

    with pytest.raises(InvalidValue, match="cannot be resolved"):
        Guard(allow_private=True, resolver=nobody).check("https://hooks.example/")


def test_where_it_is_allowed_private_addresses_and_http_will_do() -> None:
    target = guard("10.0.0.7", allow_private=True).check("http://receiver.svc:8080/in")
    assert target.url_at(target.addresses[0]) == "http://10.0.0.7:8080/in"
    assert target.host_header == "receiver.svc:8080"


def test_the_address_stands_in_the_place_of_the_name() -> None:
    target = guard("2a00:1450::1").check("https://hooks.example")
    assert target.url_at(target.addresses[0]) == "https://[2a00:1450::1]:443/"
    assert target.host_header == "hooks.example"


def test_a_name_in_another_script_is_asked_for_as_the_wire_spells_it() -> None:
    assert guard("8.8.8.8").check("https://bücher.example/").host == "xn--bcher-kva.example"
