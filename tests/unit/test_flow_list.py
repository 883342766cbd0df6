# SPDX-License-Identifier: Apache-2.0
"""Lists of flows: what is found in tables in memory, in which order, and how it is written."""

import json
import random
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loxiapi.wire import CONNTRACK_STATES, ConntrackEntry, encode
from loxilb.codec import text_rows
from loxilb.codec.conntrack import ConntrackEncoder
from loxilb.codec.flows import act_word, is_one_sided, protocol_word, query_of, state_word, token_of
from loxilb.errors import InvalidRequest
from loxilb.kernel import abi
from loxilb.kernel.bpf import flow_keys, flow_rows
from loxilb.kernel.bpf.flow_keys import Groups, keys_of
from loxilb.kernel.bpf.flow_rows import FORMS, Family, Slots
from loxilb.kernel.fake.columns import columns_of, page_of
from loxilb.model import Counter, Flow, FlowState, IPAddress, IPNetwork, Mode
from loxilb.model.flow_list import FlowKey, FlowQuery

V4 = tuple(map(IPv4Address, ("0.0.0.0", "10.0.0.1", "10.0.1.0", "255.255.255.255")))
V6 = tuple(map(IPv6Address, ("::", "::1", "1::", "2001:db8::1", "2001:0:0:1::1", "1:2:3:4:5:6:7:8", "2001:db8:0:1::")))
PORTS = (0, 80, 81, 65535)
LIVE = abi.SLOT_LIVE | 0x500
NAMES = {1: "web", 2: 'q"uo\\te\t\n\u20ac <&>', 3: "", 4: 100 * "long"}


def flows(version: int) -> st.SearchStrategy[Flow]:
    """Return any flows, often alike."""
    some: st.SearchStrategy[IPAddress]
    some = st.sampled_from(V4) if version == 4 else st.sampled_from(V6) | st.integers(0, 2**128 - 1).map(IPv6Address)
    port, number = st.sampled_from(PORTS), st.sampled_from((0, 1, 9999, 10_000, 99_999_999, 10**8, 10**16, 2**64 - 1))
    return st.builds(
        Flow,
        protocol=st.sampled_from((6, 17, 132, 1, 58, 47)),
        source=some,
        destination=some,
        new_source=some,
        new_destination=some,
        source_port=port,
        destination_port=port,
        new_source_port=port,
        new_destination_port=port,
        reply=st.booleans(),
        mode=st.sampled_from(Mode),
        state=st.sampled_from(FlowState),
        rule=st.integers(0, 5),
        endpoint=st.just(1),
        idle=st.just(0.0),
        age=st.just(0.0),
        counter=st.builds(Counter, packets=number, bytes=number),
    )


def lists(version: int) -> st.SearchStrategy[list[Flow]]:
    """Return lists of flows, each once."""
    return st.lists(flows(version), max_size=30, unique_by=FlowKey.of)


def entry_of(flow: Flow) -> ConntrackEntry:
    """Return what an answer has to say of a flow."""
    port = flow.new_source_port if flow.reply else flow.new_destination_port
    addresses = f"{flow.new_source if flow.reply else flow.new_destination}"
    if not is_one_sided(flow.mode):
        addresses = f"{flow.new_source},{flow.new_destination}"
    return ConntrackEntry(
        destination_ip=str(flow.destination),
        source_ip=str(flow.source),
        destination_port=flow.destination_port,
        source_port=flow.source_port,
        protocol=protocol_word(flow.protocol),
        ident="0:0",
        state=state_word(flow.protocol, flow.state),
        act=f"{act_word(flow.mode, reply=flow.reply)}-{addresses}:{port}:w0",
        packets=flow.counter.packets,
        bytes=flow.counter.bytes,
        service_name=NAMES.get(flow.rule, ""),
    )


@settings(deadline=None)
@given(st.one_of(lists(4), lists(6)), st.integers(1, 30))
def test_flows_are_written_like_every_other_answer(found: list[Flow], first: int) -> None:
    """To the byte, however many are written at once, and however many were before."""
    encoder = ConntrackEncoder(NAMES, compact=True)
    for some in (found[:first], found[first:], sorted(found, key=FlowKey.of)):
        if some:
            entries = encoder.entries(columns_of(some, some[0].source.version))
            assert entries == b"".join(b"," + encode(entry_of(flow)) for flow in some)


