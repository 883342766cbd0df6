# SPDX-License-Identifier: Apache-2.0
"""The REST API on a real socket, over the configuration service and a fake kernel."""

from collections.abc import Iterator

import pytest

from tests.support.api import LiveApi, fake_kernel_api
from tests.support.recorded_api import ENDPOINT, MEANING, SCHEMA, Recorded, entry

_BASE = "/netlox/v1"
_RULE = f"{_BASE}/config/loadbalancer"
_ALL = f"{_RULE}/all"
_SUCCESS = b'{"result":"Success"}\n'
_NO_RULE = b'{"code":404,"fields":null,"message":"Resource not found","result":"no-rule error"}\n'
_BODY = entry('"20.20.20.25","port":80,"protocol":"tcp"')


@pytest.fixture
def api() -> Iterator[LiveApi]:
    """A live server without rules."""
    with fake_kernel_api() as live:
        yield live


@pytest.fixture(scope="module")
def unchanged_api() -> Iterator[LiveApi]:
    """A live server for requests that change nothing."""
    with fake_kernel_api() as live:
        yield live


def _rules(api: LiveApi) -> list[tuple[str, int, int]]:
    entries = api.request("GET", _ALL).json["lbAttr"]
    return [
        (one["serviceArguments"]["externalIP"], one["serviceArguments"]["port"], len(one["endpoints"]))
        for one in entries
    ]


@pytest.mark.parametrize("recorded", [*SCHEMA, *MEANING], ids=lambda r: r.body[:60] or "nothing")
def test_refusals_are_as_recorded(unchanged_api: LiveApi, recorded: Recorded) -> None:
    """Status, body and media type are the recorded ones, and nothing was changed."""
    reply = unchanged_api.request("POST", _RULE, recorded.body)

    assert (reply.status, reply.body.decode()) == (recorded.status, recorded.answer)
    assert reply.headers["content-type"] == "application/json"
    assert _rules(unchanged_api) == []


def test_a_rule_lives_from_post_to_delete(api: LiveApi) -> None:
    """Create, repeat, read, delete and delete again answer as recorded."""
    assert api.request("GET", _ALL).body == b'{"lbAttr":[]}\n'
    assert api.request("POST", _RULE, _BODY).body == _SUCCESS
    repeated = api.request("POST", _RULE, _BODY)
    listed = api.request("GET", _ALL)
    path = f"{_RULE}/externalipaddress/20.20.20.25/port/80/protocol/tcp"
    first, second = (api.request("DELETE", path, "{}") for _ in range(2))

    assert repeated.status == 409
    assert repeated.body.decode() == (
        '{"code":409,"fields":null,"message":"Resource conflict: Resource already exists OR dependency not found",'
        '"result":"lbrule-exists error"}\n'
    )
    assert listed.body.decode() == (
        '{"lbAttr":[{"allowedSources":null,"endpoints":[{"counter":"0:0","endpointIP":"31.31.31.1",'
        '"state":"active","targetPort":8080,"weight":1}],"secondaryIPs":null,"serviceArguments":'
        '{"externalIP":"20.20.20.25","inactiveTimeOut":240,"port":80,"protocol":"tcp"}}]}\n'
    )
    assert (first.status, first.body) == (200, _SUCCESS)
    assert (second.status, second.body) == (404, _NO_RULE)


