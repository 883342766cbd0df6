# SPDX-License-Identifier: Apache-2.0
"""The server itself: segments on the wire, addresses, faults, start and stop."""

import asyncio
import contextlib
import errno
import hashlib
import http.client
import io
import socket
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from typing import cast

import pytest
import uvicorn
import uvloop
from starlette.types import Send
from uvicorn.server import ServerState

from loxilb.errors import KernelError
from loxilb.ports import ServiceStatus
from loxilb.services.api import ApiServer
from loxilb.services.api.application import MAX_BODY
from loxilb.services.api.joining import JoiningProtocol, JoiningTransport
from loxilb.services.reconcile import Reconciler
from tests.support.api import (
    BUILD,
    MemoryLogLevel,
    ShownConfiguration,
    fake_kernel_api,
    health_over,
    live_api,
    loop_thread,
    metrics_over,
    packets_over,
)

_DATA_SEGMENTS_IN = 152  # offset of tcpi_data_segs_in in struct tcp_info (linux/tcp.h)
_DEADLINE_S = 20


class _FaultyConfiguration(ShownConfiguration):
    async def services(self) -> Sequence[ServiceStatus]:
        raise ZeroDivisionError("on purpose")


@pytest.mark.parametrize("body", [None, b"{"])
def test_header_and_body_arrive_in_one_segment(body: bytes | None) -> None:
    """The original command line fails when they arrive apart; the kernel counts the segments."""
    with fake_kernel_api() as api, socket.create_connection(api.address, timeout=_DEADLINE_S) as connection:
        for answers in (1, 2, 3):
            if body is None:
                connection.sendall(b"GET /netlox/v1/version HTTP/1.1\r\nHost: x\r\n\r\n")
            else:
                head = b"POST /netlox/v1/config/params HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                connection.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            content = _read_answer(connection)
            info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)

            assert content.startswith(b"{")
            assert int.from_bytes(info[_DATA_SEGMENTS_IN : _DATA_SEGMENTS_IN + 4], "little") == answers


