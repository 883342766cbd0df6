# SPDX-License-Identifier: Apache-2.0
"""What clients notice of a restart: ``python -m bench.restart``, see docs/reliability.md.

Client, load balancer and three servers in namespaces over veth. While requests on open connections, new connections and
bulk transfers go through, IPv4 and IPv6 at once, the daemon is killed, stopped, or replaced by another build of its
programs, and started again; or nothing is done, for as long: that is what the machine itself costs. Counters, flows,
turns and least connections must go on from where they were.

The traffic tools go before everything else on the machine (real-time priority), at a rate that leaves most of it idle.
So what is measured is the path of the packets, not who gets a processor.
"""

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.support.builds import another_build
from tests.support.continuity import Quiet, State
from tests.support.lab import ROOT, Lab, Namespace, Process, remove_leftovers
from tests.support.lab_star import PORT, SERVERS4, SERVERS6, build, evenly, take_frames

from bench.machine import machine
from bench.outage import BEGIN, Noticed, Run, as_json, from_json, table
from bench.place import PREFIX, MeasurementError, interruptible, measured_before, processors
from bench.report import replace_figures
from bench.say import timed
from bench.sockets import compile_tool
from loxilb.errors import LoxilbError

_LOADED, _IN_TURN, _LEAST = 5000, 5001, 5002
_VIPS = {"20.20.20.1": SERVERS4, "2001::1": SERVERS6}
_RATES = {"keep": 500, "open": 250, "bulk": 250}
_ENDLESS_S, _BEFORE_S = 600, 0.5
_AFTER_S = 3.0  # what hangs has failed by then: the tool waits for two seconds
_WAYS = ("undisturbed", "killed", "stopped", "replaced")
_SCRATCH = ROOT / "build" / "bench"
_DOCUMENT = ROOT / "docs" / "reliability.md"


class Bed:
    """A load balancer with services, the streams through it, and the ways to restart it."""

    def __init__(self, lab: Lab, tool: Path, newer: Path, hook: str) -> None:
        """Build everything and start the first daemon."""
        self._lab, self._tool, self._newer, self._hook = lab, tool, newer, hook
        self._flags = ("--xdp", "on" if hook == "xdp" else "off", "--loglevel", "error")
        self._other_build = False
        self._took = 0.0
        self.star = build(lab)
        if hook == "xdp":
            take_frames(self.star.client, *self.star.servers)
        for namespace in self.star.servers:
            namespace.sysctl(net__ipv4__tcp_max_tw_buckets=0)
            self._run(namespace, "serve", str(_LOADED)).wait_line("serves", deadline=10)
        self.star.lb.start(*self._flags)
        for vip, servers in _VIPS.items():
            for rule in (f"{_LOADED}:{_LOADED}", f"{_IN_TURN}:{PORT}", f"{_LEAST}:{PORT} --select=lc"):
                self.star.lb.create(vip, f"--tcp={rule}", evenly(servers))

    def _run(self, namespace: Namespace, *words: str) -> Process:
        cpu = processors()[words[0] != "serve"]
        return self._lab.process(namespace, "chrt", "--rr", "1", self._tool, str(cpu), *words)

    def run(self, way: str, quiet: Quiet) -> Run:
        """Restart the daemon one way under load; MeasurementError when anything does not go on where it was."""
        before = State.of(self.star)
        with self._streams() as noticed:
            began = time.monotonic()
            self._restart(way)
            took = time.monotonic() - began
        quiet.check()
        back = State.of(self.star).went_back(before, quiet.flows())
        if back:
            raise MeasurementError(f"{way}: {len(back)} counters or flows went back: {back[0]}")
        return Run(hook=self._hook, way=way, took=took, noticed=tuple(noticed))

    def _restart(self, way: str) -> None:
        """Restart, or do nothing for as long as the latest restart took."""
        lb = self.star.lb
        if way == "undisturbed":
            time.sleep(self._took)
            return
        began = time.monotonic()
        (lb.kill if way == "killed" else lb.stop)()
        # Each replacement changes the build; what follows it goes on with that one.
        self._other_build ^= way == "replaced"
        lb.start(*self._flags, build=self._newer if self._other_build else None)
        self._took = time.monotonic() - began

    @contextmanager
    def _streams(self) -> Iterator[list[Noticed]]:
        """Run every stream, some time before and after too; the list is filled at the end."""
        noticed: list[Noticed] = []
        streams = {
            (kind, vip): self._run(self.star.client, kind, str(_LOADED), f"{_ENDLESS_S}/{rate}", vip)
            for kind, rate in _RATES.items()
            for vip in _VIPS
        }
        time.sleep(_BEFORE_S)
        yield noticed
        time.sleep(_AFTER_S)
        for stream in streams.values():
            stream.popen.send_signal(signal.SIGTERM)
        noticed += [_noticed(kind, vip, stream) for (kind, vip), stream in streams.items()]