def test_kube_loxilb_body_is_accepted(api: LiveApi) -> None:
    """The body of the Kubernetes operator, member for member."""
    body = (
        '{"serviceArguments":{"externalIP":"192.168.80.5","privateIP":"","port":55003,"protocol":"tcp","sel":0,'
        '"mode":1,"BGP":false,"Monitor":false,"inactiveTimeOut":0,"block":0,"managed":true,"probetype":"",'
        '"probeport":0,"probereq":"","proberesp":"","name":"default_nginx:llb-inst0"},"secondaryIPs":null,'
        '"allowedSources":null,"endpoints":[{"endpointIP":"192.168.80.10","targetPort":32015,"weight":1,'
        '"state":"","counter":""}]}'
    )
    reply = api.request("POST", _RULE, body)

    assert (reply.status, reply.body) == (200, _SUCCESS)
    arguments = api.request("GET", _ALL).json["lbAttr"][0]["serviceArguments"]
    assert arguments == {
        "externalIP": "192.168.80.5",
        "inactiveTimeOut": 240,
        "managed": True,
        "mode": 1,
        "name": "default_nginx:llb-inst0",
        "port": 55003,
        "protocol": "tcp",
    }


def test_endpoints_are_attached_and_detached(api: LiveApi) -> None:
    """``oper`` 1 adds, 2 takes away, and the last endpoint takes the rule with it."""
    other = '{"endpointIP":"32.32.32.1","targetPort":8080,"weight":1}'

    def change(oper: int, endpoint: str) -> int:
        body = entry(f'"20.20.20.25","port":80,"protocol":"tcp","oper":{oper}', endpoint)
        return api.request("POST", _RULE, body).status

    assert change(2, other) == 404
    assert change(1, ENDPOINT) == 200
    assert change(1, other) == 200
    assert _rules(api) == [("20.20.20.25", 80, 2)]
    assert change(2, ENDPOINT) == 200
    assert _rules(api) == [("20.20.20.25", 80, 1)]
    assert change(2, other) == 200
    assert _rules(api) == []


@pytest.mark.parametrize(
    ("path", "arguments"),
    [
        ("/externalipaddress/20.20.20.1/port/80/protocol/tcp?bgp=true&block=0", '"20.20.20.1","port":80'),
        ("//externalipaddress/2001::1/port/80/portmax/0/protocol/tcp/", '"2001::1","port":80'),
        ("/externalipaddress/2001%3A%3A1/port/80.0/protocol/tcp", '"2001::1","port":80'),
        (
            "/externalipaddress/20.20.20.1/port/80/portmax/90/protocol/tcp",
            '"20.20.20.1","port":80,"portMax":90',
        ),
        ("/hosturl/any/externalipaddress/20.20.20.1/port/80/protocol/tcp", '"20.20.20.1","port":80'),
        (
            "/hosturl/any/externalipaddress/20.20.20.1/port/80/portmax/90/protocol/tcp",
            '"20.20.20.1","port":80,"portMax":90',
        ),
        ("/name/a%2Fb%20c", '"20.20.20.1","port":80,"name":"a/b c"'),
        ("/all", '"20.20.20.1","port":80'),
    ],
)
def test_each_form_of_delete_finds_its_rule(api: LiveApi, path: str, arguments: str) -> None:
    """Every path of the contract deletes the rule that it names, and only that."""
    endpoint = '{"endpointIP":"4ffe::1","targetPort":8080,"weight":1}' if "::" in arguments else ENDPOINT
    api.request("POST", _RULE, entry('"20.20.20.9","port":9,"protocol":"udp"'))
    assert api.request("POST", _RULE, entry(f'{arguments},"protocol":"tcp"', endpoint)).status == 200

    reply = api.request("DELETE", _RULE + path)

    assert (reply.status, reply.body) == (200, _SUCCESS)
    assert _rules(api) == ([] if path == "/all" else [("20.20.20.9", 9, 1)])


