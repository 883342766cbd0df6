# SPDX-License-Identifier: Apache-2.0
"""Does the daemon's work in the background: when it is asked for, again when it failed, and from time to time.

Belongs here: when work is due, and how it went. Does not belong here: what the work is.
"""

from loxilb.services.reconcile.reconciler import Reconciler

__all__ = ["Reconciler"]
