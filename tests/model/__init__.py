# SPDX-License-Identifier: Apache-2.0
"""The tracker as the RFCs have it, to compare the programs with."""
