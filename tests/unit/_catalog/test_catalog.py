# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._catalog import catalog as module
from ansible_collections.granary.vmstore.plugins.module_utils._catalog import schema
from ansible_collections.granary.vmstore.plugins.module_utils._catalog.attachments import ATTACHMENTS
from ansible_collections.granary.vmstore.plugins.module_utils._catalog.catalog import open_catalog, read_catalog
from ansible_collections.granary.vmstore.plugins.module_utils._catalog.datastores import DATASTORES
from ansible_collections.granary.vmstore.plugins.module_utils._catalog.images import IMAGES
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import (
    CatalogFailed,
    DependencyNotFound,
    FileAccessFailed,
)
from ansible_collections.granary.vmstore.plugins.module_utils._model.attachment import Attachment
from ansible_collections.granary.vmstore.plugins.module_utils._model.datastore import Datastore
from ansible_collections.granary.vmstore.plugins.module_utils._model.image import CloneSource, Image, clone_source
from ansible_collections.granary.vmstore.plugins.module_utils._service.image.work import image_lock
from refusal import refused


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "catalog.sqlite")


#: Names of the files of a catalog that is not in use, in alphabetical order.
FILES = ["catalog.sqlite", "catalog.sqlite-journal", "catalog.sqlite.images.lock"]


def make(path: str) -> None:
    open_catalog(path, create=True).close()


def query(path: str, statement: str) -> list[tuple]:
    """Return the rows that SQLite itself finds."""
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        return connection.execute(statement).fetchall()
    finally:
        connection.close()


def change(path: str, *statements: str) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        for statement in statements:
            connection.execute(statement)
    finally:
        connection.close()


def new_datastore(number: int, name: str = "x") -> Datastore:
    return Datastore(number, name, "image", "virtiofs", "virtiofs", f"/ds/{number}")


def test_a_new_catalog_has_the_default_datastores(path: str) -> None:
    open_catalog(path, create=True, datastore_location="/srv/ds").close()
    assert sorted(os.listdir(os.path.dirname(path))) == FILES
    assert query(path, "SELECT id, name, type, base_path FROM datastore ORDER BY id") == [
        (0, "system", "system", "/srv/ds/0"),
        (1, "default", "image", "/srv/ds/1"),
        (2, "files", "file", "/srv/ds/2"),
    ]
    assert query(path, "PRAGMA journal_mode") == [("delete",)]  # any mode without a write-ahead log
    assert query(path, "PRAGMA user_version") == [(len(schema.MIGRATIONS),)]


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_it_belongs_to_the_owner_of_its_directory_and_the_group_can_read_it(tenant: Path, mask: int) -> None:
    os.chown(tenant, 1234, 1235)
    before = os.umask(mask)
    try:
        make(str(tenant / "catalog.sqlite"))
    finally:
        os.umask(before)
    for name in FILES:
        found = (tenant / name).stat()
        assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (1234, 1235, 0o640)


def test_a_catalog_that_exists_is_kept(path: str) -> None:
    make(path)
    with open_catalog(path, create=True) as catalog, catalog.transaction():
        DATASTORES.insert(catalog, new_datastore(catalog.take_id("datastore")))
    make(path)
    assert query(path, "SELECT id FROM datastore WHERE name = 'x'") == [(100,)]


def test_writes_are_durable_and_references_enforced(path: str) -> None:
    with open_catalog(path, create=True) as catalog:
        assert catalog.execute("PRAGMA synchronous")[0][0] == 2
        with (
            refused(CatalogFailed, says=f"The catalog {path} can't be used: FOREIGN KEY constraint failed."),
            catalog.transaction(),
        ):
            catalog.execute("INSERT INTO vm_disk VALUES (7, 'h', 'd', 't', '/m', 0, NULL, NULL)")


def test_ids_are_never_given_twice(path: str) -> None:
    with open_catalog(path, create=True) as catalog:
        for expected in (100, 101):
            with catalog.transaction():
                number = catalog.take_id("datastore")
                DATASTORES.insert(catalog, new_datastore(number))
                DATASTORES.delete(catalog, number)
            assert number == expected
        assert catalog.next_id("image") == 0


def test_what_raises_changes_nothing(path: str) -> None:
    with open_catalog(path, create=True) as catalog:
        with pytest.raises(ZeroDivisionError), catalog.transaction():
            DATASTORES.insert(catalog, new_datastore(catalog.take_id("datastore")))
            raise ZeroDivisionError
        assert (catalog.next_id("datastore"), len(DATASTORES.rows(catalog))) == (100, 3)


