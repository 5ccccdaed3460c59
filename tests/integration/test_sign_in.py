"""How a token is got: ACS, Entra ID by form, and Entra ID by azure-identity, for real."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trustme

from airflow_ams.api.errors import RefusedError, ServiceError, TransientError
from airflow_ams.api.tokens import ACS_SCOPE
from airflow_ams.hooks.ams import AmsHook
from tests.integration.waits import WIRES, on, signing_in

if TYPE_CHECKING:
    from airflow_ams.emulator.process import Emulator

ID = "nb:jid:UUID:f3c43f94-327f-2347-90bb-3bf79f8559f1"
KEY = "pA55w0rd/with+odd=chars&more"
TENANT = "11111111-2222-3333-4444-555555555555"


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Emulator, Path]]:
    """Run an emulator that speaks https, as azure-identity wants it; with the bundle that trusts it."""
    from airflow_ams.emulator.process import Emulator

    folder = tmp_path_factory.mktemp("tls")
    ca = trustme.CA()
    certificate = ca.issue_cert("127.0.0.1")
    certificate.private_key_pem.write_to_path(str(folder / "key.pem"))
    ca.cert_pem.write_to_path(str(folder / "ca.pem"))
    # The chain ends in the authority itself, which is what the emulator's handle trusts.
    for pem in (*certificate.cert_chain_pems, ca.cert_pem):
        pem.write_to_path(str(folder / "cert.pem"), append=True)
    with Emulator(ssl_certfile=folder / "cert.pem", ssl_keyfile=folder / "key.pem") as emulator:
        yield emulator, folder / "ca.pem"


def issuing(reply: type[Any], **token: Any) -> Callable[[Any], Any]:
    """Answer sign-ins with a token, and reads with an empty list."""

    def answer(seen: Any) -> Any:
        if seen.method == "POST":
            return reply(document={"access_token": "tok", "expires_in": 3600, **token})
        return reply(document={"value": []})

    return answer


def test_the_acs_form(service: Callable[..., Any], reply: type[Any], connection: Callable[..., str]) -> None:
    """Account and key, percent-encoded, and the scope that ACS knows; a lifetime may be a text."""
    here = service(issuing(reply, expires_in="21600"))
    extra = {"token_url": f"{here.url}v2/OAuth2-13"}
    with AmsHook(connection(host=here.base_url, login="account", password=KEY, extra=extra)) as hook:
        hook.test_connection()
    sign_in = here.seen[0]
    assert sign_in.target == "/v2/OAuth2-13"
    assert sign_in.headers["Content-Type"] == "application/x-www-form-urlencoded"
    assert sign_in.form == {
        "grant_type": "client_credentials",
        "client_id": "account",
        "client_secret": KEY,
        "scope": ACS_SCOPE,
    }
    assert here.seen[1].headers["Authorization"] == "Bearer tok"


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("tenant/oauth2/token", {"resource": "https://rest.media.azure.net"}),
        ("tenant/oauth2/token/", {"resource": "https://rest.media.azure.net"}),
        ("tenant/oauth2/v2.0/token", {"scope": "https://rest.media.azure.net/.default"}),
        ("tenant/oauth2/v2.0/token/", {"scope": "https://rest.media.azure.net/.default"}),
    ],
)
def test_the_entra_forms(
    service: Callable[..., Any],
    reply: type[Any],
    connection: Callable[..., str],
    path: str,
    field: dict[str, str],
) -> None:
    """`scope` for a v2.0 URL, else `resource`."""
    here = service(issuing(reply))
    extra = {"auth": "entra", "token_url": here.url + path}
    with AmsHook(connection(host=here.base_url, login="client", password=KEY, extra=extra)) as hook:
        hook.test_connection()
    assert here.seen[0].form == {
        "grant_type": "client_credentials",
        "client_id": "client",
        "client_secret": KEY,
        **field,
    }


@pytest.mark.parametrize(
    ("cloud", "resource"),
    [
        ("usgov", "https://rest.media.usgovcloudapi.net"),
        ("china", "https://rest.media.chinacloudapi.cn"),
    ],
)
def test_national_clouds_have_their_own_resource(
    service: Callable[..., Any], reply: type[Any], connection: Callable[..., str], cloud: str, resource: str
) -> None:
    """`extra.cloud` decides what the token is for."""
    here = service(issuing(reply))
    extra = {"auth": "entra", "cloud": cloud, "token_url": f"{here.url}t/oauth2/token"}
    with AmsHook(connection(host=here.base_url, login="client", password=KEY, extra=extra)) as hook:
        hook.test_connection()
    assert here.seen[0].form["resource"] == resource


@pytest.mark.parametrize("path", ["oauth2/token", "oauth2/v2.0/token"])
def test_both_entra_forms_sign_in(ams_emulator: Emulator, connection: Callable[..., str], path: str) -> None:
    """The emulator checks the form and the token."""
    extra = {"auth": "entra", "token_url": f"{ams_emulator.url}{TENANT}/{path}"}
    good, sentence = AmsHook(connection(**{**ams_emulator.connection, "extra": extra})).test_connection()
    assert good, sentence


@pytest.mark.parametrize("path", ["v2/OAuth2-13", f"{TENANT}/oauth2/token", f"{TENANT}/oauth2/v2.0/token"])
def test_a_wrong_key_is_a_refusal(ams_emulator: Emulator, connection: Callable[..., str], path: str) -> None:
    """One try, and a sentence that names login, password and the end point, but not the key."""
    extra = {"auth": "acs" if "OAuth2-13" in path else "entra", "token_url": ams_emulator.url + path}
    fields = {**ams_emulator.connection, "password": KEY, "extra": extra}
    with AmsHook(connection(**fields)) as hook, pytest.raises(RefusedError) as caught:
        hook.get_job(ID)
    assert "password" in str(caught.value)
    assert "extra.token_url" in str(caught.value)
    assert KEY not in str(caught.value)
    assert len(ams_emulator.requests("[Oo][Aa]uth2")) == 1


@pytest.mark.parametrize("before", [10, 290])
def test_a_sign_in_that_quotes_the_key_is_not_quoted_with_it(
    service: Callable[..., Any], reply: type[Any], connection: Callable[..., str], before: int
) -> None:
    """The key is blanked in the end point's own words, also where they are cut."""
    document = {"error": f"invalid {KEY}", "error_description": "x" * before + f" {KEY} is wrong\nTrace: 1"}
    here = service(lambda _: reply(status=401, document=document))
    extra = {"token_url": f"{here.url}token"}
    with (
        AmsHook(connection(host=here.base_url, login="a", password=KEY, extra=extra)) as hook,
        pytest.raises(RefusedError, match="invalid") as caught,
    ):
        hook.get_job(ID)
    assert KEY[:6] not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("document", "kind"),
    [
        ({"access_token": "tok"}, TransientError),
        ({"expires_in": 5}, TransientError),
        ({"access_token": "tok", "expires_in": "soon"}, TransientError),
        ([], TransientError),
        (None, TransientError),
        ("tok", TransientError),
    ],
)
def test_a_sign_in_without_a_token_is_trouble(
    service: Callable[..., Any],
    reply: type[Any],
    connection: Callable[..., str],
    quick_retries: None,
    document: Any,
    kind: type[ServiceError],
) -> None:
    """Status 200 without token or lifetime is an answer that cannot be used."""
    here = service(lambda _: reply(document=document))
    extra = {"token_url": f"{here.url}token"}
    with (
        AmsHook(connection(host=here.base_url, login="a", password=KEY, extra=extra)) as hook,
        pytest.raises(kind),
    ):
        hook.get_job(ID)


