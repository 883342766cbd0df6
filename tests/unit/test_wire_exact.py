# SPDX-License-Identifier: Apache-2.0
"""What is decoded in one go is what the other decoder makes of it, or left to that."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loxiapi.decode import decode_body, decode_some
from loxiapi.exact import exactly, exactly_from
from loxiapi.refusal import RefusedError
from loxiapi.wire import LoadBalancerEntry, LoadBalancerList, encode

_ENDPOINT = {"endpointIP": "31.31.31.1", "targetPort": 8080, "weight": 1}


def _rule(more: object = None, **arguments: Any) -> dict[str, Any]:
    found = {"serviceArguments": {"externalIP": "20.20.20.1", "port": 80, **arguments}, "endpoints": [_ENDPOINT]}
    return found if more is None else {**found, "more": more}


_EXACT = [_rule(), _rule(protocol="udp", sel=7, mode=2, name="é"), _rule(protocol="", onEndpointLoss="drain", block=7)]
_NOT_EXACT = [
    _rule(Port=80),
    _rule(BGP=True),
    _rule(more=1),
    _rule(protocol="gre"),
    _rule(sel=8),
    _rule(sel=1.0),
    _rule(name=None),
    _rule(block=-1),
    {**_rule(), "secondaryIPs": None},
    {"endpoints": []},
]


@pytest.mark.parametrize("rule", _EXACT, ids=str)
def test_what_is_written_as_declared_is_taken(rule: dict[str, Any]) -> None:
    """From JSON and from plain values alike."""
    whole = exactly_from(json.dumps({"lbAttr": [rule]}).encode(), LoadBalancerList)
    one = exactly(rule, LoadBalancerEntry)

    assert whole is not None
    assert one is not None
    assert encode(whole.entries[0]) == encode(one) == encode(decode_body(json.dumps(rule).encode(), LoadBalancerEntry))


@pytest.mark.parametrize("rule", _NOT_EXACT, ids=str)
def test_what_is_not_is_left_to_the_other_decoder(rule: dict[str, Any]) -> None:
    """Unknown members and other cases of letters are ignored or taken there, wrong values refused in its words."""
    assert exactly(rule, LoadBalancerEntry) is None
    assert exactly_from(json.dumps({"lbAttr": [rule]}).encode(), LoadBalancerList) is None


_VALUES = st.one_of(st.none(), st.booleans(), st.integers(-3, 9), st.sampled_from(["", "tcp", "gre", "reset", "x"]))
_NAMES = st.sampled_from(["port", "Port", "protocol", "sel", "mode", "block", "name", "BGP", "onEndpointLoss", "y"])


@settings(deadline=None)
@given(st.dictionaries(_NAMES, _VALUES, max_size=4))
def test_both_decoders_agree(arguments: dict[str, Any]) -> None:
    """A list of one is taken as that one alone, or refused in the same words after its place."""
    rule = json.dumps(_rule(**arguments))
    try:
        alone = decode_body(rule.encode(), LoadBalancerEntry)
    except RefusedError as refused:
        with pytest.raises(RefusedError) as caught:
            decode_some(f'{{"lbAttr":[{rule}]}}'.encode(), LoadBalancerEntry, LoadBalancerList)
        assert caught.value.message == f"lbAttr.0: {refused.message}"
        assert caught.value.status == refused.status
        return
    listed = decode_some(f'{{"lbAttr":[{rule}]}}'.encode(), LoadBalancerEntry, LoadBalancerList)
    assert isinstance(listed, LoadBalancerList)
    assert [encode(one) for one in listed.entries] == [encode(alone)]
