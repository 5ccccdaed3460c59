"""What operators do about a service's trouble: ask again as long as there is time, and tell Airflow."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowException, AirflowNotFoundException

from airflow_ams.api.errors import JobNotFoundError, RefusedError, ServiceError
from airflow_ams.api.retries import MAX_RETRY_AFTER
from airflow_ams.exceptions import AmsJobNotFound, AmsRefused

if TYPE_CHECKING:
    import tenacity

_MAX_WAIT = 60.0


def patient(
    goes_on: Callable[[BaseException], bool], time_left: Callable[[], float], log: Any
) -> tenacity.Retrying:
    """Return what calls a function until it goes well, or raises what will not pass.

    :param goes_on: whether an error may pass
    :param time_left: seconds; a wait that takes longer is not begun
    :param log: the task's; each wait is told
    """
    import tenacity

    jitter = tenacity.wait_random_exponential(multiplier=1, max=_MAX_WAIT)

    def wait(state: tenacity.RetryCallState) -> float:
        asked_for = getattr(_error_of(state), "retry_after", None) or 0.0
        return min(asked_for, MAX_RETRY_AFTER) + jitter(state)

    def warn(state: tenacity.RetryCallState) -> None:
        log.warning("Trying again in %.0f s. %s", state.upcoming_sleep, _error_of(state))

    return tenacity.Retrying(
        retry=tenacity.retry_if_exception(goes_on),
        wait=wait,
        stop=lambda state: state.upcoming_sleep >= time_left(),
        before_sleep=warn,
        reraise=True,
    )


def _error_of(state: tenacity.RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome is not None else None


@contextmanager
def telling(what_failed: str) -> Iterator[None]:
    """Raise the errors of a service as Airflow takes them: a task is retried after those that may pass."""
    try:
        yield
    except JobNotFoundError as exc:
        raise AmsJobNotFound(exc.message) from exc
    except (RefusedError, AirflowNotFoundException, ValueError) as exc:
        # With a code, or words, of its own it is the service that speaks, not a gateway.
        if isinstance(exc, RefusedError) and exc.may_pass and not (exc.code or exc.said):
            raise AirflowException(f"{what_failed} {exc}") from exc
        raise AmsRefused(str(exc)) from exc
    except ServiceError as exc:
        raise AirflowException(f"{what_failed} {exc}") from exc
