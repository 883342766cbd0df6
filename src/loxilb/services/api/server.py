# SPDX-License-Identifier: Apache-2.0
"""Serving the API inside the daemon's event loop."""

import asyncio
import contextlib
import errno
import socket
from collections.abc import Iterator

import uvicorn

from loxilb.errors import KernelError
from loxilb.ports import Configuration, Endpoints, MetricsPage, Packets, Reconciling
from loxilb.services.api.application import create_application
from loxilb.services.api.handlers import BuildInfo, Handlers, LogLevel
from loxilb.services.api.joining import JoiningProtocol
from loxilb.services.api.metrics import MetricsHandlers
from loxilb.services.api.packets import PacketHandlers
from loxilb.services.api.status import StatusHandlers

_BACKLOG = 1024
_IDLE_S = 10
_GRACE_S = 5


class _Server(uvicorn.Server):
    """A server that leaves signals to the daemon and says when it serves."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.serving = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self.serving.set()


class ApiServer:
    """The REST API on one address, inside the event loop that is running."""

    def __init__(
        self,
        *,
        configuration: Configuration,
        endpoints: Endpoints,
        log_level: LogLevel,
        metrics: MetricsPage,
        packets: Packets,
        reconciler: Reconciling,
        build: BuildInfo,
        at: tuple[str, int],
    ) -> None:
        """Keep what to serve, and ``at`` which host and port; 0 takes a free one. Nothing listens before ``start``."""
        handlers = Handlers(configuration=configuration, endpoints=endpoints, log_level=log_level, build=build)
        self._application = create_application(
            {
                **handlers.by_operation(),
                **MetricsHandlers(metrics).by_operation(),
                **PacketHandlers(packets).by_operation(),
                **StatusHandlers(reconciler).by_operation(),
            }
        )
        self._host = at[0].strip("[]")
        self._port = at[1]
        self._address: tuple[str, int] | None = None
        self._server: _Server | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def address(self) -> tuple[str, int]:
        """Address and port that are listened on; only after ``start``."""
        if self._address is None:
            raise RuntimeError("the API server is not started")
        return self._address

    async def start(self) -> None:
        """Listen and serve; returns when requests are answered. Raises KernelError where it cannot listen."""
        listener = _listen(self._host, self._port)
        config = uvicorn.Config(
            self._application,
            http=JoiningProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=_IDLE_S,
            timeout_graceful_shutdown=_GRACE_S,
        )
        self._server = _Server(config)
        self._address = listener.getsockname()[:2]
        self._task = asyncio.create_task(self._server.serve(sockets=[listener]), name="api")
        try:
            await _until_serving(self._server, self._task, f"{self._host} port {self._port}")
        except KernelError:
            listener.close()
            self._server = self._task = self._address = None
            raise

    async def stop(self) -> None:
        """Stop listening, let running requests end, and close; does nothing when not started."""
        if self._server is None or self._task is None:
            return
        self._server.should_exit = True
        await self._task
        self._server = self._task = self._address = None


async def _until_serving(server: _Server, task: asyncio.Task[None], where: str) -> None:
    """Wait until requests are answered; raises KernelError where the server ends instead."""
    serving = asyncio.create_task(server.serving.wait())
    await asyncio.wait((serving, task), return_when=asyncio.FIRST_COMPLETED)
    serving.cancel()
    if not task.done():
        return
    error = task.exception()
    raise KernelError(
        f"serve the API on {where}",
        (error.errno if isinstance(error, OSError) else None) or errno.EIO,
        detail=str(error or "it ended at once"),
        remedy="choose another address with --host and --port",
    ) from error


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise KernelError(
            f"listen on {host} port {port}",
            error.errno or 0,
            detail=error.strerror or str(error),
            remedy="choose a free address with --host and --port, or stop what listens there",
        ) from error
