# SPDX-License-Identifier: Apache-2.0
"""Times on the wire."""

from datetime import UTC, datetime


def shown_time(time: float) -> str:
    """Return seconds since 1970 as in RFC 3339, UTC, with milliseconds."""
    return datetime.fromtimestamp(time, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
