# SPDX-License-Identifier: Apache-2.0
"""History and rollback over REST and on the command line, against a live server over a fake kernel."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from loxilb.errors import StoreError
from loxilb.services.store import SqliteStore
from tests.support.api import LiveApi, fake_kernel_api
from tests.support.cli import Cli
from tests.support.recorded_api import entry

BASE = "/netlox/v1/config"
RULE = f"{BASE}/loadbalancer"
REVISIONS = f"{BASE}/revisions/all"
ROLLBACK = f"{BASE}/rollback"


@pytest.fixture
def api() -> Iterator[LiveApi]:
    """A live server over a fake kernel with two revisions: a rule for port 80, one for port 81."""
    with fake_kernel_api() as live:
        for port in (80, 81):
            body = entry(f'"20.20.20.1","port":{port},"protocol":"tcp"')
            headers = {"Content-Type": "application/json", "User-Agent": f"agent {port} " + "x" * 500}
            assert live.request("POST", RULE, body, headers).status == 200
        yield live


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    """The command line in this process."""
    return Cli(capsys)


def listed(api: LiveApi, query: str = "") -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = api.request("GET", REVISIONS + query).json["revisionAttr"]
    return entries


def rules(api: LiveApi) -> list[int]:
    return [one["serviceArguments"]["port"] for one in api.request("GET", f"{RULE}/all").json["lbAttr"]]


def roll_back(api: LiveApi, revision: object) -> Any:
    return api.request("POST", ROLLBACK, json.dumps({"revision": revision}))


def test_writes_are_listed_newest_first_with_who_and_when(api: LiveApi) -> None:
    """Address and name of the client, time in RFC 3339; a long name is cut."""
    newest, oldest = listed(api)

    assert (newest["number"], oldest["number"]) == (2, 1)
    assert newest["client"] == "127.0.0.1"
    assert newest["agent"].startswith("agent 81 xxx")
    assert len(newest["agent"]) == 120
    assert (newest["changes"], newest["summary"]) == (1, "create service 20.20.20.1:81/tcp")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", newest["time"])
    assert listed(api, "?limit=1") == [newest]


def test_every_write_is_a_revision_and_a_refused_one_is_none(api: LiveApi) -> None:
    """Rules, endpoints, states and the log level."""
    api.request("POST", f"{BASE}/endpoint", '{"hostName":"31.31.31.1","probeType":"none","name":"one"}')
    api.request("POST", f"{BASE}/endpointhoststate", '{"hostName":"31.31.31.1","state":"red"}')
    api.request("POST", f"{BASE}/params", '{"logLevel":"info"}')
    api.request("POST", RULE, entry('"20.20.20.1","port":80,"protocol":"tcp"'))
    api.request("POST", RULE, entry('"20.20.20.1","port":80,"protocol":"tcp","mode":4'))
    api.request("DELETE", f"{BASE}/endpoint/epipaddress/31.31.31.1?name=one")
    api.request("DELETE", f"{RULE}/all")

    assert [one["summary"] for one in listed(api)[:-2]] == [
        "delete service 20.20.20.1:80/tcp, 20.20.20.1:81/tcp; green endpoint 31.31.31.1_tcp_8080",
        "no longer probe endpoint one; green endpoint one",
        "log level info",
        "red endpoint 31.31.31.1_tcp_8080, one",
        "probe endpoint one",
    ]
    assert api.log_level.level == "info"


@pytest.mark.parametrize("limit", ["0", "10001", "-1"])
def test_a_limit_out_of_range_is_refused(api: LiveApi, limit: str) -> None:
    """By its name."""
    reply = api.request("GET", f"{REVISIONS}?limit={limit}")

    assert reply.status == 400
    assert reply.headers["x-loxilb-cause"] == "limit: not within 1 to 10000"


def test_rolling_back_is_a_write_of_its_own(api: LiveApi) -> None:
    """It can be rolled back too."""
    assert roll_back(api, 1).body == b'{"result":"Success"}\n'
    assert rules(api) == [80]
    assert listed(api)[0]["summary"] == "roll back to 1: delete service 20.20.20.1:81/tcp"

    assert roll_back(api, 2).status == 200
    assert rules(api) == [80, 81]


def test_going_back_to_what_is_not_kept_is_refused(api: LiveApi) -> None:
    """404, and nothing changes."""
    reply = roll_back(api, 7)

    assert (reply.status, reply.json["result"]) == (404, "revision not found")
    assert reply.headers["x-loxilb-cause"] == "revision: 7 is not kept"
    assert roll_back(api, None).json == {"code": 602, "message": "revision in body is required"}
    assert (rules(api), len(listed(api))) == ([80, 81], 2)


def test_what_cannot_be_kept_is_503_with_the_remedy(api: LiveApi, monkeypatch: pytest.MonkeyPatch) -> None:
    """The daemon goes on, and reads still work."""

    def refuse(*_arguments: object) -> None:
        raise StoreError("cannot write s.db: database or disk is full", remedy="free space on its file system")

    with monkeypatch.context() as patch:
        patch.setattr(SqliteStore, "_prune", refuse)
        reply = api.request("DELETE", f"{RULE}/all")

    assert reply.json == {
        "code": 503,
        "fields": None,
        "message": "Maintenance mode",
        "result": "cannot write s.db: database or disk is full (free space on its file system)",
    }
    assert rules(api) == [80, 81]
    assert api.request("DELETE", f"{RULE}/all").status == 200


def test_the_command_line_shows_and_goes_back(cli: Cli, api: LiveApi) -> None:
    """A table like the others, and the client's own name in it."""
    port = f"--port={api.address[1]}"
    assert cli("rollback", "1", port) == (0, "Success\n", "")
    code, text, _ = cli("get", "revisions", "--limit", "1", port)

    assert code == 0
    header, _, row, *more = text.splitlines()
    assert [cell.strip() for cell in header.strip("|").split("|")] == [
        *("REVISION", "TIME", "CLIENT", "AGENT", "CHANGES", "SUMMARY")
    ]
    assert re.match(r"\|        3 \| \S+Z \| 127\.0\.0\.1 \| loxicmd \|       1 \| roll back to 1: ", row)
    assert len(more) == 1  # the summary, broken into two lines
    assert json.loads(cli("get", "revisions", "-o", "json", port)[1])["revisionAttr"][0]["number"] == 3


@pytest.mark.parametrize("words", [(), ("x",), ("1", "2"), ("-1",)])
def test_the_command_line_wants_one_number(cli: Cli, api: LiveApi, words: tuple[str, ...]) -> None:
    """Anything else is usage, on standard error."""
    code, out, err = cli("rollback", *words, f"--port={api.address[1]}")

    assert (code, out) == (1, "")
    assert err.startswith("Error: ")
    assert len(listed(api)) == 2


def test_a_revision_that_is_not_kept_is_an_error_with_its_cause(cli: Cli, api: LiveApi) -> None:
    """Exit code 1."""
    code, _, err = cli("rollback", "9", f"--port={api.address[1]}")

    assert (code, err) == (1, "Error: revision not found (revision: 9 is not kept)\n")
