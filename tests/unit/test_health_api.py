# SPDX-License-Identifier: Apache-2.0
"""Endpoints over REST and on the command line, against a live server over a fake kernel."""

import json
from collections.abc import Iterator

import pytest

from loxilb.codec.endpoints import duration_text
from tests.support import recorded_cli
from tests.support.api import LiveApi, Reply, fake_kernel_api
from tests.support.cli import Cli
from tests.support.recorded_api import entry

BASE = "/netlox/v1/config"
ENDPOINT = f"{BASE}/endpoint"
SERVERS = ",".join(
    f'{{"endpointIP":"{address}","targetPort":8080,"weight":1}}' for address in ("31.31.31.1", "32.32.32.1")
)
DONE = "Debug: response.StatusCode: 200\nSuccess\n"


@pytest.fixture
def api() -> Iterator[LiveApi]:
    """A live server without rules, over a fake kernel."""
    with fake_kernel_api() as live:
        yield live


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    """The command line in this process."""
    return Cli(capsys)


def post(api: LiveApi, **body: object) -> Reply:
    return api.request("POST", ENDPOINT, json.dumps({"hostName": "31.31.31.1", "probeType": "none"} | body))


def names(api: LiveApi) -> list[str]:
    return [one["name"] for one in api.request("GET", f"{ENDPOINT}/all").json["Attr"]]


def test_endpoints_of_rules_are_as_recorded(api: LiveApi) -> None:
    """A rule that does not ask for probes: its endpoints are known, and not probed."""
    api.request("POST", f"{BASE}/loadbalancer", entry('"20.20.20.1","port":2020,"protocol":"tcp"', SERVERS))

    assert api.request("GET", f"{ENDPOINT}/all").body == (
        b'{"Attr":[{"currState":"ok","hostName":"31.31.31.1","name":"31.31.31.1_tcp_8080","probePort":8080,'
        b'"probeType":"none"},{"currState":"ok","hostName":"32.32.32.1","name":"32.32.32.1_tcp_8080",'
        b'"probePort":8080,"probeType":"none"}]}\n'
    )


def test_without_endpoints_the_list_is_empty(api: LiveApi) -> None:
    """Not null."""
    assert api.request("GET", f"{ENDPOINT}/all").body == b'{"Attr":[]}\n'


def test_an_endpoint_is_put_twice_and_deleted(api: LiveApi) -> None:
    """The second replaces the first; keys in any case."""
    first = post(api, probeType="tcp", probePort=8080, probeReq="hi", probeResp="ho", probeDuration=3600)
    second = post(api, probeType="tcp", probeport=8080, INACTIVERETRIES=5, probeDuration=3600)
    (shown,) = api.request("GET", f"{ENDPOINT}/all").json["Attr"]
    gone = api.request("DELETE", f"{ENDPOINT}/epipaddress/31.31.31.1?probe_type=tcp&probe_port=8080.0")

    assert [reply.body for reply in (first, second, gone)] == [b'{"result":"Success"}\n'] * 3
    assert {name: value for name, value in shown.items() if name != "currState"} == {
        "configured": True,
        "hostName": "31.31.31.1",
        "inactiveReTries": 5,
        "name": "31.31.31.1_tcp_8080",
        "probeDuration": 3600,
        "probePort": 8080,
        "probeType": "tcp",
    }
    assert names(api) == []


@pytest.mark.parametrize(
    ("body", "status", "result"),
    [
        ({"hostName": "nope"}, 400, "host-parse error"),
        ({"hostName": "31.31.31.0/24"}, 400, "host-parse error"),
        ({"hostName": "0.0.0.0"}, 400, "host-parse error"),
        ({"inactiveReTries": 101}, 400, "host-args error"),
        ({"probeDuration": 86401}, 400, "host-args error"),
        ({"probeType": ""}, 400, "host-args unknown probe type"),
        ({"probeType": "tcp"}, 400, "host-args unknown probe port"),
        ({"probeType": "sctp", "probePort": 1}, 501, "not-built error: probeType: sctp is not built yet"),
    ],
)
def test_what_cannot_be_is_refused(api: LiveApi, body: dict[str, object], status: int, result: str) -> None:
    """In the words of the contract, and nothing is kept."""
    reply = post(api, **body)

    assert (reply.status, reply.json["code"], reply.json["result"]) == (status, status, result)
    assert names(api) == []


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ('{"probeType":"ping"}', "hostName in body is required"),
        (
            '{"hostName":"1.1.1.1","probeType":"icmp"}',
            "probeType in body should be one of [tcp udp sctp http https ping none]",
        ),
    ],
)
def test_what_breaks_the_schema_is_refused(api: LiveApi, body: str, message: str) -> None:
    """422, before anything looks at the meaning."""
    reply = api.request("POST", ENDPOINT, body)

    assert (reply.status, reply.json["message"]) == (422, message)


