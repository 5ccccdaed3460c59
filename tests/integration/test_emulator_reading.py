"""What the emulator answers to reads: paths, forms, queries, unknown identifiers."""

from __future__ import annotations

import http.client
import re
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
import requests

from airflow_ams.emulator.process import Emulator
from tests.integration.client import UNKNOWN_JOB, VERBOSE, Client

CONTROL = {"X-AMS-Emulator": "test"}


@pytest.fixture
def client(ams_emulator: Emulator) -> Client:
    """Return a client of the emulator, whose clock stands still."""
    ams_emulator.freeze()
    return Client(ams_emulator)


def raw_get(client: Client, target: str) -> int:
    """Return the status of a GET whose target is sent exactly as given."""
    connection = http.client.HTTPConnection(urlsplit(client.ams.url).netloc, timeout=30)
    headers = {"Authorization": f"Bearer {client.token}", "x-ms-version": "2.19"}
    connection.request("GET", target, headers=headers)
    status = connection.getresponse().status
    connection.close()
    return status


def test_founding_request(client: Client) -> None:
    """The call that the project was founded on gets the answer that it got in 2015."""
    job_id = client.ams.submit_scripted(
        "Encoding", states=[{"state": "Queued", "seconds": 8.28}, "Processing"]
    )
    client.ams.advance(10)
    target = f"Jobs()?$filter=Id%20eq%20'{quote(job_id, safe='')}'&$top=1"
    headers = {
        "DataServiceVersion": "1.0;NetFx",
        "MaxDataServiceVersion": "3.0;NetFx",
        "x-ms-version": "2.11",
    }
    document = client.get(target, headers={**headers, "Accept": "application/json"}).json()
    (job,) = document["value"]
    assert document["odata.metadata"] == f"{client.ams.base_url}$metadata#Jobs"
    names = "Id Name Created LastModified EndTime Priority RunningDuration StartTime State TemplateId"
    assert list(job) == [*names.split(), "JobNotificationSubscriptions"]
    assert (job["Id"], job["Name"], job["State"], job["EndTime"]) == (job_id, "Encoding", 2, None)
    assert job["RunningDuration"] == 1720.0
    for name in ("Created", "LastModified", "StartTime"):
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{0,6}[1-9])?", job[name])


@pytest.mark.parametrize(
    "target",
    [
        "/api/Jobs",
        "/API/Jobs()",
        "//api///Jobs",
        "/Api%2FJobs",
        "/api/Jobs%28%27{id}%27%29",
        "/api/%2FJobs('{id}')/State",
        "/api/Jobs('{quoted}')",
        "/api/Jobs?%24filter=Id%20eq%20'{quoted}'&%24top=1",
    ],
)
def test_paths_are_taken_as_clients_wrote_them(client: Client, target: str) -> None:
    """Case of /api, doubled slashes and percent-encoding of anything do not matter."""
    job_id = client.ams.submit_scripted()
    assert raw_get(client, target.format(id=job_id, quoted=quote(job_id, safe=""))) == 200


def test_verbose_entity(client: Client) -> None:
    """Verbose JSON has metadata, deferred navigation first, and collections as objects."""
    job_id = client.ams.submit_scripted()
    answer = client.get(f"Jobs('{job_id}')", headers=VERBOSE)
    assert answer.headers["Content-Type"] == "application/json;odata=verbose;charset=utf-8"
    job = answer.json()["d"]
    uri = f"{client.ams.base_url}Jobs('{quote(job_id, safe='')}')"
    kind = "Microsoft.Cloud.Media.Vod.Rest.Data.Models.Job"
    assert job["__metadata"] == {"id": uri, "uri": uri, "type": kind}
    assert list(job)[1:4] == ["Tasks", "OutputMediaAssets", "InputMediaAssets"]
    assert job["Tasks"] == {"__deferred": {"uri": f"{uri}/Tasks"}}
    assert job["JobNotificationSubscriptions"]["results"] == []
    listed = client.get("Jobs", headers=VERBOSE).json()["d"]["results"]
    assert listed == [job]


