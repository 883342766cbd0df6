# SPDX-License-Identifier: Apache-2.0
"""Writes loxilb(8) and loxicmd(1) from the commands themselves, as mdoc's older sister man(7) has it.

``python deploy/manpages.py DIRECTORY``
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import click

from loxicmd.root import root as loxicmd
from loxilb.cli import command as loxilb

_NOT_BUILT = "Not built yet"


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A page: its command, section, and what the command cannot tell of itself."""

    command: click.Command
    name: str
    section: int
    about: str
    after: str

    @property
    def file(self) -> str:
        """Name of the file."""
        return f"{self.name}.{self.section}"


PAGES = (
    Page(
        command=loxilb,
        name="loxilb",
        section=8,
        about="load balancer daemon with an eBPF data plane",
        after=""".SH EXIT STATUS
0 when it was told to end, 1 for anything that is wrong.
.SH SIGNALS
SIGTERM and SIGINT end the daemon and leave forwarding in place. SIGHUP has it read its settings and start again with
them, as the program that is installed now, unless they are wrong; on a terminal it ends it.
.SH ENVIRONMENT
Every option can be given as LOXILB_ with its name in capitals and with underscores. NOTIFY_SOCKET and WATCHDOG_USEC
are those of sd_notify(3).
.SH FILES
.TP
/etc/loxilb/loxilb.yaml
Settings by the names of options.
.TP
/var/lib/loxilb
What was configured.
.TP
/sys/fs/bpf/loxilb
Programs and maps that outlive the daemon.
.SH SEE ALSO
loxicmd(1), tc(8), ip(8)
""",
    ),
    Page(
        command=loxicmd,
        name="loxicmd",
        section=1,
        about="command line of the loxilb load balancer",
        after=""".SH EXIT STATUS
0 when it was done, 1 for anything else; the reason is on standard error.
.SH SEE ALSO
loxilb(8)
""",
    ),
)


def text_of(page: Page) -> str:
    """Return a page."""
    context = click.Context(page.command, info_name=page.name, **page.command.context_settings)
    upper = page.name.upper()
    return "\n".join(
        [
            f'.TH {upper} {page.section} "" "loxilb {version("loxilb")}"',
            ".SH NAME",
            f"{page.name} \\- {page.about}",
            ".SH SYNOPSIS",
            f".B {page.name}",
            _escaped(" ".join(page.command.collect_usage_pieces(context))),
            ".SH DESCRIPTION",
            *_paragraphs(page.command),
            ".SH OPTIONS",
            *_options(page.command, context),
            ".SH COMMANDS",
            *_commands(page.command, context),
            page.after,
        ]
    )


def _commands(group: click.Command, context: click.Context) -> Iterator[str]:
    """Describe every command below ``group``, with its own options only."""
    shared = {one.name for one in group.get_params(context)}
    for command, below in _below(group, context):
        words = below.command_path.split(" ", 1)[1]
        usage = " ".join(command.collect_usage_pieces(below))
        yield from (".SS", _escaped(f"{words} {usage}"), *_paragraphs(command), *_options(command, below, shared))


def _below(group: click.Command, context: click.Context) -> Iterator[tuple[click.Command, click.Context]]:
    for name in group.list_commands(context) if isinstance(group, click.Group) else ():
        command = group.get_command(context, name) if isinstance(group, click.Group) else None
        if command is None:
            continue
        below = click.Context(command, info_name=name, parent=context, **command.context_settings)
        if isinstance(command, click.Group):
            yield from _below(command, below)
        else:
            yield command, below


def _options(command: click.Command, context: click.Context, without: set[str | None] | None = None) -> Iterator[str]:
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is None or not record[1] or parameter.name in (without or ()) or _NOT_BUILT in record[1]:
            continue  # what has no text is an argument, which the line above it shows
        yield from (".TP", f".B {_escaped(record[0])}", _escaped(record[1]))


def _paragraphs(command: click.Command) -> Iterator[str]:
    for number, paragraph in enumerate((command.help or "").split("\n\n")):
        if number:
            yield ".PP"
        yield _escaped(" ".join(paragraph.split()))


def _escaped(text: str) -> str:
    """Write hyphens as such, and no control line by accident (groff_man_style(7))."""
    plain = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{plain}" if plain[:1] in (".", "'") else plain


def main(directory: Path) -> None:
    """Write all pages into a directory."""
    directory.mkdir(parents=True, exist_ok=True)
    for page in PAGES:
        (directory / page.file).write_text(text_of(page), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
