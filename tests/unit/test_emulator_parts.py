"""The emulator's clock, tokens, accounts, fault rules, store and job rules, without HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from airflow_ams.emulator.assets import Assets, check_file_name
from airflow_ams.emulator.clock import Clock
from airflow_ams.emulator.errors import InvalidRequest, NotAllowed, NotAuthenticated
from airflow_ams.emulator.faults import Faults, read_fault_file, read_rules
from airflow_ams.emulator.ids import guid_of
from airflow_ams.emulator.jobs import JobRequest, Jobs, OutputRequest, TaskRequest
from airflow_ams.emulator.records import MEDIA_ENCODER_STANDARD, SCRIPTED, Asset, Job
from airflow_ams.emulator.settings import ACCOUNTS_VARIABLE, SUBSCRIPTION, Settings, read_accounts
from airflow_ams.emulator.store import Store
from airflow_ams.emulator.tokens import Bearer, Tokens


def test_clock_freezes_and_advances() -> None:
    """A frozen clock moves only by `advance`, and runs on from where it stood."""
    real = [100.0]
    clock = Clock(real=lambda: real[0])
    clock.advance(10)
    clock.freeze()
    real[0] = 200.0
    assert clock.now() == 110
    clock.advance(5)
    clock.unfreeze()
    real[0] = 201.0
    assert clock.now() == 116
    with pytest.raises(InvalidRequest):
        clock.advance(-1)


@pytest.mark.parametrize("kind", ["swt", "jwt"])
def test_tokens_expire_and_cannot_be_changed(kind: str) -> None:
    """A token is good for its account until it expires; a changed one is not."""
    clock = Clock(real=lambda: 1000.0)
    tokens = Tokens({"a": "key", "b": "key"}, "secret", clock, lifetime=60)
    token = tokens.issue_swt("a") if kind == "swt" else tokens.issue_jwt("a", "tenant", "audience")
    assert tokens.account_of(f"Bearer {token}") == "a"
    assert tokens.account_of(f"bearer {token}") == "a"
    other = Tokens({"a": "key"}, "another secret", clock).issue_swt("a")
    for wrong in (None, "", "Bearer", f"Basic {token}", "Bearer nonsense", "Bearer a.b.c", f"Bearer {other}"):
        with pytest.raises(NotAuthenticated):
            tokens.account_of(wrong)
    with pytest.raises(NotAuthenticated):
        tokens.account_of(f"Bearer {token.replace('=a&', '=b&') if kind == 'swt' else 'x' + token}")
    clock.advance(60)
    with pytest.raises(NotAuthenticated, match="expired"):
        tokens.account_of(f"Bearer {token}")


def test_tokens_say_what_they_are_for() -> None:
    """Each kind of token is known again, with what only it has."""
    tokens = Tokens({"a": "key"}, "secret", Clock())
    issued = {
        Bearer("a", "acs"): tokens.issue_swt("a"),
        Bearer("a", "entra", "https://management.azure.com"): tokens.issue_jwt(
            "a", "tenant", "https://management.azure.com"
        ),
        Bearer("a", "rms"): tokens.issue_rms("a"),
        Bearer("a", "personal"): tokens.issue_personal("a", None, 60),
        Bearer("a", "personal", None, frozenset()): tokens.issue_personal("a", [], 60),
        Bearer("a", "personal", None, frozenset({"ams.job.get"})): tokens.issue_personal(
            "a", ["ams.job.get"], 60
        ),
    }
    for bearer, token in issued.items():
        assert tokens.bearer_of(f"Bearer {token}") == bearer


@pytest.mark.parametrize("kind", ["rms", "personal"])
def test_other_services_tokens_do_not_open_v2(kind: str) -> None:
    """The v2 service takes tokens of ACS and Entra, and no others."""
    tokens = Tokens({"a": "key"}, "secret", Clock())
    token = tokens.issue_rms("a") if kind == "rms" else tokens.issue_personal("a", None, 60)
    with pytest.raises(NotAuthenticated, match="another service"):
        tokens.account_of(f"Bearer {token}")


def test_a_personal_token_has_its_own_lifetime() -> None:
    """What is set for the other tokens does not shorten it."""
    clock = Clock(real=lambda: 1000.0)
    tokens = Tokens({"a": "key"}, "secret", clock, lifetime=1)
    personal, rms = tokens.issue_personal("a", None, 100), tokens.issue_rms("a")
    clock.advance(99)
    assert tokens.bearer_of(f"Bearer {personal}").account == "a"
    for token in (rms, tokens.issue_personal("a", None, 0)):
        with pytest.raises(NotAuthenticated, match="expired"):
            tokens.bearer_of(f"Bearer {token}")


def test_an_api_key_is_known_by_itself() -> None:
    """The key names the account; a key that has expired is refused with another text than a wrong one."""
    tokens = Tokens({"a": "one", "b": "two"}, "secret", Clock())
    assert tokens.account_with_key(SUBSCRIPTION.upper(), "two") == "b"
    for subscription, key in ((SUBSCRIPTION, "three"), ("other", "two"), (SUBSCRIPTION, "")):
        with pytest.raises(NotAuthenticated, match="wrong"):
            tokens.account_with_key(subscription, key)
    tokens.api_keys_expired = True
    with pytest.raises(NotAuthenticated, match="expired"):
        tokens.account_with_key(SUBSCRIPTION, "two")


def test_accounts_come_from_flags_then_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flags win over the environment; with neither the service makes one with a random key."""
    monkeypatch.setenv(ACCOUNTS_VARIABLE, "x:1, y:k:2")
    assert read_accounts(["a:b"]) == {"a": "b"}
    assert read_accounts([]) == {"x": "1", "y": "k:2"}
    monkeypatch.delenv(ACCOUNTS_VARIABLE)
    assert read_accounts([]) == {}


