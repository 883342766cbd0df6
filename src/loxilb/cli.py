# SPDX-License-Identifier: Apache-2.0
"""The ``loxilb`` command."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import click
from click.core import ParameterSource

from loxiapi.wire import LOG_LEVELS
from loxilb.app import build_info, run, start_again, take_down
from loxilb.errors import LoxilbError, NotBuilt
from loxilb.kernel.bpf import DEFAULT_TIMEOUTS, DataPlaneSettings, XdpPolicy
from loxilb.logs import LogFormat
from loxilb.model import FlowState
from loxilb.services.interfaces import InterfaceFilter
from loxilb.settings import Settings

_FILE = Path("/etc/loxilb/loxilb.yaml")
_NO_FILE = "none"
_CHOICES = {"loglevel": LOG_LEVELS}
_ENVIRONMENT = "LOXILB"
_NAMED = (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT)
_MAX_FLOWS = 1 << 24
_MAX_RING = 1 << 26
_MAX_TIMEOUT = 86_400


class _Missing(NamedTuple):
    """A flag of the original that is not built; ``default`` None makes it a switch."""

    names: tuple[str, ...]
    default: str | None = None
    env: str | None = None


_MISSING = (
    _Missing(("-b", "--bgp")),
    _Missing(("-k", "--ka"), "none"),
    _Missing(("--tls",), None, "TLS"),
    _Missing(("--tls-host",), "0.0.0.0", "TLS_HOST"),
    _Missing(("--tls-port",), "8091", "TLS_PORT"),
    _Missing(("--tls-certificate",), "/opt/loxilb/cert/server.crt", "TLS_CERTIFICATE"),
    _Missing(("--tls-key",), "/opt/loxilb/cert/server.key", "TLS_PRIVATE_KEY"),
    _Missing(("--cluster",), "none"),
    _Missing(("--self",), "0"),
    _Missing(("--log-max-size",), "50", "LOXILB_LOG_MAX_SIZE"),
    _Missing(("--log-max-backups",), "4", "LOXILB_LOG_MAX_BACKUPS"),
    _Missing(("--log-max-age",), "28", "LOXILB_LOG_MAX_AGE"),
    _Missing(("--log-no-compress",), None, "LOXILB_LOG_NO_COMPRESS"),
    _Missing(("--cpuprofile",), "none", "CPUPROF"),
    _Missing(("--disable-crc32",)),
    _Missing(("--passive-probe",)),
    _Missing(("--rss-enable",)),
    _Missing(("--egr-hooks",)),
    _Missing(("-r", "--peer")),
    _Missing(("--rpc",), "netrpc"),
    _Missing(("--k8s-api",), "none"),
    _Missing(("--ipvs-compat",)),
    _Missing(("--fallback",)),
    _Missing(("--sockmapsupport",)),
    _Missing(("--cloud",), "on-prem"),
    _Missing(("--cloudcidrblock",), ""),
    _Missing(("--cloudinstance",), ""),
    _Missing(("--proxyonlymode",)),
    _Missing(("--clusterinterface",), ""),
    _Missing(("--userservice",)),
    _Missing(("--databasehost",), "127.0.0.1"),
    _Missing(("--databaseport",), "3306"),
    _Missing(("--databaseuser",), "root"),
    _Missing(("--databasename",), "loxilb_db"),
    _Missing(("--databasepasswordpath",), "/etc/loxilb/mysql_password"),
    _Missing(("--manualtoken",)),
    _Missing(("--manualtokenvalue",), "/etc/loxilb/manual_token"),
    _Missing(("--oauth2",)),
    _Missing(("--oauth2provider",), "google"),
    *(
        _Missing((f"--oauth2{provider}-{part}",), "", f"OAUTH2_{provider.upper()}_{variable}")
        for provider in ("google", "github")
        for part, variable in (
            ("clientid", "CLIENT_ID"),
            ("clientsecret", "CLIENT_SECRET"),
            ("redirecturl", "REDIRECT_URL"),
        )
    ),
)


def _missing_options() -> list[click.Parameter]:
    def option(missing: _Missing) -> click.Option:
        def refuse(_context: click.Context, _parameter: click.Parameter, value: Any) -> None:
            if value != missing.default and value is not False:
                raise NotBuilt("not-built error", cause=f"{missing.names[-1]} is not built yet")

        return click.Option(
            missing.names,
            is_flag=missing.default is None,
            default=missing.default or (False if missing.default is None else ""),
            envvar=missing.env,
            expose_value=False,
            callback=refuse,
            help="Not built yet.",
        )

    return [option(missing) for missing in _MISSING]


def _print_version(context: click.Context, _parameter: click.Parameter, asked: bool) -> None:
    if asked:
        info = build_info()
        click.echo(f"loxilb start\nloxilb version: {info.version} {info.build}")
        context.exit()


def _size(name: str, default: int, largest: int, what: str) -> Callable[[click.decorators.FC], click.decorators.FC]:
    return click.option(
        name, type=click.IntRange(1024, largest), default=default, show_default=True, help=f"{what} at most."
    )


_TIMED = {state.name.lower().replace("_", "-"): state for state in FlowState if state is not FlowState.NONE}


class _Timeout(click.ParamType[tuple[FlowState, int]]):
    """``STATE=SECONDS``."""

    name = "STATE=SECONDS"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[FlowState, int]:
        """Return the state and its time."""
        name, _, text = str(value).partition("=")
        if name not in _TIMED:
            self.fail(f"{name!r} is no state of a flow; states are {', '.join(_TIMED)}", param, ctx)
        if not text.isascii() or not text.isdecimal() or not 1 <= int(text) <= _MAX_TIMEOUT:
            self.fail(f"{text!r} for {name} is not a number of seconds from 1 to {_MAX_TIMEOUT}", param, ctx)
        return _TIMED[name], int(text)


def _read_file(context: click.Context, _parameter: click.Parameter, given: str | None) -> None:
    """Take the settings of the file as defaults; that of the usual place need not be there."""
    if given is None and not _FILE.exists():
        return
    if given != _NO_FILE:
        from loxilb.configfile import load  # noqa: PLC0415 a start without a file needs no YAML

        context.default_map = {**load(Path(given or _FILE), context, _CHOICES)}


def _check_expression(_context: click.Context, parameter: click.Parameter, value: str) -> str:
    InterfaceFilter.of(**{"whitelist": "", "blacklist": "", str(parameter.name): value})
    return value


@click.group(
    invoke_without_command=True, context_settings={"max_content_width": 110, "auto_envvar_prefix": _ENVIRONMENT}
)
@click.option(
    *("-v", "--version"),
    is_flag=True,
    is_eager=True,
    expose_value=False,
    allow_from_autoenv=False,
    callback=_print_version,
    help="Show version and build, and exit.",
)
@click.option(
    "--config",
    metavar="FILE|none",
    is_eager=True,
    expose_value=False,
    callback=_read_file,
    help=f"Settings in YAML, named as the flags; without it, {_FILE} where that is there.",
)
@click.option("--netns", metavar="NAME|PATH", help="Network namespace to work in; without it, the caller's.")
@click.option("--bpffs", metavar="DIR", type=Path, help="BPF file system; without it, found or mounted.")
@click.option(
    "--xdp",
    type=click.Choice([policy.value for policy in XdpPolicy]),
    default="auto",
    show_default=True,
    help="XDP in front of TC.",
)
@_size("--flows4", 262_144, _MAX_FLOWS, "IPv4 flows")
@_size("--flows6", 65_536, _MAX_FLOWS, "IPv6 flows")
@_size("--rules", 16_384, _MAX_FLOWS, "Services")
@_size("--endpoints", 32_768, _MAX_FLOWS, "Endpoints of all services")
@_size("--ring", 393_216, _MAX_RING, "Slots for selection (one an endpoint, more by weight, 16381 or 65537 for hash)")
@_size("--listeners", 65_536, _MAX_FLOWS, "Addresses and ports, by IP version (one a port of a range, two with a mark)")
@click.option(
    "--store",
    metavar="FILE|none",
    default="",
    help="Where the configuration is kept; without it, below /var/lib/loxilb, by namespace.",
)
@click.option(
    "--config-path",
    metavar="DIR",
    type=Path,
    default=Path("/etc/loxilb/"),
    show_default=True,
    help="Files of loxicmd save, imported when nothing is configured and nothing was.",
)
@click.option(
    "--timeout",
    type=_Timeout(),
    multiple=True,
    help=f"Seconds without a packet after which a flow ends, by state; repeatable. States: {', '.join(_TIMED)}.",
)
@click.option(
    "--host", envvar=["LOXILB_HOST", "HOST"], default="0.0.0.0", show_default=True, help="Address of the API."
)
@click.option(
    "--port",
    envvar=["LOXILB_PORT", "PORT"],
    type=click.IntRange(0, 65535),
    default=11111,
    show_default=True,
    help="Port of the API; 0 takes a free one.",
)
@click.option("--localsockpolicy", is_flag=True, help="Serve the processes of this host too, by their sockets.")
@click.option("-a", "--api", "no_api", is_flag=True, help="Do not serve the API.")
@click.option("-n", "--nonlp", is_flag=True, help="Do not follow links and routes after the start.")
@click.option(
    "--auditinterval",
    type=click.FloatRange(min=0),
    default=60.0,
    metavar="SECONDS",
    help="How often the contents of the maps are compared with the configuration; 0 only when asked for [60].",
)
@click.option("-p", "--prometheus", is_flag=True, help="Serve metrics at /netlox/v1/metrics, and at /metrics.")
@click.option(
    "--whitelist",
    metavar="REGEX",
    default="none",
    callback=_check_expression,
    help="Work on interfaces that match, only.",
)
@click.option(
    "--blacklist", metavar="REGEX", default="none", callback=_check_expression, help="Leave out interfaces that match."
)
@click.option(
    "--loglevel",
    default="debug",
    show_default=True,
    help="trace, debug, info, notice, warning, error, critical, alert or emergency.",
)
@click.option(
    "--log-format",
    type=click.Choice([form.value for form in LogFormat]),
    default="text",
    show_default=True,
    help="Form of the log lines.",
)
@click.pass_context
def command(context: click.Context, /, **options: Any) -> None:
    """Load balancer: serves the API and keeps the data plane in line with it.

    Stopping it leaves forwarding in place; "loxilb down" ends it. What was configured is kept on disk.

    A flag counts more than its environment variable (LOXILB_ and the flag's name, such as LOXILB_LOG_FORMAT), that more
    than the file, and that more than the default.
    """
    context.obj = options
    if context.invoked_subcommand is None and run(_settings_of(context), click.echo, _check):
        start_again()


def _check() -> None:
    """Read the arguments, the environment and the file once more; raises LoxilbError."""
    try:
        _settings_of(command.make_context("loxilb", sys.argv[1:]))
    except click.ClickException as error:
        raise LoxilbError(error.format_message()) from error


@command.command()
@click.option("--netns", metavar="NAME|PATH", help="Network namespace the daemon works in.")
@click.option("--bpffs", metavar="DIR", type=Path, help="BPF file system the daemon pins in.")
@click.option("--store", metavar="FILE|none", default="", help="Where the daemon keeps the configuration.")
@click.option("--purge", is_flag=True, help="Delete the stored configuration too.")
@click.pass_obj
def down(outer: dict[str, Any], netns: str | None, bpffs: Path | None, store: str, purge: bool) -> None:
    """Remove every trace of the daemon of a network namespace from the kernel.

    The stored configuration stays, so that the next start brings everything back, unless --purge is given.
    """
    place = netns or outer["netns"], bpffs or outer["bpffs"]
    click.echo(take_down(*place, store=store or outer["store"], purge=purge))


@command.command()
@click.option("--netns", metavar="NAME|PATH", help="Network namespace to look at.")
@click.option("--bpffs", metavar="DIR", type=Path, help="BPF file system that the daemon is to pin in.")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", help="For people, or programs.")
@click.pass_obj
def doctor(outer: dict[str, Any], netns: str | None, bpffs: Path | None, output: str) -> int:
    """Look at the host: what works, what does not, and what to do about it.

    Nothing is changed. The exit code is 1 where something keeps the load balancer from working.
    """
    from loxilb.doctor import examine, report  # noqa: PLC0415 a start needs none of it
    from loxilb.plan.diagnosis import healthy  # noqa: PLC0415 nor of this

    findings = examine(netns or outer["netns"], bpffs or outer["bpffs"], outer["xdp"])
    click.echo(report(findings, output, colours=sys.stdout.isatty() and not os.environ.get("NO_COLOR")))
    return 0 if healthy(findings) else 1


command.params.extend(_missing_options())


def _settings_of(context: click.Context) -> Settings:
    options = context.params
    sizes = {name: options[name] for name in ("flows4", "flows6", "rules", "endpoints", "ring", "listeners")}
    return Settings(
        netns=options["netns"],
        data_plane=DataPlaneSettings(
            bpffs=options["bpffs"],
            xdp=XdpPolicy(options["xdp"]),
            local_sockets=options["localsockpolicy"],
            timeouts={**DEFAULT_TIMEOUTS, **dict(options["timeout"])},
            **sizes,
        ),
        interfaces=InterfaceFilter.of(whitelist=options["whitelist"], blacklist=options["blacklist"]),
        follow_network=not options["nonlp"],
        api=not options["no_api"],
        host=options["host"],
        port=options["port"],
        store=options["store"],
        boot_files=options["config_path"],
        log_level=options["loglevel"],
        log_level_asked=context.get_parameter_source("loglevel") in _NAMED,
        log_format=LogFormat(options["log_format"]),
        metrics=options["prometheus"],
        audit_interval=options["auditinterval"],
    )


def _variable_of(error: click.BadParameter) -> str | None:
    """Return the environment variable that a wrong value is from; None where it is a flag's."""
    if error.ctx is None or error.param is None or error.param.name is None:
        return None
    if error.ctx.get_parameter_source(error.param.name) is not ParameterSource.ENVIRONMENT:
        return None
    others = [error.param.envvar] if isinstance(error.param.envvar, str) else list(error.param.envvar or ())
    return next((one for one in others if one in os.environ), f"{_ENVIRONMENT}_{error.param.name.upper()}")


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and exit: 0 when done, 1 for anything that is wrong."""
    try:
        sys.exit(command.main(arguments, prog_name="loxilb", standalone_mode=False) or 0)
    except click.BadParameter as error:
        if variable := _variable_of(error):
            print(f"loxilb: {variable}: {error.message}", file=sys.stderr)
        else:
            error.show()
    except click.ClickException as error:
        error.show()
    except LoxilbError as error:
        print(f"loxilb: {error}", file=sys.stderr)
    sys.exit(1)
