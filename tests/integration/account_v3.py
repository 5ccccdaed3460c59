"""The account of the tests' own process in the dialects of v3."""

from __future__ import annotations

import base64
import json
import re
import time
import uuid
from abc import abstractmethod
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from tests.integration.account import CREATED, ERROR, Account, options

NAMES = ("Queued", "Scheduled", "Processing", "Finished", "Error", "Canceled", "Canceling")
"""The states as v3 writes them."""

_TRANSFORM_JOBS = re.compile(r"/transforms/([^/]+)/jobs$", re.IGNORECASE)
_TRANSFORM_JOB = re.compile(r"/transforms/([^/]+)/jobs/([^/]+)(?:/(\w+))?$", re.IGNORECASE)


class V3Account(Account):
    """What ARM and MK.IO have in common: jobs named by their transform, and whole in every list."""

    unknown = "Encode/f3c43f94"
    prefixes: tuple[str, ...]
    """Of the paths that it knows, in lower case."""

    literal: str
    """A pattern of a state in a filter, the only way to write it that is taken."""

    def __init__(self, reply: Callable[..., Any]) -> None:
        super().__init__(reply)
        self.next_root = ""
        """What the links to next pages begin with; empty: `base_url`."""

    @abstractmethod
    def _refuse(self, status: int, code: str, text: str) -> Any: ...

    @abstractmethod
    def _listed(self, rows: list[dict[str, Any]], skip: int, total: int) -> dict[str, Any]: ...

    @abstractmethod
    def _resource_id(self, transform: str, name: str) -> str: ...

    def is_list(self, seen: Any) -> bool:
        """Whether a request is for a list of jobs."""
        return bool(seen.method == "GET" and seen.path.endswith("/jobs"))

    def about(self, seen: Any) -> tuple[str, str]:
        """Return the job that a request is about, and what of it."""
        match = _TRANSFORM_JOB.search(seen.path)
        return (f"{match[1]}/{match[2]}", match[3] or "") if match else ("", "")

    def _new_id(self, transform: str) -> str:
        return f"{transform}/{uuid.uuid4()}"

    def _answer(self, seen: Any) -> Any:
        if not seen.path.lower().startswith(self.prefixes):
            return self._refuse(404, "NotFound", f"There is nothing at {seen.path}")
        if self.is_list(seen):
            return self._list(seen)
        if seen.path.endswith("/transforms"):
            names = {job_id.partition("/")[0] for job_id in self.states}
            return self._said({"value": [{"name": name, "properties": {}} for name in sorted(names)]})
        job_id, part = self._known(seen)
        if not job_id:
            return self._refuse(404, "NotFound", "The requested resource was not found.")
        if (seen.method, part) == ("POST", "cancelJob"):
            self.canceled.append(job_id)
            return self.reply(body=b"")
        if seen.method == "GET" and not part:
            return self._said(self._row(job_id))
        return self._refuse(404, "NotFound", f"{seen.method} {part} is not offered")

    def _known(self, seen: Any) -> tuple[str, str]:
        """Return what `about` does with the id as it was made; names compare without case."""
        asked, part = self.about(seen)
        if asked in self.states:
            return asked, part
        return next((job_id for job_id in self.states if job_id.lower() == asked.lower()), ""), part

    def _list(self, seen: Any) -> Any:
        given = options(seen)
        wanted = self._wanted(given["$filter"]) if "$filter" in given else {*range(len(NAMES))}
        if wanted is None:
            return self._refuse(400, "BadRequest", f"The filter is not understood: {given['$filter']}")
        transform = _TRANSFORM_JOBS.search(seen.path)
        found = self._in(wanted, f"{transform[1]}/" if transform else "")
        if given.get("$orderby") == "properties/created desc":
            found.reverse()
        size = min(self.page_size, int(given.get("$top", self.page_size)))
        skip = int(given.get("$skiptoken", 0))
        page = found[skip : skip + size]
        document = self._listed([self._row(job_id) for job_id in page], skip, len(found))
        if skip + size < len(found):
            query = "&".join(f"{name}={quote(value)}" for name, value in given.items() if "skip" not in name)
            link = f"{self.next_root or self.base_url}{quote(seen.path[1:])}?{query}&$skiptoken={skip + size}"
            document["@odata.nextLink"] = link
        return self._said(document)

    def _wanted(self, condition: str) -> set[int] | None:
        terms = [
            re.fullmatch(rf"\(*properties/state eq {self.literal}\)*", term)
            for term in condition.split(" or ")
        ]
        names = [term[1].capitalize() for term in terms if term]
        if len(names) < len(terms) or not {*names} <= {*NAMES}:
            return None
        return {NAMES.index(name) for name in names}

    def _said(self, document: dict[str, Any]) -> Any:
        return self.reply(body=json.dumps(document).encode())

    def _row(self, job_id: str) -> dict[str, Any]:
        transform, _, name = job_id.partition("/")
        output = {
            "@odata.type": "#Microsoft.Media.JobOutputAsset",
            "assetName": f"output-{name}",
            "label": "BuiltInStandardEncoderPreset_0",
            "state": self._state(job_id),
            "progress": int(self.progress.get(job_id, 40)),
        }
        if self.states[job_id] == ERROR:
            output["error"] = {"code": "E1", "message": "bad", "category": "Content", "retry": "DoNotRetry"}
        return {
            "name": name,
            "id": self._resource_id(transform, name),
            "type": "Microsoft.Media/mediaservices/transforms/jobs",
            "properties": {
                "created": CREATED,
                "state": self._state(job_id),
                "input": {"@odata.type": "#Microsoft.Media.JobInputAsset", "assetName": "input", "files": []},
                "lastModified": CREATED,
                "outputs": [output],
                "priority": "Normal",
            },
        }

    def _state(self, job_id: str) -> str:
        state = self.states[job_id]
        return NAMES[state] if state < len(NAMES) else f"State{state}"


