# SPDX-License-Identifier: Apache-2.0
"""``loxicmd create``, ``delete`` and ``set`` against a live server, byte for byte."""

import json
from collections.abc import Iterator

import pytest

from tests.support.api import LiveApi, fake_kernel_api
from tests.support.cli import Cli
from tests.support.replay import replay

_DONE = "Debug: response.StatusCode: 200\nSuccess\n"
_SUCCESS = {"/config/loadbalancer": '{"result":"Success"}'}


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    """The command line in this process."""
    return Cli(capsys)


@pytest.fixture
def api() -> Iterator[LiveApi]:
    """A live server without rules, over a fake kernel."""
    with fake_kernel_api() as live:
        yield live


def _port(api: LiveApi) -> str:
    return f"--port={api.address[1]}"


def _rules(api: LiveApi) -> list[str]:
    entries = api.request("GET", "/netlox/v1/config/loadbalancer/all").json["lbAttr"]
    arguments = [entry["serviceArguments"] for entry in entries]
    return [f"{one['externalIP']}:{one['port']}/{one['protocol']}" for one in arguments]


def test_rule_is_created_and_deleted_in_the_original_words(cli: Cli, api: LiveApi) -> None:
    """The lines that scripts look for."""
    endpoints = "--endpoints=10.212.0.1:1,10.212.0.2:1"
    created = cli("create", "lb", "1.1.1.1", "--tcp=80:32015", endpoints, _port(api))
    made = _rules(api)
    deleted = cli("delete", "lb", "1.1.1.1", "--tcp=80", _port(api))

    assert created == (0, "ProtoPortpair: map[tcp:[80:32015]]\n" + _DONE, "")
    assert made == ["1.1.1.1:80/tcp"]
    assert deleted == (
        0,
        "PortNumberList: map[tcp:[80]]\n"
        "subResources: [hosturl any externalipaddress 1.1.1.1 port 80 portmax 0 protocol tcp]\n" + _DONE,
        "",
    )
    assert _rules(api) == []


def test_every_protocol_given_is_done(cli: Cli, api: LiveApi) -> None:
    """One request each in a fixed order, for create and delete."""
    flags = ("--udp=53:53", "--tcp=80:8080,81:8081", "--icmp")
    code, out, _ = cli("create", "lb", "1.1.1.1", *flags, "--endpoints=2.2.2.2:1", _port(api))
    icmp = cli("create", "lb", "1.1.1.2", "--icmp", "--endpoints=2.2.2.2:1", _port(api))
    made = _rules(api)
    deleted = cli("delete", "lb", "1.1.1.1", "--tcp", "80", "--udp", "53", _port(api))

    assert (code, out) == (
        0,
        "ProtoPortpair: map[icmp:[0:0] tcp:[80:8080 81:8081] udp:[53:53]]\n" + _DONE * 4,
    )
    assert icmp[0] == 0
    assert made == ["1.1.1.1:0/icmp", "1.1.1.1:80/tcp", "1.1.1.1:81/tcp", "1.1.1.1:53/udp", "1.1.1.2:0/icmp"]
    assert deleted[1].count("Success") == 2
    assert _rules(api) == ["1.1.1.1:0/icmp", "1.1.1.1:81/tcp", "1.1.1.2:0/icmp"]


def test_refusal_of_the_server_keeps_the_line_and_fails(cli: Cli, api: LiveApi) -> None:
    """The status on stdout as in the original, the reason on stderr, exit code 1."""
    create = ("create", "lb", "1.1.1.1", "--tcp=80:80", "--endpoints=2.2.2.2:1", _port(api))
    cli(*create)
    again = cli(*create)
    missing = cli("delete", "lb", "1.1.1.9", "--tcp=80", _port(api))
    dsr = cli(*create[:-1], "--mode=dsr", create[-1])

    assert again[:2] == (1, "ProtoPortpair: map[tcp:[80:80]]\nDebug: response.StatusCode: 409\n")
    assert again[2].startswith("Error: lbrule-exists error")
    assert missing[0] == 1
    assert missing[1].endswith("Debug: response.StatusCode: 404\n")
    assert missing[2].startswith("Error: no-rule error")
    assert dsr[2].startswith("Error: Only Hash Selection criteria allowed for DSR mode")


def test_rules_are_deleted_by_name(cli: Cli, api: LiveApi) -> None:
    """The name form prints the status and the result only."""
    for address in ("1.1.1.1", "1.1.1.2"):
        cli("create", "lb", address, "--tcp=80:80", "--endpoints=2.2.2.2:1", "--name=a/b", _port(api))

    assert cli("delete", "lb", "--name=a/b", _port(api)) == (0, _DONE, "")
    assert _rules(api) == []