@pytest.mark.parametrize("flags", [["secretkey"], ["a:"], [":b"], ["a:b", "a:c"]])
def test_bad_accounts_are_refused_without_showing_keys(flags: list[str]) -> None:
    """A malformed account is an error whose text does not hold what may be a key."""
    with pytest.raises(ValueError, match="Account") as error:
        read_accounts(flags)
    assert "secretkey" not in str(error.value)


def test_settings_hide_keys() -> None:
    """Keys are not in the text form of the settings."""
    assert "hidden" not in repr(Settings(accounts={"a": "hidden"}))


def fired(rules: list[Any], *queries: str) -> list[bool]:
    """Tell of each request whether it gets a fault."""
    faults = Faults(seed=7)
    faults.replace(read_rules(rules))
    return [faults.fault_for("GET", "Jobs()", query) is not None for query in queries]


def test_rules_count() -> None:
    """`after` lets the first requests through, `times` ends it."""
    assert fired([{"then": {"drop": True}, "after": 1, "times": 2}], *"abcde") == [
        False,
        True,
        True,
        False,
        False,
    ]


def test_rules_match() -> None:
    """A rule holds for its method, path and query; the first that matches and is due decides."""
    rule = {"when": {"method": "get", "path": r"^Jobs\(\)$", "query": "substringof"}, "then": {"status": 400}}
    assert fired([rule], "$filter=substringof('x',Name)", "$filter=Id eq 'x'") == [True, False]
    assert fired([{**rule, "when": {"method": "POST"}}], "a") == [False]
    faults = Faults()
    faults.replace(read_rules([{"then": {"status": 500}, "times": 1}, {"then": {"status": 502}}]))
    values = [fault.value for fault in (faults.fault_for("GET", "", "") for _ in range(2)) if fault]
    assert values == [500, 502]


def test_rates_are_repeatable() -> None:
    """The same seed gives the same random faults, some but not all."""
    rule = {"then": {"drop": True}, "rate": 0.5}
    first = fired([rule], *"abcdefghijklmnop")
    assert first == fired([rule], *"abcdefghijklmnop")
    assert 0 < sum(first) < len(first)


@pytest.mark.parametrize(
    ("rules", "what"),
    [
        ({}, "list"),
        ([5], "rule 1: a rule"),
        ([{"then": {"drop": True}}, {}], "rule 2: 'then'"),
        ([{"then": {"drop": True, "html": True}}], "exactly one"),
        ([{"then": {"drop": False}}], "'drop'"),
        ([{"then": {"status": 99}}], "'status'"),
        ([{"then": {"status": 503, "body": "xml"}}], "'body'"),
        ([{"then": {"status": 503, "reason": "a\r\nb"}}], "'reason'"),
        ([{"then": {"drop": True, "reason": "x"}}], "no key 'reason'"),
        ([{"then": {"drop": True, "headers": {}}}], "no key 'headers'"),
        ([{"then": {"status": 503, "headers": ["x"]}}], "'headers'"),
        ([{"then": {"status": 503, "headers": {"a b": "x"}}}], "'headers'"),
        ([{"then": {"status": 503, "headers": {"a": "x\r\ny: z"}}}], "'headers'"),
        ([{"then": {"status": 503, "headers": {"a": None}}}], "'headers'"),
        ([{"then": {"slow": "very"}}], "'slow'"),
        ([{"then": {"oversize": -1}}], "'oversize'"),
        ([{"then": {"redirect": True}}], "'redirect'"),
        ([{"when": {"path": "("}, "then": {"drop": True}}], "regular expression"),
        ([{"when": {"host": "x"}, "then": {"drop": True}}], "no key 'host'"),
        ([{"then": {"drop": True}, "times": "2"}], "'times'"),
        ([{"then": {"drop": True}, "after": -1}], "'after'"),
        ([{"then": {"drop": True}, "rate": 2}], "'rate'"),
    ],
)
def test_bad_rules_say_what_is_wrong(rules: Any, what: str) -> None:
    """A rule that is none is refused with its number and the reason."""
    with pytest.raises(InvalidRequest, match=what):
        read_rules(rules)


