# SPDX-License-Identifier: Apache-2.0
"""A load balancer in the usual topology, once with TC alone and once with XDP in front of it."""

from collections.abc import Iterator

import pytest

from loxilb.kernel.netlink import Network
from tests.support.lab import Lab
from tests.support.lab_star import Star, build, take_frames
from tests.support.pair import Pair


# Before Linux 5.13 a veth takes nothing that XDP sends, unless its other end has a program too.
@pytest.fixture(scope="module", params=["off", pytest.param("on", marks=pytest.mark.newer)], ids=["tc", "xdp"])
def running_star(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Star]:
    """Return a topology with a running daemon that the tests of a module share."""
    with Lab(folder=tmp_path_factory.mktemp("logs")) as lab:
        star = build(lab)
        if request.param == "on":
            take_frames(star.client, *star.servers)
        star.lb.start("--xdp", request.param)
        yield star


@pytest.fixture
def star(running_star: Star) -> Iterator[Star]:
    """Return the topology with no service in it; what the test created is deleted."""
    yield running_star
    running_star.lb.clear()


@pytest.fixture
def pair(lab: Lab) -> Iterator[Pair]:
    """Return two connected namespaces with a Network open in the first."""
    here, peer = lab.namespace("here"), lab.namespace("peer")
    lab.link(here, "eth1", peer, "eth1")
    here.ip("addr add 10.10.10.254/24 dev eth1", "addr add 3ffe::2/64 dev eth1 nodad")
    peer.ip("addr add 10.10.10.1/24 dev eth1", "addr add 3ffe::1/64 dev eth1 nodad")
    peer.ip("route add default via 10.10.10.254", "route add default via 3ffe::2")
    with here.call(Network.open) as network:
        yield Pair(here, peer, network)
