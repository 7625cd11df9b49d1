"""Addresses in one spelling, and which names of this host no web page can have."""

import pytest

from cahoots_vllm.core.addresses import (
    host_of,
    is_exposed,
    is_loopback_name,
    is_own_name,
    read_addresses,
)

ALL, ALL6 = "0.0.0.0", "::"  # noqa: S104 (texts)


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (["127.0.0.1", "::1"], ("127.0.0.1", "::1")),
        (["0:0:0:0:0:0:0:1", "[::1]"], ("::1",)),
        (["localhost"], ("127.0.0.1", "::1")),
        (["127.0.0.1", "::1", ALL], ("::1", ALL)),
        ([ALL6, "::1", ALL, "10.0.0.1"], (ALL6, ALL)),
        (["::ffff:10.0.0.1"], ("10.0.0.1",)),
        (["/run/x.sock", "unix:/run/x.sock"], ("unix:/run/x.sock",)),
        (["/run/x.sock", ALL], ("unix:/run/x.sock", ALL)),
    ],
)
def test_addresses_are_read_into_one_spelling(written: list[str], read: tuple[str, ...]) -> None:
    assert read_addresses(written) == read


@pytest.mark.parametrize(
    "written", ["", "somewhere", "127.0.0.1:8001", "[::1]:8001", "unix:x", "unix:", "/run/", "x/y"]
)
def test_what_is_no_address_is_refused(written: str) -> None:
    with pytest.raises(ValueError, match=r"is neither an IP address|is no path"):
        read_addresses([written])


@pytest.mark.parametrize("address", ["127.0.0.1", "127.9.9.9", "::1", "unix:/run/x.sock"])
def test_loopback_and_files_are_this_hosts_own(address: str) -> None:
    assert not is_exposed(address)


@pytest.mark.parametrize("address", [ALL, ALL6, "192.168.1.2", "172.17.0.1", "fe80::1%eth0"])
def test_everything_else_is_exposed(address: str) -> None:
    assert is_exposed(address)


@pytest.mark.parametrize(
    ("netloc", "host"),
    [
        ("localhost:8001", "localhost"), ("[::1]:8001", "::1"), ("[::1]", "::1"),
        ("u:p@Host:1", "host"), ("10.0.0.1", "10.0.0.1"), ("", ""),
    ],
)  # fmt: skip
def test_host_is_what_stands_before_the_port(netloc: str, host: str) -> None:
    assert host_of(netloc) == host


@pytest.mark.parametrize(
    "host",
    ["", "localhost", "x.localhost", "127.0.0.1", "::1", "10.1.2.3", "host.docker.internal",
     "host.containers.internal", "localhost."],
)  # fmt: skip
def test_names_that_no_web_page_has(host: str) -> None:
    assert is_own_name(host)


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "internal.example", "xlocalhost", "internal"]
)
def test_names_that_a_web_page_may_have(host: str) -> None:
    assert not is_own_name(host)
    assert not is_loopback_name(host)


def test_addresses_of_others_are_no_loopback() -> None:
    assert is_loopback_name("127.0.0.2")
    assert not is_loopback_name("10.0.0.1")
    assert not is_loopback_name("host.docker.internal")
