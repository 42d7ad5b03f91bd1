# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The catalog: an SQLite database on the front-end with every datastore, image and attachment.

SQLite opens the catalog and its journal by name, in a directory that usually belongs to the service user. So root has
that user's rights while SQLite works (:mod:`.._core.identity`). A link that the user puts there then leads root only to
files that the user can write anyway.

Images must be removable on a full file system. So the journal stays between transactions, with enough blocks
(:mod:`.reserve`). Without a write-ahead log, reading creates no file. So reading also works on full and on read-only
file systems (:mod:`.reading`).
"""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
import stat
import tempfile
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence

from .._core.directory import descriptor_path, is_writable_for_others, opened_directory, opened_parent, sync_opened
from .._core.errors import FULL, CatalogFailed, DependencyNotFound, NoSpace, from_os_error, os_errors
from .._core.identity import Identity, acting_as, owner_of
from .._core.records import dataclass
from .._core.temporary import create_temporary
from . import schema
from .datastores import DATASTORES, default_datastores
from .file_system import check_local
from .reading import opened_for_reading
from .reserve import overwrite_in_place, reserve

DEFAULT_PATH = "/var/lib/one/vmstore/catalog.sqlite"
DEFAULT_LOCATION = "/var/lib/one/datastores"

#: Time to wait for another program's transaction, in seconds.
LOCK_DEADLINE = 30

#: Meanings of parts of SQLite's messages. SQLite's error codes are available only in Python 3.11 and later.
MEANINGS = {
    "database is locked": f"another program has been writing to it for more than {LOCK_DEADLINE} seconds",
    "not a database": "the file is damaged or was not made by granary.vmstore",
    "malformed": "the file is damaged, so restore it from a backup",
    "readonly": "this user may not write to the file or its directory, or the file system is read-only",
    "unable to open": "this user may not read and write the file and its directory",
}

#: Suffixes of the files of a database (https://www.sqlite.org/tempfiles.html).
FILE_SUFFIXES = ("", "-journal", "-wal", "-shm")


@dataclass(frozen=True)
class CatalogPlace:
    """A catalog's path without symbolic links.

    :arg directory: status of the catalog's directory.
    :arg owner: the owner of the directory, who opens every file there; ``None`` for this process's user.
    """

    path: str
    directory: os.stat_result
    owner: Identity | None


class Catalog:
    """An open catalog. Not for use by several threads. As a context manager, the catalog closes itself.

    :arg owner: the user whose rights SQLite gets.
    """

    def __init__(self, connection: sqlite3.Connection, path: str, owner: Identity | None = None) -> None:
        self.path = path
        self._owner = owner
        self._connection = connection
        connection.row_factory = sqlite3.Row

    def __enter__(self) -> Catalog:
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()

    def close(self) -> None:
        with acting_as(self._owner):
            self._connection.close()

    def execute(self, statement: str, values: Sequence[object] | Mapping[str, object] = ()) -> list[sqlite3.Row]:
        """Run one SQL statement and return all its rows.

        :raises NoSpace: the file system is full; :raises CatalogFailed: SQLite refuses the statement for another
            reason.
        """
        with acting_as(self._owner), _translate_errors(self.path):
            return self._connection.execute(statement, values).fetchall()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Open the only write transaction for the length of a block (BEGIN IMMEDIATE). The end of the block commits
        the transaction, an exception rolls it back.
        """
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
        """Replace the content of ``other`` by a copy of this catalog."""
        with acting_as(self._owner), _translate_errors(self.path):
            self._connection.backup(other._connection)  # pylint: disable=protected-access

    def next_id(self, resource: str) -> int:
        """Return the id that the next :meth:`take_id` returns. It is valid only within a transaction."""
        found = self.execute("SELECT next FROM counter WHERE resource = ?", [resource])
        if not found or not isinstance(found[0]["next"], int):
            raise CatalogFailed(
                f"The catalog {self.path} has no next id for a new {resource}, so restore it from a backup."
            )
        return found[0]["next"]

    def take_id(self, resource: str) -> int:
        """Return a new id of a ``datastore`` or an ``image``. No id is ever reused, also after its owner was
        removed.
        """
        taken = self.next_id(resource)
        self.execute("UPDATE counter SET next = ? WHERE resource = ?", [taken + 1, resource])
        return taken


