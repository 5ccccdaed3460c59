"""Faults on demand: which requests go wrong, and how. Doing it is the business of `injection`.

A rule is ``{"when": {…}, "then": {…}, "times": 2, "after": 1, "rate": 0.25}``. *when* may name a ``method``
and regular expressions for ``path`` and ``query`` (both decoded); *then* has exactly one fault. The first
rule that matches and is still due decides.

A path is what the request log shows: relative to ``/api/`` for v2 (``Jobs('…')``) and MK.IO
(``v1/projects/…``, ``ams/…``), to the root for ARM and RMS (``subscriptions/…``) and for the token endpoints
(``v2/OAuth2-13``, ``…/oauth2/v2.0/token``, ``auth/token``). An error is written as the service at that path
does.

To refuse one form of filter, say substringof, the way the service refuses a bad one::

    {"when": {"path": "^Jobs", "query": r"\\$filter=.*substringof"}, "then": {"status": 400}}
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from airflow_ams.emulator.errors import InvalidRequest

_BODIES = ("json", "bare", "html", "empty")
_EXTRAS = {"status": {"reason", "retry_after", "headers", "body"}}
_KINDS = ("status", "drop", "slow", "truncate", "redirect", "redirect_loop", "html", "oversize")


@dataclass(frozen=True)
class Fault:
    """How a request goes wrong: `kind` is one of the keys below, `value` what the rule says to it.

    =================  =================================================================
    ``status``         this status; with ``reason`` (really on the status line),
                       ``retry_after`` (seconds or HTTP date), ``headers`` (an object of
                       any others), ``body`` json, html, empty, or bare: JSON
                       with a text for its error, as gateways write it
    ``drop``           the connection is cut without an answer
    ``slow``           the real answer, its body dripping for so many seconds
    ``truncate``       the real answer, cut off in the middle of the body
    ``redirect``       301 to this URL
    ``redirect_loop``  301 to the service's root, whatever is asked for
    ``html``           200 with a page instead of data
    ``oversize``       200 with a JSON text of so many bytes
    =================  =================================================================
    """

    kind: str
    value: Any
    reason: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str = "json"


@dataclass
class Rule:
    """Which requests get a fault, and how often."""

    fault: Fault
    method: str | None
    path: re.Pattern[str]
    query: re.Pattern[str]
    times: int | None
    after: int
    rate: float
    seen: int = 0
    fired: int = 0

    def due(self, method: str, path: str, query: str, chance: random.Random) -> bool:
        """Count a request and tell whether it gets the fault."""
        if self.method not in (None, method) or not self.path.search(path) or not self.query.search(query):
            return False
        self.seen += 1
        if self.seen <= self.after or (self.times is not None and self.fired >= self.times):
            return False
        if self.rate < 1 and chance.random() >= self.rate:
            return False
        self.fired += 1
        return True


class Faults:
    """The rules in force.

    :param seed: makes rules with a rate repeatable.
    """

    def __init__(self, seed: int | None = None) -> None:
        self._chance = random.Random(seed)
        self._rules: list[Rule] = []

    def replace(self, rules: list[Rule]) -> None:
        """Put *rules* in force instead of those before."""
        self._rules = rules

    def fault_for(self, method: str, path: str, query: str) -> Fault | None:
        """Return the fault that a request gets, None if it is to go well."""
        for rule in self._rules:
            if rule.due(method, path, query, self._chance):
                return rule.fault
        return None


def read_fault_file(path: Path) -> list[Rule]:
    """Return the rules in a JSON file, or raise `InvalidRequest` that names the file."""
    try:
        return read_rules(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, InvalidRequest) as error:
        raise InvalidRequest(f"{path}: {error}") from None


def read_rules(document: Any) -> list[Rule]:
    """Return the rules in a JSON document.

    :raises InvalidRequest: a rule is none; the text says which, and what is wrong.
    """
    if not isinstance(document, list):
        raise InvalidRequest("Fault rules are a JSON list.")
    return [_read_numbered(number, entry) for number, entry in enumerate(document, start=1)]


def _read_numbered(number: int, entry: Any) -> Rule:
    try:
        return _read_rule(entry)
    except InvalidRequest as error:
        raise InvalidRequest(f"Fault rule {number}: {error}") from None


def _read_rule(entry: Any) -> Rule:
    entry = _object(entry, "a rule", {"when", "then", "times", "after", "rate"})
    when = _object(entry.get("when", {}), "'when'", {"method", "path", "query"})
    times, after, rate = entry.get("times"), entry.get("after", 0), entry.get("rate", 1.0)
    if times is not None and not _whole(times):
        raise InvalidRequest(f"'times' is a number of requests, not {times!r}.")
    if not _whole(after):
        raise InvalidRequest(f"'after' is a number of requests, not {after!r}.")
    if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 <= rate <= 1:
        raise InvalidRequest(f"'rate' is a number from 0 to 1, not {rate!r}.")
    method = when.get("method")
    return Rule(
        fault=_read_fault(entry.get("then")),
        method=str(method).upper() if method is not None else None,
        path=_pattern(when, "path"),
        query=_pattern(when, "query"),
        times=times,
        after=after,
        rate=float(rate),
    )


def _read_fault(then: Any) -> Fault:
    kinds = [kind for kind in _KINDS if isinstance(then, dict) and kind in then]
    if len(kinds) != 1:
        raise InvalidRequest(f"'then' has exactly one of {', '.join(_KINDS)}.")
    kind = kinds[0]
    then = _object(then, "'then'", {kind, *_EXTRAS.get(kind, ())})
    value = then[kind]
    if kind == "status" and (not _whole(value) or not 200 <= value <= 599):
        raise InvalidRequest(f"'status' is a number from 200 to 599, not {value!r}.")
    if kind == "oversize" and not _whole(value):
        raise InvalidRequest(f"'oversize' is a number of bytes, not {value!r}.")
    if kind == "slow" and (isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0):
        raise InvalidRequest(f"'slow' is a number of seconds, not {value!r}.")
    if kind == "redirect" and not isinstance(value, str):
        raise InvalidRequest(f"'redirect' is a URL, not {value!r}.")
    if kind in ("drop", "truncate", "redirect_loop", "html") and value is not True:
        raise InvalidRequest(f"'{kind}' is true or left out, not {value!r}.")
    body, reason = then.get("body", "json"), then.get("reason")
    if body not in _BODIES:
        raise InvalidRequest(f"'body' is one of {', '.join(_BODIES)}, not {body!r}.")
    if reason is not None and (not isinstance(reason, str) or not reason.isprintable()):
        raise InvalidRequest(f"'reason' is one line of text, not {reason!r}.")
    return Fault(kind, value, reason, _headers(then), body)


def _headers(then: dict[str, Any]) -> dict[str, str]:
    headers = then.get("headers", {})
    if not isinstance(headers, dict) or not all(map(_is_header, headers.items())):
        raise InvalidRequest(f"'headers' is an object of names and one line of text each, not {headers!r}.")
    headers = {name: str(value) for name, value in headers.items()}
    retry_after = then.get("retry_after")
    return headers if retry_after is None else {"Retry-After": str(retry_after), **headers}


def _is_header(header: tuple[str, Any]) -> bool:
    name, value = header
    text = isinstance(value, (str, int, float)) and str(value).isascii() and str(value).isprintable()
    return text and re.fullmatch(r"[A-Za-z0-9-]+", name) is not None


def _object(value: Any, what: str, keys: set[str]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidRequest(f"{what} is a JSON object, not {value!r}.")
    if unknown := sorted(set(value) - keys):
        raise InvalidRequest(f"{what} has no key '{unknown[0]}'; its keys are {', '.join(sorted(keys))}.")
    return value


def _pattern(when: dict[str, Any], key: str) -> re.Pattern[str]:
    try:
        return re.compile(when.get(key, ""))
    except (re.error, TypeError) as error:
        raise InvalidRequest(f"'{key}' is no regular expression: {error}.") from None


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