def test_last_answer_of_a_connection_is_whole() -> None:
    """A client that asks to close gets header and body before the end."""
    with fake_kernel_api() as api, socket.create_connection(api.address, timeout=_DEADLINE_S) as connection:
        connection.sendall(b"GET /netlox/v1/version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        content = b"".join(iter(lambda: connection.recv(65536), b""))

    assert content.startswith(b"HTTP/1.1 200 OK\r\n")
    assert content.endswith(b'"version":"0.9.8-dev"}\n')


def _read_answer(connection: socket.socket) -> bytes:
    response = http.client.HTTPResponse(connection)
    with contextlib.closing(response):
        response.begin()
        return response.read()


def test_large_parts_are_written_without_a_copy() -> None:
    """In chunks like the small ones."""
    parts: list[bytes | memoryview] = [b"small", memoryview(bytes(1 << 16)), b"x" * 100_000, b"end"]
    transport = _Transport()

    async def application(_scope: object, _receive: object, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for part in parts:
            await send({"type": "http.response.body", "body": part, "more_body": part != b"end"})

    async def serve() -> None:
        config = uvicorn.Config(application, lifespan="off", log_config=None)
        protocol = JoiningProtocol(config, ServerState(), {})
        protocol.connection_made(transport)
        protocol.data_received(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        await asyncio.gather(*protocol.tasks)

    asyncio.run(serve())
    with contextlib.closing(http.client.HTTPResponse(cast(socket.socket, transport))) as response:
        response.begin()
        assert response.read() == b"".join(parts)
    assert {id(parts[1]), id(parts[2])} <= set(map(id, transport.written))


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_large_parts_reach_a_slow_client_whole(run: Callable[[Coroutine[None, None, None]], None]) -> None:
    """The kernel takes some of them at once, and the transport what is left, in order."""
    ours, theirs = socket.socketpair()
    sent = [hashlib.shake_256(bytes([number])).digest(1 << 18) for number in range(12)]

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.connect_accepted_socket(_Closing, ours)
        joining = JoiningTransport(transport, loop)
        for part in sent:
            joining.writelines([part[:9], part[9:]])
            await asyncio.sleep(0)
        joining.close()
        await protocol.closed.wait()

    with theirs, ThreadPoolExecutor(1) as pool:
        received = pool.submit(_all_from, theirs)
        run(serve())
        assert received.result() == b"".join(sent)


class _Closing(asyncio.Protocol):
    """Tells when its connection is closed."""

    def __init__(self) -> None:
        self.closed = asyncio.Event()

    def connection_lost(self, _error: Exception | None) -> None:
        self.closed.set()


def _all_from(sock: socket.socket) -> bytes:
    sock.settimeout(_DEADLINE_S)
    return b"".join(iter(lambda: sock.recv(5000), b""))


@pytest.mark.parametrize(("encrypts", "queued"), [(True, 0), (False, 1)])
def test_nothing_gets_past_a_transport_that_encrypts_or_has_something_queued(encrypts: bool, queued: int) -> None:
    """What is large does not, either."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        transport = _Transport({"socket": ours, "sslcontext": encrypts or None}, queued)

        async def write() -> None:
            JoiningTransport(transport, asyncio.get_running_loop()).write(bytes(1 << 20))
            await asyncio.sleep(0)

        asyncio.run(write())
        assert transport.written == [bytes(1 << 20)]
        with pytest.raises(BlockingIOError):
            theirs.recv(1)


class _Transport(asyncio.Transport):
    """Keeps what is written, and shows it as a socket would."""

    def __init__(self, extra: Mapping[str, object] | None = None, queued: int = 0) -> None:
        super().__init__(extra)
        self.written: list[object] = []
        self._queued = queued

    def get_write_buffer_size(self) -> int:
        return self._queued

    def writelines(self, list_of_data: Iterable[object]) -> None:
        self.written += list_of_data

    def is_closing(self) -> bool:
        return False

    def close(self) -> None:
        pass

    def makefile(self, _mode: str) -> io.BytesIO:
        return io.BytesIO(b"".join(cast(list[bytes], self.written)))


def test_fault_in_a_handler_is_an_answer() -> None:
    """500 with a JSON body, and the next request is served on the same connection."""
    configuration = _FaultyConfiguration()
    try:
        with live_api(configuration) as api:
            connection = http.client.HTTPConnection(*api.address, timeout=_DEADLINE_S)
            connection.request("GET", "/netlox/v1/config/loadbalancer/all")
            failed = connection.getresponse()
            body = failed.read()
            connection.request("GET", "/netlox/v1/version")
            status = connection.getresponse().status
            connection.close()
    finally:
        configuration.close()

    text = "internal error: ZeroDivisionError: on purpose"
    assert failed.status == 500
    assert body.decode() == f'{{"code":500,"fields":null,"message":"{text}","result":"{text}"}}\n'
    assert status == 200


def test_ipv6_address_is_served() -> None:
    """An address in brackets is one without."""
    configuration = ShownConfiguration()
    try:
        with live_api(configuration, host="[::1]") as api:
            assert api.address[0] == "::1"
            assert api.request("GET", "/netlox/v1/version").status == 200
    finally:
        configuration.close()


def test_address_in_use_is_told_with_a_remedy() -> None:
    """The error names address and port, and the server can be started again on another one."""
    configuration = ShownConfiguration()
    try:
        with live_api(configuration) as api, loop_thread() as run:
            second = ApiServer(
                configuration=configuration,
                endpoints=(health := health_over(configuration)),
                log_level=MemoryLogLevel(),
                metrics=metrics_over(configuration, health),
                packets=packets_over(configuration),
                reconciler=Reconciler(),
                build=BUILD,
                at=("127.0.0.1", api.address[1]),
            )
            with pytest.raises(KernelError, match=rf"listen on 127.0.0.1 port {api.address[1]}: EADDRINUSE"):
                run(second.start())
            with pytest.raises(RuntimeError):
                assert second.address
    finally:
        configuration.close()


def test_a_server_that_cannot_serve_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """The port was free, but the server ends before it serves: start neither waits forever nor keeps the port."""

    async def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, "no descriptor left")

    configuration = ShownConfiguration()
    monkeypatch.setattr(uvicorn.Server, "startup", refuse)
    try:
        with loop_thread() as run:
            server = ApiServer(
                configuration=configuration,
                endpoints=(health := health_over(configuration)),
                log_level=MemoryLogLevel(),
                metrics=metrics_over(configuration, health),
                packets=packets_over(configuration),
                reconciler=Reconciler(),
                build=BUILD,
                at=("127.0.0.1", 0),
            )
            with pytest.raises(KernelError, match=r"serve the API on 127.0.0.1 port 0: EMFILE.*no descriptor left"):
                run(server.start())
            run(server.stop())
    finally:
        configuration.close()


@pytest.mark.parametrize("announced", [True, False], ids=["announced", "in chunks"])
def test_a_body_that_is_too_large_is_refused(announced: bool) -> None:
    """With its limit, before it is in memory; the connection goes on."""
    chunk = b" " * (1 << 20)
    body = b"".join(repeat(chunk, 65)) if announced else repeat(chunk, 65)
    with fake_kernel_api() as api:
        connection = http.client.HTTPConnection(*api.address, timeout=_DEADLINE_S)
        headers = {"Content-Type": "application/json"}
        connection.request("POST", "/netlox/v1/config/loadbalancer", body, headers, encode_chunked=not announced)
        refused = connection.getresponse()
        content = refused.read()
        connection.request("GET", "/netlox/v1/version")
        status = connection.getresponse().status
        connection.close()

    assert refused.status == 413
    assert content == b'{"code":413,"message":"body is larger than 67108864 bytes, send it in parts"}'
    assert status == 200


def test_a_body_of_ten_thousand_rules_is_not_too_large() -> None:
    """A rule with a dozen endpoints, members in the original's spelling, ten thousand times."""
    endpoint = '{"endpointIP":"192.168.100.100","targetPort":32015,"weight":1,"state":"","counter":""}'
    rule = f'{{"serviceArguments":{{"externalIP":"192.168.100.100","port":55003}},"endpoints":[{endpoint * 12}]}}'

    assert 10_000 * len(rule) < MAX_BODY


def test_stopped_server_listens_no_more() -> None:
    """The port is free again after ``stop``, and can be taken at once."""
    configuration = ShownConfiguration()
    try:
        with live_api(configuration) as api:
            address = api.address
            assert api.request("GET", "/netlox/v1/version").status == 200
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address, timeout=_DEADLINE_S)
    finally:
        configuration.close()


def test_client_that_goes_away_is_no_fault() -> None:
    """A body that never arrives is neither answered nor logged as a fault."""
    head = b"POST /netlox/v1/config/params HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    with fake_kernel_api() as api:
        for _ in range(3):
            with socket.create_connection(api.address, timeout=_DEADLINE_S) as connection:
                connection.sendall(head + b"Content-Length: 100\r\n\r\n{")
        assert api.request("GET", "/netlox/v1/version").status == 200

    assert [log for log in api.logs if log["log_level"] in ("error", "warning")] == []
