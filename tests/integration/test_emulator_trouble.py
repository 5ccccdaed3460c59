"""Faults on demand, as a client sees them on the wire."""

from __future__ import annotations

import pytest
import requests

from tests.integration.client import Client, credentials

REASON = "Server is busy. More than 20 requests per second can be throttled."


@pytest.mark.parametrize("status", [401, 408, 429, 500, 502, 503, 504])
def test_status_once(client: Client, status: int) -> None:
    """A status comes as often as the rule says, with an OData error."""
    client.ams.inject({"then": {"status": status}, "times": 1})
    answer = client.get("Jobs")
    assert (answer.status_code, "odata.error" in answer.json()) == (status, True)
    assert client.get("Jobs").status_code == 200


@pytest.mark.parametrize("retry_after", [2, "Wed, 21 Oct 2026 07:28:00 GMT", None])
def test_reason_is_on_the_status_line(client: Client, retry_after: object) -> None:
    """A 503 has the service's own reason phrase, and Retry-After in both forms or none."""
    then = {"status": 503, "reason": REASON}
    client.ams.inject({"then": then if retry_after is None else {**then, "retry_after": retry_after}})
    answer = client.get("Jobs")
    assert (answer.status_code, answer.reason) == (503, REASON)
    assert answer.headers.get("Retry-After") == (None if retry_after is None else str(retry_after))


@pytest.mark.parametrize(
    ("body", "start"),
    [("html", "<html>"), ("empty", ""), ("json", '{"odata.error"'), ("bare", '{"status":502,"error":"Bad')],
)
def test_bodies_of_errors(client: Client, body: str, start: str) -> None:
    """The body of an error is JSON, a page, or nothing."""
    client.ams.inject({"then": {"status": 502, "body": body}})
    text = client.get("Jobs").text
    assert text.startswith(start)
    assert bool(text) is bool(start)


def test_drop_cuts_the_connection(client: Client) -> None:
    """A dropped request gets no answer at all; the next one does."""
    client.ams.inject({"then": {"drop": True}, "times": 1})
    with pytest.raises(requests.ConnectionError):
        client.get("Jobs")
    assert client.get("Jobs").status_code == 200
    assert [entry["status"] for entry in client.ams.requests("Jobs")] == [None, 200]
    assert "Traceback" not in client.ams.stderr()


def test_truncated_answer(client: Client) -> None:
    """A truncated answer promises more than it delivers."""
    client.ams.inject({"then": {"truncate": True}, "times": 1})
    with pytest.raises(requests.exceptions.ChunkedEncodingError, match="IncompleteRead"):
        client.get("Jobs")
    assert client.get("Jobs").status_code == 200


def test_slow_answer_drips(client: Client) -> None:
    """A slow answer comes complete, in drips; a reader with little patience gives up between two of them."""
    client.ams.inject({"then": {"slow": 0.2}, "times": 1}, {"then": {"slow": 30}})
    assert client.get("Jobs").json()["value"] == []
    with client.get("Jobs", timeout=0.3, stream=True) as answer:
        assert answer.status_code == 200
        with pytest.raises(requests.ConnectionError, match="timed out"):
            _ = answer.content


def test_redirects(client: Client) -> None:
    """A redirect goes where the rule says; a loop leads to the root again and again."""
    client.ams.inject({"then": {"redirect": "https://elsewhere.example/api/"}, "times": 1})
    answer = client.get("Jobs")
    assert (answer.status_code, answer.headers["Location"]) == (301, "https://elsewhere.example/api/")
    client.ams.inject({"then": {"redirect_loop": True}})
    for path in ("Jobs", ""):
        assert client.get(path).headers["Location"] == client.ams.base_url
    with pytest.raises(requests.TooManyRedirects):
        client.get("Jobs", allow_redirects=True)


def test_page_and_flood(client: Client) -> None:
    """A 200 may be a page, or a JSON text that is far too long."""
    client.ams.inject({"then": {"html": True}, "times": 1}, {"then": {"oversize": 3_000_000}})
    page = client.get("Jobs")
    assert (page.status_code, page.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert len(client.get("Jobs").content) == 3_000_000


def test_rules_choose_requests(client: Client) -> None:
    """Rules look at the decoded path and query, of token endpoints too; clearing ends them."""
    client.ams.inject(
        {"when": {"path": "^Jobs", "query": r"\$filter=.*substringof"}, "then": {"status": 400}},
        {"when": {"path": "OAuth2-13", "method": "POST"}, "then": {"status": 503}},
    )
    assert client.get("Jobs?%24filter=substringof%28%27x%27,Name%29").status_code == 400
    assert client.get("Jobs?$filter=startswith(Name,'x')").status_code == 200
    assert requests.post(client.ams.token_url, data=credentials(client.ams), timeout=30).status_code == 503
    client.ams.clear_faults()
    assert requests.post(client.ams.token_url, data=credentials(client.ams), timeout=30).status_code == 200


def test_log_shows_requests_without_secrets(client: Client) -> None:
    """The log has method, path, query, status, account and request id; signatures and tokens are nowhere."""
    client.ams.clear_requests()
    client.get("Jobs()?$top=1&sig=verysecret", headers={"x-ms-client-request-id": "id-1"})
    (entry,) = client.ams.requests(r"^Jobs\(\)$")
    assert (entry["method"], entry["status"], entry["account"]) == ("GET", 200, client.ams.account)
    assert (entry["query"], entry["client_request_id"]) == ("$top=1&sig=…", "id-1")
    assert client.ams.requests("Nonsense") == []
    said = client.ams.stderr()
    assert "GET /api/Jobs() 200" in said
    assert "verysecret" not in said
    assert client.token not in said
