# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""The ledger: a record of all requests and their results, which tests query.

The page cache hides reads, and reads ahead. Only a *strict* mount shows every byte that a program read.
"""

from __future__ import annotations

import fnmatch
import json
import os
import re
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from . import checks
from .errors import SimulatedDatastoreError
from .profiles import choose
from .request import CLASSES, OPERATIONS, Request, expand

#: Fields of an entry; in memory, ``path`` and ``new_path`` are bytes.
FIELDS = ("seq", "time_ns", "client", "op", "path", "new_path", "offset", "size", "error", "uid", "rules")
#: The criteria of a query.
CRITERIA = ("op", "path", "client", "rule", "error", "since")
Row = tuple[int, int, str, str, bytes, bytes, int, int, int, int, tuple[str, ...]]


class Ledger:
    """The last *limit* entries in memory and, optionally, all of them in a file of one JSON object per line."""

    def __init__(self, limit: int = 500_000) -> None:
        self.limit = limit
        self._rows: deque[Row] = deque(maxlen=limit)
        self._next = 1
        self._marks: dict[str, int] = {}
        #: Function that raises for the path of an option that can't match.
        self.check_path: Callable[[str, str], None] = lambda option, path: None
        #: Functions that are called after each entry, and when a request begins to wait.
        self.watchers: list[Callable[[], None]] = []
        self._file: int | None = None
        self._written = 0
        #: The reason why the file is incomplete; empty for a complete one.
        self.file_error = ""

    def note(self, request: Request) -> None:
        """Add the entry of a finished request."""
        number = self._next
        self._next = number + 1
        op = request.op
        if op == "read":
            size = 0 if request.error else len(request.result)
        elif op == "write":
            size = 0 if request.error else request.result
        else:
            size = request.size
        caller = request.caller
        self._rows.append(
            (
                number,
                time.monotonic_ns(),
                request.mount.client,
                op,
                request.path,
                request.new_path,
                request.offset,
                size,
                request.error,
                -1 if caller is None else caller.uid,
                request.rules,
            )
        )
        if self.watchers:
            self.call_watchers()

    def call_watchers(self) -> None:
        """Call the watchers."""
        for watcher in tuple(self.watchers):
            watcher()

    @property
    def dropped(self) -> int:
        """Number of the oldest entries that are no longer in memory."""
        return self._next - 1 - len(self._rows)

    def mark(self, name: str) -> int:
        """Store *name* as a mark of this moment, and return the number of the next entry."""
        self._marks[checks.text("name", name)] = self._next
        return self._next

    def rows(
        self,
        *,
        op: str | list[str] | None = None,
        path: str | None = None,
        client: str | None = None,
        rule: str | None = None,
        error: int | None = None,
        since: str | int | None = None,
    ) -> Iterator[Row]:
        """Yield the entries that match all criteria: operations or classes, a glob over either path, ...

        *since* is a mark or the number of an entry. Raises :class:`SimulatedDatastoreError` for an unknown name, and
        for a beginning that is no longer in memory.
        """
        for option, value in (("path", path), ("client", client), ("rule", rule)):
            if value is not None:
                checks.text(option, value, path=option == "path")
        if error is not None:
            checks.whole("error", error)
        ops = None if op is None else _expand(op)
        if path is not None:
            self.check_path("path", path)
        first = self._first(since)
        pattern = None if path is None else path_glob(path)
        for row in self._rows:
            if (
                row[0] < first
                or (ops is not None and row[3] not in ops)
                or (client is not None and row[2] != client)
                or (rule is not None and rule not in row[10])
                or (error is not None and row[8] != error)
            ):
                continue
            if pattern is not None and not pattern(row[4]) and not (row[5] and pattern(row[5])):
                continue
            yield row

    def _first(self, since: str | int | None) -> int:
        if since is None:
            return 0
        if isinstance(since, str):
            if since not in self._marks:
                raise SimulatedDatastoreError(
                    f"since: there is no mark {since!r}, the marks are {', '.join(self._marks) or 'none'}."
                )
            since = self._marks[since]
        if checks.whole("since", since, 1) <= self.dropped:
            raise SimulatedDatastoreError(
                f"since: the ledger holds the last {self.limit} entries, and {since} is no longer among them."
            )
        return since

    def select(self, criteria: dict[str, Any]) -> Iterator[Row]:
        """Yield the entries that match *criteria*, a mapping with any keys."""
        for key in criteria:
            choose("criteria", key, CRITERIA)
        return self.rows(**criteria)

    def query(self, limit: int | None = None, **criteria: Any) -> list[dict[str, Any]]:
        """Return the matching entries, oldest first, as plain data; with *limit* the last ones."""
        if limit is not None:
            checks.whole("limit", limit)
        rows = list(self.select(criteria))
        return [as_dict(row) for row in (rows if limit is None else rows[len(rows) - min(limit, len(rows)) :])]

    def summary(self, **criteria: Any) -> list[dict[str, Any]]:
        """Return requests, bytes and errors by client and operation."""
        sums: dict[tuple[str, str], list[int]] = {}
        for row in self.select(criteria):
            entry = sums.setdefault((row[2], row[3]), [0, 0, 0])
            entry[0] += 1
            entry[1] += row[7] if row[3] in ("read", "write") else 0
            entry[2] += bool(row[8])
        return [
            {"client": client, "op": op, "requests": requests, "bytes": size, "errors": errors}
            for (client, op), (requests, size, errors) in sorted(sums.items())
        ]

    def status(self) -> dict[str, Any]:
        return {
            "entries": len(self._rows),
            "next": self._next,
            "dropped": self.dropped,
            "marks": sorted(self._marks),
            "file_error": self.file_error,
        }

    # The file

    def open_file(self, path: Path) -> None:
        """Append all later entries to *path*. Raises :class:`SimulatedDatastoreError` if the file can't be opened."""
        try:
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise SimulatedDatastoreError(
                f"The ledger file {str(path)!r} can't be written: {error.strerror}."
            ) from error
        self._written = self._next - 1

    def flush(self) -> None:
        """Write pending entries to the file. A full disk ends the file, not the mount, and sets *file_error*."""
        if self._file is None or self._written == self._next - 1:
            return
        fresh = (
            [row for row in self._rows if row[0] > self._written]
            if self._next - 1 - self._written >= len(self._rows)
            else self._tail()
        )
        text = b"".join(json.dumps(as_dict(row)).encode() + b"\n" for row in fresh)
        try:
            while text:
                text = text[os.write(self._file, text) :]
        except OSError as error:
            self.file_error = f"stopped after entry {self._written}: {error.strerror}"
            os.close(self._file)
            self._file = None
            return
        self._written = self._next - 1

    def _tail(self) -> list[Row]:
        count = self._next - 1 - self._written
        rows = self._rows
        return [rows[index] for index in range(len(rows) - count, len(rows))]

    def close(self) -> None:
        self.flush()
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _expand(op: str | list[str]) -> frozenset[str]:
    """Return the operations of the criterion *op*. Raises :class:`SimulatedDatastoreError`."""
    names = op if isinstance(op, list) else [op]
    if not all(isinstance(name, str) for name in names):
        raise SimulatedDatastoreError(f"op: {op!r} is neither the name of an operation or class nor a list of such.")
    try:
        return expand(names)
    except KeyError as unknown:
        raise SimulatedDatastoreError(
            f"op: {unknown.args[0]!r} is neither an operation ({', '.join(sorted(OPERATIONS))}) nor a class "
            f"({', '.join(CLASSES)})."
        ) from unknown


def path_glob(pattern: str) -> Callable[[bytes], bool]:
    """Return the matcher of a glob over paths below the root.

    A glob without a slash matches the last component, as in gitignore(5); ``*`` also matches slashes.
    """
    last_only = "/" not in pattern
    if not last_only and not pattern.startswith("/"):
        pattern = "/" + pattern
    # Latin-1 maps every byte to one character, which turns the glob into one over bytes.
    match = re.compile(fnmatch.translate(os.fsencode(pattern).decode("latin-1")).encode("latin-1"), re.DOTALL).match
    if last_only:
        return lambda path: match(path.rsplit(b"/", 1)[-1]) is not None
    return lambda path: match(path) is not None


def as_dict(row: Row) -> dict[str, Any]:
    entry = dict(zip(FIELDS, row, strict=True))
    entry["path"] = os.fsdecode(row[4])
    entry["new_path"] = os.fsdecode(row[5])
    entry["rules"] = list(row[10])
    return entry


__all__ = ["FIELDS", "Ledger", "as_dict", "path_glob"]