def test_result_as_json_and_yaml_is_all_there_is(cli: Cli, api: LiveApi) -> None:
    """A program reads stdout without stripping lines."""
    create = ("create", "lb", "1.1.1.1", "--endpoints=2.2.2.2:1", _port(api))

    assert cli(*create, "--tcp=80:80", "-o", "json") == (0, '{\n    "result": "Success"\n}\n', "")
    assert cli(*create, "--tcp=81:80", "-o", "yaml") == (0, "result: Success\n", "")
    assert cli("delete", "lb", "1.1.1.1", "--tcp=80", "-o=json", _port(api))[1] == '{\n    "result": "Success"\n}\n'


def test_endpoints_keep_order_doubles_and_target_ranges(cli: Cli) -> None:
    """One endpoint entry per address and target port, in the order given."""
    with replay(_SUCCESS) as server:
        cli(
            *("create", "lb", "2001::1", "--tcp=5000:5201-5202", "--endpoints=5ffe::1:3,4ffe::1:1"),
            *("--endpoints", "5ffe::1:3", f"-p{server.port}"),
        )
        cli("create", "lb", "1.1.1.1", "--udp=8080-8081:32015", "--endpoints=2.2.2.2:1", f"-p={server.port}")
        bodies = [json.loads(asked.body) for asked in server.asked]

    endpoints = [(one["endpointIP"], one["targetPort"], one["weight"]) for one in bodies[0]["endpoints"]]
    assert endpoints == [
        (address, port, weight)
        for address, weight in (("5ffe::1", 3), ("4ffe::1", 1), ("5ffe::1", 3))
        for port in (5201, 5202)
    ]
    assert bodies[0]["serviceArguments"]["port"] == 5000
    assert "portMax" not in bodies[0]["serviceArguments"]
    assert [bodies[1]["serviceArguments"][name] for name in ("port", "portMax")] == [8080, 8081]


def test_body_is_that_of_the_original(cli: Cli) -> None:
    """Spelling, order and zero values of the original command line."""
    with replay(_SUCCESS) as server:
        cli("create", "lb", "1.1.1.1", "--tcp=80:90", "--endpoints=2.2.2.2:1", f"-p{server.port}")
        asked = server.asked[0]

    assert asked.body.decode() == (
        '{"serviceArguments":{"externalIP":"1.1.1.1","port":80,"protocol":"tcp","sel":0,"mode":0,"BGP":false,'
        '"Monitor":false,"inactiveTimeOut":0,"block":0,"proxyprotocolv2":false,"egress":false},'
        '"secondaryIPs":null,"allowedSources":null,'
        '"endpoints":[{"endpointIP":"2.2.2.2","targetPort":90,"weight":1,"state":"","counter":""}]}'
    )
    assert asked.headers["content-type"] == "application/json"
    assert asked.headers["authorization"] == ""


def test_secondary_addresses_go_with_every_protocol(cli: Cli) -> None:
    """Not with SCTP alone."""
    with replay(_SUCCESS) as server:
        flags = ("--tcp=80:80", "--udp=80:80", "--endpoints=2.2.2.2:1", "--secips=3.3.3.3", "--halfopen=9")
        assert cli("create", "lb", "1.1.1.1", *flags, f"-p{server.port}")[0] == 0
        bodies = [json.loads(asked.body) for asked in server.asked]

    assert [body["secondaryIPs"] for body in bodies] == [[{"secondaryIP": "3.3.3.3"}]] * 2
    assert [body["serviceArguments"]["halfOpenLimit"] for body in bodies] == [9, 9]


