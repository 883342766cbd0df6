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
    ProbeKind,
)
from loxilb.proto.probe.verdict import Verdict

Probed = tuple[IPAddress, HealthCheck]

_DELAYS = 16
_NOT = ProbeKind.NONE  # members of an Enum are slow to name


@dataclass(slots=True, kw_only=True)
class Record:
    """One endpoint; ``key`` is None where its name ties it to no service.

    ``users`` are the services that use it, with the check each wants; ``probing`` are those of them that want a probe.
    ``told`` is what an operator wants, which counts more. ``announced`` is what the services were told last.
    """

    name: str
    key: EndpointKey | None
    users: dict[ServiceKey, HealthCheck] = field(default_factory=dict)
    probing: dict[ServiceKey, HealthCheck] = field(default_factory=dict)
    told: MonitoredEndpoint | None = None
    state: HostState = HostState.GREEN
    verdict: Verdict = field(default_factory=Verdict)
    announced: Availability = Availability.UP
    delays: tuple[float, ...] = ()

    def use(self, user: ServiceKey, check: HealthCheck) -> None:
        """Note the check that a service wants."""
        self.users[user] = check
        if check.kind is not _NOT:
            self.probing[user] = check
        elif self.probing:
            self.probing.pop(user, None)

    def join(self, user: ServiceKey, check: HealthCheck) -> bool:
        """Note a user that changes nothing about the check in force, as most do; tells whether that is so."""
        quiet = bool(self.users) and check.kind is _NOT and user not in self.probing
        if quiet:
            self.users[user] = check
        return quiet

    def leave(self, user: ServiceKey) -> None:
        """Note that a service does not use it any more."""
        del self.users[user]
        self.probing.pop(user, None)

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
        """The check in force: the operator's, else that of the first service that wants a probe."""
        if self.told is not None:
            return self.told.check
        return next(iter((self.probing or self.users).values()))

    @property
    def needed(self) -> bool:
        """Whether anybody asks for this endpoint."""
        return self.told is not None or bool(self.users)

    @property
    def probed(self) -> Probed | None:
        """Address and check in force; None where nobody asks."""
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
