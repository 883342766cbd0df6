# SPDX-License-Identifier: Apache-2.0
"""Which interfaces are taken, and how they are followed."""

from dataclasses import replace
from ipaddress import ip_interface

import pytest
from structlog.testing import capture_logs

from loxilb.errors import InvalidRequest, KernelError
from loxilb.kernel.fake import FakeDataPlane, FakeLinks
from loxilb.model import LinkKind, Port
from loxilb.model.port import IfIndex
from loxilb.services.interfaces import InterfaceFilter, Interfaces


def port(index: int, name: str, kind: LinkKind = LinkKind.VETH) -> Port:
    return Port(index=IfIndex(index), name=name, kind=kind, mac=b"\2" * 6, mtu=1500, up=True, carrier=True)


PORTS = [
    port(1, "lo", LinkKind.LOOPBACK),
    port(2, "eth0"),
    port(3, "eth1"),
    port(4, "docker0", LinkKind.BRIDGE),
]


@pytest.mark.parametrize(
    ("whitelist", "blacklist", "taken"),
    [
        ("none", "none", "eth0 eth1 docker0"),
        ("", "", "eth0 eth1 docker0"),
        ("none", "docker.*|th1", "eth0"),
        ("eth", "eth0", "eth0 eth1"),
        ("lo|eth0", "none", "lo eth0"),
    ],
)
def test_the_lists_choose(whitelist, blacklist, taken):
    chosen = InterfaceFilter.of(whitelist=whitelist, blacklist=blacklist)

    assert [one.name for one in PORTS if chosen.takes(one)] == taken.split()


def test_a_broken_expression_is_refused():
    with pytest.raises(InvalidRequest, match="whitelist"):
        InterfaceFilter.of(whitelist="(", blacklist="none")


class Scene:
    def __init__(self, blacklist: str = "none", whitelist: str = "none") -> None:
        self.fake, self.links = FakeDataPlane(), FakeLinks()
        self.links.interfaces = list(PORTS)
        chosen = InterfaceFilter.of(whitelist=whitelist, blacklist=blacklist)
        self.interfaces = Interfaces(self.fake, self.links, chosen)


def test_all_are_attached_but_the_loopback():
    scene = Scene()
    scene.interfaces.attach_all()

    assert scene.fake.attached == {2: "eth0", 3: "eth1", 4: "docker0"}
    assert scene.interfaces.hooks == {2: ("tcx",), 3: ("tcx",), 4: ("tcx",)}
    assert scene.interfaces.summary() == "3 interfaces (tcx eth0 eth1 docker0; xdp none)"


def test_one_that_refuses_does_not_stop_the_others():
    scene = Scene()
    scene.fake.refused = {"eth0"}
    scene.interfaces.attach_all()

    assert scene.fake.attached == {3: "eth1", 4: "docker0"}
    assert scene.interfaces.hooks.keys() == {3, 4}


def test_interfaces_come_and_go():
    scene = Scene()
    scene.interfaces.attach_all()
    scene.links.interfaces.append(port(5, "eth2"))
    scene.interfaces.follow([IfIndex(5)], [])
    scene.interfaces.follow([], [IfIndex(2), IfIndex(99)])

    assert scene.fake.attached == {3: "eth1", 4: "docker0", 5: "eth2"}
    assert scene.interfaces.hooks.keys() == {3, 4, 5}


def test_one_that_cannot_be_left_keeps_no_other_from_its_change():
    scene = Scene()
    scene.interfaces.attach_all()
    scene.fake.held = {IfIndex(2)}
    scene.links.interfaces.append(port(5, "eth2"))
    with pytest.raises(KernelError, match="detach from interface 2"):
        scene.interfaces.follow([IfIndex(5)], [IfIndex(2), IfIndex(3)])
    assert scene.fake.attached == {2: "eth0", 4: "docker0", 5: "eth2"}
    assert scene.interfaces.hooks.keys() == {2, 4, 5}

    scene.fake.held = set()
    del scene.links.interfaces[1:3]
    scene.interfaces.follow([], [])
    assert scene.interfaces.hooks.keys() == {4, 5}


