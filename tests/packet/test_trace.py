# SPDX-License-Identifier: Apache-2.0
"""A trace says what the next packet gets, and leaves nothing behind."""

import ctypes
from collections.abc import Mapping
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path as FilePath

import pytest

from loxilb.kernel import abi
from loxilb.kernel.bpf import libbpf, maps
from loxilb.model import Endpoint, FlowState, L4Protocol, Selection
from loxilb.model.packet import MadePacket, TcpFlags
from loxilb.model.port import IfIndex
from loxilb.model.trace import HookTrace, Table, Traced, Verdict, Way
from loxilb.proto.frame import read_frame
from tests.packet.driver import SMALL, TARGET, Driver, Path, without_endpoints
from tests.support.bpf import CLIENT, SERVERS, Hook
from tests.support.lab import wait_for
from tests.support.packets import ACK, FIN, RST, SYN

pytestmark = pytest.mark.must_run
SETTINGS = replace(
    SMALL,
    flows4=256,
    flows6=256,
    half_open4=256,
    half_open6=256,
    rules=64,
    endpoints=256,
    ring=1024,
    next_hops=64,
    timeouts=dict.fromkeys(FlowState, 1000.0),  # no flow ends while it is compared
)
_PER_CPU, _UNREADABLE = (
    (5, 6, 10),
    (3, 11, 27),
)  # enum bpf_map_type; program arrays, tries and ring buffers have no dump


def everything(driver: Driver) -> Mapping[str, object]:
    """Return all that is in the live maps, but what the ager writes: where it is, and its counts of flows."""
    wait_for(lambda: not dead_slots(driver), what="rest after earlier flows")
    found: dict[str, object] = {"sources": sorted(driver.data_plane.observe().sources.items())}
    for name, descriptor in driver.data_plane.descriptors.items():
        info, size = libbpf.MapInfo(), ctypes.c_uint32(ctypes.sizeof(libbpf.MapInfo))
        assert libbpf.object_info(descriptor, ctypes.byref(info), ctypes.byref(size)) == 0
        if info.type in _PER_CPU:
            width = (info.value_size + 7) // 8 * 8 * libbpf.possible_cpus()
            found[name] = [maps.lookup(descriptor, maps.index_key(at), width) for at in range(info.max_entries)]
        elif info.type not in _UNREADABLE:
            found[name] = list(maps.dump(descriptor, info.key_size, info.value_size))
    runtime = abi.Runtime.from_buffer_copy(maps.lookup(driver.data_plane.descriptors["runtime"], bytes(4), 88) or b"")
    found["runtime"] = (runtime.generation, runtime.purge, runtime.overflow4, runtime.overflow6, runtime.events_lost)
    del found["ager"]
    return found


def dead_slots(driver: Driver) -> int:
    """Return how many slots hold a flow that has ended; soon they will be free."""
    live = sum(1 for _ in driver.data_plane.flows())
    return driver.used_slots() - live


def opened() -> list[str]:
    """Return what this process has open."""
    return sorted(str(one.readlink()) for one in FilePath("/proc/self/fd").iterdir() if one.is_symlink())


def trace(driver: Driver, hook: Hook, path: Path, *, reply: bool = False, flags: int = SYN) -> Traced:
    """Trace a packet of a path, and check that nothing live changes."""
    made = MadePacket(
        protocol=path.protocol,
        source=path.endpoint if reply else path.client,
        destination=path.source if reply else path.vip,
        source_port=path.endpoint_port if reply else path.client_port,
        destination_port=path.source_port if reply else path.vip_port,
        flags=TcpFlags(flags),
    )
    device = path.server if reply else CLIENT
    port = replace(driver.world.port(device), hooks=("xdp", "tcx") if hook is Hook.XDP else ("tcx",))
    before = everything(driver)
    traced = driver.data_plane.trace(made, port)
    assert everything(driver) == before
    return traced


def check(driver: Driver, traced: Traced, path: Path, frame: bytes) -> None:
    """Check that a traced packet became what a real one of the same path did, and goes where that went."""
    real = read_frame(frame)
    assert traced.sent is not None
    assert traced.sent == replace(real, flags=traced.sent.flags)
    out = next((server for server in SERVERS if server.neighbour == frame[:6]), CLIENT)
    assert traced.way == Way(interface=IfIndex(driver.world.indexes[out]), mac=frame[:6])


