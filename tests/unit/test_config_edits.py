# SPDX-License-Identifier: Apache-2.0
"""What a write makes of the service that is there."""

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from loxilb.errors import Conflict, NotFound
from loxilb.model import Mode, Probe, Selection, Service
from loxilb.services.config.edits import all_normal, attached, detached, matching_key, normal, replaced
from tests.support.services import key, service
from tests.unit.test_plan_properties import services

BEFORE = normal(service())


def texts(one: Service | None) -> list[str]:
    """Return the endpoints as ``address,port,weight``."""
    assert one is not None
    return [f"{it.address},{it.port},{it.weight}" for it in one.endpoints]


@given(st.lists(services(), max_size=3))
def test_services_are_kept_together_as_each_is_alone(some):
    assert all_normal(some) == list(map(normal, some))


CHANGES = {
    "mode": service(mode=Mode.FULLNAT),
    "sel": service(selection=Selection.HASH),
    "inactiveTimeOut": service(inactive_timeout=30),
    "name": service(name="other"),
    "monitor": service(monitor=True),
    "bgp": service(bgp=True),
    "probe retries": service(probe=Probe(retries=3)),
    "privateIP": service(private_address=ip_address("10.0.0.1")),
    "weight": service(("31.31.31.1,8080,2", "32.32.32.1,8080", "33.33.33.1,8080")),
    "allowedSources": service(allowed_sources=(ip_network("10.0.0.0/8"),)),
    "halfOpenLimit": service(half_open_limit=100),
    "persistTimeout": service(selection=Selection.PERSIST, persist_timeout=60),
}


@pytest.mark.parametrize("name", CHANGES)
def test_any_field_that_differs_applies(name):
    assert replaced(BEFORE, CHANGES[name]) == normal(CHANGES[name])


@pytest.mark.parametrize("again", [service(), service(inactive_timeout=240), service(managed=True)])
def test_an_identical_service_is_a_conflict(again):
    with pytest.raises(Conflict) as caught:
        replaced(BEFORE, again)
    assert caught.value.code == "lbrule-exists error"


def test_the_order_of_the_request_makes_no_difference():
    with pytest.raises(Conflict):
        replaced(BEFORE, service(("33.33.33.1,8080", "31.31.31.1,8080", "32.32.32.1,8080")))


def test_ipv6_endpoints_that_were_there_keep_their_order():
    before = normal(service(("4ffe::1,80", "5ffe::1,80", "6ffe::1,80"), of=key("2001::1")))
    wanted = service(("7ffe::1,80", "6ffe::1,80", "4ffe::1,80,9"), of=key("2001::1"))

    assert texts(replaced(before, wanted)) == ["4ffe::1,80,9", "6ffe::1,80,1", "7ffe::1,80,1"]


def test_duplicates_stay_as_often_as_they_are_asked_for():
    twice = normal(service(("31.31.31.1,80", "31.31.31.1,80", "32.32.32.1,80")))

    assert texts(replaced(None, service(("31.31.31.1,80", "31.31.31.1,80")))) == ["31.31.31.1,80,1"] * 2
    assert texts(replaced(twice, service(("31.31.31.1,80", "32.32.32.1,80")))) == [
        "31.31.31.1,80,1",
        "32.32.32.1,80,1",
    ]


def test_managed_stays_as_it_was_created():
    after = replaced(BEFORE, service(managed=True, name="new"))

    assert (after.managed, after.name) == (False, "new")


@pytest.mark.parametrize(
    ("wanted", "code"),
    [
        (service(security=1), "lbrule-exist error: cant modify rule security mode"),
        (service(egress=True), "lbrule-exist error: cant modify rule egress mode"),
        (service(mode=Mode.FULLPROXY), "lbrule-exist error: cant modify fullproxy rule mode"),
        (service(secondary_addresses=(ip_address("20.20.20.2"),)), "secIP modify error"),
    ],
)
def test_fixed_fields_stay_as_they_were_created(wanted, code):
    with pytest.raises(Conflict) as caught:
        replaced(BEFORE, wanted)
    assert caught.value.code == code


def test_attached_endpoints_are_added_once():
    wanted = service(("34.34.34.1,80", "31.31.31.1,8080", "34.34.34.1,80"))

    assert texts(attached(BEFORE, wanted)) == [
        "31.31.31.1,8080,1",
        "32.32.32.1,8080,1",
        "33.33.33.1,8080,1",
        "34.34.34.1,80,1",
    ]


def test_attaching_what_is_there_sets_its_weight_and_nothing_else():
    after = attached(BEFORE, service(("32.32.32.1,8080,5",), mode=Mode.FULLNAT))

    assert texts(after) == ["31.31.31.1,8080,1", "32.32.32.1,8080,5", "33.33.33.1,8080,1"]
    assert after.mode is Mode.DEFAULT


def test_attaching_nothing_new_is_a_conflict():
    with pytest.raises(Conflict) as caught:
        attached(BEFORE, service(("32.32.32.1,8080",)))
    assert caught.value.code == "lbrule-exists error"


def test_attaching_to_nothing_creates():
    assert attached(None, service()) == BEFORE


def test_detached_endpoints_go():
    assert texts(detached(BEFORE, service(("32.32.32.1,8080,9", "9.9.9.9,1")))) == [
        "31.31.31.1,8080,1",
        "33.33.33.1,8080,1",
    ]


def test_without_its_last_endpoint_a_service_goes():
    assert detached(BEFORE, service()) is None


def test_detaching_from_nothing_is_not_found():
    with pytest.raises(NotFound) as caught:
        detached(None, service())
    assert caught.value.code == "lbrule not-exists error"


def test_detaching_what_is_not_there_is_a_conflict():
    with pytest.raises(Conflict):
        detached(BEFORE, service(("9.9.9.9,1",)))


def test_the_timeout_is_spelt_out():
    assert normal(service()).inactive_timeout == 240


def test_a_key_without_host_finds_the_only_service_with_one():
    one, two = key(host="a.example"), key(host="b.example")
    others = [key(port=1, host="a.example"), key("20.20.20.2", host="a.example"), replace(one, block=3)]

    assert matching_key([one, *others], key()) == one
    assert matching_key([one, two], key()) is None
    assert matching_key([one], key(host="b.example")) is None
    assert matching_key(others, key()) is None


def test_allowed_sources_are_a_set():
    """The order and repetition in a request mean nothing."""
    networks = [ip_network(text) for text in ("11.0.0.0/8", "10.0.0.0/24", "10.0.0.0/8")]
    before = normal(service(allowed_sources=tuple(networks)))

    assert [str(one) for one in before.allowed_sources] == ["10.0.0.0/8", "10.0.0.0/24", "11.0.0.0/8"]
    with pytest.raises(Conflict):
        replaced(before, service(allowed_sources=(*reversed(networks), networks[0])))


def test_the_default_time_of_persistence_is_kept_as_none():
    persistent = service(selection=Selection.PERSIST)

    assert normal(replace(persistent, persist_timeout=10_800)) == normal(persistent)
