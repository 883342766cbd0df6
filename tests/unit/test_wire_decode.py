# SPDX-License-Identifier: Apache-2.0
"""Decoding of request bodies."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.json import encode as encode_as_declared

from loxiapi.decode import decode_body
from loxiapi.refusal import RefusedError
from loxiapi.wire import (
    PROTOCOLS,
    AllowedSource,
    EndpointEntry,
    LoadBalancerEntry,
    Params,
    SecondaryAddress,
    ServiceArguments,
    encode,
)
from tests.support.recorded_api import ENDPOINT, SCHEMA, Recorded, entry

_NO_SURROGATES = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


def _refusal(body: str | bytes) -> RefusedError:
    with pytest.raises(RefusedError) as caught:
        decode_body(body.encode() if isinstance(body, str) else body, LoadBalancerEntry)
    return caught.value


@pytest.mark.parametrize("recorded", SCHEMA, ids=lambda r: r.body[:60] or "nothing")
def test_schema_refusals_are_as_recorded(recorded: Recorded) -> None:
    """Status and body of each refusal equal the recorded ones."""
    refusal = _refusal(recorded.body)

    assert (refusal.status, refusal.body.decode()) == (recorded.status, recorded.answer)


_ITEM = "LoadbalanceEntryEndpointsItems0"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ('{"a" 1}', "invalid character '1' after object key"),
        ('{"a":1 "b":2}', "invalid character '\"' after object key:value pair"),
        ('{"a":"{" "b":2}', "invalid character '\"' after object key:value pair"),
        ('["\\"{" 2]', "invalid character '2' after array element"),
        ("[1 2]", "invalid character '2' after array element"),
        ('{"a":[{}}', "invalid character '}' after array element"),
        ("{,}", "invalid character ',' looking for beginning of object key string"),
        ('{"a":1,}', "invalid character '}' looking for beginning of object key string"),
        ("[1,]", "invalid character ']' looking for beginning of value"),
        ("'a'", "invalid character '\\'' looking for beginning of value"),
        ("nope", "invalid character 'o' in literal null (expecting 'u')"),
        ('{"a":tru}', "invalid character '}' in literal true (expecting 'e')"),
        ("tru", "unexpected EOF"),
        ("-x", "invalid character 'x' in numeric literal"),
        ("-Infinity", "invalid character 'I' in numeric literal"),
        ("NaN", "invalid character 'N' looking for beginning of value"),
        ('{"a":1.}', "invalid character '}' after decimal point in numeric literal"),
        ('"a\nb"', "invalid character '\\n' in string literal"),
        ('"\\q"', "invalid character 'q' in string escape code"),
        ('"\\u12x4"', "invalid character 'x' in \\u hexadecimal character escape"),
        ('"abc', "unexpected EOF"),
        ("\ufeff{}", "invalid character 'ï' looking for beginning of value"),
        ("[" * 100_000, "exceeded max depth"),
        ("7", "json: cannot unmarshal number into Go value of type models.LoadbalanceEntry"),
        (
            '{"endpoints":{}}',
            f"json: cannot unmarshal object into Go struct field LoadbalanceEntry.endpoints of type []*models.{_ITEM}",
        ),
        (
            '{"endpoints":[1]}',
            f"json: cannot unmarshal number into Go struct field LoadbalanceEntry.endpoints of type models.{_ITEM}",
        ),
        (
            '{"endpoints":[{"weight":"x"}],"serviceArguments":7}',
            f"json: cannot unmarshal string into Go struct field {_ITEM}.endpoints.weight of type int64",
        ),
        (
            entry('"1.1.1.1","probeport":70000'),
            "json: cannot unmarshal number 70000 into Go struct field "
            "LoadbalanceEntryServiceArguments.serviceArguments.probeport of type uint16",
        ),
        (
            entry('"1.1.1.1","port":1.5'),
            "json: cannot unmarshal number 1.5 into Go struct field "
            "LoadbalanceEntryServiceArguments.serviceArguments.port of type int64",
        ),
        (
            entry('"1.1.1.1","port":' + "9" * 5000),
            f"json: cannot unmarshal number {'9' * 5000} into Go struct field "
            "LoadbalanceEntryServiceArguments.serviceArguments.port of type int64",
        ),
        (
            entry('7,"bgp":"yes"'),
            "json: cannot unmarshal number into Go struct field "
            "LoadbalanceEntryServiceArguments.serviceArguments.externalIP of type string",
        ),
    ],
)
def test_undecodable_bodies_are_refused_in_the_words_of_the_contract(body: str, reason: str) -> None:
    """The text names the first thing that is wrong, as Go's decoder does."""
    refusal = _refusal(body)

    assert refusal.status == 400
    assert refusal.message == f'parsing attr body from "" failed, because {reason}'


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("null", "endpoints in body is required"),
        ('{"endpoints":null}', "endpoints in body is required"),
        ('{"endpoints":[null]}', "endpoints.0 in body is required"),
        (
            entry('"1.1.1.1","port":1', f'{ENDPOINT},{{"endpointIP":"a"}}'),
            "endpoints.1.targetPort in body is required",
        ),
        (entry('"1.1.1.1"'), "serviceArguments.serviceArguments.port in body is required"),
        (
            entry('"1.1.1.1","port":1,"oper":3'),
            "serviceArguments.serviceArguments.oper in body should be one of [0 1 2]",
        ),
    ],
)
def test_first_violation_in_order_of_names_is_reported(body: str, message: str) -> None:
    """One violation only, with its path."""
    refusal = _refusal(body)

    assert (refusal.status, refusal.message) == (422, message)


