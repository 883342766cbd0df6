# SPDX-License-Identifier: Apache-2.0
"""``loxicmd set``, ``version`` and ``completion``."""

import platform

import click
from msgspec.json import encode

from loxiapi.wire import LOG_LEVELS, Params
from loxicmd.grammar import PROGRAM, CommandError, command, reject_surplus, server_of
from loxicmd.output import call, show_result

_SHELLS = ("bash", "zsh", "fish")


@command("log-level", "Set the log level of the load balancer.")
@click.argument("words", nargs=-1, metavar="LEVEL")
@click.pass_context
def set_log_level(ctx: click.Context, words: tuple[str, ...]) -> None:
    """Set the level of the running daemon."""
    if not words:
        raise click.UsageError("set log-level need <log-level> args")
    if len(words) > 1:
        raise click.UsageError("set log-level command get so many args")
    if words[0] not in LOG_LEVELS:
        raise CommandError(f"set log-level in the {','.join(LOG_LEVELS)}")
    body = encode(Params(log_level=words[0]))
    show_result(ctx, call(server_of(ctx), "POST", "/config/params", body=body), debug=False)


@command("version", "Show the version of loxicmd.")
@click.argument("words", nargs=-1, metavar="")
def version(words: tuple[str, ...]) -> None:
    """Show this program's version."""
    from importlib.metadata import version as version_of  # noqa: PLC0415 slow to import, needed only here

    reject_surplus(words, 0)
    print(f"Loxicmd version: {version_of('loxilb')}")
    print(f"Loxicmd build info: Python {platform.python_version()}")


@command("completion", "Write the completion script for a shell: bash, zsh or fish.")
@click.argument("words", nargs=-1, metavar="SHELL")
@click.pass_context
def completion(ctx: click.Context, words: tuple[str, ...]) -> None:
    """Write the script to stdout."""
    from click.shell_completion import get_completion_class  # noqa: PLC0415 needed only here

    if words == ("powershell",):
        raise CommandError("completion for powershell is not built yet")
    if len(words) != 1 or words[0] not in _SHELLS:
        raise click.UsageError(f'invalid argument "{" ".join(words)}" for "loxicmd completion"')
    kind = get_completion_class(words[0])
    if kind is None:
        raise CommandError(f"completion for {words[0]} is not built yet")
    print(kind(ctx.find_root().command, {}, PROGRAM, f"_{PROGRAM.upper()}_COMPLETE").source())
