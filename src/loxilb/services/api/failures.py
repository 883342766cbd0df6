# SPDX-License-Identifier: Apache-2.0
"""Failures as answers: error text to HTTP status, in the contract's order of evaluation."""

from msgspec.structs import fields

from loxiapi import wire
from loxilb.errors import Conflict, InvalidRequest, LoxilbError, NotBuilt, NotFound, StoreError

_MESSAGES = {
    400: "Malformed arguments for API call",
    401: "Invalid authentication credentials",
    403: "Capacity insufficient",
    404: "Resource not found",
    409: "Resource conflict: Resource already exists OR dependency not found",
    501: "Not built",
    503: "Maintenance mode",
}

_LIST = fields(wire.LoadBalancerList)[0].encode_name

# A text belongs to the first status with a fragment that it contains, whatever the case of its letters.
_FRAGMENTS: tuple[tuple[int, tuple[str, ...]], ...] = (
    (404, ("no-rule error", "not-exists error", "notfound error", "not found", "no such ")),
    (401, ("invalid token", "token is expired")),
    (409, ("exists error", "lbrule-exist error", "file exists", "secip modify error")),
    (
        400,
        (
            "malformed-",
            "endpoints-range error",
            "service-args error",
            "serv-port-args range error",
            "secondaryip-args ",
            "non-udp-n3-args error",
            "hostarm-args error",
            "rule-allowed-src error",
            "rule-mark error",
            "rule-snat error",
            "only hash selection criteria allowed for dsr mode",
        ),
    ),
    (403, ("rule-hwm error", "running in bgp only mode", "loxilb bgp mode is disabled")),
    (503, ("not-ready", "timeout", "maintenance")),
    (500, ("proxy-proto-v2 not tcp service error",)),
)


def status_of(error: LoxilbError) -> int:
    """Return the HTTP status for ``error``; what the contract does not list goes by the error's class."""
    if isinstance(error, NotBuilt):
        return 501
    if isinstance(error, StoreError):
        return 503
    if not isinstance(error, InvalidRequest):
        return 500
    text = error.code.lower()
    for status, fragments in _FRAGMENTS:
        if any(fragment in text for fragment in fragments):
            return status
    if isinstance(error, NotFound):
        return 404
    return 409 if isinstance(error, Conflict) else 400


def failure_of(error: LoxilbError) -> wire.Failure:
    """Return the body for ``error``.

    ``result`` is the text that clients match on; where the contract has none (not built, kernel errors) it is
    the cause with its remedy.
    """
    status = status_of(error)
    result = _result_of(error)
    return wire.Failure(code=status, fields=None, message=_MESSAGES.get(status, result), result=result)


def _result_of(error: LoxilbError) -> str:
    if not isinstance(error, InvalidRequest):
        return str(error)
    return _placed(error, f"{error.code}: {error}" if isinstance(error, NotBuilt) else error.code)


def _placed(error: InvalidRequest, text: str) -> str:
    """Say which of a list an error is about."""
    return text if error.index is None else f"{_LIST}.{error.index}: {text}"


def explanation_of(error: LoxilbError) -> str:
    """Return what a client cannot see from the body: the field, the cause and the remedy; "" for nothing."""
    text = str(error)
    if not isinstance(error, InvalidRequest) or isinstance(error, NotBuilt):
        return ""  # the body says it all
    return "" if text in (error.code, error.field) else _placed(error, text)


def fault_of(error: Exception) -> wire.Failure:
    """Return the body for a fault of the program itself."""
    text = f"internal error: {type(error).__name__}: {error}"
    return wire.Failure(code=500, fields=None, message=text, result=text)
