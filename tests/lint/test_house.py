# SPDX-License-Identifier: Apache-2.0
"""House rules that no tool knows."""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MAX_FUNCTION, MAX_MODULE = 80, 500
_SOURCES = {".py", ".c", ".h", ".sh"}
_NAMED_SOURCES = {"Makefile", ".ci/run", "scripts/packages", "scripts/venv"}
# Places of one machine; without their slash, so that this file does not name them.
_FORBIDDEN = re.compile(r"(?<![\w.])/(?:work/|root/|tmp/brief)")

_C_FUNCTION = re.compile(r"^(?!struct|enum|union|typedef)\w[^;{}=]*?(\w+)\([^;{}]*\)\s*\{", re.M)


def tracked() -> list[Path]:
    """Return every file of the repository that git keeps or would keep."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\n")
    return [ROOT / name for name in listed if name and (ROOT / name).is_file()]


FILES = tracked()
SOURCES = [path for path in FILES if path.suffix in _SOURCES or str(path.relative_to(ROOT)) in _NAMED_SOURCES]
TEXTS = [path for path in FILES if path.suffix in _SOURCES | {".md", ".toml", ".yaml", ".yml"}]
DOCUMENTS = [path for path in FILES if path.suffix == ".md"]


def name_of(path: Path) -> str:
    """Return a path as it is written in this repository."""
    return str(path.relative_to(ROOT))


def python_functions(text: str) -> Iterator[tuple[str, int]]:
    """Yield name and length in lines of every function, its docstring left out."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            start = node.body[0] if ast.get_docstring(node) is None or len(node.body) < 2 else node.body[1]
            yield node.name, (node.end_lineno or 0) - start.lineno + 1


def c_functions(text: str) -> Iterator[tuple[str, int]]:
    """Yield name and length in lines of every C function; one ends by a brace in column one."""
    for match in re.finditer(
        r"^(?!struct|enum|union|typedef|static const)\w[^;{}=]*?(\w+)\([^;{}]*\)\s*\{", text, re.M
    ):
        end = text.find("\n}", match.start())
        yield match[1], text.count("\n", match.start(), end) + 2


def test_the_lists_are_not_empty() -> None:
    """A lint over no file is no lint."""
    suffixes = {path.suffix for path in SOURCES}

    assert {".py", ".c", ".h"} <= suffixes
    assert DOCUMENTS


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_every_source_names_its_licence_first(path: Path) -> None:
    """First line, after the interpreter's."""
    lines = [line for line in path.read_text().split("\n")[:2] if not line.startswith("#!")]
    licence = "BSD-2-Clause OR GPL-2.0-only" if path.is_relative_to(ROOT / "bpf") else "Apache-2.0"

    assert lines[0].strip("/*# ") == f"SPDX-License-Identifier: {licence}"


@pytest.mark.parametrize("path", [path for path in SOURCES if path.suffix in {".py", ".c", ".h"}], ids=name_of)
def test_functions_and_modules_are_short(path: Path) -> None:
    """What is longer does more than one thing."""
    text = path.read_text()
    functions = python_functions(text) if path.suffix == ".py" else c_functions(text)

    assert text.count("\n") <= MAX_MODULE
    assert {name: length for name, length in functions if length > MAX_FUNCTION} == {}


def test_long_functions_are_seen() -> None:
    """The two measures above can fail."""
    body = "    x = 1\n" * 90

    assert dict(python_functions(f"def long():\n{body}")) == {"long": 90}
    assert dict(c_functions(f"static int long_one(int a)\n{{\n{body}}}\n")) == {"long_one": 93}


@pytest.mark.parametrize("path", TEXTS, ids=name_of)
def test_no_text_names_places_of_one_machine(path: Path) -> None:
    """What is written here is read elsewhere."""
    assert _FORBIDDEN.findall(path.read_text()) == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_make_targets_and_links_in_documents_exist(path: Path) -> None:
    """A reader can follow them."""
    text = path.read_text()
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    named = set(re.findall(r"(?:^|`)make ([a-z]+)", text, re.M))
    links = [link for link in re.findall(r"\]\(([^)#\s]+)", text) if "://" not in link]

    assert named <= targets
    assert [link for link in links if not (path.parent / link).exists()] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_files_that_documents_name_exist(path: Path) -> None:
    """Below the root, or below the daemon's package, as a reader would take them."""
    named = re.findall(
        r"`((?:bench|bpf|docs|examples|kernel|plan|scripts|services|src|tests)/[\w./-]+)`", path.read_text()
    )
    places = (ROOT, ROOT / "src/loxilb")

    assert [name for name in named if not any((place / name).exists() for place in places)] == []


def test_operators_are_told_what_every_reason_means() -> None:
    """Each reason that a packet may leave with, and no other."""
    reasons = re.findall(r"^\tLOX_((?:PASS|FORWARD|ANSWER|DROP)_\w+)", (ROOT / "bpf/abi.h").read_text(), re.M)
    told = re.findall(r"`((?:pass|forward|answer|drop)_\w+)`", (ROOT / "docs/operations.md").read_text())

    assert {name.lower() for name in reasons if not name.endswith("_LAST")} == set(told)


@pytest.mark.parametrize("folder", ["netns", "packet", "contract", "flowtable"])
def test_every_kernel_suite_has_tests_that_must_run(folder: str) -> None:
    """A machine without the means must not pass by skipping all."""
    modules = sorted((ROOT / "tests" / folder).glob("*.py"))

    assert any(module.name.startswith("test_") for module in modules)
    assert any("must_run" in module.read_text() for module in modules)
