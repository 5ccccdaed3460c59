"""The extra link from a task to its media job, in the portal of the service."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import BaseOperatorLink

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import BaseOperator, Context

    from airflow_ams.hooks.ams import AmsHook


log = logging.getLogger(__name__)


class AmsJobLink(BaseOperatorLink):
    """Leads to the job, if the connection has ``extra.job_url_template``.

    It is there as soon as the task knows its one job, while it waits, too: the task itself leaves it as an
    XCom. A wait that starts in the triggerer (``start_from_trigger``) has no link until it ends on a worker.
    A wait on a list of jobs has none.
    """

    name = "Media job"

    @property
    def xcom_key(self) -> str:
        """The XCom that holds the link, which Airflow 3 reads by itself."""
        return "_link_AmsJobLink"

    def get_link(self, operator: BaseOperator, *, ti_key: Any) -> str:
        """Return the link that the task has left; empty if there is none. Nothing is asked of the service."""
        from airflow.providers.common.compat.sdk import XCom

        link = XCom.get_value(ti_key=ti_key, key=self.xcom_key)
        return link if isinstance(link, str) else ""

    @classmethod
    def show(cls, context: Context, hook: AmsHook, job_id: str) -> None:
        """Leave the link to a job for `get_link`, if the connection knows where jobs are shown.

        :param context: the running task's
        """
        ti: Any = context.get("ti")
        try:
            link = hook.get_job_url(job_id) if ti is not None else None
        except Exception as exc:
            # The first poll says so, too, and draws the consequences.
            log.debug("There is no link to job %s: %s", job_id, exc)
            return
        if link is None:
            return
        try:
            ti.xcom_push(key=cls().xcom_key, value=link)
        except Exception as exc:
            # The job is to be waited for all the same.
            log.warning("The link to job %s could not be pushed as an XCom: %s", job_id, exc)
