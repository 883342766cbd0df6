# SPDX-License-Identifier: Apache-2.0
"""The traffic tool against servers that answer, hang or reset: what it reports as failed, as reset, and as a stall."""

import json
import re
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from signal import SIGTERM
from subprocess import PIPE, Popen
from typing import Any

import pytest
from bench.sockets import compile_tool

from tests.support.lab import wait_for

_PATIENCE_S = 30.0
_SECOND_NS = 1_000_000_000


@pytest.fixture(scope="module")
def tool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the tool, compiled."""
    return compile_tool(tmp_path_factory.mktemp("tool"))


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """Return a listening socket, which a test accepts from as a bad server would."""
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True, backlog=64) as made:
        made.settimeout(_PATIENCE_S)
        yield made


@contextmanager
def running(tool: Path, *words: str | int) -> Iterator[Popen[str]]:
    """Start the tool on a processor; it ends with the test."""
    with Popen([tool, "0", *map(str, words)], stdout=PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def reported(process: Popen[str]) -> dict[str, Any]:
    """Return what it reports at its end."""
    output, _ = process.communicate(timeout=_PATIENCE_S)
    found: dict[str, Any] = json.loads(output)
    return found


def heeds(process: Popen[str], signal: int) -> bool:
    """Tell whether a signal does not just end it: SigCgt of proc_pid_status(5)."""
    (caught,) = re.findall(r"^SigCgt:\s+(\w+)$", Path(f"/proc/{process.pid}/status").read_text(), re.MULTILINE)
    return bool(int(caught, 16) >> (signal - 1) & 1)


def port_of(listener: socket.socket) -> int:
    """Return the port of a listening socket."""
    port: int = listener.getsockname()[1]
    return port


def accepted(listener: socket.socket, stack: ExitStack) -> socket.socket:
    """Return the next connection, once something has come on it."""
    sock = stack.enter_context(listener.accept()[0])
    sock.settimeout(_PATIENCE_S)
    assert sock.recv(1)
    return sock


def reset(sock: socket.socket) -> None:
    """Close by reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("=ii", 1, 0))
    sock.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("kind", ["keep", "open", "bulk", "close"])
def test_what_is_answered_has_not_failed(tool: Path, kind: str, host: str) -> None:
    """Ended early as by itself."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = port_of(free)
    with running(tool, "serve", port) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == "serves\n"
        with running(tool, kind, port, "0.2/500", host) as client:
            by_itself = reported(client)
        with running(tool, kind, port, "600/500", host) as client:
            wait_for(lambda: heeds(client, SIGTERM), deadline=_PATIENCE_S)
            client.terminate()
            early = reported(client)

    assert by_itself["count"] > 0
    assert [(one["errors"], one["resets"]) for one in (by_itself, early)] == [(0, 0)] * 2


@pytest.mark.parametrize("kind", ["keep", "bulk"])
def test_an_end_before_there_is_a_connection_is_no_failure(tool: Path, kind: str) -> None:
    """The listener has no room for another one, so it waits until the end comes."""
    with (
        socket.create_server(("127.0.0.1", 0), backlog=0) as full,
        socket.create_connection(full.getsockname()),
        running(tool, kind, port_of(full), "600", "127.0.0.1") as client,
    ):
        wait_for(lambda: connecting(port_of(full)), deadline=_PATIENCE_S)
        client.terminate()
        found = reported(client)

    assert (found["count"], found["errors"]) == (0, 0)


def connecting(port: int) -> bool:
    """Tell whether somebody waits for a connection to a local port: proc_net_tcp of the kernel, state SYN_SENT."""
    return f"0100007F:{port:04X} 02" in Path("/proc/net/tcp").read_text()


@pytest.mark.parametrize(("kind", "host"), [("keep", "::1"), ("bulk", "127.0.0.1")])
def test_a_stream_that_hangs_has_failed_and_stalled(tool: Path, listener: socket.socket, kind: str, host: str) -> None:
    """Though nothing comes afterwards, and though the buffers take data for a while."""
    with ExitStack() as stack, running(tool, kind, port_of(listener), "600", host) as client:
        accepted(listener, stack)
        found = reported(client)

    assert (found["errors"], found["resets"]) == (1, 0)
    assert found["stall_ns"] >= 2 * _SECOND_NS


@pytest.mark.parametrize("kind", ["keep", "open"])
def test_the_end_does_not_hide_a_request_that_waited_for_long(tool: Path, listener: socket.socket, kind: str) -> None:
    """Interrupted after more than a second."""
    with ExitStack() as stack, running(tool, kind, port_of(listener), "600", "127.0.0.1") as client:
        sock = accepted(listener, stack)
        sock.recv(63, socket.MSG_WAITALL)
        sock.settimeout(1.2)
        with pytest.raises(TimeoutError):
            sock.recv(1)
        client.terminate()
        found = reported(client)

    assert (found["count"], found["errors"], found["resets"]) == (0, 1, 0)
    assert found["stall_ns"] >= _SECOND_NS


def close_in_order(sock: socket.socket) -> None:
    """End the connection without an answer."""
    sock.recv(63, socket.MSG_WAITALL)
    sock.close()


@pytest.mark.parametrize(("end", "resets"), [(reset, 1), (close_in_order, 0)])
def test_resets_are_told_from_other_failures(
    tool: Path, listener: socket.socket, end: Callable[[socket.socket], None], resets: int
) -> None:
    """A connection that ends without an answer has failed either way."""
    with ExitStack() as stack, running(tool, "keep", port_of(listener), "600", "127.0.0.1") as client:
        end(accepted(listener, stack))
        found = reported(client)

    assert (found["count"], found["errors"], found["resets"]) == (0, 1, resets)


def test_a_failure_is_not_taken_for_the_reset_before_it(tool: Path, listener: socket.socket) -> None:
    """Whatever the error number of the request before was."""
    with ExitStack() as stack, running(tool, "open", port_of(listener), "600", "127.0.0.1") as client:
        for end in (reset, close_in_order, close_in_order):
            end(accepted(listener, stack))
        accepted(listener, stack)  # so the others are counted
        client.terminate()
        found = reported(client)

    assert found["errors"] >= 3
    assert found["resets"] == 1


def test_resets_of_many_at_a_time_are_counted(tool: Path, listener: socket.socket) -> None:
    """Of which poll tells only that there is an error."""
    count = 50
    with ExitStack() as stack, running(tool, "close", port_of(listener), "600", "127.0.0.1") as client:
        for _ in range(count):
            reset(accepted(listener, stack))
        client.terminate()
        listener.close()
        found = reported(client)

    assert found["errors"] >= found["resets"] >= count


def test_many_at_a_time_that_are_not_answered_have_failed(tool: Path, listener: socket.socket) -> None:
    """However orderly their connections end."""
    count = 50
    with ExitStack() as stack, running(tool, "close", port_of(listener), "600", "127.0.0.1") as client:
        for _ in range(count):
            close_in_order(accepted(listener, stack))
        client.terminate()
        listener.close()
        found = reported(client)

    assert found["count"] == 0
    assert found["errors"] >= count