@pytest.mark.parametrize(
    ("hook", "protocol"),
    [
        (Hook.XDP, L4Protocol.TCP),
        *((Hook.TC, protocol) for protocol in (L4Protocol.TCP, L4Protocol.UDP, L4Protocol.ICMP)),
    ],
    ids=["xdp-tcp", "tc-tcp", "tc-udp", "tc-icmp"],
)
def test_a_trace_says_what_the_next_packet_becomes(
    module_driver: Driver, hook: Hook, protocol: L4Protocol, version: int
) -> None:
    """A new flow, one in use on the plain path, and its replies; the traced choice is not taken."""
    driver = module_driver
    service = driver.service(version, protocol)
    for endpoint in (0, 1):
        path = driver.path(service, endpoint=endpoint)
        new = trace(driver, hook, path)
        assert new.hooks == (HookTrace(hook=hook.value, verdict=Verdict.FORWARDED, reason="forward_new"),)
        assert (new.table, new.flow, new.rule) == (None, None, driver.rule_id(service))
        assert new.endpoint == driver.endpoint_ids(service)[endpoint]
        assert (new.endpoint_address, new.endpoint_port) == (path.endpoint, path.endpoint_port)
        more = {"flags": SYN} if protocol is L4Protocol.TCP else {}
        check(driver, new, path, driver.send(hook, path.request(**more)))
    opened = driver.open(hook, driver.path(service, endpoint=2))
    driver.use(hook, opened)
    for reply in (False, True):
        used = trace(driver, hook, opened, reply=reply, flags=ACK)
        (step,) = used.hooks
        assert (step.reason, step.plain) == ("forward_established", True)
        assert used.table is Table.LARGE and used.flow is not None and used.flow.reply is reply
        assert (used.rule, used.endpoint) == (driver.rule_id(service), driver.endpoint_ids(service)[2])
        check(driver, used, opened, driver.send(hook, opened.reply() if reply else opened.request()))


@pytest.mark.parametrize("selection", [Selection.PERSIST, Selection.LC])
def test_what_a_choice_depends_on_is_copied(module_driver: Driver, selection: Selection) -> None:
    """Live counts of connections, and which endpoint a client had."""
    service = module_driver.service(4, selection=selection)
    first = module_driver.open(Hook.TC, module_driver.path(service))
    again = module_driver.path(service, client=first.client)

    traced = trace(module_driver, Hook.TC, again)

    expected = 0 if selection is Selection.PERSIST else 1
    assert traced.endpoint == module_driver.endpoint_ids(service)[expected]
    check(module_driver, traced, again, module_driver.send(Hook.TC, again.request(flags=SYN)))


def test_what_is_not_forwarded_says_why(module_driver: Driver) -> None:
    """No service, no endpoint, no flow, a client that is not allowed: the reason, and what was behind an answer."""
    driver = module_driver
    service, idle = driver.service(4), without_endpoints(driver, 4)
    only = driver.service(4, allowed_sources=(ip_network("10.99.0.0/16"),))
    none = replace(driver.path(service), vip_port=81)
    found = {
        "none": trace(driver, Hook.XDP, none),
        "idle": trace(driver, Hook.XDP, driver.path(idle)),
        "middle": trace(driver, Hook.TC, driver.path(service), flags=ACK),
        "source": trace(driver, Hook.XDP, driver.path(only)),
    }

    assert {name: [(one.hook, one.reason, one.cause) for one in traced.hooks] for name, traced in found.items()} == {
        "none": [("xdp", "pass_not_service", ""), ("tc", "pass_not_service", "")],
        "idle": [("xdp", "pass_to_tc", ""), ("tc", "answer_reset", "drop_no_endpoint")],
        "middle": [("tc", "answer_reset", "drop_not_syn")],
        "source": [("xdp", "drop_source", "")],
    }
    assert [traced.rule for traced in found.values()] == [0, *map(driver.rule_id, (idle, service, only))]
    answer = found["middle"].sent
    assert answer is not None and answer.flags == TcpFlags.RST and found["middle"].way is None


@pytest.mark.parametrize("hooks", [Hook.TC, Hook.XDP], ids=["tc", "xdp-then-tc"])
def test_an_unknown_neighbour_is_the_kernels(module_driver: Driver, hooks: Hook, version: int) -> None:
    """Who is to be asked is told; XDP leaves such packets to TC, which sees the flow that XDP has opened."""
    stranger = SERVERS[0].gateway(version) + 76
    service = module_driver.service(version, endpoints=[Endpoint(address=stranger, port=TARGET)])

    traced = trace(module_driver, hooks, module_driver.path(service))

    reasons = [step.reason for step in traced.hooks]
    assert reasons == ["pass_to_tc"] * (hooks is Hook.XDP) + ["forward_resolve"]
    assert traced.way == Way(interface=IfIndex(module_driver.world.indexes[SERVERS[0]]), gateway=stranger)


def test_segments_have_the_numbers_that_come_next(module_driver: Driver) -> None:
    """So that a FIN or RST is believed as a real one would be; half-open flows are found as well."""
    service = module_driver.service(4)
    half = module_driver.path(service)
    module_driver.send(Hook.TC, half.request(flags=SYN))
    answer = trace(module_driver, Hook.TC, half, reply=True, flags=SYN | ACK)
    opened = module_driver.open(Hook.TC, module_driver.path(service, endpoint=1))
    over = [trace(module_driver, Hook.TC, opened, flags=flags) for flags in (FIN | ACK, RST)]

    assert (answer.table, answer.hooks[0].reason) == (Table.HALF_OPEN, "forward_half_open")
    assert answer.flow is not None and answer.flow.state is FlowState.SYN_SENT
    assert [(one.hooks[0].reason, one.hooks[0].plain) for one in over] == [("forward_established", False)] * 2


def test_nothing_is_kept_open(module_driver: Driver) -> None:
    """Maps and programs go with the trace; the kernel frees those that nobody has open."""
    path = module_driver.path(module_driver.service(4))
    trace(module_driver, Hook.TC, path)
    before = opened()

    trace(module_driver, Hook.TC, path)

    assert opened() == before
