# SPDX-License-Identifier: Apache-2.0
"""Which endpoints a service wants checked, and how."""

from collections.abc import Mapping

from loxilb.model import Endpoint, L4Protocol, Mode, Service
from loxilb.model.probe import MAX_RETRIES, EndpointKey, HealthCheck, ProbeKind

_ALWAYS_PROBED = (Mode.ONEARM, Mode.FULLNAT, Mode.HOSTONEARM)


def is_probed(service: Service) -> bool:
    """Tell whether the endpoints of ``service`` are probed: it asks for it, or its mode implies it.

    Probe type ``none`` overrules both.
    """
    return (service.monitor or service.mode in _ALWAYS_PROBED) and service.probe.kind != ProbeKind.NONE.value


def checks_of(service: Service) -> Mapping[EndpointKey, HealthCheck]:
    """Return how ``service`` wants each of its endpoints checked; nothing where it does not."""
    if not is_probed(service):
        return {}
    return {EndpointKey.of(service, endpoint): _check(service, endpoint) for endpoint in service.endpoints}


def _check(service: Service, endpoint: Endpoint) -> HealthCheck:
    """Return the check; without a port of its own a probe goes to the endpoint's.

    Without a probe type TCP endpoints are connected to, and all others pinged.
    """
    probe = service.probe
    connects = service.key.protocol is L4Protocol.TCP and endpoint.port
    by_protocol = ProbeKind.TCP if connects else ProbeKind.PING
    kind = ProbeKind(probe.kind) if probe.kind else by_protocol
    return HealthCheck(
        kind=kind,
        port=0 if kind is ProbeKind.PING else probe.port or endpoint.port,
        request=probe.request,
        response=probe.response,
        period=probe.period,
        retries=min(probe.retries, MAX_RETRIES),
    )
