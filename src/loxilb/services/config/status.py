# SPDX-License-Identifier: Apache-2.0
"""What a service is doing, as it is shown."""

from collections.abc import Callable, Iterable, Mapping
from math import isfinite

from loxilb.model import Counter, Endpoint, Service
from loxilb.model.image import FULL_SHARE, EndpointId
from loxilb.plan import Phase, Programmed, deadline
from loxilb.ports import EndpointState, EndpointView, ServiceStatus

_Flows = Callable[[Iterable[EndpointId]], Mapping[EndpointId, int]]

_STATES = {
    Phase.TAKING: EndpointState.ACTIVE,
    Phase.RESTING: EndpointState.ACTIVE,
    Phase.LEAVING: EndpointState.DRAINING,
    Phase.OUT: EndpointState.INACTIVE,
}


def status_of(
    service: Service, programmed: Programmed, counters: Mapping[EndpointId, Counter], flows: _Flows, now: float
) -> ServiceStatus:
    """Return the state of a service; ``flows`` counts those of slots, and is asked for endpoints that drain only."""

    def view(slot: EndpointId, endpoint: Endpoint) -> EndpointView:
        stay, entry = programmed.stays[slot], programmed.endpoints[slot]
        end = deadline(programmed.policy, stay)
        return EndpointView(
            endpoint=endpoint,
            state=_STATES[stay.phase],
            counter=counters.get(slot, Counter()),
            share=entry.share / FULL_SHARE,
            flows=flows([slot])[slot] if stay.phase is Phase.LEAVING else 0,
            left=max(0.0, end - now) if isfinite(end) else None,
        )

    leaving = ((slot, programmed.endpoints[slot]) for slot in programmed.leaving)
    return ServiceStatus(
        service=service,
        endpoints=tuple(view(slot, one) for slot, one in zip(programmed.ids, service.endpoints, strict=True)),
        removed=tuple(view(slot, Endpoint(address=e.address, port=e.port)) for slot, e in leaving),
    )
