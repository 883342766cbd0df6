# SPDX-License-Identifier: Apache-2.0
"""The ASGI application: routes made from ``loxiapi.operations``, and what holds for every request.

Paths are matched as sent, so that a percent-encoded slash stays inside its segment; parameters are decoded
after.
"""

import asyncio
import posixpath
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from urllib.parse import parse_qs, unquote

import structlog
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from loxiapi import wire
from loxiapi.decode import decode_body, decode_some
from loxiapi.negotiate import check_accept, check_content_type
from loxiapi.operations import JSON_TYPE, OPERATIONS, Operation, Place
from loxiapi.refusal import RefusedError, required, too_large, unknown_path, wrong_method
from loxilb.collector import without_collector
from loxilb.errors import InvalidRequest, LoxilbError
from loxilb.model.revision import Author
from loxilb.services.api.failures import explanation_of, failure_of, fault_of
from loxilb.services.api.handlers import Call, Handler, Lines, Stream, Text

_log = structlog.get_logger(__name__)

MAX_BODY = 64 << 20
"""Largest request body in bytes: a hundred thousand rules with half a dozen endpoints each."""
_LARGE_BODY = 1 << 16
_RULE_SIZE = 128  # bytes of a short one, to guess how many there are
_LONGEST_AGENT = 120
CAUSE_HEADER = "x-loxilb-cause"
_SHARING_HEADERS = (
    (b"access-control-allow-origin", b"*"),
    (b"access-control-allow-methods", b"GET, POST, PUT, DELETE, OPTIONS"),
    (b"access-control-allow-headers", b"Content-Type, Authorization, X-Requested-With"),
    (b"access-control-allow-credentials", b"true"),
    (b"access-control-max-age", b"86400"),
)


def create_application(by_operation: Mapping[str, Handler]) -> "Application":
    """Return the application; a missing handler is a KeyError here, not at the first request."""
    paths: dict[str, dict[str, _Method]] = {}
    for operation in OPERATIONS:
        method = _Method(operation=operation, handler=by_operation[operation.name])
        paths.setdefault(operation.path, {})[operation.method] = method
    routes = [Route(path, endpoint=_Path(methods)) for path, methods in paths.items()]
    starlette = Starlette(routes=routes, exception_handlers={404: _not_found})
    starlette.router.redirect_slashes = False
    return Application(starlette)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Method:
    operation: Operation
    handler: Handler


class _Path:
    """One path: finds the method, and puts every outcome into an answer."""

    def __init__(self, methods: Mapping[str, _Method]) -> None:
        self._methods = methods

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            response = await self._respond(request)
        except ClientDisconnect:
            return
        await response(scope, receive, send)

    async def _respond(self, request: Request) -> Response:
        try:
            method = self._methods.get(request.method)
            if method is None:
                raise wrong_method(request.method, sorted(self._methods))
            answer = await method.handler(await _call_of(request, method.operation))
            if isinstance(answer, Stream):
                return await _streamed(answer)
        except RefusedError as refused:
            return _refuse(refused, self._methods)
        except LoxilbError as error:
            _log.warning("request failed", method=request.method, path=request.url.path, error=str(error))
            return _fail(failure_of(error), explanation_of(error))
        except ClientDisconnect:
            raise
        except Exception as fault:  # noqa: BLE001 a fault in one request must not end the connection of others
            _log.exception("request hit a fault", method=request.method, path=request.url.path)
            return _fail(fault_of(fault), "")
        if isinstance(answer, Lines):
            return StreamingResponse(answer.parts, media_type=answer.media)
        if isinstance(answer, Text):
            return Response(answer.content, status_code=answer.status, media_type=answer.media)
        return _json(200, wire.encode(answer) + b"\n")


async def _streamed(answer: Stream) -> Response:
    """Return a response with the length of what comes where that is one part, as others have it; else in chunks."""
    first, second = await anext(answer.parts, b""), await anext(answer.parts, None)
    if second is None:
        return _json(200, first)

    async def parts() -> AsyncIterator[bytes | memoryview]:
        async with aclosing(answer.parts):
            yield first
            yield second
            async for part in answer.parts:
                yield part

    return StreamingResponse(parts(), media_type=JSON_TYPE)


