# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The catalog: an SQLite database on the front-end that knows every datastore, image and attachment."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import tempfile
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence

from .._core.errors import CatalogFailed, NoSpace, NotFound, from_os_error
from .._core.files import sync_directory
from . import schema
from .datastores import default_datastores, insert_datastore
from .file_system import check_local

DEFAULT_PATH = "/var/lib/one/vmstore/catalog.sqlite"
DEFAULT_LOCATION = "/var/lib/one/datastores"

#: Seconds to wait for another program's transaction.
LOCK_DEADLINE = 30

#: What part of SQLite's message means what. SQLite's codes reach Python only from 3.11 on.
MEANINGS = {
    "database is locked": f"another program has been writing to it for more than {LOCK_DEADLINE} seconds",
    "not a database": "the file is damaged or was not made by granary.vmstore",
    "malformed": "the file is damaged, so restore it from a backup",
    "readonly": "this user may not write to the file or its directory",
    "unable to open": "this user may not read and write the file and its directory",
}


class Catalog:
    """An open catalog. Not for use by several threads. As a context manager it closes itself."""

    def __init__(self, connection: sqlite3.Connection, path: str) -> None:
        self.path = path
        self._connection = connection
        connection.row_factory = sqlite3.Row

    def __enter__(self) -> Catalog:
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()

    def close(self) -> None:
        self._connection.close()

    def execute(self, statement: str, values: Sequence[object] | Mapping[str, object] = ()) -> list[sqlite3.Row]:
        """Run one SQL statement and return all its rows.

        :raises NoSpace: the file system is full; :raises CatalogFailed: anything else that SQLite refuses.
        """
        with _translated(self.path):
            return self._connection.execute(statement, values).fetchall()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """The only writer for the length of a block (BEGIN IMMEDIATE); committed at its end, rolled back when it raises."""
        self.execute("BEGIN IMMEDIATE")
        try:
            yield
            self.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(CatalogFailed, NoSpace):
                if self._connection.in_transaction:
                    self.execute("ROLLBACK")
            raise

    def copy_to(self, other: Catalog) -> None:
        """Make ``other`` hold what this catalog holds now."""
        with _translated(self.path):
            self._connection.backup(other._connection)  # pylint: disable=protected-access

    def next_id(self, resource: str) -> int:
        """The id that the next :meth:`take_id` gives. Stays true only within a transaction."""
        found = self.execute("SELECT next FROM counter WHERE resource = ?", [resource])
        if not found or not isinstance(found[0]["next"], int):
            raise CatalogFailed(f"The catalog {self.path} has no next id for a new {resource}, so restore it from a backup.")
        return found[0]["next"]

    def take_id(self, resource: str) -> int:
        """A new id of a ``datastore`` or an ``image``; it is never given again, also when its owner is removed."""
        taken = self.next_id(resource)
        self.execute("UPDATE counter SET next = ? WHERE resource = ?", [taken + 1, resource])
        return taken


def catalog_exists(path: str) -> bool:
    """:raises CatalogFailed: as :func:`open_catalog`, where a catalog can't be at ``path``."""
    return os.path.lexists(_locate(path))


def open_catalog(path: str, *, create: bool, datastore_location: str = DEFAULT_LOCATION) -> Catalog:
    """Open the catalog for reading and writing, and bring its tables up to date.

    :arg create: make one when there is none, with the datastores 0, 1 and 2 in ``datastore_location``. Its directory must exist.
    :raises NotFound: there is none and ``create`` is false.
    :raises CatalogFailed: it is on a network file system, damaged, not a catalog, or was written by a newer version of this collection.
    """
    if create and not catalog_exists(path):
        _make(path, datastore_location)
    with contextlib.ExitStack() as opened:
        catalog = opened.enter_context(_connect(path))
        catalog.execute("PRAGMA foreign_keys = ON")
        catalog.execute("PRAGMA synchronous = FULL")
        _migrate(catalog)
        opened.pop_all()
    return catalog


def read_catalog(path: str, *, missing_ok: bool, datastore_location: str = DEFAULT_LOCATION) -> Catalog:
    """A copy of the catalog in memory, as it is at this moment: what is done to it changes nothing on disk.

    :arg missing_ok: where there is none, answer what a new one would hold.
    :raises NotFound: there is none and that isn't ok; :raises CatalogFailed: as :func:`open_catalog`.
    """
    with contextlib.ExitStack() as opened:
        catalog = opened.enter_context(Catalog(sqlite3.connect(":memory:", isolation_level=None), path))
        if missing_ok and not catalog_exists(path):
            _fill(catalog, datastore_location)
        else:
            with _connect(path) as original:
                original.copy_to(catalog)
            _migrate(catalog)
        opened.pop_all()
    return catalog


