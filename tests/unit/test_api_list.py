# SPDX-License-Identifier: Apache-2.0
"""Several rules in one request: all or none of them, and an error says which one is wrong."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.api import LiveApi, Reply, fake_kernel_api

_RULE = "/netlox/v1/config/loadbalancer"
_REVISIONS = "/netlox/v1/config/revisions/all"


@pytest.fixture
def api() -> Iterator[LiveApi]:
    """A live server without rules."""
    with fake_kernel_api() as live:
        yield live


def _rule(vip: str = "20.20.20.1", *endpoints: str, **arguments: Any) -> dict[str, Any]:
    """Return a rule for TCP port 80, unless ``arguments`` say otherwise."""
    return {
        "serviceArguments": {"externalIP": vip, "port": 80, "protocol": "tcp", **arguments},
        "endpoints": [
            {"endpointIP": one, "targetPort": 8080, "weight": 1} for one in endpoints or ("31.31.31.1", "32.32.32.1")
        ],
    }


def _post(api: LiveApi, *rules: Any) -> Reply:
    return api.request("POST", _RULE, json.dumps({"lbAttr": rules}))


def _rules(api: LiveApi) -> dict[tuple[str, int], list[str]]:
    entries = api.request("GET", f"{_RULE}/all").json["lbAttr"]
    return {
        (one["serviceArguments"]["externalIP"], one["serviceArguments"]["port"]): [
            end["endpointIP"] for end in one["endpoints"]
        ]
        for one in entries
    }


def _revisions(api: LiveApi) -> list[tuple[int, str]]:
    return [(one["changes"], one["summary"]) for one in api.request("GET", _REVISIONS).json["revisionAttr"]]


def test_several_rules_are_one_write(api: LiveApi) -> None:
    """One revision, one pass over the data plane."""
    reply = _post(api, *(_rule(f"20.20.20.{at}") for at in range(1, 6)))

    assert (reply.status, reply.json) == (200, {"result": "Success"})
    assert list(_rules(api)) == [(f"20.20.20.{at}", 80) for at in range(1, 6)]
    assert _revisions(api) == [(5, "create 5 services")]
    assert len(api.data_plane.applied) == 1


def test_what_is_as_asked_for_is_left_as_it_is(api: LiveApi) -> None:
    """The same list again changes nothing and is no error; one more rule is all that a longer one changes."""
    rules = [_rule("20.20.20.1"), _rule("20.20.20.2")]
    _post(api, *rules)

    assert _post(api, *rules).status == 200
    assert _post(api).status == 200
    assert api.request("POST", _RULE, '{"lbAttr":null}').status == 200
    assert len(_revisions(api)) == 1
    assert _post(api, *rules, _rule("20.20.20.3")).status == 200
    assert _revisions(api)[0] == (1, "create service 20.20.20.3:80/tcp")


def test_the_order_counts(api: LiveApi) -> None:
    """Endpoints are attached to, and detached from, what stands before in the list."""
    reply = _post(
        api,
        _rule("20.20.20.1", "31.31.31.1"),
        _rule("20.20.20.1", "32.32.32.1", oper=1),
        _rule("20.20.20.1", "31.31.31.1", oper=2),
        _rule("20.20.20.2", "31.31.31.1"),
        _rule("20.20.20.2", "31.31.31.1", oper=2),
    )

    assert reply.status == 200
    assert _rules(api) == {("20.20.20.1", 80): ["32.32.32.1"]}


def test_the_answer_of_a_listing_can_be_sent_back(api: LiveApi) -> None:
    """As a file of it, after everything was deleted."""
    _post(api, _rule("20.20.20.1"), _rule("2001::1", "4ffe::1", name="six", mode=2))
    listed = api.request("GET", f"{_RULE}/all").body
    api.request("DELETE", f"{_RULE}/all")

    assert api.request("POST", _RULE, listed).status == 200
    assert api.request("GET", f"{_RULE}/all").body == listed


_WRONG = {
    "a member that is missing": (
        {"serviceArguments": {"externalIP": "20.20.20.9"}, "endpoints": []},
        (422, {"code": 602, "message": "lbAttr.2: serviceArguments.serviceArguments.port in body is required"}, None),
    ),
    "a value that is not listed": (
        _rule("20.20.20.9", protocol="gre"),
        (
            422,
            {
                "code": 606,
                "message": "lbAttr.2: serviceArguments.serviceArguments.protocol in body should be one of"
                " [tcp udp sctp icmp]",
            },
            None,
        ),
    ),
    "no rule": (None, (422, {"code": 602, "message": "lbAttr.2 in body is required"}, None)),
    "a wrong type": (
        _rule("20.20.20.9", port="x"),
        (
            400,
            {
                "code": 400,
                "message": 'lbAttr.2: parsing attr body from "" failed, because json: cannot unmarshal string into Go'
                " struct field LoadbalanceEntryServiceArguments.serviceArguments.port of type int64",
            },
            None,
        ),
    ),
    "an address that is none": (
        _rule("20.20.20"),
        (400, "lbAttr.2: malformed-service error", "lbAttr.2: externalIP: '20.20.20' is not an IP address"),
    ),
    "what is not built": (
        _rule("20.20.20.9", protocol="sctp"),
        (501, "lbAttr.2: not-built error: protocol: sctp is not built yet", None),
    ),
    "a port of another rule": (
        _rule("20.20.20.1", port=70, portMax=90),
        (
            409,
            "lbAttr.2: lbrule-exists error",
            "lbAttr.2: port: port 80/tcp belongs to the service 20.20.20.1 80-80",
        ),
    ),
    "nothing to detach from": (
        _rule("20.20.20.9", oper=2),
        (404, "lbAttr.2: lbrule not-exists error", "lbAttr.2: no service 20.20.20.9 port 80"),
    ),
}


@pytest.mark.parametrize("name", _WRONG)
def test_one_that_is_wrong_is_named_and_nothing_is_done(api: LiveApi, name: str) -> None:
    """Status, text with the place, and cause; neither those before nor those after it are there."""
    wrong, (status, said, cause) = _WRONG[name]
    reply = _post(api, _rule("20.20.20.1"), _rule("20.20.20.2"), wrong, _rule("20.20.20.3"))

    assert reply.status == status
    assert (reply.json if isinstance(said, dict) else reply.json["result"]) == said
    assert reply.headers.get("x-loxilb-cause") == cause
    assert _rules(api) == {}
    assert _revisions(api) == []


def test_what_the_kernel_refuses_is_undone(api: LiveApi) -> None:
    """No rule, no revision; the next write finds everything as it was."""
    api.data_plane.fail_in(7)

    assert _post(api, *(_rule(f"20.20.20.{at}") for at in range(1, 6))).status == 500
    assert _rules(api) == {}
    assert _revisions(api) == []
    assert _post(api, *(_rule(f"20.20.20.{at}") for at in range(1, 6))).status == 200


@pytest.mark.parametrize("body", ['{"lbAttr":7}', '{"lbAttr":{"a":1}}', '{"lbAttr":"x"}'])
def test_a_list_that_is_none_is_refused(api: LiveApi, body: str) -> None:
    """In the words for a member of a wrong type."""
    reply = api.request("POST", _RULE, body)

    assert reply.status == 400
    assert "into Go struct field lbAttr of type []*models.LoadbalanceEntry" in reply.json["message"]


def test_a_rule_with_a_list_beside_it_is_that_rule(api: LiveApi) -> None:
    """An unknown member of a single rule is ignored, as any other."""
    assert api.request("POST", _RULE, json.dumps({"lbAttr": [], **_rule()})).status == 200
    assert len(_rules(api)) == 1
