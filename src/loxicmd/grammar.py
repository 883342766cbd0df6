# SPDX-License-Identifier: Apache-2.0
"""The grammar that all commands share: flags valid at any position, flag spellings, and how errors look.

It follows the original, whose parser differs from click's: a boolean flag may carry a value
(``--bgp=false``), a short flag may have ``=`` (``-p=8080``), lists are comma separated and may be repeated.
"""

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import import_module
from typing import Any

import click

from loxiapi.client import Server

PROGRAM = "loxicmd"
_SETTINGS = "loxicmd.settings"
_CONTEXT = {"help_option_names": ["-h", "--help"]}
_TRUE_WORDS = ("1", "t", "T", "true", "True", "TRUE")
_FALSE_WORDS = ("0", "f", "F", "false", "False", "FALSE")


class CommandError(Exception):
    """A command that failed; the text goes to stderr after ``Error: ``, and the exit code is 1."""


class UnknownCommandError(click.UsageError):
    """A word after ``get``, ``create`` and so on that is no command."""


class _CommaList(click.ParamType[list[str]]):
    """A comma separated list."""

    name = "list"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[str]:
        """Split ``value``; empty parts vanish."""
        del param, ctx
        return value if isinstance(value, list) else [part.strip() for part in value.split(",") if part.strip()]


def list_option(name: str, help_text: str) -> Callable[[Any], Any]:
    """Declare an option that takes comma separated lists and may be repeated."""
    return click.option(name, type=_CommaList(), multiple=True, help=help_text, callback=_flatten)


def _flatten(_ctx: click.Context, _param: click.Parameter, value: Sequence[list[str]]) -> list[str]:
    return [part for parts in value for part in parts]


