# SPDX-License-Identifier: Apache-2.0
"""Certificates for tests, made by openssl(1)."""

import subprocess
from pathlib import Path

_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


class Authority:
    """A certificate authority that lives in a folder."""

    def __init__(self, folder: Path) -> None:
        """Make its key and certificate."""
        self.certificate, self._key = folder / "authority.crt", folder / "authority.key"
        subject = ("-subj", "/CN=loxt authority", "-days", "2", "-addext", "keyUsage=critical,keyCertSign,cRLSign")
        _openssl("req", "-x509", *_KEY, "-keyout", self._key, "-out", self.certificate, *subject)

    def issue(self, folder: Path, name: str, alternatives: str) -> tuple[Path, Path]:
        """Make ``name.crt`` and ``name.key`` in ``folder``; ``alternatives`` such as ``IP:127.0.0.1``."""
        certificate, private = folder / f"{name}.crt", folder / f"{name}.key"
        signed = ("-CA", self.certificate, "-CAkey", self._key, "-days", "2")
        about = ("-subj", f"/CN={name}", "-addext", f"subjectAltName={alternatives}")
        _openssl("req", "-x509", *_KEY, *signed, "-keyout", private, "-out", certificate, *about)
        return certificate, private
