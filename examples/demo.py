# SPDX-License-Identifier: Apache-2.0
"""See it work: ``make demo``.

A client, a load balancer and three HTTP servers in network namespaces, real requests over IPv4 and IPv6, and
the same transfer through the load balancer and routed directly. Everything is gone afterwards, also after an
interrupt.
"""

import json
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType

from tests.support.lab import Lab, remove_leftovers
from tests.support.lab_star import PORT, SERVERS4, SERVERS6, Star, build, route_directly
from tests.support.traffic import ask_on, connection

PREFIX = "loxdemo"
VIP4, VIP6, WEIGHTED = "20.20.20.1", "2001::1", "20.20.20.2"
TRANSFER_PORT = 5201
TRANSFER_S = 2
_BOLD, _PLAIN = ("\033[1m", "\033[0m") if sys.stdout.isatty() else ("", "")


def heading(text: str) -> None:
    """Start a section."""
    line = f"── {text} ".ljust(100, "─")
    print(f"\n{_BOLD}{line}{_PLAIN}", flush=True)


def loxicmd(star: Star, line: str) -> None:
    """Run the command line tool, and show what is typed and what it prints."""
    print(f"$ loxicmd {line}")
    for text in star.lb.loxicmd(line).splitlines():
        print(f"  {text}")


def endpoints(addresses: tuple[str, ...], weights: tuple[int, ...] = (1, 1, 1)) -> str:
    """Return addresses as the command line takes them."""
    return ",".join(f"{address}:{weight}" for address, weight in zip(addresses, weights, strict=False))


def start(lab: Lab) -> Star:
    """Build the namespaces and start the daemon."""
    heading("Five network namespaces, and a load balancer in one of them")
    print("client 10.10.10.1, 3ffe::1  ──  lb  ──  " + "  ".join(SERVERS4) + "\n" + " " * 40 + "  ".join(SERVERS6))
    star = build(lab)
    star.lb.start()
    print(star.lb.ready_line)
    route_directly(star)
    return star


def create_services(star: Star) -> None:
    """Create the services with the command line tool."""
    heading("Three services: in turn over IPv4 and IPv6, and by weight")
    loxicmd(star, f"create lb {VIP4} --tcp=80:{PORT} --name=web --endpoints={endpoints(SERVERS4)}")
    loxicmd(star, f"create lb {VIP6} --tcp=80:{PORT} --name=web6 --endpoints={endpoints(SERVERS6)}")
    weights = endpoints(SERVERS4, (80, 15, 5))
    loxicmd(star, f"create lb {WEIGHTED} --tcp=80:{PORT} --name=weighted --select=priority --endpoints={weights}")


def send_requests(star: Star) -> None:
    """Send HTTP requests and show who answered; a balance that is wrong ends the demo."""
    heading("HTTP requests, each on a connection of its own")
    for vip in (VIP4, VIP6):
        names = star.names(vip, 80, 12)
        print(f"{vip:<12} 12 requests: {' '.join(name.removeprefix('server') for name in names)}")
        expect(names == ["server1", "server2", "server3"] * 4, "the servers did not answer in turn")
    shares = Counter(star.names(WEIGHTED, 80, 100))
    for name, weight in zip(("server1", "server2", "server3"), (80, 15, 5), strict=True):
        bar = "▇" * (shares[name] // 2)
        print(f"{WEIGHTED:<12} {name}, weight {weight:>2}: {shares[name]:>3} of 100  {bar}")
    expect(sum(shares.values()) == 100, "requests were lost")


def show_tables(star: Star) -> None:
    """Show the tables while a connection of each version is open."""
    heading("What the load balancer says, one connection of each version being open")

    def shown() -> None:
        with connection(VIP4, 80) as four, connection(VIP6, 80) as six:
            ask_on(four)
            ask_on(six)
            loxicmd(star, "get lb -o wide")
            print("$ loxicmd get ct, established only")
            for line in star.lb.loxicmd("get ct").splitlines():
                if "| est " in line or line.startswith(("| SERVICE", "|-")):
                    print(f"  {line}")

    star.client.call(shown)


def measure(star: Star) -> None:
    """Compare a transfer through the load balancer with the same routed directly."""
    heading(f"Throughput, one TCP connection for {TRANSFER_S} s")
    target = SERVERS4[0]
    star.lb.create("20.20.20.3", f"--tcp={TRANSFER_PORT}:{TRANSFER_PORT}", [f"{target}:1"])
    star.lab.process(star.servers[0], "iperf3", "--server", "--forceflush").wait_line("listening", deadline=10)
    direct, balanced = (gigabits(star, address) for address in (target, "20.20.20.3"))
    print(f"routed directly            {direct:6.2f} Gbit/s")
    print(f"through the load balancer  {balanced:6.2f} Gbit/s  ({balanced / direct:.2f} of direct)")


def gigabits(star: Star, address: str) -> float:
    """Return what iperf3 received in Gbit/s."""
    command = ("iperf3", "--client", address, "--time", str(TRANSFER_S), "--json")
    report = json.loads(star.client.run(*command))
    return float(report["end"]["sum_received"]["bits_per_second"]) / 1e9


def expect(condition: bool, complaint: str) -> None:
    """End the demo when it does not show what it says."""
    if not condition:
        raise SystemExit(f"demo failed: {complaint}")


@contextmanager
def interruptible() -> Iterator[None]:
    """Leave by an exception on SIGTERM and SIGHUP as on SIGINT; the clean-up itself is not interrupted."""

    def leave(number: int, _frame: FrameType | None) -> None:
        for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(each, signal.SIG_IGN)
        print("\ninterrupted: cleaning up")
        raise SystemExit(128 + number)

    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, leave)
    yield


def main() -> None:
    """Run the demo."""
    if os.geteuid() != 0:
        raise SystemExit("network namespaces need root: sudo make demo")
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    began = time.monotonic()
    sections: tuple[Callable[[Star], None], ...] = (create_services, send_requests, show_tables, measure)
    with ExitStack() as stack:
        stack.enter_context(interruptible())
        remove_leftovers(PREFIX)
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix=f"{PREFIX}{os.getpid()}-"))
        star = start(stack.enter_context(Lab(folder=Path(folder), prefix=PREFIX)))
        for section in sections:
            section(star)
        heading("Clean-up")
    print(f"everything removed; {time.monotonic() - began:.0f} s in all")


if __name__ == "__main__":
    main()
