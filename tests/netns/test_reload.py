# SPDX-License-Identifier: Apache-2.0
"""SIGHUP: the daemon starts again with the settings of then, and nobody who has a connection notices."""

import os
import signal
import socket
from pathlib import Path

import pytest

from tests.support.lab import BIN, Lab, wait_for
from tests.support.lab_star import PORT, SERVERS4, build
from tests.support.traffic import ask_on, connection

pytestmark = pytest.mark.must_run
VIP = "20.20.20.1"
_PATIENCE_S = 60


def test_settings_are_taken_over_unless_they_are_wrong(lab: Lab, tmp_path: Path) -> None:
    """The process stays the same, so its service manager sees one daemon throughout."""
    star, settings = build(lab, servers=1), tmp_path / "loxilb.yaml"
    space, store = star.lb.namespace, ("--store", tmp_path / "store.db")
    lab.undo(space.run, BIN / "loxilb", "down", *store)
    settings.write_text("loglevel: info\n")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(_PATIENCE_S)
        known = ("env", f"NOTIFY_SOCKET={tmp_path / 'notify'}")
        daemon = lab.process(space, *known, BIN / "loxilb", "--config", settings, *store)
        daemon.wait_line("ready in", deadline=_PATIENCE_S)
        star.lb.create(VIP, f"--tcp=2020:{PORT}", [f"{SERVERS4[0]}:1"])
        assert not star.lb.api("GET", "/config/metrics")["prometheus"]

        def scenario() -> None:
            with connection(VIP, 2020, timeout=_PATIENCE_S) as sock:
                before = ask_on(sock).server
                settings.write_text("loglevel: info\nprometheus: true\n")
                os.kill(daemon.popen.pid, signal.SIGHUP)
                daemon.wait_line("ready in", deadline=_PATIENCE_S)
                assert ask_on(sock).server == before

        star.client.call(scenario)
        assert star.lb.api("GET", "/config/metrics")["prometheus"]

        settings.write_text("loglevel: info\nprometheus: maybe\n")
        os.kill(daemon.popen.pid, signal.SIGHUP)
        wait_for(lambda: "settings refused" in daemon.log.read_text(), deadline=_PATIENCE_S)
        assert f"{settings} line 2: prometheus: " in daemon.log.read_text()
        assert star.names(VIP, 2020, 1) == ["server1"]
        assert star.lb.api("GET", "/config/metrics")["prometheus"]

        assert daemon.stop() == 0
        told = [manager.recv(1000).decode().partition("\n")[0] for _ in range(6)]
    assert told == ["READY=1", "RELOADING=1", "READY=1", "RELOADING=1", "READY=1", "STOPPING=1"]


def test_who_starts_it_by_nohup_keeps_it_as_it_is(lab: Lab, tmp_path: Path) -> None:
    """The end of the terminal asks for nothing."""
    star, store = build(lab, servers=1), ("--store", tmp_path / "store.db")
    lab.undo(star.lb.namespace.run, BIN / "loxilb", "down", *store)
    daemon = lab.process(star.lb.namespace, "env", "--ignore-signal=HUP", BIN / "loxilb", *store)
    daemon.wait_line("ready in", deadline=_PATIENCE_S)
    os.kill(daemon.popen.pid, signal.SIGHUP)
    assert not star.lb.api("GET", "/config/metrics")["prometheus"]
    assert daemon.stop() == 0
    assert "starting again" not in daemon.log.read_text()
