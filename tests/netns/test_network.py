# SPDX-License-Identifier: Apache-2.0
"""``Network`` against the real kernel: owning and announcing addresses, routes, ports, events."""

import asyncio
import contextlib
import json
import struct
import threading
from collections.abc import Callable, Iterator
from ipaddress import ip_address, ip_interface
from typing import Self

import pytest

from loxilb.errors import KernelError
from loxilb.kernel import netns
from loxilb.kernel.netlink import LinkChanged, LinkRemoved, Network, NetworkEvent, RoutesChanged
from loxilb.kernel.netlink.holdings import LOOPBACK
from loxilb.model import IPAddress, LinkKind
from loxilb.model.port import IfIndex
from tests.support.lab import CommandError, Lab, wait_for
from tests.support.pair import Pair, sniff, until

pytestmark = pytest.mark.must_run
V4, V6 = ip_address("10.10.10.77"), ip_address("3ffe::77")
FAR4, FAR6 = ip_address("20.20.20.1"), ip_address("2001::1")


@pytest.mark.parametrize("address", [V4, V6, FAR4, FAR6], ids=str)
def test_a_held_address_answers_the_neighbour_until_released(pair: Pair, address: IPAddress) -> None:
    """Hold makes the host answer for the address, release ends it; both may be repeated."""
    ping = ("ping", "-c1", "-W1", str(address))
    with pytest.raises(CommandError):
        pair.peer.run(*ping)

    pair.network.hold(address)
    pair.network.hold(address)
    wait_for(lambda: pair.answers(address), what="answer")  # the kernel adds the route of an IPv6 address later
    pair.network.release(address)
    pair.network.release(address)

    pair.peer.run("ip", "neigh", "flush", "dev", "eth1")
    with pytest.raises(CommandError):
        pair.peer.run(*ping)


def test_addresses_are_on_lo_and_connected_ipv6_on_its_interface(pair: Pair) -> None:
    """The kernel answers solicitations only for addresses of the interface they come in on."""
    for address in (V4, V6, FAR4, FAR6):
        pair.network.hold(address)

    held = pair.addresses()

    assert held["lo"][1:] == [f"{V4}/32", f"{FAR4}/32", f"{FAR6}/128", "::1/128"]
    assert f"{V6}/128" in held["eth1"]


@pytest.mark.parametrize(("address", "device"), [("10.10.10.3/32", "lo"), ("10.10.10.9/24", "eth1")])
def test_an_address_that_was_there_is_neither_added_nor_removed(pair: Pair, address: str, device: str) -> None:
    """Also not by remove_all, and also when it looks just like one of ours."""
    pair.here.ip(f"addr add {address} dev {device}")
    before = pair.addresses()

    pair.network.hold(ip_interface(address).ip)
    assert pair.addresses() == before
    pair.network.release(ip_interface(address).ip)
    pair.network.remove_all()

    assert pair.addresses() == before


def test_a_later_process_takes_over_and_cleans_up(pair: Pair) -> None:
    """What is ours is known by its mark, not by the memory of a process."""
    before = pair.addresses()
    for address in (V4, V6, FAR4, FAR6):
        pair.network.hold(address)

    with pair.here.call(Network.open) as later:
        later.hold(V4)
        later.release(V4)
        assert f"{V4}/32" not in pair.addresses()["lo"]
        later.remove_all()

    assert pair.addresses() == before


def test_release_of_an_address_that_someone_removed_is_no_error(pair: Pair) -> None:
    """The wish is fulfilled already."""
    pair.network.hold(FAR4)
    pair.here.ip(f"addr del {FAR4}/32 dev lo")

    pair.network.release(FAR4)
    pair.network.hold(FAR4)

    assert f"{FAR4}/32" in pair.addresses()["lo"]


def test_a_held_ipv6_address_is_not_chosen_as_source(pair: Pair) -> None:
    """A service address as the host's own source would tie its traffic to the service."""
    neighbour = ip_address("3ffe::76")  # nearer to the service address than to the host's own
    assert pair.network.source_for(neighbour) == ip_address("3ffe::2")

    pair.network.hold(V6)

    assert pair.network.source_for(neighbour) == ip_address("3ffe::2")


def test_a_connected_ipv4_address_is_announced_three_times_both_ways(pair: Pair) -> None:
    """RFC 5227: sender and target are the address; request and reply, broadcast."""
    with sniff(pair.peer, "eth1") as raw:
        pair.network.hold(V4)
        frames = until(raw, lambda frame: frame[12:14] == b"\x08\x06" and frame[28:32] == V4.packed, 6)

    (mac,) = (port.mac for port in pair.network.ports() if port.name == "eth1")
    assert [struct.unpack("!H", frame[20:22])[0] for frame in frames] == [1, 2, 1, 2, 1, 2]
    for frame in frames:
        assert (frame[:6], frame[6:12], frame[22:28]) == (b"\xff" * 6, mac, mac)
        assert frame[38:42] == V4.packed


