"""How often a request is tried."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Retries:
    """How often, and for how long, a request is tried while the service has trouble.

    :param tries: requests in all
    :param within: seconds from the first request that tries and waits together may take; None: no limit
    :param first_wait: seconds that the first wait lasts at most; each further one may be twice as long
    :param max_wait: seconds that one wait lasts at most, on top of what the service asks for in Retry-After;
        a service that asks for more than this is left alone
    :param is_urgent: whether it is sent at once, however slowly a service is to be asked
    """

    tries: int = 4
    within: float | None = None
    first_wait: float = 0.5
    max_wait: float = 30.0
    is_urgent: bool = False


NO_RETRIES = Retries(tries=1)
"""For callers that keep a back-off of their own."""

URGENT = Retries(tries=1, is_urgent=True)
"""The same for what must be known now, since a wait is about to end."""

MAX_RETRY_AFTER = 600.0
"""Seconds that a wait stays away at most, however long the service asks for; an hour would outlast many."""
