# SPDX-License-Identifier: Apache-2.0
"""The order in which services are shown."""

from loxilb.model import IPAddress, ServiceKey


def _address_order(address: IPAddress) -> tuple[int, int]:
    return address.version, int(address)


def key_order(key: ServiceKey) -> tuple[object, ...]:
    """Return what services are ordered by."""
    return (*_address_order(key.address), key.protocol.value, key.port, key.port_max, key.block, key.host)
