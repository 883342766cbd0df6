# SPDX-License-Identifier: Apache-2.0
"""Programs on the calls of this host's processes: whose calls, how long, and what is left afterwards."""

import contextlib
import ctypes
import errno
import os
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from loxilb.errors import FeatureMissing, KernelError
from loxilb.kernel import netns
from loxilb.kernel.bpf import BpfDataPlane, DataPlaneSettings, XdpPolicy, cgroups, diag, libbpf, pins
from tests.support.lab import ROOT, Lab, Namespace
from tests.support.lab_star import PORT, SERVERS4, Star, build
from tests.support.pinned import opened_pin
from tests.support.traffic import ask, ask_on

pytestmark = pytest.mark.must_run
VIP = "20.20.20.1"
NAMES = ["server1", "server2"]
HOOKS = {f"{call}{family}-0" for call in ("connect", "sendmsg", "recvmsg", "getpeername") for family in (4, 6)}
SMALL = DataPlaneSettings(xdp=XdpPolicy.OFF, flows4=1024, flows6=1024, half_open4=256, half_open6=256)
LOCAL = DataPlaneSettings(
    xdp=XdpPolicy.OFF, flows4=1024, flows6=1024, half_open4=256, half_open6=256, local_sockets=True
)


@pytest.fixture
def fresh(lab: Lab) -> Star:
    """Return a topology whose daemon has not been started."""
    return build(lab, servers=2)


def serve(star: Star) -> None:
    """Create the service."""
    star.lb.create(VIP, f"--tcp=2020:{PORT}", [f"{address}:1" for address in SERVERS4[:2]])


def names(space: Namespace, count: int = 3) -> list[str]:
    """Return which servers answer a process in a namespace."""
    return space.call(lambda: [ask(VIP, 2020).server for _ in range(count)])


def pinned(space: Namespace) -> dict[str, int]:
    """Return the identities of the links that a daemon has pinned, by hook."""

    def read() -> dict[str, int]:
        root = pins.PinDirectory(pins.find_bpffs(None)).root / "links"
        found = {}
        for path in root.iterdir() if root.is_dir() else ():
            info, size = (ctypes.c_uint32 * 16)(), ctypes.c_uint32(64)
            with opened_pin(path) as link:
                assert libbpf.object_info(link, info, ctypes.byref(size)) == 0
            found[path.name] = info[1]  # id of struct bpf_link_info
        return found

    return space.call(read)


def is_there(link: int) -> bool:
    """Tell whether a link of this identity exists: BPF_LINK_GET_FD_BY_ID of bpf(2)."""
    attributes = ctypes.create_string_buffer(struct.pack("=I", link), 64)
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.syscall(321, 30, attributes, len(attributes))
    if descriptor >= 0:
        os.close(descriptor)
    return bool(descriptor >= 0)


def test_sockets_of_other_namespaces_are_left_alone(lab: Lab, tmp_path: Path) -> None:
    """Two daemons with the same service: each serves its own host. A host without one finds nobody at the address."""
    one = build(lab, servers=2)
    with Lab(folder=tmp_path / "two") as second:
        (tmp_path / "two").mkdir()
        other = build(second, servers=1)
        for star in (one, other):
            star.lb.start("--localsockpolicy")
            star.lb.create(VIP, f"--tcp=2020:{PORT}", [f"{address}:1" for address in SERVERS4[: len(star.servers)]])

        assert names(one.lb.namespace, 2) == NAMES
        assert names(other.lb.namespace, 3) == ["server1"] * 3
        assert names(one.lb.namespace, 1) == ["server1"]
        assert one.names(VIP, 2020, 1) == ["server2"]
        stranger = lab.namespace("stranger")
        with pytest.raises(OSError) as caught:
            names(stranger)
        assert caught.value.errno == errno.ENETUNREACH
        other.lb.down()
        assert names(one.lb.namespace, 1) == ["server1"]