@pytest.mark.parametrize("version", [4, 6])
@settings(deadline=None)
@given(data=st.data())
def test_neighbours_that_are_alike_are_written_like_others(version: int, data: st.DataObject) -> None:
    """What they share is written another way, beside texts of any length."""
    some = data.draw(st.lists(flows(version), min_size=1, max_size=3).map(lambda few: few * 5)).copy()
    some.sort(key=FlowKey.of)
    entries = ConntrackEncoder(NAMES, compact=True).entries(columns_of(some, version))
    assert entries == b"".join(b"," + encode(entry_of(flow)) for flow in some)


@pytest.mark.parametrize("version", [4, 6])
@settings(deadline=None)
@given(data=st.data())
def test_rows_of_one_width_say_the_same(version: int, data: st.DataObject) -> None:
    """Member for member, in the same order; what is more is between tokens."""
    some = data.draw(st.lists(flows(version), min_size=1, max_size=30))
    entries = bytes(ConntrackEncoder(NAMES, compact=False).entries(columns_of(some, version)))
    compact = bytes(ConntrackEncoder(NAMES, compact=True).entries(columns_of(some, version)))

    read, expected = (json.loads(b"[%b]" % text[1:], object_pairs_hook=list) for text in (entries, compact))

    assert read == expected
    assert len({len(row) for row in entries.split(b",{")[1:]}) == 1