def test_names_match_in_any_case_and_unknown_members_are_ignored() -> None:
    """The spellings of existing clients are taken."""
    body = entry('"20.20.20.1","PORT":80,"BGP":true,"Monitor":true,"path_prefix":{"x":[1]},"sel":7')
    decoded = decode_body(body.replace('"endpoints"', '"secondaryIPs":null,"Endpoints"').encode(), LoadBalancerEntry)

    arguments = decoded.service_arguments
    assert (arguments.port, arguments.bgp, arguments.monitor, arguments.sel) == (80, True, True, 7)
    assert decoded.endpoints == [EndpointEntry(endpoint_ip="31.31.31.1", target_port=8080, weight=1)]


def test_what_follows_the_document_is_ignored_and_the_last_double_counts() -> None:
    """As the original's decoder does."""
    decoded = decode_body(b' {"logLevel":"info","loglevel":"error"} trailing', Params)

    assert decoded.log_level == "error"


def test_broken_text_becomes_replacement_characters() -> None:
    """No text can be decoded that could not be encoded again."""
    body = entry('"1.1.1.1","port":1,"name":"a\\ud800b"').encode().replace(b"a\\ud", b"\xff\\ud")
    decoded = decode_body(body, LoadBalancerEntry)

    assert decoded.service_arguments.name == "\ufffd\ufffdb"
    assert encode(decoded)


_ENTRIES = st.builds(
    LoadBalancerEntry,
    service_arguments=st.builds(
        ServiceArguments,
        external_ip=_NO_SURROGATES,
        port=st.integers(-(2**63), 2**63 - 1),
        protocol=st.sampled_from(["", *PROTOCOLS]),
        sel=st.integers(0, 7),
        mode=st.integers(0, 5),
        bgp=st.booleans(),
        block=st.integers(0, 2**32 - 1),
        inactive_timeout=st.integers(-(2**31), 2**31 - 1),
        name=_NO_SURROGATES,
        oper=st.integers(0, 2),
        probe_type=st.sampled_from(["", "none", "https"]),
        probe_port=st.integers(0, 65535),
    ),
    secondary_ips=st.lists(st.builds(SecondaryAddress, secondary_ip=_NO_SURROGATES), max_size=3),
    allowed_sources=st.lists(st.builds(AllowedSource, prefix=_NO_SURROGATES), max_size=3),
    endpoints=st.lists(
        st.builds(
            EndpointEntry,
            endpoint_ip=_NO_SURROGATES,
            target_port=st.integers(0, 70000),
            weight=st.integers(0, 300),
        ),
        max_size=4,
    ),
)


@given(_ENTRIES)
def test_decoding_undoes_encoding(sent: LoadBalancerEntry) -> None:
    """What one side writes the other side reads, whatever the order of members."""
    assert decode_body(encode(sent), LoadBalancerEntry) == sent
    assert decode_body(encode_as_declared(sent), LoadBalancerEntry) == sent


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["serviceArguments", "ENDPOINTS", "port", "externalIP", "endpointIP", "weight", "x"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@given(_JSON)
def test_any_document_decodes_or_is_refused(document: object) -> None:
    """Nothing but a refusal comes out of a document of any shape."""
    _decode_or_refuse(json.dumps(document).encode())


@given(st.binary(max_size=40) | st.text('{}[]",:\\ut0123.eE-nrf\n ', max_size=20).map(str.encode))
def test_any_bytes_decode_or_are_refused(content: bytes) -> None:
    """Nothing but a refusal comes out of any bytes."""
    _decode_or_refuse(content)


def _decode_or_refuse(content: bytes) -> None:
    try:
        assert isinstance(decode_body(content, LoadBalancerEntry), LoadBalancerEntry)
    except RefusedError as refused:
        assert refused.status in (400, 422)
        assert json.loads(refused.body)["code"] == refused.code
