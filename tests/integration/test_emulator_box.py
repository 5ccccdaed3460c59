"""What the emulator's box has for the services besides v2: sign-in, tokens, limits, controls, the handle."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
import requests

from airflow_ams.emulator.process import Emulator, EmulatorFailed
from airflow_ams.emulator.settings import RESOURCE_GROUP, SUBSCRIPTION
from tests.integration.client import Client, credentials

REMAINING = "x-ms-ratelimit-remaining-subscription-reads"
API_VERSION = "?api-version=2022-07-01"


def rms_token(ams: Emulator, **more: Any) -> requests.Response:
    """Sign in as a client of RMS does."""
    document = {"subscriptionId": SUBSCRIPTION, "apiKey": ams.key, **more}
    return requests.post(f"{ams.url}auth/token", json=document, timeout=30)


def entra_token(ams: Emulator, scope: str = "https://management.azure.com/.default") -> str:
    """Sign in as a client of Azure Resource Manager does."""
    form = credentials(ams, scope=scope)
    url = ams.connections["arm"]["extra"]["token_url"]
    return str(requests.post(url, data=form, timeout=30).json()["access_token"])


def claims(token: str) -> dict[str, Any]:
    """Return what a JSON Web Token says."""
    found: dict[str, Any] = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
    return found


def arm(ams: Emulator, path: str, token: str) -> requests.Response:
    """GET something of the account on the ARM paths."""
    account = (
        f"subscriptions/{SUBSCRIPTION}/resourceGroups/{RESOURCE_GROUP}"
        f"/providers/Microsoft.Media/mediaServices/{ams.account}"
    )
    headers = {"Authorization": f"Bearer {token}"}
    return requests.get(f"{ams.url}{account}/{path}{API_VERSION}", headers=headers, timeout=30)


def mkio(ams: Emulator, path: str, token: str) -> requests.Response:
    """GET something of the project from MK.IO."""
    headers = {"Authorization": f"Bearer {token}"}
    url = f"{ams.url}api/v1/projects/{ams.account}/media/{path}"
    return requests.get(url, headers=headers, timeout=30)


def test_rms_gives_a_bare_token(ams_emulator: Emulator) -> None:
    """The answer is the token itself as text, which says when it was made and when it expires."""
    answer = rms_token(ams_emulator)
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "text/plain; charset=utf-8")
    said = claims(answer.text)
    assert said["exp"] - said["iat"] == 3600
    assert arm(ams_emulator, "transforms", answer.text).status_code == 200
    ams_emulator.advance(3600)
    assert arm(ams_emulator, "transforms", answer.text).status_code == 401


@pytest.mark.parametrize(
    "more", [{"apiKey": "wr0ng"}, {"subscriptionId": "00000000-0000-0000-0000-000000000000"}]
)
def test_rms_refuses_a_wrong_key(ams_emulator: Emulator, more: dict[str, Any]) -> None:
    """A wrong key or subscription is 401 with an ARM error, which does not repeat what was sent."""
    answer = rms_token(ams_emulator, **more)
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "Unauthorized")
    assert "wr0ng" not in answer.text


@pytest.mark.parametrize(
    "body", ["", "[]", '"text"', "{}", '{"apiKey": "x"}', '{"apiKey": null, "subscriptionId": "x"}']
)
def test_rms_wants_both_fields(ams_emulator: Emulator, body: str) -> None:
    """A body that is not the object with both fields, each a text, is 400."""
    answer = requests.post(f"{ams_emulator.url}auth/token", data=body, timeout=30)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "BadRequest")


def test_rms_does_not_forgive_a_doubled_slash(ams_emulator: Emulator) -> None:
    """``//auth/token``, which careless joining of paths makes, leads nowhere; in v2 it is forgiven."""
    document = {"subscriptionId": SUBSCRIPTION, "apiKey": ams_emulator.key}
    answer = requests.post(f"{ams_emulator.url}/auth/token", json=document, timeout=30)
    assert answer.status_code == 404
    assert Client(ams_emulator).get("/Jobs").status_code == 200


