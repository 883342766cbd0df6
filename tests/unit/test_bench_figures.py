# SPDX-License-Identifier: Apache-2.0
"""What the measurements are made of: medians, targets, ratios, order, packets."""

import struct
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

import pytest
from bench.figures import Figure, Verdict, by_key, missing_targets, ratios
from bench.packet import SYN, Frame
from bench.rounds import rounds
from bench.targets import RECORDED, TARGETS
from bench.template import Template, Vary

CLIENT = IPv4Address("198.18.0.2")
REQUEST = Frame(
    mac=bytes.fromhex("020000000001"),
    source=CLIENT,
    destination=IPv4Address("198.18.255.1"),
    source_port=1024,
    destination_port=80,
)


def figure(key: str, *samples: float) -> Figure:
    """Return a figure with a key of its own."""
    return Figure(key=key, label=key, unit="ns", samples=samples)


def internet_sum(data: bytes) -> int:
    """Return the ones' complement sum: 0xffff over data with a right checksum (RFC 1071 section 3)."""
    data += bytes(len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def test_a_figure_is_judged_by_its_median() -> None:
    """One quick sample is not enough, one slow sample is no harm."""
    assert figure("program.xdp.established4", 20, 36, 37).verdict is Verdict.MISS
    assert figure("program.xdp.established4", 20, 35, 900).verdict is Verdict.PASS
    assert figure("program.xdp.udp", 1e9).verdict is Verdict.NONE


def test_a_figure_without_samples_is_refused() -> None:
    """Nothing measured, nothing said."""
    with pytest.raises(ValueError, match="not measured"):
        figure("program.xdp.udp")


def test_ratios_are_taken_round_by_round() -> None:
    """A round that was slow for both does not count."""
    assert ratios([2, 40, 6], [1, 20, 3]) == (2, 2, 2)
    with pytest.raises(ValueError, match="argument"):
        ratios([1, 2], [1])


def test_one_key_names_one_figure() -> None:
    """The second would hide the first."""
    assert by_key([figure("a.b", 1), figure("a.c", 2)])["a.c"].median == 2
    with pytest.raises(ValueError, match="one key"):
        by_key([figure("a.b", 1), figure("a.b", 2)])


def test_targets_without_a_figure_are_named() -> None:
    """Only those of the sections that were measured."""
    assert missing_targets([figure("control.list", 1)], ["control"]) == ("control.change",)
    sections = ["program", "frames", "sockets", "control", "flows", "scale"]
    assert set(missing_targets([], sections)) == set(TARGETS)
    assert {"established4", "not_ours"} <= {key.rpartition(".")[2] for key in TARGETS} & set(RECORDED)


def test_every_other_round_is_reversed() -> None:
    """What drifts hits all alike."""
    assert list(rounds("abc", 3)) == ["abc", "cba", "abc"]


@pytest.mark.parametrize("udp", [False, True])
def test_checksums_of_frames_are_right(udp: bool) -> None:
    """Over IPv4 and IPv6; a datagram over IPv4 goes without."""
    four = bytes(replace(REQUEST, udp=udp))
    source, destination = IPv6Address("2001:2::2"), IPv6Address("2001:2::1")
    six = bytes(replace(REQUEST, source=source, destination=destination))

    assert len(four) >= 54
    assert internet_sum(four[14:34]) == 0xFFFF
    assert udp or internet_sum(four[26:34] + struct.pack("!HH", 6, 20) + four[34:]) == 0xFFFF
    assert internet_sum(six[22:54] + struct.pack("!IHH", 20, 0, 6) + six[54:]) == 0xFFFF


def test_the_answer_comes_from_the_endpoint() -> None:
    """To the client, or to who the endpoint takes for it."""
    endpoint, source = IPv4Address("198.19.1.2"), IPv4Address("198.19.1.1")
    answer = REQUEST.answered(mac=bytes(6), endpoint=endpoint, port=8080)
    seen = (answer.source, answer.source_port, answer.destination, answer.destination_port)

    assert seen == (endpoint, 8080, REQUEST.source, 1024)
    assert REQUEST.answered(mac=bytes(6), endpoint=endpoint, port=8080, client=source).destination == source


def test_a_template_is_what_the_programs_read() -> None:
    """Offsets of struct lox_bench in bpf/bench.h."""
    frame = bytes(replace(REQUEST, flags=SYN))
    raw = bytes(Template(frame=frame, vary=Vary.RANDOM, flows=7, first=9, reply=True, ifindex=3, sink=(CLIENT, 53)))

    assert len(raw) == 104
    assert raw[:40] == frame[14:54]
    assert struct.unpack_from("=4I", raw, 64) == (2, 7, 9, 1)
    assert raw[80:92] == frame[:12]
    assert raw[92:] == struct.pack("=I", 3) + CLIENT.packed + b"\0\x35\0\0"
