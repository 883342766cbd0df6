# SPDX-License-Identifier: Apache-2.0
"""Short ways to write services in tests."""

from collections.abc import Sequence
from ipaddress import ip_address
from typing import Any

from loxilb.model import Endpoint, L4Protocol, Service, ServiceKey


def endpoint(text: str) -> Endpoint:
    """Read ``address,port`` or ``address,port,weight``."""
    address, port, *weight = text.split(",")
    return Endpoint(address=ip_address(address), port=int(port), weight=int(weight[0]) if weight else 1)


def key(vip: str = "20.20.20.1", port: int = 2020, protocol: L4Protocol = L4Protocol.TCP, **more: Any) -> ServiceKey:
    """Build a key."""
    return ServiceKey(address=ip_address(vip), protocol=protocol, port=port, **more)


def service(
    endpoints: Sequence[str] = ("31.31.31.1,8080", "32.32.32.1,8080", "33.33.33.1,8080"),
    *,
    of: ServiceKey | None = None,
    **more: Any,
) -> Service:
    """Build a service of ``endpoints`` as ``endpoint`` reads them."""
    return Service(key=of or key(), endpoints=tuple(map(endpoint, endpoints)), **more)
