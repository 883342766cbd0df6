# SPDX-License-Identifier: Apache-2.0
"""The OpenAPI document is true: checked against recorded answers and against a live server."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from loxiapi.openapi import document
from tests.support.api import LiveApi, fake_kernel_api
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
def test_recorded_answers_fit_the_document(path: str, answer: str):
    """What the original answers is what the document promises."""
    assert mismatches(json.loads(answer), _answer_schema(_BASE + path, "get", 200), _DOCUMENT) == []


@pytest.mark.parametrize("recorded", [*SCHEMA, *MEANING], ids=lambda r: r.body[:60] or "nothing")
def test_recorded_failures_fit_the_document(recorded: Recorded):
    """Failures have the promised status and form."""
    schema = _answer_schema(_RULE_PATH, "post", recorded.status)

    assert mismatches(json.loads(recorded.answer), schema, _DOCUMENT) == []


def test_checker_finds_what_does_not_fit():
    """A wrong type, a missing and an undeclared member are all found."""
    wrong = json.loads(RULES.replace('"port":2020', '"prt":2020').replace('"weight":1', '"weight":true'))

    found = mismatches(wrong, _answer_schema(f"{_RULE_PATH}/all", "get", 200), _DOCUMENT)

    assert len(found) == 5


def test_requests_that_fit_the_document_are_accepted(api: LiveApi):
    """A body that the document allows is not refused by the schema, one that it forbids is."""
    body_of = _DOCUMENT["paths"][_RULE_PATH]["post"]["requestBody"]["content"]["application/json"]["schema"]
    for number in range(-1, 9):
        body = entry(f'"20.20.20.1","port":80,"protocol":"udp","sel":{number}')
        fits = not mismatches(json.loads(body), body_of, _DOCUMENT)

        assert (api.request("POST", _RULE_PATH, body).status != 422) == fits, number


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
def test_each_path_serves_exactly_the_documented_methods(api: LiveApi, path: str):
    """Every documented method is served, every other one is refused with the documented ones."""
    documented = {method.upper() for method in _DOCUMENT["paths"][path]}
    for method in ("GET", "POST", "PUT", "DELETE", "PATCH", "HEAD"):
        reply = api.request(method, _filled(path))

        assert (reply.status != 405) == (method in documented), method
        if reply.status == 405:
            assert reply.headers["allow"] == ",".join(sorted(documented))


def test_nothing_undocumented_is_served():
    """The routes of the application are the paths of the document."""
    from loxiapi.operations import OPERATIONS  # noqa: PLC0415
    from loxilb.services.api.application import create_application  # noqa: PLC0415

    routes = {route.path for route in _routes_of(create_application)}

    assert routes == set(_DOCUMENT["paths"]) == {operation.path for operation in OPERATIONS}


def _routes_of(create: Any) -> list[Any]:
    from loxilb.services.api.handlers import Handlers  # noqa: PLC0415
    from tests.support.api import BUILD, MemoryLogLevel, ShownConfiguration  # noqa: PLC0415

    configuration = ShownConfiguration()
    try:
        handlers = Handlers(configuration=configuration, log_level=MemoryLogLevel(), build=BUILD)
        return list(create(handlers)._inner.routes)
    finally:
        configuration.close()


@pytest.mark.parametrize("path", ["/swagger.json", "/netlox/v1/swagger.json"])
def test_document_is_served(api: LiveApi, path: str):
    """Both places give the document of this version."""
    reply = api.request("GET", path)

    assert reply.headers["content-type"] == "application/json"
    assert reply.json == json.loads(json.dumps(document(version="0.9.8-dev")))