def test_an_api_key_expires_apart_from_its_tokens(ams_emulator: Emulator) -> None:
    """When the key has expired there is no new token, and the text says so; the old one stays good."""
    token = rms_token(ams_emulator).text
    ams_emulator.expire_api_key()
    refused = rms_token(ams_emulator)
    assert (refused.status_code, refused.json()["error"]["message"]) == (401, "The API key has expired.")
    assert arm(ams_emulator, "transforms", token).status_code == 200
    ams_emulator.renew_api_key()
    assert rms_token(ams_emulator).status_code == 200
    ams_emulator.expire_api_key()
    ams_emulator.reset()
    assert rms_token(ams_emulator).status_code == 200


def test_each_service_takes_its_own_tokens(ams_emulator: Emulator) -> None:
    """ARM takes Entra tokens for management and those of RMS, MK.IO personal ones, v2 none of the latter."""
    ams = ams_emulator
    management, media = entra_token(ams), entra_token(ams, "https://rest.media.azure.net/.default")
    rms, personal = rms_token(ams).text, ams.personal_token()
    tokens = (management, media, rms, personal, Client(ams).token)
    assert [arm(ams, "transforms", token).status_code for token in tokens] == [200, 401, 200, 401, 401]
    assert [mkio(ams, "jobs", token).status_code for token in tokens] == [401, 401, 401, 200, 401]
    client = Client(ams)
    opened = []
    for token in (rms, personal):
        client.token = token
        opened.append(client.get("Jobs").status_code)
    assert opened == [401, 401]


def test_personal_tokens_have_rights_and_an_end(ams_emulator: Emulator) -> None:
    """A restricted token may do what its capabilities say; its lifetime is its own."""
    job_id = ams_emulator.submit_scripted(transform="T", job_name="j")
    assert job_id.startswith("nb:jid:")
    reader = ams_emulator.personal_token(["ams.job.get"], lifetime=100)
    maker = ams_emulator.personal_token(["ams.job.create"])
    assert mkio(ams_emulator, "transforms/T/jobs/j", reader).status_code == 200
    assert mkio(ams_emulator, "transforms/T/jobs/j", maker).status_code == 403
    ams_emulator.advance(100)
    assert mkio(ams_emulator, "transforms/T/jobs/j", reader).status_code == 401
    assert mkio(ams_emulator, "transforms/T/jobs/j", ams_emulator.personal_token()).status_code == 200


