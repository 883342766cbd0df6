# SPDX-License-Identifier: Apache-2.0
"""The operations about the daemon's work in the background."""

from collections.abc import Mapping

from loxiapi import status, wire
from loxilb.codec.times import shown_time
from loxilb.model.work import WorkStatus
from loxilb.ports import Reconciling
from loxilb.services.api.handlers import Answer, Call, Handler


class StatusHandlers:
    """Shows how the work stands, and has the maps compared now."""

    def __init__(self, reconciler: Reconciling) -> None:
        """Show ``reconciler``."""
        self._reconciler = reconciler

    def by_operation(self) -> Mapping[str, Handler]:
        """Return the method for every operation about it."""
        return {"get_reconciler": self._get, "start_audit": self._audit}

    async def _get(self, _: Call) -> Answer:
        now = self._reconciler.status()
        return status.ReconcilerStatus(
            state=now.state.value,
            works=[_entry_of(one) for one in now.works],
            repairs=[status.Repairs(what=what, count=count) for what, count in sorted(now.repairs.items())],
        )

    async def _audit(self, _: Call) -> Answer:
        self._reconciler.ask("audit")
        return wire.SUCCESS


def _entry_of(work: WorkStatus) -> status.WorkEntry:
    return status.WorkEntry(
        name=work.name,
        state=work.state.value,
        failures=work.failures,
        failed=work.failed,
        last_done="" if work.last_done is None else shown_time(work.last_done),
        failing_since="" if work.failing_since is None else shown_time(work.failing_since),
        cause=work.cause,
        remedy=work.remedy,
    )