def test_one_that_refuses_is_tried_again_and_said_once():
    scene = Scene()
    scene.fake.refused = {"eth0"}
    with capture_logs() as logs:
        scene.interfaces.attach_all()
        for _ in range(2):
            with pytest.raises(KernelError, match="eth0"):
                scene.interfaces.follow([], [])
    scene.fake.refused = set()
    scene.interfaces.follow([], [])

    assert scene.interfaces.hooks.keys() == {2, 3, 4}
    assert [one["event"] for one in logs].count("interface not followed") == 1


def test_one_that_is_renamed_out_of_the_choice_is_left():
    scene = Scene(blacklist="^off")
    scene.interfaces.attach_all()
    scene.links.interfaces[1] = port(2, "off0")
    scene.interfaces.follow([IfIndex(2)], [])

    assert scene.fake.attached == {3: "eth1", 4: "docker0"}


def test_one_that_is_gone_when_its_change_is_read_is_left():
    scene = Scene()
    scene.interfaces.attach_all()
    del scene.links.interfaces[1]
    scene.interfaces.follow([IfIndex(2)], [])

    assert scene.fake.attached == {3: "eth1", 4: "docker0"}


def test_one_that_goes_while_it_is_taken_is_left_without_a_word():
    scene = Scene()
    scene.interfaces.attach_all()
    scene.links.interfaces.append(port(5, "eth2"))
    scene.fake.gone = {"eth0", "eth2"}
    with capture_logs() as logs:
        scene.interfaces.follow([IfIndex(2), IfIndex(5)], [])

    assert scene.interfaces.hooks.keys() == {3, 4}
    assert scene.fake.attached == {3: "eth1", 4: "docker0"}
    assert [one["event"] for one in logs] == ["interface left"]


def test_only_many_at_once_are_taken_in_a_hurry():
    scene = Scene()
    scene.interfaces.attach_all()
    scene.links.interfaces += [port(index, f"p{index}") for index in range(10, 40)]
    scene.interfaces.follow([IfIndex(10)], [])
    assert scene.fake.hurries == 0

    scene.interfaces.follow([IfIndex(index) for index in range(10, 40)], [])

    assert scene.fake.hurries == 1
    assert scene.interfaces.hooks.keys() == {2, 3, 4, *range(10, 40)}


def test_none_at_all_is_said():
    scene = Scene()
    scene.links.interfaces = []
    scene.interfaces.attach_all()

    assert scene.interfaces.summary() == "0 interfaces (tcx none; xdp none)"


def test_the_data_plane_learns_every_address():
    """Also those of interfaces left out, at the start and with each change."""
    scene = Scene(blacklist="eth0")
    one, two = ip_interface("10.0.0.1/8"), ip_interface("2001::1/128")
    scene.links.interfaces[:2] = [replace(PORTS[0], addresses=(two,)), replace(PORTS[1], addresses=(one,))]
    scene.interfaces.attach_all()
    assert scene.fake.addresses == {one.ip, two.ip}

    scene.links.interfaces[0] = PORTS[0]
    scene.interfaces.follow([IfIndex(1)], [])
    assert scene.fake.addresses == {one.ip}


@pytest.mark.parametrize(
    ("kind", "filters", "taken"),
    [
        (LinkKind.BRIDGE, {}, {4}),
        (LinkKind.BOND, {}, {4}),
        (LinkKind.VXLAN, {}, {3, 4}),
        (LinkKind.BRIDGE, {"blacklist": "docker"}, {3}),
        (LinkKind.BRIDGE, {"whitelist": "eth1|docker"}, {3, 4}),
    ],
)
def test_ports_of_a_bridge_are_left_to_it(kind: LinkKind, filters: dict[str, str], taken: set[int]) -> None:
    """Where it is taken itself; a whitelist names exactly what is taken."""
    scene = Scene(**filters)
    scene.links.interfaces = [port(4, "docker0", kind), replace(port(3, "eth1"), master=IfIndex(4))]

    scene.interfaces.attach_all()

    assert scene.interfaces.hooks.keys() == taken
