# SPDX-License-Identifier: Apache-2.0
"""Gathers what a host is like, without changing anything on it.

Belongs here: trying kernel features where nobody sees it, reading tables. Does not belong here: what is right or wrong
(``loxilb.plan.diagnosis``).
"""

from loxilb.kernel.survey.gather import gather

__all__ = ["gather"]
