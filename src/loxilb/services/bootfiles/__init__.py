# SPDX-License-Identifier: Apache-2.0
"""Imports the original's saved configuration at the first start.

Belongs here: which files are read, and what becomes of entries that are refused. Does not belong here: the form of the
files (``loxiapi.saved``), what an entry means (``loxilb.codec``), carrying it out (the configuration service).
"""

from loxilb.services.bootfiles.bootfiles import import_files

__all__ = ["import_files"]
