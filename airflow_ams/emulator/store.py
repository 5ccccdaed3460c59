"""The emulator's memory: records in dictionaries, each change written through to one SQLite database."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, TypeVar

from airflow_ams.emulator.records import AccessPolicy, Asset, AssetFile, Job, Locator, Record, Task, Transform

R = TypeVar("R", bound=Record)

_KINDS: dict[str, type[Record]] = {
    kind.__name__: kind for kind in (Job, Task, Transform, Asset, AssetFile, AccessPolicy, Locator)
}
_SCHEMA = """
CREATE TABLE IF NOT EXISTS record (
    kind TEXT NOT NULL, id TEXT NOT NULL, document TEXT NOT NULL, PRIMARY KEY (kind, id)
);
CREATE TABLE IF NOT EXISTS fact (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""


class Store:
    """Records by kind and identifier, in the order in which they were made.

    Reads never touch the disk: a filter over ten thousand jobs is answered from memory.

    :param path: of the SQLite file; ``:memory:`` forgets all at the end.
    """

    def __init__(self, path: str = ":memory:") -> None:
        self._database = sqlite3.connect(path, isolation_level=None)
        self._database.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;" + _SCHEMA)
        self._records: dict[type[Record], dict[str, Any]] = {kind: {} for kind in _KINDS.values()}
        for kind, document in self._database.execute("SELECT kind, document FROM record ORDER BY rowid"):
            record = _KINDS[kind](**json.loads(document))
            self._records[type(record)][record.id] = record

    def get(self, kind: type[R], identifier: str) -> R | None:
        """Return the record, or None if there is none."""
        record: R | None = self._records[kind].get(identifier)
        return record

    def all(self, kind: type[R], account: str | None = None) -> Iterator[R]:
        """Yield the records of *kind*, oldest first; with *account*, only those it owns."""
        record: R
        for record in self._records[kind].values():
            if account is None or record.account == account:
                yield record

    def put(self, record: Record) -> None:
        """Keep *record* as it is now."""
        self._records[type(record)][record.id] = record
        # An upsert keeps the rowid, and with it the order.
        self._database.execute(
            "INSERT INTO record VALUES (?, ?, ?) "
            "ON CONFLICT (kind, id) DO UPDATE SET document = excluded.document",
            (type(record).__name__, record.id, json.dumps(asdict(record))),
        )

    def remove(self, record: Record) -> None:
        """Forget *record*."""
        self._records[type(record)].pop(record.id, None)
        self._database.execute(
            "DELETE FROM record WHERE kind = ? AND id = ?", (type(record).__name__, record.id)
        )

    def fact(self, name: str) -> Any:
        """Return what was remembered under *name*, or None."""
        row = self._database.execute("SELECT value FROM fact WHERE name = ?", (name,)).fetchone()
        return None if row is None else json.loads(row[0])

    def remember(self, name: str, value: Any) -> None:
        """Keep one JSON value under *name*; it outlives `clear`."""
        self._database.execute("INSERT OR REPLACE INTO fact VALUES (?, ?)", (name, json.dumps(value)))

    def clear(self) -> None:
        """Forget all records."""
        for records in self._records.values():
            records.clear()
        self._database.execute("DELETE FROM record")

    def close(self) -> None:
        """Close the database; what was put is on disk."""
        self._database.close()
