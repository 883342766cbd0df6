# SPDX-License-Identifier: Apache-2.0
"""``loxicmd get status`` and ``loxicmd audit``: how the daemon's work in the background stands."""

import click

from loxiapi.status import ReconcilerStatus, WorkEntry
from loxicmd.colours import paint, wanted
from loxicmd.grammar import command, reject_surplus, server_of
from loxicmd.output import call, fetch, plain, show_result, show_structure, show_table, structured
from loxicmd.watching import Watchable

_HEADER = ("Work", "State", "Failures", "Last done", "Cause")


@command("status", "Show how the work in the background stands.", Watchable)
@click.argument("words", nargs=-1, metavar="")
@click.pass_context
def show(ctx: click.Context, words: tuple[str, ...]) -> None:
    """Show each kind of work, and what was repaired."""
    reject_surplus(words, 0)
    found = fetch(ctx, "/status/reconciler", ReconcilerStatus)
    if structured(ctx):
        show_structure(ctx, plain(found))
        return
    show_table(_HEADER, [_cells(entry) for entry in found.works])
    repairs = ", ".join(f"{one.what} {one.count}" for one in found.repairs)
    verdict = f"{found.state}; repaired: {repairs or 'nothing'}"
    print(paint(verdict) if wanted() else verdict)


@command("audit", "Compare the maps with the configuration now, and repair them.")
@click.argument("words", nargs=-1, metavar="")
@click.pass_context
def audit(ctx: click.Context, words: tuple[str, ...]) -> None:
    """Ask for it; what it finds is in the status and in the daemon's log."""
    reject_surplus(words, 0)
    show_result(ctx, call(server_of(ctx), "POST", "/config/audit"), debug=False)


def _cells(entry: WorkEntry) -> list[str]:
    cause = f"{entry.cause} ({entry.remedy})" if entry.remedy else entry.cause
    return [entry.name, entry.state, str(entry.failures), entry.last_done, cause]
