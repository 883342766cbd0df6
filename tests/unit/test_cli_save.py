# SPDX-License-Identifier: Apache-2.0
"""``loxicmd save`` and ``apply`` against a live server over a fake kernel."""

import json
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from loxilb.model import L4Protocol
from loxilb.model.image import Listener
from tests.support.api import LiveApi, fake_kernel_api
from tests.support.cli import Cli

BASE = "/netlox/v1/config"
RULES = [
    {
        "serviceArguments": {
            "externalIP": "20.20.20.1",
            "privateIP": "10.0.0.9",
            "port": 80,
            "portMax": 82,
            "protocol": "tcp",
            "sel": 3,
            "mode": 2,
            "monitor": True,
            "inactiveTimeOut": 77,
            "persistTimeout": 99,
            "name": "web",
            "probetype": "http",
            "probeport": 81,
            "probereq": "/up",
            "proberesp": "OK",
            "bgp": True,
            "probeTimeout": 7,
            "probeRetries": 4,
        },
        "allowedSources": [{"prefix": "10.0.0.0/8"}, {"prefix": "192.168.0.0/16"}],
        "endpoints": [
            {"endpointIP": "31.31.31.1", "targetPort": 8080, "weight": 3},
            {"endpointIP": "32.32.32.1", "targetPort": 8080, "weight": 1},
        ],
    },
    {
        "serviceArguments": {"externalIP": "2001::1", "port": 53, "protocol": "udp", "sel": 1, "name": "dns é"},
        "endpoints": [{"endpointIP": "4ffe::1", "targetPort": 53, "weight": 1}],
    },
]
ENDPOINT = {
    "hostName": "31.31.31.1",
    "name": "one",
    "inactiveReTries": 5,
    "probeType": "https",
    "probeReq": "a",
    "probeResp": "b",
    "probeDuration": 9,
    "probePort": 443,
}


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    """The command line in this process."""
    return Cli(capsys)


@pytest.fixture
def api() -> Iterator[LiveApi]:
    """A live server with two rules and an endpoint."""
    with fake_kernel_api() as live:
        for rule in RULES:
            assert live.request("POST", f"{BASE}/loadbalancer", json.dumps(rule)).status == 200
        assert live.request("POST", f"{BASE}/endpoint", json.dumps(ENDPOINT)).status == 200
        yield live


def port(api: LiveApi) -> str:
    return f"--port={api.address[1]}"


def shown(api: LiveApi) -> tuple[Any, Any]:
    """Return rules and endpoints as the API shows them."""
    rules = api.request("GET", f"{BASE}/loadbalancer/all").json
    endpoints = api.request("GET", f"{BASE}/endpoint/all").json
    return rules, [{k: v for k, v in one.items() if not k.endswith("Delay")} for one in endpoints["Attr"]]


def clear(api: LiveApi) -> None:
    api.request("DELETE", f"{BASE}/loadbalancer/all")
    api.request("DELETE", f"{BASE}/endpoint/epipaddress/31.31.31.1?name=one")
    assert shown(api) == ({"lbAttr": []}, [])


def test_what_is_saved_and_applied_is_what_was(cli: Cli, api: LiveApi, tmp_path: Path) -> None:
    """Every field, in both directions; saved again the files are the same."""
    before = shown(api)
    path = f"--config-path={tmp_path}/"
    assert cli("save", "--all", path, port(api)) == (
        0,
        f"There is no saved config file\nLB Configuration saved in {tmp_path}/lbconfig.txt\n"
        f"There is no saved config file\nEndPoint Configuration saved in {tmp_path}/EPconfig.txt\n",
        "",
    )
    files = {one.name: one.read_text() for one in tmp_path.iterdir()}
    clear(api)

    assert cli("apply", "--all", path, port(api)) == (
        0,
        f"Configuration applied - {tmp_path}/EPconfig.txt\nConfiguration applied - {tmp_path}/lbconfig.txt\n",
        "",
    )
    assert shown(api) == before
    assert cli("save", "-a", "-c", str(tmp_path), port(api))[0] == 0
    assert {one.name: one.read_text() for one in tmp_path.iterdir() if one.suffix == ".txt"} == files


