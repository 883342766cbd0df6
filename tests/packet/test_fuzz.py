# SPDX-License-Identifier: Apache-2.0
"""Random packets through both pipelines; each is checked in the kernel (bpf/fuzz.h).

Invariants: one reason a packet, the verdict that it implies, passed packets unmodified, sent packets changed only where
they are translated, every checksum as right as it was. Answers go to the sender, and their checksums are right.
"""

import ctypes
import os
import random
import secrets
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import product

import pytest

from loxilb.kernel.abi import Config, Reason
from loxilb.kernel.bpf import maps
from loxilb.kernel.bpf.object import BpfObject
from loxilb.kernel.bpf.run import run
from loxilb.model import L4Protocol, Mode
from tests.packet.driver import SMALL, Driver
from tests.support.bpf import CLIENT, OBJECTS, Hook
from tests.support.packets import ACK, SYN, IcmpError, Packet, difference

pytestmark = pytest.mark.must_run
SETTINGS = SMALL
BYTES = 128
ROUND = 20_000
LENGTHS = (128, 127, 96, 75, 74, 60, 54, 53, 42, 41, 34)
SHORT_LENGTHS = (33, 20, 15, 14)  # of frames that TC does not get
SECONDS, PACKETS = 30.0, 1_500_000
OWN_OF_XDP = {Reason.PASS_TO_TC, Reason.PASS_FRAGMENT, Reason.PASS_ICMP_ERROR}
OWN_OF_TC = {
    Reason.FORWARD_FRAGMENT,
    Reason.FORWARD_ICMP_ERROR,
    Reason.ANSWER_RESET,
    Reason.ANSWER_EXPIRED,
    Reason.DROP_NOT_SYN,
    Reason.DROP_FRAGMENT,
    Reason.DROP_RST,
}
VIOLATIONS = (
    "not exactly one reason was counted",
    "the verdict is not the one the reason implies",
    "passed, but modified",
    "the sum over the IPv4 header changed",
    "the sum over what the transport checksum covers changed",
    "a byte changed that is not translated",
    "TTL or hop limit is not what it has to be",
    "an answer has a wrong checksum, or does not go to the sender",
)


class Fuzz(ctypes.Structure):
    """``struct lox_fuzz`` of bpf/fuzz.h."""

    _fields_ = (
        ("random", ctypes.c_uint64),
        ("runs", ctypes.c_uint64),
        ("violations", ctypes.c_uint64 * len(VIOLATIONS)),
        ("templates", ctypes.c_uint32),
        ("length", ctypes.c_uint32),
        ("violation", ctypes.c_uint32),
        ("verdict", ctypes.c_uint32),
        ("first_before", ctypes.c_uint8 * BYTES),
        ("first_after", ctypes.c_uint8 * BYTES),
        ("before", ctypes.c_uint8 * BYTES),
        ("after", ctypes.c_uint8 * BYTES),
        ("was", ctypes.c_uint64 * 8),
    )


def spots(packet: Packet) -> bytes:
    """Return the offsets in a frame whose change leads somewhere."""
    l4 = 34 if packet.source.version == 4 else 54
    ip = (14, 16, 17, 20, 21, 22, 23, 33) if l4 == 34 else (14, 18, 19, 20, 21, 22, 53, 38)
    return bytes((*ip, l4, l4 + 1, l4 + 1, l4 + 3, l4 + 5, l4 + 13, l4 + 13, l4 + 13))


def packets(driver: Driver) -> Iterator[Packet]:
    """Return packets of all kinds of flows, those of the endpoints included."""
    for version, protocol, mode in product(
        (4, 6), (L4Protocol.TCP, L4Protocol.UDP, L4Protocol.ICMP), (Mode.DEFAULT, Mode.ONEARM, Mode.FULLNAT)
    ):
        service = driver.service(version, protocol, mode=mode)
        for number in range(6):
            path = driver.path(service, endpoint=number % 3)
            if protocol is L4Protocol.TCP:
                more = ({"flags": SYN}, {"flags": ACK, "payload": b"data"}, {"flags": SYN | ACK})
                yield from (path.request(**more[0]), path.request(**more[1]), path.reply(**more[2]))
                yield path.reply(**more[1])
            else:
                yield path.request(payload=bytes(range(number, number + 9)))
                yield path.reply(payload=bytes(range(number)))
            yield icmp_error(path.reply(), path.requested())
            yield icmp_error(path.request(), path.replied())


