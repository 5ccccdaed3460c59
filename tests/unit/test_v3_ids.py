"""Which ids name a v3 job, and that none changes the path of a request."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from airflow_ams.api.errors import MalformedIdError, ServiceError
from tests.unit.v3_stub import (
    JOB,
    LEGACY,
    MKIO,
    RESOURCE,
    Dialect,
    answer,
    each_arm,
    each_dialect,
    job,
)

V2_ID = "nb:jid:UUID:f3c43f94-327f-2347-90bb-3bf79f8559f1"
ID = f"{RESOURCE}/transforms/encode-720p/jobs/clip-7"
LONGEST = "n" * 260


def ask(dialect: Dialect, job_id: str) -> list[str]:
    """Call everything that takes a job id; return the URLs that were asked for."""
    service, wire = dialect.speak(by=lambda method, url: answer(document=job("nothing-of-it")))
    calls: list[Any] = [
        service.get_job,
        service.cancel_job,
        service.delete_job,
        lambda text: service.set_priority(text, 1),
        service.get_outputs,
    ]
    for call in calls:
        # Another job is answered with; only the URLs matter here.
        with suppress(ServiceError):
            call(job_id)
    return [url for _, url in wire.requests]


@each_dialect
@pytest.mark.parametrize(
    ("text", "known"),
    [
        (JOB, JOB),
        (f"  {JOB}\n", JOB),
        ("encode-720p%2Fclip-7", JOB),
        (quote(f" {JOB} "), JOB),
        ("Encode-720p/CLIP-7", "Encode-720p/CLIP-7"),
        ("transforms/encode-720p/jobs/clip-7", JOB),
        ("/Transforms/encode-720p/JOBS/clip-7", JOB),
        ("a transform/a job", "a transform/a job"),
        ("v1.2_x/clip.v7", "v1.2_x/clip.v7"),
        ("überträge/ジョブ", "überträge/ジョブ"),
        ('it\'s/"quoted"', 'it\'s/"quoted"'),
        ("a/...", "a/..."),
        (f"{LONGEST}/{LONGEST}", f"{LONGEST}/{LONGEST}"),
        (ID, JOB),
        (ID.lower(), JOB),
        (quote(ID, safe=""), JOB),
        (ID.replace("mediaservices", "mediaServices"), JOB),
        (ID.replace("clip-7", "Clip%207"), "encode-720p/Clip 7"),
    ],
)
def test_a_job_is_named_by_transform_and_name(dialect: Dialect, text: str, known: str) -> None:
    """So, or by the full id that a create returns, in any case and percent-encoded; case is kept."""
    service, _ = dialect.speak(answer())
    assert service.job_id(text) == known
    assert service.job_id(known) == known


@each_dialect
@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "clip-7",
        "/clip-7",
        "encode-720p/",
        "a/b/c",
        "a//b",
        "transforms/a/jobs/",
        "transforms//jobs/b",
        "transforms/a/jobs/b/cancelJob",
        f"{ID}/cancelJob",
        f"{ID}?api-version=2022-07-01",
        "a/b?x=1",
        "a/b#x",
        "a/%3Fx",
        "a/b%23",
        "./b",
        "a/..",
        "%2E%2E/b",
        "a/b\\c",
        "a/<b>",
        "a/{{ ti.xcom_pull('x') }}",
        "a/b\nc",
        "a/b\x00",
        "a/b%00",
        "a/50%25",
        "a/b%252Fc",
        "a/\ud800",
        f"{LONGEST}n/b",
        f"a/{LONGEST}n",
        "None",
    ],
)
def test_a_malformed_id_is_refused_before_any_request(dialect: Dialect, text: str) -> None:
    """Nothing is sent; the message shows what was given, the API, and what it wants instead."""
    service, wire = dialect.speak(answer())
    with pytest.raises(MalformedIdError) as caught:
        service.get_job(text)
    assert wire.sent == []
    assert repr(text[:200]) in str(caught.value)
    assert f"'{dialect.api}'" in str(caught.value)
    assert "transform/job" in str(caught.value)


@each_dialect
@pytest.mark.parametrize("text", [V2_ID, V2_ID.lower(), quote(V2_ID, safe=""), f" {V2_ID}"])
def test_an_id_of_the_v2_api_is_known_as_one(dialect: Dialect, text: str) -> None:
    """Job and connection do not go together: the message says of which API each is."""
    service, wire = dialect.speak(answer())
    with pytest.raises(MalformedIdError, match="v2") as caught:
        service.get_job(text)
    assert f"extra.api is '{dialect.api}'" in str(caught.value)
    assert wire.sent == []


@each_dialect
@pytest.mark.parametrize("thing", [None, 7, [JOB], {"id": JOB}, JOB.encode()])
def test_what_is_no_text_is_no_id(dialect: Dialect, thing: Any) -> None:
    """Values of other types, as a template may render them, are malformed ids, not crashes."""
    service, wire = dialect.speak(answer())
    with pytest.raises(MalformedIdError):
        service.get_job(thing)
    assert wire.sent == []


@each_dialect
def test_a_long_id_is_not_shown_whole(dialect: Dialect) -> None:
    """A whole document pasted as an id does not fill the log."""
    service, _ = dialect.speak(answer())
    for text in ("x" * 100_000, f"{'x' * 100_000}/transforms/a/jobs/?"):
        with pytest.raises(MalformedIdError) as caught:
            service.job_id(text)
        assert len(str(caught.value)) < 600


@each_arm
@pytest.mark.parametrize(
    ("own", "other", "field"),
    [
        ("00000000-1111", "00000000-9999", "subscription"),
        ("media-group", "Other-Group", "resource group"),
        ("contoso", "fabrikam", "account"),
    ],
)
@pytest.mark.parametrize("host", ["", "https://management.azure.com"])
def test_a_job_of_another_account_is_refused(
    dialect: Dialect, own: str, other: str, field: str, host: str
) -> None:
    """Its name would be looked for in the wrong place; the message says what differs."""
    service, wire = dialect.speak(answer())
    with pytest.raises(MalformedIdError, match=rf"of {field} '.*', but the connection is for '") as caught:
        service.get_job(host + ID.replace(own, other))
    assert other in str(caught.value)
    assert wire.sent == []


@each_arm
@pytest.mark.parametrize(
    "text", [ID.upper(), ID.lower(), f"https://management.azure.com{ID}", ID.removeprefix("/")]
)
def test_the_accounts_own_ids_are_compared_without_case(dialect: Dialect, text: str) -> None:
    """Requests say `mediaServices`, answers `mediaservices`; groups and subscriptions are no better."""
    service, _ = dialect.speak(answer())
    assert service.job_id(text).casefold() == JOB


@each_arm
def test_an_address_of_mkio_is_no_arm_id(dialect: Dialect) -> None:
    """It is surely of another account, whatever its end looks like."""
    service, wire = dialect.speak(answer())
    with pytest.raises(MalformedIdError):
        service.get_job(MKIO.url("transforms/encode-720p/jobs/clip-7"))
    assert wire.sent == []


@pytest.mark.parametrize("dialect", [MKIO, LEGACY], ids=["mkio", "legacy"])
@pytest.mark.parametrize("address", [MKIO, LEGACY], ids=["address", "legacy-address"])
def test_an_address_of_mkio_names_project_and_job(dialect: Dialect, address: Dialect) -> None:
    """As copied from a log; of another project it is refused, and both are named."""
    service, wire = dialect.speak(answer())
    url = address.url("transforms/encode-720p/jobs/clip-7")
    assert service.job_id(url) == service.job_id(urlsplit(url).path) == JOB
    assert service.job_id(url.replace("contoso", "Contoso")) == JOB
    with pytest.raises(MalformedIdError, match=r"project 'fabrikam'.*'contoso'"):
        service.get_job(url.replace("contoso", "fabrikam"))
    assert wire.sent == []


@pytest.mark.parametrize("dialect", [MKIO, LEGACY], ids=["mkio", "legacy"])
@pytest.mark.parametrize(
    "start",
    [
        "projects/{}/media/",
        "/projects/{}/media/",
        "/api/v1/projects/{}/",
        "api/ams/{}/",
        "https://api.mk.io/api/ams/{}/",
        "/PROJECTS/{}/MEDIA/",
    ],
)
@pytest.mark.parametrize("transform", ["t", "projects", "transforms"])
def test_a_project_is_what_stands_before_the_transform(dialect: Dialect, start: str, transform: str) -> None:
    """With or without a slash before it, and whatever the transform is called."""
    service, _ = dialect.speak(answer())
    end = f"transforms/{transform}/jobs/j"
    assert service.job_id(start.format("contoso") + end) == f"{transform}/j"
    with pytest.raises(MalformedIdError, match=r"project 'fabrikam'.*'contoso'"):
        service.job_id(start.format("fabrikam") + end)


@pytest.mark.parametrize("dialect", [MKIO, LEGACY], ids=["mkio", "legacy"])
def test_a_resource_id_names_no_project(dialect: Dialect) -> None:
    """Not even if a group is called so."""
    service, _ = dialect.speak(answer())
    assert service.job_id(ID.replace("media-group", "projects")) == JOB
    assert service.job_id("transforms/projects/jobs/j") == "projects/j"


@each_dialect
def test_the_calls_of_one_job(dialect: Dialect) -> None:
    """Paths as documented, each name percent-encoded for itself."""
    urls = ask(dialect, "a transform/überträge'7")
    path = "transforms/a%20transform/jobs/%C3%BCbertr%C3%A4ge%277"
    assert urls[0] == dialect.url(path)
    assert urls[1] == dialect.url(f"{path}/cancelJob")
    assert set(urls[2:]) == {dialect.url(path)}


ODD = st.sampled_from(
    [
        "'",
        "%27",
        "/",
        "%2F",
        "%252F",
        "?",
        "%3F",
        "&",
        "#",
        "%",
        " ",
        "\n",
        "..",
        "%2E%2E",
        "\\",
        "%00",
        ";",
        "//",
        "@",
    ]
)
AROUND = st.lists(ODD | st.characters(), max_size=4).map("".join)


@each_dialect
@given(
    text=st.text(max_size=60)
    | st.builds(lambda a, b: f"{a}/{b}", AROUND, AROUND)
    | st.builds(lambda a, b: a + JOB + b, AROUND, AROUND)
    | st.builds(lambda a, b: a + ID + b, AROUND, AROUND)
    | st.builds(lambda at, odd: ID[:at] + odd + ID[at:], st.integers(0, len(ID)), AROUND)
)
@example(text="a/50%25")
@example(text="a%2Fb%252Fc")
@example(text="\u00a0a/b\u3000")
@example(text="a/\udc80")
def test_no_accepted_id_changes_the_path(dialect: Dialect, text: str) -> None:
    """Whatever is taken for an id names one transform and one job, each time the same, of this account."""
    service, _ = dialect.speak(answer())
    try:
        known = service.job_id(text)
    except MalformedIdError:
        assert ask(dialect, text) == []
        return
    assert service.job_id(known) == known
    shape = (
        re.escape(dialect.root)
        + r"transforms/([^/?#]+)/jobs/([^/?#]+?)(/cancelJob)?"
        + re.escape(f"?{dialect.query}" if dialect.query else "")
    )
    for url in ask(dialect, text):
        found = re.fullmatch(shape, url)
        assert found is not None, url
        assert f"{unquote(found[1])}/{unquote(found[2])}" == known
        assert urlsplit(url).netloc == urlsplit(dialect.root).netloc
        assert not {".", ".."} & {found[1], found[2]}
