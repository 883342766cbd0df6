# SPDX-License-Identifier: Apache-2.0
"""The configuration service finds and repairs what somebody else wrote to the maps."""

import pytest
from structlog.testing import capture_logs

from loxilb.errors import KernelError
from loxilb.model import Selection
from loxilb.model.image import Image
from loxilb.plan import listeners_of
from tests.support.services import key, service
from tests.support.stored import NAMED, Stage, play

(LISTENER,) = listeners_of(service())


def test_what_differs_is_repaired_counted_and_said():
    async def scene(stage: Stage) -> None:
        await stage.service.put(service())
        await stage.service.put(NAMED if NAMED.key != key() else service(of=key(port=1)))
        before = stage.fake.observe()
        stage.fake._listeners.pop(LISTENER)
        stage.fake._endpoints.pop(min(before.endpoints))
        with capture_logs() as logs:
            assert await stage.service.audit() == {"endpoint": 1, "listener": 1}
            assert await stage.service.audit() == {}

        assert stage.fake.observe() == before
        assert [one["event"] for one in logs] == ["somebody else changed the maps, and they were repaired"]

    play(scene)


def test_a_repair_that_is_refused_changes_nothing_and_is_found_again():
    async def scene(stage: Stage) -> None:
        await stage.service.put(service(selection=Selection.RR))
        free = stage.service._ledger.free
        stage.fake._rules.clear()
        stage.fake.fail_in(0)
        with pytest.raises(KernelError):
            await stage.service.audit()
        assert stage.service._ledger.free == free
        assert await stage.service.audit() == {"rule": 1}
        await stage.service.delete(key())
        assert stage.fake.observe() == Image()

    play(scene)


def test_what_is_written_meanwhile_is_left_alone(monkeypatch):
    """The comparison runs beside writes: what it saw of a service that has changed since says nothing."""

    async def scene(stage: Stage) -> None:
        for port in (1, 2):
            await stage.service.put(service(of=key(port=port)))
        old = stage.fake.observe()
        seen = Image(rules=old.rules, endpoints=old.endpoints, rings=old.rings, sources=old.sources)
        found = (await stage.service._run(stage.service._snapshot), stage.service._compare)
        (records, services), compare = found
        await stage.service.delete(key(port=1))
        await stage.service.put(service(of=key(port=3)))
        now = stage.fake.observe()
        with monkeypatch.context() as patch:
            patch.setattr(stage.service._data_plane, "observe", lambda: seen)
            findings = compare(services)
        assert findings.counts == {"listener": 2}
        assert await stage.service._run(stage.service._repair, findings, records, services) == {"listener": 1}
        assert stage.fake.observe() == now

    play(scene)
