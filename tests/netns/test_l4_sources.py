# SPDX-License-Identifier: Apache-2.0
"""Allowed sources: who is served and who is not, on real traffic."""

from collections.abc import Iterator, Mapping

import pytest

from tests.support.lab import Lab, wait_for
from tests.support.lab_star import PORT, SERVERS4, SERVERS6, Star, build
from tests.support.traffic import ask_datagram, ask_on, connection

pytestmark = pytest.mark.must_run
VIP4, VIP6 = "20.20.20.1", "2001::1"
STRANGERS = {4: ("10.10.10.2", "10.10.10.129"), 6: ("3ffe::a2", "3ffe::8:a2")}
FRIENDS = {4: "10.10.10.1", 6: "3ffe::1"}
VIPS, SERVERS = {4: VIP4, 6: VIP6}, {4: SERVERS4, 6: SERVERS6}
by_version = pytest.mark.parametrize("version", [4, 6], ids=["ipv4", "ipv6"])
by_protocol = pytest.mark.parametrize("protocol", ["tcp", "udp"])


def add_strangers(star: Star, verb: str = "add") -> None:
    """Give the client further addresses of both versions."""
    star.client.ip(*(f"addr {verb} {one}/24 dev eth0" for one in STRANGERS[4]))
    star.client.ip(*(f"addr {verb} {one}/64 dev eth0" for one in STRANGERS[6]))


@pytest.fixture
def crowd(star: Star) -> Iterator[Star]:
    """Return the topology with three addresses of each version on the client."""
    add_strangers(star)
    yield star
    add_strangers(star, "del")


def served(star: Star, protocol: str, version: int) -> Mapping[str, bool]:
    """Return for each client address whether it is served; a stranger gets no answer at all, not a refusal."""

    def one(source: str) -> bool:
        try:
            if protocol == "udp":
                return ask_datagram(VIPS[version], 2020, source=source, timeout=0.5).client == source
            with connection(VIPS[version], 2020, source=source, timeout=0.5) as sock:
                return ask_on(sock).client == source
        except TimeoutError:
            return False

    sources = (FRIENDS[version], *STRANGERS[version])
    return star.client.call(lambda: {source: one(source) for source in sources})


def create(star: Star, protocol: str, version: int, *sources: str) -> None:
    """Create or replace the service."""
    flags = f"--{protocol}=2020:{PORT}" + (f" --sources={','.join(sources)}" if sources else "")
    star.lb.create(VIPS[version], flags, [f"{SERVERS[version][0]}:1"])


@by_version
@by_protocol
def test_only_allowed_sources_are_served(crowd: Star, version: int, protocol: str) -> None:
    """One address, then a prefix around two of three, then everybody again: each change holds at once."""
    friend, near, far = FRIENDS[version], *STRANGERS[version]
    full, wide = (32, "10.10.10.0/25") if version == 4 else (128, "3ffe::/112")

    create(crowd, protocol, version, f"{friend}/{full}")
    assert served(crowd, protocol, version) == {friend: True, near: False, far: False}

    create(crowd, protocol, version, wide)
    assert served(crowd, protocol, version) == {friend: True, near: True, far: False}

    create(crowd, protocol, version, f"{near}/{full}", f"{far}/{full}")
    assert served(crowd, protocol, version) == {friend: False, near: True, far: True}

    create(crowd, protocol, version)
    assert served(crowd, protocol, version) == {friend: True, near: True, far: True}


@by_version
def test_a_connection_of_a_client_that_is_barred_ends(star: Star, version: int) -> None:
    """It was opened while everybody was allowed; the next request on it gets no answer."""
    create(star, "tcp", version)

    def barred_in_between() -> bool:
        with connection(VIPS[version], 2020, timeout=1) as sock:
            ask_on(sock)
            create(star, "tcp", version, "11.0.0.0/8" if version == 4 else "11::/16")
            wait_for(lambda: star.lb.api("GET", "/config/conntrack/all")["ctAttr"] == [], what="no flow left")
            try:
                ask_on(sock)
            except OSError:
                return True
        return False

    assert star.client.call(barred_in_between)


def test_sources_of_one_service_are_none_of_another(crowd: Star) -> None:
    """Nor do they outlive it: a later service of the same address is open."""
    create(crowd, "tcp", 4, "10.10.10.2/32")
    create(crowd, "udp", 4)
    assert list(served(crowd, "tcp", 4).values()) == [False, True, False]
    assert list(served(crowd, "udp", 4).values()) == [True, True, True]

    crowd.lb.clear()
    create(crowd, "tcp", 4)

    assert list(served(crowd, "tcp", 4).values()) == [True, True, True]


def test_sources_are_shown_as_they_were_given(star: Star) -> None:
    """By the API as a list, by the command line in one cell."""
    create(star, "tcp", 4, "11.0.0.0/8", "10.10.10.1/24")

    (entry,) = star.lb.api("GET", "/config/loadbalancer/all")["lbAttr"]
    header, row = star.lb.rows("get lb -o wide")

    assert entry["allowedSources"] == [{"prefix": "10.10.10.0/24"}, {"prefix": "11.0.0.0/8"}]
    assert row[header.index("SOURCES")] == "10.10.10.0/24, 11.0.0.0/8"


@by_protocol
def test_a_restart_neither_opens_nor_closes_a_service(lab: Lab, protocol: str) -> None:
    """The next daemon reads the sources back, and can change them."""
    star = build(lab)
    add_strangers(star)
    star.lb.start()
    create(star, protocol, 4, "10.10.10.1/32", "10.10.10.128/25")
    create(star, protocol, 6, "3ffe::1/128")
    expected = {"10.10.10.1": True, "10.10.10.2": False, "10.10.10.129": True}
    assert served(star, protocol, 4) == expected
    shown = [row[2] for row in star.lb.rows("get lb -o wide")]

    star.lb.stop()
    assert served(star, protocol, 4) == expected
    star.lb.start()

    assert [row[2] for row in star.lb.rows("get lb -o wide")] == shown
    assert served(star, protocol, 4) == expected
    assert list(served(star, protocol, 6).values()) == [True, False, False]
    create(star, protocol, 4, "10.10.10.2/32")
    assert list(served(star, protocol, 4).values()) == [False, True, False]