def catalog_exists(path: str) -> bool:
    """Return whether there is a catalog. Without its directory, there is none.

    :raises CatalogFailed: a catalog can't be at ``path``, for the reasons of :func:`open_catalog`.
    """
    try:
        place = locate_catalog(path)
    except DependencyNotFound:
        return False
    with acting_as(place.owner):
        return os.path.lexists(place.path)


def open_catalog(path: str, *, create: bool, datastore_location: str = DEFAULT_LOCATION) -> Catalog:
    """Open the catalog for reading and writing, and bring its tables up to date.

    :arg create: whether a missing catalog is created, with the datastores 0, 1 and 2 in ``datastore_location``. Its
        directory must exist.
    :raises NotFound: the catalog is missing and ``create`` is false.
    :raises CatalogFailed: the catalog is on a network file system, or damaged; or the file isn't a catalog, or was
        written by a newer version of this collection.
    """
    if create and not catalog_exists(path):
        _make(path, datastore_location)
    with contextlib.ExitStack() as opened:
        catalog = opened.enter_context(_connect(path))
        _prepare_writing(catalog)
        reserve(locate_catalog(path))
        _migrate(catalog)
        opened.pop_all()
    return catalog


def read_catalog(path: str, *, missing_ok: bool, datastore_location: str = DEFAULT_LOCATION) -> Catalog:
    """Return a copy in memory of the catalog at this moment. Changes of the copy change nothing on disk.

    :arg missing_ok: whether a missing catalog is read like a new one.
    :raises NotFound: the catalog is missing and ``missing_ok`` is false; :raises CatalogFailed: as for
    :func:`open_catalog`.
    """
    with contextlib.ExitStack() as opened:
        catalog = opened.enter_context(Catalog(sqlite3.connect(":memory:", isolation_level=None), path))
        if missing_ok and not catalog_exists(path):
            _fill(catalog, datastore_location)
        else:
            _read_into(catalog)
            _check_version(catalog)
            _migrate(catalog)
        opened.pop_all()
    return catalog


def _read_into(catalog: Catalog) -> None:
    """Copy the content of the file into ``catalog``, which is in memory."""
    place = locate_catalog(catalog.path)
    with os_errors(f"read the catalog {catalog.path}"), acting_as(place.owner):
        _check_file(catalog.path, place)
        with _translate_errors(catalog.path), opened_for_reading(place.path, timeout=LOCK_DEADLINE) as connection:
            Catalog(connection, catalog.path).copy_to(catalog)


def _check_file(path: str, place: CatalogPlace) -> None:
    """Refuse a catalog that can't be opened.

    :raises NotFound: the catalog is missing; :raises CatalogFailed: the file belongs to another user, or isn't regular.
    """
    if not os.path.lexists(place.path):
        raise DependencyNotFound(
            f"There is no catalog at {path}; the module granary.vmstore.datastore makes it on the front-end."
        )
    if not stat.S_ISREG(os.lstat(place.path).st_mode):
        raise CatalogFailed(f"The catalog {path} is not a regular file.")
    _check_owner(place)


def _connect(path: str) -> Catalog:
    """Open an existing catalog for writing. This collection must support the version of its tables."""
    place = locate_catalog(path)
    with os_errors(f"open the catalog {path}"), acting_as(place.owner):
        _check_file(path, place)
        with _translate_errors(path):
            address = f"file:{urllib.parse.quote(place.path)}?mode=rw"
            connection = sqlite3.connect(address, uri=True, timeout=LOCK_DEADLINE, isolation_level=None)
    with contextlib.ExitStack() as opened:
        catalog = opened.enter_context(Catalog(connection, path, place.owner))
        _check_version(catalog)
        opened.pop_all()
    return catalog


