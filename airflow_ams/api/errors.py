"""What can go wrong between us and a media service, split by what the caller can do about it.

::

    ServiceError
    ├── TransientError      ask again later: nothing is known, nothing is wrong with the request
    ├── RefusedError        asking again will bring the same: the request, the token or the settings are wrong
    │   ├── MalformedIdError    the id could not be one of this service's; nothing was sent
    │   └── SignInError         there is no token to be had
    ├── JobNotFoundError    the service has no such job
    └── UncertainError      a create may or may not have happened: look before creating again
"""

from __future__ import annotations

from http import HTTPStatus

from airflow_ams.api.model import JobState

FILTER_REFUSALS = (HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY, HTTPStatus.NOT_IMPLEMENTED)
"""Statuses by which a service says that it does not take a list's filter."""


class ServiceError(Exception):
    """Anything that went wrong while speaking to a media service.

    :param message: what happened and what to do about it, in a sentence; never a secret
    :param status: HTTP status, if there was an answer
    :param code: the service's own error code, if it gave one
    :param request_id: the service's id of the request, to quote in a support case
    :param said: the service's own text, which is in the message, too; not a bare one, as gateways write it
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        code: str | None = None,
        request_id: str | None = None,
        said: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.code = code
        self.request_id = request_id
        self.said = said

    def __str__(self) -> str:
        facts = [
            f"{label} {value}"
            for label, value in (
                ("status", self.status),
                ("code", self.code),
                ("request id", self.request_id),
            )
            if value
        ]
        return f"{self.message} [{', '.join(facts)}]" if facts else self.message


class TransientError(ServiceError):
    """Raised when the service could not be reached, was busy, or answered with something unusable.

    :param retry_after: seconds after which the service asked to be called again
    """

    def __init__(
        self,
        message: str,
        *,
        retry_after: float | None = None,
        status: int | None = None,
        code: str | None = None,
        request_id: str | None = None,
    ) -> None:
        super().__init__(message, status=status, code=code, request_id=request_id)
        self.retry_after = retry_after


class RefusedError(ServiceError):
    """Raised when the service, or this client on its own, will not do what was asked."""

    @property
    def may_pass(self) -> bool:
        """Whether it may be the word of a gateway, and of the moment, if the service has answered before."""
        return self.status not in (
            None,
            HTTPStatus.BAD_REQUEST,
            HTTPStatus.UNAUTHORIZED,
            HTTPStatus.FORBIDDEN,
        )

    def passing(self) -> TransientError:
        """Return it as trouble that passes."""
        return TransientError(self.message, status=self.status, code=self.code, request_id=self.request_id)

    def saying(self, message: str) -> RefusedError:
        """Return it in other words."""
        return RefusedError(
            message, status=self.status, code=self.code, request_id=self.request_id, said=self.said
        )


class MalformedIdError(RefusedError):
    """Raised before anything is sent, when an id cannot be one of this service's."""


class SignInError(RefusedError):
    """Raised when who signs in is not known, or may not; `status` is the token end point's."""

    @property
    def may_pass(self) -> bool:
        """Whether it may be the word of the moment: no."""
        return False


class JobNotFoundError(ServiceError):
    """Raised when the service knows no job of that id."""


class UncertainError(ServiceError):
    """Raised when the answer to a create was lost: it may have happened, so it is not sent again."""


def explain_refused_cancel(exc: RefusedError, job_id: str, state: JobState) -> None:
    """Raise what it means that a job could not be canceled; nothing, if it is canceled or on its way.

    :param exc: the service's refusal
    :param state: where the job stands
    """
    if state in (JobState.CANCELING, JobState.CANCELED):
        return
    if not state.is_final:
        raise exc
    text = f"Job {job_id} cannot be canceled any more: it is {state}"
    raise RefusedError(text, status=exc.status) from exc
