# SPDX-License-Identifier: Apache-2.0
"""Network namespaces for tests: build, use, and leave nothing behind.

Names are ``<prefix><pid>-<random>-<role>``: a later session can tell leftovers of a dead one from the
namespaces of one that still runs.
"""

import json
import os
import re
import secrets
import shlex
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from loxilb.kernel import netns
from tests.support.patience import SLOWER

PREFIX = "loxt"
NAMED = Path("/run/netns")
ROOT = Path(__file__).resolve().parents[2]
BIN = ROOT / ".venv" / "bin"
_R = TypeVar("_R")


class CommandError(AssertionError):
    """A command that had to work did not; the text carries what it printed."""


def run(command: Sequence[str], *, stdin: str | None = None, timeout: float = 30, check: bool = True) -> str:
    """Run a command and return what it printed; raises CommandError."""
    patience = timeout * SLOWER
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=patience, check=False)
    if check and done.returncode != 0:
        raise CommandError(f"{shlex.join(command)}: exit {done.returncode}\n{stdin or ''}{done.stdout}{done.stderr}")
    return done.stdout


def wait_for(condition: Callable[[], _R], *, deadline: float = 5.0, what: str = "") -> _R:
    """Return the first true value of ``condition``; AssertionError after ``deadline`` seconds."""
    end = time.monotonic() + deadline * SLOWER
    while not (value := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"not within {deadline} s: {what or condition}")
        time.sleep(0.01)  # the pace of polling, not a wait for something to have happened
    return value


class Namespace:
    """One network namespace."""

    def __init__(self, name: str) -> None:
        """Create it, loopback down, as the kernel does."""
        self.name = name
        self.path = netns.path_of(name)
        run(["ip", "netns", "add", name])

    def enter_command(self, *command: str | Path) -> list[str]:
        """Return ``command`` prefixed so that it runs in this namespace, everything else as it is."""
        return ["nsenter", f"--net={self.path}", *map(str, command)]

    def run(self, *command: str | Path, stdin: str | None = None, timeout: float = 30, check: bool = True) -> str:
        """Run a command here and return what it printed; raises CommandError."""
        return run(self.enter_command(*command), stdin=stdin, timeout=timeout, check=check)

    def ip(self, *lines: str) -> None:
        """Run ip(8) commands here, in one batch."""
        run(["ip", "-n", self.name, "-batch", "-"], stdin="\n".join(lines) + "\n")

    def mac(self, device: str) -> bytes:
        """Return the address of a device."""
        (link,) = json.loads(self.run("ip", "-j", "link", "show", "dev", device))
        return bytes.fromhex(link["address"].replace(":", ""))

    def sysctl(self, **values: int | str) -> None:
        """Set sysctls; ``net__ipv4__ip_forward=1`` stands for ``net.ipv4.ip_forward=1``."""
        self.run("sysctl", "-qw", *(f"{key.replace('__', '.')}={value}" for key, value in values.items()))

    def call(self, work: Callable[..., _R], *args: Any, **kwargs: Any) -> _R:
        """Run ``work`` on a thread that lives here and return its result. Sockets it opens stay here."""
        outcome: list[_R] = []
        failure: list[BaseException] = []

        def body() -> None:
            try:
                netns.enter(str(self.path))
                outcome.append(work(*args, **kwargs))
            except BaseException as error:  # noqa: BLE001 handed to the caller's thread
                failure.append(error)

        thread = threading.Thread(target=body)
        thread.start()
        thread.join()
        if failure:
            raise failure[0]
        return outcome[0]

    def remove(self) -> None:
        """Delete it; what is in it goes with it."""
        run(["ip", "netns", "del", self.name], check=False)


