# SPDX-License-Identifier: Apache-2.0
"""The Internet checksum (RFC 1071)."""

import struct


def checksum(data: bytes) -> int:
    """Return the checksum of an even number of octets."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF
