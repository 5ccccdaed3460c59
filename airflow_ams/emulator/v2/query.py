"""The query options of a list or an entity: ``$filter``, ``$orderby``, ``$top``, ``$skip`` and the like."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from airflow_ams.emulator.errors import InvalidRequest
from airflow_ams.emulator.filters import Predicate, parse_filter
from airflow_ams.emulator.v2.edm import NAMESPACE, Entity, EntityType

# Quotas and limitations (public documentation): a list answers with 1000 entities at most.
PAGE = 1000
_ONE_ID = re.compile(r"\s*\(?\s*Id\s+eq\s+'([\w:-]+)'\s*\)?\s*")
_OPTIONS = {"$filter", "$orderby", "$top", "$skip", "$select", "$inlinecount"}


@dataclass(frozen=True)
class Query:
    """Query options, read and checked."""

    filter: Predicate | None = None
    only_id: str | None = None
    """The one identifier that the filter asks for, if it asks for nothing else."""
    order: tuple[tuple[str, bool], ...] = ()
    top: int = PAGE
    skip: int = 0
    select: tuple[str, ...] = ()
    count_all: bool = False

    def matching(self, entities: Iterable[Entity]) -> list[Entity]:
        """Return the entities that the filter lets through."""
        return [entity for entity in entities if self.filter is None or self.filter(entity)]

    def page(self, entities: Sequence[Entity]) -> list[Entity]:
        """Return the entities asked for, in the order asked for."""
        ordered = list(entities)
        for name, descending in reversed(self.order):
            # Null sorts before every value.
            ordered.sort(
                key=lambda entity: (
                    (entity[name] is not None, entity[name] or 0)
                    if not isinstance(entity[name], str)
                    else (True, entity[name])
                ),
                reverse=descending,
            )
        return ordered[self.skip : self.skip + min(self.top, PAGE)]

    def selected(self, entity: Entity) -> Entity:
        """Return *entity* with the properties asked for."""
        if not self.select:
            return entity
        return {name: value for name, value in entity.items() if name in self.select}


def read_query(options: Mapping[str, str], kind: EntityType) -> Query:
    """Return the query options of a request for entities of *kind*.

    :param options: the decoded query string; names without ``$`` are the caller's own.
    :raises InvalidRequest: an option is unknown, not supported by the service, or makes no sense.
    """
    for name in options:
        if name == "$expand":
            # Managing entities with REST (public documentation): the service has no $expand.
            raise InvalidRequest("The query option '$expand' is not supported.")
        if name.startswith("$") and name not in _OPTIONS:
            raise InvalidRequest(f"The query option '{name}' is not supported.")
    properties = kind.properties
    condition = options.get("$filter")
    one = _ONE_ID.fullmatch(condition or "")
    return Query(
        filter=parse_filter(condition, properties, f"{NAMESPACE}.{kind.name}")
        if condition is not None
        else None,
        only_id=one[1] if one else None,
        order=tuple(_order(part, kind) for part in _parts(options.get("$orderby"))),
        top=_number(options, "$top", PAGE),
        skip=_number(options, "$skip", 0),
        select=tuple(_known(part, kind) for part in _parts(options.get("$select")) if part != "*"),
        count_all=options.get("$inlinecount") == "allpages",
    )


def _parts(text: str | None) -> list[str]:
    return [part.strip() for part in text.split(",")] if text else []


def _known(name: str, kind: EntityType) -> str:
    if name not in kind.properties:
        raise InvalidRequest(f"Could not find a property named '{name}' on type '{NAMESPACE}.{kind.name}'.")
    return name


def _order(part: str, kind: EntityType) -> tuple[str, bool]:
    match = re.fullmatch(r"(\w+)(?:\s+(asc|desc))?", part)
    if match is None:
        raise InvalidRequest(f"Syntax error in $orderby at '{part}'.")
    name = _known(match[1], kind)
    if kind.properties[name].startswith("Collection"):
        raise InvalidRequest(f"$orderby cannot sort by the collection '{name}'.")
    return name, match[2] == "desc"


def _number(options: Mapping[str, str], name: str, default: int) -> int:
    text = options.get(name)
    if text is None:
        return default
    if not re.fullmatch(r"\d{1,9}", text.strip(), re.ASCII):
        raise InvalidRequest(f"Incorrect format for {name} argument '{text}'.")
    return int(text)