@signing_in
def test_many_hooks_sign_in_once(ams: Emulator) -> None:
    """Twenty threads with hooks of their own share one token of the process."""
    job_id = ams.submit_scripted()
    ams.clear_requests()
    found: list[str] = []

    def read() -> None:
        with AmsHook() as hook:
            found.append(hook.get_job(job_id).id)

    threads = [threading.Thread(target=read) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert found == [job_id] * 20
    assert len(ams.requests(WIRES[ams.api].sign_in)) == 1


@on("rms")
def test_the_api_key_form(ams: Emulator, connection: Callable[..., str]) -> None:
    """No double slash, whether or not the host ends in one, and the bare token is good."""
    for host in (ams.url, ams.url.rstrip("/")):
        good, sentence = AmsHook(connection(**{**ams.connection, "host": host})).test_connection()
        assert good, sentence
    assert {request["path"] for request in ams.requests("token")} == {"auth/token"}


@on("rms")
def test_a_wrong_api_key_is_a_refusal(ams: Emulator, connection: Callable[..., str]) -> None:
    """One try, and a sentence that names password and subscription, but not the key."""
    conn_id = connection(**{**ams.connection, "password": KEY})
    with AmsHook(conn_id) as hook, pytest.raises(RefusedError) as caught:
        hook.get_job("a/b")
    assert "password" in str(caught.value)
    assert "extra.subscription_id" in str(caught.value)
    assert KEY not in str(caught.value)
    assert len(ams.requests("auth/token")) == 1


def test_a_token_that_ends_is_renewed_before_the_service_refuses_it(
    service: Callable[..., Any], reply: type[Any], connection: Callable[..., str]
) -> None:
    """A life so short that it is over at once leads to a sign-in for each call, not to a 401."""
    here = service(issuing(reply, expires_in=0))
    extra = {"token_url": f"{here.url}token"}
    with AmsHook(connection(host=here.base_url, login="a", password=KEY, extra=extra)) as hook:
        for _ in range(3):
            assert hook.get_conn().check()
    assert [seen.method for seen in here.seen] == ["POST", "GET"] * 3


def entra(emulator: Emulator, bundle: Path | None, **change: Any) -> dict[str, Any]:
    """Make a connection that signs in through azure-identity at the emulator."""
    extra = {"tenant_id": TENANT, "authority": emulator.url.rstrip("/")}
    extra |= {"verify": str(bundle)} if bundle else {}
    fields = {"host": emulator.base_url, "login": emulator.account, "password": emulator.key, "extra": extra}
    return {**fields, **change}


@pytest.mark.parametrize("api", ["v2", "arm"])
def test_azure_identity_signs_in(
    secure: tuple[Emulator, Path], connection: Callable[..., str], api: str
) -> None:
    """The real library, at a private https authority, with instance discovery off and our bundle.

    The emulator looks at what the token is for: the media service, or the management end point.
    """
    emulator, bundle = secure
    emulator.clear_requests()
    fields = entra(emulator, bundle)
    if api == "arm":
        place = ("api", "subscription_id", "resource_group", "account_name")
        fields["host"] = emulator.url
        fields["extra"] |= {name: emulator.connections["arm"]["extra"][name] for name in place}
    good, sentence = AmsHook(connection(**fields)).test_connection()
    assert good, sentence
    assert emulator.requests(rf"^{TENANT}/oauth2/v2.0/token$|^/{TENANT}/oauth2/v2.0/token$")


@pytest.mark.parametrize("api", ["arm", "rms", "mkio"])
def test_each_dialect_speaks_https(
    secure: tuple[Emulator, Path], connection: Callable[..., str], api: str
) -> None:
    """With the bundle for API and token end point; without it the error names the setting."""
    emulator, bundle = secure
    fields = emulator.connections[api]
    fields = {**fields, "extra": {**fields["extra"], "verify": str(bundle)}}
    good, sentence = AmsHook(connection(**fields)).test_connection()
    assert good, sentence
    del fields["extra"]["verify"]
    good, sentence = AmsHook(connection(**fields)).test_connection()
    assert not good
    assert "extra.verify" in sentence


def test_azure_identity_with_a_wrong_secret_is_a_refusal(
    secure: tuple[Emulator, Path], connection: Callable[..., str]
) -> None:
    """The message names what to look at, and holds no secret."""
    emulator, bundle = secure
    with (
        AmsHook(connection(**entra(emulator, bundle, password=KEY))) as hook,
        pytest.raises(RefusedError) as caught,
    ):
        hook.get_job(ID)
    for word in ("client secret", "extra.tenant_id", "login"):
        assert word in str(caught.value)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"authority": "https://127.0.0.1:9"}, ["Entra ID"]),
        ({"tenant_id": "not a tenant!"}, ["extra.tenant_id"]),
    ],
)
def test_azure_identity_that_cannot_sign_in_says_why(
    secure: tuple[Emulator, Path],
    connection: Callable[..., str],
    change: dict[str, Any],
    words: list[str],
    quick_retries: None,
) -> None:
    """An authority that is down is trouble, a malformed tenant a refusal: both are ours to name."""
    emulator, bundle = secure
    fields = entra(emulator, bundle)
    fields["extra"] |= change
    with AmsHook(connection(**fields)) as hook, pytest.raises(ServiceError) as caught:
        hook.get_job(ID)
    assert isinstance(caught.value, TransientError if "authority" in change else RefusedError)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    "fault",
    [
        {"status": 500},
        {"status": 503, "body": "html"},
        {"status": 429},
        {"drop": True},
        {"html": True},
        {"truncate": True},
    ],
)
def test_trouble_of_entra_id_is_trouble(
    secure: tuple[Emulator, Path], connection: Callable[..., str], fault: dict[str, Any], quick_retries: None
) -> None:
    """A sign-in service that is busy refuses nobody: the same call succeeds when it is over."""
    emulator, bundle = secure
    emulator.inject({"when": {"path": "oauth2/v2.0/token"}, "then": fault})
    with AmsHook(connection(**entra(emulator, bundle))) as hook:
        with pytest.raises(TransientError):
            hook.get_conn().check()
        emulator.clear_faults()
        assert hook.get_conn().check()


