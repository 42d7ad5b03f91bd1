# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a front-end runs as ``<remotes>/datastore/<ds_mad>/<action> <id>`` (spec: storage-driver, "Datastore Drivers
Structure").

The document comes on standard input, the result goes to standard output. On standard error, lines that begin with
``INFO: `` are for the log; one other line is the message for the user. A process runs one action, so that each imports
only what it needs.
"""

from __future__ import annotations

import os
import sys

from ..._core import records
from ..._core.descriptors import open_standard_descriptors
from ..._core.errors import InvalidInput, NotFound, UnsupportedAction, VmstoreError, from_os_error, os_errors
from ..._core.paths import absolute
from ..._core.records import TYPE_CHECKING
from ..._core.signals import SIGTERM, signal
from ..._core.words import FRONT_END
from ..._driver.datastore.base import COPY_ATTRIBUTES, CopiedImage, CopyOptions, DatastoreDriver, Settings
from ..._driver.registry import DATASTORE_DRIVERS, class_for
from ..._model.datastore import Datastore
from .document import NFS_AUTO, Document, read_document

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import IO, Any

#: Seconds for a file system to say how full it is.
MONITOR_TIMEOUT = 30

#: What the numbers in the elements TYPE stand for.
DATASTORE_TYPES = ("image", "system", "file", "backup")
IMAGE_TYPES = ("os", "cdrom", "datablock", "kernel", "ramdisk", "context", "backup", "filesystem")

#: The digests that an image's template can name, each the name of its algorithm in capitals.
CHECKSUMS = ("MD5", "SHA1", "SHA256", "SHA512")


class Action:
    """One call of a driver."""

    def __init__(self, remotes: str, driver: str, document: Document) -> None:
        self.remotes = remotes
        self.document = document
        self.datastore = datastore_of(driver, document)
        self._class = class_for(self.datastore)

    def driver(self, **options: Any) -> DatastoreDriver:
        return self._class(self.datastore, words=FRONT_END, log=log, **options)

    def reading(self) -> DatastoreDriver:
        """The driver, for an action that makes images or looks at what a user names."""
        from .secrets import secret_paths

        return self.driver(settings=self._settings(), protected=secret_paths(self.remotes, os.environ))

    def _settings(self) -> Settings:
        from .configuration import read_settings

        settings = read_settings(self.remotes)
        if settings.downloader is not None:
            # What the downloader takes from its caller's environment: not to unpack what has a checksum, and where the
            # keys of a storage are.
            os.environ.update(NO_DECOMPRESS="yes", DRV_ACTION=self.document.encoded)
        return settings

    def copy_options(self) -> CopyOptions:
        """What the document says of the image to make.

        :raises InvalidInput: a value that isn't accepted, naming its element.
        """
        from ..._driver.datastore.attributes import copy_options

        options = copy_options(
            self.attributes(),
            self.document.one_of("IMAGE/TYPE", IMAGE_TYPES),
            checksums={
                name.lower(): digest
                for name in CHECKSUMS
                for digest in [self.document.optional(f"IMAGE/TEMPLATE/{name}").strip()]
                if digest
            },
            called=element_of,
        )
        # A front-end also passes the FORMAT of a marketplace's appliance, which may be compressed. So raw changes
        # nothing about what is an image.
        any_content = self.document.optional("IMAGE/FORMAT").strip().lower() == "raw"
        return records.replace(options, any_content=any_content, measure=False)  # the answer has no size

    def attributes(self) -> dict[str, str]:
        """Those of the datastore that say how its driver makes images."""
        return {
            name: self.document.optional(element_of(name)) for name in COPY_ATTRIBUTES if self._class.info.attributes
        }

    def flag(self, name: str) -> bool:
        from ..._driver.datastore.attributes import flag

        return flag(self.attributes(), name)

    def cp(self) -> None:
        self._copied(lambda driver: driver.cp(self.document.required("IMAGE/PATH"), self.copy_options()))

    def clone(self) -> None:
        document = self.document
        self._copied(
            lambda driver: driver.clone(
                document.required("IMAGE/PATH"), document.optional("IMAGE/FORMAT") or None, self.copy_options()
            )
        )

    def _copied(self, copy: Callable[[DatastoreDriver], CopiedImage]) -> None:
        driver = self.reading()
        copied = copy(driver)
        self._made(driver, copied.source, f"{word('IMAGE/PATH', copied.source)} {copied.format}\n")
        for warning in copied.warnings:
            log(warning)

    def mkfs(self) -> None:
        driver = self.reading()
        document = self.document
        image_format = document.required("IMAGE/FORMAT")
        source = driver.mkfs(
            document.number("IMAGE/SIZE"),
            image_format,
            document.optional("IMAGE/FS") or None,
            sparse=self.flag("sparse"),
        )
        self._made(driver, source, f"{source}\n")

    @staticmethod
    def _made(driver: DatastoreDriver, source: str, text: str) -> None:
        try:
            answer(text)
        except VmstoreError:
            # A front-end that doesn't learn of an image never has it removed.
            driver.rm(source)
            raise

    def rm(self) -> None:
        self.driver().rm(self.document.required("IMAGE/SOURCE"))

    def stat(self) -> None:
        # A front-end doesn't pass an image's FORMAT here, so cp refuses what is no image.
        size = self.reading().stat(
            self.document.required("IMAGE/PATH"), no_decompress=self.flag("no_decompress"), any_content=True
        )
        answer(f"{size}\n")

    def monitor(self) -> None:
        driver = self.driver(timeout=MONITOR_TIMEOUT)
        try:
            capacity = driver.monitor()
        except NotFound:
            driver.prepare()  # the first thing that a front-end asks of a new datastore
            capacity = driver.monitor()
        answer(f"USED_MB={capacity.used_mb}\nFREE_MB={capacity.free_mb}\nTOTAL_MB={capacity.total_mb}\n")

    def snap_delete(self) -> None:
        self.driver().snap_delete(*self._snapshot())

    def snap_flatten(self) -> None:
        self.driver().snap_flatten(*self._snapshot())

    def snap_revert(self) -> None:
        self.driver().snap_revert(*self._snapshot())

    def _snapshot(self) -> tuple[str, str, int]:
        document = self.document
        return (
            document.required("IMAGE/SOURCE"),
            document.required("IMAGE/FORMAT"),
            document.number("IMAGE/TARGET_SNAPSHOT"),
        )

    def increment_flatten(self) -> None:
        self.driver().require("increment_flatten")

    def export(self) -> None:
        found = self.driver().export(
            self.document.required("IMAGE/SOURCE"), self.document.optional("IMAGE/FORMAT") or None
        )
        elements = {
            "IMPORT_SOURCE": found.source,
            "MD5": found.md5,
            "SIZE": self.document.number("IMAGE/SIZE"),
            "FORMAT": found.format,
            "DISPOSE": "NO",
        }
        inner = "".join(f"<{name}>{escaped(str(value))}</{name}>" for name, value in elements.items())
        answer(f"<IMPORT_INFO>{inner}</IMPORT_INFO>\n")


#: The actions of the contract, each a method of :class:`Action`.
ACTIONS = (
    "clone",
    "cp",
    "export",
    "increment_flatten",
    "mkfs",
    "monitor",
    "rm",
    "snap_delete",
    "snap_flatten",
    "snap_revert",
    "stat",
)

#: What is stored can always be removed.
REMOVING = ("rm", "snap_delete")


def datastore_of(driver: str, document: Document) -> Datastore:
    """The document's datastore. Its directory is kept as the front-end writes it, which puts it into the sources it
    stores.

    :raises InvalidInput: an element is missing or can't be used.
    """
    template = "DATASTORE/TEMPLATE/"
    base_path = word("DATASTORE/BASE_PATH", document.required("DATASTORE/BASE_PATH"))
    absolute("DATASTORE/BASE_PATH", base_path)
    lists = {
        name: tuple(document.optional(f"{template}{name}").split())
        for name in ("SAFE_DIRS", "RESTRICTED_DIRS", "BRIDGE_LIST")
    }
    return Datastore(
        document.number("DATASTORE/ID"),
        document.optional("DATASTORE/NAME"),
        document.one_of("DATASTORE/TYPE", DATASTORE_TYPES),
        driver,
        document.optional("DATASTORE/TM_MAD") or None,
        base_path.rstrip("/"),
        safe_dirs=tuple(absolute(f"{template}SAFE_DIRS", path) for path in lists["SAFE_DIRS"]),
        restricted_dirs=tuple(absolute(f"{template}RESTRICTED_DIRS", path) for path in lists["RESTRICTED_DIRS"]),
        bridge_list=lists["BRIDGE_LIST"],
    )


def refuse_automatic_mounts(document: Document) -> None:
    """Refuse a datastore that the drivers are to mount, because the image would end up on a local disk.

    :raises InvalidInput: naming the attribute.
    """
    enable = f"{NFS_AUTO}ENABLE"
    if document.optional(enable).strip().lower() == "no":
        return
    for path in document.beginning_with(NFS_AUTO):
        accepted = (
            "these drivers mount nothing; mount the datastore's directory on the front-end, and remove the attribute "
            "or set NFS_AUTO_ENABLE to NO"
        )
        raise InvalidInput(path, document.optional(path), accepted)


def word(element: str, text: str) -> str:
    """
    :raises InvalidInput: it has a blank; the front-end reads an answer up to the first blank, which would be another
        path.
    """
    if text.split() != [text]:
        raise InvalidInput(element, text, "a path without blanks is expected")
    return text


def element_of(attribute: str) -> str:
    """The element of the document that holds an attribute of the datastore."""
    return f"DATASTORE/TEMPLATE/{attribute.upper()}"


def escaped(text: str) -> str:
    """Return ``text`` as the content of an XML element (XML 1.0, 2.4).

    ``xml.sax.saxutils`` does the same, and loads HTTP and TLS.
    """
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def answer(text: str) -> None:
    """Write a result, all of it.

    :raises VmstoreError: nobody can read it.
    """
    try:
        with open(1, "wb", closefd=False) as stdout:
            stdout.write(text.encode())
    except OSError as error:
        raise from_os_error(error, "answer on standard output") from error


def log(text: str) -> None:
    _tell(f"INFO: {_line(text)}")


def _tell(line: str) -> None:
    try:
        os.write(2, f"{line}\n".encode(errors="backslashreplace"))
    except OSError:
        return  # nobody listens; what is done counts


def _line(text: str) -> str:
    """One line, whatever it is made of."""
    return "".join(character if character.isprintable() else "?" for character in " ".join(text.splitlines()))


def run(argv: Sequence[str], stdin: IO[bytes]) -> None:
    """
    :raises VmstoreError: the action failed and has left everything as it was.
    """
    script = os.path.abspath(argv[0])
    directory, action = os.path.split(script)
    datastore_directory, mad = os.path.split(directory)
    if action not in ACTIONS:
        raise UnsupportedAction(
            f"There is no action {action!r}: the script's name has to be one of {', '.join(ACTIONS)}."
        )
    if mad not in DATASTORE_DRIVERS:
        raise UnsupportedAction(
            f"There is no datastore driver {mad!r}: the name of the script's directory has to be "
            f"{' or '.join(DATASTORE_DRIVERS)}."
        )
    with os_errors("read the document on standard input"):
        document = read_document(stdin)
    if action not in REMOVING:
        refuse_automatic_mounts(document)
    getattr(Action(os.path.dirname(datastore_directory), mad, document), action)()


def _terminate(number: int, _frame: object) -> None:
    # What the action made is removed on the way out.
    raise SystemExit(128 + number)


def main(argv: Sequence[str], stdin: IO[bytes]) -> int:
    """Run the action that ``argv[0]`` is the script of, and return the exit code."""
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
    _tell(_line(message))
    return 1


def launch() -> None:
    open_standard_descriptors()
    # Everything is written and closed. The kernel frees the rest faster than the interpreter does, object by object.
    os._exit(main(sys.argv, open(0, "rb", closefd=False)))


__all__ = ["ACTIONS", "Action", "datastore_of", "launch", "main", "run"]
