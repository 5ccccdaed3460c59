"""What Airflow learns about this provider without importing anything else of it."""

from __future__ import annotations

from typing import Any

from airflow_ams import __version__

HIDDEN_FIELDS = ["schema", "extra"]
RELABELING = {
    "host": "API base",
    "login": "Account name or client id",
    "password": "Account key, client secret, API key or token",
}
PLACEHOLDERS = {
    "host": "https://media.windows.net/api/ (v2; empty means each API's own; a bare host will do)",
    "port": "of a bare host, if it is not 443",
    "login": "account name (acs), client id (entra); empty for bearer and api_key",
    "password": "account key (acs), client secret (entra), API key (api_key), token (bearer)",
}

CONN_FIELDS: dict[str, dict[str, Any]] = {
    "api": {
        "label": "API",
        "description": "v2: Azure Media Services v2; arm: v3; rms: Ravnur RMS; mkio: MediaKind MK.IO.",
        "schema": {"type": ["string", "null"], "enum": ["v2", "arm", "rms", "mkio"], "default": "v2"},
    },
    "auth": {
        "label": "Authentication",
        "description": (
            "Where the token comes from. Left out: entra (arm), api_key (rms), bearer (mkio); v2: entra with "
            "a tenant or managed identity, acs with login and password, bearer with a password alone."
        ),
        "schema": {"type": ["string", "null"], "enum": ["bearer", "acs", "entra", "api_key"]},
    },
    "subscription_id": {
        "label": "Subscription id",
        "description": "arm and rms: the subscription of the media account.",
        "schema": {"type": ["string", "null"]},
    },
    "resource_group": {
        "label": "Resource group",
        "description": "arm and rms: the resource group of the media account.",
        "schema": {"type": ["string", "null"]},
    },
    "account_name": {
        "label": "Account name",
        "description": "arm and rms: the media account.",
        "schema": {"type": ["string", "null"]},
    },
    "project": {
        "label": "Project",
        "description": "mkio: the project.",
        "schema": {"type": ["string", "null"]},
    },
    "legacy": {
        "label": "Legacy addresses",
        "description": "mkio: speak to api.mk.io/api/ams, as before the API had versions.",
        "schema": {"type": ["boolean", "null"], "default": False},
    },
    "tenant_id": {
        "label": "Tenant id",
        "description": "entra: the directory that the service principal lives in.",
        "schema": {"type": ["string", "null"]},
    },
    "managed_identity": {
        "label": "Managed identity",
        "description": "entra: 'true' to sign in as this machine or pod, or the client id of its identity.",
        "schema": {"type": ["string", "null"]},
    },
    "cloud": {
        "label": "Cloud",
        "description": "entra: the national cloud.",
        "schema": {"type": ["string", "null"], "enum": ["public", "usgov", "china"], "default": "public"},
    },
    "authority": {
        "label": "Authority",
        "description": "entra: a private sign-in service, https.",
        "schema": {"type": ["string", "null"], "format": "url"},
    },
    "token_url": {
        "label": "Token URL",
        "description": "acs, entra and api_key: sign in here instead.",
        "schema": {"type": ["string", "null"], "format": "url"},
    },
    "api_version": {
        "label": "API version",
        "description": "2.19 (v2) and 2022-07-01 (arm, rms) unless given.",
        "schema": {"type": ["string", "null"]},
    },
    "timeout": {
        "label": "Time-out (seconds)",
        "description": "What one answer may take; 30 unless given.",
        "schema": {"type": ["integer", "null"], "minimum": 1},
    },
    "verify": {
        "label": "CA bundle",
        "description": "Path of the CA bundle to trust; 'true', or empty, for the usual ones.",
        "schema": {"type": ["string", "null"]},
    },
    "allow_http": {
        "label": "Allow plain http",
        "description": "Send the token unencrypted to a host that is not this machine.",
        "schema": {"type": ["boolean", "null"], "default": False},
    },
    "job_url_template": {
        "label": "Job URL template",
        "description": "Where a portal shows a job: a URL with {job_id}, or {transform_name} and {job_name}.",
        "schema": {"type": ["string", "null"]},
    },
    "redirect_hosts": {
        "label": "Redirect hosts",
        "description": "v2: hosts that the service may redirect to, comma-separated; *.domain for all below.",
        "schema": {"type": ["string", "null"]},
    },
}
"""The connection's own fields, kept in its extra; the forms of every Airflow version are drawn from them."""


def get_provider_info() -> dict[str, Any]:
    """Return the provider's description in the form of Airflow's ``provider_info.schema.json``."""
    return {
        "package-name": "airflow-ams",
        "name": "Azure Media Services",
        "description": (
            "Makes DAGs wait for media jobs on Azure Media Services shaped APIs: v2, v3, Ravnur RMS, MK.IO."
        ),
        "versions": [__version__],
        "integrations": [
            {
                "integration-name": "Azure Media Services",
                "external-doc-url": "https://learn.microsoft.com/azure/media-services/previous/",
                "tags": ["azure"],
            }
        ],
        "hooks": [
            {
                "integration-name": "Azure Media Services",
                "python-modules": ["airflow_ams.hooks.ams"],
            }
        ],
        "operators": [
            {
                "integration-name": "Azure Media Services",
                "python-modules": ["airflow_ams.operators.ams"],
            }
        ],
        "sensors": [
            {
                "integration-name": "Azure Media Services",
                "python-modules": ["airflow_ams.sensors.ams"],
            }
        ],
        "triggers": [
            {
                "integration-name": "Azure Media Services",
                "python-modules": ["airflow_ams.triggers.ams"],
            }
        ],
        "extra-links": ["airflow_ams.links.ams.AmsJobLink"],
        "connection-types": [
            {
                "connection-type": "ams",
                "hook-class-name": "airflow_ams.hooks.ams.AmsHook",
                "hook-name": "Azure Media Services",
                "ui-field-behaviour": {
                    "hidden-fields": HIDDEN_FIELDS,
                    "relabeling": RELABELING,
                    "placeholders": PLACEHOLDERS,
                },
                "conn-fields": CONN_FIELDS,
            }
        ],
    }