@pytest.mark.parametrize(
    ("path", "status", "text"),
    [
        ("/name/none", 200, '"Success"'),
        (
            "/externalipaddress/1.1.1.1/port/x/protocol/tcp",
            422,
            'port in path must be of type float64: \\"x\\"',
        ),
        ("/externalipaddress/1.1.1.1/port/1.5/protocol/tcp", 422, "must be of type float64"),
        (
            "/externalipaddress/1.1.1.1/port/1/protocol/tcp?block=z",
            422,
            "block in query must be of type float64",
        ),
        ("/externalipaddress/1.1.1.1/port/70000/protocol/tcp", 400, "serv-port-args range error"),
        ("/externalipaddress/nope/port/1/protocol/tcp", 400, "malformed-service error"),
        ("/externalipaddress/1.1.1.1/port/1/protocol/bogus", 400, "malformed-proto error"),
        ("/externalipaddress/1.1.1.1/port/1/protocol/none", 404, "no-rule error"),
        ("/hosturl/h/externalipaddress/1.1.1.1/port/1/protocol/tcp", 404, "no-rule error"),
    ],
)
def test_deletes_that_find_nothing_say_why(unchanged_api: LiveApi, path: str, status: int, text: str) -> None:
    """A bad path is refused, a good one without a rule is 404, a name without a rule is Success."""
    reply = unchanged_api.request("DELETE", _RULE + path)

    assert reply.status == status
    assert text in reply.body.decode()


def test_list_is_in_the_order_of_keys(api: LiveApi) -> None:
    """The order of creation does not show."""
    for address in ("20.20.20.9", "20.20.20.10", "3.3.3.3"):
        api.request("POST", _RULE, entry(f'"{address}","port":80,"protocol":"tcp"'))

    assert [rule[0] for rule in _rules(api)] == ["3.3.3.3", "20.20.20.9", "20.20.20.10"]


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ('"1.1.1.1","port":80,"protocol":"tcp","mode":3,"sel":1', "targetPort"),
        ('"1.1.1.1","port":8080,"protocol":"tcp","mode":4', "mode"),
        ('"1.1.1.1","port":80,"protocol":"sctp","sel":6', "sel"),
        ('"1.1.1.1","port":80,"protocol":"udp","sel":7', "sel"),
        ('"1.1.1.1","port":80,"protocol":"tcp","host":"a.example"', "host"),
    ],
)
def test_what_is_not_built_is_refused_by_name(unchanged_api: LiveApi, arguments: str, field: str) -> None:
    """501 names the field; a body that is wrong besides is 400 first."""
    reply = unchanged_api.request("POST", _RULE, entry(arguments))

    if field == "targetPort":
        assert (reply.status, reply.json["result"]) == (400, "malformed-service dsr-port error")
        return
    assert (reply.status, reply.json["code"], reply.json["fields"]) == (501, 501, None)
    assert reply.json["result"].startswith(f"not-built error: {field}: ")


def test_refusal_of_the_kernel_is_told_and_changes_nothing(api: LiveApi) -> None:
    """500 with the cause; the rule is not there afterwards."""
    api.data_plane.fail_in(2)
    reply = api.request("POST", _RULE, _BODY)

    assert reply.status == 500
    assert "EIO" in reply.json["result"]
    assert _rules(api) == []


def test_explanation_of_a_refusal_is_in_a_header(api: LiveApi) -> None:
    """The body keeps to the contract, the header says what exactly is wrong."""
    reply = api.request("POST", _RULE, entry('"1.1.1.1","port":70000,"protocol":"tcp"'))

    assert reply.headers["x-loxilb-cause"] == "port: 70000 is not a port (0 to 65535)"


def test_log_level_changes_at_run_time(api: LiveApi) -> None:
    """The level is read back from where it was set."""
    path = f"{_BASE}/config/params"

    assert api.request("GET", path).body == b'{"logLevel":"debug"}\n'
    assert api.request("POST", path, '{"LOGLEVEL":"trace"}').body == _SUCCESS
    assert api.log_level.get() == "trace"
    refused = api.request("POST", path, '{"logLevel":"loud"}')
    assert refused.body.decode() == (
        '{"code":606,"message":"logLevel in body should be one of '
        '[trace debug info error warning notice critical emergency alert]"}'
    )
    assert api.request("POST", path, "{}").body == b'{"code":602,"message":"logLevel in body is required"}'
    assert api.request("POST", path, '{"logLevel":""}').status == 400
    assert api.log_level.get() == "trace"


