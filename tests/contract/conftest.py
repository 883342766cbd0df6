# SPDX-License-Identifier: Apache-2.0
"""The implementations that the suites of this folder run on."""

from collections.abc import Iterator

import pytest

from loxilb.kernel.fake import FakeDataPlane
from loxilb.ports import DataPlane


@pytest.fixture(params=["fake"])
def data_plane(request: pytest.FixtureRequest) -> Iterator[DataPlane]:
    """A data plane with nothing programmed."""
    yield FakeDataPlane()
