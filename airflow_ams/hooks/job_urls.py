"""Where a job is shown: the address in a portal that ``extra.job_url_template`` of the connection makes."""

from __future__ import annotations

from collections.abc import Mapping
from string import Formatter
from urllib.parse import quote, urlsplit

from airflow_ams.api.errors import RefusedError

_OF_THE_JOB = ("job_id", "transform_name", "job_name")
_OF_THE_ACCOUNT = ("subscription_id", "resource_group", "account_name", "project")


def checked_template(template: str) -> str:
    """Return a template, or none; raise RefusedError if no address can be made of it."""
    if not template:
        return ""
    known = (*_OF_THE_JOB, *_OF_THE_ACCOUNT)
    try:
        fields = [field for _, field, *_ in Formatter().parse(template) if field is not None]
        parts = urlsplit(
            template.format_map(dict.fromkeys(known, "x")) if {*fields} <= {*known} else template
        )
    except ValueError as exc:
        raise RefusedError(f"extra.job_url_template {template[:200]!r} is no template: {exc}") from None
    if unknown := sorted({*fields} - {*known}):
        raise RefusedError(
            f"extra.job_url_template has {{{unknown[0]}}}; what it can have is "
            f"{', '.join(f'{{{name}}}' for name in known)}"
        )
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise RefusedError(f"extra.job_url_template is no http(s) URL: {template[:200]!r}")
    return template


def job_url(template: str, job_id: str, account: Mapping[str, str]) -> str | None:
    """Return the address at which a job is shown; None if there is no template.

    :param job_id: as the dialect writes it
    :param account: what the connection says of the account
    """
    if not template:
        return None
    transform, _, name = job_id.rpartition("/")
    values = {"job_id": job_id, "transform_name": transform, "job_name": name}
    known = {**dict.fromkeys(_OF_THE_ACCOUNT, ""), **account, **values}
    return template.format_map({key: quote(value, safe="") for key, value in known.items()})
