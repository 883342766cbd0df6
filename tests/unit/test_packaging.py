# SPDX-License-Identifier: Apache-2.0
"""What goes beside the programs: life signs for a service manager, man pages, the unit file."""

import asyncio
import re
import runpy
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from loxicmd.root import root as loxicmd
from loxilb.cli import command as loxilb
from loxilb.readiness import Manager

DEPLOY = Path(__file__).parents[2] / "deploy"


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """Return the socket that a service manager listens on."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(5)
        yield listening


def environment(manager: socket.socket, **more: str) -> dict[str, str]:
    """Return what the manager puts into the environment."""
    return {"NOTIFY_SOCKET": str(manager.getsockname()), **more}


def test_ready_and_stopping_are_told(manager: socket.socket) -> None:
    """As sd_notify(3) has it, one datagram each."""
    told = Manager(environment(manager))

    told.ready("2 interfaces")
    told.reloading()
    told.stopping()

    assert manager.recv(100) == b"READY=1\nSTATUS=2 interfaces"
    assert manager.recv(100) == b"RELOADING=1"
    assert manager.recv(100) == b"STOPPING=1"


def test_only_the_first_character_makes_a_socket_abstract(tmp_path: Path) -> None:
    """The home of a user may have an @ in its name."""
    folder = tmp_path / "a@b"
    folder.mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(folder / "notify"))
        listening.settimeout(5)
        Manager(environment(listening)).ready("")

        assert listening.recv(100) == b"READY=1\nSTATUS="


def test_an_abstract_socket_is_found() -> None:
    """Its name begins with @ in the environment, with a zero byte in the kernel."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind("\0loxt-notify")
        listening.settimeout(5)
        Manager({"NOTIFY_SOCKET": "@loxt-notify"}).ready("")

        assert listening.recv(100) == b"READY=1\nSTATUS="


@pytest.mark.parametrize("given", [{}, {"NOTIFY_SOCKET": "/nonexistent/notify"}])
def test_without_a_manager_nothing_fails(given: dict[str, str]) -> None:
    """Neither where none is named, nor where it does not listen."""
    Manager(given).ready("")


def test_life_signs_come_twice_in_the_time_allowed(manager: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the event loop; the manager's interval is in microseconds."""
    waits: list[float] = []
    really_sleep = asyncio.sleep

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        await really_sleep(0)

    async def scene() -> list[bytes]:
        alive = asyncio.create_task(Manager(environment(manager, WATCHDOG_USEC="20000")).stay_alive())
        while len(waits) < 3:
            await really_sleep(0)
        alive.cancel()
        return [manager.recv(100) for _ in range(3)]

    monkeypatch.setattr("loxilb.readiness.asyncio.sleep", sleep)
    assert asyncio.run(scene()) == [b"WATCHDOG=1"] * 3
    assert set(waits) == {0.01}


@pytest.mark.parametrize("given", [{}, {"WATCHDOG_USEC": "20000", "WATCHDOG_PID": "1"}])
def test_no_life_signs_where_none_are_wanted(manager: socket.socket, given: dict[str, str]) -> None:
    """Or where those of another process are."""
    asyncio.run(asyncio.wait_for(Manager(environment(manager, **given), process=2).stay_alive(), 5))


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    """Return the man pages by file name."""
    made: dict[str, Any] = runpy.run_path(str(DEPLOY / "manpages.py"))
    return {page.file: made["text_of"](page) for page in made["PAGES"]}


def test_pages_name_every_option_and_command(pages: dict[str, str]) -> None:
    """They are made from the commands; what is not built is left out."""
    built = [one for one in loxilb.params if getattr(one, "help", "") != "Not built yet."]
    for option in (name for one in built for name in one.opts):
        assert option.replace("-", "\\-") in pages["loxilb.8"], option
    assert "\\-\\-oauth2" not in pages["loxilb.8"]
    for words in ("doctor", "down"):
        assert f"\n.SS\n{words} " in pages["loxilb.8"]
    for words in ("create lb", "get conntrack", "delete endpoint", "set log\\-level"):
        assert f"\n.SS\n{words} " in pages["loxicmd.1"], words
    assert "\\-\\-endpoints" in pages["loxicmd.1"]
    for text in ("Not built yet", "\n.\n", "&.", "WORDS"):  # what nobody has, and what nobody has said
        assert [name for name, page in pages.items() if text in page] == [], text
    assert loxicmd.name == "loxicmd"


@pytest.mark.skipif(shutil.which("groff") is None, reason="groff is not installed")
def test_pages_have_no_error(pages: dict[str, str]) -> None:
    """Nor a warning."""
    for text in pages.values():
        done = subprocess.run(
            ["groff", "-man", "-ww", "-Tutf8", "-z"], input=text, capture_output=True, text=True, check=True
        )
        assert done.stderr == ""


def test_every_way_to_run_it_grants_the_same_rights() -> None:
    """Those of the documentation: to the container, and to the service, which may mount a BPF file system besides."""
    documented = set(re.findall(r"^\| `CAP_(\w+)` \|", (DEPLOY.parent / "docs/install.md").read_text(), re.MULTILINE))
    (container,) = re.findall(r"--cap-drop all --cap-add (\S+) ", (DEPLOY / "Containerfile").read_text())
    (service,) = re.findall(r"^CapabilityBoundingSet=(.*)$", (DEPLOY / "loxilb.service").read_text(), re.MULTILINE)

    assert len(documented) == 4
    assert set(container.split(",")) == documented
    assert {one.removeprefix("CAP_") for one in service.split()} == documented | {"SYS_ADMIN"}


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_the_unit_file_has_no_error(tmp_path: Path) -> None:
    """Every setting is known; the program is where the test says."""
    unit = tmp_path / "loxilb.service"
    unit.write_text((DEPLOY / "loxilb.service").read_text().replace("/usr/bin/loxilb", "/bin/true"))

    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True, check=False
    )

    complaints = [line for line in (done.stdout + done.stderr).splitlines() if "loxilb.service" in line]
    assert complaints == []
    assert "PrivateTmp" not in unit.read_text()  # a mount namespace would take the pins with it