def test_version_is_as_recorded(unchanged_api: LiveApi) -> None:
    """Members sorted, newline at the end."""
    reply = unchanged_api.request("GET", f"{_BASE}/version")

    assert reply.body == b'{"buildInfo":"2026_11_22_03h:40m:25-local","version":"0.9.8-dev"}\n'


@pytest.mark.parametrize(
    ("content_type", "status", "shown"),
    [
        ("text/plain", 415, "text/plain"),
        ("", 415, "application/octet-stream"),
        ("application/json; charset=utf-8", 200, ""),
        ("APPLICATION/JSON", 200, ""),
    ],
)
def test_only_json_bodies_are_read(api: LiveApi, content_type: str, status: int, shown: str) -> None:
    """Other media types are 415, as recorded."""
    headers = {"Content-Type": content_type} if content_type else {}
    reply = api.request("POST", _RULE, _BODY, headers)

    assert reply.status == status
    if status == 415:
        assert reply.body.decode() == (
            f'{{"code":415,"message":"unsupported media type \\"{shown}\\", only [application/json] are allowed"}}'
        )


@pytest.mark.parametrize(
    ("accept", "status"),
    [
        ("*/*", 200),
        ("text/html, application/*;q=0.5", 200),
        ("application/json", 200),
        ("text/html", 406),
        ("application/json;q=0", 406),
        ("application/json;q=x", 406),
    ],
)
def test_client_must_accept_json(unchanged_api: LiveApi, accept: str, status: int) -> None:
    """406 for a client that would not read the answer."""
    reply = unchanged_api.request("GET", _ALL, headers={"Accept": accept})

    assert reply.status == status
    if status == 406:
        assert reply.json["message"] == ("unsupported media type requested, only [application/json] are available")


@pytest.mark.parametrize(
    ("method", "path", "status", "body"),
    [
        ("GET", "/netlox/v1", 404, '{"code":404,"message":"path /netlox/v1 was not found"}'),
        (
            "GET",
            "/netlox/v1/config/nonsense",
            404,
            '{"code":404,"message":"path /netlox/v1/config/nonsense was not found"}',
        ),
        ("GET", "/no%20such//", 404, '{"code":404,"message":"path /no%20such// was not found"}'),
        ("PUT", _RULE, 405, '{"code":405,"message":"method PUT is not allowed, but [POST] are"}'),
    ],
)
def test_unknown_paths_and_methods(unchanged_api: LiveApi, method: str, path: str, status: int, body: str) -> None:
    """404 and 405 as recorded."""
    reply = unchanged_api.request(method, path)

    assert (reply.status, reply.body.decode()) == (status, body)
    assert reply.headers["content-type"] == "application/json"


@pytest.mark.parametrize("path", ["//netlox/v1///version", "/netlox/./v1/x/../version/"])
def test_paths_are_cleaned(unchanged_api: LiveApi, path: str) -> None:
    """Doubled slashes, dot segments and a trailing slash do not matter."""
    assert unchanged_api.request("GET", path).status == 200


@pytest.mark.parametrize("path", [_ALL, "/nosuch", "/swagger.json"])
def test_any_origin_may_read(unchanged_api: LiveApi, path: str) -> None:
    """Every answer carries the cross-origin headers, and OPTIONS is always 200 and empty."""
    preflight = unchanged_api.request("OPTIONS", path)

    assert (preflight.status, preflight.body) == (200, b"")
    for reply in (preflight, unchanged_api.request("GET", path)):
        shared = {name: text for name, text in reply.headers.items() if name.startswith("access-control-")}
        assert shared == {
            "access-control-allow-origin": "*",
            "access-control-allow-methods": "GET, POST, PUT, DELETE, OPTIONS",
            "access-control-allow-headers": "Content-Type, Authorization, X-Requested-With",
            "access-control-allow-credentials": "true",
            "access-control-max-age": "86400",
        }
