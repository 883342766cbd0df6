# SPDX-License-Identifier: Apache-2.0
"""Grammar of the command line: shared flags, words, usage errors."""

import socket
from collections.abc import Sequence

import pytest

from tests.support.cli import Cli
from tests.support.replay import replay

_VERSION = {"/version": '{"version":"1"}'}


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    """The command line in this process."""
    return Cli(capsys)


def _spread(words: Sequence[str], flag: Sequence[str]) -> list[list[str]]:
    return [[*words[:place], *flag, *words[place:]] for place in range(len(words) + 1)]


@pytest.mark.parametrize("spelling", ["-p {}", "-p{}", "-p={}", "--port {}", "--port={}"])
def test_shared_flags_are_taken_at_any_position(cli: Cli, spelling: str) -> None:
    """Before the verb, before the word and after it."""
    with replay(_VERSION) as server:
        flag = spelling.format(server.port).split()
        for args in _spread(["get", "lbversion"], flag):
            assert cli(*args)[0] == 0, args

        assert len(server.asked) == 3


def test_last_of_a_flag_given_twice_counts(cli: Cli) -> None:
    """The innermost position wins over the outer one."""
    with replay(_VERSION) as server:
        assert cli("-p", "1", "get", "lbversion", "-p", str(server.port))[0] == 0


def test_token_is_sent_as_it_is(cli: Cli) -> None:
    """No scheme is put in front."""
    with replay(_VERSION) as server:
        cli("get", "lbversion", f"-p{server.port}", "--token", "abc.def")

        assert server.asked[0].headers["authorization"] == "abc.def"


@pytest.mark.parametrize("host", ["::1", "[::1]"])
def test_ipv6_server_needs_no_brackets(cli: Cli, host: str) -> None:
    """Both spellings reach the server."""
    with replay(_VERSION, host="::1") as server:
        assert cli("-s", host, "get", "lbversion", f"-p{server.port}")[0] == 0


def test_server_that_is_not_there(cli: Cli) -> None:
    """The error names the URL and the cause."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    code, out, err = cli("get", "lb", f"-p{port}")

    assert (code, out) == (1, "")
    assert f"http://127.0.0.1:{port}/netlox/v1/config/loadbalancer/all" in err
    assert "Connection refused" in err


def test_server_that_does_not_answer(cli: Cli) -> None:
    """The wait ends with the timeout."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        code, _, err = cli("get", "lb", "-t", "1", f"-p{silent.getsockname()[1]}")

    assert (code, "timed out" in err) == (1, True)


@pytest.mark.parametrize(
    ("args", "first_lines"),
    [
        (["get"], ['Error: unknown command "[]"for "loxicmd" ', 'Run "loxicmd --help" for usage.']),
        (["get", "param"], ['Error: unknown command "[param]"for "loxicmd" ', 'Run "loxicmd --help" for usage.']),
        (["create"], ['Error: unknown command "[]"for "loxicmd" ']),
        (["delete", "x", "y"], ['Error: unknown command "[x y]"for "loxicmd" ']),
        (["set"], ['Error: unknown command "[]"for "loxicmd" ']),
        (["foo"], ['Error: unknown command "foo" for "loxicmd"', "Run 'loxicmd --help' for usage."]),
        (["save"], ["Error: Provide valid options", "Usage: loxicmd save "]),
        (["get", "fw"], ['Error: unknown command "[fw]"for "loxicmd" ', "", "fw is not built yet"]),
        (["create", "vlan-member"], ["", "", "vlan-member is not built yet"]),
        (["set", "login"], ["", "", "login is not built yet"]),
        (["get", "lb", "--foo"], ["Error: unknown flag: --foo"]),
        (["get", "lb", "-p", "70000"], ['Error: invalid argument for "-p, --port" flag: ']),
        (["get", "lb", "--protocol", "ftp"], ['Error: invalid argument for "--protocol" flag: ']),
        (["get", "lb", "extra"], ["Error: too many arguments: extra", "Usage: loxicmd get loadbalancer "]),
        (["create", "lb"], ["Error: create lb need EXTERNAL-IP args", "Usage: loxicmd create lb "]),
        (["create", "lb", "1.1.1.1", "2.2.2.2"], ["Error: too many arguments: 2.2.2.2"]),
        (["delete", "lb", "--tcp=80"], ["Error: not valid EXTERNAL-IP"]),
        (["delete", "lb", "1.1.1.1", "--tcp=x"], ["Error: port 'x' is not integer"]),
        (["delete", "lb", "1.1.1.1"], ["Error: delete lb needs one or more of "]),
        (["set", "log-level"], ["Error: set log-level need <log-level> args"]),
        (["set", "log-level", "a", "b"], ["Error: set log-level command get so many args"]),
        (["completion", "tcsh"], ['Error: invalid argument "tcsh" for "loxicmd completion"']),
        (["completion", "powershell"], ["Error: completion for powershell is not built yet"]),
    ],
)
def test_usage_errors_are_on_stderr_with_exit_code_1(cli: Cli, args: list[str], first_lines: list[str]) -> None:
    """The original's text first, usage or help below."""
    code, _, err = cli(*args)

    assert code == 1
    for line, expected in zip(err.splitlines(), first_lines, strict=False):
        assert line.startswith(expected)
    assert len(err.splitlines()) >= len(first_lines)


@pytest.mark.parametrize("args", [["--help"], ["get", "-h"], ["get", "ct", "--help"], ["create", "lb", "-h"]])
def test_help_is_on_stdout(cli: Cli, args: list[str]) -> None:
    """Help asked for is no error, and shows the shared flags."""
    code, out, err = cli(*args)

    assert (code, err) == (0, "")
    assert "--apiserver" in out


def test_own_version(cli: Cli) -> None:
    """Two lines."""
    code, out, _ = cli("version")
    lines = out.splitlines()

    assert (code, len(lines)) == (0, 2)
    assert lines[0].startswith("Loxicmd version: 0.")
    assert lines[1].startswith("Loxicmd build info: ")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_call_the_program(cli: Cli, shell: str) -> None:
    """The script asks loxicmd for words."""
    code, out, _ = cli("completion", shell)

    assert code == 0
    assert "_LOXICMD_COMPLETE" in out


def test_completion_knows_the_words(
    cli: Cli, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shell is told the commands below a verb."""
    monkeypatch.setenv("_LOXICMD_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", "loxicmd get l")
    monkeypatch.setenv("COMP_CWORD", "2")

    with pytest.raises(SystemExit):
        cli()
    words = capsys.readouterr().out.split()

    assert set(words) == {"plain,loadbalancer", "plain,lbversion", "plain,log-level"}
