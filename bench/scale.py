# SPDX-License-Identifier: Apache-2.0
"""A hundred thousand services: how long they take, and what they cost. The command: ``python -m bench.scale``."""

import argparse
import compileall
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from tests.support.lab import ROOT, Lab, Namespace, remove_leftovers
from tests.support.lab_star import LoadBalancer

from bench.control import Watch, change, connected, request_of
from bench.cpu import idle, memory, used
from bench.figures import Figure, missing_targets
from bench.machine import machine
from bench.place import PREFIX, MeasurementError, inside, interruptible
from bench.report import as_json, table
from bench.say import timed
from loxiapi import client
from loxilb.errors import LoxilbError

_SCRATCH = ROOT / "build" / "bench"
_SERVER = client.Server(port=11111, timeout=300)
_RULES = "/config/loadbalancer"
_VIPS, _SERVERS = IPv4Address("198.18.128.0"), IPv4Address("198.19.0.0")
_PORTS = 1000  # services on one address, where they share some
_CHANGED_PORT = 1
_IDLE_S = 10.0
# Room for all of them; the flow tables keep their default size.
_SIZES = {"rules": 1, "endpoints": 2, "ring": 4, "listeners": 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How many services there are, in how many rounds, and how many changes are made."""

    services: int
    few: int
    rounds: int
    changes: int


def _rule(number: int, *, shared: bool, last: int | None = None) -> dict[str, Any]:
    """Return a service with two endpoints; ``last`` is the number of its second one's server."""
    vip, port = divmod(number, _PORTS) if shared else (number, 0)
    ends = (2 * number % 16384 + 1, 2 * number % 16384 + 2 if last is None else last)
    return {
        "serviceArguments": {"externalIP": str(_VIPS + vip), "port": port + _CHANGED_PORT, "protocol": "tcp"},
        "endpoints": [{"endpointIP": str(_SERVERS + one), "targetPort": 8080, "weight": 1} for one in ends],
    }


def _load(count: int, *, shared: bool) -> float:
    """Create services with one request; returns the seconds it took."""
    rules = [_rule(number, shared=shared) for number in range(count)]
    body = json.dumps({"lbAttr": rules}, separators=(",", ":")).encode()
    began = time.perf_counter()
    answer = client.send(_SERVER, "POST", _RULES, body=body)
    took = time.perf_counter() - began
    if answer.status != 200:
        raise MeasurementError(f"create {count} services: {answer.status} {answer.body[:400]!r}")
    return took


def _metric(name: str) -> float:
    text = client.send(_SERVER, "GET", "/metrics").body.decode()
    found = re.search(rf"^{name} (\S+)$", text, re.MULTILINE)
    if found is None:
        raise MeasurementError(f"no metric {name}")
    return float(found[1])


def _changes(count: int) -> Iterator[tuple[float, float]]:
    watch = Watch(_VIPS, _CHANGED_PORT)
    try:
        with connected() as api:
            for number in range(count):
                request = request_of(_rule(0, shared=True, last=20_000 + number))
                yield change(api, watch, request, _SERVERS + 20_000 + number)
    finally:
        watch.close()


def _start(lb: LoadBalancer, services: int) -> float:
    """Start a daemon with room for so many services; returns the seconds until it served."""
    sizes = [f"--{name}={max(1024, services * each * 5 // 4)}" for name, each in _SIZES.items()]
    lb.start("--loglevel", "error", "--prometheus", *sizes)
    return float(re.findall(r"ready in ([\d.]+) s", lb.ready_line)[0])


class _Samples(dict[str, list[float]]):
    """Samples by key."""

    def note(self, key: str, *values: float) -> None:
        self.setdefault(key, []).extend(values)


def _many(lb: LoadBalancer, effort: Effort, samples: _Samples) -> None:
    """Load, change and restart with all services."""
    samples.note("scale.empty", _start(lb, effort.services))
    samples.note("scale.emptywork", used(lb.pid) / 1e9)
    worked = used(lb.pid)
    samples.note("scale.load", _load(effort.services, shared=True))
    samples.note("scale.loadwork", (used(lb.pid) - worked) / 1e9)
    samples.note("scale.kernel", _metric("loxilb_apply_seconds_sum"))
    for reached, answered in _changes(effort.changes):
        samples.note("scale.change", reached)
        samples.note("scale.reply", answered)
    samples.note("scale.memory", memory(lb.pid, "VmRSS"))
    samples.note("scale.idle", idle(lb.pid, _IDLE_S))
    lb.stop()
    samples.note("scale.restart", _start(lb, effort.services))
    samples.note("scale.restartwork", used(lb.pid) / 1e9)
    lb.down()


def _few(lb: LoadBalancer, effort: Effort, samples: _Samples) -> None:
    """Load services with an address each."""
    _start(lb, effort.few)
    samples.note("scale.addresses", _load(effort.few, shared=False))
    samples.note("scale.memory10k", memory(lb.pid, "VmRSS"))
    lb.down()


_LABELS = {
    "scale.empty": ("start of a daemon without services", "s"),
    "scale.emptywork": ("processor time of this", "s"),
    "scale.load": ("create {services} services of 2 endpoints, one request", "s"),
    "scale.loadwork": ("processor time of this", "s"),
    "scale.kernel": ("of this in the kernel's maps", "s"),
    "scale.change": ("request to data plane, one endpoint of {services}", "ms"),
    "scale.reply": ("request to answer, one endpoint of {services}", "ms"),
    "scale.restart": ("restart with {services} services", "s"),
    "scale.restartwork": ("processor time of this", "s"),
    "scale.memory": ("resident memory, {services} services", "MiB"),
    "scale.idle": ("idle, {services} services", "% of a processor"),
    "scale.addresses": ("create {few} services with an address each", "s"),
    "scale.memory10k": ("resident memory, {few} services", "MiB"),
}


def measure(lab: Lab, effort: Effort, say: Callable[[str], None]) -> Sequence[Figure]:
    """Measure; raises MeasurementError when an answer is not what was asked for."""
    samples = _Samples()
    for number in range(effort.rounds):
        for name, part in (("many", _many), ("few", _few)):
            say(f"scale: round {number + 1} of {effort.rounds}, {name}")
            namespace: Namespace = lab.namespace(f"{name}{number}")
            with inside(namespace):
                part(LoadBalancer(lab, namespace), effort, samples)
    counts = {"services": effort.services, "few": effort.few}
    return tuple(
        Figure(key=key, label=label.format(**counts), unit=unit, samples=tuple(samples[key]))
        for key, (label, unit) in _LABELS.items()
    )


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.scale", description=__doc__)
    parser.add_argument("--services", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("build/bench-scale.json"))
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    """Measure and report; returns the exit code."""
    given = _arguments(words)
    if os.geteuid() != 0:
        print("network namespaces need root: sudo make bench-scale", file=sys.stderr)
        return 1
    effort = Effort(services=given.services, few=given.services // 10, rounds=given.rounds, changes=21)
    with ExitStack() as stack:
        stack.enter_context(interruptible())
        remove_leftovers(PREFIX)
        compileall.compile_dir(ROOT / "src", quiet=1)  # as an installed package is
        _SCRATCH.mkdir(parents=True, exist_ok=True)
        folder = stack.enter_context(tempfile.TemporaryDirectory(dir=_SCRATCH))
        lab = stack.enter_context(Lab(folder=Path(folder), prefix=PREFIX))
        try:
            figures = measure(lab, effort, timed())
        except (MeasurementError, LoxilbError, AssertionError) as error:  # the last is what a lab raises
            print(f"bench.scale: {error}", file=sys.stderr)
            return 1
    print(table(figures, missing_targets(figures, ("scale",))))
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(as_json(figures, machine=machine(), quick=given.rounds < 3), indent=1) + "\n")
    print(f"\nwritten: {given.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
