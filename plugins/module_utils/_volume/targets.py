# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The names and places of disks in the guest."""

from __future__ import annotations

import itertools
import string
from collections.abc import Collection, Iterator, Sequence

from .._libvirt.devices.disk import BUSES
from .._libvirt.devices.volume_disk import ScsiAddress
from .connection import ConnectedDisk
from .facts import DomainFacts


def letters_of(index: int) -> str:
    """Return the letters for the place ``index`` in a row of targets: ``a`` to ``z``, ``aa``, ``ab`` and so on."""
    letters = ""
    number = index + 1
    while number:
        number, rest = divmod(number - 1, len(string.ascii_lowercase))
        letters = string.ascii_lowercase[rest] + letters
    return letters


def index_of(letters: str) -> int:
    """Return the place in a row of targets for its letters. This is the inverse of :func:`letters_of`."""
    number = 0
    for letter in letters:
        number = number * len(string.ascii_lowercase) + string.ascii_lowercase.index(letter) + 1
    return number - 1


def choose_targets(disks: Sequence[ConnectedDisk], facts: DomainFacts) -> dict[str, str]:
    """Return the target names of disks by their names.

    A disk keeps its target as long as the disk stays on the same kind of bus. A new disk gets the first free letters.
    """
    kept = {
        disk.name: facts.targets[disk.name]
        for disk in disks
        if disk.name in facts.targets and _is_on_bus(facts.targets[disk.name], disk.bus)
    }
    used = {*kept.values(), *facts.other_targets}
    free = {prefix: _free_targets(prefix, used) for prefix in BUSES.values()}
    return {disk.name: kept.get(disk.name) or next(free[BUSES[disk.bus]]) for disk in disks}


def _is_on_bus(target: str, bus: str) -> bool:
    prefix = BUSES[bus]
    return target.startswith(prefix) and target[len(prefix) :].isalpha() and target.islower()


def _free_targets(prefix: str, used: Collection[str]) -> Iterator[str]:
    targets = (prefix + letters_of(index) for index in itertools.count())
    return (target for target in targets if target not in used)


def choose_scsi_addresses(
    disks: Sequence[ConnectedDisk], targets: dict[str, str], facts: DomainFacts
) -> dict[str, ScsiAddress]:
    """Return the places on the SCSI controller by the names of disks.

    The unit is the place of the target's letters, as in KubeVirt. If another device has that unit, the disk gets the
    first unit that nothing else has.
    """
    scsi = [disk for disk in disks if disk.bus == "scsi"]
    units = {disk.name: index_of(targets[disk.name][len(BUSES["scsi"]) :]) for disk in scsi}
    used = {*units.values(), *facts.other_scsi_units}
    for name, unit in units.items():
        if unit in facts.other_scsi_units:
            units[name] = next(number for number in range(len(used) + 1) if number not in used)
            used.add(units[name])
    return {name: ScsiAddress(facts.scsi_controller, unit) for name, unit in units.items()}


__all__ = ["choose_scsi_addresses", "choose_targets", "index_of", "letters_of"]
