# SPDX-License-Identifier: Apache-2.0
"""The store behind a real daemon: kill, restart, roll back, a full disk."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from loxilb.kernel import netns
from tests.support.lab import BIN, Lab, run, wait_for
from tests.support.lab_star import PORT, SERVERS4, SERVERS6, Star, build
from tests.support.traffic import ask_on, connection

pytestmark = pytest.mark.must_run
VIP4, VIP6 = "20.20.20.1", "2001::1"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Star]:
    """Return a topology that the tests of this module share."""
    with Lab(folder=tmp_path_factory.mktemp("logs")) as lab:
        yield build(lab)


@pytest.fixture
def star(whole: Star) -> Iterator[Star]:
    """Return the topology with a daemon that has no store yet."""
    whole.lb.start()
    yield whole
    whole.lb.down()


def kill(star: Star) -> None:
    """End the daemon without a chance to do anything about it."""
    daemon = star.lb._daemon
    assert daemon is not None
    os.kill(daemon.popen.pid, signal.SIGKILL)
    daemon.stop()


def rules(star: Star) -> Any:
    """Return every rule without counters."""
    entries = star.lb.api("GET", "/config/loadbalancer/all")["lbAttr"]
    for entry in entries:
        for endpoint in entry["endpoints"]:
            del endpoint["counter"]
    return entries


def test_a_killed_daemon_comes_back_with_everything(star: Star) -> None:
    """Names, probes, states and log level; an open connection and the order of round robin go on."""
    star.lb.create(VIP4, f"--tcp=2020:{PORT} --name=web --inatimeout=99", [f"{one}:1" for one in SERVERS4])
    star.lb.create(VIP6, f"--tcp=2020:{PORT} --monitor --sources=3ffe::/16", [f"{one}:1" for one in SERVERS6])
    star.lb.loxicmd(f"create ep {SERVERS4[2]} --name=third --probetype=ping --period=7")
    star.lb.api("POST", "/config/endpointhoststate", {"hostName": "6ffe::1", "state": "yellow"})
    star.lb.loxicmd("set log-level info")
    before = rules(star)

    def scenario() -> list[str]:
        with connection(VIP4, 2020) as sock:
            names = [ask_on(sock).server]
            kill(star)
            names.append(ask_on(sock).server)
            star.lb.start()
            names.append(ask_on(sock).server)
        return names

    assert star.client.call(scenario) == ["server1"] * 3
    assert rules(star) == before
    assert star.names(VIP4, 2020, 2) == ["server2", "server3"]
    # The daemon was not told again: server 3 takes no new flow.
    assert set(star.names(VIP6, 2020, 6)) == {"server1", "server2"}
    assert star.lb.rows("get log-level")[1] == ["Log level", "info"]
    third = {row[1]: row for row in star.lb.rows("get ep")}["third"]
    assert (third[2], third[4]) == ("ping:", "7")
    assert "differed" not in star.lb.log()


def test_a_start_without_ipv6_serves_the_rest(star: Star) -> None:
    """The address that is refused is held as soon as that is possible, with nobody asking for it."""
    for address, server in ((VIP4, SERVERS4[0]), (VIP6, SERVERS6[0])):
        star.lb.create(address, f"--tcp=2020:{PORT}", [f"{server}:1"])
    star.lb.stop()
    star.lb.namespace.sysctl(net__ipv6__conf__lo__disable_ipv6=1)
    star.lb.start()

    def state() -> str:
        works = star.lb.api("GET", "/status/reconciler")["workAttr"]
        return {str(one["name"]): str(one["state"]) for one in works}["addresses"]

    assert star.names(VIP4, 2020, 1) == ["server1"]
    wait_for(lambda: state() == "failing", deadline=20)
    assert "service addresses not held, trying again" in star.lb.log()
    star.lb.namespace.sysctl(net__ipv6__conf__lo__disable_ipv6=0)
    wait_for(lambda: state() == "converged", deadline=60)
    assert star.names(VIP6, 2020, 1) == ["server1"]


def test_what_was_done_is_listed_and_undone(star: Star) -> None:
    """Rollback reaches the data plane and survives a restart."""
    star.lb.create(VIP4, f"--tcp=2020:{PORT} --name=one", [f"{SERVERS4[0]}:1"])
    star.lb.create(VIP4, f"--tcp=2020:{PORT} --name=two", [f"{SERVERS4[1]}:1"])
    assert star.names(VIP4, 2020, 2) == ["server2"] * 2

    star.lb.loxicmd("rollback 1")
    assert star.names(VIP4, 2020, 2) == ["server1"] * 2
    star.lb.stop()
    star.lb.start()

    assert [entry["serviceArguments"]["name"] for entry in rules(star)] == ["one"]
    assert star.names(VIP4, 2020, 2) == ["server1"] * 2
    revisions = star.lb.api("GET", "/config/revisions/all")["revisionAttr"]
    assert [(one["number"], one["client"], one["agent"]) for one in revisions] == [
        (number, "127.0.0.1", "loxicmd") for number in (3, 2, 1)
    ]


def test_down_leaves_the_store_unless_it_is_to_be_purged(star: Star) -> None:
    """The next start brings back what was configured, or not."""
    star.lb.create(VIP4, f"--tcp=2020:{PORT}", [f"{SERVERS4[0]}:1"])
    star.lb.stop()
    down = ("down", "--store", star.lb.store)
    assert "stored configuration" not in star.lb.namespace.run(BIN / "loxilb", *down)
    star.lb.start()
    assert star.names(VIP4, 2020, 1) == ["server1"]
    star.lb.stop()

    assert "stored configuration 1" in star.lb.namespace.run(BIN / "loxilb", *down, "--purge")
    star.lb.start()
    assert rules(star) == []


def test_a_full_disk_refuses_writes_and_hurts_no_traffic(star: Star, tmp_path: Path) -> None:
    """A real file system of 1 MiB, filled up; with space again writes go on."""
    star.lb.stop()
    place = tmp_path / "small"
    place.mkdir()
    run(["mount", "-t", "tmpfs", "-o", "size=1M", "none", str(place)])
    try:
        star.lb.start("--store", str(place / "s.db"))
        star.lb.create(VIP4, f"--tcp=2020:{PORT}", [f"{one}:1" for one in SERVERS4])
        filler = place / "filler"
        with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
            while True:
                file.write(bytes(4096))
        with pytest.raises(AssertionError, match=r"503 .*disk is full \(free space on its file system\)"):
            for _ in range(200):  # until the pages that the file has already are used up
                star.lb.api("POST", "/config/params", {"logLevel": "info"})
                star.lb.api("POST", "/config/params", {"logLevel": "debug"})
        with pytest.raises(AssertionError, match="503"):
            star.lb.clear()
        assert star.names(VIP4, 2020, 3) == ["server1", "server2", "server3"]

        filler.unlink()
        star.lb.clear()
        assert rules(star) == []
        star.lb.stop()
    finally:
        wait_for(lambda: run(["umount", str(place)]) == "", what="unmounted")


def test_the_first_start_imports_saved_files_and_a_file_sets_what_flags_do(star: Star, tmp_path: Path) -> None:
    """With nothing but a file of settings; what was saved by one daemon is served by the next."""
    star.lb.create(VIP4, f"--tcp=2020:{PORT} --name=saved", [f"{SERVERS4[1]}:1"])
    star.lb.loxicmd(f"save --all -c {tmp_path}/")
    saved = rules(star)
    star.lb.down()
    config = tmp_path / "loxilb.yaml"
    config.write_text(f"config-path: {tmp_path}\nlog-format: json\n")

    star.lb.start("--config", str(config))

    assert rules(star) == saved
    assert star.names(VIP4, 2020, 2) == ["server2"] * 2
    assert '"event": "boot files imported"' in star.lb.log()
    (revision,) = star.lb.api("GET", "/config/revisions/all")["revisionAttr"]
    assert revision["agent"] == f"boot files of {tmp_path}"


def test_a_store_belongs_to_a_namespace_that_is_found_again(whole: Star) -> None:
    """By the name of ip netns; one without a name is gone after a reboot.

    A sandbox may hide the first process, even from root; what has no name is then taken for its namespace.
    """
    space = whole.lb.namespace
    script = "from loxilb.kernel import netns; print(netns.lasting_name())"
    nameless = run(["unshare", "--net", str(BIN / "python"), "-c", script]).strip()

    assert space.call(netns.lasting_name) == f"netns-{space.name}"
    assert netns.lasting_name() == "host"
    assert nameless == ("None" if os.access("/proc/1/ns/net", os.F_OK) else "host")


def test_a_damaged_store_is_refused_and_forwarding_stays(star: Star) -> None:
    """The daemon does not start, says why and what helps, and touches nothing."""
    star.lb.create(VIP4, f"--tcp=2020:{PORT}", [f"{SERVERS4[0]}:1"])
    star.lb.stop()
    whole = star.lb.store.read_bytes()
    star.lb.store.write_bytes(b"\xff" * 100 + whole[100:])

    with pytest.raises(AssertionError, match=r"no line(.|\n)*not a database \(restore a copy of the file, or move it"):
        star.lb.start()
    assert star.names(VIP4, 2020, 1) == ["server1"]
    assert star.lb.store.read_bytes() == b"\xff" * 100 + whole[100:]

    star.lb.store.unlink()
    star.lb.start()
    assert [entry["serviceArguments"]["externalIP"] for entry in rules(star)] == [VIP4]
