# SPDX-License-Identifier: Apache-2.0
"""Structured logs on stderr, with a level that can be set while running."""

import sys
from collections.abc import MutableMapping
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
        self.set(level)

    def get(self) -> str:
        """Return the level in force."""
        return self._level

    def set(self, level: str) -> None:
        """Put ``level`` into force; an unknown word means debug."""
        self._level = level if level in _RANKS else _DEFAULT

    def filter(self, _logger: object, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        """Drop events below the level; a processor of structlog."""
        if _RANKS.get(method, _RANKS[_DEFAULT]) < _RANKS[self._level]:
            raise structlog.DropEvent
        return event


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
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
