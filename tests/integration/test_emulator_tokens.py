"""Tokens, headers and versions of the emulator."""

from __future__ import annotations

import pytest
import requests

from airflow_ams.emulator.process import Emulator
from tests.integration.client import Client, credentials


def test_acs_writes_the_lifetime_as_text(ams_emulator: Emulator) -> None:
    """The Access Control Service says ``expires_in`` as text, and form values are trimmed."""
    form = credentials(ams_emulator, client_secret=ams_emulator.key + " ")
    answer = requests.post(ams_emulator.token_url, data=form, timeout=30).json()
    assert (answer["expires_in"], answer["scope"]) == ("21600", "urn:WindowsAzureMediaServices")
    assert "HMACSHA256=" in answer["access_token"]


@pytest.mark.parametrize(
    ("path", "more", "kind"),
    [
        ("tenant/oauth2/token", {"resource": "https://rest.media.azure.net"}, str),
        ("tenant/oauth2/v2.0/token", {"scope": "https://rest.media.azure.net/.default"}, int),
    ],
)
def test_entra_tokens_open_the_api(
    ams_emulator: Emulator, client: Client, path: str, more: dict[str, str], kind: type
) -> None:
    """Both versions of Entra give tokens; numbers are text in the first and numbers in the second."""
    url = ams_emulator.url + path
    answer = requests.post(url, data=credentials(ams_emulator, **more), timeout=30).json()
    assert (type(answer["expires_in"]), int(answer["expires_in"])) == (kind, 3600)
    client.token = answer["access_token"]
    assert client.get("Jobs").status_code == 200
    refused = requests.post(url, data=credentials(ams_emulator), timeout=30)
    assert (refused.status_code, refused.json()["error"]) == (400, "invalid_request")


def test_wrong_key_gets_no_token(ams_emulator: Emulator) -> None:
    """A wrong key is 401 invalid_client, another grant is 400; the key is in neither answer."""
    wrong = requests.post(
        ams_emulator.token_url, data=credentials(ams_emulator, client_secret="wr0ng"), timeout=30
    )
    assert (wrong.status_code, wrong.json()["error"]) == (401, "invalid_client")
    assert "wr0ng" not in wrong.text
    other = requests.post(ams_emulator.token_url, data={"grant_type": "password"}, timeout=30)
    assert other.status_code == 400


def test_discovery_points_back(ams_emulator: Emulator) -> None:
    """The OpenID configuration names endpoints of this server."""
    answer = requests.get(
        f"{ams_emulator.url}tenant/v2.0/.well-known/openid-configuration", timeout=30
    ).json()
    assert answer["token_endpoint"] == f"{ams_emulator.url}tenant/oauth2/v2.0/token"
    assert answer["issuer"].startswith(ams_emulator.url)


@pytest.mark.parametrize("authorization", ["", "Bearer nonsense", "Basic abc"])
def test_no_token_no_answer(client: Client, authorization: str) -> None:
    """Without a good token every request is 401 with an OData error."""
    answer = client.get("Jobs", headers={"Authorization": authorization})
    assert answer.status_code == 401
    assert answer.json()["odata.error"]["message"]["value"]


def test_token_expires_by_the_clock(ams_emulator: Emulator, client: Client) -> None:
    """After its lifetime a token is 401, and a new one is good."""
    ams_emulator.advance(21_599 - 60)
    assert client.get("Jobs").status_code == 200
    ams_emulator.advance(120)
    assert client.get("Jobs").status_code == 401
    assert Client(ams_emulator).get("Jobs").status_code == 200


@pytest.mark.parametrize(
    ("version", "path", "status"),
    [
        ("2.0", "Jobs", 200),
        ("2.19", "Jobs", 200),
        ("2.20", "Jobs", 400),
        ("3.0", "Jobs", 400),
        (None, "Jobs", 400),
        (None, "Jobs?api-version=2.11", 200),
        (None, "Jobs?api-version=1.0", 400),
    ],
)
def test_version_is_required(client: Client, version: str | None, path: str, status: int) -> None:
    """A request says a version from 2.0 to 2.19, in the header or in the query."""
    answer = client.get(path, headers={"x-ms-version": version})
    assert answer.status_code == status


def test_response_headers_are_those_of_the_founding_answer(client: Client) -> None:
    """An answer has the service's headers, the caller's request id, and an id of its own twice."""
    answer = client.get("Jobs", headers={"x-ms-client-request-id": "my-id"})
    headers = answer.headers
    assert headers["Content-Type"] == "application/json;odata=minimalmetadata;streaming=true;charset=utf-8"
    assert headers["DataServiceVersion"] == "3.0;"
    assert headers["Cache-Control"] == "no-cache"
    assert headers["Server"] == "Microsoft-IIS/8.5"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Strict-Transport-Security"] == "max-age=31536000; includeSubDomains"
    assert headers["x-ms-client-request-id"] == "my-id"
    assert headers["request-id"] == headers["x-ms-request-id"]
    assert headers["Content-Length"] == str(len(answer.content))


def test_fixture_leads_airflow_to_the_emulator(ams_emulator: Emulator, client: Client) -> None:
    """The fixture defines the connection ``ams_default``, and each test finds the emulator empty."""
    import json
    import os

    assert json.loads(os.environ["AIRFLOW_CONN_AMS_DEFAULT"]) == ams_emulator.connection
    assert client.value("Jobs") == []
    assert [entry["path"] for entry in ams_emulator.requests()] == ["v2/OAuth2-13", "Jobs"]
