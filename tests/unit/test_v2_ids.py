"""No id can change a filter or a path, and one that is pasted askew is understood."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from airflow_ams.api.errors import JobNotFoundError, MalformedIdError
from airflow_ams.api.retries import NO_RETRIES
from airflow_ams.api.tokens import StaticToken
from airflow_ams.api.transport import Transport
from airflow_ams.api.v2 import V2Service
from airflow_ams.api.v2_ids import EXAMPLE_ID
from airflow_ams.api.wire import Answer
from tests.unit.stub_wire import StubWire

BASE = "https://media.windows.net/api/"
GUID = "f3c43f94-327f-2347-90bb-3bf79f8559f1"
ID = f"nb:jid:UUID:{GUID}"
ASSET = f"nb:cid:UUID:{GUID}"


class Wire(StubWire):
    """Has nothing to tell."""

    @property
    def urls(self) -> list[str]:
        """The URLs that were asked for."""
        return [sent["url"] for sent in self.sent]

    def answer(self, method: str, url: str) -> Answer:
        """Answer that there is nothing."""
        return Answer(200, "OK", {}, b'{"value": []}')


def open_service() -> tuple[V2Service, Wire]:
    """Open a service on a wire that notes URLs."""
    wire = Wire()
    return V2Service(Transport(BASE, StaticToken("t"), wire, retries=NO_RETRIES)), wire


def ask(job_id: str) -> list[str]:
    """Call everything that takes a job id; return the URLs that were asked for."""
    service, wire = open_service()
    calls = (
        service.get_job,
        service.cancel_job,
        service.delete_job,
        lambda text: service.set_priority(text, 1),
        service.get_outputs,
    )
    for call in calls:
        # There is no such job; only the URLs matter here.
        with suppress(JobNotFoundError):
            call(job_id)
    return wire.urls


WRITTEN = [
    ID,
    ID.lower(),
    ID.upper(),
    f"  {ID}\n",
    quote(ID, safe=""),
    quote(ID, safe="").lower(),
    f" {quote(ID, safe='')} ",
    f"nb%3Ajid:UUID%3a{GUID.upper()}",
]


@pytest.mark.parametrize("text", WRITTEN)
def test_an_id_pasted_askew_is_understood(text: str) -> None:
    """`%3A`, other case and blanks around it name the same job."""
    service, _ = open_service()
    assert service.job_id(text) == ID


def test_the_founding_call_is_percent_encoded() -> None:
    """The filter is sent as documented in 2015, and the key forms quote the id the same way."""
    urls = ask(ID)
    literal = f"'nb%3Ajid%3AUUID%3A{GUID}'"
    assert urls == [
        f"{BASE}Jobs()?$filter=Id%20eq%20{literal}&$top=1",
        f"{BASE}CancelJob?jobid={literal}",
        f"{BASE}Jobs({literal})",
        f"{BASE}Jobs({literal})",
        f"{BASE}Jobs({literal})/OutputMediaAssets",
    ]


MALFORMED = [
    "",
    " ",
    "None",
    GUID,
    ID[:-1],
    ID + "0",
    ID + "'",
    ID + "' or Id ne '",
    ID + "%27%20or%201%20eq%201",
    ID + "/Tasks",
    ID + "?$top=1",
    ID + "#",
    ID.replace(":", "%253A"),
    ASSET,
    f"nb:tid:UUID:{GUID}",
    f"nb:jid:GUID:{GUID}",
    "../" + ID,
    ID.replace("-", "–"),
    ID.replace("jid", "jıd"),
    f"nb:jid:UUID:{{{GUID}}}",
    ID.replace("f3c4", "ｆ３ｃ４"),
    f"{ID}\n{ID}",
    f"{ID}\x00",
]


@pytest.mark.parametrize("text", MALFORMED)
def test_a_malformed_id_is_refused_before_any_request(text: str) -> None:
    """Nothing is sent, and the message shows the id and an example of a good one."""
    service, wire = open_service()
    with pytest.raises(MalformedIdError) as caught:
        service.get_job(text)
    assert EXAMPLE_ID in str(caught.value)
    assert repr(text[:200]) in str(caught.value)
    assert wire.urls == []


@pytest.mark.parametrize("thing", [None, 7, [ID], {"id": ID}, b"nb"])
def test_what_is_no_text_is_no_id(thing: Any) -> None:
    """Values of other types, as a template may render them, are malformed ids, not crashes."""
    service, wire = open_service()
    with pytest.raises(MalformedIdError):
        service.get_job(thing)
    assert wire.urls == []


def test_a_long_id_is_not_shown_whole() -> None:
    """A whole document pasted as an id does not fill the log."""
    service, _ = open_service()
    with pytest.raises(MalformedIdError) as caught:
        service.get_job("x" * 100_000)
    assert len(str(caught.value)) < 500


ODD = st.sampled_from(
    ["'", "%27", "/", "?", "&", "#", "%", " ", "\n", ")", "(", "''", "\\", "%00", "..", ";"]
)
AROUND = st.lists(ODD | st.characters(), max_size=4).map("".join)


@given(
    st.text(max_size=60)
    | st.builds(lambda a, b: a + ID + b, AROUND, AROUND)
    | st.builds(lambda at, odd: ID[:at] + odd + ID[at:], st.integers(0, len(ID)), AROUND)
    | st.from_regex(re.compile(r"nb(:|%3A)jid(:|%3A)uuid(:|%3A)[0-9a-f-]{36}", re.IGNORECASE), fullmatch=True)
)
@example(f"{ID} ")
@example(f"\u00a0{ID}\u3000")
def test_no_accepted_id_changes_filter_or_path(text: str) -> None:
    """Whatever text is taken for an id, each request has the same shape and names exactly one plain id."""
    try:
        urls = ask(text)
    except MalformedIdError:
        return
    literal = r"'nb:jid:UUID:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}'"
    shapes = [
        rf"Jobs\(\)\?\$filter=Id eq {literal}&\$top=1",
        rf"CancelJob\?jobid={literal}",
        rf"Jobs\({literal}\)",
        rf"Jobs\({literal}\)",
        rf"Jobs\({literal}\)/OutputMediaAssets",
    ]
    assert len(urls) == len(shapes)
    for url, shape in zip(urls, shapes, strict=True):
        assert re.fullmatch(re.escape(BASE) + shape, unquote(url))
        assert urlsplit(url).netloc == "media.windows.net"
        assert urlsplit(url).fragment == ""


@given(st.text(max_size=60) | st.builds(lambda a, b: a + ASSET + b, AROUND, AROUND))
def test_no_accepted_asset_id_changes_the_path(text: str) -> None:
    """Asset ids are held to the same."""
    service, wire = open_service()
    with suppress(MalformedIdError):
        service.get_output_files(text)
    path = re.escape(BASE) + r"Assets\('nb:cid:UUID:[0-9a-f-]{36}'\)/Files"
    assert all(re.fullmatch(path, unquote(url)) for url in wire.urls)
