# SPDX-License-Identifier: Apache-2.0
"""Bytes of probes: echo packets and HTTP."""

from ipaddress import ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loxilb.proto.checksum import checksum
from loxilb.proto.probe.echo import echo_reply, echo_request
from loxilb.proto.probe.http import MAX_BODY, Response, get_request

V4, V6 = ip_address("10.0.0.1"), ip_address("4ffe::1")


def ip_header(words: int) -> bytes:
    return bytes([0x40 | words]) + bytes(words * 4 - 1)


def test_an_echo_request_is_as_the_rfc_says():
    four, six = echo_request(4, 0x123, 0x4567), echo_request(6, 0x123, 0x4567)

    assert (four[:2], four[4:8], len(four)) == (b"\x08\x00", b"\x01\x23\x45\x67", 100)
    assert checksum(four) == 0
    assert six[:8] == b"\x80\x00\x00\x00\x01\x23\x45\x67"


def test_the_checksum_is_that_of_rfc_1071():
    """The example of its section 3, and one that carries twice."""
    assert checksum(bytes.fromhex("0001f203f4f5f6f7")) == 0xFFFF & ~0xDDF2
    assert checksum(b"\xff\xff" * 40_000) == 0


@pytest.mark.parametrize("words", [5, 6, 15])
def test_a_reply_is_found_behind_any_header(words):
    assert echo_reply(4, ip_header(words) + bytes.fromhex("00000000 0123 4567")) == (0x123, 0x4567)


@pytest.mark.parametrize(
    ("version", "packet"),
    [
        (4, b""),
        (4, ip_header(5)),
        (4, ip_header(15) + bytes(7)),
        (4, ip_header(5) + echo_request(4, 1, 1)),
        (4, ip_header(5) + bytes.fromhex("00010000 0123 4567")),
        (6, bytes(8)),
        (6, bytes.fromhex("810000")),
    ],
)
def test_anything_else_is_no_reply(version, packet):
    assert echo_reply(version, packet) is None


def test_a_version_6_reply_has_no_header():
    assert echo_reply(6, bytes.fromhex("81000000 0123 4567")) == (0x123, 0x4567)


@settings(deadline=None)
@given(st.sampled_from([4, 6]), st.binary(max_size=80))
def test_no_packet_upsets_the_reader(version, packet):
    assert echo_reply(version, packet) is None or len(packet) >= 8


@pytest.mark.parametrize(
    ("address", "port", "path", "first", "host"),
    [
        (V4, 80, "", "GET / HTTP/1.1", "10.0.0.1"),
        (V4, 8080, "health?deep=1", "GET /health?deep=1 HTTP/1.1", "10.0.0.1:8080"),
        (V6, 443, "/a b", "GET /a%20b HTTP/1.1", "[4ffe::1]"),
        (V6, 8443, "x\r\nEvil: 1", "GET /x%0D%0AEvil:%201 HTTP/1.1", "[4ffe::1]:8443"),
    ],
)
def test_a_request_is_one_request(address, port, path, first, host):
    lines = get_request(address, port, path).decode().split("\r\n")

    assert lines[:2] == [first, f"Host: {host}"]
    assert lines[-2:] == ["", ""]
    assert len(lines) == 7


def fault_of(text: str, expected: str = "") -> str:
    response = Response()
    for at in range(0, len(text), 7):
        response.feed(text[at : at + 7].encode())
    return response.fault(expected)


@pytest.mark.parametrize(
    ("text", "expected", "fault"),
    [
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "ok", ""),
        ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n", "ok", ""),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\no\r\n1\r\nk\r\n0\r\n\r\n", "ok", ""),
        ("HTTP/1.0 200 OK\r\n\r\nok", "ok", ""),
        ("HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n", "", ""),
        ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nbad", "ok", "another body than expected"),
        ("HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", "", "status 503"),
        ("HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nok", "ok", "status 404"),
        ("HTTP/1.1 200 OK\r\nContent-", "", "closed before a response came"),
        ("", "", "closed before a response came"),
    ],
)
def test_a_response_is_judged_by_status_and_body(text, expected, fault):
    assert fault_of(text, expected) == fault


@pytest.mark.parametrize("text", ["SSH-2.0-OpenSSH\r\n", "HTTP/1.1 abc\r\n\r\n"])
def test_what_is_no_http_is_told(text):
    with pytest.raises(ValueError, match="no HTTP response"):
        fault_of(text)


def test_a_body_without_end_is_refused():
    with pytest.raises(ValueError, match="more than"):
        fault_of("HTTP/1.1 200 OK\r\n\r\n" + "x" * (MAX_BODY + 100))