def test_many_rules_are_applied_as_one_write(cli: Cli, api: LiveApi, tmp_path: Path) -> None:
    """In one revision; where one of them is refused, each by itself, and the one is named."""
    end = {"endpointIP": "31.31.31.1", "targetPort": 80, "weight": 1}
    vips = [f"20.21.0.{at}" for at in range(1, 151)]
    rules: list[dict[str, Any]] = [
        {"serviceArguments": {"externalIP": one, "port": 80, "protocol": "tcp", "BGP": False}, "endpoints": [end]}
        for one in vips
    ]
    file = tmp_path / "rules"
    file.write_text(json.dumps({"lbAttr": rules}))
    clear(api)

    assert cli("apply", "--lb", str(file), port(api))[0] == 0
    assert len(shown(api)[0]["lbAttr"]) == len(rules)
    newest = api.request("GET", f"{BASE}/revisions/all").json["revisionAttr"][0]
    assert (newest["changes"], newest["summary"]) == (150, "create 150 services")

    rules[7]["serviceArguments"]["protocol"] = "sctp"
    file.write_text(json.dumps({"lbAttr": rules}))
    clear(api)
    code, _, error = cli("apply", "--lb", str(file), port(api))
    assert code == 1
    assert f"Error: {file} lbAttr 8: not-built error: protocol: sctp is not built yet" in error
    assert len(shown(api)[0]["lbAttr"]) == len(rules) - 1


def test_files_have_the_form_of_the_original(cli: Cli, api: LiveApi, tmp_path: Path) -> None:
    """Its spelling, its members, its indent; counters are blank."""
    cli("save", "--lb", f"--config-path={tmp_path}", port(api))
    cli("save", "--ep", f"--config-path={tmp_path}", port(api))

    text = (tmp_path / "lbconfig.txt").read_text()
    first = json.loads(text)["lbAttr"][0]
    assert text.startswith('{\n    "lbAttr": [\n        {\n            "serviceArguments": {\n')
    assert (first["serviceArguments"]["Monitor"], first["serviceArguments"]["BGP"]) == (True, True)
    assert first["endpoints"][0] == {
        "endpointIP": "31.31.31.1",
        "targetPort": 8080,
        "weight": 3,
        "state": "",
        "counter": "",
    }
    assert json.loads((tmp_path / "EPconfig.txt").read_text()) == {"Attr": [ENDPOINT]}


def test_what_the_moment_adds_is_not_saved(cli: Cli, api: LiveApi, tmp_path: Path) -> None:
    """The share of an endpoint that starts slowly, and endpoints that are gone but for their flows."""
    arguments = {"externalIP": "20.20.20.9", "port": 80, "protocol": "tcp", "slowStart": 600, "onEndpointLoss": "drain"}
    for addresses in (["31.31.31.1", "32.32.32.1"], ["32.32.32.1", "33.33.33.1"]):
        endpoints = [{"endpointIP": one, "targetPort": 80, "weight": 1} for one in addresses]
        rule = {"serviceArguments": arguments, "endpoints": endpoints}
        assert api.request("POST", f"{BASE}/loadbalancer", json.dumps(rule)).status == 200
        api.data_plane.connect(Listener.of(IPv4Address("20.20.20.9"), L4Protocol.TCP, 80), IPv4Address("10.0.0.1"), 99)
    (now,) = [one for one in shown(api)[0]["lbAttr"] if one["serviceArguments"]["externalIP"] == "20.20.20.9"]
    assert [one["endpointIP"] for one in now["removedEndpoints"]] == ["31.31.31.1"]
    assert [one.get("share") for one in now["endpoints"]] == [None, 10]

    cli("save", "--lb", f"--config-path={tmp_path}", port(api))

    saved = json.loads((tmp_path / "lbconfig.txt").read_text())["lbAttr"]
    (kept,) = [one for one in saved if one["serviceArguments"]["externalIP"] == "20.20.20.9"]
    assert "removedEndpoints" not in kept
    assert kept["endpoints"] == [one | {"state": "", "counter": ""} for one in endpoints]


def test_what_belongs_to_others_is_not_saved(cli: Cli, api: LiveApi, tmp_path: Path) -> None:
    """Rules of Kubernetes and of IPVS, endpoints that only rules name."""
    others: list[dict[str, object]] = [{"managed": True}, {"name": "ipvs_1.1.1.1-80-tcp"}]
    for number, more in enumerate(others):
        rule = RULES[1] | {"serviceArguments": {"externalIP": "2001::1", "port": number + 1, "protocol": "tcp"} | more}
        assert api.request("POST", f"{BASE}/loadbalancer", json.dumps(rule)).status == 200
    cli("save", "--all", f"--config-path={tmp_path}", port(api))

    saved = json.loads((tmp_path / "lbconfig.txt").read_text())["lbAttr"]
    assert [one["serviceArguments"]["name"] for one in saved] == ["web", "dns é"]
    assert [one["name"] for one in json.loads((tmp_path / "EPconfig.txt").read_text())["Attr"]] == ["one"]