def _prepare_writing(catalog: Catalog) -> None:
    catalog.execute("PRAGMA foreign_keys = ON")
    catalog.execute("PRAGMA synchronous = FULL")
    # A catalog of an earlier version has a write-ahead log, until no program has the catalog open.
    catalog.execute("PRAGMA journal_mode = PERSIST")
    # Without these, SQLite writes temporary files, and a large transaction locks readers out before its end.
    catalog.execute("PRAGMA temp_store = MEMORY")
    catalog.execute("PRAGMA cache_spill = OFF")


def locate_catalog(path: str) -> CatalogPlace:
    """Return the place of the catalog, which may be missing. A network file system is refused before any access,
    because its server may be dead.

    :raises DependencyNotFound: the directory is missing.
    :raises CatalogFailed: a catalog can't be there, or users other than the owner of its directory could replace it.
    :raises PathNotAllowed: another user's symbolic link leads there.
    """
    directory = os.path.dirname(path)
    try:
        check_local(directory)
        with opened_parent(path, option="catalog") as (parent, name):
            found = os.fstat(parent)
            place = CatalogPlace(os.path.join(os.readlink(descriptor_path(parent)), name), found, owner_of(found))
        check_local(os.path.dirname(place.path))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DependencyNotFound(
            f"The catalog can't be at {path}: {directory} is not a directory; the role granary.vmstore.frontend makes "
            "the default one."
        ) from error
    except OSError as error:
        raise from_os_error(error, f"look for the catalog {path}") from error
    _check_reachable(place)
    if os.geteuid() == found.st_uid == 0 and is_writable_for_others(found) and not found.st_mode & stat.S_ISVTX:
        directory = os.path.dirname(place.path)
        raise CatalogFailed(
            f"The catalog can't be at {path}: the directory {directory} is root's and other users may write to it, so "
            f"give it to one of them with chown, or keep them out with 'chmod go-w {directory}'."
        )
    return place


def _check_reachable(place: CatalogPlace) -> None:
    """Refuse a place that the owner of the catalog can't reach.

    :raises CatalogFailed: the owner may not pass a directory above the catalog's.
    """
    directory = os.path.dirname(place.path)
    try:
        with acting_as(place.owner):
            os.stat(directory)
    except PermissionError as error:
        raise CatalogFailed(
            f"The catalog can't be at {place.path}: the user {place.directory.st_uid}, who owns the directory "
            f"{directory}, may not go there."
        ) from error
    except OSError as error:
        raise from_os_error(error, f"look for the catalog {place.path}") from error


def _check_owner(place: CatalogPlace) -> None:
    """Refuse files of another user.

    :raises CatalogFailed: a file of the catalog doesn't belong to the owner of its directory, who couldn't open the
        file or didn't put it there.
    """
    # In a directory of root, other users can create files only if the directory is sticky.
    if place.owner is None and not (os.geteuid() == 0 and place.directory.st_mode & stat.S_ISVTX):
        return
    owner = place.directory.st_uid
    for path in (place.path + suffix for suffix in FILE_SUFFIXES):
        with contextlib.suppress(FileNotFoundError):
            uid = os.lstat(path).st_uid
            if uid != owner:
                raise CatalogFailed(
                    f"The catalog's file {path} belongs to the user {uid} and its directory to the user {owner}, who "
                    f"has to own both: look at the file, then run 'chown --no-dereference {owner} {path}'."
                )


def _check_version(catalog: Catalog) -> None:
    if _pragma(catalog, "application_id") != schema.APPLICATION_ID:
        raise CatalogFailed(f"The file {catalog.path} is not a catalog of granary.vmstore.")
    version = _pragma(catalog, "user_version")
    known = len(schema.MIGRATIONS)
    if version > known:
        raise CatalogFailed(
            f"The catalog {catalog.path} was written by a newer granary.vmstore (schema {version}); this one supports "
            f"schema {known}."
        )


def _pragma(catalog: Catalog, name: str) -> int:
    return int(catalog.execute(f"PRAGMA {name}")[0][0])