def test_azure_identity_without_our_bundle_names_the_setting(
    secure: tuple[Emulator, Path], connection: Callable[..., str], quick_retries: None
) -> None:
    """An untrusted authority is not waited for: the error says extra.verify."""
    emulator, _ = secure
    with (
        AmsHook(connection(**entra(emulator, None))) as hook,
        pytest.raises(RefusedError, match=r"extra\.verify"),
    ):
        hook.get_job(ID)


def test_managed_identity_on_a_machine_without_one_is_a_refusal(
    service: Callable[..., Any],
    reply: type[Any],
    connection: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The real library asks the App Service end point, which knows no identity here."""
    here = service(lambda _: reply(status=400, document={"error": "no identity"}))
    monkeypatch.setenv("IDENTITY_ENDPOINT", f"{here.url}msi/token")
    monkeypatch.setenv("IDENTITY_HEADER", "header")
    conn_id = connection(host=here.base_url, extra={"managed_identity": "true"})
    with AmsHook(conn_id) as hook, pytest.raises(RefusedError, match="managed identity"):
        hook.get_job(ID)


def test_managed_identity_signs_in(
    service: Callable[..., Any],
    reply: type[Any],
    connection: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The real library gets its token from the App Service end point, for our resource and our client id."""
    import time

    def answer(seen: Any) -> Any:
        if seen.path.startswith("/msi"):
            expiry = str(int(time.time()) + 3600)
            return reply(document={"access_token": "tok", "expires_on": expiry, "token_type": "Bearer"})
        return reply(document={"value": []})

    here = service(answer)
    monkeypatch.setenv("IDENTITY_ENDPOINT", f"{here.url}msi/token")
    monkeypatch.setenv("IDENTITY_HEADER", "header")
    conn_id = connection(host=here.base_url, extra={"managed_identity": "some-client-id"})
    good, sentence = AmsHook(conn_id).test_connection()
    assert good, sentence
    identity, call = here.seen
    assert "rest.media.azure.net" in identity.query
    assert "some-client-id" in identity.query
    assert call.headers["Authorization"] == "Bearer tok"
