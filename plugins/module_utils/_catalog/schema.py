# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The tables of the catalog, and the migrations from each version to the next.

A released migration never changes; a change of the tables is a new migration at the end. ``PRAGMA user_version`` is the
number of completed migrations.
"""

from __future__ import annotations

#: Value of ``PRAGMA application_id``, "grvs". It distinguishes a catalog from other databases.
APPLICATION_ID = 0x67727673

#: Lists and dicts are columns of JSON. ``counter`` holds the next id of each resource, because ids are never reused.
FIRST_TABLES = (
    "CREATE TABLE counter (resource TEXT PRIMARY KEY, next INTEGER NOT NULL)",
    "INSERT INTO counter VALUES ('datastore', 100), ('image', 0)",
    """CREATE TABLE datastore (
        id INTEGER PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        type TEXT NOT NULL CHECK (type IN ('image', 'system', 'backup', 'file')),
        ds_driver TEXT,
        tm_driver TEXT,
        base_path TEXT NOT NULL,
        clusters TEXT NOT NULL,
        safe_dirs TEXT NOT NULL,
        restricted_dirs TEXT NOT NULL,
        bridge_list TEXT NOT NULL,
        attributes TEXT NOT NULL
    )""",
    """CREATE TABLE image (
        id INTEGER PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        datastore_id INTEGER NOT NULL REFERENCES datastore (id),
        type TEXT NOT NULL CHECK (type IN ('filesystem')),
        path TEXT NOT NULL,
        size_mb INTEGER NOT NULL CHECK (size_mb >= 0),
        persistent INTEGER NOT NULL,
        read_only INTEGER NOT NULL,
        mount_tag TEXT NOT NULL UNIQUE,
        mount_point TEXT NOT NULL,
        uid_map TEXT,
        gid_map TEXT
    )""",
    """CREATE TABLE vm_disk (
        image_id INTEGER NOT NULL REFERENCES image (id),
        host TEXT NOT NULL,
        domain TEXT NOT NULL,
        mount_tag TEXT NOT NULL,
        mount_point TEXT NOT NULL,
        read_only INTEGER NOT NULL,
        uid_map TEXT,
        gid_map TEXT,
        PRIMARY KEY (image_id, host, domain),
        UNIQUE (host, domain, mount_tag),
        UNIQUE (host, domain, mount_point)
    )""",
)

#: Images that hold data. A table that is referenced can't change a column in place, so both tables are created again.
IMAGES_WITH_DATA = (
    "CREATE TABLE old_image AS SELECT * FROM image",
    "CREATE TABLE old_vm_disk AS SELECT * FROM vm_disk",
    "DROP TABLE vm_disk",
    "DROP TABLE image",
    """CREATE TABLE image (
        id INTEGER PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        datastore_id INTEGER NOT NULL REFERENCES datastore (id),
        type TEXT NOT NULL CHECK (type IN ('os', 'cdrom', 'datablock', 'kernel', 'ramdisk', 'context', 'filesystem')),
        path TEXT NOT NULL,
        format TEXT NOT NULL,
        size_mb INTEGER NOT NULL CHECK (size_mb >= 0),
        persistent INTEGER NOT NULL,
        read_only INTEGER NOT NULL,
        fs TEXT,
        origin TEXT,
        origin_checksum TEXT,
        checksum TEXT,
        mount_tag TEXT UNIQUE,
        mount_point TEXT,
        uid_map TEXT,
        gid_map TEXT,
        CHECK ((type = 'filesystem') = (mount_tag IS NOT NULL)),
        CHECK ((type = 'filesystem') = (mount_point IS NOT NULL))
    )""",
    """INSERT INTO image
        SELECT id, name, datastore_id, type, path, 'dir', size_mb, persistent, read_only, NULL, NULL, NULL, NULL,
            mount_tag, mount_point, uid_map, gid_map
        FROM old_image""",
    """CREATE TABLE vm_disk (
        image_id INTEGER NOT NULL REFERENCES image (id),
        host TEXT NOT NULL,
        domain TEXT NOT NULL,
        mount_tag TEXT NOT NULL,
        mount_point TEXT NOT NULL,
        read_only INTEGER NOT NULL,
        uid_map TEXT,
        gid_map TEXT,
        PRIMARY KEY (image_id, host, domain),
        UNIQUE (host, domain, mount_tag),
        UNIQUE (host, domain, mount_point)
    )""",
    "INSERT INTO vm_disk SELECT * FROM old_vm_disk",
    "DROP TABLE old_image",
    "DROP TABLE old_vm_disk",
)

#: The origin of a clone was only the name of its source. A source that was renamed or removed since then has no id in
#: the new origin.
ORIGINS_BY_ID = (
    """UPDATE image SET origin = 'image:'
        || coalesce((SELECT source.id FROM image AS source WHERE source.name = substr(image.origin, 7)), '')
        || ':' || substr(image.origin, 7)
        WHERE origin LIKE 'image:%'""",
)

#: Datastores on shared file systems, and the marker of their store.
SHARED_DATASTORES = (
    "ALTER TABLE datastore ADD COLUMN shared INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE datastore ADD COLUMN marker TEXT",
)

#: VMs with the disks that transfer drivers place on hosts. The table ``vm_disk`` has attachments (:mod:`.attachments`).
VMS_WITH_DISKS = (
    "INSERT INTO counter VALUES ('vm', 0)",
    """CREATE TABLE vm (
        id INTEGER PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        domain TEXT NOT NULL,
        host TEXT NOT NULL,
        datastore_id INTEGER NOT NULL REFERENCES datastore (id),
        state TEXT NOT NULL CHECK (state IN ('new', 'ready', 'leaving')),
        UNIQUE (host, domain)
    )""",
    """CREATE TABLE disk (
        vm_id INTEGER NOT NULL REFERENCES vm (id),
        disk_id INTEGER NOT NULL CHECK (disk_id >= 0),
        type TEXT NOT NULL CHECK (type IN ('file', 'cdrom', 'fs', 'swap')),
        format TEXT NOT NULL CHECK (format IN ('raw', 'qcow2')),
        size_mb INTEGER NOT NULL CHECK (size_mb >= 0),
        image_id INTEGER REFERENCES image (id),
        persistent INTEGER NOT NULL,
        linked INTEGER NOT NULL,
        fs TEXT,
        target TEXT,
        bus TEXT,
        read_only INTEGER NOT NULL,
        shareable INTEGER NOT NULL,
        state TEXT NOT NULL CHECK (state IN ('new', 'ready', 'leaving')),
        PRIMARY KEY (vm_id, disk_id),
        CHECK ((type IN ('file', 'cdrom')) = (image_id IS NOT NULL)),
        CHECK ((target IS NULL) = (bus IS NULL))
    )""",
    "CREATE INDEX disk_by_image ON disk (image_id)",
    "CREATE UNIQUE INDEX persistent_disk ON disk (image_id) WHERE persistent",
    """CREATE TABLE disk_snapshot (
        vm_id INTEGER NOT NULL,
        disk_id INTEGER NOT NULL,
        id INTEGER NOT NULL CHECK (id >= 0),
        name TEXT NOT NULL,
        is_active INTEGER NOT NULL,
        PRIMARY KEY (vm_id, disk_id, id),
        UNIQUE (vm_id, disk_id, name),
        FOREIGN KEY (vm_id, disk_id) REFERENCES disk (vm_id, disk_id) ON DELETE CASCADE
    )""",
)

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    FIRST_TABLES,
    IMAGES_WITH_DATA,
    ORIGINS_BY_ID,
    SHARED_DATASTORES,
    VMS_WITH_DISKS,
)

__all__ = ["APPLICATION_ID", "MIGRATIONS"]
