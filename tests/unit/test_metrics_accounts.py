# SPDX-License-Identifier: Apache-2.0
"""Totals only grow, whatever becomes of the slots."""

from collections.abc import Mapping

import pytest
from msgspec.structs import replace

from loxilb.model import Counter, L4Protocol, Service, ServiceKey
from loxilb.model.image import EndpointEntry, EndpointId, RuleId
from loxilb.ports import Account, FlowCount
from loxilb.services.metrics.accounts import Accounts, Total
from tests.support.services import key, service

WEB = service(("31.31.31.1,80", "32.32.32.1,80"), name="web")
ONE, TWO = '{service="web",dip="31.31.31.1"}', '{service="web",dip="32.32.32.1"}'


def account(of: Service, first: int = 1) -> Account:
    """Put the endpoints of a service into slots from ``first`` on."""
    entries = [EndpointEntry(rule=RuleId(1), address=one.address, port=one.port) for one in of.endpoints]
    return Account(of, {EndpointId(first + at): entry for at, entry in enumerate(entries)})


def counted(**sizes: int) -> tuple[Mapping[EndpointId, Counter], Mapping[EndpointId, FlowCount]]:
    """Return counters by slot: ``s1=100`` is 100 bytes in 10 packets, one flow."""
    slots = {EndpointId(int(name[1:])): size for name, size in sizes.items()}
    return (
        {slot: Counter(packets=size // 10, bytes=size) for slot, size in slots.items()},
        {slot: FlowCount(active=1, opened=size // 100) for slot, size in slots.items()},
    )


def sizes(totals: Mapping[str, Total]) -> dict[str, int]:
    """Return the bytes of each total."""
    return {labels: total.bytes for labels, total in totals.items()}


def test_what_was_counted_before_the_first_look_counts() -> None:
    """Forwarding went on while no daemon ran."""
    accounts = Accounts()

    accounts.follow([account(WEB)], *counted(s1=100, s2=200))

    assert sizes(accounts.places) == {ONE: 100, TWO: 200}
    assert accounts.services['{service="web"}'] == Total(packets=30, bytes=300, opened=3, active=2)
    assert accounts.protocols[L4Protocol.TCP].bytes == 300
    assert accounts.protocols[L4Protocol.UDP] == Total()


def test_a_look_adds_what_came_since_the_last() -> None:
    """Not what was there already; live flows are those of now."""
    accounts = Accounts()
    accounts.follow([account(WEB)], *counted(s1=100, s2=200))

    accounts.follow([account(WEB)], *counted(s1=150, s2=200))

    assert accounts.services['{service="web"}'] == Total(packets=35, bytes=350, opened=3, active=2)


def test_a_service_that_is_named_anew_is_not_counted_twice() -> None:
    """Its series begin with what comes; the sums over all services go on."""
    accounts = Accounts()
    accounts.follow([account(WEB)], *counted(s1=100, s2=0))

    accounts.follow([account(replace(WEB, name="shop"))], *counted(s1=130, s2=0))

    assert sizes(accounts.services) == {'{service="shop"}': 30}
    assert accounts.protocols[L4Protocol.TCP].bytes == 130


def test_a_slot_that_starts_again_loses_nothing() -> None:
    """The endpoint was deleted and made again: its counters are new, the total goes on."""
    accounts = Accounts()
    accounts.follow([account(WEB)], *counted(s1=500, s2=0))

    accounts.follow([account(WEB)], *counted(s1=100, s2=0))

    assert accounts.services['{service="web"}'].bytes == 600
    assert accounts.services['{service="web"}'].opened == 6


def test_a_slot_that_changes_hands_counts_for_the_new_owner() -> None:
    """From zero, although its number shows more than before."""
    accounts = Accounts()
    accounts.follow([account(WEB)], *counted(s1=100, s2=0))
    other = service(("31.31.31.1,80",), of=key(port=99), name="other")

    accounts.follow([account(WEB, first=5), account(other)], *counted(s1=300, s5=0, s6=0))

    assert accounts.services['{service="other"}'].bytes == 300
    assert accounts.protocols[L4Protocol.TCP].bytes == 400


def test_the_count_of_flows_may_wrap() -> None:
    """It has 32 bits in the kernel."""
    accounts = Accounts()
    slot = EndpointId(1)
    single = account(service(("31.31.31.1,80",)))
    accounts.follow([single], {}, {slot: FlowCount(0, 2**32 - 2)})

    accounts.follow([single], {}, {slot: FlowCount(0, 3)})

    assert accounts.protocols[L4Protocol.TCP].opened == 2**32 + 3


def test_services_of_one_name_are_one() -> None:
    """As many rules as a manifest makes of one name."""
    accounts = Accounts()
    twin = service(("31.31.31.1,80",), of=key(port=99), name="web")

    accounts.follow([account(WEB), account(twin, first=8)], *counted(s1=100, s2=0, s8=50))

    assert sizes(accounts.services) == {'{service="web"}': 150}


def test_what_is_gone_is_forgotten() -> None:
    """No series stays behind; the sums over all services keep what it had."""
    accounts = Accounts()
    accounts.follow([account(WEB)], *counted(s1=100, s2=0))

    accounts.follow([], {}, {})

    assert (accounts.services, accounts.places, accounts.shares) == ({}, {}, {})
    assert accounts.protocols[L4Protocol.TCP].bytes == 100


def test_above_the_limit_the_rest_shares_a_name() -> None:
    """Cardinality is bounded, and sums stay right; a name that has a total keeps it."""
    accounts = Accounts(max_services=2, max_places=2)
    many = [account(service(("31.31.31.1,80",), of=key(port=at), name=f"s{at}"), first=at) for at in range(1, 6)]
    numbers = counted(s1=100, s2=100, s3=100, s4=100, s5=100)

    accounts.follow(many, *numbers)
    accounts.follow(many[::-1], *numbers)

    assert sizes(accounts.services) == {'{service="s1"}': 100, '{service="s2"}': 100, '{service="other"}': 300}
    assert sum(sizes(accounts.places).values()) == 500
    assert len(accounts.places) == 3


@pytest.mark.parametrize(
    ("made", "name"),
    [
        (key(), "20.20.20.1:2020/tcp"),
        (key("2001::1", 53, L4Protocol.UDP), "[2001::1]:53/udp"),
        (key(port=10, port_max=20, block=7), "20.20.20.1:10-20/tcp#7"),
    ],
)
def test_a_service_without_a_name_gets_one(made: ServiceKey, name: str) -> None:
    """Its address, as in a URL."""
    assert str(made) == name
