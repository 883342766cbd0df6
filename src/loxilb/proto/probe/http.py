# SPDX-License-Identifier: Apache-2.0
"""One GET request (RFC 9110, 9112) and the verdict on its response."""

from urllib.parse import quote

import httptools

from loxilb.model import IPAddress

MAX_BODY = 1 << 16
_DEFAULT_PORTS = (80, 443)
_SAFE = "/?&=%:@!$'()*+,;~-._"


def get_request(address: IPAddress, port: int, path: str) -> bytes:
    """Return the request; what may not stand in a target is percent-encoded, so a path cannot add lines."""
    host = f"[{address}]" if address.version == 6 else str(address)
    authority = host if port in _DEFAULT_PORTS else f"{host}:{port}"
    target = "/" + quote(path.lstrip("/"), safe=_SAFE)
    lines = (f"GET {target} HTTP/1.1", f"Host: {authority}", "User-Agent: loxilb", "Accept: */*", "Connection: close")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("ascii")


class Response:
    """A response in the making: feed it what comes until ``complete``, or until the server closes."""

    def __init__(self) -> None:
        """Start with nothing."""
        self.complete = False
        self._headers_done = False
        self._body = bytearray()
        self._parser = httptools.HttpResponseParser(self)

    def feed(self, data: bytes) -> None:
        """Take some bytes; raises ValueError for what is no HTTP, or too long."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            raise ValueError(f"no HTTP response: {error}") from error
        if len(self._body) > MAX_BODY:
            raise ValueError(f"a body of more than {MAX_BODY} bytes")

    def fault(self, expected: str) -> str:
        """Say what is wrong with the response, "" for nothing; call it once nothing more comes.

        The status must be 200 to 399; ``expected`` must be the body but for line ends after it, "" takes any.
        """
        if not self._headers_done:
            return "closed before a response came"
        status = self._parser.get_status_code()
        if not 200 <= status < 400:
            return f"status {status}"
        if expected and bytes(self._body).rstrip(b"\r\n") != expected.encode().rstrip(b"\r\n"):
            return "another body than expected"
        return ""

    # What the parser calls

    def on_headers_complete(self) -> None:
        """Note that the status is known."""
        self._headers_done = True

    def on_body(self, body: bytes) -> None:
        """Keep a part of the body, in excess of the limit only once."""
        if len(self._body) <= MAX_BODY:
            self._body += body

    def on_message_complete(self) -> None:
        """Note that nothing more comes."""
        self.complete = True
