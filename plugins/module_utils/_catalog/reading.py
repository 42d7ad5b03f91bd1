# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""An SQLite database opened for reading, without writing a file beside it, whatever files its last writer left.

SQLite needs to write if a killed writer left a journal, and if there is a write-ahead log
(https://www.sqlite.org/wal.html#read_only_databases). In these cases, a copy is read.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import tempfile
import urllib.parse
from collections.abc import Iterator

from .._core.directory import opened_directory, opened_file_at

#: Offset of the format's version in a database, and the version with a write-ahead log
#: (https://www.sqlite.org/fileformat.html).
_VERSION_OFFSET, _WAL_VERSION = 18, 2

#: Suffixes of the files with the content of a database, ending with the database itself.
_CONTENT = ("-journal", "-wal", "")

#: Upper bound of the attempts to copy a database that a program writes to.
_ATTEMPTS = 100

#: A file system in memory (shm_overview(7)), independent of the file system that is full.
_MEMORY = "/dev/shm"


@contextlib.contextmanager
def opened_for_reading(path: str, *, timeout: float) -> Iterator[sqlite3.Connection]:
    """Yield a connection with a read transaction on the database at ``path``, or on a copy of the database.

    This process must not have the database open for writing: closing a file that is read here ends the locks on it
    (fcntl(2)).

    :arg timeout: seconds to wait for a writer that commits.
    :raises sqlite3.Error, OSError: the database can't be read.
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
        # The query waits for a writer, no longer than the timeout.
        connection.execute("SELECT count(*) FROM sqlite_master")
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
        return False  # SQLite reports the error


def _copy(path: str, copy: str) -> None:
    """Copy the database in a consistent state. A crash could have left the same state, so SQLite repairs the copy.

    :raises sqlite3.OperationalError: the database changed during every attempt.
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
    """Return the first ``size`` bytes of a file, or all bytes; none if the file is missing."""
    directory, name = os.path.split(path)
    try:
        with opened_directory(directory, option="catalog") as opened, opened_file_at(opened, name) as descriptor:
            with open(descriptor, "rb", closefd=False) as file:
                return file.read(size)
    except FileNotFoundError:
        return b""


__all__ = ["opened_for_reading"]
