# SPDX-License-Identifier: Apache-2.0
"""What the API tells of the daemon's work in the background."""

from typing import Annotated

from msgspec import field

from loxiapi.scalars import about
from loxiapi.wire import Wire


class WorkEntry(Wire, kw_only=True, frozen=True):
    """One kind of work that the daemon does in the background."""

    name: str
    state: Annotated[str, about("converged, repairing or failing")]
    failures: Annotated[int, about("Failures in a row")]
    failed: Annotated[int, about("Failures since the start")]
    last_done: Annotated[str, about("When it last went well: RFC 3339, UTC")] = field(name="lastDone", default="")
    failing_since: Annotated[str, about("RFC 3339, UTC")] = field(name="failingSince", default="")
    cause: Annotated[str, about("Cause of the last failure, while it fails")] = ""
    remedy: str = ""


class Repairs(Wire, kw_only=True, frozen=True):
    """How often something was repaired that others had changed or removed."""

    what: Annotated[str, about("address, link, pin, or a kind of map element")]
    count: int


class ReconcilerStatus(Wire, kw_only=True, frozen=True):
    """How the daemon's work in the background stands."""

    state: Annotated[str, about("The worst of all works")]
    works: list[WorkEntry] = field(name="workAttr")
    repairs: list[Repairs] = field(name="repairAttr")
