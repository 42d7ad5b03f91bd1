# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The actions of a datastore driver: ``<remotes>/datastore/<ds_mad>/<action> <id>`` (spec: storage-driver, "Datastore
Drivers Structure"). The document comes from standard input, and the result goes to standard output.
"""

from __future__ import annotations

import os

from ..._core import records
from ..._core.errors import NotFound, VmstoreError
from ..._core.records import TYPE_CHECKING
from ..._core.words import FRONT_END
from ..._driver.datastore.base import COPY_ATTRIBUTES, CopiedImage, CopyOptions, DatastoreDriver, Settings
from ..._driver.datastore.registry import class_for
from .datastore_document import element_of, read_datastore, require_no_blanks
from .document import Document
from .elements import escape
from .output import log, write_result

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

#: Upper bound of the time to read the capacity of a file system in seconds.
MONITOR_TIMEOUT = 30

#: Types of images. The number in the element IMAGE/TYPE is an index of these.
IMAGE_TYPES = ("os", "cdrom", "datablock", "kernel", "ramdisk", "context", "backup", "filesystem")

#: Elements of an image's template that hold a digest, named by the algorithm in capitals.
CHECKSUMS = ("MD5", "SHA1", "SHA256", "SHA512")


class DatastoreAction:
    """A run of an action of a datastore driver.

    :arg driver: ``None`` for a system datastore.
    """

    def __init__(self, remotes: str, driver: str | None, document: Document) -> None:
        self.remotes = remotes
        self.document = document
        self.datastore = read_datastore(driver, document)
        self._class = class_for(self.datastore)

    def make_driver(self, **options: Any) -> DatastoreDriver:
        return self._class(self.datastore, words=FRONT_END, may_mount=True, log=log, **options)

    def make_reading_driver(self) -> DatastoreDriver:
        """Return the driver for an action that creates images or reads a path of the user."""
        from .secrets import secret_paths

        return self.make_driver(settings=self._settings(), protected=secret_paths(self.remotes, os.environ))

    def _settings(self) -> Settings:
        from .configuration import read_settings

        settings = read_settings(self.remotes)
        if settings.downloader is not None:
            # The downloader reads its environment: one variable keeps the data compressed, so that a checksum matches.
            # The other has the keys of the storage.
            os.environ.update(NO_DECOMPRESS="yes", DRV_ACTION=self.document.encoded)
        return settings

    def copy_options(self) -> CopyOptions:
        """Return the options of the document for the new image.

        :raises InvalidInput: a value that isn't accepted, naming its element.
        """
        from ..._driver.datastore.attributes import copy_options

        options = copy_options(
            self.attributes(),
            self.document.read_choice("IMAGE/TYPE", IMAGE_TYPES),
            checksums={
                name.lower(): digest
                for name in CHECKSUMS
                for digest in [self.document.get(f"IMAGE/TEMPLATE/{name}").strip()]
                if digest
            },
            called=element_of,
        )
        # The FORMAT may describe the content of a compressed appliance from a marketplace. So raw doesn't force the
        # format of the image.
        any_content = self.document.get("IMAGE/FORMAT").strip().lower() == "raw"
        return records.replace(options, any_content=any_content, measure=False)  # the result has no size

    def attributes(self) -> dict[str, str]:
        """Return the attributes of the datastore that control how the driver creates images."""
        return {name: self.document.get(element_of(name)) for name in COPY_ATTRIBUTES if self._class.info.attributes}

    def flag(self, name: str) -> bool:
        from ..._driver.datastore.attributes import flag

        return flag(self.attributes(), name)

    def cp(self) -> None:
        self._copy_image(lambda driver: driver.cp(self.document.require("IMAGE/PATH"), self.copy_options()))

    def clone(self) -> None:
        document = self.document
        self._copy_image(
            lambda driver: driver.clone(
                document.require("IMAGE/PATH"), document.get("IMAGE/FORMAT") or None, self.copy_options()
            )
        )

    def _copy_image(self, copy: Callable[[DatastoreDriver], CopiedImage]) -> None:
        driver = self.make_reading_driver()
        copied = copy(driver)
        self._return_image(driver, copied.source, f"{require_no_blanks('IMAGE/PATH', copied.source)} {copied.format}\n")
        for warning in copied.warnings:
            log(warning)

    def mkfs(self) -> None:
        driver = self.make_reading_driver()
        document = self.document
        image_format = document.require("IMAGE/FORMAT")
        source = driver.mkfs(
            document.read_number("IMAGE/SIZE"),
            image_format,
            document.get("IMAGE/FS") or None,
            sparse=self.flag("sparse"),
        )
        self._return_image(driver, source, f"{source}\n")

    @staticmethod
    def _return_image(driver: DatastoreDriver, source: str, text: str) -> None:
        try:
            write_result(text)
        except VmstoreError:
            # A front-end without the result would never remove the image.
            driver.rm(source)
            raise

    def rm(self) -> None:
        self.make_driver().rm(self.document.require("IMAGE/SOURCE"))

    def stat(self) -> None:
        # A front-end doesn't pass the image's FORMAT here, so only cp can refuse other files.
        size = self.make_reading_driver().stat(
            self.document.require("IMAGE/PATH"), no_decompress=self.flag("no_decompress"), any_content=True
        )
        write_result(f"{size}\n")

    def monitor(self) -> None:
        driver = self.make_driver(timeout=MONITOR_TIMEOUT)
        try:
            capacity = driver.monitor()
        except NotFound:
            driver.prepare()  # monitor is the first action of a new datastore
            capacity = driver.monitor()
        write_result(f"USED_MB={capacity.used_mb}\nFREE_MB={capacity.free_mb}\nTOTAL_MB={capacity.total_mb}\n")

    def snap_delete(self) -> None:
        self.make_driver().snap_delete(*self._snapshot())

    def snap_flatten(self) -> None:
        self.make_driver().snap_flatten(*self._snapshot())

    def snap_revert(self) -> None:
        self.make_driver().snap_revert(*self._snapshot())

    def _snapshot(self) -> tuple[str, str, int]:
        document = self.document
        return (
            document.require("IMAGE/SOURCE"),
            document.require("IMAGE/FORMAT"),
            document.read_number("IMAGE/TARGET_SNAPSHOT"),
        )

    def increment_flatten(self) -> None:
        self.make_driver().require("increment_flatten")

    def export(self) -> None:
        found = self.make_driver().export(
            self.document.require("IMAGE/SOURCE"), self.document.get("IMAGE/FORMAT") or None
        )
        elements = {
            "IMPORT_SOURCE": found.source,
            "MD5": found.md5,
            "SIZE": self.document.read_number("IMAGE/SIZE"),
            "FORMAT": found.format,
            "DISPOSE": "NO",
        }
        inner = "".join(f"<{name}>{escape(str(value))}</{name}>" for name, value in elements.items())
        write_result(f"<IMPORT_INFO>{inner}</IMPORT_INFO>\n")


__all__ = ["DatastoreAction"]
