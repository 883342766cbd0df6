# SPDX-License-Identifier: Apache-2.0
"""Which flows are asked for, in which order they come, and how many of them travel together."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Self

from loxilb.model.flow import Flow, FlowState
from loxilb.model.service import IPAddress, IPNetwork

if TYPE_CHECKING:  # whoever only names a flow need not load numpy
    import numpy as np
    from numpy.typing import NDArray

    _Words = NDArray[np.uint16]
    _Bytes = NDArray[np.uint8]


class FlowKey(NamedTuple):
    """What tells one direction of a flow from another; keys are ordered, and flows are listed in that order.

    Addresses are numbers, ports host order, ``protocol`` is the IANA number.
    """

    version: int
    destination: int
    source: int
    destination_port: int
    source_port: int
    protocol: int

    @classmethod
    def of(cls, flow: Flow) -> Self:
        """Return the key of ``flow``."""
        return cls(
            flow.destination.version,
            int(flow.destination),
            int(flow.source),
            flow.destination_port,
            flow.source_port,
            flow.protocol,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowQuery:
    """The flows of which everything holds that is not None.

    ``rules`` they belong to; their ``client`` is within a network; their ``endpoint``, and its ``endpoint_port``;
    ``kinds``, pairs of protocol and state. Only what comes behind ``after``, the first ``limit`` of it.
    """

    rules: frozenset[int] | None = None
    client: IPNetwork | None = None
    endpoint: IPAddress | None = None
    endpoint_port: int | None = None
    kinds: frozenset[tuple[int, FlowState]] | None = None
    after: FlowKey | None = None
    limit: int | None = None

    def matches(self, flow: Flow) -> bool:
        """Tell whether ``flow`` is asked for; ``limit`` is not looked at."""
        client = flow.new_destination if flow.reply else flow.source
        endpoint = flow.source if flow.reply else flow.new_destination
        port = flow.source_port if flow.reply else flow.new_destination_port
        return (
            (self.rules is None or flow.rule in self.rules)
            and (self.client is None or client in self.client)
            and (self.endpoint is None or endpoint == self.endpoint)
            and (self.endpoint_port is None or port == self.endpoint_port)
            and (self.kinds is None or (flow.protocol, flow.state) in self.kinds)
            and (self.after is None or FlowKey.of(flow) > self.after)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowColumns:
    """Some flows of one IP version, a column a property: a million of them are not a million objects.

    An address is a row of 16-bit words, 2 or 8, the first ones first; ports are host order. The properties are those
    of :class:`~loxilb.model.Flow`; ``mode`` and ``state`` are the numbers of its enums.
    """

    version: int
    source: "_Words"
    destination: "_Words"
    source_port: "_Words"
    destination_port: "_Words"
    new_source: "_Words"
    new_destination: "_Words"
    new_source_port: "_Words"
    new_destination_port: "_Words"
    protocol: "_Bytes"
    state: "_Bytes"
    mode: "_Bytes"
    reply: "NDArray[np.bool_]"
    rule: "NDArray[np.uint32]"
    packets: "NDArray[np.uint64]"
    bytes: "NDArray[np.uint64]"

    def __len__(self) -> int:
        """Return how many flows there are."""
        return len(self.protocol)
