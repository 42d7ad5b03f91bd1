# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rows of the catalog's tables, with every kind of value that a field can have."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._catalog.attachments import ATTACHMENTS
from ansible_collections.granary.vmstore.plugins.module_utils._catalog.catalog import Catalog, open_catalog
from ansible_collections.granary.vmstore.plugins.module_utils._catalog.images import IMAGES
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import CatalogFailed
from ansible_collections.granary.vmstore.plugins.module_utils._core.records import replace
from ansible_collections.granary.vmstore.plugins.module_utils._model.attachment import Attachment
from ansible_collections.granary.vmstore.plugins.module_utils._model.idmap import IdMap
from ansible_collections.granary.vmstore.plugins.module_utils._model.image import Image

MAPS = (IdMap(0, 1000, 1), IdMap(1, 100000, 65535))
IMAGE = Image(7, "shared", 1, "filesystem", "/srv/shared", 3, True, False, "shared", "/mnt/shared", MAPS, ())


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    return open_catalog(str(tmp_path / "catalog.sqlite"), create=True, datastore_location=str(tmp_path))


def query_rows(tmp_path: Path, statement: str) -> list[tuple[object, ...]]:
    """Return the rows that SQLite itself finds in the file."""
    with sqlite3.connect(tmp_path / "catalog.sqlite") as connection:
        found = connection.execute(statement).fetchall()
    connection.close()
    return found


def test_an_image_with_id_maps(catalog: Catalog, tmp_path: Path) -> None:
    with catalog:
        IMAGES.insert(catalog, IMAGE)
        assert IMAGES.find(catalog, "shared") == IMAGE
        IMAGES.update(catalog, replace(IMAGE, uid_map=None))
        assert IMAGES.find(catalog, 7) == replace(IMAGE, uid_map=None)
    assert query_rows(tmp_path, "SELECT uid_map, gid_map, persistent, read_only FROM image") == [(None, "[]", 1, 0)]


def test_an_attachment_with_id_maps(catalog: Catalog, tmp_path: Path) -> None:
    row = Attachment(7, "h1", "web", "shared", "/mnt/shared", True, MAPS, None)
    with catalog:
        IMAGES.insert(catalog, IMAGE)
        ATTACHMENTS.put(catalog, row)
        assert ATTACHMENTS.rows(catalog) == [row]
    [(maps,)] = query_rows(tmp_path, "SELECT uid_map FROM vm_disk")
    assert isinstance(maps, str)
    assert json.loads(maps) == [{"start": one.start, "target": one.target, "count": one.count} for one in MAPS]


@pytest.mark.parametrize(
    "change", ["uid_map = '[{}]'", "uid_map = 3", "size_mb = 'x'", "path = 'relative'", "fs = x'00'"]
)
def test_a_row_that_was_never_written_so_is_refused(catalog: Catalog, change: str) -> None:
    with catalog:
        IMAGES.insert(catalog, IMAGE)
        catalog.execute(f"UPDATE image SET {change}")
        with pytest.raises(CatalogFailed):
            IMAGES.find(catalog, 7)
