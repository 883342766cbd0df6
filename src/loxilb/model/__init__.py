# SPDX-License-Identifier: Apache-2.0
"""Frozen values that validate themselves.

Belongs here: what an operator configures and what the data plane reports, as immutable values. Does not belong here:
I/O, clocks, wire formats, anything that changes. Nobody can build an invalid value, whatever door it came through.
"""

from loxilb.model.flow import AbortedConnection, Counter, Flow, FlowEvent, FlowEventKind, FlowState, Peer
from loxilb.model.port import LinkKind, Port
from loxilb.model.service import (
    Endpoint,
    IPAddress,
    IPNetwork,
    L4Protocol,
    LossPolicy,
    Mode,
    Probe,
    Selection,
    Service,
    ServiceKey,
)

__all__ = [
    "AbortedConnection",
    "Counter",
    "Endpoint",
    "Flow",
    "FlowEvent",
    "FlowEventKind",
    "FlowState",
    "IPAddress",
    "IPNetwork",
    "L4Protocol",
    "LinkKind",
    "LossPolicy",
    "Mode",
    "Peer",
    "Port",
    "Probe",
    "Selection",
    "Service",
    "ServiceKey",
]
