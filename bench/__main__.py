# SPDX-License-Identifier: Apache-2.0
"""The command: ``python -m bench``."""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from tests.support.lab import ROOT, Lab, remove_leftovers

from bench import control, flows, frames, program, sockets
from bench.chart import chart
from bench.figures import Figure, by_key, missing_targets
from bench.machine import machine
from bench.place import PREFIX, MeasurementError, interruptible, measured_before
from bench.report import BEGIN, as_json, from_json, markdown, replace_figures, summary, table
from bench.say import timed
from loxilb.errors import LoxilbError

Measure = Callable[[Lab, Callable[[str], None]], Sequence[Figure]]
_SCRATCH = ROOT / "build" / "bench"  # the traffic tool, logs
_DOCUMENT = ROOT / "docs" / "performance.md"
_FULL: Mapping[str, Measure] = {
    "program": lambda lab, say: program.measure(lab, program.Effort(samples=21, packets=50_000), say),
    "frames": lambda lab, say: frames.measure(lab, frames.Effort(rounds=7, runs=3, frames=300_000), say),
    "sockets": lambda lab, say: sockets.measure(
        lab, sockets.Effort(rounds=11, seconds={"close": 1.5, "keep": 1.0, "bulk": 1.2}), say
    ),
    "control": lambda lab, say: control.measure(lab, control.Effort(samples=21), say),
    "flows": lambda lab, say: flows.measure(lab, flows.Effort(flows=1_000_000, samples=7, idle=10), say),
}
_QUICK: Mapping[str, Measure] = {
    "program": lambda lab, say: program.measure(lab, program.Effort(samples=5, packets=25_000), say),
    "frames": lambda lab, say: frames.measure(lab, frames.Effort(rounds=3, runs=1, frames=100_000), say),
    "sockets": lambda lab, say: sockets.measure(
        lab, sockets.Effort(rounds=3, seconds={"close": 0.6, "keep": 0.4, "bulk": 0.6}), say
    ),
    "control": lambda lab, say: control.measure(lab, control.Effort(samples=5), say),
    "flows": lambda lab, say: flows.measure(lab, flows.Effort(flows=100_000, samples=3, idle=2), say),
}


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measure beside the peers: a table with the targets, JSON, and a chart (SVG).",
        epilog="A missed target does not change the exit code: figures depend on the machine.",
    )
    parser.add_argument("--quick", action="store_true", help="few samples: shows that it works, not how fast it is")
    parser.add_argument("--only", choices=tuple(_FULL), action="append", help="measure this section; may be repeated")
    parser.add_argument("--out", type=Path, default=Path("build/bench.json"), help="the chart goes beside it")
    parser.add_argument(
        "--document", action="store_true", help="measure nothing; put the figures of --out into docs/performance.md"
    )
    return parser.parse_args(words)


def _measured(sections: Mapping[str, Measure], say: Callable[[str], None]) -> Iterator[Figure]:
    _SCRATCH.mkdir(parents=True, exist_ok=True)
    for measure in sections.values():
        with tempfile.TemporaryDirectory(dir=_SCRATCH) as folder, Lab(folder=Path(folder), prefix=PREFIX) as lab:
            yield from measure(lab, say)


def _write(path: Path, figures: Sequence[Figure], *, quick: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(as_json(figures, machine=machine(), quick=quick), indent=1) + "\n")
    path.with_suffix(".svg").write_text(chart(by_key(figures)))


def _document(source: Path) -> None:
    """Put measured figures into the documentation."""
    figures = from_json(measured_before(source, "sudo make bench"))
    met, *rest = summary(figures, missing_targets(figures, tuple(_FULL))).splitlines()
    body = "\n".join((markdown(figures), met, "", *(f"- {line}" for line in rest), ""))
    _DOCUMENT.write_text(replace_figures(_DOCUMENT.read_text(), BEGIN, body))
    _DOCUMENT.with_suffix(".svg").write_text(chart(by_key(figures)))


def main(words: Sequence[str] | None = None) -> int:
    """Measure and report; returns the exit code."""
    given = _arguments(words)
    if given.document:
        try:
            _document(given.out)
        except MeasurementError as error:
            print(f"bench: {error}", file=sys.stderr)
            return 1
        return 0
    if os.geteuid() != 0:
        print("network namespaces need root: sudo make bench", file=sys.stderr)
        return 1
    sections = _QUICK if given.quick else _FULL
    chosen = {name: measure for name, measure in sections.items() if not given.only or name in given.only}
    with ExitStack() as stack:
        stack.enter_context(interruptible())
        remove_leftovers(PREFIX)
        try:
            figures = tuple(_measured(chosen, timed()))
        except (MeasurementError, LoxilbError, AssertionError) as error:  # the last is what a lab raises
            print(f"bench: {error}", file=sys.stderr)
            return 1
    print(table(figures, missing_targets(figures, tuple(chosen))))
    _write(given.out, figures, quick=given.quick)
    print(f"\nwritten: {given.out}, {given.out.with_suffix('.svg')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
