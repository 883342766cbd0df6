# SPDX-License-Identifier: Apache-2.0
"""The daemon's settings from a file, the environment and flags: the same things, one order of precedence."""

import re
from pathlib import Path

import pytest

from loxilb import cli
from loxilb.kernel.bpf import XdpPolicy
from loxilb.logs import LogFormat
from loxilb.model import FlowState
from loxilb.settings import Settings
from tests.support.cli import call_daemon as call

VALUES = {
    "netns": "blue",
    "bpffs": "/bpf",
    "store": "/srv/lb.db",
    "config-path": "/srv/saved",
    "xdp": "off",
    "flows4": "4096",
    "flows6": "2048",
    "rules": "1025",
    "endpoints": "1026",
    "ring": "1027",
    "listeners": "1028",
    "host": "10.0.0.1",
    "port": "7",
    "no-api": "true",
    "nonlp": "yes",
    "whitelist": "^eth",
    "blacklist": "^lo",
    "loglevel": "info",
    "log-format": "json",
    "localsockpolicy": "true",
    "prometheus": "true",
    "auditinterval": "7.5",
    "timeout": "closing=90",
}
_FLAGS = {"no-api": "--api", "nonlp": "--nonlp", "localsockpolicy": "--localsockpolicy", "prometheus": "-p"}


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the place of the file that is read when none is named."""
    for name in ("HOST", "PORT", "TLS", "CPUPROF"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(cli, "_FILE", tmp_path / "loxilb.yaml")
    return tmp_path / "loxilb.yaml"


@pytest.fixture
def started(file: Path, monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """Return the settings that the daemon would run with."""
    settings: list[Settings] = []
    monkeypatch.setattr(cli, "run", lambda one, _ready, _check: settings.append(one))
    return settings


def test_file_environment_and_flags_set_the_same_things(file, started, monkeypatch):
    assert call(*(f"{_FLAGS.get(k, f'--{k}={v}')}" for k, v in VALUES.items())) == 0
    with monkeypatch.context() as patch:
        for key, value in VALUES.items():
            patch.setenv(f"LOXILB_{key.upper().replace('-', '_')}", value)
        assert call() == 0
    file.write_text("".join(f"{key}: {value}\n" for key, value in VALUES.items()))
    assert call() == 0

    by_flag, by_environment, by_file = started
    assert by_flag == by_environment
    assert by_flag.log_level_asked
    assert not by_file.log_level_asked
    for name in Settings.__slots__:
        if name != "log_level_asked":
            assert getattr(by_flag, name) == getattr(by_file, name)
            assert getattr(by_file, name) != getattr(Settings(), name) or name == "certificates"


def test_what_may_be_repeated_is_several_words_elsewhere(file, started, monkeypatch):
    """In the file and in the environment, where there is one value for a name."""
    assert call("--timeout=closing=90", "--timeout=established=7440") == 0
    with monkeypatch.context() as patch:
        patch.setenv("LOXILB_TIMEOUT", "closing=90 established=7440")
        assert call() == 0
    file.write_text("timeout: closing=90 established=7440\n")
    assert call() == 0

    timeouts = [one.data_plane.timeouts for one in started]
    assert timeouts[0] == timeouts[1] == timeouts[2]
    assert (timeouts[0][FlowState.CLOSING], timeouts[0][FlowState.ESTABLISHED]) == (90, 7440)


def test_the_list_above_is_whole():
    known = {str(one.name).replace("_", "-") for one in cli.command.params if one.expose_value}

    assert set(VALUES) == known


@pytest.mark.parametrize("sources", range(4))
def test_a_flag_beats_the_environment_beats_the_file_beats_the_default(sources, file, started, monkeypatch):
    if sources > 0:
        file.write_text("port: 1\nhost: 1.1.1.1\nxdp: 'off'\n")
    if sources > 1:
        monkeypatch.setenv("LOXILB_PORT", "2")
    assert call(*(["--port=3"] if sources > 2 else [])) == 0

    (settings,) = started
    assert settings.port == (11111, 1, 2, 3)[sources]
    assert settings.host == ("0.0.0.0" if sources == 0 else "1.1.1.1")
    assert settings.data_plane.xdp is (XdpPolicy.AUTO if sources == 0 else XdpPolicy.OFF)


def test_the_original_s_variables_count_less_than_ours(started, monkeypatch):
    monkeypatch.setenv("HOST", "name-of-this-host")
    monkeypatch.setenv("LOXILB_HOST", "10.0.0.1")
    monkeypatch.setenv("LOXILB_VERSION", "0.9.8")

    assert call() == 0
    assert started[0].host == "10.0.0.1"


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("LOXILB_XDP", "maybe", "loxilb: LOXILB_XDP: 'maybe' is not one of 'auto', 'on', 'off'.\n"),
        ("PORT", "70000", "loxilb: PORT: 70000 is not in the range 0<=x<=65535.\n"),
    ],
)
def test_a_bad_variable_is_refused_by_its_name(variable, value, said, started, monkeypatch, capsys):
    monkeypatch.setenv(variable, value)

    assert call() == 1
    assert capsys.readouterr().err == said
    assert started == []


def test_another_file_can_be_named_or_none(file, started, monkeypatch):
    other = file.with_name("other.yaml")
    other.write_text("log-format: json\n")
    file.write_text("port: 7\n")

    assert call("--config", str(other)) == 0
    assert call("--config", "none") == 0
    monkeypatch.setenv("LOXILB_CONFIG", str(other))
    assert call() == 0

    assert [(one.port, one.log_format) for one in started] == [
        (11111, LogFormat.JSON),
        (11111, LogFormat.TEXT),
        (11111, LogFormat.JSON),
    ]


def test_a_named_file_must_be_there(file, started, capsys):
    assert call("--config", str(file)) == 1

    assert capsys.readouterr().err == (
        f"loxilb: cannot read {file}: No such file or directory (name another file with --config)\n"
    )


@pytest.mark.parametrize("content", ["", "# nothing\n", "---\n"])
def test_a_file_may_be_empty(content, file, started):
    file.write_text(content)

    assert call() == 0
    assert started == [Settings()]


BAD = {
    "port: 7\n\nhots: 1.1.1.1\n": "line 3: hots: no such setting (did you mean host?)",
    "log_format: json": "line 1: log_format: no such setting (did you mean log-format?)",
    "api: false": "line 1: api: no such setting (did you mean no-api?)",
    "qqqqq: 1": "line 1: qqqqq: no such setting (loxilb --help names them)",
    "config: x": "line 1: config: no such setting",
    "version: true": "line 1: version: no such setting",
    "port: 1\nport: 2": "line 2: port: it is there twice (keep one)",
    "port: 70000": "line 1: port: 70000 is not in the range 0<=x<=65535.",
    "port: true": "line 1: port: 'true' is not a valid integer range.",
    "port:": "line 1: port: one value is needed",
    "port: [1, 2]": "line 1: port: one value is needed",
    "? [a]\n: 1": "line 1: a name is needed before the colon",
    "xdp: maybe": "line 1: xdp: 'maybe' is not one of 'auto', 'on', 'off'.",
    "nonlp: perhaps": "line 1: nonlp: 'perhaps' is not a valid boolean.",
    "netns: blue\nblacklist: 'eth['": "line 2: blacklist: 'eth[' is not a regular expression",
    "loglevel: loud": "line 1: loglevel: 'loud' is not one of trace, debug",
    "netns: blue\ncluster: 10.0.0.2": "line 2: cluster: --cluster is not built yet",
    "bgp: true": "line 1: bgp: --bgp is not built yet",
    "- port": "line 1: settings are needed, each on a line: port: 11111",
    "port: 1\n  host: 2": "is no YAML: mapping values are not allowed here",
}


@pytest.mark.parametrize("content", BAD)
def test_a_bad_file_is_refused_with_line_and_field(content, file, started, capsys):
    file.write_text(content)

    assert call() == 1
    assert re.search(rf"^loxilb: {re.escape(str(file))} {re.escape(BAD[content])}", capsys.readouterr().err)
    assert started == []


def test_the_defaults_of_what_is_not_built_may_be_in_the_file(file, started):
    file.write_text("cluster: none\nbgp: false\nself: 0\n")

    assert call() == 0
    assert len(started) == 1


def test_down_reads_the_same_file(file, monkeypatch, capsys):
    places: list[object] = []

    def take_down(*place: object, **more: object) -> str:
        places.append((*place, more))
        return "nothing to remove"

    monkeypatch.setattr(cli, "take_down", take_down)
    file.write_text("netns: blue\nbpffs: /bpf\nstore: /s.db\n")

    assert call("down", "--purge") == 0
    assert places == [("blue", Path("/bpf"), {"store": "/s.db", "purge": True})]
    assert capsys.readouterr().out == "nothing to remove\n"
