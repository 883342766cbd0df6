# SPDX-License-Identifier: Apache-2.0
"""What a start takes over, and what it refuses."""

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from loxilb.errors import KernelError
from loxilb.kernel.bpf import BpfDataPlane, DataPlaneSettings, XdpPolicy, adoption, attach, maps, pins
from loxilb.kernel.bpf.builds import maps_of
from loxilb.kernel.bpf.object import BpfObject
from loxilb.model import LinkKind, Port
from loxilb.model.image import EndpointEntry, EndpointId, PutEndpoint, RuleId
from loxilb.model.port import IfIndex
from tests.netns.test_lifecycle import VIP4, VIP6, create, tcx_programs
from tests.support.bpf import known_hosts
from tests.support.lab import Lab, Namespace, wait_for
from tests.support.lab_star import build
from tests.support.pinned import directory, opened_pin
from tests.support.traffic import ask, ask_on, connection

pytestmark = pytest.mark.must_run
SETTINGS = DataPlaneSettings(xdp=XdpPolicy.OFF, flows4=1024, flows6=1024, half_open4=256, half_open6=256)
OTHERWISE = replace(SETTINGS, redirect_peer=not SETTINGS.redirect_peer)
OWN = ip_address("31.31.31.254")


@pytest.fixture
def space(lab: Lab) -> Iterator[Namespace]:
    """Return a namespace with a veth whose two ends are in it, and no pins in the end."""
    made = lab.namespace("adopt")
    lab.link(made, "one", made, "two")
    yield made
    for root in made.call(pins.existing, None):
        pins.remove_root(root)


def port() -> Port:
    """Return the interface ``one``."""
    index = IfIndex(socket.if_nametoindex("one"))
    return Port(index=index, name="one", kind=LinkKind.VETH, mac=b"\2" * 6, mtu=1500, up=True, carrier=True)


@contextmanager
def opened(settings: DataPlaneSettings = SETTINGS) -> Iterator[BpfDataPlane]:
    """Open a data plane, and leave it in place."""
    made = BpfDataPlane.open(settings)
    try:
        yield made
    finally:
        made.close()


def pinned() -> set[Path]:
    """Return everything that is pinned for the calling thread's namespace, of any version."""
    return {path for root in pins.existing(None) for path in root.rglob("*")}


def builds(name: str) -> set[pins.Build]:
    """Return every build of an object."""
    return {build for build in directory().builds() if build.object == name}


def built(name: str) -> pins.Build:
    """Return the only build of an object."""
    (found,) = builds(name)
    return found


def entry(build: pins.Build) -> int:
    """Return the number of the program that a build starts with."""
    with opened_pin(directory().program_path(build, f"lox_{build.object}")) as program:
        return attach.program_id(program)


def test_a_data_plane_of_another_version_is_refused_and_goes_on(lab: Lab) -> None:
    """The error names both versions and what to do; connections live on, also over the way back."""
    star = build(lab)
    star.lb.start()
    create(star)
    star.lb.stop()
    root = star.lb.namespace.call(directory).root
    index = star.lb.namespace.call(socket.if_nametoindex, "eclient")

    def scenario() -> None:
        with connection(VIP4, 2020, timeout=30) as four, connection(VIP6, 2020, timeout=30) as six:
            servers = [ask_on(four).server, ask_on(six).server]
            other = root.rename(root.with_name("v1"))
            refused = star.lb.launch()
            assert refused.popen.wait(60) == 1
            assert "of ABI version 1, this loxilb reads ABI version 2 only" in refused.log.read_text()
            assert "loxilb down" in refused.log.read_text()
            assert list(root.parent.iterdir()) == [other]
            assert star.lb.namespace.call(tcx_programs, index) == 1
            assert [ask_on(four).server, ask_on(six).server] == servers
            assert {ask(VIP4, 2020).server, ask(VIP6, 2020).server} == {"server2"}
            other.rename(root)
            star.lb.start()
            assert [ask_on(four).server, ask_on(six).server] == servers

    star.client.call(scenario)


