# SPDX-License-Identifier: Apache-2.0
"""Taking the data plane out of the kernel by its pins alone, and only what is ours."""

import socket
from collections.abc import Iterator

import pytest

from loxilb.app import take_down
from loxilb.kernel.bpf import BpfDataPlane, DataPlaneSettings, Removed, XdpPolicy, attach, pins, remove_data_plane
from loxilb.kernel.bpf.object import BpfObject
from tests.support.bpf import OBJECTS
from tests.support.lab import BIN, Lab, Namespace

pytestmark = pytest.mark.must_run
SETTINGS = DataPlaneSettings(xdp=XdpPolicy.OFF, flows4=1024, flows6=1024, half_open4=256, half_open6=256)


@pytest.fixture
def space(lab: Lab) -> Namespace:
    """Return a namespace with a veth whose two ends are in it."""
    made = lab.namespace("down")
    lab.link(made, "one", made, "two")
    return made


@pytest.fixture
def foreign() -> Iterator[int]:
    """Return the descriptor of a program that is not the load balancer's."""
    with BpfObject(OBJECTS / "fuzz_tc.bpf.o") as loaded:
        yield loaded.programs["fuzz_tc"]


def filters(space: Namespace, device: str, side: str = "ingress") -> str:
    """Return the filters at the ingress or egress of a device."""
    return space.run("tc", "filter", "show", "dev", device, side).strip()


def down(space: Namespace) -> str:
    """Take the load balancer down and return what it says."""
    return space.run(BIN / "loxilb", "down").strip()


def test_down_says_what_it_removed_and_then_that_nothing_is_left(space: Namespace) -> None:
    """Also links of other versions go; a second time nothing is loaded, mounted or left."""

    def work() -> None:
        data_plane = BpfDataPlane.open(SETTINGS)
        program = data_plane.programs["tc"]
        directory = pins.PinDirectory(pins.find_bpffs(None))
        attach.attach_tc(directory, socket.if_nametoindex("one"), program)
        data_plane.close()
        directory.root.rename(directory.root.with_name("v999"))

    space.call(work)
    root = space.call(lambda: pins.PinDirectory(pins.find_bpffs(None))).root.parent
    programs, maps = (len(list((root / "v999" / kind).iterdir())) for kind in ("programs", "maps"))

    assert down(space) == f"removed: attached programs 1, pins of programs {programs}, maps {maps}"
    assert not root.exists()
    assert down(space) == "nothing to remove"
    assert not root.exists()


def test_nothing_is_loaded_to_take_a_data_plane_down(space: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither where there is one nor where there is none."""
    space.call(lambda: BpfDataPlane.open(SETTINGS).close())

    def refuse(*_arguments: object, **_more: object) -> None:
        raise AssertionError("a BPF object was opened")

    monkeypatch.setattr(BpfObject, "__init__", refuse)

    assert "maps" in space.call(take_down, None, None)
    assert space.call(take_down, None, None) == "nothing to remove"


def test_filters_of_clsact_are_removed_and_those_of_others_stay(space: Namespace, foreign: int) -> None:
    """On kernels without TCX the filter is all there is: no pin names its interface."""

    def work() -> None:
        data_plane = BpfDataPlane.open(SETTINGS)
        for name, program in (("one", data_plane.programs["tc"]), ("two", foreign)):
            attach.attach_clsact(socket.if_nametoindex(name), program)
        with BpfObject(OBJECTS / "egress.bpf.o") as loaded:
            attach.attach_clsact(socket.if_nametoindex("two"), loaded.programs["lox_egress"], attach._CLSACT_EGRESS)
        data_plane.close()

    space.call(work)
    assert [name for name in ("one", "two") if "lox_tc" in filters(space, name)] == ["one"]
    assert "fuzz_tc" in filters(space, "two")

    assert "lox_egress" in filters(space, "two", "egress")

    removed = space.call(remove_data_plane, None)

    assert removed == Removed(links=0, filters=2, programs=removed.programs, maps=removed.maps)
    assert filters(space, "two", "egress") == ""
    assert removed.maps > 0
    assert filters(space, "one") == ""
    assert "fuzz_tc" in filters(space, "two")


def test_down_leaves_a_volume_where_it_is(space: Namespace) -> None:
    """A container may have its own place for what is remembered; it is empty, and cannot be removed."""
    mounts = "mount -t tmpfs run /run && mkdir /run/loxilb && mount -t tmpfs volume /run/loxilb"
    said = space.run("unshare", "-m", "sh", "-c", f'{mounts} && "$0" down && ls -d /run/loxilb', BIN / "loxilb")

    assert said.split("\n")[-2:] == ["/run/loxilb", ""]
