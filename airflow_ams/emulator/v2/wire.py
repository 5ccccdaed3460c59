"""How the v2 service writes: light and verbose JSON, its dates and its errors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import quote

from airflow_ams.emulator.odata import DATETIME, DOUBLE, INT64
from airflow_ams.emulator.v2.edm import NAMESPACE, TYPES, Entity, EntityType

LIGHT_TYPE = "application/json;odata=minimalmetadata;streaming=true;charset=utf-8"
VERBOSE_TYPE = "application/json;odata=verbose;charset=utf-8"


def iso_trimmed(moment: datetime) -> str:
    """Return the form of reads: no zone, and no zeros at the end of the fraction."""
    text = moment.strftime("%Y-%m-%dT%H:%M:%S.%f")
    return text.rstrip("0").rstrip(".")


def iso_seven_digits(moment: datetime) -> str:
    """Return the form of the answer to a POST of a job."""
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%f") + "0Z"


def json_date(moment: datetime) -> str:
    """Return the form that OData version 1 and 2 had."""
    return f"/Date({round(moment.timestamp() * 1000)})/"


@dataclass(frozen=True)
class Writer:
    """Writes answers in one of the two forms.

    :param base: the service root that the caller used, with a slash at the end.
    :param verbose: ``odata=verbose`` was asked for; otherwise light (minimal metadata).
    """

    base: str
    verbose: bool

    @property
    def content_type(self) -> str:
        """The Content-Type of what is written."""
        return VERBOSE_TYPE if self.verbose else LIGHT_TYPE

    def uri(self, kind: EntityType, entity: Entity) -> str:
        """Return the address of *entity*, colons encoded as the service does."""
        return f"{self.base}{kind.set}('{quote(entity['Id'], safe='')}')"

    def many(self, kind: EntityType, page: list[Entity], sources: list[Entity], total: int | None) -> Any:
        """Return a list; *sources* are the entities whose parts are on the page, *total* their count."""
        if self.verbose:
            results = [self._verbose(kind, part, whole) for part, whole in zip(page, sources, strict=True)]
            count = {} if total is None else {"__count": str(total)}
            return {"d": {**count, "results": results}}
        count = {} if total is None else {"odata.count": str(total)}
        values = [self._values(kind, part, iso_trimmed) for part in page]
        return {"odata.metadata": f"{self.base}$metadata#{kind.set}", **count, "value": values}

    def one(self, kind: EntityType, part: Entity, whole: Entity, *, echo: bool = False) -> Any:
        """Return a single entity; *echo* is the answer to the POST that made it."""
        if self.verbose:
            return {"d": self._verbose(kind, part, whole, echo=echo)}
        date = iso_seven_digits if echo else iso_trimmed
        metadata = f"{self.base}$metadata#{kind.set}/@Element"
        return {"odata.metadata": metadata, **self._values(kind, part, date)}

    def property(self, kind: EntityType, name: str, entity: Entity) -> Any:
        """Return one property of *entity*."""
        if self.verbose:
            return {"d": {name: self._verbose(kind, {name: entity[name]}, entity)[name]}}
        edm = kind.properties[name]
        value = self._values(kind, {name: entity[name]}, iso_trimmed)[name]
        return {"odata.metadata": f"{self.base}$metadata#{edm}", "value": value}

    def service_document(self) -> Any:
        """Return the list of entity sets that there are."""
        if self.verbose:
            return {"d": {"EntitySets": list(TYPES)}}
        sets = [{"name": name, "url": name} for name in TYPES]
        return {"odata.metadata": f"{self.base}$metadata", "value": sets}

    def error(self, message: str) -> Any:
        """Return an error; the service mostly leaves the code empty."""
        body = {"code": "", "message": {"lang": "en-US", "value": message}}
        return {"error" if self.verbose else "odata.error": body}

    def _verbose(self, kind: EntityType, part: Entity, whole: Entity, *, echo: bool = False) -> Entity:
        uri = self.uri(kind, whole)
        date = json_date if not kind.iso_dates else iso_seven_digits if echo else _iso_utc
        written: Entity = {"__metadata": {"id": uri, "uri": uri, "type": f"{NAMESPACE}.{kind.name}"}}
        for name in kind.navigation if part is whole else ():
            written[name] = {"__deferred": {"uri": f"{uri}/{name}"}}
        for name, value in self._values(kind, part, date).items():
            edm = kind.properties[name]
            if edm == DOUBLE and float(value).is_integer():
                value = int(value)
            if isinstance(value, list):
                value = {"__metadata": {"type": edm}, "results": value}
            written[name] = value
        return written

    def _values(self, kind: EntityType, part: Entity, date: Any) -> Entity:
        return {name: _value(kind.properties[name], value, date) for name, value in part.items()}


def _iso_utc(moment: datetime) -> str:
    return iso_trimmed(moment) + "Z"


def _value(edm: str, value: Any, date: Any) -> Any:
    if value is None:
        return None
    if edm == DATETIME:
        return date(value)
    if edm == INT64:
        # OData version 3 writes 64-bit integers as text in both forms.
        return str(value)
    if isinstance(value, list):
        return [_complex(entry) for entry in value]
    return value


def _complex(entry: Mapping[str, Any]) -> Entity:
    # Times within a collection have no zone, in both forms.
    return {
        name: iso_trimmed(value) if isinstance(value, datetime) else value for name, value in entry.items()
    }
