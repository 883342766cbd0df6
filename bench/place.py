# SPDX-License-Identifier: Apache-2.0
"""Where measurements run: namespaces entered by this thread, and processors."""

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from tests.support.lab import Namespace

from loxilb.kernel import netns

PREFIX = "loxb"


class MeasurementError(RuntimeError):
    """What was measured is not what was meant, so there is no figure."""


def measured_before(path: Path, command: str) -> Any:
    """Return what ``command`` has written to a file; raises MeasurementError where it did not."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise MeasurementError(f"{path} is not there: measure first ({command}), or name the file by --out") from None
    except ValueError as error:
        raise MeasurementError(f"{path} has no figures ({error}): measure again ({command})") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A network device as packets need it."""

    index: int
    mac: bytes


def device(namespace: Namespace, name: str) -> Device:
    """Look a device up in its namespace."""
    (link,) = json.loads(namespace.run("ip", "-json", "link", "show", "dev", name))
    return Device(index=link["ifindex"], mac=bytes.fromhex(link["address"].replace(":", "")))


@contextmanager
def inside(namespace: Namespace) -> Iterator[None]:
    """Have the calling thread in a namespace for a while.

    Not on a thread of its own: an interrupt reaches the main thread only, and has to end what is measured.
    """
    descriptor = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        netns.enter(str(namespace.path))
        try:
            yield
        finally:
            netns.enter(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


@contextmanager
def pinned(cpu: int) -> Iterator[None]:
    """Keep the calling thread on one processor for a while."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def processors() -> tuple[int, int]:
    """Return two processors, one for each end of a connection; the same one twice where there is no other."""
    usable = sorted(os.sched_getaffinity(0))
    return usable[0], usable[-1]


@contextmanager
def interruptible() -> Iterator[None]:
    """Leave by an exception on SIGTERM and SIGHUP as on SIGINT; the clean-up itself is not interrupted."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def leave(number: int, _frame: FrameType | None) -> None:
        for each in numbers:
            signal.signal(each, signal.SIG_IGN)
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, leave) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
