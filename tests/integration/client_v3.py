"""Plain HTTP clients of the v3 family, for the emulator's tests: nothing of the provider's is in them."""

from __future__ import annotations

from typing import Any

import requests

from airflow_ams.emulator.process import Emulator

MANAGEMENT = "https://management.azure.com"
SCRIPTED_PRESET = "#AirflowAms.ScriptedPreset"
FINAL = ("Finished", "Error", "Canceled")


def entra_token(ams: Emulator, audience: str = MANAGEMENT) -> str:
    """Return an Entra token of the emulator's account for *audience*."""
    connection = ams.connections["arm"]
    form = {"grant_type": "client_credentials", "scope": f"{audience}/.default"}
    form |= {"client_id": connection["login"], "client_secret": connection["password"]}
    answer = requests.post(connection["extra"]["token_url"], data=form, timeout=30)
    token: str = answer.json()["access_token"]
    return token


def rms_token(ams: Emulator) -> str:
    """Return what RMS gives for an API key."""
    connection = ams.connections["rms"]
    document = {"subscriptionId": connection["extra"]["subscription_id"], "apiKey": connection["password"]}
    return requests.post(f"{ams.url}auth/token", json=document, timeout=30).text


def account_url(ams: Emulator) -> str:
    """Return the URL of the emulator's account on the ARM surface."""
    extra = ams.connections["arm"]["extra"]
    return (
        f"{ams.url}subscriptions/{extra['subscription_id']}/resourceGroups/{extra['resource_group']}"
        f"/providers/Microsoft.Media/mediaServices/{extra['account_name']}"
    )


def built_in(name: str, **output: Any) -> dict[str, Any]:
    """Return the output of a transform with a built-in preset."""
    preset = {"@odata.type": "#Microsoft.Media.BuiltInStandardEncoderPreset", "presetName": name}
    return {"preset": preset, **output}


def asset_input(name: str) -> dict[str, Any]:
    """Return the input of a job that is an asset."""
    return {"@odata.type": "#Microsoft.Media.JobInputAsset", "assetName": name}


def http_input(*files: str, **more: Any) -> dict[str, Any]:
    """Return the input of a job that is at a URL."""
    return {"@odata.type": "#Microsoft.Media.JobInputHttp", "files": list(files), **more}


def job_output(name: str, **more: Any) -> dict[str, Any]:
    """Return the output of a job."""
    return {"@odata.type": "#Microsoft.Media.JobOutputAsset", "assetName": name, **more}


def scripted(name: str, **script: Any) -> dict[str, Any]:
    """Return the output of a job that follows a script."""
    return job_output(name, presetOverride={"@odata.type": SCRIPTED_PRESET, "script": script})


class Rest:
    """Speaks to one of the surfaces, all of which take jobs in the same words.

    :param base: what paths are relative to.
    :param headers: of each request.
    :param query: of each request.
    """

    def __init__(self, base: str, headers: dict[str, str], query: dict[str, str]) -> None:
        self.base = base
        self.headers = headers
        self.query = query

    def send(self, method: str, path: str, properties: Any = None, **query: str) -> requests.Response:
        """Send a request; an underscore at the end of a query option's name stands for ``$`` before it."""
        options = {f"${name[:-1]}" if name.endswith("_") else name: text for name, text in query.items()}
        document = None if properties is None else {"properties": properties}
        return requests.request(
            method,
            self.base + path,
            params={**self.query, **options},
            json=document,
            headers=self.headers,
            timeout=30,
        )

    def follow(self, url: str) -> requests.Response:
        """Send a GET to a link, as it is."""
        return requests.get(url, headers=self.headers, timeout=30)

    def get(self, path: str, **query: str) -> Any:
        """Return the document at *path*."""
        answer = self.send("GET", path, **query)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def put(self, path: str, properties: Any) -> Any:
        """Create what *path* names; it must not be there yet."""
        answer = self.send("PUT", path, properties)
        assert answer.status_code == 201, answer.text
        return answer.json()

    def put_job(self, path: str, source: Any, *outputs: Any, **properties: Any) -> Any:
        """Create a job, *path* is for instance ``encode/job-1``, and what it fills."""
        transform, _, name = path.partition("/")
        for output in outputs:
            assert self.send("PUT", f"/assets/{output['assetName']}", {}).status_code in (200, 201)
        return self.put(
            f"/transforms/{transform}/jobs/{name}", {"input": source, "outputs": list(outputs), **properties}
        )

    def job(self, path: str) -> Any:
        """Return the properties of a job, *path* is for instance ``encode/job-1``."""
        transform, _, name = path.partition("/")
        return self.get(f"/transforms/{transform}/jobs/{name}")["properties"]


class Arm(Rest):
    """Speaks to the ARM surface."""

    def __init__(self, ams: Emulator, token: str | None = None, version: str = "2022-07-01") -> None:
        headers = {"Authorization": f"Bearer {token or entra_token(ams)}"}
        super().__init__(account_url(ams), headers, {"api-version": version})


class Mkio(Rest):
    """Speaks to MK.IO at its current URLs."""

    def __init__(self, ams: Emulator, token: str | None = None) -> None:
        headers = {"Authorization": f"Bearer {token or ams.personal_token()}"}
        super().__init__(f"{ams.url}api/v1/projects/{ams.account}/media", headers, {})


class LegacyMkio(Rest):
    """Speaks to MK.IO at its older URLs, with its older header."""

    def __init__(self, ams: Emulator, token: str | None = None) -> None:
        super().__init__(
            f"{ams.url}api/ams/{ams.account}", {"x-mkio-token": token or ams.personal_token()}, {}
        )