KILLED = """
import os, signal, sys
from ansible_collections.granary.vmstore.plugins.module_utils._catalog.catalog import open_catalog
with open_catalog(sys.argv[1], create=False) as catalog, catalog.transaction():
    catalog.execute("DELETE FROM datastore")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_writer_leaves_the_catalog_as_it_was(path: str) -> None:
    make(path)
    assert subprocess.run([sys.executable, "-c", KILLED, path], check=False).returncode == -9
    with read_catalog(path, missing_ok=False) as catalog:
        assert len(DATASTORES.rows(catalog)) == 3


KILLED_MAKER = """
import os, signal, sys
from ansible_collections.granary.vmstore.plugins.module_utils._catalog.catalog import open_catalog
if sys.argv[2] == "before":
    os.link = lambda *_arguments, **_options: os.kill(os.getpid(), signal.SIGKILL)
else:
    os.unlink = lambda *_arguments, **_options: os.kill(os.getpid(), signal.SIGKILL)
open_catalog(sys.argv[1], create=True)
"""


@pytest.mark.parametrize("when", ["before", "after"])
def test_what_a_killed_program_left_of_a_new_catalog_is_removed(path: str, when: str) -> None:
    assert subprocess.run([sys.executable, "-c", KILLED_MAKER, path, when], check=False).returncode == -9
    assert len([name for name in os.listdir(os.path.dirname(path)) if name.endswith(".part")]) == 1
    make(path)
    assert sorted(os.listdir(os.path.dirname(path))) == FILES


CREATE = """
import sys
from ansible_collections.granary.vmstore.plugins.module_utils._catalog.catalog import open_catalog
from ansible_collections.granary.vmstore.plugins.module_utils._catalog.datastores import DATASTORES
from ansible_collections.granary.vmstore.plugins.module_utils._model.datastore import Datastore
for name in sys.argv[2:]:
    with open_catalog(sys.argv[1], create=True) as catalog, catalog.transaction():
        number = catalog.take_id("datastore")
        DATASTORES.insert(catalog, Datastore(number, name, "image", "virtiofs", "virtiofs", f"/ds/{number}"))
