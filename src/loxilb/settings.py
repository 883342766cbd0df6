# SPDX-License-Identifier: Apache-2.0
"""What the command line says, as values."""

from dataclasses import dataclass, field
from pathlib import Path

from loxilb.kernel.bpf import DataPlaneSettings
from loxilb.logs import LogFormat
from loxilb.services.interfaces import InterfaceFilter


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything a daemon is started with.

    ``netns`` is a name or path, None the caller's namespace. ``certificates`` is the directory of the files that probes
    over TLS use. ``store`` is a file, "none" or "" for the usual place; ``boot_files`` is the directory of the
    original's saved files, imported when there is nothing yet. ``log_level_asked`` says that this start names the
    level, which then counts more than the one set through the API before. ``metrics`` says whether they can be
    scraped from the start. ``audit_interval`` is in seconds, 0 for audits only when asked for.
    """

    netns: str | None = None
    data_plane: DataPlaneSettings = field(default_factory=DataPlaneSettings)
    interfaces: InterfaceFilter = field(default_factory=InterfaceFilter)
    follow_network: bool = True
    api: bool = True
    host: str = "0.0.0.0"
    port: int = 11111
    store: str = ""
    boot_files: Path = Path("/etc/loxilb")
    log_level: str = "debug"
    log_level_asked: bool = False
    certificates: Path = Path("/opt/loxilb/cert")
    log_format: LogFormat = LogFormat.TEXT
    metrics: bool = False
    audit_interval: float = 60.0