def other_fingerprint() -> None:
    """Make the pinned maps those of a build with other layouts that calls itself the same version."""
    with opened_pin(directory().map_path(pins.CONFIG)) as config:
        value = maps.lookup(config, maps.index_key(0), maps.describe(config).value_size)
        assert value is not None
        maps.update(config, maps.index_key(0), value[:-1] + bytes([value[-1] ^ 1]), "change the fingerprint")


def other_config() -> None:
    """Make the configuration one of another size."""
    replace_map(pins.CONFIG)


def other_fragments() -> None:
    """Make one map have values of another size."""
    replace_map("fragments")


def replace_map(name: str) -> None:
    """Pin a map of 8-byte values in the place of one."""
    path = directory().map_path(name)
    path.unlink()
    descriptor = maps.create_array("other", 8)
    pins.pin(descriptor, path)
    adoption.close({"": descriptor})


@pytest.mark.parametrize(
    ("spoil", "cause"),
    [
        (other_fingerprint, "of another layout, though of ABI version 2"),
        (other_config, "of another layout, though of ABI version 2"),
        (other_fragments, "reuse map fragments"),
    ],
)
def test_maps_of_another_layout_are_refused(space: Namespace, spoil: Callable[[], None], cause: str) -> None:
    """Whatever the version says: what runs goes on, and nothing is pinned or attached besides."""

    def scenario() -> None:
        with opened() as first:
            first.attach(port())
        spoil()
        before = pinned()
        with pytest.raises(KernelError, match=cause) as refused, opened():
            pass
        assert "loxilb down" in refused.value.remedy
        assert pinned() == before
        assert tcx_programs(port().index) == 1

    space.call(scenario)


def test_remains_of_another_version_without_state_are_removed(space: Namespace) -> None:
    """A first start of it was cut short: there is nothing to lose, and nobody else would remove it."""

    def scenario() -> None:
        other = directory().root.with_name("v1")
        (other / "maps").mkdir(parents=True)
        descriptor = maps.create_array("left", 8)
        pins.pin(descriptor, other / "maps" / "left")
        adoption.close({"": descriptor})
        with opened():
            assert pins.existing(None) == [directory().root]

    space.call(scenario)