def test_the_file_before_is_kept(cli: Cli, api: LiveApi, tmp_path: Path) -> None:
    """One generation, and no other file is left."""
    file = tmp_path / "lbconfig.txt"
    for text in ("first", "second"):
        file.write_text(text)
        assert cli("save", "-l", "-c", str(tmp_path), port(api)) == (0, f"LB Configuration saved in {file}\n", "")
        assert (tmp_path / "lbconfig.txt.bk").read_text() == text

    assert sorted(one.name for one in tmp_path.iterdir()) == ["lbconfig.txt", "lbconfig.txt.bk"]


def test_a_place_that_cannot_be_written_is_an_error(cli: Cli, api: LiveApi, tmp_path: Path) -> None:
    """And what was there stays."""
    (tmp_path / "file").write_text("x")

    code, _, err = cli("save", "--lb", f"--config-path={tmp_path}/file", port(api))

    assert (code, err) == (1, f"Error: cannot write {tmp_path}/file/lbconfig.txt: File exists\n")


@pytest.mark.parametrize("verb", ["save", "apply"])
@pytest.mark.parametrize("flag", ["--ip", "--session", "--ulcl", "--firewall", "--bfd"])
def test_what_is_not_built_is_refused_by_name(cli: Cli, verb: str, flag: str) -> None:
    """Nothing else is done either."""
    words = (verb, flag) if verb == "save" else (verb, f"{flag}=x")

    assert cli(*words) == (1, "", f"Error: {flag} is not built yet\n")


@pytest.mark.parametrize("verb", ["save", "apply"])
def test_without_a_choice_the_usage_is_shown(cli: Cli, verb: str) -> None:
    """In the words of the original."""
    code, out, err = cli(verb)

    assert (code, out) == (1, "")
    assert err.startswith("Error: Provide valid options\n")


def test_the_daemon_s_spelling_is_read_too(cli: Cli, api: LiveApi, tmp_path: Path) -> None:
    """What would be lost with the original: security and host arrive, here to be refused by name."""
    rule = {
        "serviceArguments": {
            "externalIP": "20.20.20.2",
            "port": 443,
            "protocol": "tcp",
            "lbsec": 1,
            "inactiveTimeout": 60,
        },
        "endpoints": RULES[0]["endpoints"],
    }
    file = tmp_path / "lb.txt"
    file.write_text(json.dumps({"lbAttr": [rule]}))

    code, out, err = cli("apply", f"--lb={file}", port(api))

    assert (code, out) == (1, f"Configuration failed - {file}\n")
    assert err.startswith(f"Error: {file} lbAttr 1: not-built error: security: 1 is not built yet")


BAD_FILES = {
    '{"lbAttr": [': "line 1 column 13: Expecting value",
    "[]": "no list lbAttr in it",
    '{"Attr":[]}': "no list lbAttr in it",
}


@pytest.mark.parametrize("content", BAD_FILES)
def test_a_bad_file_is_refused_with_the_place(cli: Cli, api: LiveApi, tmp_path: Path, content: str) -> None:
    """Line and column where there are some."""
    file = tmp_path / "lb.txt"
    file.write_text(content)

    assert cli("apply", f"--lb={file}", port(api)) == (1, "", f"Error: {file}: {BAD_FILES[content]}\n")


def test_all_entries_are_checked_before_the_first_is_sent(cli: Cli, api: LiveApi, tmp_path: Path) -> None:
    """The entry and the field are named."""
    file = tmp_path / "lb.txt"
    file.write_text(json.dumps({"lbAttr": [RULES[0], {"serviceArguments": {"externalIP": "1.1.1.1"}}]}))
    clear(api)

    code, _, err = cli("apply", f"--lb={file}", port(api))

    assert (code, err) == (1, f"Error: {file} lbAttr 2: endpoints in body is required\n")
    assert shown(api) == ({"lbAttr": []}, [])