def _connect(path: str) -> Catalog:
    """Open an existing catalog, whichever version of its tables this collection knows."""
    target = _locate(path)
    if not os.path.lexists(target):
        raise NotFound(f"There is no catalog at {path}; the module granary.vmstore.datastore makes it on the front-end.")
    if not stat.S_ISREG(os.stat(target).st_mode):
        raise CatalogFailed(f"The catalog {path} is not a regular file.")
    with _translated(path), contextlib.ExitStack() as opened:
        address = f"file:{urllib.parse.quote(target)}?mode=rw"
        catalog = opened.enter_context(Catalog(sqlite3.connect(address, uri=True, timeout=LOCK_DEADLINE, isolation_level=None), path))
        _check_version(catalog)
        opened.pop_all()
    return catalog


def _locate(path: str) -> str:
    """The path with symbolic links resolved. A network file system is refused before it is asked anything: its server may be dead."""
    directory = os.path.dirname(path)
    try:
        check_local(directory)
        target = os.path.realpath(path)
        check_local(os.path.dirname(target))
    except (FileNotFoundError, NotADirectoryError) as error:
        message = f"The catalog can't be at {path}: {directory} is not a directory; the role granary.vmstore.frontend makes the default one."
        raise CatalogFailed(message) from error
    except OSError as error:
        raise from_os_error(error, f"look for the catalog {path}") from error
    if os.path.islink(target):
        raise CatalogFailed(f"The catalog can't be at {path}: it is a symbolic link that leads to itself.")
    return target


def _check_version(catalog: Catalog) -> None:
    if _pragma(catalog, "application_id") != schema.APPLICATION_ID:
        raise CatalogFailed(f"The file {catalog.path} is not a catalog of granary.vmstore.")
    version = _pragma(catalog, "user_version")
    known = len(schema.MIGRATIONS)
    if version > known:
        raise CatalogFailed(f"The catalog {catalog.path} was written by a newer granary.vmstore (schema {version}); this one knows schema {known}.")


def _pragma(catalog: Catalog, name: str) -> int:
    return int(catalog.execute(f"PRAGMA {name}")[0][0])


def _migrate(catalog: Catalog) -> None:
    """Do the steps that this catalog lacks: all of them, or none."""
    if _pragma(catalog, "user_version") == len(schema.MIGRATIONS):
        return
    with catalog.transaction():
        # Read again: another program may have done them while this one waited for its turn.
        for statements in schema.MIGRATIONS[_pragma(catalog, "user_version"):]:
            for statement in statements:
                catalog.execute(statement)
        catalog.execute(f"PRAGMA user_version = {len(schema.MIGRATIONS)}")


def _fill(catalog: Catalog, datastore_location: str) -> None:
    """Make an empty database a catalog."""
    catalog.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}")
    _migrate(catalog)
    with catalog.transaction():
        for datastore in default_datastores(datastore_location):
            insert_datastore(catalog, datastore)


def _make(path: str, datastore_location: str) -> None:
    """Make a catalog under a temporary name and give it its own when it is whole, unless another program was faster.

    It belongs to the owner of its directory, and the group may read it.
    """
    target = _locate(path)
    directory = os.path.dirname(target)
    temporary = ""
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{os.path.basename(target)}.", dir=directory)
        with os.fdopen(descriptor, "wb") as file:
            owner = os.stat(directory)
            if (owner.st_uid, owner.st_gid) != (os.geteuid(), os.getegid()):
                os.fchown(file.fileno(), owner.st_uid, owner.st_gid)
            os.fchmod(file.fileno(), 0o640)
        with _translated(path), Catalog(sqlite3.connect(temporary, isolation_level=None), path) as catalog:
            catalog.execute("PRAGMA synchronous = FULL")
            _fill(catalog, datastore_location)
            catalog.execute("PRAGMA journal_mode = WAL")
        with contextlib.suppress(FileExistsError):
            os.link(temporary, target)
        sync_directory(directory)
    except OSError as error:
        raise from_os_error(error, f"make the catalog {path}") from error
    finally:
        for leftover in (temporary, f"{temporary}-journal", f"{temporary}-wal", f"{temporary}-shm"):
            with contextlib.suppress(OSError):
                os.unlink(leftover)


@contextlib.contextmanager
def _translated(path: str) -> Iterator[None]:
    """SQLite's errors in one sentence."""
    try:
        yield
    except UnicodeEncodeError as error:
        raise CatalogFailed(f"The catalog {path} holds text in UTF-8, which {error.object!r} is not.") from error
    except sqlite3.Error as error:
        message = str(error)
        # A full file system shows as an I/O error where SQLite can't enlarge the index of its log.
        if "is full" in message or ("I/O error" in message and os.statvfs(os.path.dirname(os.path.realpath(path))).f_bavail == 0):
            raise NoSpace(f"The catalog {path} can't be written: the file system is full. Nothing was changed.") from error
        meaning = next((MEANINGS[part] for part in MEANINGS if part in message), message)
        raise CatalogFailed(f"The catalog {path} can't be used: {meaning}.") from error


__all__ = ["DEFAULT_LOCATION", "DEFAULT_PATH", "Catalog", "catalog_exists", "open_catalog", "read_catalog"]
