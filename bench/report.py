# SPDX-License-Identifier: Apache-2.0
"""Figures as a table for the terminal, as Markdown for the documentation, and as JSON."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from bench.figures import Figure, Verdict

TITLES: Mapping[str, str] = {
    "program": "Program cost: BPF_PROG_TEST_RUN, net of the harness",
    "frames": "Live frames: generator, load balancer, sink",
    "sockets": "Sockets at both ends, over veth",
    "control": "Control plane",
    "flows": "A daemon with many flows and services",
    "scale": "Scale",
}
BEGIN, END = "<!-- figures: written by python -m bench --document -->", "<!-- end of figures -->"


def number(value: float) -> str:
    """Write a value with the digits that mean something."""
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _rows(figures: Sequence[Figure]) -> Iterator[tuple[str, str, str, str, str]]:
    for figure in figures:
        bounds = f"{number(figure.low)}..{number(figure.high)}"
        target = "" if figure.target is None else f"≤ {number(figure.target)}"
        unit = f" {figure.unit}" if figure.unit else ""
        yield figure.label, f"{number(figure.median)}{unit}", bounds, target, figure.verdict.value


def table(figures: Sequence[Figure], missing: Sequence[str] = ()) -> str:
    """Return the table for the terminal, and how many targets are met."""
    lines = []
    for section, group in groupby(figures, key=lambda figure: figure.section):
        lines += ["", f"{TITLES[section]}", f"{'':50}{'median':>14}{'min..max':>18}{'target':>10}"]
        lines += [
            f"  {label:48}{median:>14}{bounds:>18}{target:>10}  {verdict}".rstrip()
            for label, median, bounds, target, verdict in _rows(tuple(group))
        ]
    return "\n".join([*lines, "", summary(figures, missing)])


def summary(figures: Sequence[Figure], missing: Sequence[str] = ()) -> str:
    """Say which targets are met, which are missed by how much, and which were not measured."""
    judged = [figure for figure in figures if figure.verdict is not Verdict.NONE]
    missed = [figure for figure in judged if figure.verdict is Verdict.MISS]
    lines = [f"{len(judged) - len(missed)} of {len(judged)} targets met."]
    for figure in missed:
        assert figure.target is not None
        over = (figure.median / figure.target - 1) * 100
        lines.append(f"missed: {figure.key}: {number(figure.median)} for {number(figure.target)}, {over:.0f} % over")
    lines += [f"not measured: {key}" for key in missing]
    return "\n".join(lines)


def markdown(figures: Sequence[Figure]) -> str:
    """Return one Markdown table a section."""
    lines = []
    for section, group in groupby(figures, key=lambda figure: figure.section):
        lines += ["", f"### {TITLES[section]}", "", "| | median | min..max | target | |", "|---|---:|---:|---:|---|"]
        lines += [f"| {' | '.join(row)} |" for row in _rows(tuple(group))]
    return "\n".join([*lines, ""])


def replace_figures(document: str, begin: str, body: str) -> str:
    """Put ``body`` between ``begin`` and END in a document; raises ValueError when they are missing."""
    head, found, rest = document.partition(begin)
    _, end, tail = rest.partition(END)
    if not found or not end:
        raise ValueError("the document has no place for figures")
    return f"{head}{begin}\n{body}\n{END}{tail}"


def as_json(figures: Sequence[Figure], *, machine: Mapping[str, str], quick: bool) -> dict[str, Any]:
    """Return everything measured as plain values."""
    return {
        "machine": dict(machine),
        "quick": quick,
        "figures": [
            {
                "key": figure.key,
                "label": figure.label,
                "unit": figure.unit,
                "median": figure.median,
                "min": figure.low,
                "max": figure.high,
                "samples": list(figure.samples),
                "target": figure.target,
                "verdict": figure.verdict.value,
            }
            for figure in figures
        ],
    }


def from_json(data: Mapping[str, Any]) -> list[Figure]:
    """Inverse of :func:`as_json`."""
    return [
        Figure(key=entry["key"], label=entry["label"], unit=entry["unit"], samples=tuple(entry["samples"]))
        for entry in data["figures"]
    ]