def test_what_all_rows_share_is_as_wide_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looked up once, nothing is filled up; and no row is left out, however many are written together."""
    alike = [replace(one(443), counter=Counter(packets=1234, bytes=1234))] * 5
    monkeypatch.setattr(text_rows, "_WRITTEN", 2)
    columns = columns_of(alike, 4)

    compact, wide = (ConntrackEncoder(NAMES, compact=compact).entries(columns) for compact in (True, False))

    assert wide == compact == 5 * (b"," + encode(entry_of(alike[0])))


def address(words: np.ndarray, version: int) -> IPAddress:
    """Return an address of a column."""
    return ip_address(words.astype(">u2").tobytes()[: 4 if version == 4 else 16])


class Tables:
    """The tables of one IP version, filled as the data plane fills them: every third slot is not used."""

    def __init__(self, version: int, half_open: Sequence[Flow], established: Sequence[Flow]) -> None:
        """Put flows into slots."""
        self.version = version
        self.whole = abi.Whole4 if version == 4 else abi.Flow6
        self.half = self._memory(half_open)
        self.main = self._memory(established)

    def _memory(self, some: Sequence[Flow]) -> bytearray:
        live = (
            (self._slot(flow, LIVE + 0x100 * at), self._slot(flow, abi.SLOT_DEAD) * (at % 2))
            for at, flow in enumerate(some)
        )
        return bytearray(b"".join(slot + dead for slot, dead in live))

    def _slot(self, flow: Flow, word: int) -> bytes:
        whole = self.whole()
        raw = whole.flow if isinstance(whole, abi.Whole4) else whole
        head = raw.head
        head.word, head.proto, head.state, head.flags = word, flow.protocol, flow.state, flow.reply * abi.FLOW_REPLY
        head.packets, head.bytes = flow.counter.packets, flow.counter.bytes
        whole.cold.rule = flow.rule
        for name, value in (("s", flow.source), ("d", flow.destination)):
            getattr(raw, f"{name}addr")[: len(value.packed)] = value.packed
        for name, value in (("s", flow.new_source), ("d", flow.new_destination)):
            getattr(raw, f"new_{name}addr")[: len(value.packed)] = value.packed
        head.sport[:], head.dport[:] = flow.source_port.to_bytes(2), flow.destination_port.to_bytes(2)
        head.new_sport[:], head.new_dport[:] = flow.new_source_port.to_bytes(2), flow.new_destination_port.to_bytes(2)
        return bytes(whole)

    def family(self) -> Family:
        """Return them as they are found."""
        size = len(bytes(self.whole()))
        half = Slots.over(self.version, self.half, count=len(self.half) // size, stride=size)
        main = Slots.over(self.version, self.main, count=len(self.main) // size, stride=size)
        return Family(self.version, passing=[half], main=main)

    def end(self, place: int) -> None:
        """Let another flow take a slot of the large table."""
        self.main[place * len(bytes(self.whole())) + 1] ^= 1

    def die(self, slot: int) -> None:
        """End the flow in a slot of the large table."""
        self.main[slot * len(bytes(self.whole()))] = abi.SLOT_DEAD


def shown(family: Family, found: object) -> list[FlowKey]:
    return [
        FlowKey(
            columns.version,
            int(address(columns.destination[at], columns.version)),
            int(address(columns.source[at], columns.version)),
            int(columns.destination_port[at]),
            int(columns.source_port[at]),
            int(columns.protocol[at]),
        )
        for columns in (copied() for copied in family.columns(found, np.zeros(6, np.uint8)))  # type: ignore[arg-type]
        for at in range(len(columns))
    ]


@st.composite
def queries(draw: st.DrawFn, version: int) -> FlowQuery:
    """Return any question, mostly about a thing or two."""
    places: tuple[IPAddress, ...] = (*V4, *V6)
    kinds = st.frozensets(st.tuples(st.sampled_from((6, 17, 1)), st.sampled_from(FlowState)), max_size=12)
    lengths = (0, 9, 24, 32) if version == 4 else (0, 9, 64, 128)
    networks: list[IPNetwork] = [
        ip_network(f"{one}/{length}", strict=False) for one in (V4 if version == 4 else V6) for length in lengths
    ]
    networks.append(ip_network("::/0" if version == 4 else "0.0.0.0/0"))
    parts: dict[str, st.SearchStrategy[Any]] = {
        "rules": st.frozensets(st.integers(0, 5)),
        "client": st.sampled_from(networks),
        "endpoint": st.sampled_from(places),
        "endpoint_port": st.sampled_from(PORTS),
        "kinds": kinds,
        "after": flows(version).map(FlowKey.of),
    }
    asked = draw(st.sets(st.sampled_from(sorted(parts)), max_size=2))
    return FlowQuery(**{name: draw(parts[name]) for name in asked}, limit=draw(st.none() | st.integers(1, 12)))


@pytest.mark.parametrize("version", [4, 6])
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_what_is_found_is_what_was_asked_for(version: int, data: st.DataObject) -> None:
    """In order, from both tables; numpy and plain Python agree."""
    found, query = data.draw(lists(version)), data.draw(queries(version))
    middle = len(found) // 2
    family = Tables(version, found[:middle], found[middle:]).family()
    expected = page_of(found, query)

    result = family.find(query, query.limit)

    assert shown(family, result) == sorted(FlowKey.of(flow) for flow in found if query.matches(flow))[: query.limit]
    assert result.more == (expected.after is not None)
    assert not result.more or result.last == expected.after


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(("scanned", "searched"), [(1, 4), (8, 32), (32, 32), (1 << 14, 1 << 17)])
def test_each_slot_is_searched_once(monkeypatch: pytest.MonkeyPatch, version: int, scanned: int, searched: int) -> None:
    """However many of them at once."""
    monkeypatch.setattr(flow_rows, "_SCANNED", scanned)
    monkeypatch.setattr(flow_rows, "_SEARCHED", searched)
    found = crowd(version)
    family = Tables(version, found[:9], found[9:]).family()

    assert shown(family, family.find(FlowQuery(), None)) == sorted(map(FlowKey.of, found))


@pytest.mark.parametrize("version", [4, 6])
@settings(max_examples=40, deadline=None)
@given(data=st.data(), limit=st.integers(1, 7))
def test_pages_show_each_flow_that_stays_once(version: int, data: st.DataObject, limit: int) -> None:
    """While others end and open between pages."""
    found = sorted(data.draw(lists(version)), key=FlowKey.of)
    staying, ending, opening = found[::3], found[1::3], found[2::3]
    tables = [Tables(version, staying[:2], [*staying[2:], *more]) for more in (ending, opening)]
    seen: list[FlowKey] = []
    query, turn = FlowQuery(), 0
    while True:
        family = tables[turn % 2].family()
        result = family.find(query, limit)
        seen += shown(family, result)
        if not result.more:
            break
        query, turn = FlowQuery(after=result.last), turn + 1

    assert seen == sorted(set(seen))
    assert {FlowKey.of(flow) for flow in staying} <= set(seen)


def crowd(version: int) -> list[Flow]:
    """Return flows that differ in everything that can be asked for, in no order."""
    dice = random.Random(version)
    places: tuple[IPAddress, ...] = V4 if version == 4 else V6
    sides = ("source", "destination", "new_source", "new_destination")
    some = []
    for number in range(60):
        values: dict[str, Any] = {side: dice.choice(places) for side in sides}
        values |= {f"{side}_port": dice.choice(PORTS) for side in sides}
        some.append(replace(one(number), **values, reply=dice.random() < 0.5, rule=dice.randrange(4)))
    return list({FlowKey.of(flow): flow for flow in some}.values())


@pytest.mark.parametrize("version", [4, 6])
def test_each_question_has_its_answer(version: int) -> None:
    """One thing at a time, and pages of any size."""
    found = crowd(version)
    places: tuple[IPAddress, ...] = V4 if version == 4 else V6
    lengths = (0, 9, 20, 32) if version == 4 else (1, 20, 64, 100, 128)
    networks = [ip_network((place, length), strict=False) for place in places for length in lengths]
    asked = [
        *(FlowQuery(limit=limit) for limit in range(1, len(found) + 2)),
        *(FlowQuery(client=network) for network in networks),
        *(FlowQuery(endpoint=place) for place in places),
        *(FlowQuery(endpoint_port=port) for port in PORTS),
        *(FlowQuery(rules=frozenset({rule}), limit=5) for rule in range(4)),
        *(FlowQuery(after=FlowKey.of(flow), limit=5) for flow in found),
    ]
    for half_open, query in product((0, 20), asked):
        family = Tables(version, found[:half_open], found[half_open:]).family()
        expected = sorted(FlowKey.of(flow) for flow in found if query.matches(flow))
        result = family.find(query, query.limit)
        assert shown(family, result) == expected[: query.limit], query
        assert result.more == (query.limit is not None and query.limit < len(expected))


@settings(deadline=None)
@given(st.lists(st.tuples(*[st.sampled_from((0, 1, 2, 65535))] * 8), max_size=40))
def test_keys_are_put_in_order(digits: list[tuple[int, ...]]) -> None:
    """Of equal ones the last is left: it is from the table that the flow has moved to."""
    found = flow_keys.in_order(np.array(digits, np.uint16).reshape(-1, 8))

    assert found.tolist() == [place for _, place in sorted({key: at for at, key in enumerate(digits)}.items())]


@pytest.mark.parametrize("version", [4, 6])
@settings(deadline=None)
@given(data=st.data(), count=st.integers(1, 12), shown=st.integers(1, 12))
def test_groups_follow_one_another_whatever_the_sample(
    version: int, data: st.DataObject, count: int, shown: int
) -> None:
    """Many flows may have their first digits in common, and none of them needs to be in the sample."""
    some, sample = (sorted(data.draw(lists(version)), key=FlowKey.of) for _ in range(2))
    groups = Groups.of(keys_of(rows_of(version, sample)), count, shown=shown)

    numbers = groups.numbers(rows_of(version, some)).tolist()

    assert numbers == sorted(numbers)
    assert all(0 <= number < len(groups) <= min(count, shown) for number in numbers)


@pytest.mark.parametrize("version", [4, 6])
def test_groups_are_as_large_as_one_another(version: int) -> None:
    """Also where flows differ in nothing but their last digits."""
    rows = rows_of(version, [one(port, version) for port in range(1000)])
    groups = Groups.of(keys_of(rows[::10]), 10, shown=10)

    assert np.bincount(groups.numbers(rows)).tolist() == [100] * 10


@pytest.mark.parametrize("tables", [1, 10, 50, 1000])
@pytest.mark.parametrize("version", [4, 6])
def test_groups_are_the_same_however_many_digits_tell(
    monkeypatch: pytest.MonkeyPatch, version: int, tables: int
) -> None:
    """Some keys differ in the first digit already, others in the last one alone."""
    monkeypatch.setattr(flow_keys, "_TABLES", tables)
    dice = random.Random(version)
    lowest = (0, 1, 1 << 16, 2 << 16, 0xFFFF << 16, 0xFFFFFFFF)
    place = type((V4 if version == 4 else V6)[0])
    some = [
        replace(one(number % 50, version), source=place(dice.choice(lowest)), destination=place(dice.choice(lowest)))
        for number in range(3000)
    ]
    keys = sorted({FlowKey.of(flow) for flow in some})
    rows = rows_of(version, list({FlowKey.of(flow): flow for flow in some}.values()))
    groups = Groups.of(keys_of(rows), 100, shown=100)

    firsts = [keys[number * len(keys) // 100] for number in range(1, 100)]
    assert groups.numbers(rows).tolist() == [bisect_right(firsts, key) for key in keys]


def rows_of(version: int, some: Sequence[Flow]) -> np.ndarray:
    """Return flows as they are in slots, in their order."""
    family = Tables(version, [], some).family()
    parts = [part() for part in family.find(FlowQuery(), None).parts]
    assert len(parts) <= 1
    return np.concatenate([part.hot.view(FORMS[version]) for part in parts] or [np.empty(0, FORMS[version])])


def one(port: int, version: int = 4) -> Flow:
    """Return a flow."""
    a, b = (V4 if version == 4 else V6)[1:3]
    return Flow(
        protocol=6,
        source=a,
        destination=b,
        new_source=a,
        new_destination=b,
        source_port=port,
        destination_port=80,
        new_source_port=port,
        new_destination_port=80,
        reply=False,
        mode=Mode.DEFAULT,
        state=FlowState.ESTABLISHED,
        rule=1,
        endpoint=1,
        idle=0.0,
        age=0.0,
        counter=Counter(packets=1, bytes=40),
    )


def test_a_flow_that_moves_while_it_is_looked_for_is_shown_once() -> None:
    """It is in both tables then; the one in the large table goes on counting."""
    family = Tables(4, [one(1), one(2)], [replace(one(2), rule=2), one(3)]).family()

    (part,) = family.find(FlowQuery(), None).parts
    slots = part()
    assert slots.hot.view(FORMS[4])["source_port"].tolist() == [1, 2, 3]
    assert slots.rules.tolist() == [1, 2, 1]


@pytest.mark.parametrize("version", [4, 6])
def test_a_flow_that_ends_while_it_is_written_is_left_out(version: int) -> None:
    """Its slot is dead, or may be another flow's by then, whose place in the order is another."""
    tables = Tables(version, [one(1, version)], [one(port, version) for port in (2, 3, 4, 5)])
    family = tables.family()
    found = family.find(FlowQuery(), None)
    tables.end(0)
    tables.die(1)

    assert [key.source_port for key in shown(family, found)] == [1, 4, 5]


