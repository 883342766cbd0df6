# SPDX-License-Identifier: Apache-2.0
"""Measurements beside the peers: ``make bench``, or ``python -m bench --help``; see docs/performance.md.

``figures``, ``targets``, ``report`` and ``chart`` are pure; each other module measures one thing.
"""