def test_every_flag_reaches_the_body(cli: Cli) -> None:
    """Words become their numbers."""
    flags = (
        *("--sctp=38412:38412", "--endpoints=2.2.2.2:1", "--select=lc", "--mode=fullnat", "--bgp"),
        *("--monitor=true", "--secips=3.3.3.3,4.4.4.4", "--sources=10.0.0.0/8", "--inatimeout=30", "--mark=7"),
        *("--name=n", "--host=h", "--security=e2etls", "--attachEP", "--ppv2en", "--egress=false"),
        *("--onEndpointLoss=drain", "--drainTimeout=60", "--slowStart=20"),
    )
    with replay(_SUCCESS) as server:
        code, _, err = cli("create", "lb", "1.1.1.1", *flags, f"-p{server.port}")
        body = json.loads(server.asked[0].body)

    assert (code, err) == (0, "")
    assert body["serviceArguments"] == {
        "externalIP": "1.1.1.1",
        "port": 38412,
        "protocol": "sctp",
        "sel": 4,
        "mode": 2,
        "BGP": True,
        "Monitor": True,
        "inactiveTimeOut": 30,
        "block": 7,
        "name": "n",
        "oper": 1,
        "security": 2,
        "host": "h",
        "proxyprotocolv2": True,
        "egress": False,
        "onEndpointLoss": "drain",
        "drainTimeout": 60,
        "slowStart": 20,
    }
    assert body["secondaryIPs"] == [{"secondaryIP": "3.3.3.3"}, {"secondaryIP": "4.4.4.4"}]
    assert body["allowedSources"] == [{"prefix": "10.0.0.0/8"}]


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (("nope", "--tcp=80:80"), "Externel IP 'nope' is invalid format"),
        (("1.1.1.1",), "create lb needs one or more of --tcp, --udp, --sctp, --icmp"),
        (("1.1.1.1", "--tcp=80"), "port pair '80' is invalid format"),
        (("1.1.1.1", "--tcp=x:80"), "port 'x' is not integer"),
        (("1.1.1.1", "--tcp=80:y"), "targetPort 'y' is not integer"),
        (("1.1.1.1", "--tcp=80:90-80"), "targetPort '90-80' is invalid format"),
        (("1.1.1.1", "--tcp=70000:80"), "port '70000' is not within 0 to 65535"),
        (("1.1.1.1", "--tcp=1:1", "--endpoints=x"), "endpoint 'x' is invalid format"),
        (("1.1.1.1", "--tcp=1:1", "--endpoints=1.1.1.2:w"), "endpoint's weight 'w' is invalid format"),
        (("1.1.1.1", "--tcp=1:2", "--endpoints=1.1.1.2:1", "--mode=dsr"), "dsr keeps the port: use 1:1"),
    ],
)
def test_mistakes_are_found_before_anything_is_sent(cli: Cli, args: tuple[str, ...], text: str) -> None:
    """The error is on stderr, the exit code 1, and no request was made."""
    with replay(_SUCCESS) as server:
        code, _, err = cli("create", "lb", *args, f"-p{server.port}")

        assert (code, err) == (1, f"Error: {text}\n")
        assert server.asked == []


def test_second_pair_is_checked_before_the_first_is_sent(cli: Cli) -> None:
    """Nothing is half done because of a typing mistake."""
    with replay(_SUCCESS) as server:
        args = ("create", "lb", "1.1.1.1", "--tcp=80:80,81:x", "--endpoints=2.2.2.2:1", f"-p{server.port}")

        assert cli(*args)[0] == 1
        assert server.asked == []


@pytest.mark.parametrize("flag", ["--select=bogus", "--mode=bogus", "--security=bogus"])
def test_unknown_words_are_zero_with_a_warning(cli: Cli, flag: str) -> None:
    """As in the original, but not silently."""
    with replay(_SUCCESS) as server:
        args = ("create", "lb", "1.1.1.1", "--tcp=80:80", "--endpoints=2.2.2.2:1", flag, f"-p{server.port}")
        code, _, err = cli(*args)
        arguments = json.loads(server.asked[0].body)["serviceArguments"]

    assert code == 0
    assert err.startswith("Warning: unknown word 'bogus'")
    assert (arguments["sel"], arguments["mode"], arguments.get("security", 0)) == (0, 0, 0)


def test_delete_names_the_rule_in_the_path(cli: Cli) -> None:
    """Host, range, mark and announcement are in the request."""
    flags = ("--host=a.example/x", "--sctp=80-90", "--mark=9", "--bgp")
    with replay({}) as server:
        code, out, err = cli("delete", "lb", "2001::1", *flags, f"-p{server.port}")
        asked = server.asked[0]

    assert code == 1
    assert out.startswith("PortNumberList: map[sctp:[80 90]]\nsubResources: [hosturl a.example/x ")
    assert err == "Error: path was not found\n"
    assert (asked.method, asked.path) == (
        "DELETE",
        "/netlox/v1/config/loadbalancer/hosturl/a.example%2Fx/externalipaddress/2001::1/port/80/portmax/90"
        "/protocol/sctp?bgp=true&block=9",
    )


def test_log_level_is_set(cli: Cli, api: LiveApi) -> None:
    """The level is that of the daemon afterwards; words that are no level are not sent."""
    assert cli("set", "log-level", "trace", _port(api)) == (0, "Success\n", "")
    assert api.log_level.get() == "trace"
    assert cli("set", "loglevel", "loud", _port(api)) == (
        1,
        "",
        "Error: set log-level in the trace,debug,info,error,warning,notice,critical,emergency,alert\n",
    )
    assert api.log_level.get() == "trace"
