# SPDX-License-Identifier: Apache-2.0
"""The OpenAPI document is true: checked against recorded answers and against a live server."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.routing import Route

from loxiapi.openapi import document
from loxiapi.operations import OPERATIONS, Kind
from loxilb.services.api.application import create_application
from loxilb.services.api.handlers import Handlers
from loxilb.services.api.metrics import MetricsHandlers
from loxilb.services.api.packets import PacketHandlers
from loxilb.services.api.status import StatusHandlers
from loxilb.services.reconcile import Reconciler
from tests.support.api import (
    BUILD,
    LiveApi,
    MemoryLogLevel,
    ShownConfiguration,
    fake_kernel_api,
    health_over,
    metrics_over,
    packets_over,
)
from tests.support.json_schema import mismatches
from tests.support.recorded_api import (
    FLOWS,
    MEANING,
    PARAMS,
    PORTS,
    RULES,
    SCHEMA,
    VERSION,
    Recorded,
    entry,
)

_DOCUMENT = json.loads(json.dumps(document(version="1")))
_BASE = "/netlox/v1"
_RULE_PATH = f"{_BASE}/config/loadbalancer"


@pytest.fixture(scope="module")
def api() -> Iterator[LiveApi]:
    """A live server without rules."""
    with fake_kernel_api() as live:
        yield live


def _answer_schema(path: str, method: str, status: int) -> dict[str, Any]:
    content = _DOCUMENT["paths"][path][method]["responses"][str(status)]["content"]
    schema: dict[str, Any] = content["application/json"]["schema"]
    return schema


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        ("/config/loadbalancer/all", RULES),
        ("/config/conntrack/all", FLOWS),
        ("/config/port/all", PORTS),
        ("/version", VERSION),
        ("/config/params", PARAMS),
    ],
)
def test_recorded_answers_fit_the_document(path: str, answer: str) -> None:
    """What the original answers is what the document promises."""
    assert mismatches(json.loads(answer), _answer_schema(_BASE + path, "get", 200), _DOCUMENT) == []


@pytest.mark.parametrize("recorded", [*SCHEMA, *MEANING], ids=lambda r: r.body[:60] or "nothing")
def test_recorded_failures_fit_the_document(recorded: Recorded) -> None:
    """Failures have the promised status and form."""
    schema = _answer_schema(_RULE_PATH, "post", recorded.status)

    assert mismatches(json.loads(recorded.answer), schema, _DOCUMENT) == []


def test_checker_finds_what_does_not_fit() -> None:
    """A wrong type, a missing and an undeclared member are all found."""
    wrong = json.loads(RULES.replace('"port":2020', '"prt":2020').replace('"weight":1', '"weight":true'))

    found = mismatches(wrong, _answer_schema(f"{_RULE_PATH}/all", "get", 200), _DOCUMENT)

    assert len(found) == 5


def test_requests_that_fit_the_document_are_accepted(api: LiveApi) -> None:
    """A body that the document allows is not refused by the schema, one that it forbids is."""
    body_of = _DOCUMENT["paths"][_RULE_PATH]["post"]["requestBody"]["content"]["application/json"]["schema"]
    numbers = [f'"protocol":"udp","sel":{number}' for number in range(-1, 9)]
    words = [f'"protocol":"{word}"' for word in ("", "tcp", "TCP", "none")]
    probes = [f'"probetype":"{word}"' for word in ("", "none", "http", "bogus")]
    accepted = 0
    for arguments in (*numbers, *words, *probes):
        body = entry(f'"20.20.20.1","port":80,{arguments}')
        fits = not mismatches(json.loads(body), body_of, _DOCUMENT)
        accepted += fits

        assert (api.request("POST", _RULE_PATH, body).status != 422) == fits, arguments
    assert accepted == 8 + 2 + 3


def _filled(path: str) -> str:
    values = {
        "ip_address": "1.1.1.1",
        "port": "1",
        "portmax": "2",
        "proto": "tcp",
        "hosturl": "h",
        "lb_name": "n",
    }
    return path.format_map(values)


@pytest.mark.parametrize("path", sorted(_DOCUMENT["paths"]))
def test_each_path_serves_exactly_the_documented_methods(api: LiveApi, path: str) -> None:
    """Every documented method is served, every other one is refused with the documented ones."""
    documented = {method.upper() for method in _DOCUMENT["paths"][path]}
    for method in ("GET", "POST", "PUT", "DELETE", "PATCH", "HEAD"):
        reply = api.request(method, _filled(path), whole=not path.endswith("/watch/drops"))

        assert (reply.status != 405) == (method in documented), method
        if reply.status == 405:
            assert reply.headers["allow"] == ",".join(sorted(documented))


def test_nothing_undocumented_is_served() -> None:
    """The routes of the application are the paths of the document."""
    configuration = ShownConfiguration()
    health = health_over(configuration)
    handlers = Handlers(configuration=configuration, endpoints=health, log_level=MemoryLogLevel(), build=BUILD)
    metrics = MetricsHandlers(metrics_over(configuration, health))
    packets, status = PacketHandlers(packets_over(configuration)), StatusHandlers(Reconciler())
    parts = (handlers, metrics, packets, status)
    served = create_application(
        {name: one for part in parts for name, one in part.by_operation().items()}
    ).starlette.routes
    routes = {route.path for route in served if isinstance(route, Route)}
    count = len(served)
    configuration.close()

    assert len(routes) == count
    assert routes == set(_DOCUMENT["paths"]) == {operation.path for operation in OPERATIONS}


@pytest.mark.parametrize("path", ["/swagger.json", "/netlox/v1/swagger.json"])
def test_document_is_served(api: LiveApi, path: str) -> None:
    """Both places give the document of this version."""
    reply = api.request("GET", path)

    assert reply.headers["content-type"] == "application/json"
    assert reply.json == json.loads(json.dumps(document(version="0.9.8-dev")))


@pytest.mark.parametrize(
    ("text", "value"),
    [("1", True), ("T", True), ("Yes", True), ("on", True), ("checked", True), ("0", False), ("x", False), ("", False)],
)
def test_booleans_in_queries_have_many_words(text: str, value: bool) -> None:
    """Anything that is no word for true is false."""
    parameter = next(p for operation in OPERATIONS for p in operation.parameters if p.kind is Kind.BOOLEAN)

    assert parameter.parse(text) is value
