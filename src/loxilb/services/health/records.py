# SPDX-License-Identifier: Apache-2.0
"""What is known of one endpoint."""

from dataclasses import dataclass, field

from loxilb.model import IPAddress, ServiceKey
from loxilb.model.probe import (
    Availability,
    EndpointKey,
    EndpointStatus,
    HealthCheck,
    HostState,
    MonitoredEndpoint,
)
from loxilb.proto.probe.verdict import Verdict

Probed = tuple[IPAddress, HealthCheck]

_DELAYS = 16


@dataclass(slots=True, kw_only=True)
class Record:
    """One endpoint; ``key`` is None where its name ties it to no service.

    ``probing`` are the services that want it probed, with the check each wants. ``told`` is what an operator wants,
    which counts more. ``announced`` is what the services were told last.
    """

    name: str
    key: EndpointKey | None
    probing: dict[ServiceKey, HealthCheck] = field(default_factory=dict)
    told: MonitoredEndpoint | None = None
    state: HostState = HostState.GREEN
    verdict: Verdict = field(default_factory=Verdict)
    announced: Availability = Availability.UP
    delays: tuple[float, ...] = ()

    def answered(self, delay: float) -> None:
        """Note the round trip time of a ping; the newest are kept."""
        self.delays = (*self.delays, delay)[-_DELAYS:]

    @property
    def address(self) -> IPAddress:
        """Where probes go."""
        if self.told is not None:
            return self.told.address
        assert self.key is not None
        return self.key.address

    @property
    def check(self) -> HealthCheck:
        """The check in force: the operator's, else that of the first service that wants a probe, else none."""
        if self.told is not None:
            return self.told.check
        for check in self.probing.values():
            return check
        return HealthCheck(port=self.key.port if self.key else 0)

    @property
    def needed(self) -> bool:
        """Whether anything is to be kept: of most endpoints nothing is, they are up and not probed."""
        if self.told is not None or self.probing:
            return True
        return self.state is not HostState.GREEN and self.key is not None  # without a key, only a wish has an address

    @property
    def probed(self) -> Probed | None:
        """Address and check in force; None where nothing is kept."""
        return (self.address, self.check) if self.needed else None

    @property
    def availability(self) -> Availability:
        """What services should do with it."""
        if self.state is HostState.RED:
            return Availability.OUT
        if not self.verdict.up:
            return Availability.DOWN
        return Availability.DRAINING if self.state is HostState.YELLOW else Availability.UP

    @property
    def status(self) -> EndpointStatus:
        """The record as a value."""
        delays = (min(self.delays), sum(self.delays) / len(self.delays), max(self.delays)) if self.delays else None
        return EndpointStatus(
            address=self.address,
            name=self.name,
            check=self.check,
            state=self.state,
            up=self.verdict.up,
            delays=delays,
            told=self.told is not None,
        )
