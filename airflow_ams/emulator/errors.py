"""What the emulator refuses, by what the caller did; each dialect has one table from these to its own errors.

EmulatorError
  InvalidRequest       the request says something impossible
    Conflict           the name is taken
  NotAuthenticated     no token, or one that does not count
  NotAllowed           known, but not allowed to do this
  NotFound             nothing there under that name
  NotOffered           the real service has it, the emulator does not
"""

from __future__ import annotations


class EmulatorError(Exception):
    """Base of all refusals; the text is meant for the person who reads the answer."""


class InvalidRequest(EmulatorError):
    """Raised when a request contradicts the protocol or itself."""


class Conflict(InvalidRequest):
    """Raised when something of that name is there already; v2, which has no names, never does."""


class NotAuthenticated(EmulatorError):
    """Raised when a request carries no valid token."""


class NotAllowed(EmulatorError):
    """Raised when a valid caller, or a signature, lacks the permission asked for."""


class NotFound(EmulatorError):
    """Raised when the thing asked for does not exist, or not for this account."""


class NotOffered(EmulatorError):
    """Raised when the real service offers something that the emulator leaves out.

    :param name: what was asked for, as the caller wrote it.
    """

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} is not part of this emulator.")
