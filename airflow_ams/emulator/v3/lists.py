"""The lists of the v3 family: filter, order and pages."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from airflow_ams.emulator.errors import InvalidRequest
from airflow_ams.emulator.filters import Grammar, parse_filter, version_4

T = TypeVar("T")
Row = Mapping[str, Any]
"""What a filter and an order see of an entity: its values by the names of `ListKind.fields`."""

PLAIN = version_4({})


@dataclass(frozen=True)
class ListKind:
    """What a list takes.

    :param name: of its entities' type, for messages.
    :param fields: what a filter can name, with the types.
    :param sortable: what an order can name.
    :param grammar: the literals of a filter.
    :param options: the query options there are; names without ``$`` are the caller's own.
    """

    name: str
    fields: Mapping[str, str]
    sortable: tuple[str, ...]
    grammar: Grammar = PLAIN
    options: tuple[str, ...] = ("$filter", "$orderby", "$skiptoken")


@dataclass(frozen=True)
class Page(Generic[T]):
    """A page of a list.

    :param items: what is on it.
    :param start: how many of the matching entities are before it.
    :param total: how many match.
    :param next: the ``$skiptoken`` of the next page, None on the last one.
    """

    items: list[T]
    start: int
    total: int
    next: str | None


def page_of(rows: Iterable[tuple[Row, T]], options: Mapping[str, str], kind: ListKind, size: int) -> Page[T]:
    """Return one page of a list.

    The token is a position in the list as it is without the filter: an entity that ceases to match
    between two pages moves no other one.

    :param rows: all entities, in the order that they have when none is asked for.
    :param options: the decoded query string.
    :param kind: what the options may be.
    :param size: entities on a page, at most.
    :raises InvalidRequest: an option is unknown or makes no sense.
    """
    for name in options:
        if name.startswith("$") and name not in kind.options:
            raise InvalidRequest(f"The query option '{name}' is not supported.")
    condition, begin = options.get("$filter"), _number(options, "$skiptoken", 0)
    matches = parse_filter(condition, kind.fields, kind.name, kind.grammar) if condition else lambda _: True
    found = [(number, row) for number, row in enumerate(_ordered(rows, options, kind)) if matches(row[0])]
    rest = [(number, item) for number, (_, item) in found if number >= begin]
    shown = rest[: min(size, _number(options, "$top", size))]
    more = len(shown) < len(rest) and shown
    token = str(shown[-1][0] + 1) if more else None
    return Page([item for _, item in shown], len(found) - len(rest), len(found), token)


def _ordered(
    rows: Iterable[tuple[Row, T]], options: Mapping[str, str], kind: ListKind
) -> list[tuple[Row, T]]:
    ordered = list(rows)
    order = options.get("$orderby")
    if not order:
        return ordered
    match = re.fullmatch(r"\s*([\w/]+)(?:\s+(asc|desc))?\s*", order)
    if match is None or match[1] not in kind.sortable:
        raise InvalidRequest(
            f"$orderby is one of {', '.join(kind.sortable)}, with asc or desc, not '{order}'."
        )
    return sorted(ordered, key=lambda row: row[0][match[1]], reverse=match[2] == "desc")


def _number(options: Mapping[str, str], name: str, default: int) -> int:
    text = options.get(name)
    if text is None:
        return default
    if not re.fullmatch(r"\d{1,9}", text, re.ASCII):
        raise InvalidRequest(f"'{text}' is no {name}.")
    return int(text)
