"""The hook: an Airflow connection becomes a media service to talk to."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import BaseHook

from airflow_ams.provider_info import CONN_FIELDS, HIDDEN_FIELDS, PLACEHOLDERS, RELABELING

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Connection
    from typing_extensions import Self

    from airflow_ams.api import MediaService
    from airflow_ams.api.model import Job, JobOutput, JobState, OutputFile
    from airflow_ams.api.retries import Retries
    from airflow_ams.hooks.connection import Settings


class AmsHook(BaseHook):
    """Talks to a media service through an Airflow connection of type ``ams``.

    Every method raises `airflow_ams.api.errors.ServiceError`, or one of its kinds; Airflow's own
    `AirflowNotFoundException` says that there is no such connection. A hook keeps one HTTP session; use it
    as a context manager, or call `close`, to let go of it.

    :param ams_conn_id: the connection's id
    """

    conn_name_attr = "ams_conn_id"
    default_conn_name = "ams_default"
    conn_type = "ams"
    hook_name = "Azure Media Services"

    def __init__(self, ams_conn_id: str = default_conn_name) -> None:
        super().__init__()
        self.ams_conn_id = ams_conn_id
        self._service: MediaService | None = None
        self._settings: Settings | None = None
        self._read_from = 0

    def get_conn(self) -> MediaService:
        """Return the service that the connection names, opened at the first call; nothing is sent yet.

        :raises airflow_ams.api.errors.RefusedError: the connection is missing a field, or one is wrong
        """
        return self._service or self._open(self.get_connection(self.ams_conn_id))

    def renew(self) -> bool:
        """Read the connection anew, and go on with what it says now: a token or a key may have been rotated.

        A running task's own environment does not change, and a secrets backend may cache what it has read
        (Airflow's own cache is the DAG processor's). A change is not found then until the next process
        starts, which in reschedule mode is the next poke.

        :returns: whether it has changed
        :raises airflow_ams.api.errors.RefusedError: it names no service any more
        """
        connection = self.get_connection(self.ams_conn_id)
        if self._service is not None and hash(connection.get_uri()) == self._read_from:
            return False
        self.close()
        self._open(connection)
        return True

    def _open(self, connection: Connection) -> MediaService:
        # The transport imports requests; a DAG file that only names the hook should not pay for that.
        from airflow_ams.hooks.connection import connect, settings_of

        self._settings = settings_of(connection, self.ams_conn_id)
        self._service = connect(self._settings)
        # Not the URI itself: it holds the password.
        self._read_from = hash(connection.get_uri())
        return self._service

    def get_job(self, job_id: str, *, retries: Retries | None = None) -> Job:
        """Read a job with one request.

        :param retries: how often to try; a few times if left out
        :raises airflow_ams.api.errors.JobNotFoundError: there is no such job
        """
        return self.get_conn().get_job(job_id, retries=retries)

    def get_job_state(self, job_id: str) -> JobState:
        """Read a job's state with one request."""
        return self.get_job(job_id).state

    def iter_jobs(
        self,
        *,
        states: frozenset[JobState] | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> Iterator[Job]:
        """Yield the account's jobs, a page at a time.

        :param states: only jobs in these
        :param since: only jobs created then or later; aware
        :param until: only jobs created before then; aware
        """
        return self.get_conn().iter_jobs(states=states, since=since, until=until)

    def submit_job(self, spec: Mapping[str, Any]) -> Job:
        """Create a job.

        :param spec: what it is made of: `airflow_ams.api.v2_spec` says what that holds on v2,
            `airflow_ams.api.v3_spec` what it does elsewhere
        :raises airflow_ams.api.errors.UncertainError: the answer was lost; look before creating it again
        """
        return self.get_conn().submit_job(spec)

    def cancel_job(self, job_id: str, *, retries: Retries | None = None) -> None:
        """Ask for a job to be canceled.

        :param retries: how often to try; a few times if left out
        :raises airflow_ams.api.errors.RefusedError: it has ended otherwise
        """
        self.get_conn().cancel_job(job_id, retries=retries)

    def cancel_and_wait(self, job_id: str, *, poke_interval: float = 10.0, timeout: float = 3600.0) -> Job:
        """Cancel a job, and wait until it has ended; one that has ended already is left as it is.

        :param poke_interval: seconds between two readings of the job
        :param timeout: seconds to wait at most
        :returns: the job as it has ended, which may be otherwise than Canceled
        :raises TimeoutError: it has not ended in that time
        """
        from airflow_ams.api.details import cancel_unless_ended
        from airflow_ams.api.errors import TransientError

        end = time.monotonic() + timeout
        job = cancel_unless_ended(self.get_conn(), job_id)
        if job.state.is_final:
            self.log.info("Job %s is %s already, and left as it is", job.id, job.state)
        while not job.state.is_final:
            left = end - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"Job {job.id} is {job.state}, {timeout:g} s after it was to be canceled")
            time.sleep(min(poke_interval, left))
            try:
                job = self.get_job(job.id)
            except TransientError as exc:
                self.log.warning("Where job %s stands is not known now. %s", job.id, exc)
        return job

    def delete_job(self, job_id: str) -> None:
        """Delete the record of a job that has ended; its output assets stay."""
        self.get_conn().delete_job(job_id)

    def set_job_priority(self, job_id: str, priority: int | str) -> None:
        """Change the priority of a job that is still queued.

        :param priority: a number, larger runs first; or, except on v2, ``Low``, ``Normal`` or ``High``
        """
        self.get_conn().set_priority(job_id, priority)

    def get_output_assets(self, job_id: str) -> tuple[JobOutput, ...]:
        """List the assets that a job writes."""
        return self.get_conn().get_outputs(job_id)

    def get_output_files(self, asset_id: str) -> tuple[OutputFile, ...]:
        """List the files of an asset."""
        return self.get_conn().get_output_files(asset_id)

    def get_job_url(self, job_id: str) -> str | None:
        """Return the address at which a portal shows a job; nothing is sent for it.

        :returns: by ``extra.job_url_template`` of the connection; None if it has none
        """
        known = self.get_conn().job_id(job_id)
        return self._settings.job_url(known) if self._settings is not None else None

    def test_connection(self) -> tuple[bool, str]:
        """Prove with one read that the token and the right to read jobs are good.

        :returns: whether they are, and a sentence to act on
        """
        try:
            return True, self.get_conn().check()
        except Exception as exc:
            return False, str(exc)
        finally:
            self.close()

    def close(self) -> None:
        """Let go of the HTTP session; the next call opens another."""
        if self._service is not None:
            self._service.close()
            self._service = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @classmethod
    def get_connection_form_widgets(cls) -> dict[str, Any]:
        """Draw the connection form on Airflow below 3.2, which does not read `CONN_FIELDS` itself."""
        # Airflow takes no other classes of fields than these (and PasswordField).
        from flask_appbuilder.fieldwidgets import BS3TextFieldWidget
        from wtforms import BooleanField, IntegerField, StringField
        from wtforms.validators import Optional, any_of

        def widget(label: str, description: str, schema: Mapping[str, Any]) -> Any:
            common: dict[str, Any] = {"label": label, "description": description, "validators": [Optional()]}
            if "enum" in schema:
                common["validators"].append(any_of(schema["enum"]))
            if "boolean" in schema["type"]:
                return BooleanField(default=schema.get("default"), **common)
            if "integer" in schema["type"]:
                return IntegerField(widget=BS3TextFieldWidget(), **common)
            return StringField(widget=BS3TextFieldWidget(), **common)

        return {name: widget(**field) for name, field in CONN_FIELDS.items()}

    @classmethod
    def get_ui_field_behaviour(cls) -> dict[str, Any]:
        """Name the form's standard fields on Airflow below 3.2."""
        return {"hidden_fields": HIDDEN_FIELDS, "relabeling": RELABELING, "placeholders": PLACEHOLDERS}