@pytest.mark.parametrize("host", ["31.31.31.1/32", "4ffe::1/128", "4ffe::1"])
def test_hosts_may_have_the_length_of_a_host(api: LiveApi, host: str) -> None:
    """Both forms, in bodies and in paths."""
    post(api, hostName=host)
    assert names(api) == [f"{host.partition('/')[0]}_none_0"]

    reply = api.request("DELETE", f"{ENDPOINT}/epipaddress/{host.replace('/', '%2F')}")
    assert (reply.status, names(api)) == (200, [])


def test_an_unknown_endpoint_is_not_found(api: LiveApi) -> None:
    """404 with the text of the contract."""
    reply = api.request("DELETE", f"{ENDPOINT}/epipaddress/9.9.9.9")

    assert (reply.status, reply.json["result"]) == (404, "host-notfound error")


def test_an_endpoint_that_a_rule_uses_stays(api: LiveApi) -> None:
    """409; gone with the rule."""
    api.request("POST", f"{BASE}/loadbalancer", entry('"20.20.20.1","port":2020,"protocol":"tcp"', SERVERS))
    reply = api.request("DELETE", f"{ENDPOINT}/epipaddress/31.31.31.1?name=31.31.31.1_tcp_8080")

    assert (reply.status, reply.json["result"]) == (409, "LB Rule-referred")
    assert "20.20.20.1" in reply.headers["x-loxilb-cause"]
    api.request("DELETE", f"{BASE}/loadbalancer/all")
    assert names(api) == []


def test_a_state_is_in_the_data_plane_when_the_answer_comes(api: LiveApi) -> None:
    """Red, yellow, green; by endpoint, and by host."""
    api.request("POST", f"{BASE}/loadbalancer", entry('"20.20.20.1","port":2020,"protocol":"tcp"', SERVERS))
    seen = []
    for where in ({"epPort": 8080, "epProto": "tcp"}, {}):
        for state in ("red", "yellow", "green"):
            body = {"hostName": "31.31.31.1", "state": state} | where
            assert api.request("POST", f"{BASE}/endpointhoststate", json.dumps(body)).status == 200
            (ring,) = api.data_plane.observe().rings.values()
            (rule,) = api.request("GET", f"{BASE}/loadbalancer/all").json["lbAttr"]
            current = api.request("GET", f"{ENDPOINT}/all").json["Attr"][0]["currState"]
            seen.append((len(ring), rule["endpoints"][0]["state"], current))

    assert seen == [(1, "inactive", "red"), (1, "active", "ok"), (2, "active", "ok")] * 2


def test_an_endpoint_of_a_name_goes_with_its_state(api: LiveApi) -> None:
    """No service can use it, so nobody would ask for the state again."""
    post(api, name="one")
    api.request("POST", f"{BASE}/endpointhoststate", '{"hostName":"31.31.31.1","state":"red"}')
    assert api.request("GET", f"{ENDPOINT}/all").json["Attr"][0]["currState"] == "red"

    api.request("DELETE", f"{ENDPOINT}/epipaddress/31.31.31.1?name=one")
    assert names(api) == []
    post(api, name="one")
    assert api.request("GET", f"{ENDPOINT}/all").json["Attr"][0]["currState"] == "ok"


@pytest.mark.parametrize(
    ("body", "status", "result"),
    [
        ({"state": "blue"}, 400, "unknown ep-host-state"),
        ({"state": "red", "epPort": 80}, 400, "host-args error"),
        ({"state": "red", "epProto": "tcp"}, 400, "host-args error"),
        ({"state": "red", "hostName": "x"}, 400, "host-parse error"),
        ({"state": "red", "epPort": 80, "epProto": "tcp"}, 404, "ephost-notfound error"),
    ],
)
def test_a_wrong_state_is_refused(api: LiveApi, body: dict[str, object], status: int, result: str) -> None:
    """In the words of the contract."""
    reply = api.request("POST", f"{BASE}/endpointhoststate", json.dumps({"hostName": "31.31.31.1"} | body))

    assert (reply.status, reply.json["result"]) == (status, result)


