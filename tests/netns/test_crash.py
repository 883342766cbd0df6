# SPDX-License-Identifier: Apache-2.0
"""``kill -9`` at random points of random writes: no acknowledged write is lost, store, data plane and traffic agree."""

import http.client
import json
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import pytest

from loxilb.kernel.bpf import BpfDataPlane, DataPlaneSettings
from loxilb.model import Selection
from loxilb.plan import recover
from tests.support.lab import Lab
from tests.support.lab_star import PORT, SERVERS4, build
from tests.support.traffic import ask

pytestmark = pytest.mark.must_run
STEADY, CHANGING = "20.20.20.1", "20.20.20.2"


@dataclass(frozen=True, slots=True)
class Rule:
    """What a write asks for and the API shows."""

    name: str
    selection: int
    timeout: int
    endpoints: frozenset[tuple[str, int]]

    def body(self, vip: str, port: int) -> dict[str, Any]:
        """Return the request that creates it."""
        return {
            "serviceArguments": {
                "externalIP": vip,
                "port": port,
                "protocol": "tcp",
                "name": self.name,
                "sel": self.selection,
                "inactiveTimeOut": self.timeout,
            },
            "endpoints": [{"endpointIP": ip, "targetPort": target, "weight": 1} for ip, target in self.endpoints],
        }


Place = tuple[str, int]
Rules = dict[Place, Rule]


@dataclass(frozen=True, slots=True)
class State:
    """Everything that the writes of this test change."""

    rules: Rules
    level: str = "debug"
    probed: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Write:
    """One request and what it makes of a state."""

    method: str
    path: str
    body: dict[str, Any] | None
    after: State


class Writer:
    """Makes random writes."""

    def __init__(self, seed: int) -> None:
        """Use a seed, so that a failure names what it was."""
        self.seed = seed
        self.random = random.Random(seed)

    def write(self, now: State) -> Write:
        """Return a write that changes ``now``."""
        kind = self.random.choices(("put", "steady", "delete", "name", "level", "probe"), (8, 3, 3, 1, 1, 1))[0]
        if kind == "level":
            level = self.random.choice([one for one in ("debug", "info", "trace", "error") if one != now.level])
            return Write("POST", "/config/params", {"logLevel": level}, replace(now, level=level))
        if kind == "probe":
            name = f"probe{self.random.randrange(10**9)}"
            body = {"hostName": SERVERS4[0], "name": name, "probeType": "none"}
            return Write("POST", "/config/endpoint", body, replace(now, probed=now.probed | {name}))
        if kind == "name":
            named = [rule.name for place, rule in now.rules.items() if place[0] == CHANGING]
            gone = self.random.choice([*named, "nobody"])
            path = f"/config/loadbalancer/name/{gone}"
            kept = {place: rule for place, rule in now.rules.items() if rule.name != gone}
            return Write("DELETE", path, None, replace(now, rules=kept))
        places = sorted(place for place in now.rules if place[0] == CHANGING)
        if kind == "delete" and places:
            place = self.random.choice(places)
            path = f"/config/loadbalancer/externalipaddress/{place[0]}/port/{place[1]}/protocol/tcp"
            return Write("DELETE", path, None, replace(now, rules={k: v for k, v in now.rules.items() if k != place}))
        place = (STEADY, 2020) if kind == "steady" else (CHANGING, self.random.randrange(1, 12))
        return self.put(now, place, now.rules.get(place))

    def put(self, now: State, place: Place, before: Rule | None) -> Write:
        """Replace a rule; that of the steady address keeps its endpoints."""
        made = Rule(
            name=f"rule{self.random.randrange(10**9)}",
            selection=self.random.choice((Selection.RR, Selection.HASH, Selection.LC, Selection.PRIORITY)).value,
            timeout=self.random.randrange(60, 600),
            endpoints=frozenset((one, PORT) for one in SERVERS4[:2])
            if place[0] == STEADY
            else frozenset(
                (f"31.31.31.{self.random.randrange(1, 200)}", PORT) for _ in range(self.random.randrange(1, 40))
            ),
        )
        assert made != before
        body = made.body(*place)
        return Write("POST", "/config/loadbalancer", body, replace(now, rules={**now.rules, place: made}))


def send(write: Write) -> int:
    """Send a write on a connection of its own and return the status; raises OSError when the answer does not come."""
    api = http.client.HTTPConnection("127.0.0.1", 11111, timeout=10)
    try:
        body = None if write.body is None else json.dumps(write.body)
        api.request(write.method, f"/netlox/v1{write.path}", body, {"Content-Type": "application/json"})
        return api.getresponse().status
    except http.client.HTTPException as error:
        raise ConnectionError(str(error)) from error
    finally:
        api.close()


