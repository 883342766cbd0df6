# SPDX-License-Identifier: Apache-2.0
"""What the services work with, with a stop watch in front: how long the kernel and endpoints take."""

import time
from collections.abc import Callable, Sequence

from loxilb.errors import KernelError
from loxilb.model import IPAddress
from loxilb.model.image import Op
from loxilb.model.probe import HealthCheck
from loxilb.ports import DataPlane
from loxilb.services.health import Outcome, Prober
from loxilb.services.metrics import Latencies


class MeasuredDataPlane:
    """``loxilb.ports.DataPlane`` over another one; ``apply`` is timed, and refusals are counted."""

    def __init__(self, inner: DataPlane, latencies: Latencies) -> None:
        """Measure ``inner``."""
        self.prepared, self._apply, self._repair = inner.prepared, inner.apply, inner.repair
        self._latencies = latencies
        self.observe, self.counters = inner.observe, inner.counters
        self.flow_page, self.active_flows, self.reasons = inner.flow_page, inner.active_flows, inner.reasons

    def apply(self, ops: Sequence[Op]) -> None:
        """Carry out ``ops`` in order, all or none; raises KernelError."""
        self._measured(self._apply, ops)

    def repair(self, ops: Sequence[Op]) -> None:
        """As ``apply``, after somebody else changed what is programmed; raises KernelError."""
        self._measured(self._repair, ops)

    def _measured(self, work: Callable[[Sequence[Op]], None], ops: Sequence[Op]) -> None:
        began = time.monotonic()
        try:
            work(ops)
        except KernelError:
            self._latencies.apply_failures += 1
            raise
        finally:
            self._latencies.apply.observe(time.monotonic() - began)


class MeasuredProber:
    """A prober over another one; every probe is timed."""

    def __init__(self, inner: Prober, latencies: Latencies) -> None:
        """Measure ``inner``."""
        self._inner = inner
        self._latencies = latencies

    async def probe(self, address: IPAddress, check: HealthCheck) -> Outcome:
        """Probe once."""
        began = time.monotonic()
        outcome = await self._inner.probe(address, check)
        if not outcome.late:
            self._latencies.probed(check.kind.value, time.monotonic() - began)
        return outcome

    def close(self) -> None:
        """Let go of everything."""
        self._inner.close()
