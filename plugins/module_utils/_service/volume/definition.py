# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The devices of a declaration in the definition of a domain. Everything else in the definition stays as it is."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Collection

from ..._core.plan import Action
from ..._core.records import replace
from ..._libvirt.connection import Domain
from ..._libvirt.devices.alias import name_of
from ..._libvirt.devices.io_threads import count_io_threads, set_io_threads
from ..._libvirt.devices.metrics_channel import create_metrics_channel, find_metrics_channel, is_own_channel
from ..._libvirt.devices.scsi import create_scsi_controller, find_scsi_controller
from ..._libvirt.devices.volume_disk import (
    PLACE,
    VolumeDisk,
    create_volume_disk,
    read_volume_disk,
    volume_disks,
    write_volume_disk,
)
from ..._libvirt.devices.volume_record import VolumeRecord, read_record, record_running, write_record
from ..._libvirt.domain_xml import devices as devices_of
from ..._libvirt.domain_xml import require_child
from ..._libvirt.edit import DefinitionEdit
from ..._volume.conversion import DomainDevices
from .domain_facts import format_cpu_set, parse_cpu_set
from .same_data import differences


def edit_definition(
    edit: DefinitionEdit, devices: DomainDevices, record: VolumeRecord, *, scsi_controller: int, other_io_threads: int
) -> None:
    """Give the definition exactly the devices of a declaration.

    :arg record: the new record. It has the filesystems, too, which are devices of another service.
    :arg scsi_controller: the index of the controller for disks on SCSI.
    :arg other_io_threads: the number of threads for input and output that other devices need.
    """
    old = read_record(edit.root)
    wanted = {disk.name: disk for disk in devices.disks}
    for element, disk in list(volume_disks(edit.root)):
        if disk.name in old.names and disk.name not in wanted:
            edit.remove_device(element)
    if devices.scsi_model is not None and find_scsi_controller(edit.root) is None:
        edit.add_device(create_scsi_controller(str(scsi_controller), devices.scsi_model))
    for disk in devices.disks:
        _edit_disk(edit, disk)
    threads = devices.io_threads
    if threads.count and (threads.pins or count_io_threads(edit.root) != threads.count):
        # libvirt writes sets in its own form, and would seem to change others.
        pins = {number: format_cpu_set(parse_cpu_set(pin)) for number, pin in threads.pins.items()}
        set_io_threads(edit.root, threads.count, pins)
    elif not threads.count and old.io_threads and count_io_threads(edit.root) == old.io_threads:
        set_io_threads(edit.root, other_io_threads, {})
    _edit_channel(edit, is_wanted=devices.has_metrics_port)
    _edit_boot_devices(edit.root)
    write_record(edit.root, record)


def _edit_disk(edit: DefinitionEdit, disk: VolumeDisk) -> None:
    element = next((one for one in devices_of(edit.root).findall("disk") if name_of(one) == disk.name), None)
    if element is None:
        edit.add_device(create_volume_disk(disk))
        return
    changed = set(differences(disk, read_volume_disk(element)))
    if changed & PLACE:
        edit.remove_device(element)
        edit.add_device(create_volume_disk(disk))
    elif changed:
        write_volume_disk(element, disk)
        edit.allow_additions(element)


def _edit_channel(edit: DefinitionEdit, *, is_wanted: bool) -> None:
    """Give the definition a port for metrics, or take away the one that an earlier run has made."""
    element = find_metrics_channel(edit.root)
    if element is None and is_wanted:
        edit.add_device(create_metrics_channel())
    elif element is not None and not is_wanted and is_own_channel(element):
        edit.remove_device(element)


def _edit_boot_devices(root: ET.Element) -> None:
    """Let the boot orders of devices replace the list of boot devices, because libvirt accepts only one of both.

    Without any order, a hard disk is the boot device, which is libvirt's default.
    """
    system = require_child(root, "os")
    listed = system.findall("boot")
    if devices_of(root).find("*/boot[@order]") is not None:
        for element in listed:
            system.remove(element)
    elif not listed and system.find("kernel") is None and system.findtext("type") == "hvm":
        ET.SubElement(system, "boot", {"dev": "hd"})


def forget_data_volumes(domain: Domain, names: Collection[str]) -> None:
    """Remove images that don't exist any more from the record of a domain.

    :raises StaleState: another program changes the definition at the same time. The next purge removes the names.
    """
    edit = DefinitionEdit(domain)
    record = read_record(edit.root)
    write_record(edit.root, replace(record, data_volumes=record.data_volumes.difference(names)))
    if edit.is_change:
        edit.apply()


def definition_action(edit: DefinitionEdit, recorded: Collection[str]) -> Action:
    """Return the action that defines the domain.

    :arg recorded: the names that the definition records now. A running domain records them first, because it can keep
        devices that the definition loses.
    """

    def define() -> None:
        record_running(edit.domain, recorded)
        edit.apply()

    before, after = edit.differing_elements()
    return Action("change definition", f"domain {edit.domain.name!r}", before, after, define, edit.undo)


__all__ = ["definition_action", "edit_definition", "forget_data_volumes"]