@pytest.mark.parametrize("kind", ["http", "https"])
def test_rules_may_ask_for_probes_over_http(api: LiveApi, kind: str) -> None:
    """The original refuses them; kube-loxilb sends them."""
    arguments = f'"20.20.20.1","port":2020,"protocol":"tcp","probetype":"{kind}","probeport":99,"probereq":"up"'
    reply = api.request("POST", f"{BASE}/loadbalancer", entry(f'{arguments},"probeTimeout":3600,"probeRetries":5'))

    assert reply.status == 200
    (shown,) = api.request("GET", f"{ENDPOINT}/all").json["Attr"]
    assert (shown["probeType"], shown["probePort"], shown["probeReq"]) == (kind, 99, "up")
    assert (shown["probeDuration"], shown["inactiveReTries"]) == (3600, 5)


def test_the_command_line_creates_shows_and_deletes(cli: Cli, api: LiveApi) -> None:
    """In the words and the table of the original."""
    port = f"--port={api.address[1]}"
    flags = ("--probetype=http", "--probereq=up", "--probeport=8080", "--period=3600", "--retries=3", "--name=web")
    created = cli("create", "endpoint", "31.31.31.1", *flags, port)
    shown = cli("get", "ep", port)
    by_type = cli("delete", "ep", "31.31.31.1", "--probetype=http", "--probeport=8080", port)
    deleted = cli("delete", "ep", "31.31.31.1", "--name=web", port)

    assert created == (0, DONE, "")
    assert shown == (
        0,
        "|    HOST    | NAME |  PTYPE  | PORT | DURATION | RETRIES | MINDELAY | AVGDELAY | MAXDELAY | STATE |\n"
        "|------------|------|---------|------|----------|---------|----------|----------|----------|-------|\n"
        "| 31.31.31.1 | web  | http:up | 8080 |     3600 |       3 |          |          |          | ok    |\n",
        "",
    )
    assert by_type[0] == 1
    assert "host-notfound error" in by_type[2]
    assert deleted == (0, DONE, "")
    assert cli("get", "ep", port) == (0, "", "")


def test_the_table_is_as_recorded(cli: Cli, api: LiveApi) -> None:
    """Two rules with the endpoints of the record."""
    port = f"--port={api.address[1]}"
    both = "--endpoints=31.31.31.1:1,32.32.32.1:1"
    cli("create", "lb", "20.20.20.1", "--tcp=2020:8080", both, port)
    cli("create", "lb", "20.20.20.1", "--udp=2020:8080", "--endpoints=31.31.31.1:1", port)

    assert cli("get", "endpoints", port) == (0, recorded_cli.ENDPOINTS, "")


def test_endpoints_are_shown_as_json(cli: Cli, api: LiveApi) -> None:
    """All fields, also those that are zero."""
    post(api, name="web")
    code, text, _ = cli("get", "ep", "-o", "json", f"--port={api.address[1]}")

    (shown,) = json.loads(text)["Attr"]
    assert code == 0
    assert (shown["name"], shown["probePort"], shown["minDelay"], len(shown)) == ("web", 0, "", 13)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("create", "ep"), "create endpoint need IP args"),
        (("create", "ep", "x"), "Endpoint IP 'x' is invalid format"),
        (("create", "ep", "1.1.1.1", "2.2.2.2"), "too many arguments: 2.2.2.2"),
        (("create", "ep", "1.1.1.1", "--probetype=tcp"), "probetype tcp needs --probeport"),
        (("create", "ep", "1.1.1.1", "--probetype=https"), "probetype https needs --probeport"),
        (("create", "ep", "1.1.1.1", "--probeport=1"), "probetype ping takes no --probeport"),
        (("create", "ep", "1.1.1.1", "--probetype=icmp"), "probetype 'icmp' is not one of"),
        (("create", "ep", "1.1.1.1", "--period=86401"), "invalid argument"),
        (("delete", "ep"), "delete endpoint need IP args"),
    ],
)
def test_wrong_command_lines_are_refused_before_anything_is_sent(
    cli: Cli, arguments: tuple[str, ...], text: str
) -> None:
    """Nothing listens on this port, so a request would show."""
    code, _, errors = cli(*arguments, "--port=1")

    assert (code, text in errors) == (1, True), errors


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (8.5e-7, "850ns"),
        (1.5e-6, "1.5\N{MICRO SIGN}s"),
        (0.0012, "1.2ms"),
        (0.000999999, "999.999\N{MICRO SIGN}s"),
        (0.001234567, "1.234567ms"),
        (0.01, "10ms"),
        (1.0, "1s"),
        (1.25, "1.25s"),
    ],
)
def test_delays_are_written_as_the_original_writes_them(seconds: float, text: str) -> None:
    """The largest unit that leaves a whole part, no zeros at the end."""
    assert duration_text(seconds) == text
