# SPDX-License-Identifier: Apache-2.0
"""The image of ``deploy/Containerfile``, made and run without podman: ``make test-container``.

Its base is made by debootstrap from this host's archive, below ``build/container``; its steps are carried out in a
chroot, and so is the daemon, with the capabilities of the run line.
"""
