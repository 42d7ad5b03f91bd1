# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The command ``<remotes>/datastore/<ds_mad>/<action> <id>`` that a front-end runs (spec: storage-driver, "Datastore
Drivers Structure").

The document comes from standard input, and the result goes to standard output. On standard error, lines that begin with
``INFO: `` are for the log. One other line is the message for the user. A process runs one action, so each action
imports only the modules that it needs.
"""

from __future__ import annotations

import os
import sys

from ..._core import records
from ..._core.descriptors import open_standard_descriptors
from ..._core.errors import NotFound, UnsupportedAction, VmstoreError, from_os_error, os_errors
from ..._core.records import TYPE_CHECKING
from ..._core.signals import SIGTERM, signal
from ..._core.words import FRONT_END
from ..._driver.datastore.base import COPY_ATTRIBUTES, CopiedImage, CopyOptions, DatastoreDriver, Settings
from ..._driver.info import CONTRACT_ACTIONS
from ..._driver.registry import DATASTORE_DRIVERS, class_for
from .datastore_document import element_of, read_datastore, require_no_blanks
from .document import Document, read_document
from .elements import escape

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import IO, Any

#: Upper bound of the time to read the capacity of a file system in seconds.
MONITOR_TIMEOUT = 30

#: Types of images. The number in the element IMAGE/TYPE is an index of these.
IMAGE_TYPES = ("os", "cdrom", "datablock", "kernel", "ramdisk", "context", "backup", "filesystem")

#: Elements of an image's template that hold a digest, named by the algorithm in capitals.
CHECKSUMS = ("MD5", "SHA1", "SHA256", "SHA512")


class Action:
    """A run of an action."""

    def __init__(self, remotes: str, driver: str, document: Document) -> None:
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


def write_result(text: str) -> None:
    """Write the whole result to standard output.

    :raises VmstoreError: the result can't be written.
    """
    try:
        with open(1, "wb", closefd=False) as stdout:
            stdout.write(text.encode())
    except OSError as error:
        raise from_os_error(error, "answer on standard output") from error


def log(text: str) -> None:
    _write_line(f"INFO: {_as_line(text)}")


def _write_line(line: str) -> None:
    try:
        os.write(2, f"{line}\n".encode(errors="backslashreplace"))
    except OSError:
        return  # the action succeeded, even if nobody reads its log


def _as_line(text: str) -> str:
    """Return ``text`` as one printable line."""
    return "".join(character if character.isprintable() else "?" for character in " ".join(text.splitlines()))


def run(argv: Sequence[str], stdin: IO[bytes]) -> None:
    """Run the action that ``argv[0]`` names.

    :raises VmstoreError: the action failed and changed nothing.
    """
    script = os.path.abspath(argv[0])
    directory, action = os.path.split(script)
    datastore_directory, mad = os.path.split(directory)
    if action not in CONTRACT_ACTIONS:
        raise UnsupportedAction(
            f"There is no action {action!r}: the script's name has to be one of {', '.join(CONTRACT_ACTIONS)}."
        )
    if mad not in DATASTORE_DRIVERS:
        raise UnsupportedAction(
            f"There is no datastore driver {mad!r}: the name of the script's directory has to be "
            f"{' or '.join(DATASTORE_DRIVERS)}."
        )
    with os_errors("read the document on standard input"):
        document = read_document(stdin)
    getattr(Action(os.path.dirname(datastore_directory), mad, document), action)()


def _terminate(number: int, _frame: object) -> None:
    # The exception runs the cleanup of the action.
    raise SystemExit(128 + number)


def main(argv: Sequence[str], stdin: IO[bytes]) -> int:
    """Run the action that ``argv[0]`` names, and return the exit code."""
    signal(SIGTERM, _terminate)
    try:
        run(argv, stdin)
        return 0
    except VmstoreError as error:
        message = str(error)
    except KeyboardInterrupt:
        message = "The action was interrupted."
    except Exception as error:  # pylint: disable=broad-except  # a traceback would become the user's message
        message = f"The action failed: {type(error).__name__}: {error}"
    _write_line(_as_line(message))
    return 1


def launch() -> None:
    open_standard_descriptors()
    # All files are written and closed. The kernel frees the memory faster than the interpreter.
    os._exit(main(sys.argv, open(0, "rb", closefd=False)))


__all__ = ["Action", "launch", "main", "run"]