def test_it_goes_on_without_the_daemon_and_ends_with_the_flag_or_down(fresh: Star) -> None:
    """Stopped, sockets are directed as before; a start without the flag, or ``down``, ends that."""
    fresh.lb.start("--localsockpolicy")
    serve(fresh)
    links = pinned(fresh.lb.namespace)
    assert set(links) > HOOKS
    held: socket.socket = fresh.lb.namespace.call(lambda: socket.create_connection((VIP, 2020), timeout=3))
    with held:
        assert fresh.lb.stop() == 0
        assert names(fresh.lb.namespace, 1) == ["server2"]
        fresh.lb.start("--localsockpolicy")
        assert pinned(fresh.lb.namespace) == links
        assert ask_on(held).server == "server1"
        assert held.getpeername() == (VIP, 2020)
        assert names(fresh.lb.namespace, 1) == ["server1"]

        assert fresh.lb.stop() == 0
        fresh.lb.start()
        assert not HOOKS & set(pinned(fresh.lb.namespace))
        assert ask_on(held).server == "server1"
        with pytest.raises(OSError):
            fresh.lb.namespace.call(lambda: ask(VIP, 2020, timeout=0.5))
        assert fresh.names(VIP, 2020, 1) == ["server2"]
    assert fresh.lb.stop() == 0
    fresh.lb.start("--localsockpolicy")
    links = pinned(fresh.lb.namespace)
    assert all(is_there(link) for link in links.values())

    fresh.lb.down()

    assert not pinned(fresh.lb.namespace)
    assert not [hook for hook, link in links.items() if is_there(link)]


def test_the_control_groups_are_found_where_they_are_hidden(lab: Lab) -> None:
    """``ip netns exec`` hides them; they are mounted for a moment, and it is the same root."""
    space = lab.namespace("hidden")
    root = cgroups.mounted_root()
    assert root is not None
    program = (
        "import os; from pathlib import Path; from loxilb.kernel.bpf import cgroups\n"
        "assert cgroups.mounted_root() is None\n"
        "with cgroups.open_root() as root: print(os.fstat(root).st_ino, os.fstat(root).st_dev)\n"
        "assert 'cgroup2' not in Path('/proc/self/mountinfo').read_text()\n"
        "assert not list(Path('/tmp').glob('loxilb-cgroup-*'))\n"
    )

    printed = space.run("ip", "netns", "exec", space.name, ROOT / ".venv/bin/python", "-c", program)

    assert printed.split() == [str(root.stat().st_ino), str(root.stat().st_dev)]


@contextlib.contextmanager
def opened(settings: DataPlaneSettings) -> Iterator[BpfDataPlane]:
    """Open a data plane in the calling thread's namespace, and remove it."""
    made = BpfDataPlane.open(settings)
    try:
        yield made
    finally:
        made.destroy()


def test_a_refused_program_leaves_none_attached(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """All hooks or none; the error names the one that was refused."""
    create: Callable[..., int] = libbpf.link_create
    space = lab.namespace("refused")

    def refuse(program: int, target: int, kind: int, options: object) -> int:
        return -errno.EPERM if kind == 20 else create(program, target, kind, options)

    monkeypatch.setattr(libbpf, "link_create", refuse)
    with pytest.raises(KernelError, match="attach to recvmsg6 of the control groups: EPERM"):
        space.call(lambda: BpfDataPlane.open(LOCAL))

    assert pinned(space) == {}
    with contextlib.suppress(FileNotFoundError):
        space.call(lambda: BpfDataPlane.open(SMALL).destroy())


def test_a_kernel_without_namespace_cookies_is_named(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before Linux 5.14 nothing tells whose socket it is."""
    monkeypatch.setattr(netns, "cookie", lambda: None)
    space = lab.namespace("old")

    with pytest.raises(FeatureMissing, match="no cookies of network namespaces"):
        space.call(lambda: BpfDataPlane.open(LOCAL))

    space.call(lambda: BpfDataPlane.open(SMALL).destroy())


def test_an_ended_socket_is_ended_once(lab: Lab) -> None:
    """One that has gone meanwhile is no error."""
    space = lab.namespace("diag")

    def scenario() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener, diag.SocketDiagnosis() as kernel:
            with socket.create_connection(listener.getsockname()) as client:
                (identity,) = (
                    one for one in kernel.connected() if one.cookie == _cookie(client) and one.family == socket.AF_INET
                )
                assert kernel.destroy(identity)
                with pytest.raises(ConnectionAbortedError):
                    client.recv(1)
            assert not kernel.destroy(identity)

    space.call(scenario)


def _cookie(sock: socket.socket) -> int:
    return int(struct.unpack("=Q", sock.getsockopt(socket.SOL_SOCKET, 57, 8))[0])  # SO_COOKIE
