# SPDX-License-Identifier: Apache-2.0
"""Scalar types of the wire schema.

Each carries the name of the Go type that the contract's error texts speak of (``go``), its range, and where
it has a closed set of values, that set (``enum``). Both the decoder and the OpenAPI document read these
declarations.
"""

from collections.abc import Sequence
from typing import Annotated, Any

from msgspec import Meta


def _integer(go: str, low: int, high: int) -> Meta:
    return Meta(ge=low, le=high, extra={"go": go}, extra_json_schema={"format": go})


Int32 = Annotated[int, _integer("int32", -(2**31), 2**31 - 1)]
Int64 = Annotated[int, _integer("int64", -(2**63), 2**63 - 1)]
Uint16 = Annotated[int, _integer("uint16", 0, 2**16 - 1)]
Uint32 = Annotated[int, _integer("uint32", 0, 2**32 - 1)]


def one_of(*values: Any, also: Sequence[Any] = ()) -> Meta:
    """Restrict a field to ``values``.

    ``also`` lists values that are accepted but not named in the error text. A zero value ("" or 0) counts as
    "not given" and is always accepted.
    """
    accepted = [*values, *also]
    zero = type(values[0])()
    listed = accepted if zero in accepted else [zero, *accepted]
    return Meta(extra={"enum": values, "also": tuple(also)}, extra_json_schema={"enum": listed})


def about(text: str) -> Meta:
    """Attach a description for the OpenAPI document."""
    return Meta(description=text)