class Process:
    """A program in a namespace: started, awaited by a line it prints, and ended by its own pid."""

    def __init__(self, namespace: Namespace, *command: str | Path, log: Path) -> None:
        """Start it; standard error goes to ``log``."""
        self.log = log
        self._namespace = namespace
        # A test run that was started by nohup, or in the background, ignores signals, and so would what it starts.
        ordinary = namespace.enter_command("env", "--default-signal", "PYTHONFAULTHANDLER=1", *command)
        with log.open("wb") as errors:
            self.popen = subprocess.Popen(ordinary, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=ROOT)

    def wait_line(self, pattern: str, *, deadline: float) -> str:
        """Return the first line of standard output that matches; AssertionError when none comes in time.

        A Python program that hangs then says where each of its threads is.
        """
        assert self.popen.stdout is not None
        late = threading.Timer(deadline * SLOWER, self.popen.send_signal, [signal.SIGABRT])
        late.start()
        try:
            for line in self.popen.stdout:
                if re.search(pattern, line):
                    return line.rstrip()
        finally:
            late.cancel()
        code = self.popen.wait()
        raise AssertionError(f"no line {pattern!r} in {deadline} s, exit {code}:\n{self.log.read_text()[-10_000:]}")

    def stop(self, *, deadline: float = 10.0) -> int:
        """End it with SIGTERM, with SIGKILL after ``deadline`` seconds; returns its exit code."""
        if self.popen.poll() is None:
            self.popen.terminate()
        try:
            code = self.popen.wait(deadline * SLOWER)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            code = self.popen.wait()
        if self.popen.stdout is not None:
            self.popen.stdout.close()
        return code


class Lab:
    """Namespaces and processes that go away together, also when the test fails."""

    def __init__(self, *, folder: Path, prefix: str = PREFIX) -> None:
        """Make an empty lab; logs go to ``folder``."""
        self.folder = folder
        self._tag = f"{prefix}{os.getpid()}-{secrets.token_hex(2)}"
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        """Enter."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Undo everything, last made first, and what an interrupt may have left half made."""
        self._stack.close()
        for path in NAMED.glob(f"{self._tag}-*"):
            remove_namespace(path.name)

    def undo(self, work: Callable[..., object], *args: object) -> None:
        """Have ``work`` done when the lab is left."""
        self._stack.callback(work, *args)

    def namespace(self, role: str) -> Namespace:
        """Make a namespace, loopback up, IPv6 addresses usable at once (no duplicate detection)."""
        made = Namespace(f"{self._tag}-{role}")
        self.undo(made.remove)
        made.sysctl(net__ipv6__conf__default__accept_dad=0, net__ipv6__conf__default__dad_transmits=0)
        made.ip("link set lo up")
        return made

    def link(self, one: Namespace, one_name: str, two: Namespace, two_name: str) -> None:
        """Connect two namespaces by a veth pair and bring both ends up."""
        pair = f"type veth peer name {two_name} netns {two.name}"
        run(["ip", "-batch", "-"], stdin=f"link add {one_name} netns {one.name} {pair}\n")
        one.ip(f"link set {one_name} up")
        two.ip(f"link set {two_name} up")

    def process(self, namespace: Namespace, *command: str | Path) -> Process:
        """Start a program that ends with the lab."""
        log = self.folder / f"{namespace.name}-{Path(command[0]).name}-{secrets.token_hex(2)}.log"
        made = Process(namespace, *command, log=log)
        self.undo(made.stop)
        return made


def remove_leftovers(prefix: str = PREFIX) -> list[str]:
    """Remove the namespaces and log folders of sessions that are gone; returns their names."""
    folders = Path(tempfile.gettempdir())
    removed = []
    for path in sorted([*NAMED.glob(f"{prefix}*-*"), *folders.glob(f"{prefix}*-*")]):
        owner = re.match(rf"{prefix}(\d+)-", path.name)
        if owner and not Path(f"/proc/{owner[1]}").exists():
            if path.is_dir():
                shutil.rmtree(path)
            else:
                remove_namespace(path.name)
            removed.append(path.name)
    return removed


def remove_namespace(name: str) -> None:
    """Remove one of our namespaces by name, with the processes and the load balancer that are in it."""
    for pid in run(["ip", "netns", "pids", name], check=False).split():
        with suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    if (BIN / "loxilb").exists():
        run([str(BIN / "loxilb"), "down", "--netns", name], check=False)
    run(["ip", "netns", "del", name], check=False)
