# SPDX-License-Identifier: Apache-2.0
"""What the data plane does not do, in one table: such services are refused by field and value."""

from collections.abc import Callable
from typing import NamedTuple

from loxilb.errors import NotBuilt
from loxilb.model import L4Protocol, Mode, Selection, Service

_MODES = (Mode.DEFAULT, Mode.ONEARM, Mode.FULLNAT, Mode.DSR)
_SCTP = L4Protocol.SCTP  # members of an Enum are slow to name
_SELECTIONS = (Selection.RR, Selection.HASH, Selection.PRIORITY, Selection.PERSIST, Selection.LC)


class _Gap(NamedTuple):
    field: str
    value: Callable[[Service], object]
    missing: Callable[[Service], bool]


def _families_differ(service: Service) -> bool:
    return any(endpoint.address.version != service.key.address.version for endpoint in service.endpoints)


def _secondary_families_differ(service: Service) -> bool:
    return any(address.version != service.key.address.version for address in service.secondary_addresses)


def _beside(_service: Service) -> str:
    return "IPv4 beside an IPv6 service"


def _nat64(_service: Service) -> str:
    return "IPv4 behind an IPv6 service"


def _true(_service: Service) -> str:
    return "true"


_GAPS = (
    _Gap("protocol", lambda s: s.key.protocol.value, lambda s: s.key.protocol is L4Protocol.SCTP),
    _Gap("mode", lambda s: s.mode.name.lower(), lambda s: s.mode not in _MODES),
    _Gap("sel", lambda s: s.selection.name.lower(), lambda s: s.selection not in _SELECTIONS),
    _Gap("endpointIP", _nat64, _families_differ),
    _Gap("security", lambda s: s.security, lambda s: s.security != 0),
    _Gap("host", lambda s: s.key.host, lambda s: s.key.host != ""),
    _Gap("proxyprotocolv2", _true, lambda s: s.proxy_protocol_v2),
    _Gap("egress", _true, lambda s: s.egress),
    _Gap("probetype", lambda s: s.probe.kind, lambda s: s.probe.kind == "sctp"),
    _Gap("secondaryIPs", _beside, _secondary_families_differ),
)


def check_supported(service: Service) -> None:
    """Raise NotBuilt for the first field of ``service`` that the data plane cannot honour."""
    if _is_usual(service):
        return
    for gap in _GAPS:
        if gap.missing(service):
            raise NotBuilt("not-built error", field=gap.field, cause=f"{gap.value(service)} is not built yet")


def _is_usual(service: Service) -> bool:
    """Tell of most services, at once, that they have none of the gaps."""
    key = service.key
    family = type(key.address)
    for endpoint in service.endpoints:
        if type(endpoint.address) is not family:
            return False
    return (
        service.mode in _MODES
        and service.selection in _SELECTIONS
        and key.protocol is not _SCTP
        and not (key.host or service.security or service.egress or service.proxy_protocol_v2)
        and not (service.secondary_addresses or service.probe.kind)
    )