class ArmAccount(V3Account):
    """AMS v3 behind Azure's management endpoint."""

    prefixes = ("/subscriptions/s/resourcegroups/r/providers/microsoft.media/mediaservices/a/transforms",)
    literal = r"Microsoft\.Media\.JobState'(\w+)'"

    @property
    def connection(self) -> dict[str, Any]:
        """The fields of an Airflow connection to it."""
        names = {"subscription_id": "S", "resource_group": "R", "account_name": "A"}
        extra = {"api": "arm", "auth": "bearer", **names}
        return {"host": self.base_url, "password": "a-token", "extra": extra}

    def _answer(self, seen: Any) -> Any:
        if "api-version" not in options(seen):
            return self._refuse(
                400, "MissingApiVersionParameter", "The api-version query parameter is missing"
            )
        return super()._answer(seen)

    def _refuse(self, status: int, code: str, text: str) -> Any:
        return self.reply(status, {"error": {"code": code, "message": text}})

    def _listed(self, rows: list[dict[str, Any]], skip: int, total: int) -> dict[str, Any]:
        return {"value": rows}

    def _resource_id(self, transform: str, name: str) -> str:
        account = "/subscriptions/S/resourceGroups/R/providers/Microsoft.Media/mediaservices/A"
        return f"{account}/transforms/{transform}/jobs/{name}"


class RmsAccount(ArmAccount):
    """Ravnur: the wire of ARM, and a sign-in of its own, without which nothing is answered."""

    def __init__(self, reply: Callable[..., Any]) -> None:
        super().__init__(reply)
        self.api_key = "an-api-key"
        """What it is opened with now; the connection has the first one."""

        self.sign_ins: list[int] = []
        """The status of each sign-in so far."""

        self.token_lifetime = 3600.0
        self._tokens: dict[str, float] = {}

    @property
    def connection(self) -> dict[str, Any]:
        """The fields of an Airflow connection to it."""
        extra = {"api": "rms", "subscription_id": "S", "resource_group": "R", "account_name": "A"}
        return {"host": self.base_url, "password": "an-api-key", "extra": extra}

    def expire_tokens(self) -> None:
        """Take no token any more that was issued so far."""
        with self._guard:
            self._tokens.clear()

    def _answer(self, seen: Any) -> Any:
        if (seen.method, seen.path) == ("POST", "/auth/token"):
            return self._sign_in(json.loads(seen.body))
        token = seen.headers.get("Authorization", "").removeprefix("Bearer ")
        if self._tokens.get(token, 0.0) < time.time():
            return self._refuse(401, "AuthenticationFailed", "The token is missing, unknown or has expired")
        return super()._answer(seen)

    def _sign_in(self, said: Any) -> Any:
        is_right = said == {"subscriptionId": "S", "apiKey": self.api_key}
        self.sign_ins.append(200 if is_right else 401)
        if not is_right:
            return self._refuse(401, "Unauthorized", "The API key is unknown or has expired")
        expires = time.time() + self.token_lifetime
        claims = {"sub": "S", "jti": str(uuid.uuid4()), "exp": int(expires)}
        parts = ({"alg": "HS256", "typ": "JWT"}, claims, "a signature")
        token = ".".join(
            base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts
        )
        self._tokens[token] = expires
        return self.reply(body=token.encode(), headers={"Content-Type": "text/plain; charset=utf-8"})


class MkioAccount(V3Account):
    """MediaKind MK.IO, by its current URLs and the older ones."""

    prefixes = ("/api/v1/projects/p/media/", "/api/ams/p/")
    literal = r"'(\w+)'"

    @property
    def connection(self) -> dict[str, Any]:
        """The fields of an Airflow connection to it."""
        return {"host": self.base_url, "password": "a-token", "extra": {"api": "mkio", "project": "P"}}

    def _answer(self, seen: Any) -> Any:
        job_id, part = self._known(seen)
        if job_id and (seen.method, part) == ("GET", "state"):
            return self._said({"status": {"state": self._state(job_id)}})
        return super()._answer(seen)

    def _refuse(self, status: int, code: str, text: str) -> Any:
        error = {"code": code, "detail": text, "extraDetail": {}}
        return self.reply(status, {"error": error, "status": status, "ref": "5f0c0ffe"})

    def _listed(self, rows: list[dict[str, Any]], skip: int, total: int) -> dict[str, Any]:
        pagination = {"start": skip, "end": skip + len(rows), "records": len(rows), "total": total}
        supplemental = {"count": len(rows), "kind": "Job", "operation": "List", "pagination": pagination}
        return {"value": rows, "supplemental": supplemental}

    def _resource_id(self, transform: str, name: str) -> str:
        account = "/subscriptions/S/resourceGroups/default/providers/Microsoft.Media/mediaServices/P"
        return f"{account}/transforms/{transform}/jobs/{name}"
