# SPDX-License-Identifier: Apache-2.0
"""Order and choice among very many flows: keys as columns of 16-bit digits, most significant first.

A radix sort over such digits takes a third of the time of a comparing one, and 2 bytes a digit.
"""

from collections.abc import Sequence
from ipaddress import ip_network
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loxilb.kernel import abi
from loxilb.model.flow_list import FlowKey, FlowQuery

Rows = NDArray[Any]
Keys = NDArray[np.uint16]
Places = NDArray[np.int64]
_Mask = NDArray[np.bool_]
_PROTOCOLS, _STATES = 256, 256


def keys_of(rows: Rows) -> Keys:
    """Return the keys of ``rows``: a row a digit, a column a flow."""
    width = rows["destination"].shape[1]
    keys = np.empty((2 * width + 3, len(rows)), np.uint16)
    keys[:width] = rows["destination"].T
    keys[width : 2 * width] = rows["source"].T
    keys[-3], keys[-2], keys[-1] = rows["destination_port"], rows["source_port"], rows["protocol"]
    return keys


def digits_of(key: FlowKey) -> tuple[int, ...]:
    """Return a key as digits."""
    addresses = (*_words(key.destination, key.version), *_words(key.source, key.version))
    return (*addresses, key.destination_port, key.source_port, key.protocol)


def key_of(digits: Sequence[int], version: int) -> FlowKey:
    """Inverse of :func:`digits_of`."""
    width = len(digits) // 2 - 1
    destination, source = (_number(digits[at : at + width]) for at in (0, width))
    return FlowKey(version, destination, source, *map(int, digits[-3:]))


def _words(number: int, version: int) -> tuple[int, ...]:
    bits = 32 if version == 4 else 128
    return tuple(number >> at & 0xFFFF for at in range(bits - 16, -1, -16))


def _number(words: Sequence[int]) -> int:
    return sum(int(word) << 16 * place for place, word in enumerate(reversed(words)))


def in_order(keys: Keys) -> Places:
    """Return the places of ``keys`` in their order; of equal ones the last alone."""
    places = np.arange(keys.shape[1])
    for digit in keys[::-1]:
        if len(digit) and digit.min() != digit.max():
            places = places[np.argsort(digit[places], kind="stable")]
    same = np.ones(max(0, len(places) - 1), bool)
    for digit in keys:
        ordered = digit[places]
        same &= ordered[1:] == ordered[:-1]
    return places[np.append(~same, True)] if same.any() else places


def smallest(keys: Keys, limit: int) -> Places:
    """Return the places of the ``limit`` smallest keys, in no order."""
    sure, pool = [], np.arange(keys.shape[1])
    for digit in keys:
        if not limit or len(pool) <= limit:
            break
        values = digit[pool]
        bound = np.partition(values, limit - 1)[limit - 1]
        sure.append(pool[values < bound])
        limit -= len(sure[-1])
        pool = pool[values == bound]
    return np.concatenate([*sure, pool[:limit]])


def behind(keys: Keys, after: Sequence[int]) -> _Mask:
    """Tell which keys are larger than ``after``."""
    larger, equal = np.zeros(keys.shape[1], bool), np.ones(keys.shape[1], bool)
    for digit, bound in zip(keys, after, strict=True):
        larger |= equal & (digit > bound)
        equal &= digit == bound
    return larger


def wanted(rows: Rows, rules: NDArray[np.uint32], query: FlowQuery, version: int) -> _Mask:
    """Tell which rows ``query`` asks for; ``after`` and ``limit`` are not looked at."""
    keep = np.ones(len(rows), bool)
    reply = (rows["flags"] & abi.FLOW_REPLY) != 0
    if query.rules is not None:
        keep &= np.isin(rules, np.fromiter(query.rules, np.uint32))
    if query.kinds is not None:
        keep &= _kinds(query)[rows["protocol"], rows["state"]]
    if query.client is not None:
        sides = np.where(reply[:, None], rows["new_destination"], rows["source"])
        keep &= _within(sides, query.client, version)
    if query.endpoint is not None:
        sides = np.where(reply[:, None], rows["source"], rows["new_destination"])
        keep &= _within(sides, ip_network(query.endpoint), version)
    if query.endpoint_port is not None:
        keep &= np.where(reply, rows["source_port"], rows["new_destination_port"]) == query.endpoint_port
    return keep


def _kinds(query: FlowQuery) -> _Mask:
    table = np.zeros((_PROTOCOLS, _STATES), bool)
    for protocol, state in query.kinds or ():
        table[protocol, state] = True
    return table


def _within(addresses: Rows, network: Any, version: int) -> _Mask:
    """Tell which addresses, rows of words, are of ``network``."""
    if network.version != version:
        return np.zeros(len(addresses), bool)
    mask = np.array(_words(int(network.netmask), version), np.uint16)
    first = np.array(_words(int(network.network_address), version), np.uint16)
    inside: _Mask = ((addresses & mask) == first).all(axis=1)
    return inside