def test_a_connected_ipv6_address_is_advertised_with_a_right_checksum(pair: Pair) -> None:
    """RFC 4861 §7.2.6: to all nodes, hop limit 255, override set; the peer's kernel takes it over."""
    pair.peer.ip(f"neigh add {V6} lladdr 02:00:00:00:00:99 dev eth1 nud stale")
    with sniff(pair.peer, "eth1") as raw:
        pair.network.hold(V6)
        wanted = b"\x86\xdd", b"\x3a\xff", V6.packed
        frames = until(raw, lambda f: (f[12:14], f[20:22], f[62:78]) == wanted and f[54] == 136, 3)

    (mac,) = (port.mac for port in pair.network.ports() if port.name == "eth1")
    for frame in frames:
        assert (frame[:6], frame[6:12]) == (bytes.fromhex("333300000001"), mac)
        assert frame[58] & 0x20
        assert frame[78:86] == b"\x02\x01" + mac
        assert internet_sum(frame[22:54] + struct.pack("!II", 32, 58) + frame[54:86]) == 0xFFFF
    learned = json.loads(pair.peer.run("ip", "-j", "neigh", "show", str(V6)))
    assert learned[0]["lladdr"] == mac.hex(":")


def internet_sum(data: bytes) -> int:
    """Return the ones' complement sum; 0xffff over data with a right checksum."""
    total = int.from_bytes(data, "big") % 0xFFFF
    return total or 0xFFFF


def test_an_address_elsewhere_is_not_announced(pair: Pair) -> None:
    """Nobody on the link would ask for it; the next announcement is the connected one."""
    with sniff(pair.peer, "eth1") as raw:
        pair.network.hold(FAR4)
        pair.network.hold(V4)
        (first,) = until(raw, lambda frame: frame[12:14] == b"\x08\x06", 1)

    assert first[28:32] == V4.packed


def test_source_for_is_what_the_kernel_would_use(pair: Pair) -> None:
    """Connected, by gateway, ours, and without a route."""
    pair.here.ip("route add 99.0.0.0/8 via 10.10.10.1", "route add blackhole 98.0.0.0/8")
    expected = {
        "10.10.10.1": "10.10.10.254",
        "99.1.2.3": "10.10.10.254",
        "3ffe::1": "3ffe::2",
        "10.10.10.254": "10.10.10.254",
        "98.0.0.1": None,
        "97.0.0.1": None,
        "2002::1": None,
    }

    found = {to: pair.network.source_for(ip_address(to)) for to in expected}

    assert {to: str(source) if source else None for to, source in found.items()} == expected


def test_ports_tell_every_field(pair: Pair) -> None:
    """Kind, addresses, state, statistics; a veth into another namespace is told from one within."""
    pair.here.ip(
        "link add br0 type bridge",
        "link add va mtu 1400 type veth peer name vb",
        "link set va master br0",
        "link add vx0 type vxlan id 7 dstport 4789",
        "link set va up",
    )
    pair.peer.run("ping", "-c3", "-i0.01", "10.10.10.254")
    links = {link["ifname"]: link for link in json.loads(pair.here.run("ip", "-j", "-s", "link"))}

    ports = {port.name: port for port in pair.network.ports()}

    assert [port.index for port in ports.values()] == sorted(link["ifindex"] for link in links.values())
    assert {name: port.mac.hex(":") for name, port in ports.items() if name != "lo"} == {
        name: link["address"] for name, link in links.items() if name != "lo"
    }
    kinds = {name: port.kind for name, port in ports.items()}
    assert kinds == {
        "lo": LinkKind.LOOPBACK,
        "eth1": LinkKind.VETH,
        "br0": LinkKind.BRIDGE,
        "va": LinkKind.VETH,
        "vb": LinkKind.VETH,
        "vx0": LinkKind.VXLAN,
    }
    assert (ports["eth1"].peer_elsewhere, ports["va"].peer_elsewhere) == (True, False)
    assert (ports["va"].mtu, ports["va"].master, ports["va"].up) == (1400, ports["br0"].index, True)
    assert (ports["eth1"].carrier, ports["va"].carrier, ports["vb"].up) == (True, False, False)
    assert {ip_interface("10.10.10.254/24"), ip_interface("3ffe::2/64")} < set(ports["eth1"].addresses)
    assert ports["eth1"].received.packets >= links["eth1"]["stats64"]["rx"]["packets"] >= 3
    assert ports["eth1"].sent.bytes >= links["eth1"]["stats64"]["tx"]["bytes"] >= 3 * 84


