# SPDX-License-Identifier: Apache-2.0
"""What the command line shows of known traffic: exact packets and bytes."""

import json

import pytest

from tests.support.lab_star import PORT, SERVERS4, SERVERS6, Star
from tests.support.traffic import Answer, connection

pytestmark = pytest.mark.must_run
PAYLOAD = b"x" * 100
COUNT = 5
by_family = pytest.mark.parametrize(
    ("vip", "server", "header", "client"),
    [("20.20.20.1", SERVERS4[0], 28, "10.10.10.1"), ("2001::1", SERVERS6[0], 48, "3ffe::1")],
    ids=["ipv4", "ipv6"],
)


def reply_size(answer: Answer) -> int:
    """Return the length of the datagram a server answered PAYLOAD with."""
    seen = {"server": answer.server, "client": answer.client, "port": answer.port, "ttl": answer.ttl}
    return len(json.dumps(seen).encode()) + 1 + len(PAYLOAD)


@by_family
def test_both_directions_of_a_flow_are_counted_exactly(
    star: Star, vip: str, server: str, header: int, client: str
) -> None:
    """Packets, and bytes from the IP header on; addresses, ports, state and what is done."""
    source_port = 7000 + header  # its own: flows of a deleted service stay until they age
    star.lb.create(vip, f"--udp=2020:{PORT} --name=counted", [f"{server}:1"])
    for _ in range(COUNT):
        answer = star.ask_datagram(vip, 2020, PAYLOAD, source_port=source_port)
    there, back = COUNT * (header + len(PAYLOAD)), COUNT * (header + reply_size(answer))

    rows = star.lb.rows("get ct")

    assert [row for row in rows if str(source_port) in row[3:5]] == [
        ["counted", *row]
        for row in sorted(
            [
                [
                    vip,
                    client,
                    "2020",
                    str(source_port),
                    "udp",
                    "0:0",
                    "udp-est",
                    act(server, str(PORT), "d"),
                    "5",
                    str(there),
                ],
                [
                    client,
                    server,
                    str(source_port),
                    str(PORT),
                    "udp",
                    "0:0",
                    "udp-est",
                    act(vip, "2020", "s"),
                    "5",
                    str(back),
                ],
            ]
        )
    ]


def act(address: str, port: str, kind: str) -> str:
    """Return the word for a rewrite."""
    return f"{kind}nat-{address}:{port}:w0"


@by_family
def test_traffic_of_each_endpoint_is_counted_exactly(
    star: Star, vip: str, server: str, header: int, client: str
) -> None:
    """Live flows and flows that are over, both directions."""
    star.lb.create(vip, f"--udp=2020:{PORT}", [f"{server}:1"])
    total = 0
    for port in range(7100, 7100 + COUNT):
        answer = star.ask_datagram(vip, 2020, PAYLOAD, source_port=port)
        total += 2 * header + len(PAYLOAD) + reply_size(answer)

    header_row, row = star.lb.rows("get lb -o wide")

    shown = dict(zip(header_row, row, strict=True))
    assert (shown["EXT IP"], shown["ENDPOINT"], shown["EPORT"]) == (vip, server, str(PORT))
    assert shown["COUNTERS"] == f"{2 * COUNT}:{total}"


def test_an_open_connection_is_shown_as_established(star: Star) -> None:
    """And with its closing state once it is reset."""
    star.lb.create("20.20.20.1", f"--tcp=2020:{PORT}", [f"{SERVERS4[0]}:1"])

    def states() -> list[str]:
        return [row[7] for row in star.lb.rows("get ct") if "7200" in row[3:5]]

    def opened() -> list[str]:
        with connection("20.20.20.1", 2020, source_port=7200):
            return states()

    assert star.client.call(opened) == ["est", "est"]
    assert "est" not in states()
