# SPDX-License-Identifier: Apache-2.0
"""Flows that open and end come out of the kernel as log lines, while the level asks for them."""

import re
import socket
import struct

import pytest

from tests.support.lab import Lab, wait_for
from tests.support.lab_star import PORT, SERVERS4, SERVERS6, Star, build
from tests.support.traffic import ask_on, connection

pytestmark = pytest.mark.must_run
VIP4, VIP6 = "20.20.20.1", "2001::1"
_RESET = struct.pack("=ii", 1, 0)  # SO_LINGER of zero: close sends a RST, whose flow ends within a second


@pytest.fixture
def star(lab: Lab) -> Star:
    """Return a running load balancer with a service for each IP version."""
    built = build(lab, servers=1)
    built.lb.start("--loglevel", "info")
    built.lb.create(VIP4, f"--tcp=2020:{PORT}", [f"{SERVERS4[0]}:1"])
    built.lb.create(VIP6, f"--tcp=2020:{PORT}", [f"{SERVERS6[0]}:1"])
    return built


def request(vip: str) -> int:
    """Make one request and reset the connection; returns its source port."""
    with connection(vip, 2020) as sock:
        ask_on(sock)
        port: int = sock.getsockname()[1]
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    return port


def lines(star: Star, event: str) -> list[dict[str, str]]:
    """Return the pairs of every log line of one event."""
    wanted = [line for line in star.lb.log().splitlines() if f'event="{event}"' in line]
    return [dict(re.findall(r'(\w+)=("[^"]*"|\S+)', line)) for line in wanted]


def test_both_ends_of_a_flow_are_logged_at_level_trace(star: Star) -> None:
    """Not before the level is set, not after it is set back."""
    star.client.call(request, VIP4)
    star.lb.loxicmd("set log-level trace")
    ports = {vip: star.client.call(request, vip) for vip in (VIP4, VIP6)}
    wanted = {str(port) for port in ports.values()}
    wait_for(lambda: wanted <= {one["source_port"] for one in lines(star, "flow ended")}, deadline=15)
    star.lb.loxicmd("set log-level info")
    star.client.call(request, VIP4)

    (counted,) = wait_for(lambda: lines(star, "flows no longer reported"))
    opened, ended = lines(star, "flow opened"), lines(star, "flow ended")
    assert [(one["destination"], int(one["source_port"])) for one in opened] == list(ports.items())
    assert (counted["opened"], int(counted["ended"])) == ("2", len(ended))
    for vip, client in ((VIP4, "10.10.10.1"), (VIP6, "3ffe::1")):
        (start,) = (one for one in opened if one["destination"] == vip)
        (end,) = (one for one in ended if one["destination"] == vip and one["source_port"] == start["source_port"])
        same = ("protocol", "source", "source_port", "destination", "destination_port", "rule", "endpoint")
        assert [start[name] for name in same] == [end[name] for name in same]
        assert (start["level"], start["source"], start["destination_port"]) == ("trace", client, "2020")
        assert (start["state"], end["state"]) == ("established", "reset")
        assert int(end["packets"]) > int(start["packets"]) > 0
        assert int(end["bytes"]) > int(start["bytes"]) > 0
