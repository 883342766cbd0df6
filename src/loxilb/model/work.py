# SPDX-License-Identifier: Apache-2.0
"""What is known of the daemon's work in the background: what keeps the host in line with the configuration."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum


class WorkState(Enum):
    """How a kind of work stands; the value is its word in the REST API.

    CONVERGED: nothing is to be done. REPAIRING: it is asked for or under way. FAILING: it failed and is tried again.
    """

    CONVERGED = "converged"
    REPAIRING = "repairing"
    FAILING = "failing"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkStatus:
    """One kind of work. ``failures`` are those in a row, ``failed`` all since the start.

    ``last_done`` and ``failing_since`` are seconds since 1970, None where it never was; ``cause`` and ``remedy`` are of
    the last failure while it fails, else "".
    """

    name: str
    state: WorkState
    failures: int
    failed: int
    last_done: float | None
    failing_since: float | None
    cause: str
    remedy: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReconcilerStatus:
    """Everything about the work in the background; ``repairs`` counts what others had changed, by what it was."""

    works: tuple[WorkStatus, ...]
    repairs: Mapping[str, int] = field(default_factory=dict)

    @property
    def state(self) -> WorkState:
        """The worst of all."""
        states = {one.state for one in self.works}
        return next((one for one in (WorkState.FAILING, WorkState.REPAIRING) if one in states), WorkState.CONVERGED)