def test_properties(client: Client) -> None:
    """A property is read by itself; verbose answers in the older version."""
    job_id = client.ams.submit_scripted()
    light = client.get(f"Jobs('{job_id}')/State")
    assert light.json() == {"odata.metadata": f"{client.ams.base_url}$metadata#Edm.Int32", "value": 0}
    verbose = client.get(f"Jobs('{job_id}')/State", headers=VERBOSE)
    assert (verbose.json(), verbose.headers["DataServiceVersion"]) == ({"d": {"State": 0}}, "1.0;")
    assert client.get(f"Jobs('{job_id}')/Nonsense").status_code == 404


def test_navigation(client: Client) -> None:
    """Tasks, assets and files are reached from the job, and tasks and locators lead on."""
    job_id = client.ams.submit_scripted(outputs=[{"name": "a.mp4", "size": 10}])
    client.ams.advance(60)
    (task,) = client.value(f"Jobs('{job_id}')/Tasks()")
    (asset,) = client.value(f"Jobs('{job_id}')/OutputMediaAssets")
    assert client.value(f"Tasks('{task['Id']}')/OutputMediaAssets") == [asset]
    assert client.value(f"Jobs('{job_id}')/InputMediaAssets") == []
    (file,) = client.value(f"Assets('{asset['Id']}')/Files")
    assert (file["Name"], file["ContentFileSize"], file["IsPrimary"]) == ("a.mp4", "10", True)
    assert client.value("Files") == [file]
    assert client.value(f"Assets('{asset['Id']}')/Locators") == []
    assert [one["Name"] for one in client.value("MediaProcessors?$filter=Name eq 'Media Encoder Standard'")]


def test_queries(client: Client) -> None:
    """Lists are filtered, sorted, cut, counted and reduced; jobs come newest first."""
    for number in range(3):
        client.ams.submit_scripted(f"job {number}")
        client.ams.advance(1)

    def names(query: str) -> list[Any]:
        return [job["Name"] for job in client.value(f"Jobs?{query}")]

    assert names("") == ["job 2", "job 1", "job 0"]
    assert names("$orderby=Name&$skip=1&$top=1") == ["job 1"]
    assert names("$filter=State eq 2") == ["job 2", "job 1", "job 0"]
    assert names("$filter=startswith(Name,'job') and not endswith(Name,'1')") == ["job 2", "job 0"]
    assert client.get("Jobs/$count?$filter=Name ne 'job 1'").text == "2"
    assert client.value("Jobs?$select=Name,State&$top=1") == [{"Name": "job 2", "State": 2}]
    page = client.get("Jobs?$inlinecount=allpages&$top=1").json()
    assert (page["odata.count"], len(page["value"])) == ("3", 1)


def test_a_page_has_a_thousand(client: Client) -> None:
    """A list stops at 1000 entities even when more are asked for; the rest comes by ``$skip``."""
    with requests.Session() as session:
        for _ in range(1003):
            session.post(
                f"{client.ams.url}_emulator/jobs", json={}, headers=CONTROL, timeout=30
            ).raise_for_status()
    assert len(client.value("Jobs?$top=5000")) == 1000
    assert len(client.value("Jobs?$top=5000&$skip=1000")) == 3


