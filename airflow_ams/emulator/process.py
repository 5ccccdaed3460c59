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

import contextlib
import json
import os
import re
import secrets
import select
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from airflow_ams.emulator.settings import CONTROL_HEADER

if TYPE_CHECKING:
    from requests import Response

START_SECONDS = 20.0
STOP_SECONDS = 5.0
_ACCOUNTS_VARIABLE = "AIRFLOW_AMS_EMULATOR_ACCOUNTS"
_CONNECTION_LINE = "AIRFLOW_CONN_AMS_DEFAULT="
_FRONT_LINE = "Front host: "


class EmulatorFailed(RuntimeError):
    """Raised when the child process did not start, or answered a request of the handle with an error.

    :param message: what happened.
    :param status: of the answer, None if there was none.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class Emulator:
    """A media service of one's own, from ``with`` to the end of the block.

    It runs in its own process and listens on a free port of 127.0.0.1. At the end the process, the
    encodes that it runs, and its temporary files are gone, whatever happened in between.

    :param account: name of the account; login of the connection.
    :param key: its key; None makes a random one.
    :param other_accounts: more accounts, name to key; each sees only its own jobs and assets.
    :param token_lifetime: seconds a token is good for; None means 21600 (ACS) and 3600 (Entra).
    :param units: encodes that run at the same time (1).
    :param media: folder whose files are assets from the start.
    :param data: folder of the state that survives a restart; None forgets all.
    :param front: also listen as the old global front host, which redirects to this one.
    :param seed: makes fault rules with a rate repeatable.
    :param ssl_certfile: PEM certificate for 127.0.0.1; makes it speak https.
    :param ssl_keyfile: PEM key of the certificate.
    :raises ValueError: an account has a name or key that cannot be passed on.
    :raises EmulatorFailed: it did not start within 20 seconds; the text holds what it said.
    """

    def __init__(
        self,
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
        self.account = account
        self.key = key if key is not None else secrets.token_urlsafe(24)
        self.connection: dict[str, Any] = {}
        self.front_url: str | None = None
        self._accounts = {account: self.key, **(other_accounts or {})}
        if any(":" in name or "," in name + key for name, key in self._accounts.items()):
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
        self._arguments = [
            part for name, value in options.items() if value is not None for part in (name, str(value))
        ]
        self._process: subprocess.Popen[bytes] | None = None
        self._scratch = Path()
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
    def pid(self) -> int:
        """The child's process id, which is also that of the process group with its encodes."""
        return self._child().pid

    @property
    def base_url(self) -> str:
        """The root of the v2 API, with a slash at the end."""
        host: str = self.connection["host"]
        return host

    @property
    def url(self) -> str:
        """The root of all that the emulator serves, with a slash at the end."""
        return self.base_url.removesuffix("api/")

    @property
    def token_url(self) -> str:
        """The token endpoint of the Access Control Service."""
        url: str = self.connection["extra"]["token_url"]
        return url

    def connection_json(self) -> str:
        """Return the Airflow connection, for ``AIRFLOW_CONN_AMS_DEFAULT``."""
        return json.dumps(self.connection)

    def start(self) -> None:
        """Start the child and wait until it takes requests."""
        self._scratch = Path(tempfile.mkdtemp(prefix="ams-emulator-"))
        accounts = ",".join(f"{name}:{key}" for name, key in self._accounts.items())
        # Keys travel in the environment: arguments can be read by everybody on the machine.
        environment = {**os.environ, _ACCOUNTS_VARIABLE: accounts, "TMPDIR": str(self._scratch)}
        command = [sys.executable, "-m", "airflow_ams.emulator", "--port", "0", "--until-stdin-closes"]
        try:
            with (self._scratch / "stderr").open("wb") as stderr:
                self._process = subprocess.Popen(
                    command + self._arguments,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=stderr,
                    env=environment,
                    start_new_session=True,
                )
            self._read_announcement()
        except BaseException:
            self.stop()
            raise

    def _read_announcement(self) -> None:
        lines_wanted = 2 if "--front-port" in self._arguments else 1
        for line in self._lines(lines_wanted, time.monotonic() + START_SECONDS):
            if line.startswith(_CONNECTION_LINE):
                self.connection = json.loads(shlex.split(line.removeprefix(_CONNECTION_LINE))[0])
            elif line.startswith(_FRONT_LINE):
                self.front_url = line.removeprefix(_FRONT_LINE).strip()

    def _lines(self, count: int, deadline: float) -> list[str]:
        output = self._child().stdout
        descriptor, text = output.fileno() if output else -1, b""
        while text.count(b"\n") < count:
            ready, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
            chunk = os.read(descriptor, 65536) if ready else b""
            if not chunk:
                what = "ended at once" if ready else f"was not ready within {START_SECONDS:g} seconds"
                raise EmulatorFailed(f"The emulator {what}. It said:\n{self.stderr()}")
            text += chunk
        return text.decode().splitlines()

    def stop(self) -> None:
        """Stop the child, kill what is left of its process group, and remove its temporary files.

        Ctrl-C does not cut this short: it takes a few seconds at most, and nothing is to be left.
        """
        with _no_interrupt():
            self._clean_up()

    def _clean_up(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_SECONDS)
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()
        shutil.rmtree(self._scratch, ignore_errors=True)
        self._token = None

    def stderr(self) -> str:
        """Return what the child has logged."""
        return (self._scratch / "stderr").read_text(encoding="utf-8", errors="replace")

    def _child(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise EmulatorFailed("The emulator is not running.")
        return self._process

    def upload(self, path: str | os.PathLike[str], name: str | None = None) -> str:
        """Make an asset of a file, over HTTP as any client would.

        :param path: the file.
        :param name: name of the asset; None takes the file's.
        :returns: the asset's identifier.
        """
        file = Path(path)
        asset_id: str = self._create("Assets", Name=name or file.name)["Id"]
        locator = self._locator(asset_id, permissions=2)
        with file.open("rb") as stream:
            headers = {"x-ms-blob-type": "BlockBlob"}
            self._send("PUT", _file_url(locator, file.name), data=stream, headers=headers)
        return asset_id

    def submit_scripted(self, name: str = "scripted", **script: Any) -> str:
        """Make a job that follows a script.

        :param name: name of the job.
        :param script: the keys of the script, all optional: ``states``, ``tasks``, ``error``,
            ``appear_after``, ``vanish_after``, ``canceling``, ``outputs``.
        :returns: the job's identifier.
        """
        job_id: str = self._admin("POST", "jobs", {"name": name, "script": script}).json()["id"]
        return job_id

    def download_outputs(self, job_id: str, folder: str | os.PathLike[str]) -> list[Path]:
        """Download the files of all output assets of a job through read locators.

        :returns: the files, in *folder*; one whose name is taken goes into a folder of its asset's name.
        """
        paths: list[Path] = []
        for asset in self._list(f"Jobs('{job_id}')/OutputMediaAssets"):
            locator = self._locator(asset["Id"], permissions=1)
            for file in self._list(f"Assets('{asset['Id']}')/Files"):
                path = Path(folder) / file["Name"]
                if path in paths:
                    path = Path(folder) / asset["Name"].replace("/", "_") / file["Name"]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(self._send("GET", _file_url(locator, file["Name"])).content)
                paths.append(path)
        return paths

    def inject(self, *rules: Mapping[str, Any]) -> None:
        """Put fault rules in force, instead of those before; see `airflow_ams.emulator.faults`."""
        self._admin("PUT", "faults", list(rules))

    def clear_faults(self) -> None:
        """Let all requests go well again."""
        self._admin("DELETE", "faults")

    def advance(self, seconds: float) -> None:
        """Move the emulator's clock on; scripted jobs and tokens follow it, real encodes do not."""
        self._admin("POST", "clock", {"advance": seconds})

    def freeze(self) -> None:
        """Stop the emulator's clock; `advance` still moves it."""
        self._admin("POST", "clock", {"frozen": True})

    def unfreeze(self) -> None:
        """Let the emulator's clock run on."""
        self._admin("POST", "clock", {"frozen": False})

    def requests(self, path_regex: str | None = None) -> list[dict[str, Any]]:
        """Return the requests so far, oldest first.

        :param path_regex: searched in the decoded path, which is relative to ``/api/``.
        :returns: Of each: ``method``, ``path``, ``query``, ``host``, ``time``, ``client_request_id``,
            ``account``, ``status``.
        """
        log: list[dict[str, Any]] = self._admin("GET", "requests").json()
        return [entry for entry in log if path_regex is None or re.search(path_regex, entry["path"])]

    def clear_requests(self) -> None:
        """Forget the requests so far."""
        self._admin("DELETE", "requests")

    def reset(self) -> None:
        """Forget jobs, assets, faults and requests, and put the clock right."""
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


@contextlib.contextmanager
def _no_interrupt() -> Iterator[None]:
    """Ignore SIGINT; in another thread than the main one, which alone gets it, do nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        # None stands for a handler that was not set by Python, and that Python cannot set.
        signal.signal(signal.SIGINT, signal.SIG_DFL if before is None else before)


def _file_url(locator: Mapping[str, Any], name: str) -> str:
    return f"{locator['BaseUri']}/{quote(name)}{locator['ContentAccessComponent']}"
