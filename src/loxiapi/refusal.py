# SPDX-License-Identifier: Apache-2.0
"""Refusals of requests that break the contract, in the words of the contract."""

from collections.abc import Sequence

from loxiapi.wire import Refusal, encode

REQUIRED = 602
ENUM = 606
INVALID_TYPE = 601
_FIRST_VALIDATION_CODE = 600
_CONTENT_TOO_LARGE = 413
_UNPROCESSABLE = 422


class RefusedError(Exception):
    """A request that the contract refuses before anything looks at its meaning.

    ``code`` is the number in the body, ``status`` the HTTP status (422 for the validation codes from 600 on).
    """

    def __init__(self, code: int, message: str) -> None:
        """Keep ``code`` and ``message``."""
        super().__init__(message)
        self.code = code
        self.message = message

    @property
    def status(self) -> int:
        """HTTP status of the answer."""
        return _UNPROCESSABLE if self.code >= _FIRST_VALIDATION_CODE else self.code

    @property
    def body(self) -> bytes:
        """Body of the answer, without a newline as recorded."""
        return encode(Refusal(code=self.code, message=self.message))


def required(name: str) -> RefusedError:
    """Refuse a body without member ``name``."""
    return RefusedError(REQUIRED, f"{name} in body is required")


def not_one_of(name: str, values: Sequence[object]) -> RefusedError:
    """Refuse a member whose value is not one of ``values``."""
    return RefusedError(ENUM, f"{name} in body should be one of [{' '.join(map(str, values))}]")


def unparsable(reason: str) -> RefusedError:
    """Refuse a body that does not decode."""
    return RefusedError(400, f'parsing attr body from "" failed, because {reason}')


def too_large(limit: int) -> RefusedError:
    """Refuse a body of more than ``limit`` bytes (RFC 9110 section 15.5.14)."""
    return RefusedError(_CONTENT_TOO_LARGE, f"body is larger than {limit} bytes, send it in parts")


def wrong_type(name: str, where: str, expected: str, text: str) -> RefusedError:
    """Refuse a path or query parameter that does not parse."""
    return RefusedError(INVALID_TYPE, f"{name} in {where} must be of type {expected}: {quoted(text)}")


def unknown_path(path: str) -> RefusedError:
    """Refuse a path that names no operation."""
    return RefusedError(404, f"path {path} was not found")


def wrong_method(method: str, allowed: Sequence[str]) -> RefusedError:
    """Refuse a method that a known path does not have."""
    return RefusedError(405, f"method {method} is not allowed, but [{','.join(allowed)}] are")


def quoted(text: str) -> str:
    """Quote ``text`` in double quotes as the contract's error texts do."""
    named = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
    return '"' + "".join(named.get(c) or (c if c.isprintable() else _escaped(c)) for c in text) + '"'


def _escaped(character: str) -> str:
    code = ord(character)
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
