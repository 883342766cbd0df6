# SPDX-License-Identifier: Apache-2.0
"""Somebody else detaches programs, removes pins and addresses, and writes to the maps: it is noticed and undone."""

import ctypes
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import pytest

from loxilb.kernel import abi, netns
from loxilb.kernel.bpf import libbpf, maps, pins
from tests.support.lab import Lab, wait_for
from tests.support.lab_star import PORT, SERVERS4, SERVERS6, Star, build, evenly, take_frames
from tests.support.pinned import opened_pin
from tests.support.traffic import ask_on, connection

pytestmark = pytest.mark.must_run
VIPS = ("20.20.20.1", "2001::1")
_PATIENCE_S = 60.0
KINDS = ("links", "maps", "programs")


@pytest.fixture(params=["off", "on"], ids=["tc", "xdp"])
def star(lab: Lab, request: pytest.FixtureRequest) -> Star:
    """Return a topology with a service of each family, whose maps are compared when asked for only."""
    built = build(lab, servers=2)
    if request.param == "on":
        take_frames(built.client, *built.servers)
    built.lb.start("--xdp", request.param, "--auditinterval", "0", "--loglevel", "info")
    for vip, servers in zip(VIPS, (SERVERS4, SERVERS6), strict=True):
        built.lb.create(vip, f"--tcp=2020:{PORT}", evenly(servers[:2]))
    assert all(works(built, vip) for vip in VIPS)
    return built


def works(star: Star, vip: str) -> bool:
    """Tell whether two requests reach both servers; the host itself refuses what no program takes."""
    try:
        return sorted(star.names(vip, 2020, 2)) == ["server1", "server2"]
    except OSError:
        return False


def pinned(star: Star) -> Path:
    """Return the directory of the pins."""
    identity = star.lb.namespace.call(netns.identity)
    places = [place / "loxilb" / identity for place in pins.PLACES]
    (found,) = [version for place in places for version in place.glob("v*")]
    return found


def repairs(star: Star) -> Mapping[str, int]:
    """Return what was repaired, by what it was."""
    return {one["what"]: one["count"] for one in star.lb.api("GET", "/status/reconciler")["repairAttr"]}


def settled(star: Star, **least: int) -> None:
    """Wait until so much was repaired, requests of both families work, and nothing is left to be done."""
    seen: dict[str, int] = {}

    def repaired() -> bool:
        seen.update(repairs(star))
        return all(seen.get(what, 0) >= count for what, count in least.items())

    try:
        wait_for(repaired, deadline=_PATIENCE_S)
    except AssertionError as error:
        raise AssertionError(f"{least} to be repaired, but only {seen}") from error
    for vip in VIPS:
        wait_for(partial(works, star, vip), deadline=_PATIENCE_S, what=vip)
    wait_for(lambda: star.lb.api("GET", "/status/reconciler")["state"] == "converged", deadline=_PATIENCE_S)


def names(folder: Path) -> set[str]:
    """Return what is in a directory."""
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


def keep_going(star: Star, work: Callable[[], None]) -> None:
    """Do ``work`` between two requests on one connection, of each family."""

    def scenario() -> None:
        with connection(VIPS[0], 2020, timeout=30) as four, connection(VIPS[1], 2020, timeout=30) as six:
            before = [ask_on(sock).server for sock in (four, six)]
            work()
            assert [ask_on(sock).server for sock in (four, six)] == before

    star.client.call(scenario)


def test_detached_programs_are_attached_again(star: Star) -> None:
    """As with bpftool link detach, at every hook."""
    links = pinned(star) / "links"
    for path in links.iterdir():
        with opened_pin(path) as link:
            assert libbpf.link_detach(link) == 0

    settled(star, link=3)