def test_arm_counts_reads_down_and_says_when_to_come_back(ams_emulator: Emulator) -> None:
    """Each answer says how many reads are left; beyond that it is 429 until so many seconds have passed."""
    ams_emulator.freeze()
    ams_emulator.limit(arm_reads={"bucket": 2, "per_second": 0.1})
    token = entra_token(ams_emulator)
    answers = [arm(ams_emulator, "transforms", token) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert [answer.headers[REMAINING] for answer in answers] == ["1", "0", "0"]
    assert [answer.headers.get("Retry-After") for answer in answers] == [None, None, "10"]
    assert answers[2].json()["error"]["code"] == "TooManyRequests"
    ams_emulator.advance(10)
    assert arm(ams_emulator, "transforms", token).status_code == 200
    assert [entry["status"] for entry in ams_emulator.requests("^subscriptions/")] == [200, 200, 429, 200]


def test_arm_limits_are_not_those_of_rms(ams_emulator: Emulator) -> None:
    """Requests with a token of RMS are neither counted nor refused; nor are those without a good one."""
    ams_emulator.limit(arm_reads={"bucket": 1, "per_second": 0.001})
    token = rms_token(ams_emulator).text
    answers = [arm(ams_emulator, "transforms", token) for _ in range(3)]
    assert [(answer.status_code, REMAINING in answer.headers) for answer in answers] == [(200, False)] * 3
    assert arm(ams_emulator, "transforms", "nonsense").status_code == 401
    assert arm(ams_emulator, "transforms", entra_token(ams_emulator)).headers[REMAINING] == "0"


def test_mkio_refuses_without_saying_when_to_come_back(ams_emulator: Emulator) -> None:
    """Beyond the GETs of a minute it is 429 with MK.IO's body and no Retry-After, until the next minute."""
    ams_emulator.freeze()
    ams_emulator.limit(mkio_gets_per_minute=2)
    token = ams_emulator.personal_token()
    answers = [mkio(ams_emulator, "jobs", token) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert "Retry-After" not in answers[2].headers
    body = answers[2].json()
    assert (body["status"], body["error"]["code"], bool(body["ref"])) == (429, "TooManyRequests", True)
    legacy = f"{ams_emulator.url}api/ams/{ams_emulator.account}/jobs"
    assert requests.get(legacy, headers={"x-mkio-token": token}, timeout=30).status_code == 429
    ams_emulator.advance(60)
    assert requests.get(legacy, headers={"x-mkio-token": token}, timeout=30).status_code == 200


def test_a_reset_lifts_the_limits(ams_emulator: Emulator) -> None:
    """Limits are those of the services again after a reset; a bad limit is refused with its name."""
    ams_emulator.limit(mkio_gets_per_minute=1)
    ams_emulator.reset()
    token = ams_emulator.personal_token()
    assert [mkio(ams_emulator, "jobs", token).status_code for _ in range(2)] == [200, 200]
    with pytest.raises(EmulatorFailed, match="'page_size' is a whole number"):
        ams_emulator.limit(page_size=0)


@pytest.mark.parametrize(
    ("path", "keys"),
    [
        (f"subscriptions/{SUBSCRIPTION}/x", {"error"}),
        ("auth/token", {"error"}),
        ("api/v1/projects/emulator/media/jobs", {"error", "status", "ref"}),
        ("api/ams/emulator/jobs", {"error", "status", "ref"}),
        ("api/Jobs", {"odata.error"}),
    ],
)
def test_faults_are_dressed_as_the_service_would(ams_emulator: Emulator, path: str, keys: set[str]) -> None:
    """A rule finds a request by the path that the log shows, and may add any header to the error."""
    logged = path.removeprefix("api/")
    then = {"status": 429, "retry_after": 3, "headers": {"x-ms-request-id": "id-7", "X-Number": 5}}
    ams_emulator.inject({"when": {"path": f"^{logged}$"}, "then": then})
    answer = requests.get(ams_emulator.url + path, timeout=30)
    assert (answer.status_code, set(answer.json())) == (429, keys)
    sent = [answer.headers[name] for name in ("Retry-After", "x-ms-request-id", "X-Number")]
    assert sent == ["3", "id-7", "5"]
    assert [entry["path"] for entry in ams_emulator.requests(f"^{logged}$")] == [logged]


@pytest.mark.parametrize(
    ("path", "root"), [("subscriptions/x", ""), ("api/ams/p/jobs", ""), ("api/x", "api/")]
)
def test_redirect_loops_lead_to_the_root_of_the_service(ams_emulator: Emulator, path: str, root: str) -> None:
    """The root is that of the host, but for v2, which has its own."""
    ams_emulator.inject({"then": {"redirect_loop": True}})
    answer = requests.get(ams_emulator.url + path, allow_redirects=False, timeout=30)
    assert answer.headers["Location"] == ams_emulator.url + root


def test_secrets_do_not_reach_the_log(ams_emulator: Emulator) -> None:
    """Keys and tokens are neither in the list of requests nor printed, wherever a client puts them."""
    ams = ams_emulator
    token, personal = rms_token(ams).text, ams.personal_token()
    rms_token(ams, apiKey="wr0ng-key")
    arm(ams, "transforms", token)
    mkio(ams, "jobs", personal)
    requests.get(f"{ams.url}api/ams/x/jobs?token={personal}&apiKey={ams.key}&api_key={ams.key}", timeout=30)
    requests.get(f"{ams.url}api/ams/x/jobs", headers={"x-mkio-token": personal}, timeout=30)
    said = ams.stderr() + json.dumps(ams.requests())
    assert "auth/token" in said
    for secret in (ams.key, token, personal, "wr0ng-key"):
        assert secret not in said


def test_connections_lead_to_each_service(ams_emulator: Emulator) -> None:
    """There is a connection for each service; `connection` is that of the api in force."""
    ams = ams_emulator
    assert set(ams.connections) == {"v2", "arm", "rms", "mkio"}
    assert {found["conn_type"] for found in ams.connections.values()} == {"ams"}
    place = {"subscription_id": SUBSCRIPTION, "resource_group": RESOURCE_GROUP, "account_name": ams.account}
    ams.api = "rms"
    assert ams.connection == {
        "conn_type": "ams",
        "host": ams.url,
        "password": ams.key,
        "extra": {"api": "rms", **place},
    }
    assert json.loads(ams.connection_json()) == ams.connection
    assert ams.connections["arm"]["login"] == ams.account
    personal = ams.connections["mkio"]["password"]
    assert mkio(ams, "jobs", personal).status_code == 200
    with pytest.raises(ValueError, match="no api 'v4'"):
        ams.api = "v4"
    # What a test before has set does not stay; base_url is that of v2 whatever is set.
    assert ams.base_url == f"{ams.url}api/"


def test_fixture_begins_with_v2(ams_emulator: Emulator) -> None:
    """Each test finds the handle at v2, whatever the one before has set."""
    assert ams_emulator.api == "v2"


@pytest.mark.parametrize("api", ["v2", "arm", "rms", "mkio"])
def test_handle_works_whatever_the_api(ams_emulator: Emulator, tmp_path: Path, api: str) -> None:
    """Scripted jobs get names in the form of the api, by which their outputs can be downloaded."""
    ams = ams_emulator
    ams.api = api
    (tmp_path / "clip").write_bytes(b"abc")
    asset = ams.upload(tmp_path / "clip")
    assert ams.asset_name(asset) == f"asset-{asset.rpartition(':')[2]}"
    job_id = ams.submit_scripted(states=["Finished"], outputs=[{"name": "video.mp4", "size": 3}])
    assert job_id.startswith("nb:jid:UUID:" if api == "v2" else "Scripted/")
    (path,) = ams.download_outputs(job_id, tmp_path / "out")
    assert (path.name, path.read_bytes()) == ("video.mp4", b"\0\0\0")


def test_a_scripted_job_has_the_names_it_is_given(ams_emulator: Emulator) -> None:
    """Transform and job name can be chosen; the same job is found without case, and only once."""
    ams_emulator.api = "arm"
    job_id = ams_emulator.submit_scripted(transform="Encode", job_name="Movie-1", states=["Finished"])
    assert job_id == "Encode/Movie-1"
    assert ams_emulator.download_outputs("ENCODE/movie-1", "unused") == []
    with pytest.raises(EmulatorFailed, match="no job 'encode/movie-2'") as error:
        ams_emulator.download_outputs("Encode/Movie-2", "unused")
    assert error.value.status == 404


@pytest.mark.parametrize(
    ("verb", "name", "document", "what"),
    [
        ("POST", "tokens", {"capabilities": "all"}, "'capabilities'"),
        ("POST", "tokens", {"capabilities": [5]}, "'capabilities'"),
        ("POST", "tokens", {"lifetime": 0}, "'lifetime'"),
        ("POST", "tokens", {"lifetime": True}, "'lifetime'"),
        ("POST", "tokens", {"account": "nobody"}, "no account 'nobody'"),
        ("POST", "tokens", {"rights": []}, "capabilities"),
        ("PUT", "api-key", {"expired": 1}, "'expired'"),
        ("PUT", "api-key", {}, "'expired'"),
        ("PUT", "limits", {"page_size": "x"}, "'page_size'"),
        ("POST", "jobs", {"account": ["x"]}, "no account"),
        ("POST", "jobs", {"script": {"sates": []}}, "no key 'sates'"),
    ],
)
def test_controls_say_what_is_wrong(
    ams_emulator: Emulator, verb: str, name: str, document: dict[str, Any], what: str
) -> None:
    """A control that is asked for nonsense answers 400 with the reason."""
    url, headers = f"{ams_emulator.url}_emulator/{name}", {"X-AMS-Emulator": "x"}
    answer = requests.request(verb, url, json=document, headers=headers, timeout=30)
    assert answer.status_code == 400
    assert what in answer.json()["error"]


@pytest.mark.parametrize("name", ["tokens", "limits", "api-key"])
def test_new_controls_are_not_for_web_pages(ams_emulator: Emulator, name: str) -> None:
    """Without the header of the controls nothing is given out or changed."""
    verb = "POST" if name == "tokens" else "PUT"
    answer = requests.request(verb, f"{ams_emulator.url}_emulator/{name}", json={}, timeout=30)
    assert answer.status_code == 403
