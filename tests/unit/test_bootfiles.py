# SPDX-License-Identifier: Apache-2.0
"""Files of the original's ``save``, imported by a daemon that starts with nothing."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from loxilb.errors import InvalidRequest, LoxilbError, StoreError
from loxilb.model.revision import Author, Changes
from loxilb.services.bootfiles import import_files


def rule(port: int, **more: object) -> dict[str, Any]:
    """Return an entry as the original's command line writes it."""
    arguments = {
        "externalIP": "20.20.20.1",
        "port": port,
        "protocol": "tcp",
        "sel": 0,
        "mode": 0,
        "BGP": False,
        "Monitor": True,
        "inactiveTimeOut": 240,
        "block": 0,
    }
    return {
        "serviceArguments": arguments | more,
        "secondaryIPs": None,
        "allowedSources": None,
        "endpoints": [
            {"endpointIP": "31.31.31.1", "targetPort": 8080, "weight": 1, "state": "active", "counter": ""},
        ],
    }


class Journal:
    """Keeps what it is given, unless a port is refused."""

    def __init__(self) -> None:
        self.kept: list[Changes] = []
        self.authors: set[Author] = set()
        self.refused: set[int] = set()
        self.full = False

    async def check(self, changes: Changes) -> None:
        if any(key.port in self.refused for key in changes.services):
            raise InvalidRequest("rule-hwm error", cause="no rule is left")

    async def keep(self, changes: Changes, *, author: Author) -> None:
        if self.full:
            raise StoreError("disk full")
        await self.check(changes)
        self.kept.append(changes)
        self.authors.add(author)

    @property
    def ports(self) -> list[int]:
        return [key.port for one in self.kept for key in one.services]


@pytest.fixture
def journal() -> Journal:
    return Journal()


def write(directory: Path, rules: object = None, endpoints: object = None) -> None:
    if rules is not None:
        (directory / "lbconfig.txt").write_text(json.dumps({"lbAttr": rules}))
    if endpoints is not None:
        (directory / "EPconfig.txt").write_text(json.dumps({"Attr": endpoints}))


def run(directory: Path, journal: Journal) -> tuple[int, list[str]]:
    """Import; returns how many entries were, and which were refused why."""
    with capture_logs() as logs:
        count = asyncio.run(import_files(directory, journal))
    return count, [f"{one['entry']}: {one['cause']}" for one in logs if one["log_level"] == "error"]


def test_without_files_nothing_happens(tmp_path: Path, journal: Journal) -> None:
    """Nor without the directory."""
    assert run(tmp_path, journal) == (0, [])
    assert run(tmp_path / "none", journal) == (0, [])
    assert journal.kept == []


def test_all_files_are_one_write(tmp_path: Path, journal: Journal) -> None:
    """Of an author that names the place."""
    endpoint = {"hostName": "31.31.31.1", "name": "one", "inactiveReTries": 2, "probeType": "ping", "probePort": 0}
    write(tmp_path, [rule(80, name="web"), rule(81)], [endpoint | {"probeDuration": 60}])

    assert run(tmp_path, journal) == (3, [])
    (changes,) = journal.kept
    assert sorted((key.port, one.name, one.monitor) for key, one in changes.services.items() if one) == [
        (80, "web", True),
        (81, "", True),
    ]
    assert set(changes.endpoints) == {"one"}
    assert journal.authors == {Author(agent=f"boot files of {tmp_path}")}


@pytest.mark.parametrize("more", [{"inactiveTimeout": 99}, {"inactiveTimeOut": 99}, {"INACTIVETIMEOUT": 99}])
def test_members_are_read_in_either_spelling(tmp_path: Path, journal: Journal, more: dict[str, object]) -> None:
    """Those of the daemon, those of the command line."""
    entry = rule(80)
    del entry["serviceArguments"]["inactiveTimeOut"]
    entry["serviceArguments"] |= more
    write(tmp_path, [entry])

    assert run(tmp_path, journal) == (1, [])
    (found,) = journal.kept[0].services.values()
    assert found is not None
    assert found.timeout == 99


