# SPDX-License-Identifier: Apache-2.0
"""The one exception tree.

::

    LoxilbError
    ├── InvalidRequest      the caller asked for something that can never be right
    │   ├── NotFound        it names an object that is not there
    │   ├── Conflict        it clashes with an object that is there
    │   └── NotBuilt        it is right, but this program cannot do it
    ├── StoreError          the configuration cannot be kept, or what is kept cannot be read
    └── KernelError         the kernel refused; carries errno
        └── FeatureMissing  this kernel lacks something a probe looked for

Every error carries a *cause* and, where there is one, a *remedy*. ``InvalidRequest.code`` is the short text
that clients of the REST API match on, for example ``lbrule-exists error``.
"""

import errno as _errno


class LoxilbError(Exception):
    """Root of the tree; ``remedy`` says what an operator can do about it."""

    def __init__(self, cause: str, *, remedy: str = "") -> None:
        """Keep ``cause`` and ``remedy``; the text shows both."""
        super().__init__(f"{cause} ({remedy})" if remedy else cause)
        self.cause = cause
        self.remedy = remedy


class InvalidRequest(LoxilbError):
    """A request that cannot be carried out as it stands.

    ``code`` is the compatible text of the REST contract, ``field`` the wire name of the offending field. Where several
    things were asked for at once, ``about`` is the key of the one that is wrong, ``index`` its place, counted from 0.
    """

    def __init__(self, code: str, *, field: str = "", cause: str = "", remedy: str = "") -> None:
        """Build the message from the field and cause; ``code`` alone where there is nothing to add."""
        detail = ": ".join(part for part in (field, cause) if part)
        super().__init__(detail or code, remedy=remedy)
        self.code = code
        self.field = field
        self.about: object = None
        self.index: int | None = None


class NotFound(InvalidRequest):
    """The object named by the request does not exist."""


class Conflict(InvalidRequest):
    """The request clashes with an existing object."""


class NotBuilt(InvalidRequest):
    """A valid request for something this program does not do."""


class StoreError(LoxilbError):
    """The configuration cannot be kept (disk full, read-only), or what is kept cannot be read (damaged, newer)."""


class KernelError(LoxilbError):
    """The kernel refused an operation; ``errno`` says how, the text says which operation."""

    def __init__(self, operation: str, errno: int, *, detail: str = "", remedy: str = "") -> None:
        """Name the operation and keep ``errno`` (positive)."""
        name = _errno.errorcode.get(errno, str(errno))
        super().__init__(f"{operation}: {name}{': ' + detail if detail else ''}", remedy=remedy)
        self.errno = errno


class FeatureMissing(KernelError):
    """A probed kernel feature is absent."""
