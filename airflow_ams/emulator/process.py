"""The emulator as a child process, for tests of DAGs and of anything else that speaks to the service.

Example::

    with Emulator() as ams:
        asset_id = ams.upload("clip.mp4")
        job_id = ams.submit_scripted(states=[{"state": "Processing", "seconds": 60}, "Finished"])
        os.environ["AIRFLOW_CONN_AMS_DEFAULT"] = ams.connection_json()
        ...
        ams.advance(60)
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from airflow_ams.emulator.child import Child, EmulatorFailed
from airflow_ams.emulator.connections import connections
from airflow_ams.emulator.settings import APIS, CONTROL_HEADER
from airflow_ams.emulator.tokens import PERSONAL_LIFETIME

if TYPE_CHECKING:
    from requests import Response

__all__ = ["Emulator", "EmulatorFailed"]

_CONNECTION_LINE = "AIRFLOW_CONN_AMS_DEFAULT="
_FRONT_LINE = "Front host: "


class Emulator:
    """A media service of one's own, from ``with`` to the end of the block.

    It runs in its own process and listens on a free port of 127.0.0.1. At the end the process, the
    encodes that it runs, and its temporary files are gone, whatever happened in between.

    All services are served at the same time, with the same jobs and assets.

    :param api: the service that `connection` leads to and whose form job ids have: ``v2``, ``arm``, ``rms``
        or ``mkio``. The attribute of this name may be set at any time.
    :param account: name of the account, and of the project of MK.IO; login of the connection.
    :param key: its key, which is the API key of RMS, too; None makes a random one.
    :param other_accounts: more accounts, name to key; each sees only its own jobs and assets.
    :param token_lifetime: seconds a token is good for; None means 21600 (ACS) and 3600 (Entra,
        RMS). The personal token in the connection of MK.IO is good for a year whatever this says.
    :param units: encodes that run at the same time (1).
    :param media: folder whose files are assets from the start.
    :param data: folder of the state that survives a restart; None forgets all.
    :param front: also listen as the old global front host, which redirects to this one.
    :param seed: makes fault rules with a rate repeatable.
    :param ssl_certfile: PEM certificate for 127.0.0.1; makes it speak https.
    :param ssl_keyfile: PEM key of the certificate.
    :raises ValueError: there is no such api, or an account has a name or key that cannot be passed on.
    :raises EmulatorFailed: it did not start within 20 seconds; the text holds what it said.
    """

    def __init__(
        self,
        api: str = "v2",
        *,
        account: str = "emulator",
        key: str | None = None,
        other_accounts: Mapping[str, str] | None = None,
        token_lifetime: float | None = None,
        units: int | None = None,
        media: str | os.PathLike[str] | None = None,
        data: str | os.PathLike[str] | None = None,
        front: bool = False,
        seed: int | None = None,
        ssl_certfile: str | os.PathLike[str] | None = None,
        ssl_keyfile: str | os.PathLike[str] | None = None,
    ) -> None:
        self.api = api
        self.account = account
        self.key = key if key is not None else secrets.token_urlsafe(24)
        self.connections: dict[str, dict[str, Any]] = {}
        """The Airflow connection for each of ``v2``, ``arm``, ``rms`` and ``mkio``."""

        self.front_url: str | None = None
        accounts = {account: self.key, **(other_accounts or {})}
        if any(":" in name or "," in name + key for name, key in accounts.items()):
            raise ValueError("An account's name has neither ':' nor ',' in it, its key no ','.")
        self._verify: str | bool = str(ssl_certfile) if ssl_certfile else True
        options = {
            "--token-lifetime": token_lifetime,
            "--units": units,
            "--media": media,
            "--data": data,
            "--front-port": 0 if front else None,
            "--seed": seed,
            "--ssl-certfile": ssl_certfile,
            "--ssl-keyfile": ssl_keyfile,
        }
        arguments = [
            part for name, value in options.items() if value is not None for part in (name, str(value))
        ]
        self._lines = 2 if front else 1
        self._child = Child(arguments, accounts)
        self._token: str | None = None

    def __enter__(self) -> Emulator:
        """Start it."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop it."""
        self.stop()

    @property
    def api(self) -> str:
        """The service that `connection` leads to, and whose form job ids have."""
        return self._api_name

    @api.setter
    def api(self, name: str) -> None:
        if name not in APIS:
            raise ValueError(f"There is no api {name!r}; there are {', '.join(APIS)}.")
        self._api_name = name

    @property
    def connection(self) -> dict[str, Any]:
        """The Airflow connection for `api`."""
        return self.connections[self.api]

    @property
    def pid(self) -> int:
        """The child's process id, which is also that of the process group with its encodes."""
        return self._child.pid

    @property
    def base_url(self) -> str:
        """The root of the v2 API, with a slash at the end."""
        host: str = self.connections["v2"]["host"]
        return host

    @property
    def url(self) -> str:
        """The root of all that the emulator serves, with a slash at the end."""
        return self.base_url.removesuffix("api/")

    @property
    def token_url(self) -> str:
        """The token endpoint of the Access Control Service, for v2."""
        url: str = self.connections["v2"]["extra"]["token_url"]
        return url

    def connection_json(self) -> str:
        """Return the Airflow connection for `api`, for ``AIRFLOW_CONN_AMS_DEFAULT``."""
        return json.dumps(self.connection)

    def start(self) -> None:
        """Start the child and wait until it takes requests."""
        for line in self._child.start(self._lines):
            if line.startswith(_CONNECTION_LINE):
                self.connections = {"v2": json.loads(shlex.split(line.removeprefix(_CONNECTION_LINE))[0])}
            elif line.startswith(_FRONT_LINE):
                self.front_url = line.removeprefix(_FRONT_LINE).strip()
        try:
            certificate = self.connections["v2"]["extra"].get("verify")
            token = self.personal_token()
        except BaseException:
            self.stop()
            raise
        self.connections = connections(self.url, self.account, self.key, token, certificate)

    def stop(self) -> None:
        """Stop the child, kill what is left of its process group, and remove its temporary files."""
        self._child.stop()
        self._token = None

    def stderr(self) -> str:
        """Return what the child has logged."""
        return self._child.stderr()

    def upload(self, path: str | os.PathLike[str], name: str | None = None) -> str:
        """Make an asset of a file, over HTTP as any client would.

        :param path: the file.
        :param name: name of the asset; None takes the file's.
        :returns: the asset's identifier in v2; `asset_name` has the name that it has elsewhere.
        """
        file = Path(path)
        asset_id: str = self._create("Assets", Name=name or file.name)["Id"]
        locator = self._locator(asset_id, permissions=2)
        with file.open("rb") as stream:
            headers = {"x-ms-blob-type": "BlockBlob"}
            self._send("PUT", _file_url(locator, file.name), data=stream, headers=headers)
        return asset_id

    def asset_name(self, asset_id: str) -> str:
        """Return what an asset of v2, for instance one that was uploaded, is called in the other services."""
        return f"asset-{asset_id.rpartition(':')[2]}"

    def create_transform(self, name: str, *, preset: str | Mapping[str, Any]) -> None:
        """Make a transform, over HTTP as any client would.

        :param name: what jobs name it by.
        :param preset: name of a built-in preset, for instance ``AdaptiveStreaming``; or a whole one, such as
            ``{"@odata.type": "#AirflowAms.ScriptedPreset", "script": {…}}``.
        """
        kind = "#Microsoft.Media.BuiltInStandardEncoderPreset"
        output = {
            "preset": {"@odata.type": kind, "presetName": preset} if isinstance(preset, str) else preset
        }
        url = f"{self.url}api/v1/projects/{quote(self.account)}/media/transforms/{quote(name)}"
        token = self.connections["mkio"]["password"]
        headers = {"Authorization": f"Bearer {token}"}
        self._send("PUT", url, json={"properties": {"outputs": [output]}}, headers=headers)

    def submit_scripted(
        self,
        name: str = "scripted",
        *,
        transform: str | None = None,
        job_name: str | None = None,
        **script: Any,
    ) -> str:
        """Make a job that follows a script.

        :param name: name of the job in v2.
        :param transform: the transform that it belongs to in the other services; None means ``Scripted``.
        :param job_name: its name there; None makes one.
        :param script: the keys of the script, all optional: ``states``, ``tasks``, ``error``, ``on_error``,
            ``appear_after``, ``vanish_after``, ``canceling``, ``outputs``; times in it are seconds.
        :returns: the job's identifier in the form of `api`: ``nb:jid:…`` for v2, else ``transform/job``.
        """
        called = {"transform": transform, "job_name": job_name}
        document = {key: value for key, value in called.items() if value is not None}
        job = self._admin("POST", "jobs", {"name": name, "script": script, **document}).json()
        return str(job["id"] if self.api == "v2" else f"{job['transform']}/{job['job_name']}")

    def download_outputs(self, job_id: str, folder: str | os.PathLike[str]) -> list[Path]:
        """Download the files of all output assets of a job through read locators.

        :param job_id: in the form of `api`.
        :param folder: where to; it is made if need be.
        :returns: the files, in *folder*; one whose name is taken goes into a folder of its asset's name.
        """
        paths: list[Path] = []
        for asset in self._list(f"Jobs('{self._v2_id(job_id)}')/OutputMediaAssets"):
            locator = self._locator(asset["Id"], permissions=1)
            for file in self._list(f"Assets('{asset['Id']}')/Files"):
                path = Path(folder) / file["Name"]
                if path in paths:
                    path = Path(folder) / asset["Name"].replace("/", "_") / file["Name"]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(self._send("GET", _file_url(locator, file["Name"])).content)
                paths.append(path)
        return paths

    def _v2_id(self, job_id: str) -> str:
        if self.api == "v2":
            return job_id
        transform, _, job_name = job_id.partition("/")
        query = f"transform={quote(transform)}&job_name={quote(job_name)}"
        return str(self._admin("GET", f"jobs?{query}").json()["id"])

    def personal_token(
        self, capabilities: Sequence[str] | None = None, lifetime: float = PERSONAL_LIFETIME
    ) -> str:
        """Return a personal token of MK.IO.

        :param capabilities: what it may do, for instance ``ams.job.get``; None gives full access.
        :param lifetime: seconds; a year if left out.
        """
        document = {"capabilities": capabilities, "lifetime": lifetime}
        return str(self._admin("POST", "tokens", document).json()["token"])

    def expire_api_key(self) -> None:
        """Let RMS refuse the API key from now on, with 401; the tokens that it has given out stay good."""
        self._admin("PUT", "api-key", {"expired": True})

    def renew_api_key(self) -> None:
        """Let RMS take the API key again."""
        self._admin("PUT", "api-key", {"expired": False})

    def limit(self, **limits: Any) -> None:
        """Set how much the services give at once, and forget what was used of it.

        :param limits: ``page_size``, entities on a page of ARM, RMS and MK.IO (1000); ``arm_reads``, an
            object with ``bucket``, GETs at once (12000), and ``per_second``, GETs in each second on top of
            that (3.34); ``mkio_gets_per_minute`` (2000). What is left out stays; `reset` puts all back.
        """
        self._admin("PUT", "limits", limits)

    def inject(self, *rules: Mapping[str, Any]) -> None:
        """Put fault rules in force, instead of those before; see `airflow_ams.emulator.faults`."""
        self._admin("PUT", "faults", list(rules))

    def clear_faults(self) -> None:
        """Let all requests go well again."""
        self._admin("DELETE", "faults")

    def advance(self, seconds: float) -> None:
        """Move the emulator's clock on; scripted jobs, tokens and limits follow it, real encodes do not.

        :param seconds: how far, 0 or more.
        """
        self._admin("POST", "clock", {"advance": seconds})

    def freeze(self) -> None:
        """Stop the emulator's clock; `advance` still moves it."""
        self._admin("POST", "clock", {"frozen": True})

    def unfreeze(self) -> None:
        """Let the emulator's clock run on."""
        self._admin("POST", "clock", {"frozen": False})

    def requests(self, path_regex: str | None = None) -> list[dict[str, Any]]:
        """Return the requests so far, oldest first.

        :param path_regex: searched in the decoded path, which is relative to ``/api/``, and to the root for
            ARM, RMS and the token endpoints; None finds all.
        :returns: Of each: ``method``, ``path``, ``query``, ``host``, ``time``, ``client_request_id``,
            ``account``, ``status``.
        """
        log: list[dict[str, Any]] = self._admin("GET", "requests").json()
        return [entry for entry in log if path_regex is None or re.search(path_regex, entry["path"])]

    def clear_requests(self) -> None:
        """Forget the requests so far."""
        self._admin("DELETE", "requests")

    def reset(self) -> None:
        """Forget jobs, assets, faults and requests, and put clock, limits and the API key right."""
        self._admin("POST", "reset")

    def _admin(self, method: str, name: str, document: Any = None) -> Response:
        url, headers = f"{self.url}_emulator/{name}", {CONTROL_HEADER: "handle"}
        return self._send(method, url, json=document, headers=headers)

    def _api(self, method: str, path: str, document: Any = None) -> Response:
        if self._token is None:
            form = {"grant_type": "client_credentials", "client_id": self.account, "client_secret": self.key}
            self._token = self._send("POST", self.token_url, data=form).json()["access_token"]
        headers = {"Authorization": f"Bearer {self._token}", "x-ms-version": "2.19"}
        try:
            return self._send(method, self.base_url + path, json=document, headers=headers)
        except EmulatorFailed as error:
            if error.status != 401:
                raise
            self._token = None
            return self._api(method, path, document)

    def _create(self, entity_set: str, **properties: Any) -> dict[str, Any]:
        entity: dict[str, Any] = self._api("POST", entity_set, properties).json()
        return entity

    def _list(self, path: str) -> list[dict[str, Any]]:
        entities: list[dict[str, Any]] = self._api("GET", path).json()["value"]
        return entities

    def _locator(self, asset_id: str, permissions: int) -> dict[str, Any]:
        policy = self._create("AccessPolicies", Name="handle", DurationInMinutes=60, Permissions=permissions)
        return self._create("Locators", AccessPolicyId=policy["Id"], AssetId=asset_id, Type=1)

    def _send(self, method: str, url: str, **arguments: Any) -> Response:
        # Not at the top: importing this module is to cost nothing.
        import requests

        session = requests.Session()
        # Proxies of the environment are not meant for loopback.
        session.trust_env = False
        with session:
            response = session.request(method, url, verify=self._verify, timeout=60, **arguments)
        if not response.ok:
            where = url.partition("?")[0]
            text = f"{method} {where} failed ({response.status_code}): {response.text}"
            raise EmulatorFailed(text, response.status_code)
        return response


def _file_url(locator: Mapping[str, Any], name: str) -> str:
    return f"{locator['BaseUri']}/{quote(name)}{locator['ContentAccessComponent']}"