def _migrate(catalog: Catalog) -> None:
    """Run the migrations that this catalog lacks: all of them, or none."""
    if _pragma(catalog, "user_version") == len(schema.MIGRATIONS):
        return
    with catalog.transaction():
        # The version is read again, because another program may have migrated the catalog before this one got the lock.
        for statements in schema.MIGRATIONS[_pragma(catalog, "user_version") :]:
            for statement in statements:
                catalog.execute(statement)
        catalog.execute(f"PRAGMA user_version = {len(schema.MIGRATIONS)}")


def _fill(catalog: Catalog, datastore_location: str) -> None:
    """Create the tables and the default datastores in an empty database."""
    catalog.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}")
    _migrate(catalog)
    with catalog.transaction():
        for datastore in default_datastores(datastore_location):
            DATASTORES.insert(catalog, datastore)


def _make(path: str, datastore_location: str) -> None:
    """Create a catalog under a temporary name, and rename it when it is complete. If another program was faster, its
    catalog stays.

    The catalog belongs to the owner of its directory, and the group may read it.
    """
    place = locate_catalog(path)
    directory, name = os.path.split(place.path)
    try:
        with contextlib.ExitStack() as stack:
            with acting_as(place.owner):
                opened = stack.enter_context(opened_directory(directory, option="catalog"))
                descriptor, temporary = create_temporary(opened, name)
            stack.callback(os.close, descriptor)  # closed last, because closing ends SQLite's locks, too (fcntl(2))
            stack.callback(_remove, place, os.path.join(directory, temporary))
            overwrite_in_place(descriptor)
            os.fchown(descriptor, -1, place.directory.st_gid)
            os.fchmod(descriptor, 0o640)
            with acting_as(place.owner):
                with (
                    _translate_errors(path),
                    Catalog(sqlite3.connect(os.path.join(directory, temporary), isolation_level=None), path) as catalog,
                ):
                    catalog.execute("PRAGMA synchronous = FULL")
                    catalog.execute("PRAGMA journal_mode = MEMORY")  # a file without its final name is never repaired
                    _fill(catalog, datastore_location)
                with contextlib.suppress(FileExistsError):
                    os.link(temporary, name, src_dir_fd=opened, dst_dir_fd=opened)
                sync_opened(opened)
    except OSError as error:
        raise from_os_error(error, f"make the catalog {path}") from error


def _remove(place: CatalogPlace, path: str) -> None:
    with acting_as(place.owner), contextlib.suppress(OSError):
        os.unlink(path)


@contextlib.contextmanager
def _translate_errors(path: str) -> Iterator[None]:
    """Convert SQLite's errors to errors of one sentence."""
    try:
        yield
    except UnicodeEncodeError as error:
        raise CatalogFailed(f"The catalog {path} holds text in UTF-8, which {error.object!r} is not.") from error
    except sqlite3.Error as error:
        message = str(error)
        # For an exhausted quota, SQLite reports an I/O error; for a file system without inodes, a file that can't be
        # opened.
        if "is full" in message or (re.search("I/O error|unable to open", message) and _is_full(path)):
            raise NoSpace(
                f"The catalog {path} can't be written: the file system is full. Nothing was changed."
            ) from error
        meaning = next((MEANINGS[part] for part in MEANINGS if part in message), message)
        raise CatalogFailed(f"The catalog {path} can't be used: {meaning}.") from error


def _is_full(path: str) -> bool:
    """Return whether this user can't create a file beside the catalog for lack of space, because SQLite's error code
    isn't available in Python.
    """
    try:
        with tempfile.TemporaryFile(dir=os.path.dirname(os.path.realpath(path))) as file:
            os.posix_fallocate(file.fileno(), 0, 4096)
    except OSError as error:
        return error.errno in FULL
    return False


__all__ = [
    "DEFAULT_LOCATION",
    "DEFAULT_PATH",
    "Catalog",
    "CatalogPlace",
    "catalog_exists",
    "locate_catalog",
    "open_catalog",
    "read_catalog",
]
