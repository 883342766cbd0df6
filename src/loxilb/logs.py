# SPDX-License-Identifier: Apache-2.0
"""Structured logs on stderr, with a level that can be set while running."""

import sys
from collections.abc import Callable, MutableMapping
from enum import Enum
from typing import Any

import structlog

_RANKS = {
    "trace": 5,
    "debug": 10,
    "info": 20,
    "notice": 25,
    "warning": 30,
    "error": 40,
    "critical": 50,
    "alert": 60,
    "emergency": 70,
}
_DEFAULT = "debug"


class LogFormat(Enum):
    """One line per event: ``key=value`` pairs or a JSON object."""

    TEXT = "text"
    JSON = "json"


class LogLevel:
    """The level in force; events below it are dropped."""

    def __init__(self, level: str = _DEFAULT) -> None:
        """Start with ``level``."""
        self._level = _DEFAULT
        self._observers: list[Callable[[], object]] = []
        self.set(level)

    def get(self) -> str:
        """Return the level in force."""
        return self._level

    def set(self, level: str) -> None:
        """Put ``level`` into force; an unknown word means debug."""
        self._level = level if level in _RANKS else _DEFAULT
        for observer in self._observers:
            observer()

    def shows(self, level: str) -> bool:
        """Tell whether events of ``level`` are logged."""
        return _RANKS[level] >= _RANKS[self._level]

    def watch(self, observer: Callable[[], object]) -> None:
        """Call ``observer`` now, and after every :meth:`set` in the thread that sets."""
        self._observers.append(observer)
        observer()

    def filter(self, _logger: object, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        """Drop events below the level; a processor of structlog."""
        if not self.shows(method if method in _RANKS else _DEFAULT):
            raise structlog.DropEvent
        return event


_EveryLevel: Any = structlog.make_filtering_bound_logger(0)


class Logger(_EveryLevel):  # type: ignore[misc]  # structlog makes the base at run time
    """A logger with the level that structlog has no method for."""

    def trace(self, event: str, **pairs: object) -> None:
        """Log what only somebody who looks for it wants to see."""
        try:
            arguments, keywords = self._process_event("trace", event, pairs)
        except structlog.DropEvent:
            return
        self._logger.msg(*arguments, **keywords)


def configure(level: LogLevel, form: LogFormat) -> None:
    """Send the logs of this process to stderr."""
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if form is LogFormat.JSON
        else structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "event"])
    )
    structlog.configure(
        processors=[
            level.filter,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=Logger,
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
