# SPDX-License-Identifier: Apache-2.0
"""What is counted in elements of maps is what their entries say."""

from array import array
from collections import Counter
from ipaddress import IPv4Address, IPv6Address

from hypothesis import given
from hypothesis import strategies as st

from loxilb.kernel import abi
from loxilb.kernel.bpf import layouts
from loxilb.model import L4Protocol
from loxilb.model.image import EndpointEntry, EndpointId, Listener, RuleId
from loxilb.model.tables import EndpointTable

addresses = st.integers(0, 3).map(lambda low: IPv4Address(0xC6120001 + 256 * low)) | st.integers(0, 3).map(
    lambda low: IPv6Address((0x20010DB8 << 96) + low)
)
listeners = st.builds(Listener.of, addresses, st.sampled_from([L4Protocol.TCP, L4Protocol.UDP]), st.integers(0, 0xFFFF))


@given(st.dictionaries(listeners, st.integers(0, 5) | st.just(abi.LISTENER_SECONDARY | 7)), st.sampled_from([4, 6]))
def test_listeners_that_lead_to_a_rule_are_counted_by_address(words: dict[Listener, int], version: int) -> None:
    some = {one: word for one, word in words.items() if one.version == version}
    keys, values = layouts.listeners_to_keys(list(some), version), array("I", some.values()).tobytes()

    leading = [one for one, word in some.items() if word & abi.LISTENER_RULE]
    assert layouts.led_counted(keys, values, version) == layouts.listeners_counted(leading)
    assert dict(layouts.listeners_from_elements(keys, values, version)) == some


@given(st.lists(addresses, max_size=8), st.sets(st.integers(0, 7)))
def test_endpoints_are_counted_by_address(found: list[IPv4Address | IPv6Address], unused: set[int]) -> None:
    entries = {EndpointId(at): EndpointEntry(rule=RuleId(1), address=one, port=80) for at, one in enumerate(found)}
    data = bytearray(layouts.endpoints_to_values(EndpointTable.of(entries)))
    size = len(data) // max(1, len(found))
    for at in unused & entries.keys():
        data[at * size : (at + 1) * size] = bytes(size)

    wanted = Counter(one.packed for at, one in enumerate(found) if at not in unused)
    assert layouts.endpoints_counted(bytes(data)) == wanted


@given(st.sets(listeners), st.integers(0, 1))
def test_a_mark_among_keys_is_seen(found: set[Listener], mark: int) -> None:
    keys = [one._replace(mark=mark) for one in found if one.version == 4]

    assert layouts.have_marks(layouts.listeners_to_keys(keys, 4), 4) == bool(mark and keys)