class Application:
    """What holds for every request, whatever its path: clean paths, cross-origin headers, OPTIONS.

    ``starlette`` has the routes.
    """

    def __init__(self, starlette: Starlette) -> None:
        """Serve what ``starlette`` serves."""
        self.starlette = starlette

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""

        async def send_shared(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *_SHARING_HEADERS]
            await send(message)

        if scope["type"] != "http":
            return
        if scope["method"] == "OPTIONS":
            await Response()(scope, receive, send_shared)
            return
        await self.starlette({**scope, "path": _clean(scope["raw_path"])}, receive, send_shared)


def _clean(raw_path: bytes) -> str:
    """Drop doubled and trailing slashes and dot segments; escapes stay as they are."""
    return posixpath.normpath("/" + raw_path.decode("latin-1").lstrip("/"))


async def _call_of(request: Request, operation: Operation) -> Call:
    """Check the request against ``operation``; raises RefusedError."""
    content = await _body_of(request) if operation.body else b""
    if content:
        check_content_type(request.headers.get("content-type", ""))
    if operation.media == JSON_TYPE:
        check_accept(request.headers.get("accept", ""))
    parameters = _parameters_of(request, operation)
    if operation.body is None:
        return Call(parameters=parameters, author=_author_of(request))
    if not content:
        raise required("attr")
    return Call(parameters=parameters, body=await _decoded(content, operation), author=_author_of(request))


async def _decoded(content: bytes, operation: Operation) -> wire.Wire:
    """Decode a body, a large one beside the event loop; raises RefusedError."""
    assert operation.body is not None
    if operation.many is None:
        return decode_body(content, operation.body)
    if len(content) < _LARGE_BODY:
        return decode_some(content, operation.body, operation.many)
    decode = without_collector(len(content) // _RULE_SIZE)(decode_some)
    return await asyncio.to_thread(decode, content, operation.body, operation.many)


def _author_of(request: Request) -> Author:
    """Return who asks; what the client calls itself is cut, as it is kept."""
    address = request.client.host if request.client else ""
    return Author(address=address, agent=request.headers.get("user-agent", "")[:_LONGEST_AGENT])


async def _body_of(request: Request) -> bytes:
    """Read the body, no more of it than is allowed; raises RefusedError. The server discards what follows."""
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > MAX_BODY:
        raise too_large(MAX_BODY)
    chunks, size = list[bytes](), 0
    async for chunk in request.stream():
        chunks.append(chunk)
        size += len(chunk)
        if size > MAX_BODY:
            raise too_large(MAX_BODY)
    return b"".join(chunks)


def _parameters_of(request: Request, operation: Operation) -> dict[str, object]:
    query = parse_qs(request.url.query, keep_blank_values=True)
    if operation.strict:
        _check_query(query, operation)
    found: dict[str, object] = {}
    for parameter in operation.parameters:
        if parameter.place is Place.PATH:
            text = unquote(request.path_params[parameter.name])
        else:
            text = query.get(parameter.name, [""])[-1]
            if not text:
                continue
        found[parameter.name] = parameter.parse(text)
    return found


def _check_query(query: Mapping[str, list[str]], operation: Operation) -> None:
    """Refuse parameters that ``operation`` does not have, and those without a value or with several."""
    known = {parameter.name for parameter in operation.parameters if parameter.place is Place.QUERY}
    for name, values in query.items():
        if name not in known:
            remedy = f"there are {', '.join(sorted(known))}"
            raise InvalidRequest("malformed-args error", field=name, cause="no such parameter", remedy=remedy)
        if len(values) > 1 or not values[0]:
            raise InvalidRequest("malformed-args error", field=name, cause="one value is needed")


async def _not_found(request: Request, _: Exception) -> Response:
    refused = unknown_path(request.scope["raw_path"].decode("latin-1"))
    return _json(refused.status, refused.body)


def _refuse(refused: RefusedError, methods: Mapping[str, _Method]) -> Response:
    response = _json(refused.status, refused.body)
    if refused.status == 405:
        response.headers["allow"] = ",".join(sorted(methods))
    return response


def _fail(failure: wire.Failure, cause: str) -> Response:
    response = _json(failure.code, wire.encode(failure) + b"\n")
    if cause:
        response.headers[CAUSE_HEADER] = cause.encode("ascii", "backslashreplace").decode().replace("\n", " ")
    return response


def _json(status: int, content: bytes | memoryview) -> Response:
    return Response(content, status_code=status, media_type=JSON_TYPE)