def _noticed(kind: str, vip: str, stream: Process) -> Noticed:
    """Read what a stream reports at its end; MeasurementError when it reports nothing."""
    output, _ = stream.popen.communicate(timeout=30)
    if stream.popen.returncode:
        raise MeasurementError(f"{kind} {vip}: exit {stream.popen.returncode}: {stream.log.read_text()}")
    seen = json.loads(output)
    return Noticed(
        kind=kind,
        version=6 if ":" in vip else 4,
        count=seen["count"],
        failed=seen["errors"],
        resets=seen["resets"],
        stall=seen["stall_ns"] / 1e6,
    )


def measure(hook: str, rounds: int, tool: Path, newer: Path, say: Callable[[str], None]) -> list[Run]:
    """Measure every way so many times, in turns."""
    with tempfile.TemporaryDirectory(dir=_SCRATCH) as folder, Lab(folder=Path(folder), prefix=PREFIX) as lab:
        say(f"{hook}: building namespaces")
        bed = Bed(lab, tool, newer, hook)

        def work() -> list[Run]:
            runs: list[Run] = []
            with ExitStack() as stack:
                quiet = Quiet(list(_VIPS), _IN_TURN, _LEAST, stack)
                bed.run("killed", quiet)  # how long a restart takes, for the first undisturbed run
                for number in range(rounds):
                    say(f"{hook}: round {number + 1} of {rounds}")
                    runs += [bed.run(way, quiet) for way in _WAYS]
            return runs

        return bed.star.client.call(work)


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.restart",
        description="Restart the daemon under load and count what clients notice: a table, and JSON.",
        epilog="A stall does not change the exit code; a failed request, a reset or a lost count does.",
    )
    parser.add_argument("--rounds", type=int, default=5, help="restarts of each way and hook (default 5)")
    parser.add_argument("--out", type=Path, default=Path("build/restart.json"))
    parser.add_argument("--document", action="store_true", help="measure nothing; put --out into docs/reliability.md")
    return parser.parse_args(words)


def _measured(rounds: int) -> list[Run]:
    say = timed()
    _SCRATCH.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=_SCRATCH) as folder:
        say("compiling the traffic tool and another build")
        tool, newer = compile_tool(Path(folder)), another_build(Path(folder) / "newer")
        return [run for hook in ("tc", "xdp") for run in measure(hook, rounds, tool, newer, say)]


def main(words: Sequence[str] | None = None) -> int:
    """Measure and report; returns the exit code."""
    given = _arguments(words)
    if given.document:
        try:
            runs = from_json(measured_before(given.out, "sudo make bench-restart"))
        except MeasurementError as error:
            print(f"bench.restart: {error}", file=sys.stderr)
            return 1
        _DOCUMENT.write_text(replace_figures(_DOCUMENT.read_text(), BEGIN, table(runs)))
        return 0
    if os.geteuid() != 0 or shutil.which("chrt") is None:
        print("network namespaces need root, and chrt of util-linux: sudo make bench-restart", file=sys.stderr)
        return 1
    with interruptible():
        remove_leftovers(PREFIX)
        try:
            runs = _measured(given.rounds)
        except (MeasurementError, LoxilbError, AssertionError) as error:  # the last is what a lab raises
            print(f"bench.restart: {error}", file=sys.stderr)
            return 1
    print(table(runs))
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(as_json(runs, machine()), indent=1) + "\n")
    print(f"\nwritten: {given.out}")
    return int(any(one.failed for run in runs for one in run.noticed))


if __name__ == "__main__":
    sys.exit(main())