def test_forwarding_is_switched_on_and_put_back_by_a_later_process(lab: Lab) -> None:
    """Also the loopback, which is down in a namespace just made."""
    fresh = lab.namespace("fresh")
    fresh.ip("link set lo down")
    fresh.sysctl(net__ipv4__ip_forward=0, net__ipv6__conf__all__forwarding=0)
    names = ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding", "net.ipv4.conf.lo.accept_local")

    with fresh.call(Network.open) as network:
        network.enable_forwarding()
        network.enable_forwarding()
    assert fresh.run("sysctl", "-n", *names).split() == ["1", "1", "1"]
    assert "LOWER_UP" in fresh.run("ip", "link", "show", "lo")
    with fresh.call(Network.open) as network:
        network.remove_all()

    assert fresh.run("sysctl", "-n", *names).split() == ["0", "0", "0"]
    assert "LOWER_UP" not in fresh.run("ip", "link", "show", "lo")


def test_switches_that_were_on_stay_on(lab: Lab) -> None:
    """Putting back means: as it was."""
    router = lab.namespace("router")
    router.sysctl(net__ipv4__ip_forward=1, net__ipv6__conf__all__forwarding=0)

    with router.call(Network.open) as network:
        network.enable_forwarding()
        network.remove_all()

    assert router.run("sysctl", "-n", "net.ipv4.ip_forward").strip() == "1"
    assert router.run("sysctl", "-n", "net.ipv6.conf.all.forwarding").strip() == "0"


def test_a_refusal_of_the_kernel_is_a_kernel_error(pair: Pair) -> None:
    """Operation and errno are told: IPv6 is off on this loopback."""
    pair.here.sysctl(net__ipv6__conf__lo__disable_ipv6=1)

    with pytest.raises(KernelError, match="hold 2001::1: E") as caught:
        pair.network.hold(FAR6)

    assert caught.value.errno > 0
    assert "disable_ipv6=0" in caught.value.remedy
    assert pair.network.source_for(ip_address("10.10.10.1")) == ip_address("10.10.10.254")


@pytest.mark.parametrize("address", [V4, V6], ids=str)
def test_an_interface_that_goes_away_meanwhile_leaves_nothing_held(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, address: IPAddress
) -> None:
    """The route leads to it, and the kernel knows it no more when its address is asked for."""
    netlink, before = pair.network._netlink, pair.addresses()
    known = netlink.get_links
    with monkeypatch.context() as patch:
        patch.setattr(netlink, "get_links", lambda index: known(index if index == LOOPBACK else 1 << 20))
        with pytest.raises(KernelError, match=f"hold {address}: ENODEV"):
            pair.network.hold(address)
    assert pair.addresses() == before

    pair.network.hold(address)
    assert pair.addresses() != before


class Recorder:
    """Collects the events of a Network on a loop of its own, from before a change to after it."""

    def __init__(self, pair: Pair) -> None:
        """Note whom to listen to."""
        self._pair = pair
        self._loop = asyncio.new_event_loop()
        self._marks = 0
        self.seen: list[NetworkEvent] = []

    def __enter__(self) -> Self:
        """Listen, and let pass what building the namespaces caused."""
        self._task = self._loop.create_task(self._collect())
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        try:
            self.first = self.after_all()
        except BaseException:
            self.__exit__()
            raise
        self.seen.clear()
        return self

    def __exit__(self, *error: object) -> None:
        """Stop listening."""
        self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join()
        self._loop.close()

    def after_all(self) -> list[NetworkEvent]:
        """Return all events of changes made before, but those of interfaces added as a mark."""
        self._marks += 1
        name = f"mark{self._marks}"
        self._pair.here.ip(f"link add {name} type bridge")
        mark = LinkChanged(index_of(self._pair, name))
        self.wait(lambda: mark in self.seen)
        return [event for event in self.seen if event != mark]

    def wait(self, condition: Callable[[], bool]) -> None:
        """Wait until ``condition`` holds."""
        wait_for(condition, what="event")

    def _run(self) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._task)
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.run_until_complete(self._loop.shutdown_default_executor())

    async def _collect(self) -> None:
        async for events in self._pair.network.events():
            self.seen.extend(events)


def index_of(pair: Pair, name: str) -> IfIndex:
    """Return an interface's index."""
    return next(port.index for port in pair.network.ports() if port.name == name)


@pytest.fixture
def recorder(pair: Pair) -> Iterator[Recorder]:
    """Return a recorder that listens."""
    pair.peer.run("ping", "-c1", "10.10.10.254")
    pair.peer.run("ping", "-c1", "3ffe::2")
    with Recorder(pair) as made:
        yield made


