"""A plain HTTP client of the v2 service, for the emulator's tests: nothing of the provider's is in it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

import requests

from airflow_ams.emulator.process import Emulator

MES = "nb:mpid:UUID:ff4df607-d419-42f0-bc17-a481b1331e56"
SCRIPTED = "nb:mpid:UUID:5c819ed0-0000-4000-8000-a1f10a35c819"
UNKNOWN_JOB = "nb:jid:UUID:00000000-1111-2222-3333-444444444444"
VERBOSE = {"Accept": "application/json;odata=verbose"}

T = TypeVar("T")


def wait_for(condition: Callable[[], T], seconds: float = 40.0) -> T:
    """Return what *condition* gives as soon as that is true; fail when it never is."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.02)
    raise AssertionError(f"not within {seconds:g} seconds")


class Client:
    """Speaks to an emulator as one account, with nothing of the provider's own client."""

    def __init__(self, ams: Emulator, account: str | None = None, key: str | None = None) -> None:
        """Get a token from the Access Control Service."""
        self.ams = ams
        form = {"grant_type": "client_credentials", "scope": "urn:WindowsAzureMediaServices"}
        form |= {"client_id": account or ams.account, "client_secret": key or ams.key}
        answer = requests.post(ams.token_url, data=form, timeout=30)
        answer.raise_for_status()
        self.token: str = answer.json()["access_token"]

    def send(self, method: str, path: str, **arguments: Any) -> requests.Response:
        """Send a request; *path* is relative to the API, `headers` are added to the usual ones."""
        headers = {"Authorization": f"Bearer {self.token}", "x-ms-version": "2.19"}
        headers |= arguments.pop("headers", {})
        arguments = {"timeout": 30, "allow_redirects": False, **arguments}
        return requests.request(method, self.ams.base_url + path, headers=headers, **arguments)

    def get(self, path: str, **arguments: Any) -> requests.Response:
        """Send a GET."""
        return self.send("GET", path, **arguments)

    def value(self, path: str) -> Any:
        """Return what a GET has under ``value``: a list, or a property."""
        answer = self.get(path)
        assert answer.status_code == 200, answer.text
        return answer.json()["value"]

    def state(self, job_id: str) -> int:
        """Return a job's state."""
        state: int = self.value(f"Jobs('{job_id}')/State")
        return state

    def submit(self, *tasks: dict[str, Any], inputs: list[str], **job: Any) -> requests.Response:
        """Post a job in light JSON."""
        links = [f"{self.ams.base_url}Assets('{asset}')" for asset in inputs]
        document = {"Name": "job", "InputMediaAssets@odata.bind": links, "Tasks": list(tasks), **job}
        return self.send("POST", "Jobs", json=document)


def task(configuration: str, *, processor: str = MES, body: str | None = None, **more: Any) -> dict[str, Any]:
    """Return a task from JobInputAsset(0) to JobOutputAsset(0)."""
    inner = body or (
        "<inputAsset>JobInputAsset(0)</inputAsset>"
        '<outputAsset assetName="out">JobOutputAsset(0)</outputAsset>'
    )
    text = f'<?xml version="1.0" encoding="utf-16"?><taskBody>{inner}</taskBody>'
    return {"Configuration": configuration, "MediaProcessorId": processor, "TaskBody": text, **more}


def credentials(ams: Emulator, **more: str) -> dict[str, str]:
    """Return the form of client credentials."""
    return {"grant_type": "client_credentials", "client_id": ams.account, "client_secret": ams.key, **more}
