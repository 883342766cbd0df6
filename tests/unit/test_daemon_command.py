# SPDX-License-Identifier: Apache-2.0
"""The ``loxilb`` command line: what it accepts, refuses by name, and hands on."""

import re
from pathlib import Path
from typing import Any

import pytest

from loxilb import cli
from loxilb.kernel.bpf import DataPlaneSettings, XdpPolicy
from loxilb.logs import LogFormat
from loxilb.model import FlowState
from loxilb.settings import Settings
from tests.support.cli import call_daemon as call

ORIGINAL = re.findall(
    r"\S+",
    """
    --bgp --ka --version --api --nonlp --host --port --tls --tls-host --tls-port --tls-certificate
    --tls-key --cluster --self --loglevel --log-max-size --log-max-backups --log-max-age
    --log-no-compress --cpuprofile --prometheus --disable-crc32 --passive-probe --rss-enable --egr-hooks
    --peer --blacklist --whitelist --rpc --k8s-api --ipvs-compat --fallback --localsockpolicy
    --sockmapsupport --cloud --cloudcidrblock --cloudinstance --config-path --proxyonlymode
    --clusterinterface --userservice --databasehost --databaseport --databaseuser --databasename
    --databasepasswordpath --manualtoken --manualtokenvalue --oauth2 --oauth2provider
    --oauth2google-clientid --oauth2google-clientsecret --oauth2google-redirecturl
    --oauth2github-clientid --oauth2github-clientsecret --oauth2github-redirecturl
    """,
)

REFUSED = {
    "switch": ["--bgp"],
    "short switch": ["-b"],
    "value": ["--cluster", "10.0.0.2"],
    "short value": ["-k", "10.0.0.2"],
    "joined value": ["--rpc=grpc"],
    "number": ["--log-max-size", "10"],
}


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """Return the settings that the daemon would run with; no environment variable is set."""
    settings: list[Settings] = []
    for name in ("HOST", "PORT", "TLS", "CPUPROF"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(cli, "_FILE", Path("/nonexistent"))
    monkeypatch.setattr(cli, "run", lambda one, _ready, _check: settings.append(one))
    return settings


def test_help_names_every_flag_of_the_original(capsys):
    assert call("--help") == 0
    flags = re.findall(r"--[a-z0-9-]+", capsys.readouterr().out)

    assert set(ORIGINAL) <= set(flags)
    assert {"--netns", "--bpffs", "--xdp", "--flows4", "--flows6", "--log-format"} <= set(flags)


def test_version_is_printed_after_a_banner(capsys):
    assert call("--version") == 0

    assert re.fullmatch(r"loxilb start\nloxilb version: \d+\.\d+\.\d+ \S+\n", capsys.readouterr().out)


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_built_is_refused_by_name(name, started, capsys):
    assert call(*REFUSED[name]) == 1

    flag = {"-b": "--bgp", "-k": "--ka"}.get(REFUSED[name][0], REFUSED[name][0].partition("=")[0])
    assert capsys.readouterr().err == f"loxilb: {flag} is not built yet\n"
    assert started == []


def test_environment_variables_of_what_is_not_built_are_refused(started, monkeypatch, capsys):
    monkeypatch.setenv("TLS", "true")

    assert call() == 1
    assert capsys.readouterr().err == "loxilb: --tls is not built yet\n"


def test_the_defaults_of_what_is_not_built_ask_for_nothing(started):
    assert call("--cluster", "none", "--rpc=netrpc", "--self", "0", "--cloud", "on-prem") == 0

    assert len(started) == 1


@pytest.mark.parametrize("wrong", [["--nosuch"], ["--xdp", "maybe"], ["--port", "70000"], ["--flows4", "1"], ["up"]])
def test_wrong_usage_exits_with_one(wrong, started, capsys):
    assert call(*wrong) == 1
    assert "Usage: loxilb" in capsys.readouterr().err
    assert started == []


def test_a_broken_expression_is_named(started, capsys):
    assert call("--blacklist", "eth[") == 1
    assert "blacklist: 'eth[' is not a regular expression" in capsys.readouterr().err


def test_defaults(started):
    assert call() == 0

    assert started == [Settings()]


def test_every_flag_reaches_its_setting(started):
    line = "--netns blue --bpffs /bpf --xdp off --host :: --port 0 -a -n"
    sizes = "--flows4 4096 --flows6 2048 --rules 1025 --endpoints 1026 --ring 1027"
    assert call(*line.split(), *sizes.split(), "--loglevel", "info", "--log-format", "json", "--whitelist", "^eth") == 0

    (settings,) = started
    assert settings.netns == "blue"
    assert settings.data_plane == DataPlaneSettings(
        bpffs=Path("/bpf"), xdp=XdpPolicy.OFF, flows4=4096, flows6=2048, rules=1025, endpoints=1026, ring=1027
    )
    assert (settings.host, settings.port, settings.api, settings.follow_network) == ("::", 0, False, False)
    assert (settings.log_level, settings.log_format) == ("info", LogFormat.JSON)
    assert settings.interfaces.whitelist == re.compile("^eth")


def test_timeouts_of_states_are_set_one_by_one(started):
    """The others keep their defaults; the last of two for one state counts."""
    assert call("--timeout", "closing=90", "--timeout=established=7440", "--timeout", "closing=91") == 0

    (settings,) = started
    defaults = DataPlaneSettings().timeouts
    assert settings.data_plane.timeouts == {**defaults, FlowState.CLOSING: 91, FlowState.ESTABLISHED: 7440}


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ("est=5", "'est' is no state of a flow; states are syn-sent, syn-received, established, closing, time-wait"),
        ("none=5", "'none' is no state"),
        ("closing", "'' for closing is not a number of seconds from 1 to 86400"),
        ("closing=0", "'0' for closing"),
        ("closing=1.5", "'1.5' for closing"),
        ("closing=-1", "'-1' for closing"),
        ("closing=86401", "'86401' for closing"),
    ],
)
def test_a_wrong_timeout_is_refused(wrong, told, started, capsys):
    assert call("--timeout", wrong) == 1

    said = capsys.readouterr().err
    assert "--timeout" in said
    assert told in said
    assert started == []


def test_environment_variables_stand_in_for_flags(started, monkeypatch):
    monkeypatch.setenv("HOST", "127.0.0.1")
    monkeypatch.setenv("PORT", "22222")
    assert call("--port", "33333") == 0

    assert [(one.host, one.port) for one in started] == [("127.0.0.1", 33333)]


@pytest.mark.parametrize("arguments", ["down --netns blue --bpffs /bpf", "--netns blue --bpffs /bpf down"])
def test_down_works_where_it_is_told_and_says_what_it_did(arguments, monkeypatch, capsys):
    places: list[tuple[str, Path]] = []

    def take_down(*place: Any, store: str, purge: bool) -> str:
        assert (store, purge) == ("", False)
        places.append(place)
        return "nothing to remove"

    monkeypatch.setattr(cli, "take_down", take_down)

    assert call(*arguments.split()) == 0
    assert places == [("blue", Path("/bpf"))]
    assert capsys.readouterr().out == "nothing to remove\n"