@pytest.mark.parametrize(
    ("path", "status"),
    [
        (f"Jobs?$filter=Id eq '{UNKNOWN_JOB}'", 200),
        (f"Jobs('{UNKNOWN_JOB}')", 404),
        (f"Jobs('{UNKNOWN_JOB}')/Tasks", 404),
        ("Jobs('notAValidId')", 400),
        ("Jobs(7)", 400),
        (f"CancelJob?jobid='{UNKNOWN_JOB}'", 404),
        ("CancelJob?jobid='notAValidId'", 400),
        ("CancelJob", 400),
        ("Jobs?$expand=Tasks", 400),
        ("Jobs?$filter=Nonsense eq 1", 400),
        ("Nonsense", 501),
        ("Nonsense('x')/More/Still", 501),
        ("Nonsense(5)", 501),
        ("RebindContentKey(id='x',x509Certificate='y')", 501),
        ("My.Function", 501),
        ("jobs", 501),
        ("Jobs('x')/$links/Tasks", 501),
        ("$metadata", 501),
        ("$batch", 501),
        ("NotificationEndPoints", 501),
        ("JobTemplates", 501),
    ],
)
def test_what_is_not_there(client: Client, path: str, status: int) -> None:
    """Unknown is empty by filter and 404 by key, malformed 400, left out 501; errors are in both forms."""
    light, verbose = client.get(path), client.get(path, headers=VERBOSE)
    assert (light.status_code, verbose.status_code) == (status, status)
    if status == 200:
        assert light.json()["value"] == verbose.json()["d"]["results"] == []
    else:
        error = light.json()["odata.error"]
        assert verbose.json()["error"] == error
        assert (error["code"], error["message"]["lang"]) == ("", "en-US")
        name = "$links" if "$links" in path else re.split(r"[(/]", path)[0]
        assert status != 501 or error["message"]["value"].startswith(f"{name} is not")


@pytest.mark.parametrize(
    ("accept", "status"),
    [
        ("application/atom+xml", 501),
        ("application/atom+xml;type=feed, application/xml", 501),
        ("application/atomsvc+xml", 501),
        ("application/json, application/atom+xml", 200),
        ("Application/Atom+XML,application/json;odata=verbose", 200),
        ("application/atom+xml, */*;q=0.1", 200),
        ("*/*", 200),
        (None, 200),
    ],
)
def test_atom_is_not_there(client: Client, accept: str | None, status: int) -> None:
    """A client that takes only Atom is told so, by its name; all others get JSON."""
    answer = client.get("Jobs", headers={"Accept": accept})
    assert (answer.status_code, "Atom" in answer.text) == (status, status == 501)
    assert answer.headers["Content-Type"].startswith("application/json")
    body = {"data": "<entry/>", "headers": {"Content-Type": "application/atom+xml"}}
    posted = client.send("POST", "Assets", **body)
    assert (posted.status_code, "Atom" in posted.text) == (501, True)


def test_service_document_lists_the_sets(client: Client) -> None:
    """The root lists the entity sets."""
    sets = {entry["name"] for entry in client.value("")}
    assert sets == {"Jobs", "Tasks", "Assets", "Files", "AccessPolicies", "Locators", "MediaProcessors"}
    assert set(client.get("", headers=VERBOSE).json()["d"]["EntitySets"]) == sets


def test_other_verbs_are_named(client: Client) -> None:
    """A verb that a resource does not have is 501 with its name; a task cannot be posted by itself."""
    answer = client.send("DELETE", "MediaProcessors")
    assert (answer.status_code, "DELETE of MediaProcessors" in answer.text) == (501, True)
    assert client.send("POST", "Tasks", json={}).status_code == 400


def test_bounds_of_scripts(client: Client) -> None:
    """A scripted job goes its way by the clock: appears, works, errs with a reason, vanishes."""
    failing = client.ams.submit_scripted("bad", error={"code": "ErrorProcessingTask", "message": "no luck"})
    late = client.ams.submit_scripted("late", appear_after=5, vanish_after=20)
    stuck = client.ams.submit_scripted("odd", states=[{"state": 9}])
    assert client.get(f"Jobs('{late}')").status_code == 404
    assert [client.state(failing), client.state(stuck)] == [0, 9]
    client.ams.advance(10)
    assert [client.state(failing), client.state(stuck), client.state(late)] == [4, 9, 3]
    (task,) = client.value(f"Jobs('{failing}')/Tasks")
    assert task["ErrorDetails"] == [{"Code": "ErrorProcessingTask", "Message": "no luck"}]
    client.ams.advance(10)
    assert client.get(f"Jobs('{late}')").status_code == 404
    assert client.value(f"Jobs?$filter=Id eq '{late}'") == []
    refused = requests.post(
        f"{client.ams.url}_emulator/jobs",
        json={"script": {"states": ["Done"]}},
        headers=CONTROL,
        timeout=30,
    )
    assert (refused.status_code, "Done" in refused.json()["error"]) == (400, True)
