# SPDX-License-Identifier: Apache-2.0
"""Content negotiation (RFC 9110 §8.3, §12.5.1) as far as an API that speaks only JSON needs it."""

from loxiapi.operations import JSON_TYPE
from loxiapi.refusal import RefusedError, quoted

_DEFAULT_TYPE = "application/octet-stream"  # RFC 9110 §8.3 allows to assume it where none is given
_ACCEPTABLE = frozenset({"*/*", "application/*", JSON_TYPE})


def check_content_type(header: str) -> None:
    """Refuse (415) a request body that is not declared as JSON; ``header`` is "" when absent."""
    media_type = header.partition(";")[0].strip().lower() or _DEFAULT_TYPE
    if media_type != JSON_TYPE:
        raise RefusedError(415, f"unsupported media type {quoted(media_type)}, only [{JSON_TYPE}] are allowed")


def check_accept(header: str) -> None:
    """Refuse (406) a client that takes no JSON; ``header`` is "" when absent."""
    ranges = [_media_range(part) for part in header.split(",") if part.strip()]
    if ranges and not any(name in _ACCEPTABLE and quality > 0 for name, quality in ranges):
        raise RefusedError(406, f"unsupported media type requested, only [{JSON_TYPE}] are available")


def _media_range(text: str) -> tuple[str, float]:
    name, *parameters = (part.strip() for part in text.split(";"))
    return name.lower(), next((_quality(p[2:]) for p in parameters if p[:2].lower() == "q="), 1.0)


def _quality(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0
