# SPDX-License-Identifier: Apache-2.0
"""The configuration service and its store: in which order a write is carried out, and how it is undone."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from loxilb.errors import KernelError, NotFound, StoreError
from loxilb.model import Selection
from loxilb.model.image import Image, Op
from loxilb.model.probe import HostState
from loxilb.model.revision import LOG_LEVEL, Changes, Configured
from loxilb.plan import listeners_of
from loxilb.services.config.edits import normal
from tests.support.services import key, service
from tests.support.stored import FIRST, ME, NAMED, TOLD, VIP, Stage, play


def test_a_write_is_stored_before_the_data_plane_has_it(monkeypatch):
    seen: list[Configured] = []

    async def scene(stage: Stage) -> None:
        apply = stage.fake.apply

        def note(ops: Sequence[Op]) -> None:
            seen.append(stage.store.load())
            apply(ops)

        monkeypatch.setattr(stage.fake, "apply", note)
        await stage.service.put(NAMED, author=ME)

    stage = play(scene)

    assert seen == [Configured(services={NAMED.key: NAMED}, revision=1, pending=True)]
    assert stage.store.load() == replace(seen[0], pending=False)
    (revision,) = stage.store.revisions(10)
    assert (revision.author, revision.time, revision.summary) == (ME, 1000.0, "create service 20.20.20.1:2020/tcp")


def test_a_write_is_prepared_before_it_is_stored(monkeypatch):
    prepared, applied, stored = list[Sequence[Op]](), list[Sequence[Op]](), list[Configured]()

    async def scene(stage: Stage) -> None:
        prepare, apply = stage.fake.prepared, stage.fake.apply

        def note_prepared(ops: Sequence[Op]) -> tuple[Op, ...]:
            stored.append(stage.store.load())
            prepared.append(prepare(ops))
            return tuple(prepared[-1])

        def note(ops: Sequence[Op]) -> None:
            applied.append(ops)
            apply(ops)

        monkeypatch.setattr(stage.fake, "prepared", note_prepared)
        monkeypatch.setattr(stage.fake, "apply", note)
        await stage.service.put(NAMED)

    play(scene)

    assert stored == [Configured()]
    assert [id(ops) for ops in prepared] == [id(ops) for ops in applied]


@pytest.mark.parametrize("operation", range(5))
def test_what_the_data_plane_refuses_is_taken_back(operation):
    async def scene(stage: Stage) -> None:
        await stage.service.put(service(of=key("20.20.20.9")))
        before = stage.store.load()
        stage.fake.fail_in(operation)
        with pytest.raises(KernelError):
            await stage.service.put(NAMED)

        assert stage.store.load() == before
        assert await stage.shown() == [normal(service(of=key("20.20.20.9")))]

    play(scene)


def test_what_the_host_refuses_is_taken_back():
    async def scene(stage: Stage) -> None:
        stage.host.refused = {VIP}
        with pytest.raises(KernelError):
            await stage.service.put(service())
        assert stage.store.load() == Configured()

    assert play(scene).fake.observe() == Image()


def test_what_the_store_refuses_never_reaches_the_data_plane():
    async def scene(stage: Stage) -> None:
        await stage.service.put(service())
        before, free, applied = stage.fake.observe(), stage.service._ledger.free, len(stage.fake.applied)
        told = len(stage.changes)
        stage.store.refuse(True)
        for attempt in (
            stage.service.put(service(of=key(port=1))),
            stage.service.delete(key()),
            stage.service.delete_all(),
            stage.service.set_parameter(LOG_LEVEL, "info"),
            stage.service.keep(Changes(endpoints={FIRST: TOLD}), author=ME),
        ):
            with pytest.raises(StoreError, match="readonly"):
                await attempt

        assert (stage.fake.observe(), stage.service._ledger.free) == (before, free)
        assert len(stage.fake.applied) == applied
        assert len(stage.changes) == told
        stage.store.refuse(False)
        await stage.service.put(service(of=key(port=1)))
        assert len(await stage.shown()) == 2

    play(scene)


def test_what_cannot_be_taken_back_now_is_before_the_next_write():
    async def scene(stage: Stage) -> None:
        await stage.service.put(service())
        apply = stage.fake.apply

        def fill(ops: Sequence[Op]) -> None:
            stage.store.refuse(True)
            apply(ops)

        stage.fake.fail_in(0)
        with pytest.MonkeyPatch.context() as patch, capture_logs() as logs, pytest.raises(KernelError):
            patch.setattr(stage.fake, "apply", fill)
            await stage.service.put(NAMED)
        assert [one["event"] for one in logs if one["log_level"] == "error"] == ["refused write still in the store"]
        with pytest.raises(StoreError):
            await stage.service.put(service(of=key(port=1)))
        stage.store.refuse(False)
        await stage.service.put(service(of=key(port=1)))

        assert set(stage.store.load().services) == {key(), key(port=1)}
        assert [one.number for one in await stage.service.revisions(10)] == [3, 1]

    play(scene)


def test_rolling_back_is_a_write_like_any_other():
    async def scene(stage: Stage) -> None:
        await stage.service.put(service(name="one"))
        await stage.service.put(service(("34.34.34.1,80",), of=key(port=2)))
        await stage.service.keep(Changes(endpoints={FIRST: TOLD}), author=ME)
        await stage.service.set_parameter(LOG_LEVEL, "info")
        await stage.service.put(service(name="two", selection=Selection.LC))
        state = stage.store.load()
        stage.changes.clear()
        await stage.service.rollback(1, author=ME)

        assert await stage.shown() == [normal(service(name="one"))]
        assert set(stage.fake.observe().listeners) == set(listeners_of(service()))
        assert stage.changes[-1].endpoints == {FIRST: None}
        assert stage.changes[-1].parameters == {LOG_LEVEL: None}
        newest = (await stage.service.revisions(1))[0]
        assert newest.summary.startswith("roll back to 1: change service 20.20.20.1:2020/tcp; delete service")
        await stage.service.rollback(5)
        assert replace(stage.store.load(), revision=5) == state
        await stage.service.rollback(7)
        assert stage.store.load().revision == 7
        with pytest.raises(NotFound):
            await stage.service.rollback(99)

    play(scene)


def test_a_rollback_that_the_data_plane_refuses_changes_nothing():
    async def scene(stage: Stage) -> None:
        await stage.service.put(service())
        await stage.service.delete(key())
        before = stage.store.load()
        stage.fake.fail_in(2)
        with pytest.raises(KernelError):
            await stage.service.rollback(1)
        assert (stage.store.load(), await stage.shown()) == (before, [])

    play(scene)


def test_what_is_so_already_is_no_revision():
    async def scene(stage: Stage) -> None:
        for _ in range(2):
            await stage.service.keep(Changes(endpoints={FIRST: TOLD}, states={FIRST: HostState.RED}), author=ME)
            await stage.service.set_parameter(LOG_LEVEL, "info")
        await stage.service.keep(Changes(endpoints={"other": None}, states={"other": None}), author=ME)
        assert stage.store.load().revision == 2

    play(scene)


def test_a_parameter_that_is_so_already_comes_into_force_again():
    """A flag may have overridden it since the start."""

    async def scene(stage: Stage) -> None:
        for _ in range(2):
            await stage.service.set_parameter(LOG_LEVEL, "info")
        assert [one.parameters for one in stage.changes[-2:]] == [{LOG_LEVEL: "info"}] * 2
        assert stage.store.load().revision == 1

    play(scene)


def test_what_was_said_of_an_endpoint_ends_with_its_last_user():
    async def scene(stage: Stage) -> None:
        for port in (1, 2):
            await stage.service.put(service(of=key(port=port)))
        await stage.service.keep(
            Changes(states={FIRST: HostState.RED, "32.32.32.1_tcp_8080": HostState.RED}), author=ME
        )
        await stage.service.keep(Changes(endpoints={FIRST: TOLD}), author=ME)
        await stage.service.delete(key(port=1))
        assert len(stage.store.load().states) == 2
        await stage.service.put(service(("33.33.33.1,8080",), of=key(port=2)))
        assert set(stage.store.load().states) == {FIRST}
        await stage.service.keep(Changes(endpoints={FIRST: None}), author=ME)
        assert stage.store.load().states == {}
        assert stage.service._journal.states == {}

    play(scene)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 5), st.sampled_from(["", "refuse", "store", "kernel"]))))
def test_store_and_data_plane_agree_after_every_start(steps: list[tuple[int, int, str]]) -> None:
    """Whatever is written, refused and cut off: no acknowledged write is lost, and both sides say the same."""

    async def scene(stage: Stage) -> None:
        for port, size, fate in steps:
            wanted = service([f"31.31.31.{number},80" for number in range(size)], of=key(port=port + 1), name=str(size))
            known = {one.key: one for one in await stage.shown()}
            there = known.get(wanted.key) == normal(wanted)
            attempt = stage.service.delete(wanted.key) if there else stage.service.put(wanted)
            after = {name: one for name, one in known.items() if name != wanted.key}
            after |= {} if there else {wanted.key: normal(wanted)}
            if fate in ("store", "kernel"):
                await stage.crash(attempt, after=fate)
                await stage.service.start()
            elif fate == "refuse":
                stage.fake.fail_in(0)
                with pytest.raises(KernelError):
                    await attempt
                after = known
            else:
                await attempt
            assert {one.key: one for one in await stage.shown()} == after == stage.store.load().services
            assert set(stage.fake.observe().listeners) == {one for s in after.values() for one in listeners_of(s)}

    play(scene)
