# SPDX-License-Identifier: Apache-2.0
"""Logs: format, and the level that can be set while running."""

import json
from collections.abc import Iterator

import pytest
import structlog

from loxilb.logs import LogFormat, LogLevel, configure


@pytest.fixture(autouse=True)
def put_back() -> Iterator[None]:
    """Undo the configuration of the logs."""
    yield
    structlog.reset_defaults()


def test_a_line_is_pairs_of_key_and_value(capsys):
    configure(LogLevel("info"), LogFormat.TEXT)
    structlog.get_logger("x").info("interface taken", interface="eth0", index=2)

    line = capsys.readouterr().err
    assert ' level=info event="interface taken" ' in line
    assert "interface=eth0" in line
    assert line.startswith("timestamp=")


def test_a_line_is_an_object(capsys):
    configure(LogLevel("info"), LogFormat.JSON)
    structlog.get_logger("x").error("broken", cause="why")

    event = json.loads(capsys.readouterr().err)
    assert (event["level"], event["event"], event["cause"]) == ("error", "broken", "why")


def test_the_level_changes_while_running(capsys):
    level = LogLevel("error")
    configure(level, LogFormat.TEXT)
    log = structlog.get_logger("x")
    log.info("one")
    level.set("info")
    log.info("two")
    log.debug("three")
    level.set("emergency")
    log.critical("four")

    assert [line.split("event=")[1].split()[0] for line in capsys.readouterr().err.splitlines()] == ["two"]


@pytest.mark.parametrize("word", ["trace", "debug", "info", "notice", "warning", "error", "critical", "alert"])
def test_the_words_of_the_original_are_kept(word):
    assert LogLevel(word).get() == word


def test_an_unknown_word_means_debug():
    level = LogLevel("error")
    level.set("loud")

    assert level.get() == "debug"


def test_trace_is_below_debug(capsys):
    level = LogLevel("debug")
    configure(level, LogFormat.TEXT)
    log = structlog.get_logger("x")
    log.trace("one")
    level.set("trace")
    log.trace("two", flow=1)

    (line,) = capsys.readouterr().err.splitlines()
    assert " level=trace event=two flow=1" in line


def test_observers_hear_of_every_change():
    level = LogLevel("trace")
    seen: list[bool] = []
    level.watch(lambda: seen.append(level.shows("trace")))
    for word in ("info", "trace", "loud"):
        level.set(word)

    assert seen == [True, False, True, False]
