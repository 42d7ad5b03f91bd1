# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The actions of a live migration (spec: storage-driver, "premigrate", "failmigrate", "postmigrate").

A front-end calls only the script of the system datastore's transfer driver. This script calls those of the other
drivers of the VM's disks, with the name of its own driver as one more argument.
"""

from __future__ import annotations

import binascii
import os

from ..._core.errors import InvalidInput
from ..._core.records import TYPE_CHECKING
from ..._driver.transfer.registry import TRANSFER_DRIVERS
from ..._model.place import Place
from .document import STANDARD_INPUT, read_xml
from .output import log
from .vm_document import parse_vm

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import IO, Any

    from ..._driver.transfer.base import TransferDriver
    from ..._model.vm import Vm
    from .front_end import FrontEnd

#: Upper bound of the arguments of an action.
_MOST_ARGUMENTS = 6

#: Upper bound of the time of a script of another transfer driver in seconds.
_TIMEOUT = 3600.0


def run_migration(
    scripts: str,
    driver: TransferDriver,
    action: str,
    arguments: Sequence[str],
    values: Sequence[Any],
    front_end: FrontEnd,
    stdin: IO[bytes],
) -> None:
    """Run an action of a migration.

    :arg scripts: the directory with the scripts of all transfer drivers.
    :arg arguments: the arguments of the script; ``values`` are the values of those that the driver gets.
    :raises VmstoreError: the action failed.
    """
    xml = read_xml(stdin)
    vm = parse_vm(xml, STANDARD_INPUT)
    source, target, directory, vm_id = values
    if vm.id != vm_id:
        raise InvalidInput("vm_id", vm_id, f"the id of the VM on standard input is expected, {vm.id}")
    if len(arguments) == _MOST_ARGUMENTS:
        return  # the directory is that of another driver, which called this script for its disks
    front_end.give(vm)

    def run_own() -> None:
        getattr(driver, action)(source, Place(target, directory), vm_id)

    def run_others() -> None:
        for name in _find_others(scripts, vm, action):
            _call(name, [*arguments, driver.info.name], xml)

    # What an own action removes, another driver may need.
    for run_one in (run_others, run_own) if action == "postmigrate" else (run_own, run_others):
        run_one()


def _find_others(scripts: str, vm: Vm, action: str) -> list[str]:
    """Return the paths of the scripts of other transfer drivers that disks of a VM have."""
    names = dict.fromkeys(disk.tm_mad for disk in vm.disks if disk.tm_mad)
    paths = [
        os.path.join(scripts, name, action)
        for name in names
        if name not in (*TRANSFER_DRIVERS, ".", "..") and "/" not in name
    ]
    return [path for path in paths if os.access(path, os.X_OK)]


def _call(script: str, arguments: Sequence[str], xml: bytes) -> None:
    from ..._core.command import run

    log(f"{script} {' '.join(arguments)}")
    run([script, *arguments], stdin=binascii.b2a_base64(xml).decode(), timeout=_TIMEOUT)


__all__ = ["run_migration"]
