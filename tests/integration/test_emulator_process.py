"""The emulator as a process: command, ports, front host, https, and what is left of it at the end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
import requests
import trustme
from azure.identity import ClientSecretCredential
from starlette.types import Message

from airflow_ams import __version__
from airflow_ams.emulator.admin import create_admin_app
from airflow_ams.emulator.process import Emulator, EmulatorFailed
from airflow_ams.emulator.service import Service
from airflow_ams.emulator.settings import Settings
from tests.integration.client import Client, credentials, wait_for

COMMAND = [sys.executable, "-m", "airflow_ams.emulator"]


def refused(url: str) -> bool:
    """Tell whether nobody listens at *url*."""
    parts = urlsplit(url)
    try:
        socket.create_connection((parts.hostname or "", parts.port or 0), timeout=5).close()
    except OSError:
        return True
    return False


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a PEM file with a self-signed certificate for loopback, and its key."""
    path = tmp_path_factory.mktemp("tls") / "all.pem"
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1", "localhost")
    parts = [issued.private_key_pem, *issued.cert_chain_pems, authority.cert_pem]
    path.write_bytes(b"".join(part.bytes() for part in parts))
    return path


def test_front_host_moves_everything(ams_emulator: Emulator) -> None:
    """The front host answers 301 to any verb and path with the base alone; token endpoints work there."""
    with Emulator(front=True) as ams:
        assert ams.front_url is not None
        for verb, path in (("GET", ""), ("POST", "Jobs"), ("DELETE", "Jobs('x')/y"), ("MERGE", "../else")):
            answer = requests.request(verb, ams.front_url + path, allow_redirects=False, timeout=30)
            assert (answer.status_code, answer.headers["Location"]) == (301, ams.base_url)
            assert answer.headers["Content-Type"].startswith("text/html")
            assert "Object moved" in answer.text
        token_url = ams.token_url.replace(ams.url, ams.front_url.removesuffix("api/"))
        assert requests.post(token_url, data=credentials(ams), timeout=30).status_code == 200
        assert Client(ams).get("Jobs").status_code == 200
    assert ams_emulator.front_url is None


def test_https_and_azure_identity(certificate: Path) -> None:
    """With a certificate it speaks https, and azure-identity gets a token that opens the API."""
    with Emulator(ssl_certfile=certificate, front=True) as ams:
        assert ams.url.startswith("https://")
        assert ams.connection["extra"]["verify"] == str(certificate)
        job = ams.submit_scripted()
        credential = ClientSecretCredential(
            "00000000-0000-0000-0000-000000000001",
            ams.account,
            ams.key,
            authority=ams.url.rstrip("/"),
            disable_instance_discovery=True,
            connection_verify=str(certificate),
        )
        with credential:
            token = credential.get_token("https://rest.media.azure.net/.default").token
        headers = {"Authorization": f"Bearer {token}", "x-ms-version": "2.19"}
        verify = str(certificate)
        answer = requests.get(f"{ams.base_url}Jobs('{job}')", headers=headers, verify=verify, timeout=30)
        assert answer.json()["odata.metadata"].startswith(ams.base_url)
        moved = requests.get(f"{ams.front_url}", allow_redirects=False, verify=verify, timeout=30)
        assert moved.headers["Location"] == ams.base_url


def test_nothing_is_left(tmp_path: Path) -> None:
    """At the end of the block ports, processes and temporary files are gone."""
    with Emulator(front=True) as ams:
        process, url, front = psutil.Process(ams.pid), ams.url, ams.front_url or ""
        scratch = Path(process.environ()["TMPDIR"])
        assert scratch.is_dir()
        (tmp_path / "x").write_bytes(b"x")
        ams.upload(tmp_path / "x")
    assert not process.is_running()
    assert refused(url)
    assert refused(front)
    assert not scratch.exists()
    with pytest.raises(EmulatorFailed, match="not running"):
        _ = ams.pid


def test_failed_start_says_why(tmp_path: Path) -> None:
    """A child that cannot start is an error that holds what it said."""
    with pytest.raises(EmulatorFailed, match="certificate"), Emulator(ssl_certfile=tmp_path / "certificate"):
        pass


