# SPDX-License-Identifier: Apache-2.0
"""The core subset of the tests (marker ``kernel``) on other kernels: Debian's, in an emulated machine.

``make test-kernels``, or ``python -m tests.kernels 6.1``. Kernels come as packages from Debian's registry and are
unpacked below ``build/kernels``; the machine sees this host's files, read only, and has no network.
"""
