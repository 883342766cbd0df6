# SPDX-License-Identifier: Apache-2.0
"""Lists of flows over HTTP and on the command line: what is asked for, page by page."""

import json
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from ipaddress import ip_address
from typing import Any

import pytest

from loxilb.model import Flow
from loxilb.plan import listeners_of
from loxilb.ports import FlowList
from loxilb.services.api import conntrack
from tests.support import shown
from tests.support.api import LiveApi, ShownConfiguration, fake_kernel_api, live_api
from tests.support.cli import Cli
from tests.support.lab import wait_for
from tests.support.recorded_api import entry
from tests.support.services import key, service
from tests.support.shown import flow

PATH = "/netlox/v1/config/conntrack/all"
MANY = 1000  # some parts: they are of 64 KiB at least


def connection(number: int, **more: Any) -> Flow:
    """Return a flow of a client port of its own."""
    arrives, leaves = f"10.10.10.1,{number},20.20.20.1,80", f"10.10.10.1,{number},31.31.31.1,8080"
    return flow(arrives, leaves, f"{number}:100", **more)


@pytest.fixture
def configuration() -> Iterator[ShownConfiguration]:
    """What the live server shows."""
    configuration = ShownConfiguration(flows=shown.FLOWS)
    yield configuration
    configuration.close()


@pytest.fixture
def api(configuration: ShownConfiguration) -> Iterator[LiveApi]:
    """A live server with the recorded flows."""
    with live_api(configuration) as live:
        yield live


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    """The command line in this process."""
    return Cli(capsys)


def listed(api: LiveApi, query: str = "") -> list[dict[str, Any]]:
    """Return the entries of an answer."""
    reply = api.request("GET", PATH + query)
    assert reply.status == 200, reply.headers
    entries: list[dict[str, Any]] = reply.json["ctAttr"]
    return entries


def test_a_short_list_has_a_length_and_a_long_one_comes_in_parts(
    api: LiveApi, configuration: ShownConfiguration
) -> None:
    """Whichever way, it is one JSON document in the order of addresses and ports."""
    few = api.request("GET", PATH)
    assert few.headers["content-length"] == str(len(few.body))
    assert few.body.startswith(b'{"ctAttr":[{"bytes":') and few.body.endswith(b"}]}\n")

    configuration.shown_flows = [connection(number) for number in range(MANY, 0, -1)]
    many = api.request("GET", PATH)
    assert many.headers["transfer-encoding"] == "chunked"
    assert many.headers["access-control-allow-origin"] == "*"
    assert [one["sourcePort"] for one in many.json["ctAttr"]] == list(range(1, MANY + 1))

    configuration.shown_flows = []
    assert api.request("GET", PATH).body == b'{"ctAttr":[]}\n'