"""


def test_processes_that_start_at_once_make_one_catalog_and_different_ids(path: str) -> None:
    names = [[f"{process}-{number}" for number in range(5)] for process in range(4)]
    processes = [subprocess.Popen([sys.executable, "-c", CREATE, path, *mine]) for mine in names]
    assert [process.wait() for process in processes] == [0] * 4
    found = query(path, "SELECT id, name FROM datastore WHERE id >= 100 ORDER BY id")
    assert [number for number, _name in found] == list(range(100, 120))
    assert sorted(name for _number, name in found) == sorted(sum(names, []))


def test_reading_changes_nothing_on_disk(path: str) -> None:
    make(path)
    before = Path(path).read_bytes()
    with read_catalog(path, missing_ok=False) as catalog, catalog.transaction():
        DATASTORES.insert(catalog, new_datastore(catalog.take_id("datastore")))
        assert len(DATASTORES.rows(catalog)) == 4
    assert Path(path).read_bytes() == before
    assert sorted(os.listdir(os.path.dirname(path))) == FILES


def test_reading_does_not_wait_for_a_writer(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOCK_DEADLINE", 0.1)
    with open_catalog(path, create=True) as writer, writer.transaction():
        DATASTORES.insert(writer, new_datastore(100))
        with read_catalog(path, missing_ok=False) as catalog:
            assert len(DATASTORES.rows(catalog)) == 3


def test_reading_a_missing_catalog(path: str) -> None:
    with refused(
        DependencyNotFound,
        says=f"There is no catalog at {path}; the module granary.vmstore.datastore makes it on the front-end.",
    ):
        read_catalog(path, missing_ok=False)
    with read_catalog(path, missing_ok=True) as catalog:
        assert len(DATASTORES.rows(catalog)) == 3
    assert not os.path.exists(path)


def test_opening_a_missing_catalog(path: str) -> None:
    with refused(DependencyNotFound, names=[path]):
        open_catalog(path, create=False)
    assert not os.path.exists(path)


def test_its_directory_must_exist(tmp_path: Path) -> None:
    for openings in (lambda path: open_catalog(path, create=True), lambda path: read_catalog(path, missing_ok=False)):
        with refused(
            DependencyNotFound,
            says=f"The catalog can't be at {tmp_path}/none/catalog.sqlite: {tmp_path}/none is not a "
            "directory; the role granary.vmstore.frontend makes the default one.",
        ):
            openings(f"{tmp_path}/none/catalog.sqlite")


@pytest.mark.parametrize(
    "opening", [lambda path: open_catalog(path, create=True), lambda path: read_catalog(path, missing_ok=True)]
)
def test_a_catalog_of_a_newer_version_is_refused(path: str, opening) -> None:
    make(path)
    newer = len(schema.MIGRATIONS) + 7
    change(path, f"PRAGMA user_version = {newer}")
    before = Path(path).read_bytes()
    with refused(
        CatalogFailed,
        says=f"The catalog {path} was written by a newer granary.vmstore (schema {newer}); this one supports schema "
        f"{len(schema.MIGRATIONS)}.",
    ):
        opening(path)
    assert Path(path).read_bytes() == before


def test_another_programs_database_is_refused(path: str) -> None:
    change(path, "CREATE TABLE host_pool (oid INTEGER)")
    with refused(CatalogFailed, says=f"The file {path} is not a catalog of granary.vmstore."):
        open_catalog(path, create=True)


def test_an_empty_file_is_refused(path: str) -> None:
    Path(path).touch()
    with refused(CatalogFailed, names=[path]):
        open_catalog(path, create=True)


def test_a_file_that_is_no_database_is_refused(path: str) -> None:
    Path(path).write_text("hello\n" * 1000)
    with refused(
        CatalogFailed, says=f"The catalog {path} can't be used: the file is damaged or was not made by granary.vmstore."
    ):
        open_catalog(path, create=True)


def test_a_damaged_catalog_is_refused(path: str) -> None:
    make(path)
    with open(path, "r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 8 * 4096)
    with (
        refused(
            CatalogFailed, says=f"The catalog {path} can't be used: the file is damaged, so restore it from a backup."
        ),
        open_catalog(path, create=False) as catalog,
    ):
        DATASTORES.rows(catalog)


@pytest.mark.parametrize("make_it", [os.mkfifo, os.mkdir])
def test_only_a_regular_file_is_a_catalog(path: str, make_it) -> None:
    make_it(path)
    with refused(CatalogFailed, says=f"The catalog {path} is not a regular file."):
        open_catalog(path, create=True)


def test_a_busy_catalog(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOCK_DEADLINE", 0.1)
    with open_catalog(path, create=True) as first, open_catalog(path, create=False) as second, first.transaction():
        with (
            refused(
                CatalogFailed,
                says=f"The catalog {path} can't be used: another program has been writing to it for more than "
                "30 seconds.",
            ),
            second.transaction(),
        ):
            pass


NOBODY = """
import os, sys
from ansible_collections.granary.vmstore.plugins.module_utils._catalog import catalog
os.setgroups([]); os.setgid(65534); os.setuid(65534)
for opening in (
    lambda: catalog.open_catalog(sys.argv[1], create=False),
    lambda: catalog.read_catalog(sys.argv[1], missing_ok=False),
):
    try:
        opening()
    except Exception as error:
        print(type(error).__name__, error)
"""


def test_a_user_who_may_not_read_it(tmp_path: Path) -> None:
    directory = Path(subprocess.run(["mktemp", "-d"], capture_output=True, text=True, check=True).stdout.strip())
    try:
        directory.chmod(0o755)
        path = str(directory / "catalog.sqlite")
        make(path)
        done = subprocess.run([sys.executable, "-c", NOBODY, path], capture_output=True, text=True, check=True)
        assert (
            done.stdout
            == f"CatalogFailed The catalog {path} can't be used: this user may not read and write the file and its "
            "directory.\n" * 2
        )
    finally:
        subprocess.run(["rm", "-rf", directory], check=True)


FULL = """
set -e
mount -t tmpfs -o size=512k tmpfs "$1"
"$2" -c "$3" "$1/catalog.sqlite" make
head -c 1M /dev/zero > "$1/filler" 2> /dev/null || true
"$2" -c "$3" "$1/catalog.sqlite" write
"$2" -c "$3" "$1/second.sqlite" make
rm "$1/filler"
"$2" -c "$3" "$1/catalog.sqlite" read
ls -A "$1"
"""
FULL_STEP = """
import sys
from ansible_collections.granary.vmstore.plugins.module_utils._catalog.catalog import open_catalog
from ansible_collections.granary.vmstore.plugins.module_utils._catalog.datastores import DATASTORES
try:
    with open_catalog(sys.argv[1], create=sys.argv[2] == "make") as catalog:
        if sys.argv[2] == "write":
            with catalog.transaction():
                catalog.execute("UPDATE datastore SET attributes = ?", ["x" * 65536])
        if sys.argv[2] == "read":
            print([(one.name, one.attributes) for one in DATASTORES.rows(catalog)])
