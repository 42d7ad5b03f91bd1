# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""A front-end with images on a local and on a shared datastore, for tests of disks of VMs."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.granary.vmstore.plugins.module_utils._catalog.catalog import open_catalog
from ansible_collections.granary.vmstore.plugins.module_utils._catalog.datastores import DATASTORES
from ansible_collections.granary.vmstore.plugins.module_utils._catalog.images import IMAGES
from ansible_collections.granary.vmstore.plugins.module_utils._core.plan import Plan
from ansible_collections.granary.vmstore.plugins.module_utils._model.datastore import Datastore
from ansible_collections.granary.vmstore.plugins.module_utils._model.image import Image
from ansible_collections.granary.vmstore.plugins.module_utils._service.disk.disks import VmDiskService
from ansible_collections.granary.vmstore.plugins.module_utils._service.disk.options import VM_DISK_SPEC

#: Images by name: datastore, format, persistent.
IMAGES_OF_SITE = {
    "raw": (1, "raw", False),
    "qcow2": (1, "qcow2", False),
    "mine": (1, "raw", True),
    "shared-raw": (101, "raw", False),
    "shared-qcow2": (101, "qcow2", False),
    "shared-mine": (101, "qcow2", True),
}

#: Size of every image in MiB. The data of an image begins with its name.
SIZE = 2


def complete(options: Mapping[str, Any], declared: Mapping[str, Any]) -> dict[str, Any]:
    """Return options as Ansible completes them."""
    found: dict[str, Any] = {}
    for name, option in declared.items():
        value = options.get(name, option.get("default"))
        if isinstance(value, list) and "options" in option:
            value = [complete(one, option["options"]) for one in value]
        elif isinstance(value, Mapping) and "options" in option:
            value = complete(value, option["options"])
        found[name] = value
    assert set(options) <= set(declared), options
    return found


@dataclass
class Site:
    """A front-end. Its datastores 0 (system) and 1 (images) are local, 100 and 101 shared."""

    path: Path
    datastores: Path

    @property
    def catalog(self) -> str:
        return str(self.path / "catalog.sqlite")

    def run(self, *, check: bool = False, **options: Any) -> Plan:
        service = VmDiskService(complete({"catalog": self.catalog, **options}, VM_DISK_SPEC.argument_spec))
        return service.dry_run() if check else service.converge()

    def four(self, **options: Any) -> Plan:
        """Run in check mode, twice for real, and in check mode again. Only the first two runs have actions."""
        foreseen = self.run(check=True, **options)
        done = self.run(**options)
        assert foreseen.actions
        assert [states(one) for one in foreseen.actions] == [states(one) for one in done.actions]
        assert self.run(**options).actions == []
        assert self.run(check=True, **options).actions == []
        return done

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        """Return rows of the catalog, by SQLite itself."""
        with contextlib.closing(sqlite3.connect(self.catalog)) as connection:
            return connection.execute(statement).fetchall()

    def dump(self) -> list[str]:
        with contextlib.closing(sqlite3.connect(self.catalog)) as connection:
            return list(connection.iterdump())

    def image(self, name: str) -> Path:
        [(path,)] = self.query(f"SELECT path FROM image WHERE name = '{name}'")
        return Path(path)

    def disk(self, disk: int = 0, *, vm: int = 0, datastore: int = 0) -> Path:
        return self.datastores / str(datastore) / str(vm) / f"disk.{disk}"


def states(action: Any) -> tuple[str, str, object, object]:
    return action.name, action.subject, action.before, action.after


def describe(path: Path, *options: str) -> dict[str, Any]:
    """Return the description of a disk by qemu-img."""
    done = subprocess.run(
        ["qemu-img", "info", "--output=json", *options, str(path)], capture_output=True, text=True, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def content(path: Path, image_format: str) -> bytes:
    """Return the first bytes of a disk without the zeros behind them."""
    with tempfile.NamedTemporaryFile() as copy:
        command = [
            "qemu-img",
            "dd",
            "-f",
            image_format,
            "-O",
            "raw",
            "bs=512",
            "count=1",
            f"if={path}",
            f"of={copy.name}",
        ]
        subprocess.run(command, capture_output=True, check=True)
        return Path(copy.name).read_bytes().rstrip(b"\0")


@contextlib.contextmanager
def used(path: Path) -> Iterator[None]:
    """Hold QEMU's lock for writing on a file, as a running virtual machine does, in another process."""
    program = (
        "import fcntl,struct,sys;f=open(sys.argv[1],'r+b');"
        "fcntl.fcntl(f,fcntl.F_OFD_SETLK,struct.pack('hhqqi',fcntl.F_RDLCK,0,101,1,0));"
        "print(flush=True);sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield
        process.communicate(b"")


def make_site(directory: Path, datastores: Path) -> Site:
    """Create the catalog and the images of a front-end.

    :arg directory: gets the catalog.
    :arg datastores: the directory of all datastores.
    """
    found = Site(directory, datastores)
    with open_catalog(found.catalog, create=True, datastore_location=str(datastores)) as catalog, catalog.transaction():
        DATASTORES.insert(catalog, Datastore(100, "shared-system", "system", None, "shared", str(datastores / "100")))
        DATASTORES.insert(catalog, Datastore(101, "shared", "image", "fs", "shared", str(datastores / "101")))
        DATASTORES.insert(catalog, Datastore(102, "other-system", "system", None, "local", str(datastores / "102")))
        for number, (name, (datastore, image_format, persistent)) in enumerate(IMAGES_OF_SITE.items()):
            directory = datastores / str(datastore)
            directory.mkdir(exist_ok=True)
            raw, path = directory / "raw", directory / f"{number:032x}"
            raw.write_bytes(name.encode())
            os.truncate(raw, SIZE << 20)
            subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", image_format, raw, path], check=True)
            raw.unlink()
            IMAGES.insert(
                catalog,
                Image(
                    catalog.take_id("image"),
                    name,
                    datastore,
                    "os",
                    str(path),
                    SIZE,
                    persistent,
                    False,
                    format=image_format,
                ),
            )
    return found


__all__ = ["SIZE", "Site", "complete", "content", "describe", "make_site", "states", "used"]
