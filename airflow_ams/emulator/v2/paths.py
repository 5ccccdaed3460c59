"""The path of a v2 request, taken apart: ``Jobs('nb:jid:…')/Tasks`` and its relatives."""

from __future__ import annotations

import re
from dataclasses import dataclass

from airflow_ams.emulator.errors import InvalidRequest, NotFound, NotOffered
from airflow_ams.emulator.v2.edm import TYPES

_SEGMENT = re.compile(r"(?P<name>[$.\w]+)(?:\((?P<key>.*)\))?")
_KEY = re.compile(r"'((?:[^']|'')*)'")

CANCEL_JOB, CREATE_FILE_INFOS = "CancelJob", "CreateFileInfos"
# What a path can begin with; anything else is left out, whether or not the service had it.
_OFFERED = {*TYPES, CANCEL_JOB, CREATE_FILE_INFOS}
# What the service had further on in a path and the emulator has not.
_NOT_OFFERED = {
    "$links",
    "$value",
    "AssetFilters",
    "ContentKeys",
    "DeliveryPolicies",
    "JobTemplate",
    "ParentAssets",
    "StorageAccount",
    "TaskTemplate",
}


@dataclass(frozen=True)
class ResourcePath:
    """Where a request goes: an entity set, perhaps one entity of it, perhaps something of that one."""

    set: str
    key: str | None = None
    member: str | None = None


def read_path(path: str) -> ResourcePath:
    """Return the parts of a decoded path, relative to the service root; the root itself has no set.

    :raises InvalidRequest: it is not formed as a path.
    :raises NotFound: it is longer than any path of the service.
    :raises NotOffered: it names what the emulator leaves out.
    """
    # An entity's key may hold a slash; nothing else between quotes matters here.
    segments = [part for part in re.findall(r"(?:[^/']|'(?:[^']|'')*')+|'", path) if part]
    split = [_split(segment) for segment in segments]
    for position, (name, _) in enumerate(split):
        if name in _NOT_OFFERED or (position == 0 and name not in _OFFERED):
            raise NotOffered(name)
    parsed = [(name, _read_key(name, key)) for name, key in split]
    if not parsed:
        return ResourcePath("")
    if len(parsed) > 2 or (len(parsed) == 2 and parsed[1][1] is not None):
        raise NotFound(f"Resource not found for the path '{path}'.")
    name, key = parsed[0]
    return ResourcePath(name, key, parsed[1][0] if len(parsed) == 2 else None)


def _split(text: str) -> tuple[str, str | None]:
    match = _SEGMENT.fullmatch(text.strip())
    if match is None:
        raise InvalidRequest(f"Bad Request - Error in query syntax: '{text}'.")
    return match["name"], match["key"]


def _read_key(name: str, text: str | None) -> str | None:
    if not text:
        return None
    key = _KEY.fullmatch(text.strip())
    if key is None:
        raise InvalidRequest(f"Bad Request - Error in query syntax: '{name}({text})' has no quoted key.")
    return key[1].replace("''", "'")