def rules_shown(entries: list[dict[str, Any]]) -> Rules:
    """Return what the API shows."""
    return {
        (one["externalIP"], one["port"]): Rule(
            name=one.get("name", ""),
            selection=one.get("sel", 0),
            timeout=one["inactiveTimeOut"],
            endpoints=frozenset((each["endpointIP"], each["targetPort"]) for each in entry["endpoints"]),
        )
        for entry in entries
        for one in (entry["serviceArguments"],)
    }


def rules_programmed(observer: BpfDataPlane) -> Rules:
    """Return what the maps hold; they know no names."""
    return {
        (str(one.key.address), one.key.port): Rule(
            name="",
            selection=one.selection.value,
            timeout=one.inactive_timeout,
            endpoints=frozenset((str(each.address), each.port) for each in one.endpoints),
        )
        for one in recover(observer.observe())
    }


class Ordeal:
    """A daemon that is killed again and again, and what it must still know."""

    def __init__(self, lab: Lab, seed: int) -> None:
        """Start it, with a rule for the client that asks all the time."""
        self.star = build(lab, servers=2)
        self.lb = self.star.lb
        self.writer = Writer(seed)
        self.lb.start()
        self.state = State({})
        self.took = 0.0  # seconds that the last acknowledged write took: a kill within them cuts the next one
        self._settle(self.writer.put(self.state, (STEADY, 2020), None))
        self.observer = self.lb.namespace.call(BpfDataPlane.open, DataPlaneSettings())
        lab.undo(self.observer.close)

    def kill_while_writing(self) -> bool:
        """Write until the kill comes; tells whether it came in the middle of a write."""
        for _ in range(self.writer.random.randrange(3)):
            self._settle(self.writer.write(self.state))
        write = self.writer.write(self.state)
        daemon = self.lb._daemon
        assert daemon is not None
        delay = self.writer.random.uniform(0, self.took)
        killer = threading.Timer(delay, os.kill, (daemon.popen.pid, signal.SIGKILL))
        killer.start()
        cut = True
        with suppress(OSError):
            self._settle(write)
            cut = False
        killer.join()
        daemon.stop()
        self.lb.start()
        self._check(write.after if cut else self.state)
        return cut

    def _settle(self, write: Write) -> None:
        began = time.monotonic()
        assert self.lb.namespace.call(send, write) == 200
        self.took = time.monotonic() - began
        self.state = write.after

    def _check(self, other: State) -> None:
        """Compare with what was acknowledged, or with ``other`` that may have become of the last write, whole."""
        shown = State(
            rules_shown(self.lb.api("GET", "/config/loadbalancer/all")["lbAttr"]),
            self.lb.api("GET", "/config/params")["logLevel"],
            frozenset(
                one["name"]
                for one in self.lb.api("GET", "/config/endpoint/all")["Attr"]
                if one["name"].startswith("probe")
            ),
        )
        assert shown in (self.state, other), f"seed {self.writer.seed}"
        assert rules_programmed(self.observer) == {
            place: replace(rule, name="") for place, rule in shown.rules.items()
        }, f"seed {self.writer.seed}"
        self.state = shown

    @contextmanager
    def traffic(self) -> Iterator[list[str]]:
        """Ask the steady address all the time; yields what was answered."""
        answers: list[str] = []
        over = threading.Event()

        def work() -> None:
            while not over.is_set():
                try:
                    answers.append(ask(STEADY, 2020, timeout=3).server)
                except OSError as error:
                    answers.append(f"failed: {error}")

        thread = threading.Thread(target=self.star.client.call, args=(work,))
        thread.start()
        try:
            yield answers
        finally:
            over.set()
            thread.join()


@pytest.mark.parametrize("kills", [30, pytest.param(200, marks=pytest.mark.nightly)])
def test_no_acknowledged_write_is_lost(lab: Lab, kills: int) -> None:
    """The client sees every write whole or not at all, and its requests are answered all the time."""
    seed = random.randrange(10**6)
    ordeal = Ordeal(lab, seed)
    with ordeal.traffic() as answers:
        cut = sum(ordeal.kill_while_writing() for _ in range(kills))

    # A kill that comes after the answer tests nothing but the restart.
    assert kills // 5 < cut, f"seed {seed}"
    assert set(answers) == {"server1", "server2"}, f"seed {seed}"
