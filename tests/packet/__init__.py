# SPDX-License-Identifier: Apache-2.0
"""Packets through the loaded programs."""

import pytest

pytest.register_assert_rewrite("tests.packet.driver")
