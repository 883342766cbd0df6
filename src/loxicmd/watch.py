# SPDX-License-Identifier: Apache-2.0
"""``loxicmd watch``: what happens, a line each, until interrupted."""

import contextlib
import sys
from collections.abc import Sequence
from datetime import datetime

import click
from msgspec import DecodeError
from msgspec import json as wire_json

from loxiapi.client import FailedError, UnreachableError, follow
from loxiapi.wire import DroppedPacket
from loxicmd.grammar import CommandError, Group, command, reject_surplus, server_of
from loxicmd.output import reason_of, structured
from loxicmd.trace import packet_text


@command("drops", "Show dropped packets as they come, a line each, until interrupted.")
@click.argument("words", nargs=-1, metavar="")
@click.option("--reason", default="", help="Only those with this reason, as source or drop_source")
@click.option("--count", type=click.IntRange(min=1), help="End after so many")
@click.pass_context
def drops(ctx: click.Context, words: tuple[str, ...], reason: str, count: int | None) -> None:
    """Print drops; how many were not shown goes to standard error."""
    reject_surplus(words, 0)
    with contextlib.suppress(KeyboardInterrupt):
        _show(ctx, {"reason": reason} if reason else {}, count)


def _show(ctx: click.Context, query: dict[str, str], count: int | None) -> None:
    shown = 0
    try:
        for line in follow(server_of(ctx), "/watch/drops", query=query):
            drop = wire_json.decode(line, type=DroppedPacket)
            if drop.packet is None:
                print(f"{drop.lost} drops were too many at once to be shown", file=sys.stderr)
                continue
            print(line.decode() if structured(ctx) else _text(drop), flush=True)
            shown += 1
            if shown == count:
                return
    except FailedError as refused:
        raise CommandError(reason_of(refused.answer)) from refused
    except (UnreachableError, DecodeError) as error:
        raise CommandError(str(error)) from error
    raise CommandError("the server has ended the watch")


def _text(drop: DroppedPacket) -> str:
    assert drop.packet is not None
    time = datetime.fromisoformat(drop.time).astimezone().strftime("%H:%M:%S.%f")[:-3]
    where = f"{drop.hook} {drop.interface}"
    return f"{time} {drop.reason:<16} {where:<18} {packet_text(drop.packet)} length {drop.length}"


def _unknown(words: Sequence[str]) -> str:
    return f"watch knows drops, not {words[0]}" if words else "watch needs to know what: drops"


watch = Group(
    "watch",
    commands_at={"drops": "loxicmd.watch:drops"},
    not_built=(),
    rejection=_unknown,
    help_text="Show what happens, until interrupted.",
)
