# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""A catalog with images that hold data, in a datastore of the test's own. qemu-img reads the content of the images."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._catalog.attachments import ATTACHMENTS
from ansible_collections.granary.vmstore.plugins.module_utils._catalog.catalog import open_catalog
from ansible_collections.granary.vmstore.plugins.module_utils._catalog.datastores import DATASTORES
from ansible_collections.granary.vmstore.plugins.module_utils._catalog.images import IMAGES
from ansible_collections.granary.vmstore.plugins.module_utils._core.plan import Plan
from ansible_collections.granary.vmstore.plugins.module_utils._model.attachment import Attachment
from ansible_collections.granary.vmstore.plugins.module_utils._model.datastore import Datastore
from ansible_collections.granary.vmstore.plugins.module_utils._model.image import Image
from ansible_collections.granary.vmstore.plugins.module_utils._service.image.export import (
    IMAGE_EXPORT_SPEC,
    ImageExportService,
)
from ansible_collections.granary.vmstore.plugins.module_utils._service.image.snapshot import (
    IMAGE_SNAPSHOT_SPEC,
    ImageSnapshotService,
)

SERVICES = {
    "image_snapshot": (IMAGE_SNAPSHOT_SPEC, ImageSnapshotService),
    "image_export": (IMAGE_EXPORT_SPEC, ImageExportService),
}


def qemu(program: str, *argv: object) -> str:
    return subprocess.run([program, *map(str, argv)], check=True, stdout=subprocess.PIPE, text=True).stdout


class Store:
    """The datastore 100, ``ds``, and an image 0, ``x``, with the snapshots 0, 1 and 2.

    The guest wrote MiB number n after snapshot n - 1.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.catalog = str(root / "catalog.sqlite")
        self.directory = root / "datastores" / "100"
        self.directory.mkdir(parents=True)
        self.image = self.directory / ("a" * 32)
        self.snapshots = Path(f"{self.image}.snap")
        with open_catalog(self.catalog, create=True) as catalog, catalog.transaction():
            DATASTORES.insert(
                catalog, Datastore(catalog.take_id("datastore"), "ds", "image", "fs", "ssh", str(self.directory))
            )
            DATASTORES.insert(
                catalog,
                Datastore(
                    catalog.take_id("datastore"),
                    "dirs",
                    "image",
                    "virtiofs",
                    "virtiofs",
                    str(root / "datastores" / "101"),
                ),
            )

    def row(self, name: str = "x", **values: Any) -> None:
        with open_catalog(self.catalog, create=False) as catalog, catalog.transaction():
            number = catalog.take_id("image")
            given = {
                "type": "datablock",
                "size_mb": 4,
                "checksum": "md5:0",
                "persistent": True,
                "datastore_id": 100,
                "path": str(self.image),
                **values,
            }
            IMAGES.insert(catalog, Image(id=number, name=name, read_only=False, **given))

    def found(self) -> Image:
        with open_catalog(self.catalog, create=False) as catalog:
            return IMAGES.find(catalog, "x")

    def use(self, domain: str = "web") -> None:
        with open_catalog(self.catalog, create=False) as catalog, catalog.transaction():
            ATTACHMENTS.put(catalog, Attachment(0, "h1", domain, "t", "/x", False))

    def copies(self, image_format: str = "raw") -> None:
        """Create snapshots that are whole copies."""
        qemu("qemu-img", "create", "-q", "-f", image_format, self.image, "4M")
        self.snapshots.mkdir()
        for number in range(4):
            self.write(self.image, number, image_format)
            if number < 3:
                qemu("cp", self.image, self.snapshots / str(number))
        self.row(format=image_format)

    def chain(self) -> None:
        """Create overlays; the image is a link to the newest."""
        self.snapshots.mkdir()
        (self.snapshots / self.snapshots.name).symlink_to(".")
        for number in range(4):
            base = ["-u", "-F", "qcow2", "-b", f"{self.snapshots.name}/{number - 1}"] if number else []
            qemu("qemu-img", "create", "-q", "-f", "qcow2", *base, self.snapshots / str(number), "4M")
            self.write(self.snapshots / str(number), number, "qcow2")
        self.image.symlink_to(f"{self.snapshots.name}/3")
        self.row(format="qcow2")

    def shared(self) -> None:
        """Create overlays on the image itself."""
        self.chain()
        self.image.unlink()
        (self.snapshots / "0").rename(self.image)
        (self.snapshots / "0").symlink_to(self.image)

    @property
    def active(self) -> Path:
        """Return the file that the guest writes to."""
        last = self.snapshots / "3"
        return last if last.exists() else self.image

    @staticmethod
    def write(path: Path, number: int, image_format: str) -> None:
        qemu("qemu-io", "-f", image_format, "-c", f"write -q -P {number + 1} {number}M 1M", path)

    def holds(self, path: Path | None = None, image_format: str | None = None) -> list[int]:
        """Return the first byte of each MiB."""
        path = path or self.active
        raw = self.root / "content"
        qemu("qemu-img", "convert", "-f", image_format or self.found().format, "-O", "raw", path, raw)
        data = raw.read_bytes()
        raw.unlink()
        return [data[start] for start in range(0, len(data), 2**20)]

    def service(self, module: str, **given: Any) -> ImageSnapshotService | ImageExportService:
        spec, build = SERVICES[module]
        options = {name: option.get("default") for name, option in spec.argument_spec.items()}
        return build({**options, "catalog": self.catalog, "image": "x", **given})

    def four(self, module: str, **given: Any) -> list[Plan]:
        """Run a service in check mode, twice for real, and in check mode again."""
        before = self.tree()
        check = self.service(module, **given).plan()
        assert self.tree() == before
        done = self.service(module, **given).converge()
        after = self.tree()
        plans = [check, done, self.service(module, **given).converge(), self.service(module, **given).plan()]
        assert [plan.changed for plan in plans] == [True, True, False, False]
        assert check.described() == done.described()
        assert self.tree() == after
        assert not list(self.root.rglob("*.part"))
        return plans

    def tree(self) -> dict[str, object]:
        """Return the content of every file of the test without the files of SQLite itself."""
        files = [path for path in self.root.rglob("*") if not path.name.startswith("catalog.sqlite")]
        return {
            str(path): os.readlink(path) if path.is_symlink() else path.is_file() and path.read_bytes()
            for path in files
        }


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


@pytest.fixture(params=["raw", "qcow2", "chain", "shared"])
def filled(request: pytest.FixtureRequest, store: Store) -> Store:
    """Return a store of each layout."""
    layouts: dict[str, Callable[[], None]] = {
        "raw": store.copies,
        "qcow2": lambda: store.copies("qcow2"),
        "chain": store.chain,
        "shared": store.shared,
    }
    layouts[request.param]()
    assert store.holds() == [1, 2, 3, 4]
    return store
