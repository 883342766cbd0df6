# SPDX-License-Identifier: Apache-2.0
"""``loxicmd get`` against live servers, byte for byte."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
import yaml

from tests.support import recorded_cli, shown
from tests.support.api import LiveApi, ShownConfiguration, live_api
from tests.support.cli import Cli
from tests.support.recorded_api import PORTS
from tests.support.replay import replay


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    """The command line in this process."""
    return Cli(capsys)


@pytest.fixture
def configuration() -> Iterator[ShownConfiguration]:
    """What the live server shows."""
    configuration = ShownConfiguration(services=shown.RULES, flows=shown.FLOWS)
    yield configuration
    configuration.close()


@pytest.fixture
def api(configuration: ShownConfiguration) -> Iterator[LiveApi]:
    """A live server with the recorded rules and flows."""
    with live_api(configuration) as live:
        yield live


def _port(api: LiveApi) -> str:
    return f"--port={api.address[1]}"


@pytest.mark.parametrize("word", ["lb", "loadbalancer", "loadbalancers", "lbs"])
def test_rules_are_as_recorded(cli: Cli, api: LiveApi, word: str) -> None:
    """The recorded table, whatever the order of the answer."""
    assert cli("get", word, _port(api)) == (0, recorded_cli.LB, "")


def test_wide_rules_are_as_recorded(cli: Cli, api: LiveApi, configuration: ShownConfiguration) -> None:
    """One row an endpoint, the state only where it is watched."""
    configuration.shown_services = shown.WIDE_RULES

    assert cli("get", "lb", "-o", "wide", _port(api)) == (
        0,
        recorded_cli.LB_WIDE,
        "",
    )


def test_flows_are_as_recorded(cli: Cli, api: LiveApi) -> None:
    """The recorded connections with their acts and states."""
    assert cli("get", "ct", _port(api)) == (0, recorded_cli.CT, "")


def test_version_is_as_recorded(cli: Cli, api: LiveApi) -> None:
    """The daemon's version."""
    assert cli("get", "lbversion", _port(api)) == (0, recorded_cli.VERSION, "")


def test_recorded_interface_is_drawn_as_recorded(cli: Cli) -> None:
    """An interface of the original, from its own answer."""
    answer = PORTS.replace("elbh2", "elbh1").replace('"portNo":3', '"portNo":1').replace("3803", "3801")
    answer = answer.replace("11.10.10.254", "10.10.10.254").replace("3ff1::", "3ff0::")
    answer = answer.replace("8a:c6:b2:77:8c:d4", "8a:f3:55:24:ad:7c")
    second = (
        ',{"portHardwareInformation":{"link":true,"macAddress":"aa:bb:cc:dd:ee:ff","rawMacAddress":[],'
        '"state":true},"portL2Information":{"vid":3801},"portL3Information":{"IPv4Address":[""],'
        '"IPv6Address":[""]},"portName":"vlan3801","portNo":2,"portSoftwareInformation":{},'
        '"portStatisticInformation":{}}]}'
    )
    with replay({"/config/port/all": answer.replace("}]}\n", "}" + second)}) as server:
        code, out, err = cli("get", "port", f"-p{server.port}")

    assert (code, err) == (0, "")
    assert out.splitlines()[:6] == recorded_cli.PORT.splitlines()


def test_wide_interface_shows_types_and_traffic(cli: Cli) -> None:
    """Types as words, statistics wrapped, the title of two lines."""
    with replay({"/config/port/all": PORTS.replace('"portType":1', '"portType":9')}) as server:
        _, out, _ = cli("get", "port", "-o", "wide", f"-p{server.port}")

    assert " ISACTIVE/BPF " in out.splitlines()[0]
    assert "|  PORT TYPE   |" in out.splitlines()[1]
    assert "| true/true    |" in out
    assert "| phy,vlan-sif |" in out
    assert "| rx/tx error : 0/0    |" in out


def test_nothing_to_show(cli: Cli, api: LiveApi, configuration: ShownConfiguration) -> None:
    """No rules print nothing, no connections the header, JSON an empty list."""
    configuration.shown_services = configuration.shown_flows = ()

    assert cli("get", "lb", _port(api)) == (0, "", "")
    assert cli("get", "lb", "-o", "wide", _port(api)) == (0, "", "")
    assert cli("get", "lb", "-o", "json", _port(api)) == (0, '{\n    "lbAttr": []\n}\n', "")
    lines = cli("get", "ct", _port(api))[1].splitlines()
    assert [len(lines), lines[0][:16]] == [2, "| SERVICE NAME |"]


