# SPDX-License-Identifier: Apache-2.0
"""The configuration as it is kept: what a write changes, who wrote, and what there is in all."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from loxilb.model.probe import HostState, MonitoredEndpoint
from loxilb.model.service import Service, ServiceKey

LOG_LEVEL = "logLevel"
"""The parameter that holds the log level set while running."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Author:
    """Who made a write, as far as it is known: address of the client and what it calls itself."""

    address: str = ""
    agent: str = ""


DAEMON = Author(agent="loxilb")
"""The daemon itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What a write makes of the configuration; None takes away.

    ``endpoints`` are those that an operator wants checked, ``states`` what an operator says about endpoints (green is
    never kept), both by the name of the endpoint. ``parameters`` are settings that change at run time.
    """

    services: Mapping[ServiceKey, Service | None] = field(default_factory=dict)
    endpoints: Mapping[str, MonitoredEndpoint | None] = field(default_factory=dict)
    states: Mapping[str, HostState | None] = field(default_factory=dict)
    parameters: Mapping[str, str | None] = field(default_factory=dict)

    def __len__(self) -> int:
        """Return how many objects change."""
        return len(self.services) + len(self.endpoints) + len(self.states) + len(self.parameters)


@dataclass(frozen=True, slots=True, kw_only=True)
class Configured:
    """The whole configuration; ``revision`` 0 says that none was ever kept.

    ``pending`` says that the newest revision is not confirmed: the program ended while it was carried out, or the power
    went right after it.
    """

    services: Mapping[ServiceKey, Service] = field(default_factory=dict)
    endpoints: Mapping[str, MonitoredEndpoint] = field(default_factory=dict)
    states: Mapping[str, HostState] = field(default_factory=dict)
    parameters: Mapping[str, str] = field(default_factory=dict)
    revision: int = 0
    pending: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Revision:
    """One write; ``time`` is in seconds since 1970 (UTC), ``size`` how many objects it changed."""

    number: int
    time: float
    author: Author
    summary: str
    size: int
