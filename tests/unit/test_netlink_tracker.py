# SPDX-License-Identifier: Apache-2.0
"""What the tracker makes of odd raw messages: cut short, about a bridge's port, many in one buffer."""

import socket
import struct

import pytest
from pyroute2.netlink import rtnl
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from loxilb.kernel.netlink import LinkChanged, RoutesChanged
from loxilb.kernel.netlink.events import Tracker
from loxilb.model.port import IfIndex


def link(index: int, *, family: int = socket.AF_UNSPEC, mtu: int = 1500, changes: int = 0) -> bytes:
    """Build an RTM_NEWLINK message."""
    message = ifinfmsg()
    message["header"]["type"] = rtnl.RTM_NEWLINK
    message["family"], message["index"], message["ifi_type"], message["flags"] = family, index, 1, 0x1
    message["attrs"] = [("IFLA_IFNAME", f"eth{index}"), ("IFLA_MTU", mtu), ("IFLA_CARRIER_CHANGES", changes)]
    message.encode()
    return bytes(message.data)


def route() -> bytes:
    """Build an RTM_NEWROUTE message, of which only the header is read."""
    return struct.pack("=IHHII", 16, rtnl.RTM_NEWROUTE, 0, 0, 0)


def test_each_event_is_told_once_and_routes_last() -> None:
    """One buffer or several make no difference."""
    chunks = [route() + link(7) + route(), link(8), route()]

    events = Tracker().digest(chunks)

    assert events == [LinkChanged(IfIndex(7)), LinkChanged(IfIndex(8)), RoutesChanged()]


def test_a_link_that_did_not_change_is_not_told_again() -> None:
    """The kernel repeats itself, for example for every program that is attached."""
    tracker = Tracker()
    assert tracker.digest([link(7)]) == [LinkChanged(IfIndex(7))]

    assert tracker.digest([link(7)]) == []
    assert tracker.digest([link(7, mtu=1400)]) == [LinkChanged(IfIndex(7))]


def test_a_bridge_speaking_of_its_port_is_not_a_link() -> None:
    """AF_BRIDGE messages have the type of link messages."""
    assert Tracker().digest([link(7, family=socket.AF_BRIDGE)]) == []


@pytest.mark.parametrize("rubbish", [b"", b"\0", bytes(16), bytes(64), struct.pack("=IHHII", 15, 24, 0, 0, 0)])
def test_a_message_that_is_cut_short_ends_the_buffer(rubbish: bytes) -> None:
    """What came before it counts, and reading ends."""
    assert Tracker().digest([route() + rubbish]) == [RoutesChanged()]


def test_a_carrier_that_only_changed_for_a_moment_is_told() -> None:
    """The state is the same as before, the number of changes is not."""
    tracker = Tracker()
    tracker.digest([link(7, changes=2)])

    assert tracker.digest([link(7, changes=4)]) == [LinkChanged(IfIndex(7))]


def test_after_lost_messages_every_link_may_have_other_addresses() -> None:
    """Addresses are not tracked: what was lost may have been one."""
    tracker = Tracker()
    tracker.digest([link(7)])
    message = ifinfmsg(link(7))
    message.decode()

    assert tracker.reset([message], []) == [LinkChanged(IfIndex(7)), RoutesChanged()]
