# SPDX-License-Identifier: Apache-2.0
"""Order and choice among very many flows: keys as rows of 16-bit digits, most significant first.

A radix sort over such digits takes a third of the time of a comparing one. A last digit is 0, so that a key is whole
words of 64 bits.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from ipaddress import ip_network
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loxilb.kernel import abi
from loxilb.model.flow_list import FlowKey, FlowQuery

Rows = NDArray[Any]
Keys = NDArray[np.uint16]
Places = NDArray[np.int64]
Run = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]
"""Applies a function to each of some things, as :func:`map` does; to several at a time, perhaps."""
_Mask = NDArray[np.bool_]
_PROTOCOLS, _STATES = 256, 256
_GROUP = 1 << 14
"""Keys that are put in order by all digits at once: few enough to stay in the cache."""


def keys_of(rows: Rows) -> Keys:
    """Return the keys of ``rows``: a row a flow, a column a digit."""
    width = rows["destination"].shape[1]
    keys = np.zeros((len(rows), 2 * width + 4), np.uint16)
    keys[:, :width] = rows["destination"]
    keys[:, width : 2 * width] = rows["source"]
    keys[:, -4], keys[:, -3], keys[:, -2] = rows["destination_port"], rows["source_port"], rows["protocol"]
    return keys


def digits_of(key: FlowKey) -> tuple[int, ...]:
    """Return a key as digits."""
    addresses = (*_words(key.destination, key.version), *_words(key.source, key.version))
    return (*addresses, key.destination_port, key.source_port, key.protocol, 0)


def key_of(digits: Sequence[int], version: int) -> FlowKey:
    """Inverse of :func:`digits_of`."""
    width = len(digits) // 2 - 2
    destination, source = (_number(digits[at : at + width]) for at in (0, width))
    return FlowKey(version, destination, source, *map(int, digits[-4:-1]))


def _words(number: int, version: int) -> tuple[int, ...]:
    bits = 32 if version == 4 else 128
    return tuple(number >> at & 0xFFFF for at in range(bits - 16, -1, -16))


def _number(words: Sequence[int]) -> int:
    return sum(int(word) << 16 * place for place, word in enumerate(reversed(words)))


def in_order(keys: Keys, run: Run = map) -> Places:
    """Return the places of ``keys`` in their order; of equal ones the last alone. ``run`` does some of the work."""
    groups = _grouped(keys, np.arange(len(keys)), 0)
    return np.concatenate([np.empty(0, np.int64), *run(lambda places: _ordered(keys, places), groups)])


def _grouped(keys: Keys, places: Places, digit: int) -> Iterator[Places]:
    """Split ``places`` into groups, one behind the other: small ones, as far as digits from this one on differ."""
    while len(places) > _GROUP and digit < keys.shape[1]:
        values = keys[:, digit][places]
        if (values != values[0]).any():
            order = np.argsort(values, kind="stable")
            groups = _cut(places[order], values[order])
            del places, values, order  # they are large, and this goes on until the last group is asked for
            for group in groups:
                yield from _grouped(keys, group, digit)
            return
        digit += 1
    yield places


def _cut(places: Places, values: Keys) -> list[Places]:
    """Split ``places`` where ``values`` change: often enough that only one value has more than ``_GROUP``."""
    ends = np.append(np.flatnonzero(values[1:] != values[:-1]) + 1, len(places))
    first = np.searchsorted(ends, np.arange(_GROUP, len(places), _GROUP))
    cuts = np.unique(np.concatenate([ends[first], ends[first[first > 0] - 1]]))
    return np.split(places, cuts[cuts < len(places)])


def _ordered(keys: Keys, places: Places) -> Places:
    chosen = keys.take(places, axis=0)
    order = np.arange(len(places))
    for values in chosen.T[::-1]:
        if (values != values[:1]).any():
            order = order[np.argsort(values[order], kind="stable")]
    same = np.ones(max(0, len(places) - 1), bool)
    for word in chosen.view(np.uint64).T:
        values = word[order]
        same &= values[1:] == values[:-1]
    return places[order[np.append(~same, True)] if same.any() else order]


def smallest(keys: Keys, limit: int) -> Places:
    """Return the places of the ``limit`` smallest keys, in no order."""
    sure, pool = [], np.arange(len(keys))
    for digit in keys.T:
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
    larger, equal = np.zeros(len(keys), bool), np.ones(len(keys), bool)
    for digit, bound in zip(keys.T, after, strict=True):
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
        keep &= _within((rows["new_destination"], rows["source"]), reply, query.client, version)
    if query.endpoint is not None:
        keep &= _within((rows["source"], rows["new_destination"]), reply, ip_network(query.endpoint), version)
    if query.endpoint_port is not None:
        keep &= np.where(reply, rows["source_port"], rows["new_destination_port"]) == query.endpoint_port
    return keep


def _kinds(query: FlowQuery) -> _Mask:
    table = np.zeros((_PROTOCOLS, _STATES), bool)
    for protocol, state in query.kinds or ():
        table[protocol, state] = True
    return table


def _within(addresses: tuple[Rows, Rows], reply: _Mask, network: Any, version: int) -> _Mask:
    """Tell which addresses, rows of words, are of ``network``: the first ones of replies, the second ones of others."""
    inside = np.full(len(reply), network.version == version)
    if network.version != version:
        return inside
    masks, firsts = (_words(int(address), version) for address in (network.netmask, network.network_address))
    for place, (mask, first) in enumerate(zip(masks, firsts, strict=True)):
        if mask:
            words = np.where(reply, *(words[:, place].astype(np.uint16) for words in addresses))
            inside &= (words & np.uint16(mask)) == first
    return inside