def test_json_has_the_original_order_and_zero_values(cli: Cli, api: LiveApi, configuration: ShownConfiguration) -> None:
    """Four blanks, the original's spelling, zero values present."""
    configuration.shown_services = shown.RULES[-1:]
    expected = """\
{
    "lbAttr": [
        {
            "serviceArguments": {
                "externalIP": "20.20.20.1",
                "port": 2020,
                "protocol": "tcp",
                "sel": 0,
                "mode": 0,
                "BGP": false,
                "Monitor": false,
                "inactiveTimeOut": 240,
                "block": 0,
                "proxyprotocolv2": false,
                "egress": false
            },
            "secondaryIPs": null,
            "allowedSources": null,
            "endpoints": [
                {
                    "endpointIP": "31.31.31.1",
                    "targetPort": 8080,
                    "weight": 1,
                    "state": "active",
                    "counter": "6:231"
                },
                {
                    "endpointIP": "32.32.32.1",
                    "targetPort": 8080,
                    "weight": 1,
                    "state": "active",
                    "counter": "11:423"
                },
"""
    code, out, _ = cli("get", "lb", "-o", "json", _port(api))

    assert code == 0
    assert out.startswith(expected)


@pytest.mark.parametrize("what", ["lb", "ct", "port", "lbversion", "loglevel"])
def test_yaml_says_the_same_as_json(cli: Cli, api: LiveApi, what: str) -> None:
    """Both forms hold the same values in the same order."""
    as_json = json.loads(cli("get", what, "-o", "json", _port(api))[1])

    as_yaml = yaml.safe_load(cli("get", what, "-o", "yaml", _port(api))[1])

    assert json.dumps(as_yaml) == json.dumps(as_json), "members in the same order"
    assert as_json


def test_one_service_is_picked_by_name(cli: Cli, api: LiveApi) -> None:
    """``--servName`` shows the rules of that name only."""
    _, out, _ = cli("get", "lb", "--servName", "ranged", _port(api))
    _, flows, _ = cli("get", "ct", "--servName=ranged", _port(api))

    assert [line.split("|")[1].strip() for line in out.splitlines()[2:]] == ["20.20.20.2"]
    assert len(flows.splitlines()) == 2


def test_log_level_is_shown(cli: Cli, api: LiveApi) -> None:
    """The level in force."""
    expected = "| PARAM NAME | VALUE |\n|------------|-------|\n| Log level  | debug |\n"

    assert cli("get", "log-level", _port(api)) == (0, expected, "")


def test_error_of_the_server_is_on_stderr(cli: Cli) -> None:
    """The text of the answer, exit code 1, nothing on stdout."""
    with replay({}) as server:
        assert cli("get", "lb", f"-p{server.port}") == (1, "", "Error: path was not found\n")


def test_answer_that_is_no_json_is_told(cli: Cli) -> None:
    """A stranger on the port is not a crash."""
    with replay({"/version": "<html>"}) as server:
        code, out, err = cli("get", "lbversion", f"-p{server.port}")

    assert (code, out) == (1, "")
    assert err.startswith("Error: Failed to unmarshal HTTP response: (JSON is malformed")


def test_program_runs_alone(api: LiveApi) -> None:
    """``python -m loxicmd`` as users run it, exit codes included."""
    command = [sys.executable, "-m", "loxicmd", "get"]
    fine = subprocess.run([*command, "lb", _port(api)], capture_output=True, text=True, timeout=60, check=False)
    wrong = subprocess.run([*command, "param"], capture_output=True, text=True, timeout=60, check=False)

    assert (fine.returncode, fine.stdout, fine.stderr) == (0, recorded_cli.LB, "")
    assert (wrong.returncode, wrong.stdout) == (1, "")
    assert wrong.stderr.startswith('Error: unknown command "[param]"for "loxicmd" \nRun "loxicmd --help" for usage.\n')


def test_a_call_imports_nothing_heavy() -> None:
    """What makes a call slow stays out of it."""
    code = "import sys; from loxicmd import __main__, get, create, delete; print(*sys.modules)"
    environment = {**os.environ, "PYTHONPATH": "src"}
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True, env=environment
    ).stdout.split()

    assert "loxiapi.wire" in loaded
    assert not {
        "yaml",
        "rich",
        "httpx",
        "pydantic",
        "starlette",
        "asyncio",
        "loxilb",
        "loxiapi.decode",
    } & set(loaded)
