# SPDX-License-Identifier: Apache-2.0
"""``loxicmd get revisions`` and ``rollback``: how the configuration became what it is, and the way back."""

import click
from msgspec.json import encode

from loxiapi.wire import RevisionEntry, RevisionList, Rollback
from loxicmd.grammar import command, reject_surplus, server_of, suggesting
from loxicmd.output import call, fetch, plain, show_result, show_structure, show_table, structured
from loxicmd.watching import Watchable

_HEADER = ("Revision", "Time", "Client", "Agent", "Changes", "Summary")


@command("revisions", "Show the newest writes of the configuration.", Watchable)
@click.argument("words", nargs=-1, metavar="")
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, help="How many at most [100]")
@click.pass_context
def show(ctx: click.Context, words: tuple[str, ...], limit: int) -> None:
    """Show writes, the newest first."""
    reject_surplus(words, 0)
    found = fetch(ctx, f"/config/revisions/all?limit={limit}", RevisionList)
    if structured(ctx):
        show_structure(ctx, plain(found))
        return
    show_table(_HEADER, [_cells(entry) for entry in found.entries])


@command("rollback", "Make the configuration what it was after a revision.")
@click.argument("words", nargs=-1, metavar="REVISION", shell_complete=suggesting("revisions"))
@click.pass_context
def rollback(ctx: click.Context, words: tuple[str, ...]) -> None:
    """Go back to a revision; that is a new one, so that it can be undone alike."""
    reject_surplus(words, 1)
    if not words or not words[0].isdecimal():
        raise click.UsageError("rollback need <revision> args, see: loxicmd get revisions")
    body = encode(Rollback(revision=int(words[0])))
    show_result(ctx, call(server_of(ctx), "POST", "/config/rollback", body=body), debug=False)


def _cells(entry: RevisionEntry) -> list[str]:
    return [
        *(str(entry.number), entry.time, entry.client, entry.agent),
        *(str(entry.size), entry.summary),
    ]
