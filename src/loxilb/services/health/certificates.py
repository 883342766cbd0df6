# SPDX-License-Identifier: Apache-2.0
"""TLS for probes: whom to trust, and the certificate shown to endpoints that ask for one.

``<directory>/rootCA.crt`` and ``<directory>/<address>/rootCA.crt`` are trusted, the system's authorities where neither
is there. ``<directory>/server.crt`` with ``server.key`` is the client certificate. Changed files are read again.
"""

import ssl
from pathlib import Path

from loxilb.model import IPAddress

_Stamp = tuple[tuple[Path, int], ...]
_MAX_CONTEXTS = 256


class Certificates:
    """Makes TLS contexts from the files of a directory, one for each set of files."""

    def __init__(self, directory: Path) -> None:
        """Read nothing yet; the directory need not be there."""
        self._directory = directory
        self._contexts: dict[tuple[_Stamp, _Stamp], ssl.SSLContext] = {}

    def context_for(self, address: IPAddress) -> ssl.SSLContext:
        """Return the context for ``address``; reads files, so not for an event loop. Raises OSError, also for bad ones.

        The certificate of the endpoint must be valid for its address.
        """
        folder = self._directory
        authorities = _stamped(folder / "rootCA.crt", folder / str(address) / "rootCA.crt")
        own = _stamped(folder / "server.crt", folder / "server.key")
        found = self._contexts.get((authorities, own))
        if found is None:
            if len(self._contexts) >= _MAX_CONTEXTS:
                self._contexts.clear()
            found = self._contexts[authorities, own] = _context(authorities, own)
        return found


def _stamped(*paths: Path) -> _Stamp:
    return tuple((path, path.stat().st_mtime_ns) for path in paths if path.is_file())


def _context(authorities: _Stamp, own: _Stamp) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    for path, _ in authorities:
        context.load_verify_locations(path)
    if not authorities:
        context.load_default_certs()
    if len(own) == 2:
        context.load_cert_chain(own[0][0], own[1][0])
    return context
