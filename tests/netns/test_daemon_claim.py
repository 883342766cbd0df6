# SPDX-License-Identifier: Apache-2.0
"""A second daemon in one namespace is told so before it touches anything."""

import pytest

from loxilb.errors import KernelError
from loxilb.kernel.claim import claim_namespace
from tests.support.lab import Lab, Namespace

pytestmark = pytest.mark.must_run


def claim(namespace: Namespace) -> None:
    """Claim a namespace and let it go again."""

    def work() -> None:
        with claim_namespace():
            pass

    namespace.call(work)


def test_a_namespace_is_claimed_once_and_free_again_afterwards(lab: Lab) -> None:
    one, other = lab.namespace("one"), lab.namespace("other")
    held = one.call(claim_namespace)

    one.call(held.__enter__)
    with pytest.raises(KernelError, match="stop that one first"):
        claim(one)
    claim(other)
    held.__exit__(None, None, None)
    claim(one)