def start(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    """Start the command as a person would."""
    return subprocess.Popen(
        [*COMMAND, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )


@pytest.mark.parametrize("api", ["arm", "rms", "mkio"])
def test_command_prints_the_connection_of_each_service(api: str) -> None:
    """With ``--api`` the connection leads to that service: the secret in it is one that the service takes."""
    process = start("--port", "0", "--api", api, AIRFLOW_AMS_EMULATOR_ACCOUNTS="me:k/ey")
    try:
        connection = announced(process)
    finally:
        process.terminate()
        process.communicate(timeout=20)
    assert (connection["conn_type"], connection["extra"]["api"]) == ("ams", api)
    assert urlsplit(connection["host"]).path == "/"
    if api == "mkio":
        assert (connection["extra"]["project"], connection["password"].count(".")) == ("me", 2)
    else:
        assert (connection["extra"]["account_name"], connection["password"]) == ("me", "k/ey")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_command_prints_the_connection_and_stops_on_signals(tmp_path: Path, number: signal.Signals) -> None:
    """The command prints the connection when it is ready, logs requests, and ends with 0 on a signal."""
    process = start("--port", "0", AIRFLOW_AMS_EMULATOR_ACCOUNTS="me:k/ey", TMPDIR=str(tmp_path))
    try:
        line = process.stdout.readline() if process.stdout else ""
        name, _, value = line.partition("=")
        connection = json.loads(shlex.split(value)[0])
        assert (name, connection["conn_type"]) == ("AIRFLOW_CONN_AMS_DEFAULT", "ams")
        assert (connection["login"], connection["password"]) == ("me", "k/ey")
        form = {"grant_type": "client_credentials", "client_id": "me", "client_secret": "k/ey"}
        assert requests.post(connection["extra"]["token_url"], data=form, timeout=30).status_code == 200
        process.send_signal(number)
        _, said = process.communicate(timeout=20)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, said
    assert "POST /v2/OAuth2-13 200" in said
    assert "k/ey" not in said
    assert "Traceback" not in said
    assert list(tmp_path.iterdir()) == []


def announced(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Return the connection that the command prints."""
    line = process.stdout.readline() if process.stdout else ""
    connection: dict[str, Any] = json.loads(shlex.split(line.partition("=")[2])[0])
    return connection


def test_generated_key_survives_a_restart(tmp_path: Path) -> None:
    """Without ``--account`` the key is random, and the same after a restart on the same folder."""
    keys = []
    for folder in (tmp_path / "a", tmp_path / "a", tmp_path / "b"):
        process = start("--port", "0", "--data", str(folder), AIRFLOW_AMS_EMULATOR_ACCOUNTS="")
        try:
            connection = announced(process)
            keys.append(connection["password"])
            form = {"grant_type": "client_credentials", "client_secret": keys[-1]}
            form["client_id"] = connection["login"]
            assert requests.post(connection["extra"]["token_url"], data=form, timeout=30).status_code == 200
        finally:
            process.terminate()
            process.communicate(timeout=20)
    assert keys[0] == keys[1] != keys[2]


def test_data_folder_is_for_one(tmp_path: Path) -> None:
    """A second emulator on a data folder ends at once with one line; when the first has gone, it starts."""
    with Emulator(data=tmp_path):
        done = run("--port", "0", "--data", str(tmp_path))
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == f"Error: Another emulator is running on the data folder {tmp_path}.\n"
    with Emulator(data=tmp_path):
        pass


@pytest.mark.parametrize("in_thread", [False, True])
def test_interrupt_does_not_cut_the_end_short(monkeypatch: pytest.MonkeyPatch, in_thread: bool) -> None:
    """A Ctrl-C while it stops leaves nothing behind, and the handler from before is there again."""
    handler = signal.getsignal(signal.SIGINT)
    ams = Emulator()
    ams.start()
    scratch, process = ams._child.scratch, psutil.Process(ams.pid)
    terminate = subprocess.Popen.terminate

    def interrupted(child: subprocess.Popen[bytes]) -> None:
        if not in_thread:
            signal.raise_signal(signal.SIGINT)
        terminate(child)

    monkeypatch.setattr(subprocess.Popen, "terminate", interrupted)
    if in_thread:
        thread = threading.Thread(target=ams.stop)
        thread.start()
        thread.join()
    else:
        with contextlib.suppress(KeyboardInterrupt):
            ams.stop()
    assert not scratch.exists()
    assert not process.is_running()
    assert signal.getsignal(signal.SIGINT) is handler


def test_child_ends_with_its_parent() -> None:
    """A child whose parent dies without a word ends by itself."""
    script = (
        "from airflow_ams.emulator.process import Emulator\nimport os\n"
        "ams = Emulator()\nams.start()\nprint(ams.pid, ams._child.scratch, flush=True)\nos._exit(1)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=False
    )
    pid, scratch = done.stdout.split()
    wait_for(lambda: not psutil.pid_exists(int(pid)) or psutil.Process(int(pid)).status() == "zombie")
    # Nobody is left to remove the folder for the log; what the service made in it is gone.
    assert [path.name for path in Path(scratch).iterdir()] == ["stderr"]
    (Path(scratch) / "stderr").unlink()
    Path(scratch).rmdir()


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    command, variables = [*COMMAND, *arguments], {**os.environ, **environment}
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False, env=variables)


def test_taken_port_is_one_line(ams_emulator: Emulator) -> None:
    """A port that is taken is one line and exit code 1."""
    port = str(urlsplit(ams_emulator.url).port)
    done = run("--port", port)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.strip() == f"Error: Cannot listen on 127.0.0.1:{port}: Address already in use."


def test_bad_options_are_one_line(tmp_path: Path) -> None:
    """Bad accounts and bad fault rules are one line and exit code 1."""
    (tmp_path / "faults.json").write_text('[{"then": {}}]')
    (tmp_path / "tmp").mkdir()
    for arguments, what in (
        (("--account", "nokey"), "NAME:KEY"),
        (("--faults", str(tmp_path / "faults.json")), "faults.json: Fault rule 1"),
    ):
        done = run("--port", "0", *arguments, TMPDIR=str(tmp_path / "tmp"))
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert what in done.stderr
        assert list((tmp_path / "tmp").iterdir()) == []


def test_command_says_what_it_is() -> None:
    """``--version`` and ``--help`` answer without the extra, and nothing imports Airflow."""
    code = (
        "import sys; sys.argv = ['airflow-ams', {!r}]\n"
        "import airflow_ams.cli as cli\ntry:\n    cli.main()\n"
        "finally:\n    assert not [name for name in sys.modules if name in ('airflow', 'starlette')]"
    )
    for flag, what in (("--version", __version__), ("--help", "emulator")):
        command = [sys.executable, "-c", code.format(flag)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        assert what in done.stdout
    assert "--token-lifetime" in run("--help").stdout


@pytest.mark.parametrize("name", ["emulator", "demo"])
def test_missing_extra_is_one_line(name: str) -> None:
    """Without the extra the command prints how to install it, and exits with 2."""
    code = (
        "import sys, importlib.util as u; real = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'uvicorn' else real(name, *a)\n"
        f"sys.argv = ['airflow-ams', '{name}']\nfrom airflow_ams.cli import main; main()"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 2
    assert done.stderr == f"The {name} is an extra: pip install 'airflow-ams[{name}]'\n"


def test_plugin_imports_only_pytest() -> None:
    """The fixture's module costs nothing: neither Airflow, nor Starlette, nor requests is imported by it."""
    code = (
        "import sys, pytest; before = set(sys.modules)\nimport airflow_ams.emulator.pytest_plugin\n"
        "print({name.partition('.')[0] for name in set(sys.modules) - before})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout.strip() == "{'airflow_ams'}"


async def health_for(host: str, folder: Path) -> int:
    """Return the status that the controls answer to a caller at the address *host*."""
    service = Service(Settings(accounts={"a": "b"}), folder)
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request"}

    async def send(message: Message) -> None:
        sent.append(message)

    scope: dict[str, Any] = {"type": "http", "method": "GET", "path": "/health", "query_string": b""}
    scope |= {"headers": [(b"host", b"127.0.0.1:8765")], "client": (host, 5000)}
    try:
        await create_admin_app(service)(scope, receive, send)
    finally:
        await service.close()
    status: int = sent[0]["status"]
    return status


@pytest.mark.parametrize(
    ("host", "status"), [("192.0.2.7", 403), ("nonsense", 403), ("127.0.0.1", 200), ("::1", 200)]
)
def test_only_this_machine_controls(tmp_path: Path, host: str, status: int) -> None:
    """The controls answer callers on loopback, whatever the address that is listened on."""
    assert asyncio.run(health_for(host, tmp_path)) == status


@pytest.mark.parametrize(
    ("headers", "what"),
    [
        ({"X-AMS-Emulator": None}, "X-AMS-Emulator"),
        ({"Host": "attacker.example:{port}"}, "attacker.example"),
        ({"Host": "localhost.attacker.example"}, "attacker.example"),
        ({"Host": "127.0.0.1.attacker.example:{port}"}, "attacker.example"),
        ({"Host": "192.0.2.7"}, "192.0.2.7"),
        ({"Host": ""}, "localhost"),
        ({"Origin": "http://attacker.example"}, "Origin"),
        ({"Origin": "null"}, "Origin"),
    ],
)
def test_web_pages_do_not_control(ams_emulator: Emulator, headers: dict[str, str | None], what: str) -> None:
    """A web page can neither send what the controls want, nor reach them by a name of its own."""
    port = str(urlsplit(ams_emulator.url).port)
    job = ams_emulator.submit_scripted()
    sent = {"X-AMS-Emulator": "x", **headers}
    sent = {name: value and value.format(port=port) for name, value in sent.items()}
    for verb, name in (("POST", "reset"), ("GET", "requests"), ("PUT", "faults"), ("GET", "health")):
        if name == "health" and sent["X-AMS-Emulator"] is None:
            continue
        answer = requests.request(verb, f"{ams_emulator.url}_emulator/{name}", headers=sent, timeout=30)
        assert answer.status_code == 403
        assert what in answer.json()["error"]
    assert Client(ams_emulator).get(f"Jobs('{job}')").status_code == 200


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:{port}", "127.0.0.1", "[::1]:{port}", "[::1]"])
def test_health_answers_to_every_name_of_this_machine(ams_emulator: Emulator, host: str) -> None:
    """Health needs no header of its own, so that it can be asked by hand."""
    headers = {"Host": host.format(port=urlsplit(ams_emulator.url).port)}
    answer = requests.get(f"{ams_emulator.url}_emulator/health", headers=headers, timeout=30)
    assert (answer.status_code, answer.json()["version"]) == (200, __version__)