def test_links_coming_and_going_are_told(pair: Pair, recorder: Recorder) -> None:
    """Both ends of a veth pair appear, and vanish."""
    pair.here.ip("link add va type veth peer name vb")
    va, vb = index_of(pair, "va"), index_of(pair, "vb")
    recorder.wait(lambda: {LinkChanged(va), LinkChanged(vb)} <= {*recorder.seen})

    pair.here.ip("link del va")

    recorder.wait(lambda: {LinkRemoved(va), LinkRemoved(vb)} <= {*recorder.seen})


@pytest.mark.parametrize("change", ["down", "mtu 1400", "address 02:00:00:00:00:42", "alias nothing"])
def test_a_link_that_changes_is_told_when_it_matters(pair: Pair, recorder: Recorder, change: str) -> None:
    """State, size and address matter; an alias does not."""
    pair.here.ip(f"link set eth1 {change}")

    told = LinkChanged(index_of(pair, "eth1")) in recorder.after_all()

    assert told == ("alias" not in change)


@pytest.mark.parametrize(
    "change",
    [
        "route add 99.0.0.0/8 via 10.10.10.1",
        "-6 route add 2002::/16 via 3ffe::1",
        "addr add 11.11.11.1/24 dev eth1",
        "addr del 3ffe::2/64 dev eth1",
        "rule add from 1.2.3.4 table 7",
        "neigh replace 10.10.10.1 lladdr 02:00:00:00:00:42 dev eth1 nud reachable",
        "neigh replace 3ffe::1 lladdr 02:00:00:00:00:42 dev eth1 nud reachable",
        "neigh flush to 10.10.10.1 dev eth1",
        "link set eth1 down",
    ],
)
def test_what_may_turn_packets_is_told(pair: Pair, recorder: Recorder, change: str) -> None:
    """Routes, addresses, rules and known neighbours that change or go."""
    pair.here.run("ip", *change.split())

    assert RoutesChanged() in recorder.after_all()


@pytest.mark.parametrize("address", ["99.99.99.1/32", "2002::1/128"])
def test_addresses_are_told_unless_they_are_held(pair: Pair, recorder: Recorder, address: str) -> None:
    """Service addresses come and go in great numbers, on the loopback and beside it; others may be an endpoint's."""
    loopback = LinkChanged(IfIndex(1))
    for held in (FAR4, V6):
        pair.network.hold(held)
        pair.network.release(held)
    assert not {loopback, LinkChanged(index_of(pair, "eth1"))} & {*recorder.after_all()}

    pair.here.ip(f"addr add {address} dev lo")

    assert loopback in recorder.after_all()


def test_a_neighbour_that_only_ages_or_is_new_is_not_told(pair: Pair, recorder: Recorder) -> None:
    """Reachable, stale and back happens all the time and turns no packet."""
    mac = json.loads(pair.peer.run("ip", "-j", "link", "show", "eth1"))[0]["address"]
    for state in ("stale", "reachable", "stale"):
        pair.here.ip(f"neigh replace 10.10.10.1 lladdr {mac} dev eth1 nud {state}")
    pair.here.ip("neigh add 10.10.10.99 lladdr 02:00:00:00:00:42 dev eth1 nud reachable")

    assert recorder.after_all() == []


def test_a_flood_of_changes_becomes_few_events(pair: Pair, recorder: Recorder) -> None:
    """A thousand routes in one batch are one event for each reading of the socket, not a thousand."""
    pair.here.ip(*(f"route add 99.{i // 250}.{i % 250}.0/24 via 10.10.10.1" for i in range(1000)))

    events = recorder.after_all()

    assert 1 <= events.count(RoutesChanged()) <= 100


def test_lost_messages_are_made_up_for(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than the socket holds, before anyone listens: the state is read again and told."""
    monkeypatch.setattr("loxilb.kernel.netlink.events._RECEIVE_BUFFER", 1 << 14)
    gone = index_of(pair, "eth1")
    with pair.here.call(Network.open) as small:
        pair.here.ip(*(f"route add 99.0.{i}.0/24 via 10.10.10.1" for i in range(250)))
        pair.here.ip("link del eth1", "link add va type veth peer name vb")
        new = index_of(pair, "va")

        with Recorder(Pair(pair.here, pair.peer, small)) as recorder:
            told = recorder.first

    assert {LinkRemoved(gone), LinkChanged(new), RoutesChanged()} <= {*told}


def test_two_namespaces_are_told_apart(lab: Lab) -> None:
    """Identity is stable within one namespace and differs between two."""
    one, two = lab.namespace("one"), lab.namespace("two")

    identities = [space.call(netns.identity) for space in (one, two, one)]

    assert identities[0] == identities[2] != identities[1]
    assert netns.identity() not in identities


def test_entering_what_is_not_there_says_so() -> None:
    """Cause and remedy."""
    with pytest.raises(KernelError, match=r"open network namespace loxt-none: ENOENT \(see: ip netns list\)"):
        netns.enter("loxt-none")
