# SPDX-License-Identifier: Apache-2.0
"""Flows as columns, from values: one after the other, by the words of ``FlowQuery`` itself."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import groupby, islice

import numpy as np

from loxilb.model import Flow, IPAddress
from loxilb.model.flow_list import FlowColumns, FlowKey, FlowQuery
from loxilb.ports import FlowPage

_TOGETHER = 100


def page_of(flows: Iterable[Flow], query: FlowQuery) -> FlowPage:
    """Return those of ``flows`` that are asked for, in the order of their keys."""
    found = sorted(filter(query.matches, flows), key=FlowKey.of)
    shown = found[: query.limit]
    after = FlowKey.of(shown[-1]) if len(shown) < len(found) else None
    return FlowPage(columns=tuple(_columns(shown)), count=len(shown), after=after)


def _columns(flows: Sequence[Flow]) -> Iterator[Callable[[], FlowColumns]]:
    for version, group in groupby(flows, key=lambda flow: flow.source.version):
        while some := list(islice(group, _TOGETHER)):
            yield partial(columns_of, some, version)


def columns_of(flows: Sequence[Flow], version: int) -> FlowColumns:
    """Return ``flows``, all of one IP version, as columns."""
    return FlowColumns(
        version=version,
        source=_words([flow.source for flow in flows]),
        destination=_words([flow.destination for flow in flows]),
        source_port=np.array([flow.source_port for flow in flows], np.uint16),
        destination_port=np.array([flow.destination_port for flow in flows], np.uint16),
        new_source=_words([flow.new_source for flow in flows]),
        new_destination=_words([flow.new_destination for flow in flows]),
        new_source_port=np.array([flow.new_source_port for flow in flows], np.uint16),
        new_destination_port=np.array([flow.new_destination_port for flow in flows], np.uint16),
        protocol=np.array([flow.protocol for flow in flows], np.uint8),
        state=np.array([flow.state for flow in flows], np.uint8),
        mode=np.array([flow.mode for flow in flows], np.uint8),
        reply=np.array([flow.reply for flow in flows], bool),
        rule=np.array([flow.rule for flow in flows], np.uint32),
        packets=np.array([flow.counter.packets for flow in flows], np.uint64),
        bytes=np.array([flow.counter.bytes for flow in flows], np.uint64),
    )


def _words(addresses: Sequence[IPAddress]) -> "np.ndarray[tuple[int, ...], np.dtype[np.uint16]]":
    packed = b"".join(address.packed for address in addresses)
    return np.frombuffer(packed, ">u2").reshape(len(addresses), -1).astype(np.uint16)