def icmp_error(like: Packet, about: Packet) -> Packet:
    """Return port unreachable by the way of ``like`` that quotes ``about``."""
    kind, code = (3, 3) if like.source.version == 4 else (1, 4)
    return replace(like, transport=IcmpError(kind=kind, code=code, quote=bytes(about)[14:]))


class Fuzzer:
    """The fuzzing program of one hook, on the maps of a driver."""

    def __init__(self, driver: Driver, hook: Hook, seed: int) -> None:
        """Load it and give it its templates."""
        self._driver, self._hook, self.seed = driver, hook, seed
        shared = driver.data_plane.descriptors
        kept = maps.lookup(shared["config"], maps.index_key(0), maps.describe(shared["config"]).value_size) or b""
        self._object = BpfObject(
            OBJECTS / f"fuzz_{hook.value}.bpf.o",
            rodata=kept[: ctypes.sizeof(Config)],  # a fingerprint of the layout follows it
            sizes=driver.data_plane.sizes,
            reuse=shared,
        )
        target = driver.data_plane.programs[hook.value].to_bytes(4, "little")
        maps.update(self._object.maps["fuzz_target"], maps.index_key(0), target, "name the program")
        self._write(random.Random(seed))

    def _write(self, source: random.Random) -> None:
        templates = list(packets(self._driver))
        for number, packet in enumerate(templates):
            value = bytes(packet)[:BYTES].ljust(BYTES, b"\0") + spots(packet)
            maps.update(self._object.maps["fuzz_templates"], maps.index_key(number), value, "write a template")
        state = Fuzz(random=source.getrandbits(64) | 1, templates=len(templates))
        maps.update(self._object.maps["fuzz"], maps.index_key(0), bytes(state), "write the state")

    def state(self) -> Fuzz:
        """Return what was found so far."""
        return Fuzz.from_buffer_copy(
            maps.lookup(self._object.maps["fuzz"], maps.index_key(0), ctypes.sizeof(Fuzz)) or b""
        )

    def run(self, length: int, count: int) -> None:
        """Run ``count`` packets of one length."""
        frame = CLIENT.mac + CLIENT.neighbour + b"\x88\xb5" + bytes(length - 14)
        context = self._driver.world.context(self._hook, CLIENT, length)
        run(self._object.programs[f"fuzz_{self._hook.value}"], frame, context=context, repeat=count, want_packet=False)

    def close(self) -> None:
        """Unload it."""
        self._object.close()


@pytest.fixture
def fuzzer(module_driver: Driver, hook: Hook) -> Iterator[Fuzzer]:
    """Return a fuzzer with services to aim at; set LOXILB_FUZZ_SEED to see the same packets again."""
    made = Fuzzer(module_driver, hook, int(os.environ.get("LOXILB_FUZZ_SEED", secrets.randbits(32))))
    yield made
    made.close()


def explain(fuzzer: Fuzzer) -> str:
    """Return what was wrong first, and how often; "" when nothing was."""
    state = fuzzer.state()
    if not state.violation:
        return ""
    before, after = bytes(state.first_before), bytes(state.first_after)
    counts = dict(zip(VIOLATIONS, state.violations, strict=True))
    found = f"{VIOLATIONS[state.violation - 1]}, verdict {state.verdict}, seed {fuzzer.seed}"
    return f"{found}\n{counts}\n{difference(before, after)}"


def test_random_packets_break_no_invariant(module_driver: Driver, fuzzer: Fuzzer, hook: Hook) -> None:
    """Of every length, from templates that open, use and close flows of all kinds."""
    reasons = module_driver.data_plane.reasons()
    lengths = LENGTHS + SHORT_LENGTHS if hook is Hook.XDP else LENGTHS
    end, runs = time.monotonic() + SECONDS, 0

    while runs < PACKETS and time.monotonic() < end:
        for length in lengths:
            fuzzer.run(length, ROUND * (4 if length == BYTES else 1))
        runs = fuzzer.state().runs
        assert not explain(fuzzer), explain(fuzzer)

    after = module_driver.data_plane.reasons()
    changed = {name for name in after if after[name] != reasons[name]}
    assert runs >= PACKETS
    assert sum(after.values()) - sum(reasons.values()) == runs
    assert {Reason[name.upper()] for name in changed} >= {
        Reason.PASS_NOT_IP,
        Reason.PASS_MALFORMED,
        Reason.PASS_PROTOCOL,
        Reason.PASS_NOT_SERVICE,
        Reason.FORWARD_NEW,
        Reason.FORWARD_HALF_OPEN,
        Reason.FORWARD_ESTABLISHED,
        *(OWN_OF_XDP if hook is Hook.XDP else OWN_OF_TC),
    }