@pytest.mark.parametrize("more", [{"lbsec": 1}, {"security": 1}, {"path": "a.b"}, {"host": "a.b"}, {"mode": 4}])
def test_what_is_not_built_is_named_and_left_out(tmp_path: Path, journal: Journal, more: dict[str, object]) -> None:
    """The others are imported."""
    write(tmp_path, [rule(80, **more), rule(81)])

    count, refused = run(tmp_path, journal)

    assert (count, journal.ports) == (1, [81])
    assert len(refused) == 1
    assert refused[0].startswith(f"{tmp_path}/lbconfig.txt lbAttr 1: ")
    assert refused[0].endswith("is not built yet")


def test_an_entry_that_breaks_the_schema_is_named_and_left_out(tmp_path: Path, journal: Journal) -> None:
    """By number and member."""
    broken = rule(80)
    del broken["endpoints"][0]["weight"]
    write(tmp_path, [rule(79), broken, 7, None], [{"name": "x"}])

    count, refused = run(tmp_path, journal)

    assert (count, journal.ports) == (1, [79])
    assert [text.removeprefix(f"{tmp_path}/") for text in refused] == [
        "EPconfig.txt Attr 1: hostName in body is required",
        "lbconfig.txt lbAttr 2: endpoints.0.weight in body is required",
        'lbconfig.txt lbAttr 3: parsing attr body from "" failed, because '
        "json: cannot unmarshal number into Go value of type models.LoadbalanceEntry",
        "lbconfig.txt lbAttr 4: endpoints in body is required",
    ]


@pytest.mark.parametrize("refused", [{80}, {83}, {81, 82}, {80, 82, 83}, {80, 81, 82, 83}])
def test_what_clashes_is_left_out_of_the_one_write(tmp_path: Path, journal: Journal, refused: set[int]) -> None:
    """Together they are refused; the first that is refused with those before it is named."""
    ports = [80, 81, 82, 83]
    write(tmp_path, [rule(port) for port in ports])
    journal.refused = refused

    count, said = run(tmp_path, journal)

    assert (count, journal.ports) == (4 - len(refused), [port for port in ports if port not in refused])
    assert len(journal.kept) == 1
    assert said == [f"{tmp_path}/lbconfig.txt lbAttr {port - 79}: no rule is left" for port in sorted(refused)]


def test_a_store_that_cannot_keep_them_is_an_error(tmp_path: Path, journal: Journal) -> None:
    """The next start finds the files again."""
    write(tmp_path, [rule(80)])
    journal.full = True

    with pytest.raises(StoreError):
        run(tmp_path, journal)


BROKEN = {
    '{"lbAttr": [\n}': "line 2 column 1",
    '{"Attr": []}': "no list lbAttr",
    "lbAttr": "line 1 column 1",
}


@pytest.mark.parametrize("content", BROKEN)
def test_a_file_that_is_none_ends_the_start(tmp_path: Path, journal: Journal, content: str) -> None:
    """With file, place and remedy; nothing of the other file is carried out."""
    write(tmp_path, endpoints=[{"hostName": "31.31.31.1", "probeType": "none"}])
    (tmp_path / "lbconfig.txt").write_text(content)

    with pytest.raises(LoxilbError, match=rf"lbconfig\.txt .*{BROKEN[content]}.*\(correct the file, or move it away\)"):
        run(tmp_path, journal)
    assert journal.kept == []


def test_a_file_that_cannot_be_read_ends_the_start(tmp_path: Path, journal: Journal) -> None:
    """A directory in its place."""
    (tmp_path / "lbconfig.txt").mkdir()

    with pytest.raises(LoxilbError, match=r"cannot read .*lbconfig\.txt: Is a directory"):
        run(tmp_path, journal)


def test_null_is_an_empty_list(tmp_path: Path, journal: Journal) -> None:
    """The original writes it for no rule."""
    (tmp_path / "lbconfig.txt").write_text('{"lbAttr": null}')

    assert run(tmp_path, journal) == (0, [])


def test_files_of_what_is_not_built_are_named(tmp_path: Path, journal: Journal) -> None:
    """A warning, no error: the rest works."""
    (tmp_path / "FWconfig.txt").write_text("{}")
    write(tmp_path, [rule(80)])
    with capture_logs() as logs:
        asyncio.run(import_files(tmp_path, journal))

    assert [one["file"] for one in logs if one["log_level"] == "warning"] == [f"{tmp_path}/FWconfig.txt"]
    assert journal.ports == [80]