def test_pins_that_are_removed_come_back(star: Star) -> None:
    """One of them, or the whole directory: programs run on without."""
    directory = pinned(star)
    before = [names(directory / kind) for kind in KINDS]

    def remove() -> None:
        shutil.rmtree(directory)
        wait_for(lambda: [names(directory / kind) for kind in KINDS] == before, deadline=_PATIENCE_S)
        for kind in KINDS:
            next((directory / kind).iterdir()).unlink()
        wait_for(lambda: [names(directory / kind) for kind in KINDS] == before, deadline=_PATIENCE_S)

    keep_going(star, remove)


def test_addresses_that_are_flushed_are_held_again(star: Star) -> None:
    """All that the loopback has; its own is not ours, and needed here."""

    def flush() -> None:
        star.lb.namespace.ip("address flush dev lo", "address add 127.0.0.1/8 dev lo")
        settled(star, address=2)

    keep_going(star, flush)


def test_a_loopback_that_is_taken_down_comes_up(star: Star) -> None:
    """With the addresses, of which those of IPv6 are gone with it."""
    star.lb.namespace.ip("link set lo down")
    shown = ("ip", "-6", "address", "show", "dev", "lo")
    wait_for(lambda: VIPS[1] in star.lb.namespace.run(*shown), deadline=_PATIENCE_S)
    settled(star)


def test_map_contents_are_repaired(star: Star) -> None:
    """Established connections go on while listeners, rules, endpoints and slices of the ring are repaired."""
    tables = pinned(star) / "maps"

    def spoil() -> None:
        spoil_listeners(tables)
        change(tables / "rules", 2, abi.Rule, select=1)
        change(tables / "endpoints", 1, abi.Endpoint, port=(0, 9))
        audit(star, listener=2, rule=1, endpoint=1)
        spoil_ring(tables)
        audit(star, ring=2)

    keep_going(star, spoil)
    assert "somebody else changed the maps, and they were repaired" in star.lb.log()


def test_whatever_is_in_the_maps_new_connections_work_again(star: Star) -> None:
    """Zeroes and nonsense in every element there is."""
    tables = pinned(star) / "maps"
    spoil_listeners(tables)
    spoil_ring(tables)
    for index in (1, 2, 3, 4):
        overwrite(tables / "endpoints", index, bytes(ctypes.sizeof(abi.Endpoint)))
    overwrite(tables / "rules", 1, bytes(ctypes.sizeof(abi.Rule)))
    overwrite(tables / "rules", 2, b"\1" * ctypes.sizeof(abi.Rule))
    overwrite(tables / "rules", 3, b"\1" * ctypes.sizeof(abi.Rule))
    overwrite(tables / "rules", 4, b"\xff\xff\xff\xff" * 4 + b"\x63\x63\1\0" + bytes(4))

    audit(star, listener=2, rule=2, endpoint=4)


def audit(star: Star, **least: int) -> None:
    """Have the maps compared, and wait for what it finds."""
    star.lb.loxicmd("audit")
    settled(star, **least)


def spoil_listeners(tables: Path) -> None:
    """Delete every listener."""
    for name, layout in (("listeners4", abi.Listener4), ("listeners6", abi.Listener6)):
        with opened_pin(tables / name) as table:
            for key, _ in list(maps.dump(table, ctypes.sizeof(layout), 4)):
                maps.delete(table, key, "spoil")


def spoil_ring(tables: Path) -> None:
    """Have every slot of the first slices name an endpoint that there is not."""
    overwrite(tables / "ring", 0, b"\x09" * ctypes.sizeof(abi.RingLine))


def overwrite(path: Path, index: int, value: bytes) -> None:
    """Write an element of an array."""
    with opened_pin(path) as table:
        maps.update(table, maps.index_key(index), value, "spoil")


def change(path: Path, index: int, layout: type[ctypes.Structure], **members: object) -> None:
    """Change members of an element of an array."""
    with opened_pin(path) as table:
        element = layout.from_buffer_copy(maps.lookup(table, maps.index_key(index), ctypes.sizeof(layout)) or b"")
    for name, value in members.items():
        setattr(element, name, type(getattr(element, name))(*value) if isinstance(value, tuple) else value)
    overwrite(path, index, bytes(element))