def _remember(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    source = ctx.get_parameter_source(param.name or "")
    if source is not click.core.ParameterSource.DEFAULT:
        ctx.meta.setdefault(_SETTINGS, {})[param.name] = value


def offering(words: Iterable[str]) -> Callable[[click.Context, click.Parameter, str], list[Any]]:
    """Return what offers the shell those of ``words`` that begin with what is there already."""
    known = tuple(words)
    return lambda _ctx, _parameter, incomplete: [one for one in known if one.startswith(incomplete)]


def _shared(*names: str, help_text: str, **more: Any) -> click.Option:
    return click.Option(list(names), help=help_text, expose_value=False, callback=_remember, **more)


_SHARED_OPTIONS: Sequence[click.Option] = (
    _shared("-s", "--apiserver", help_text="API server address [127.0.0.1]"),
    _shared("-p", "--port", type=click.IntRange(1, 65535), help_text="API server port [11111]"),
    _shared("--protocol", type=click.Choice(["http", "https"]), help_text="http or https [http]"),
    _shared("-t", "--timeout", type=click.IntRange(min=0), help_text="Seconds to wait, 0 for ever [10]"),
    _shared("-o", "--output", help_text="wide, json or yaml", shell_complete=offering(("wide", "json", "yaml"))),
    _shared("--token", help_text="Access token"),
    _shared("--cacert", help_text="File with the certificates to trust (https)"),
    _shared("--insecure", is_flag=True, help_text="Do not check the server's certificate (https)"),
)


class Command(click.Command):
    """A command with the shared flags and the original's flag spellings."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Add the shared flags."""
        own = super().get_params(ctx)
        return [*own[:-1], *_SHARED_OPTIONS, own[-1]] if own else [*_SHARED_OPTIONS]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Rewrite the spellings that click does not know."""
        return super().parse_args(ctx, _respell(args, self.get_params(ctx)))


class Group(click.Group):
    """A group whose commands are imported when they are used.

    ``commands_at`` maps each name and alias to ``module:attribute``; ``not_built`` are the original's words
    that this program does not have. ``rejection`` is the error text for other words.
    """

    def __init__(
        self,
        name: str,
        *,
        commands_at: Mapping[str, str],
        not_built: Sequence[str],
        rejection: Callable[[Sequence[str]], str],
        help_text: str,
    ) -> None:
        """Keep the table; nothing is imported yet."""
        super().__init__(
            name,
            help=help_text,
            callback=self._reject_alone,
            context_settings=_CONTEXT,
            invoke_without_command=True,
        )
        self._commands_at = commands_at
        self._not_built = not_built
        self._rejection = rejection

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Add the shared flags."""
        return [*_SHARED_OPTIONS, *super().get_params(ctx)]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Rewrite the spellings that click does not know."""
        return super().parse_args(ctx, _respell(args, self.get_params(ctx)))

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names without the aliases."""
        del ctx
        first = {place: name for name, place in reversed(list(self._commands_at.items()))}
        return sorted(first.values())

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command."""
        del ctx
        place = self._commands_at.get(cmd_name)
        if place is None:
            return None
        module, attribute = place.split(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Reject unknown words in the words of the original."""
        command = self.get_command(ctx, args[0])
        if command is not None:
            return command.name, command, args[1:]
        if args[0].startswith("-"):
            raise click.NoSuchOption(args[0], ctx=ctx)
        if args[0] in self._not_built:
            raise UnknownCommandError(f"{self._rejection(args)}\n{args[0]} is not built yet", ctx=ctx)
        raise UnknownCommandError(self._rejection(args), ctx=ctx)

    def _reject_alone(self) -> None:
        """Reject a verb without a word."""
        ctx = click.get_current_context()
        if ctx.invoked_subcommand is None:
            raise UnknownCommandError(self._rejection([]), ctx=ctx)


def command(name: str, help_text: str, kind: type[Command] = Command) -> Callable[[Callable[..., Any]], Command]:
    """Declare a command."""
    return click.command(name, cls=kind, help=help_text, context_settings=_CONTEXT)


def suggesting(name: str) -> Callable[[click.Context, click.Parameter, str], list[Any]]:
    """Return the function of :mod:`loxicmd.suggestions` with this name, imported when the shell asks."""

    def suggest(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[Any]:
        found: list[Any] = getattr(import_module("loxicmd.suggestions"), name)(ctx, parameter, incomplete)
        return found

    return suggest


def _respell(args: Sequence[str], params: Sequence[click.Parameter]) -> list[str]:
    flags = {name for p in params if isinstance(p, click.Option) and p.is_flag for name in p.opts}
    respelled: list[str] = []
    for position, arg in enumerate(args):
        if arg == "--":
            return [*respelled, *args[position:]]
        name, equals, value = arg.partition("=")
        if equals and name in flags and value in _FALSE_WORDS:
            continue
        if equals and name in flags and value in _TRUE_WORDS:
            respelled.append(name)
        elif equals and len(name) == 2 and name[0] == "-" and name[1] != "-":
            respelled.append(name + value)
        else:
            respelled.append(arg)
    return respelled


def server_of(ctx: click.Context) -> Server:
    """Return the server that the shared flags name."""
    given = ctx.meta.get(_SETTINGS, {})
    names = {
        "apiserver": "host",
        "port": "port",
        "protocol": "protocol",
        "timeout": "timeout",
        "token": "token",
        "cacert": "ca_file",
        "insecure": "insecure",
    }
    return Server(agent=PROGRAM, **{names[name]: value for name, value in given.items() if name in names})


def output_of(ctx: click.Context) -> str:
    """Return the value of ``--output``, "" when not given."""
    text: str = ctx.meta.get(_SETTINGS, {}).get("output", "")
    return text


def reject_surplus(words: Sequence[str], allowed: int) -> None:
    """Refuse positional arguments beyond the first ``allowed``."""
    if len(words) > allowed:
        raise click.UsageError(f"too many arguments: {' '.join(words[allowed:])}")


def run(root: click.Command, args: Sequence[str]) -> int:
    """Run ``root`` and return the exit code: 0, or 1 after a text on stderr."""
    try:
        root.main(list(args), prog_name=PROGRAM, standalone_mode=False)
    except CommandError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    except click.UsageError as error:
        print(f"Error: {_usage_text(error)}", file=sys.stderr)
        if error.ctx is not None:
            help_text = error.ctx.get_help() if isinstance(error, UnknownCommandError) else error.ctx.get_usage()
            print(help_text, file=sys.stderr)
        return 1
    except click.exceptions.Exit as ending:
        return ending.exit_code
    except (click.Abort, BrokenPipeError):
        return 1
    return 0


def _usage_text(error: click.UsageError) -> str:
    """Say what is wrong with a flag in the words of the original."""
    if isinstance(error, click.NoSuchOption):
        return f"unknown flag: {error.option_name}"
    if isinstance(error, click.BadParameter) and isinstance(error.param, click.Option):
        return f'invalid argument for "{", ".join(error.param.opts)}" flag: {error.message}'
    return error.message
