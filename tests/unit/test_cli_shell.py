# SPDX-License-Identifier: Apache-2.0
"""What makes the shell pleasant: watching, explaining, completing."""

import os
import pty
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete

from loxicmd.grammar import run
from loxicmd.root import root
from loxilb.model import LinkKind, Port
from loxilb.model.port import IfIndex
from tests.support import shown
from tests.support.api import LiveApi, ShownConfiguration, fake_kernel_api, live_api
from tests.support.cli import Cli

_PORT = Port(index=IfIndex(2), name="eth0", kind=LinkKind.VETH, mac=bytes(6), mtu=1500, up=True, carrier=True)


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    """The command line in this process."""
    return Cli(capsys)


@pytest.fixture
def api() -> Iterator[LiveApi]:
    """A live server with the recorded rules."""
    configuration = ShownConfiguration(services=shown.RULES, ports=[_PORT])
    with live_api(configuration) as live:
        yield live
    configuration.close()


def interrupted_after(monkeypatch: pytest.MonkeyPatch, times: int) -> list[float]:
    """Have the sleeps noted, and the last of them interrupted."""
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == times:
            raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", sleep)
    return slept


@pytest.mark.parametrize(("flags", "seconds"), [(["--watch"], 2), (["-w", "5"], 5), (["--watch=7"], 7)])
def test_watch_shows_again(
    cli: Cli, api: LiveApi, monkeypatch: pytest.MonkeyPatch, flags: list[str], seconds: int
) -> None:
    """The same table, no control characters where there is no terminal; an interrupt is the way to end it."""
    port = f"--port={api.address[1]}"
    once = cli("get", "lb", port)
    slept = interrupted_after(monkeypatch, 3)

    assert cli("get", "lb", port, *flags) == (0, once[1] * 3, "")
    assert slept == [seconds] * 3


def on_a_terminal(*args: str, **environment: str) -> str:
    """Run the command line with a terminal for its output, and return what that was sent."""
    ours, theirs = pty.openpty()
    try:
        environment = {**os.environ, "TERM": "xterm", **environment}
        subprocess.run([sys.executable, "-m", "loxicmd", *args], stdout=theirs, env=environment, check=True)
        return os.read(ours, 1 << 16).decode().replace("\r\n", "\n")
    finally:
        os.close(ours)
        os.close(theirs)


def test_states_have_colours_on_a_terminal_only(cli: Cli, api: LiveApi) -> None:
    """They stand out without moving anything, unless somebody minds."""
    asked = ("get", "status", f"--port={api.address[1]}")
    code, plain, _ = cli(*asked)
    assert code == 0
    assert "\x1b" not in plain

    assert on_a_terminal(*asked, NO_COLOR="1") == on_a_terminal(*asked, TERM="dumb") == plain
    painted = on_a_terminal(*asked, NO_COLOR="")
    assert re.sub(r"\x1b\[\d+m", "", painted) == plain
    assert [line.count("\x1b[32mconverged\x1b[0m") for line in painted.splitlines()] == [0, 0, 1, 1, 1]


def test_watch_outlives_the_server(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may come back."""
    interrupted_after(monkeypatch, 2)

    code, out, err = cli("get", "lb", "--port=1", "--watch")

    assert (code, out) == (0, "")
    assert err.count("Error: GET http://127.0.0.1:1") == 2


def test_explain_names_members_types_and_meanings(cli: Cli) -> None:
    """Those of members too, a list marked as such; every wire name is there."""
    code, out, _ = cli("explain", "lb")
    rows = {row[1].strip(): [cell.strip() for cell in row[2:5]] for row in (one.split("|") for one in out.splitlines())}

    assert code == 0
    assert rows["serviceArguments.externalIP"][:2] == ["text", "yes"]
    assert rows["serviceArguments.bgp"] == ["boolean", "", ""]
    assert rows["serviceArguments.protocol"][2] == "tcp, udp, sctp, icmp"
    assert rows["endpoints[].weight"][:2] == ["number", "yes"]


@pytest.mark.parametrize("kind", ["endpoint", "ep", "ct", "port", "params", "revisions"])
def test_every_kind_is_explained(cli: Cli, kind: str) -> None:
    """Also by its short name."""
    assert cli("explain", kind)[0] == 0


def test_an_unknown_kind_is_an_error_that_names_the_known(cli: Cli) -> None:
    """Also none at all."""
    for words in (["nosuch"], []):
        code, _, err = cli("explain", *words)
        assert code == 1
        assert "loadbalancer, endpoint" in err


def offered(*words: str, incomplete: str = "") -> list[str]:
    """Return what the shell offers behind ``words``."""
    completion = ShellComplete(root, {}, "loxicmd", "_LOXICMD_COMPLETE")
    return [item.value for item in completion.get_completions(list(words), incomplete)]


def test_completion_asks_the_server(api: LiveApi) -> None:
    """For what begins like that, each once; at the server that the line names."""
    port = f"--port={api.address[1]}"

    addresses = offered("delete", "lb", port, incomplete="20.")

    assert addresses
    assert len(addresses) == len(set(addresses))
    assert all(one.startswith("20.") for one in addresses)
    assert offered("get", "lb", port, "--servName") == ["ranged"]
    assert offered("trace", port, "--iface") == ["eth0"]


def test_completion_knows_what_there_is_to_choose_from() -> None:
    """Without asking anybody."""
    assert offered("create", "lb", "20.20.20.1", "--select", incomplete="p") == ["priority", "persist"]
    assert offered("create", "lb", "20.20.20.1", "--mode", incomplete="one") == ["onearm"]
    assert offered("create", "ep", "31.31.31.1", "--probetype", incomplete="http") == ["http", "https"]
    assert offered("get", "lb", "-o") == ["wide", "json", "yaml"]
    assert offered("explain", incomplete="con") == ["conntrack"]
    assert offered("trace", incomplete="u") == ["udp"]


def test_completion_offers_revisions(cli: Cli) -> None:
    """To go back to, the newest first."""
    with fake_kernel_api() as api:
        port = f"--port={api.address[1]}"
        for service in ("--tcp=80:80", "--tcp=81:80"):
            assert cli("create", "lb", "20.20.20.1", service, "--endpoints=31.31.31.1:1", port)[0] == 0

        assert offered("rollback", port) == ["2", "1"]


def test_completion_without_a_server_offers_nothing() -> None:
    """And says nothing, which would spoil the line."""
    assert offered("delete", "lb", "--port=1") == []


@pytest.mark.parametrize(("terminal", "rules", "bar"), [(True, 150, True), (False, 150, False), (True, 5, False)])
def test_long_work_shows_how_far_it_is(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    *,
    terminal: bool,
    rules: int,
    bar: bool,
) -> None:
    """On a terminal, and only there; it is on standard error, so that the output stays as it is."""
    one = '{"serviceArguments":{"externalIP":"20.20.20.1","port":%d,"protocol":"tcp"},"endpoints":[%s]}'
    end = '{"endpointIP":"31.31.31.1","targetPort":80,"weight":1}'
    saved = tmp_path / "lbconfig.txt"
    saved.write_text('{"lbAttr":[' + ",".join(one % (port, end) for port in range(1, rules + 1)) + "]}")

    with fake_kernel_api() as api:
        monkeypatch.setattr(type(sys.stderr), "isatty", lambda _stream: terminal)
        code = run(root, ["apply", "--lb", str(saved), f"--port={api.address[1]}"])

    captured = capsys.readouterr()
    assert (code, captured.out) == (0, f"Configuration applied - {saved}\n")
    assert ("100%" in captured.err) == bar
    assert bar or captured.err == ""
