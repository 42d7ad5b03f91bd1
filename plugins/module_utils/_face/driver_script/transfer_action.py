# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The actions of a transfer driver: ``<remotes>/tm/<tm_mad>/<action> <arguments>`` (spec: storage-driver, "TM Drivers
Structure"). All that the arguments lack comes from the front-end. The actions of a migration get the VM on standard
input.
"""

from __future__ import annotations

import os

from ..._core.digits import is_decimal
from ..._core.errors import InvalidInput, UnsupportedAction
from ..._core.paths import absolute
from ..._core.records import TYPE_CHECKING
from ..._driver.transfer.base import MIGRATION_ACTIONS, TRANSFER_ACTIONS
from ..._driver.transfer.registry import TRANSFER_DRIVERS, transfer_class
from ..._image.vm_directory import parse_disk_path
from ..._model.names import check_host
from ..._model.place import Place, parse_place
from .output import log

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import IO, Any

#: Upper bound of a number in an argument in decimal digits.
LONGEST_NUMBER = 18


def _read_number(option: str, text: str) -> int:
    """Return the number in an argument.

    :raises InvalidInput: the argument isn't a whole number from 0 on.
    """
    if not is_decimal(text, LONGEST_NUMBER):
        raise InvalidInput(option, text, "a whole number is expected")
    return int(text)


def _read_snapshot(option: str, text: str) -> int | None:
    """Return the number of a snapshot. ``-1`` stands for the current data of the disk, and is returned as ``None``."""
    return None if text == "-1" else _read_number(option, text)


def _read_disk(option: str, text: str) -> Place:
    """Return the place of a disk of a VM.

    :raises InvalidInput: the argument is another one.
    """
    place = parse_place(option, text)
    parse_disk_path(place.path, option=option)
    return place


def _read_disk_or_directory(option: str, text: str) -> Place:
    """Return the place of a disk of a VM, or of the directory of a VM.

    :raises InvalidInput: the argument is another one.
    """
    place = parse_place(option, text)
    parse_disk_path(place.path, option=option, directory=True)
    return place


def _read_directory(option: str, text: str) -> str:
    """Return the path of the directory of a VM.

    :raises InvalidInput: the argument is another one.
    """
    path = parse_disk_path(text, option=option, directory=True)
    if path.name:
        raise InvalidInput(option, text, "a path that ends in <datastore id>/<vm id> is expected")
    return path.path


def _read_text(_option: str, text: str) -> str:
    return text


#: The arguments of each action by name, each with the function that reads the argument. The last argument of the
#: contract, the id of the datastore, isn't passed to the driver.
_VM: dict[str, Callable[[str, str], Any]] = {"vm_id": _read_number, "ds_id": _read_number}
_DISK: dict[str, Callable[[str, str], Any]] = {"host:disk": _read_disk}
_SNAPSHOT: dict[str, Callable[[str, str], Any]] = {**_DISK, "snapshot_id": _read_number, **_VM}
_IMAGE: dict[str, Callable[[str, str], Any]] = {"frontend:image": parse_place, **_DISK, **_VM}
ARGUMENTS: Mapping[str, Mapping[str, Callable[[str, str], Any]]] = {
    "clone": _IMAGE,
    "ln": _IMAGE,
    "mvds": {**_DISK, "image": absolute, **_VM},
    "cpds": {**_DISK, "image": absolute, "snapshot_id": _read_snapshot, **_VM},
    "mv": {"source_host:path": _read_disk_or_directory, "target_host:path": _read_disk_or_directory, **_VM},
    "snap_create": _SNAPSHOT,
    "snap_create_live": _SNAPSHOT,
    "snap_delete": _SNAPSHOT,
    "snap_revert": _SNAPSHOT,
    "context": {**_DISK, **_VM},
    "delete": {"host:path": _read_disk_or_directory, **_VM},
    "mkimage": {"size": _read_number, "format": _read_text, **_DISK, **_VM},
    "mkswap": {"size": _read_number, **_DISK, **_VM},
    "resize": {**_DISK, "size": _read_number, **_VM},
    **dict.fromkeys(
        MIGRATION_ACTIONS,
        {"source_host": check_host, "target_host": check_host, "directory": _read_directory, **_VM},
    ),
}


def run_transfer(remotes: str, mad: str, name: str, arguments: Sequence[str], stdin: IO[bytes]) -> None:
    """Run an action of a transfer driver.

    :arg remotes: the front-end's directory of remotes.
    :arg name: the action. In mixed mode, the transfer driver of the system datastore follows after a dot.
    :arg stdin: standard input, with the VM for an action of a migration.
    :raises VmstoreError: the action failed.
    """
    action, _dot, system_driver = name.partition(".")
    if action not in TRANSFER_ACTIONS:
        raise UnsupportedAction(
            f"There is no action {action!r}: the script's name has to be one of {', '.join(TRANSFER_ACTIONS)}."
        )
    if mad not in TRANSFER_DRIVERS:
        raise UnsupportedAction(
            f"There is no transfer driver {mad!r}: the name of the script's directory has to be one of "
            f"{', '.join(TRANSFER_DRIVERS)}."
        )
    from .configuration import read_settings
    from .front_end import FrontEnd

    values = _read_arguments(action, arguments)
    make_driver = transfer_class(mad, system_driver or None)
    front_end = FrontEnd(os.environ)
    driver = make_driver(front_end, read_settings(remotes), system_driver=system_driver or None, log=log)
    if action in MIGRATION_ACTIONS:
        from .migration import run_migration

        run_migration(f"{remotes}/tm", driver, action, arguments, values, front_end, stdin)
    else:
        getattr(driver, action)(*values)


def _read_arguments(action: str, arguments: Sequence[str]) -> list[Any]:
    """Return the values of the arguments without the last one. The files of ``context`` are one value.

    :raises InvalidInput: an argument is invalid, or their number is.
    """
    readers = ARGUMENTS[action]
    values: list[Any] = []
    if action == "context":
        files, arguments = arguments[: -len(readers)], arguments[-len(readers) :]
        values.append(dict(map(_read_file, files)))
    if action in MIGRATION_ACTIONS and len(arguments) == len(readers) + 1:
        arguments = arguments[:-1]
    if len(arguments) != len(readers):
        usage = " ".join(["file..."] * (action == "context") + [*readers])
        raise InvalidInput("arguments", " ".join(arguments), f"{action} {usage} is expected")
    values += [read(option, text) for (option, read), text in zip(readers.items(), arguments)]
    return values[:-1]


def _read_file(text: str) -> tuple[str, str]:
    """Return a file's name in the image, and its path. The argument is the path, perhaps with a colon and the name,
    which may be between single quotes.
    """
    path, colon, name = text.partition(":")
    path = absolute("file", path)
    return (name.strip("'") if colon else os.path.basename(path)), path


__all__ = ["ARGUMENTS", "run_transfer"]