@pytest.mark.parametrize("version", [4, 6])
def test_rules_are_kept_whole(version: int) -> None:
    """Up to the last one that there may be."""
    some = [replace(one(port, version), rule=rule) for port, rule in enumerate((0, 1 << 16, (1 << 24) - 1))]

    (part,) = Tables(version, [], some).family().find(FlowQuery(), None).parts

    assert part().rules.tolist() == [0, 1 << 16, (1 << 24) - 1]


@pytest.mark.parametrize("version", [4, 6])
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_place_in_the_list_is_a_word_without_blanks(version: int, data: st.DataObject) -> None:
    """It means the same to every daemon."""
    key = FlowKey.of(data.draw(flows(version)))
    token = token_of(key)

    assert query_of({"continue": token}).after == key
    assert token.replace("-", "").replace("_", "").isalnum()


def test_parameters_are_read() -> None:
    """One by one."""
    v6 = ip_address("2001::1")

    assert query_of({}) == FlowQuery()
    assert query_of({"client": "10.0.0.1"}).client == ip_network("10.0.0.1/32")
    assert query_of({"client": "10.0.0.1/8"}).client == ip_network("10.0.0.0/8")
    for text, port in (("31.31.31.1", None), ("31.31.31.1:0", 0), ("31.31.31.1:8080", 8080)):
        found = query_of({"endpoint": text})
        assert (found.endpoint, found.endpoint_port) == (ip_address("31.31.31.1"), port)
    for text, port in (("2001::1", None), ("[2001::1]", None), ("[2001::1]:80", 80)):
        found = query_of({"endpoint": text})
        assert (found.endpoint, found.endpoint_port) == (v6, port)
    assert query_of({"protocol": "udp", "state": "udp-est"}).kinds == frozenset({(17, FlowState.TWO_WAY)})
    assert query_of({"state": "est"}).kinds == frozenset((number, FlowState.ESTABLISHED) for number in (6, 132))
    assert query_of({"protocol": "47"}).kinds == frozenset((47, state) for state in FlowState)
    assert query_of({"limit": 5}).limit == 5
    assert {state_word(protocol, state) for protocol in range(256) for state in FlowState} == set(CONNTRACK_STATES)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("client", "10.0.0"),
        ("client", "10.0.0.0/33"),
        ("client", "web"),
        ("endpoint", "31.31.31.1:65536"),
        ("endpoint", "31.31.31.1:"),
        ("endpoint", "31.31.31.1:http"),
        ("endpoint", "31.31.31.0/24"),
        ("endpoint", "[2001::1]:x"),
        ("state", "established"),
        ("protocol", "TCP"),
        ("protocol", "256"),
        ("limit", 0),
        ("limit", 100_001),
        ("continue", "x"),
        ("continue", "BAAA"),
        ("continue", "\u20ac"),
        ("continue", token_of(FlowKey(4, 1, 2, 3, 4, 5))[:-3]),
    ],
)
def test_a_wrong_parameter_is_named(name: str, value: str | int) -> None:
    """And nothing is shown."""
    with pytest.raises(InvalidRequest) as caught:
        query_of({name: value})
    assert caught.value.field == name
