"""``$filter``: the part of OData's expression language that the clients of the services use.

The versions of OData differ in their literals and functions: a `Grammar` says what there is.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from airflow_ams.emulator.errors import InvalidRequest
from airflow_ams.emulator.odata import BOOLEAN, DATETIME, DOUBLE, INT32, INT64, STRING

Row = Mapping[str, Any]
Predicate = Callable[[Row], bool]

_NULL = "null"
_NUMBERS = (INT32, INT64, DOUBLE)
_MAX_DEPTH = 100
_INSTANT = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d)(?::(\d\d)(?:\.(\d{1,7}))?)?Z?")
_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "eq": operator.eq,
    "ne": operator.ne,
    "gt": operator.gt,
    "ge": operator.ge,
    "lt": operator.lt,
    "le": operator.le,
}
# Strings and numbers are the same in all versions; times and names are not.
_TOKENS = r"""\s*(?:
    {instant}
  | (?P<string>'(?:[^']|'')*')
  | (?P<number>-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)[LlDdFfMm]?(?![\w.])
  | {name}
  | (?P<mark>[(),])
)"""


@dataclass(frozen=True)
class Grammar:
    """What one version of OData takes.

    :param tokens: the pattern of one token; what a group captures is its text, the group's name its kind.
    :param functions: their names, and what they do with two texts.
    :param enums: the types of enumeration literals, and their members in lower case.
    """

    tokens: re.Pattern[str]
    functions: Mapping[str, Callable[[str, str], bool]] = field(default_factory=dict)
    enums: Mapping[str, Collection[str]] = field(default_factory=dict)


VERSION_3 = Grammar(
    re.compile(
        _TOKENS.format(instant=r"datetime'(?P<instant>[^']*)'", name=r"(?P<name>[A-Za-z_]\w*)"), re.VERBOSE
    ),
    {
        "startswith": lambda text, part: text.startswith(part),
        "endswith": lambda text, part: text.endswith(part),
        # The order of the arguments is the protocol's: what to look for comes first.
        "substringof": lambda part, text: part in text,
    },
)


def version_4(enums: Mapping[str, Collection[str]]) -> Grammar:
    """Return what the newer services take: bare times, paths as names, enumerations."""
    name = r"(?P<enum>[A-Za-z_][\w.]*\.\w+'[^']*') | (?P<name>[A-Za-z_]\w*(?:/\w+)*)"
    instant = r"(?P<instant>\d{4}-\d\d-\d\dT[\d:.]+Z?)"
    return Grammar(re.compile(_TOKENS.format(instant=instant, name=name), re.VERBOSE), enums=enums)


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    position: int


@dataclass(frozen=True)
class _Term:
    """A part of the expression: what it evaluates to, and of which type that is."""

    type: str
    value: Callable[[Row], Any]


def parse_filter(
    text: str, properties: Mapping[str, str], type_name: str, grammar: Grammar = VERSION_3
) -> Predicate:
    """Return the function that tells which entities *text* lets through.

    :param text: the decoded value of ``$filter``.
    :param properties: the names that it may use, with their types.
    :param type_name: whose properties they are, for messages.
    :param grammar: what else may be in it.
    :raises InvalidRequest: *text* is no filter for such entities; the message names the position.
    """
    parser = _Parser(_tokens(text, grammar), properties, type_name, grammar)
    term = parser.expression()
    parser.expect_end()
    if term.type != BOOLEAN:
        raise InvalidRequest("The $filter expression must evaluate to a single boolean value.")
    return lambda row: bool(term.value(row))


def _tokens(text: str, grammar: Grammar) -> list[_Token]:
    tokens, position = [], 0
    end = len(text.rstrip())
    while position < end:
        match = grammar.tokens.match(text, position)
        if match is None or match.lastgroup is None:
            raise InvalidRequest(f"Syntax error at position {position} in '{text}'.")
        kind = match.lastgroup
        tokens.append(_Token(kind, match[kind], match.start(kind)))
        position = match.end()
    tokens.append(_Token("end", "", end))
    return tokens


def _instant(text: str) -> datetime:
    match = _INSTANT.fullmatch(text)
    if match is None:
        raise InvalidRequest(f"Unrecognized 'Edm.DateTime' literal 'datetime'{text}''.")
    minute, second, fraction = match.groups()
    micros = (fraction or "").ljust(6, "0")[:6]
    try:
        moment = datetime.strptime(f"{minute}:{second or '00'}.{micros}", "%Y-%m-%dT%H:%M:%S.%f")
    except ValueError:
        raise InvalidRequest(f"Unrecognized 'Edm.DateTime' literal 'datetime'{text}''.") from None
    return moment.replace(tzinfo=timezone.utc)


class _Parser:
    """Recursive descent, loosest binding first: or, and, not, comparison, primary."""

    def __init__(
        self, tokens: list[_Token], properties: Mapping[str, str], type_name: str, grammar: Grammar
    ) -> None:
        self._tokens = tokens
        self._next = 0
        self._depth = 0
        self._properties = properties
        self._type_name = type_name
        self._grammar = grammar

    @property
    def _token(self) -> _Token:
        return self._tokens[self._next]

    def _take(self) -> _Token:
        token = self._token
        self._next += 1
        return token

    def _accept(self, text: str) -> _Token | None:
        if self._token.kind in ("name", "mark") and self._token.text == text:
            return self._take()
        return None

    def _expect(self, text: str) -> None:
        if not self._accept(text):
            raise self._unexpected(f"'{text}' expected")

    def _unexpected(self, what: str) -> InvalidRequest:
        return InvalidRequest(f"Syntax error in $filter: {what} at position {self._token.position}.")

    def expect_end(self) -> None:
        """Raise unless all of the text has been read."""
        if self._token.kind != "end":
            raise self._unexpected(f"unexpected '{self._token.text}'")

    def expression(self) -> _Term:
        """Read terms joined by ``or``."""
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise InvalidRequest(f"The $filter is nested deeper than {_MAX_DEPTH} levels.")
        term = self._conjunction()
        while token := self._accept("or"):
            term = _both(token, term, self._conjunction(), lambda one, other: one or other)
        self._depth -= 1
        return term

    def _conjunction(self) -> _Term:
        term = self._negation()
        while token := self._accept("and"):
            term = _both(token, term, self._negation(), lambda one, other: one and other)
        return term

    def _negation(self) -> _Term:
        negations = 0
        while token := self._accept("not"):
            negations += 1
            last = token
        term = self._comparison()
        if negations and term.type != BOOLEAN:
            raise InvalidRequest(f"'not' at position {last.position} needs a boolean, not {term.type}.")
        return term if negations % 2 == 0 else _Term(BOOLEAN, lambda row: not term.value(row))

    def _comparison(self) -> _Term:
        left = self._primary()
        if self._token.kind != "name" or self._token.text not in _COMPARISONS:
            return left
        token = self._take()
        return _compare(token, left, self._primary())

    def _primary(self) -> _Term:
        token = self._token
        if self._accept("("):
            term = self.expression()
            self._expect(")")
            return term
        if token.kind in ("string", "number", "instant"):
            return _literal(self._take())
        if token.kind == "enum":
            return self._member(self._take())
        if token.kind != "name":
            raise self._unexpected("an operand expected")
        self._take()
        if token.text in ("true", "false"):
            return _Term(BOOLEAN, lambda _: token.text == "true")
        if token.text == "null":
            return _Term(_NULL, lambda _: None)
        return self._call(token) if self._token.text == "(" else self._property(token)

    def _call(self, token: _Token) -> _Term:
        function = self._grammar.functions.get(token.text)
        if function is None:
            known = ", ".join(sorted(self._grammar.functions)) or "none"
            raise InvalidRequest(f"Unknown function '{token.text}' in $filter; known are {known}.")
        self._expect("(")
        first = self.expression()
        self._expect(",")
        second = self.expression()
        self._expect(")")
        if first.type != STRING or second.type != STRING:
            raise InvalidRequest(f"Function '{token.text}' needs two arguments of type Edm.String.")
        return _Term(BOOLEAN, lambda row: function(first.value(row) or "", second.value(row) or ""))

    def _member(self, token: _Token) -> _Term:
        name, _, value = token.text[:-1].partition("'")
        if value.lower() not in self._grammar.enums.get(name, ()):
            raise InvalidRequest(f"Unrecognized literal {token.text} in $filter.")
        return _Term(name, lambda _: value.lower())

    def _property(self, token: _Token) -> _Term:
        name = token.text
        if name not in self._properties:
            raise InvalidRequest(f"Could not find a property named '{name}' on type '{self._type_name}'.")
        return _Term(self._properties[name], lambda row: row[name])


def _literal(token: _Token) -> _Term:
    value: Any
    if token.kind == "string":
        value, kind = token.text[1:-1].replace("''", "'"), STRING
    elif token.kind == "instant":
        value, kind = _instant(token.text), DATETIME
    else:
        value = float(token.text) if re.search(r"[.eE]", token.text) else int(token.text)
        kind = DOUBLE if isinstance(value, float) else INT32
    return _Term(kind, lambda _: value)


def _both(token: _Token, left: _Term, right: _Term, join: Callable[[bool, bool], bool]) -> _Term:
    if left.type != BOOLEAN or right.type != BOOLEAN:
        raise InvalidRequest(f"'{token.text}' at position {token.position} needs booleans on both sides.")
    return _Term(BOOLEAN, lambda row: join(left.value(row), right.value(row)))


def _compare(token: _Token, left: _Term, right: _Term) -> _Term:
    alike = left.type == right.type or (left.type in _NUMBERS and right.type in _NUMBERS)
    # What is not of a primitive type is a member of an enumeration, which has no order.
    unordered = token.text not in ("eq", "ne") and not left.type.startswith(("Edm.", _NULL))
    if not (alike or _NULL in (left.type, right.type)) or left.type.startswith("Collection") or unordered:
        raise InvalidRequest(
            f"Operator '{token.text}' incompatible with operand types '{left.type}' and '{right.type}' "
            f"at position {token.position}."
        )
    compare = _COMPARISONS[token.text]

    def evaluate(row: Row) -> bool:
        one, other = left.value(row), right.value(row)
        if one is None or other is None:
            # Null equals null, differs from all else, and is neither greater nor smaller.
            return token.text in ("eq", "ne") and compare(one, other)
        return compare(one, other)

    return _Term(BOOLEAN, evaluate)
