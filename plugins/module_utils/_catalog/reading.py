# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Open an SQLite database for reading without writing anything beside it, whatever its last writer left there.

SQLite needs to write where a killed writer left a journal, and wherever there is a write-ahead log
(https://www.sqlite.org/wal.html#read_only_databases). There a copy is read.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import tempfile
import urllib.parse
from collections.abc import Iterator

from .._core.directory import opened_directory, opened_file_at

#: Place of the format's version in a database, and the version with a write-ahead log
#: (https://www.sqlite.org/fileformat.html).
_VERSION_OFFSET, _WAL_VERSION = 18, 2

#: Ends of the names of files that make up the content, together with that of the database itself, which comes last.
_CONTENT = ("-journal", "-wal", "")

#: Upper bound of the attempts to copy a database that a program writes to.
_ATTEMPTS = 100

#: A file system in memory (shm_overview(7)), which isn't the one that is full.
_MEMORY = "/dev/shm"


@contextlib.contextmanager
def opened_for_reading(path: str, *, timeout: float) -> Iterator[sqlite3.Connection]:
    """Yield a connection to the database at ``path`` that has begun to read, or to a copy of it.

    This process must not have the database open for writing: closing a file that is read here ends the locks on it
    (fcntl(2)).

    :arg timeout: seconds to wait for a writer that commits.
    :raises sqlite3.Error, OSError: it can't be read.
    """
    with contextlib.ExitStack() as stack:
        try:
            if _has_log(path):
                raise sqlite3.OperationalError("a write-ahead log")
            connection = _connect(path, timeout)
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise
            copy = os.path.join(stack.enter_context(tempfile.TemporaryDirectory(dir=_place())), "catalog")
            try:
                _copy(path, copy)
            except PermissionError:
                raise error from None
            connection = _connect(copy, timeout, "rw")
        stack.callback(connection.close)
        yield connection


def _connect(path: str, timeout: float, mode: str = "ro") -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"file:{urllib.parse.quote(path)}?mode={mode}", uri=True, timeout=timeout, isolation_level=None
    )
    try:
        connection.execute("BEGIN")
        connection.execute("SELECT count(*) FROM sqlite_master")  # which waits for a writer, no longer than the timeout
    except BaseException:
        connection.close()
        raise
    return connection


def _place() -> str | None:
    return _MEMORY if os.access(_MEMORY, os.W_OK) else None


def _has_log(path: str) -> bool:
    try:
        return _read(path, _VERSION_OFFSET + 1)[_VERSION_OFFSET:] == bytes([_WAL_VERSION])
    except PermissionError:
        return False  # SQLite says the rest


def _copy(path: str, copy: str) -> None:
    """Copy the database as it is at one moment, at which a crash could have come, too: SQLite repairs the copy.

    :raises sqlite3.OperationalError: it changed all the time.
    """
    content = _contents(path)
    for _attempt in range(_ATTEMPTS):
        previous, content = content, _contents(path)
        if content == previous:
            break
    else:
        raise sqlite3.OperationalError("database is locked")
    for suffix, data in content.items():
        if data:
            with open(copy + suffix, "wb") as file:
                file.write(data)


def _contents(path: str) -> dict[str, bytes]:
    return {suffix: _read(path + suffix) for suffix in _CONTENT}


def _read(path: str, size: int = -1) -> bytes:
    """The first ``size`` bytes of a file, or all; none if it doesn't exist."""
    directory, name = os.path.split(path)
    try:
        with opened_directory(directory, option="catalog") as opened, opened_file_at(opened, name) as descriptor:
            with open(descriptor, "rb", closefd=False) as file:
                return file.read(size)
    except FileNotFoundError:
        return b""


__all__ = ["opened_for_reading"]
