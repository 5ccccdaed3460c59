"""The path of a v2 request, taken apart: ``Jobs('nb:jid:…')/Tasks`` and its relatives."""

from __future__ import annotations

import re
from dataclasses import dataclass

from airflow_ams.emulator.errors import InvalidRequest, NotFound, NotOffered

_SEGMENT = re.compile(r"(?P<name>[$\w]+)(?:\((?P<key>.*)\))?")
_KEY = re.compile(r"'((?:[^']|'')*)'")

# What the service had and the emulator has not.
_NOT_OFFERED = {
    "ContentKeys",
    "ContentKeyAuthorizationPolicyOptions",
    "ContentKeyAuthorizationPolicies",
    "AssetDeliveryPolicies",
    "IngestManifestFiles",
    "IngestManifestAssets",
    "IngestManifests",
    "StorageAccounts",
    "NotificationEndPoints",
    "TaskTemplates",
    "JobTemplates",
    "EncodingReservedUnitTypes",
    "Operations",
    "StreamingEndpoints",
    "Channels",
    "Programs",
    "$batch",
    "$metadata",
    "$links",
    "$value",
    "ParentAssets",
    "DeliveryPolicies",
    "AssetFilters",
    "StorageAccount",
    "TaskTemplate",
    "JobTemplate",
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
    parsed = [_segment(segment) for segment in segments]
    for name, _ in parsed:
        if name in _NOT_OFFERED:
            raise NotOffered(name)
    if not parsed:
        return ResourcePath("")
    if len(parsed) > 2 or (len(parsed) == 2 and parsed[1][1] is not None):
        raise NotFound(f"Resource not found for the path '{path}'.")
    name, key = parsed[0]
    return ResourcePath(name, key, parsed[1][0] if len(parsed) == 2 else None)


def _segment(text: str) -> tuple[str, str | None]:
    match = _SEGMENT.fullmatch(text.strip())
    if match is None:
        raise InvalidRequest(f"Bad Request - Error in query syntax: '{text}'.")
    if not match["key"]:
        return match["name"], None
    key = _KEY.fullmatch(match["key"].strip())
    if key is None:
        raise InvalidRequest(f"Bad Request - Error in query syntax: '{text}' has no quoted key.")
    return match["name"], key[1].replace("''", "'")