except Exception as error:
    print(type(error).__name__, error)
"""


def test_a_full_disk_is_an_error_and_the_catalog_stays_as_it_was(tmp_path: Path) -> None:
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", FULL, "sh", tmp_path, sys.executable, FULL_STEP],
        capture_output=True,
        text=True,
        check=True,
    )
    write, make_second, read, *names = done.stdout.splitlines()
    assert (
        write
        == f"NoSpace The catalog {tmp_path}/catalog.sqlite can't be written: the file system is full. Nothing was "
        "changed."
    )
    assert make_second.startswith("NoSpace ")
    assert read == "[('system', {}), ('default', {}), ('files', {})]"
    assert names == FILES


NEXT_STEP = ("ALTER TABLE datastore ADD COLUMN note TEXT", "UPDATE datastore SET note = 'new'")


def test_an_older_catalog_is_brought_up_to_date(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make(path)
    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, NEXT_STEP))
    with read_catalog(path, missing_ok=False) as copy:
        assert copy.execute("SELECT DISTINCT note FROM datastore")[0]["note"] == "new"
    assert query(path, "PRAGMA user_version") == [(len(schema.MIGRATIONS) - 1,)]
    for _time in range(2):
        open_catalog(path, create=False).close()
    assert query(path, "SELECT DISTINCT note FROM datastore") == [("new",)]
    assert query(path, "PRAGMA user_version") == [(len(schema.MIGRATIONS),)]


def make_old(path: str, monkeypatch: pytest.MonkeyPatch, version: int) -> None:
    """Create a catalog of an older version, with the datastore 1 of that time."""
    with monkeypatch.context() as before:
        before.setattr(schema, "MIGRATIONS", schema.MIGRATIONS[:version])
        before.setattr(module, "default_datastores", lambda location: [])
        make(path)
    row = "1, 'default', 'image', 'fs', 'local', '/ds/1', '[0]', '[]', '[]', '[]', '{}'"
    change(path, f"INSERT INTO datastore VALUES ({row})")


def test_datastores_of_before_stores_were_shared_are_kept(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make_old(path, monkeypatch, 3)
    for opened in (read_catalog(path, missing_ok=False), open_catalog(path, create=False)):
        with opened as catalog:
            assert DATASTORES.rows(catalog) == [Datastore(1, "default", "image", "fs", "local", "/ds/1")]


def test_images_of_before_data_was_held_are_kept(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make_old(path, monkeypatch, 1)
    change(
        path,
        "INSERT INTO image VALUES (7, 'i', 1, 'filesystem', '/mnt/i', 3, 1, 0, 'one-7', '/mnt/one-fs-7', NULL, '[]')",
    )
    change(path, "INSERT INTO vm_disk VALUES (7, 'h', 'd', 'one-7', '/mnt/one-fs-7', 0, NULL, NULL)")
    image = Image(7, "i", 1, "filesystem", "/mnt/i", 3, True, False, "one-7", "/mnt/one-fs-7", None, (), "dir")
    for opened in (read_catalog(path, missing_ok=False), open_catalog(path, create=False)):
        with opened as catalog:
            assert IMAGES.rows(catalog) == [image]
            assert ATTACHMENTS.rows(catalog) == [Attachment(7, "h", "d", "one-7", "/mnt/one-fs-7", False)]
    assert query(path, "PRAGMA foreign_key_check") == []
    with open_catalog(path, create=False) as catalog, refused(CatalogFailed, names=[path, "FOREIGN KEY"]):
        catalog.execute("DELETE FROM image")


def test_clones_of_before_origins_were_ids_are_kept(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make_old(path, monkeypatch, 2)
    origins = {5: None, 6: "image:i5", 7: "image:gone", 8: "image:6:x", 9: "/mnt/image:i5", 10: "https://h/image:i5"}
    assert clone_source(f"image:{'9' * 5000}:x") is None  # no id: Python parses no integer of this length
    for number, origin in origins.items():
        text = "NULL" if origin is None else f"'{origin}'"
        change(
            path,
            f"INSERT INTO image VALUES ({number}, 'i{number}', 1, 'os', '/d/x', 'raw', 3, 1, 0, NULL, "
            f"{text}{', NULL' * 6})",
        )
    for opened in (read_catalog(path, missing_ok=False), open_catalog(path, create=False)):
        with opened as catalog:
            images = IMAGES.rows(catalog)
            assert [clone_source(image.origin) for image in images] == [
                *(None, CloneSource(5, "i5"), CloneSource(None, "gone"), CloneSource(None, "6:x"), None, None)
            ]
            shown = [None, "image:i5", "image:gone", "image:6:x", "/mnt/image:i5", "https://h/image:i5"]
            assert [image.as_dict()["origin"] for image in images] == shown


def test_a_migration_is_done_wholly_or_not_at_all(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make(path)
    released = len(schema.MIGRATIONS)
    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, (*NEXT_STEP, "UPDATE no_such_table SET x = 1")))
    with refused(CatalogFailed, says=f"The catalog {path} can't be used: no such table: no_such_table."):
        open_catalog(path, create=False)
    assert query(path, "PRAGMA user_version") == [(released,)]
    assert query(path, "SELECT name FROM pragma_table_info('datastore') WHERE name = 'note'") == []


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE datastore SET clusters = 'x'",
        "UPDATE datastore SET clusters = '[true]'",
        "UPDATE datastore SET bridge_list = '[5]'",
        "UPDATE datastore SET attributes = '[]'",
        "UPDATE datastore SET safe_dirs = printf('%.100000c', '[')",
        "UPDATE datastore SET base_path = '../etc'",
        "UPDATE image SET path = x'ff'",
        "UPDATE image SET path = '/mnt/../etc'",
        "UPDATE image SET size_mb = 'much'",
        "UPDATE image SET persistent = 'no'",
        "UPDATE image SET mount_tag = 'a b'",
        "UPDATE image SET uid_map = '{}'",
        'UPDATE image SET uid_map = \'[{"start": true, "target": 1, "count": 1}]\'',
        "ALTER TABLE image ADD COLUMN more TEXT",
        "ALTER TABLE image DROP COLUMN path",
        "UPDATE vm_disk SET mount_point = '/mnt/../etc'",
        "UPDATE vm_disk SET gid_map = '[5]'",
    ],
)
def test_rows_that_were_never_written_here_are_refused(path: str, statement: str) -> None:
    with open_catalog(path, create=True) as catalog:
        IMAGES.insert(catalog, Image(0, "i", 1, "filesystem", "/mnt/i", 1, True, False, "one-0", "/mnt/one-fs-0"))
        ATTACHMENTS.put(catalog, Attachment(0, "h", "d", "one-0", "/mnt/one-fs-0", False))
    change(path, statement)
    with (
        open_catalog(path, create=False) as catalog,
        refused(
            CatalogFailed,
            says=f"The catalog {path} can't be used: a row of its table * holds what granary.vmstore never "
            "writes, so restore it from a backup.",
        ),
    ):
        DATASTORES.rows(catalog)
        IMAGES.rows(catalog)
        ATTACHMENTS.rows(catalog)


def test_a_catalog_without_the_next_id(path: str) -> None:
    make(path)
    change(path, "DELETE FROM counter")
    with (
        open_catalog(path, create=False) as catalog,
        refused(CatalogFailed, says=f"The catalog {path} has no next id for a new image, so restore it from a backup."),
    ):
        catalog.next_id("image")


def test_a_path_that_no_file_can_have(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    for path in ("loop", "loop/catalog", "x" * 300 + "/catalog"):
        with refused(FileAccessFailed, says=f"Could not look for the catalog {tmp_path}/{path}: *."):
            open_catalog(str(tmp_path / path), create=True)


def test_text_that_is_not_utf8(path: str) -> None:
    make(path)
    with (
        open_catalog(path, create=False) as catalog,
        refused(CatalogFailed, says=f"The catalog {path} holds text in UTF-8, which '\\udcff' is not."),
    ):
        catalog.execute("SELECT ?", ["\udcff"])


def test_opening_the_catalog_keeps_this_process_locks_on_images(tmp_path: Path) -> None:
    """Closing any descriptor of a file releases all locks of the process on this file (fcntl(2))."""
    path = str(tmp_path / "catalog.sqlite")
    with open_catalog(path, create=True):
        pass
    script = f"import fcntl; fcntl.lockf(open({path + '.images.lock'!r}, 'r+b'), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 7)"
    with image_lock(path, 7):
        with open_catalog(path, create=False):
            pass
        assert subprocess.run([sys.executable, "-c", script], capture_output=True, check=False).returncode == 1
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, check=False).returncode == 0
