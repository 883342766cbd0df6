# SPDX-License-Identifier: Apache-2.0
"""Thousands of endpoints, endpoints that come and go all the time, and certificates, with the real daemon."""

import socket
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.netns.test_health import OWN, becomes, put_rule, serve, states
from tests.support.certificates import Authority
from tests.support.lab import ROOT, Lab, wait_for
from tests.support.lab_star import SERVERS4, SERVERS6, Star, build

pytestmark = pytest.mark.must_run
VIP4, VIP6 = "20.20.20.1", "2001::1"
COUNT = 2000
_ACCEPTING = f"""
import socket
with socket.create_server(("", {OWN}), backlog=4096) as server:
    print("serves", flush=True)
    while True:
        server.accept()[0].close()
"""
TLS = 9443
FAMILIES = pytest.mark.parametrize(("vip", "server"), [(VIP4, SERVERS4[0]), (VIP6, SERVERS6[0])], ids=["ipv4", "ipv6"])


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return what the daemon finds at /opt/loxilb/cert."""
    return tmp_path_factory.mktemp("certificates")


@pytest.fixture(scope="module")
def running_star(certificates: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Star]:
    """Return a topology of one server that the tests share."""
    with Lab(folder=tmp_path_factory.mktemp("logs")) as lab:
        star = build(lab, servers=1)
        star.lb.start("--xdp", "off", certificates=certificates)
        yield star


def test_two_thousand_endpoints_do_not_starve_the_api(star: Star) -> None:
    """The API answers meanwhile. When all fail at once the service refuses; when they return it serves."""
    star.servers[0].ip("route add local 10.99.0.0/20 dev lo")
    star.lb.namespace.ip(f"route add 10.99.0.0/20 via {SERVERS4[0]}")
    server = star.lab.process(star.servers[0], ROOT / ".venv/bin/python", "-c", _ACCEPTING)
    server.wait_line("serves", deadline=20)
    addresses = tuple(f"10.99.{number // 250}.{number % 250 + 1}" for number in range(COUNT))
    put_rule(star, VIP4, addresses, probeTimeout=3, probetype="tcp", probeport=OWN)

    def probed() -> int:
        text = star.servers[0].run("nstat", "-asz", "TcpPassiveOpens")
        return int(text.split("TcpPassiveOpens")[1].split()[0])

    def served() -> str:
        try:
            with star.client.call(partial(socket.create_connection, (VIP4, 2020), 0.3)) as sock:
                return f"closed {sock.recv(1)!r}"
        except OSError as error:
            return type(error).__name__

    wait_for(lambda: probed() > COUNT * 3 // 2, deadline=60, what="the second round")
    assert Counter(states(star).values()) == {"active": COUNT}
    star.servers[0].ip("link set eth0 down")
    wait_for(lambda: served() == "ConnectionRefusedError", deadline=60, what="all out")
    assert Counter(states(star).values()) == {"inactive": COUNT}
    star.servers[0].ip("link set eth0 up", f"route replace default via {SERVERS4[0].rpartition('.')[0]}.254")
    wait_for(lambda: served() == "closed b''", deadline=60, what="the first one back")
    star.lb.namespace.ip(f"route del 10.99.0.0/20 via {SERVERS4[0]}")
    star.servers[0].ip("addr replace 4ffe::1/64 dev eth0 nodad", "route replace default via 4ffe::2")
    server.stop()


def test_one_that_comes_and_goes_is_held_down(star: Star) -> None:
    """Back at once the first time, after five seconds the second time."""
    process = serve(star.lab, star.servers[0], "server1")
    put_rule(star, VIP4, SERVERS4[:1])
    becomes(star, SERVERS4[0], "active")
    delays = []
    for _ in range(2):
        process.stop()
        becomes(star, SERVERS4[0], "inactive")
        out = time.monotonic()
        process = serve(star.lab, star.servers[0], "server1")
        wait_for(lambda: states(star)[SERVERS4[0]] == "active", deadline=20, what="back")
        delays.append(time.monotonic() - out)
    process.stop()

    assert delays[1] > 4.5
    assert delays[0] < delays[1]


@FAMILIES
def test_https_with_an_authority_and_a_certificate_of_ours(
    star: Star, certificates: Path, tmp_path: Path, vip: str, server: str
) -> None:
    """Without the authority, or without the certificate that the endpoint asks for, it is out; no restart is needed."""
    authority = Authority(tmp_path)
    served, key = authority.issue(tmp_path, "endpoint", f"IP:{server}")
    authority.issue(certificates, "server", "DNS:loxilb")
    trusted = certificates / "rootCA.crt"
    trusted.write_bytes(Authority(certificates).certificate.read_bytes())
    where = f"[{server}]:{TLS}" if ":" in server else f"{server}:{TLS}"
    shown = ("-cert", served, "-key", key, "-CAfile", authority.certificate, "-verify_return_error", "-Verify", "1")
    tls = star.lab.process(star.servers[0], "openssl", "s_server", "-www", *shown, "-accept", where)
    tls.wait_line("ACCEPT", deadline=10)
    put_rule(star, vip, (server,), port=2021, probetype="https", probeport=TLS, probereq="ready")

    becomes(star, server, "inactive")  # another authority is trusted
    trusted.write_bytes(authority.certificate.read_bytes())
    becomes(star, server, "active")
    (certificates / "server.crt").unlink()
    becomes(star, server, "inactive")
    tls.stop()
