# SPDX-License-Identifier: Apache-2.0
"""Between the bodies of the REST contract and the model, one function per direction.

Belongs here: what a body means as a value, and how a value is written; the API, the store and the files of saved
configuration all use it. Does not belong here: decoding bytes (``loxiapi``), reading or writing anything.
"""
