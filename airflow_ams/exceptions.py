"""How a wait ends badly, as Airflow exceptions.

All but one of them end the task without a retry, since another wait on the same job would end the same, and
are skipped under ``soft_fail``.
"""

from __future__ import annotations

from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException


class AmsJobFailed(AirflowFailException):
    """Raised when the job ended in Error; the message has every reason that the service gave."""


class AmsJobFailedRetryable(AirflowException):
    """Raised by the submit operator instead of `AmsJobFailed` when the next try submits the job again."""


class AmsJobCanceled(AmsJobFailed):
    """Raised when the job was canceled."""


class AmsJobNotFound(AirflowFailException):
    """Raised when the service knows no job of that id, and has had time to learn of it."""


class AmsRefused(AirflowFailException):
    """Raised when asking again would bring the same: bad connection, malformed id, 400, 403, second 401."""