def test_a_very_long_list_has_blanks(
    api: LiveApi, configuration: ShownConfiguration, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between tokens: it says what it would say without them."""
    configuration.shown_flows = [connection(number) for number in (1, 22, 333, 4444, 55555)]
    monkeypatch.setattr(conntrack, "_COMPACT", 5)
    compact = api.request("GET", PATH)
    monkeypatch.setattr(conntrack, "_COMPACT", 4)
    wide = api.request("GET", PATH)

    assert b"\t" not in compact.body and b"\t" in wide.body
    assert wide.json == compact.json and list(wide.json["ctAttr"][0]) == list(compact.json["ctAttr"][0])
    assert api.request("GET", f"{PATH}?limit=4").body.count(b"\t") == 0


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ("", 10),
        ("?client=10.10.10.1", 8),
        ("?client=10.10.10.0/24&protocol=udp", 2),
        ("?client=3ff0::/16", 2),
        ("?endpoint=31.31.31.1", 8),
        ("?endpoint=31.31.31.1:8080&state=udp-est", 2),
        ("?endpoint=31.31.31.1:8081", 0),
        ("?state=est", 8),
        ("?protocol=17", 2),
        ("?service=web", 0),
        ("?limit=3", 3),
    ],
)
def test_the_server_shows_what_is_asked_for(api: LiveApi, query: str, count: int) -> None:
    """Everything given has to hold."""
    assert len(listed(api, query)) == count


def test_flows_of_a_service_are_found_by_name_and_by_key() -> None:
    """Both may be several services' or nobody's."""
    with fake_kernel_api() as api:
        for number, name in ((1, "web"), (2, "web"), (3, "")):
            body = entry(f'"20.20.20.{number}","port":2020,"protocol":"tcp","name":"{name}"')
            assert api.request("POST", "/netlox/v1/config/loadbalancer", body).status == 200
            (listener,) = listeners_of(service(of=key(f"20.20.20.{number}")))
            api.data_plane.connect(listener, ip_address("10.10.10.1"), 4000 + number)

        def ports(text: str) -> list[int]:
            found = (one["destinationPort"] for one in listed(api, f"?service={text}"))
            return [port for port in found if port != 2020]

        assert ports("web") == [4001, 4002]
        assert ports("20.20.20.2:2020/tcp") == [4002]
        assert ports("20.20.20.3:2020/tcp") == [4003]
        for unknown in ("we", "20.20.20.3:2020/udp"):
            assert ports(unknown) == []


def test_pages_are_the_whole_list(api: LiveApi, configuration: ShownConfiguration) -> None:
    """Each answer but the last says where the next one begins."""
    configuration.shown_flows = [connection(number) for number in range(1, 8)]
    seen, query = [], "?limit=3"
    while True:
        answer = api.request("GET", PATH + query).json
        seen.append([one["sourcePort"] for one in answer["ctAttr"]])
        if "continue" not in answer:
            break
        query = f"?limit=3&continue={answer['continue']}"

    assert seen == [[1, 2, 3], [4, 5, 6], [7]]


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("?servName=web", "servName"),
        ("?states=est&limit=1", "states"),
        ("?state=", "state"),
        ("?state=open", "state"),
        ("?client=10.0.0.1&client=10.0.0.2", "client"),
        ("?client=here", "client"),
        ("?endpoint=1.1.1.1:x", "endpoint"),
        ("?protocol=quic", "protocol"),
        ("?limit=0", "limit"),
        ("?continue=nowhere", "continue"),
    ],
)
def test_a_parameter_that_is_wrong_is_refused_by_name(api: LiveApi, query: str, name: str) -> None:
    """A filter with a typing error must not show everything."""
    reply = api.request("GET", PATH + query)

    assert (reply.status, reply.json["result"]) == (400, "malformed-args error")
    assert reply.headers["x-loxilb-cause"].startswith(f"{name}: ")


def test_a_client_that_goes_away_ends_the_list(api: LiveApi, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long it would be; what makes it is closed."""
    ended = []

    def endless(_: FlowList) -> Iterator[Callable[[], memoryview]]:
        try:
            while True:
                yield lambda: memoryview(bytes(1 << 16))
        finally:
            ended.append(True)

    monkeypatch.setattr(conntrack, "_parts", endless)
    gone = HTTPConnection(*api.address, timeout=20)
    gone.request("GET", PATH)
    gone.getresponse().read(10)
    gone.close()

    wait_for(lambda: ended, deadline=20, what="the end of the list")


def test_the_command_line_asks_the_server(cli: Cli, api: LiveApi) -> None:
    """Every flag is a parameter."""
    port = f"--port={api.address[1]}"
    flags = ("--client=10.10.10.1", "--endpoint=31.31.31.1:8080", "--state=udp-est", "--proto=udp")

    code, text, errors = cli("get", "ct", *flags, "-o", "json", port)

    assert (code, errors) == (0, "")
    (back, there) = json.loads(text)["ctAttr"]
    assert (there["destinationIP"], back["destinationIP"]) == ("20.20.20.1", "10.10.10.1")
    for flag in ("--service=web", "--servName=web"):
        assert json.loads(cli("get", "ct", flag, "-o", "json", port)[1]) == {"ctAttr": []}


def test_the_command_line_shows_pages(cli: Cli, api: LiveApi) -> None:
    """It says how to go on, beside the table."""
    port, seen = f"--port={api.address[1]}", []
    more: list[str] = []
    while True:
        code, text, hint = cli("get", "ct", "--limit=4", *more, "-o", "json", port)
        assert code == 0 and hint == ""
        page = json.loads(text)
        seen += page["ctAttr"]
        if "continue" not in page:
            break
        more = [f"--continue={page['continue']}"]
    assert [(one["destinationIP"], one["sourceIP"]) for one in seen] == [
        (one["destinationIP"], one["sourceIP"]) for one in listed(api)
    ]

    _, text, hint = cli("get", "ct", "--limit=9", port)
    assert len(text.splitlines()) == 2 + 9
    again = hint.split()[-1]
    assert hint == f"there are more: {again}\n"
    assert len(cli("get", "ct", again, port)[1].splitlines()) == 2 + 1


@pytest.mark.parametrize("flag", ["--state=open", "--limit=0", "--limit=x"])
def test_the_command_line_refuses_what_is_no_value(cli: Cli, api: LiveApi, flag: str) -> None:
    """Naming the flag."""
    code, text, errors = cli("get", "ct", flag, f"--port={api.address[1]}")

    assert (code, text) == (1, "")
    assert flag.partition("=")[0] in errors


def test_the_command_line_tells_why_the_server_refused(cli: Cli, api: LiveApi) -> None:
    """The parameter is named."""
    code, _, errors = cli("get", "ct", "--client=here", f"--port={api.address[1]}")

    assert (code, errors) == (1, "Error: malformed-args error (client: 'here' is no address or network)\n")