def test_bad_fault_file_is_named(tmp_path: Path) -> None:
    """An unreadable file of rules is refused with its name."""
    path = tmp_path / "faults.json"
    path.write_text("[")
    with pytest.raises(InvalidRequest, match=r"faults\.json"):
        read_fault_file(path)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../a", "a\\b", "a\0b", "é" * 200])
def test_file_names_stay_in_the_folder(name: str) -> None:
    """A name that could lead out of the asset's folder is refused."""
    with pytest.raises(InvalidRequest):
        check_file_name(name)


class Parts:
    """A store, assets and jobs on a clock that stands still."""

    def __init__(self, folder: Path, path: str = ":memory:") -> None:
        """Make them in *folder*."""
        self.now = 1000.0
        self.clock = Clock(real=lambda: self.now)
        self.store = Store(path)
        self.assets = Assets(self.store, folder / "blobs", "secret", self.clock)
        self.jobs = Jobs(self.store, self.assets, self.clock)


@pytest.fixture
def parts(tmp_path: Path) -> Parts:
    """Return fresh parts."""
    return Parts(tmp_path)


def task(*outputs: int, inputs: tuple[int, ...] = (0,), chained: tuple[int, ...] = ()) -> TaskRequest:
    """Return an encode task."""
    made = tuple(OutputRequest(number) for number in outputs)
    return TaskRequest(MEDIA_ENCODER_STANDARD, "x", made, inputs, chained)


def test_chained_tasks_run_in_order(parts: Parts) -> None:
    """A task that needs another's output comes after it, and gets its asset."""
    asset = parts.assets.create("a", "in")
    request = JobRequest("j", (task(1, inputs=(), chained=(0,)), task(0)), (asset.id,))
    job = parts.jobs.submit("a", request)
    first, second = parts.jobs.tasks(job)
    assert (first.inputs, second.inputs) == ([asset.id], first.outputs)


@pytest.mark.parametrize(
    ("tasks", "what"),
    [
        ((), "1 to 30"),
        (tuple(task(n) for n in range(31)), "1 to 30"),
        ((task(0), task(0)), "more than once"),
        ((task(),), "outputAsset"),
        ((task(0, inputs=()),), "inputAsset"),
        ((task(0, inputs=(1,)),), r"JobInputAsset\(1\)"),
        ((task(0, chained=(5,)),), r"JobOutputAsset\(5\)"),
        ((task(*range(50)),), "at most 50"),
        ((task(0, chained=(1,)), task(1, chained=(0,))), "cycle"),
        ((TaskRequest("nb:mpid:UUID:0", "", (OutputRequest(0),), (0,)),), "no media processor"),
        ((TaskRequest(SCRIPTED, "", (OutputRequest(0),)), task(1)), "one task"),
        ((TaskRequest(SCRIPTED, "nonsense", (OutputRequest(0),)),), "JSON"),
        ((TaskRequest(SCRIPTED, '{"outputs": [{"name": "../x"}]}', (OutputRequest(0),)),), "file name"),
    ],
)
def test_bad_jobs_are_refused(parts: Parts, tasks: tuple[TaskRequest, ...], what: str) -> None:
    """A job that contradicts itself is refused, and nothing of it is kept."""
    asset = parts.assets.create("a", "in")
    with pytest.raises(InvalidRequest, match=what):
        parts.jobs.submit("a", JobRequest("j", tasks, (asset.id,)))
    assert list(parts.store.all(Job)) == []


def test_locators_open_what_they_were_made_for(parts: Parts) -> None:
    """A signature is good for one asset, one permission, and a time."""
    asset, other = parts.assets.create("a", "x"), parts.assets.create("a", "y")
    policy = parts.assets.create_policy("a", "p", minutes=1, permissions=2)
    locator = parts.assets.create_locator("a", asset.id, policy.id, None)
    container, guid = f"asset-{guid_of(asset.id)}", guid_of(locator.id)
    signature = parts.assets.signature(locator)
    assert parts.assets.open_with(container, guid, signature, 2) == asset.id
    for wrong in (
        (f"asset-{guid_of(other.id)}", guid, signature, 2),
        (container, guid, signature[:-1] + "x", 2),
        (container, "none", signature, 2),
        (container, guid, signature, 1),
    ):
        with pytest.raises(NotAllowed):
            parts.assets.open_with(*wrong)
    parts.now += 60
    with pytest.raises(NotAllowed, match="not valid"):
        parts.assets.open_with(container, guid, signature, 2)


def test_store_outlives_its_process(tmp_path: Path) -> None:
    """What was put is there again, in the same order; what was removed is not."""
    path = str(tmp_path / "x.sqlite")
    parts = Parts(tmp_path, path)
    names = ["a", "b", "c"]
    assets = [parts.assets.create("acc", name) for name in names]
    assets[0].name = "A"
    parts.store.put(assets[0])
    parts.store.remove(assets[1])
    parts.store.remember("fact", {"x": 1})
    parts.store.close()
    again = Store(path)
    assert [asset.name for asset in again.all(Asset)] == ["A", "c"]
    assert again.fact("fact") == {"x": 1}
    again.close()