def test_a_removal_that_is_cut_short_leaves_nothing_to_adopt(space: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the maps would be taken over, and the others made anew."""
    remove = pins.remove

    def cut_short(path: Path) -> None:
        if path.name == "endpoints":
            raise InterruptedError
        remove(path)

    def scenario() -> None:
        with opened(), monkeypatch.context() as patch:
            patch.setattr(pins, "remove", cut_short)
            with suppress(KernelError):
                pins.remove_root(directory().root)
        assert directory().map_path("endpoints").exists()
        with opened() as again:
            assert not again._loaded.adopted

    space.call(scenario)


def test_replaced_programs_keep_their_tail_calls_while_they_run(space: Namespace) -> None:
    """Also while another build is loaded beside them; once they run nowhere they go, and all they held with them."""

    def first_step(build: pins.Build) -> bytes | None:
        with opened_pin(directory().program_path(build, "tc_steps")) as steps:
            return maps.lookup(steps, maps.index_key(0), 4)

    def scenario() -> None:
        with opened() as first:
            first.attach(port())
        old, (replaced,) = built("tc"), attach.running(directory())
        with opened(OTHERWISE) as second:
            second.retire()
            assert {old} < builds("tc")
            assert first_step(old)
            assert attach.running(directory()) == {replaced}
            second.attach(port())
            second.retire()
            assert built("tc") != old
            assert attach.running(directory()) == {entry(built("tc"))}
        wait_for(lambda: attach.program_name(replaced) == b"", what="the replaced program gone")

    space.call(scenario)


@pytest.mark.kernel
def test_a_start_of_the_same_build_takes_its_programs_over(space: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is loaded, and they stay attached."""

    def refuse(*_arguments: object, **_more: object) -> None:
        raise AssertionError("a BPF object was loaded")

    def scenario() -> None:
        with opened() as first:
            first.attach(port())
        before, running = pinned(), attach.running(directory())
        monkeypatch.setattr(BpfObject, "__init__", refuse)
        with opened() as second:
            second.attach(port())
            second.retire()
        assert pinned() == before
        assert attach.running(directory()) == running

    space.call(scenario)


def lose_program() -> None:
    directory().program_path(built("tc"), "lox_tc_slow4").unlink()


def lose_step() -> None:
    with opened_pin(directory().program_path(built("tc"), "tc_steps")) as steps:
        maps.delete(steps, maps.index_key(0), "spoil")


def lose_map() -> None:
    directory().map_path("rules").unlink()


@pytest.mark.parametrize("spoil", [lose_program, lose_step, lose_map])
def test_programs_that_are_not_whole_are_loaded_anew(space: Namespace, spoil: Callable[[], None]) -> None:
    """What they lack has a remedy: a start. The old ones go."""

    def scenario() -> None:
        with opened() as first:
            first.attach(port())
        old = built("tc")
        spoil()
        with opened() as second:
            second.attach(port())
            second.retire()
            assert built("tc") != old
            assert attach.running(directory()) == {entry(built("tc"))}
            assert maps.describe(second.descriptors["rules"]).id in maps_of(
                second._loaded.programs("tc")["lox_tc_slow4"]
            )

    space.call(scenario)


def test_other_settings_have_programs_of_their_own(space: Namespace) -> None:
    """What programs are loaded with is a part of their build; there and back each start has its own."""

    def scenario() -> None:
        for settings in (SETTINGS, OTHERWISE, SETTINGS):
            before = builds("tc")
            with opened(settings) as made:
                made.attach(port())
                made.retire()
            assert built("tc") not in before

    space.call(scenario)


def test_letting_go_says_what_it_cannot_remove(space: Namespace) -> None:
    """Where somebody removed all pins there is nothing to let go of; what is no pin is named."""

    def scenario() -> None:
        with opened() as made:
            folder = made._directory.root / "programs"
            strange = folder / "tc-0-4294967295-lox_tc"
            strange.mkdir()
            with pytest.raises(KernelError, match=r"open pin .*/tc-0-4294967295-lox_tc: E\w+ \(run as root"):
                made.retire()
            strange.rmdir()
            for path in folder.iterdir():
                path.unlink()
            folder.rmdir()
            made.retire()

    space.call(scenario)


def test_endpoints_on_this_host_stay_so_before_the_addresses_are_known_again(space: Namespace) -> None:
    """A flow that is opened meanwhile would be sent on a wire."""

    def scenario() -> None:
        entry = EndpointEntry(rule=RuleId(1), address=OWN, port=80, source=None)
        with opened() as first:
            first.know_addresses(frozenset({OWN}))
            first.apply([PutEndpoint(endpoint=EndpointId(1), entry=entry)])
            assert known_hosts(first) == {OWN: True}
        with opened() as second:
            assert known_hosts(second) == {OWN: True}
            second.know_addresses(frozenset())
            assert known_hosts(second) == {OWN: False}

    space.call(scenario)


def test_sizes_are_of_the_first_start_and_settings_of_this_one(space: Namespace) -> None:
    """XDP that is asked for later has to finish checksums, though the first start did not."""

    def scenario() -> None:
        with opened() as first:
            before = first._loaded.config
        with opened(replace(SETTINGS, xdp=XdpPolicy.ON, flows4=4096)) as second:
            after = second._loaded.config
        assert (before.complete_checksum, after.complete_checksum) == (0, 1)
        assert after.flow4_mask == before.flow4_mask
        assert list(after.secret) == list(before.secret)

    space.call(scenario)
