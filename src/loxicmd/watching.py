# SPDX-License-Identifier: Apache-2.0
"""``--watch``: show the same again and again, as watch(1) does."""

import contextlib
import sys
import time
from typing import Any

import click

from loxicmd.grammar import Command, CommandError

_SECONDS = "loxicmd.watch"
_DEFAULT = 2
_CLEAR = "\x1b[H\x1b[2J"


def _remember(ctx: click.Context, _param: click.Parameter, value: int | None) -> None:
    ctx.meta[_SECONDS] = value


_WATCH = click.Option(
    ["-w", "--watch"],
    type=click.IntRange(min=1),
    is_flag=False,
    flag_value=_DEFAULT,
    metavar="[SECONDS]",
    help=f"Show again every so many seconds [{_DEFAULT}], until interrupted",
    expose_value=False,
    callback=_remember,
)


class Watchable(Command):
    """A command that shows something, once or until interrupted."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Add the flag."""
        return [_WATCH, *super().get_params(ctx)]

    def invoke(self, ctx: click.Context) -> Any:
        """Run once, or again and again; a server that goes away may come back."""
        seconds = ctx.meta.get(_SECONDS)
        if not seconds:
            return super().invoke(ctx)
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                self._show(ctx)
                time.sleep(seconds)
        return None

    def _show(self, ctx: click.Context) -> None:
        if sys.stdout.isatty():
            print(_CLEAR, end="")
        try:
            super().invoke(ctx)
        except CommandError as error:
            print(f"Error: {error}", file=sys.stderr)
        sys.stdout.flush()