def test_an_entry_that_is_refused_does_not_stop_the_others(cli: Cli, api: LiveApi, tmp_path: Path) -> None:
    """It is named, and the whole counts as failed."""
    clear(api)
    broken = RULES[0] | {"serviceArguments": RULES[0]["serviceArguments"] | {"mode": 4}}  # type: ignore[operator]
    file = tmp_path / "lb.txt"
    file.write_text(json.dumps({"lbAttr": [broken, RULES[1]]}))

    code, out, err = cli("apply", f"--lb={file}", port(api))

    assert (code, out) == (1, f"Configuration failed - {file}\n")
    assert err.startswith(f"Error: {file} lbAttr 1: not-built error: mode: fullproxy is not built yet")
    assert len(shown(api)[0]["lbAttr"]) == 1


def test_a_port_of_another_rule_is_no_success(cli: Cli, api: LiveApi, tmp_path: Path) -> None:
    """The code is the same as that of an identical rule; the cause tells them apart."""
    file = tmp_path / "lb.txt"
    arguments = {"externalIP": "10.0.0.9", "port": 81, "protocol": "tcp"}
    file.write_text(json.dumps({"lbAttr": [{"serviceArguments": arguments, "endpoints": RULES[0]["endpoints"]}]}))

    code, out, err = cli("apply", f"--lb={file}", port(api))

    assert (code, out) == (1, f"Configuration failed - {file}\n")
    assert "belongs to the service 20.20.20.1 80-82" in err


DOCUMENTS = """
apiVersion: netlox/v1
kind: Loadbalancer
metadata: {name: x}
spec:
  serviceArguments: {externalIP: 1.1.1.1, port: 80, portmax: 81, protocol: tcp, Monitor: true, name: one}
  endpoints:
    - {endpointIP: 31.31.31.1, targetPort: 8080, weight: 1}
---
kind: ep
spec: {hostName: 32.32.32.1, probeType: ping, name: second}
"""


def test_documents_are_applied_and_applied_again(cli: Cli, api: LiveApi, tmp_path: Path) -> None:
    """Several in a file; a second time nothing changes, and that is no error."""
    clear(api)
    file = tmp_path / "a.yaml"
    file.write_text(DOCUMENTS)
    for _ in range(2):
        assert cli("apply", "-f", str(file), port(api)) == (0, f"Configuration applied - {file}\n", "")

    rules, endpoints = shown(api)
    arguments = rules["lbAttr"][0]["serviceArguments"]
    assert (arguments["portMax"], arguments["monitor"], arguments["name"]) == (81, True, "one")
    assert [one["name"] for one in endpoints if one.get("configured")] == ["second"]


BAD_DOCUMENTS = {
    "kind: Firewall\nspec: {}": "document 1: kind: Firewall is not built yet",
    "kind: Nonsense\nspec: {}": "document 1: kind: 'Nonsense' Not Supported",
    "apiVersion: v2\nkind: lb": "document 1: apiVersion: 'v2' is not netlox/v1",
    "- 1": "document 1: a mapping with apiVersion, kind and spec is needed",
    "kind: ep": "document 1: hostName in body is required",
    "kind: ep\nspec: {hostName: 2026-11-22}": "document 1: Object of type date is not JSON serializable",
    "kind: ep\nspec: &a {hostName: *a}": "document 1: Circular reference detected",
}


@pytest.mark.parametrize("content", BAD_DOCUMENTS)
def test_a_bad_document_is_refused_by_name(cli: Cli, api: LiveApi, tmp_path: Path, content: str) -> None:
    """Before anything is sent."""
    file = tmp_path / "a.yaml"
    file.write_text(content)

    assert cli("apply", "-f", str(file), port(api)) == (1, "", f"Error: {file} {BAD_DOCUMENTS[content]}\n")


def test_broken_yaml_is_refused_with_its_line(cli: Cli, api: LiveApi, tmp_path: Path) -> None:
    """On one line."""
    file = tmp_path / "a.yaml"
    file.write_text("kind: lb\nspec: {a: [}\n")

    code, _, err = cli("apply", "-f", str(file), port(api))

    assert code == 1
    assert "line 2, column 12" in err
    assert err.count("\n") == 1


def test_a_date_that_there_is_not_is_refused(cli: Cli, api: LiveApi, tmp_path: Path) -> None:
    """YAML takes it for a date before anything looks at the member."""
    file = tmp_path / "a.yaml"
    file.write_text("kind: ep\nspec: {hostName: 2024-13-45}\n")

    assert cli("apply", "-f", str(file), port(api)) == (1, "", f"Error: {file}: month must be in 1..12\n")
