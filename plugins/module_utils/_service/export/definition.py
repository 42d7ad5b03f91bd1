# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The device of an export in the definition of a domain."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Callable

from ..._core.errors import Conflict, InvalidInput
from ..._core.plan import Action
from ..._host.shared_directory import HeldDirectory
from ..._libvirt.connection import Domain
from ..._libvirt.devices.cdrom import cdrom_of, create_cdrom
from ..._libvirt.devices.filesystem import VirtioFs, create_filesystem, filesystems, tags, write_filesystem
from ..._libvirt.devices.memory import share_memory
from ..._libvirt.edit import DefinitionEdit
from .domains import HostDomains, shares
from .guest_ids import GuestIds
from .options import ExportSpec
from .resolve import Export


def create_device(spec: ExportSpec, export: Export, ids: GuestIds, binary: str | None) -> VirtioFs:
    """Return the device of ``export``."""
    return VirtioFs(
        tag=export.mount_tag,
        source=export.source,
        read_only=export.read_only,
        uid_map=ids.uid_map,
        gid_map=ids.gid_map,
        binary=binary,
        cache=spec.cache,
        queue=spec.queue,
        xattr=spec.xattr,
        sandbox=spec.sandbox,
        thread_pool=spec.thread_pool,
    )


def complete_device(device: VirtioFs, export: Export, domain: str, root: ET.Element) -> VirtioFs:
    """Return ``device`` with the tunables that the definition ``root`` has and the user leaves out.

    :arg domain: name of the domain.
    :raises Conflict: the domain has the directory with another mount tag, or the tag with another directory.
    :raises InvalidInput: ids can't be mapped in this sandbox.
    """
    completed = device.complete_from(_find_current(export, domain, root))
    if completed.uid_map and completed.sandbox == "chroot":
        raise InvalidInput("sandbox", "chroot", "ids are mapped in the sandbox 'namespace' only, which is expected")
    return completed


def _find_current(export: Export, domain: str, root: ET.Element) -> VirtioFs | None:
    found = None
    for _element, other in filesystems(root):
        if shares(other, export.source):
            if other.tag != export.mount_tag:
                raise Conflict(
                    f"The domain {domain!r} exports {export} already, with the mount tag {other.tag!r}, and can have "
                    f"it only once; remove that export (state: absent) to have it as {export.mount_tag!r}."
                )
            found = other
    if found is None and export.mount_tag in tags(root):
        raise Conflict(
            f"mount_tag: {export.mount_tag!r} belongs to {tags(root)[export.mount_tag]!r} in the domain {domain!r}."
        )
    return found


def check_other_domains(export: Export, domains: HostDomains) -> None:
    """Refuse a second writer of an image's directory, because two images may have one directory.

    :raises Conflict: a domain of this host can write to the directory too.
    """
    if export.attachment is None or export.read_only:
        return
    for name, device in domains.foreign:
        if shares(device, export.source) and not device.read_only:
            kind = "persistent" if export.attachment.persistent else "not read-only"
            raise Conflict(
                f"The image {export.image!r} is {kind} and the domain {name!r} on this host exports {export.source!r} "
                f"writable with the mount tag {device.tag!r}; only one domain can write, so give one of them an image "
                "that is read-only."
            )


def definition_action(
    edit: DefinitionEdit, device: VirtioFs, directory: HeldDirectory, seed: str | None
) -> Action | None:
    """Return the action that defines the domain with ``device``; ``None`` where the definition has it already.

    :arg directory: the exported directory, which must be the same when the action runs.
    :arg seed: the image that a CD-ROM drive of the domain has to hold.
    """
    element = next((element for element, found in filesystems(edit.root) if found.tag == device.tag), None)
    verb = "add" if element is None else "change"
    if element is None:
        edit.add_device(create_filesystem(device))
    else:
        write_filesystem(element, device)
        edit.allow_additions(element)
    share_memory(edit.root)
    if seed is not None and cdrom_of(edit.root, seed) is None:
        edit.add_device(create_cdrom(edit.root, seed))

    def define() -> None:
        directory.check_same()
        edit.apply()

    return _action(f"{verb} virtiofs device", edit, define) if edit.is_change else None


def removal_action(domain: Domain, is_unwanted: Callable[[VirtioFs], bool]) -> tuple[Action | None, set[str]]:
    """Return the action that takes devices out of the definition of a domain, and the mount tags of these devices."""
    if not domain.is_persistent:
        return None, set()
    edit = DefinitionEdit(domain)
    found = [(element, device.tag) for element, device in filesystems(edit.root) if is_unwanted(device)]
    for element, _tag in found:
        edit.remove_device(element)
    action = _action("remove virtiofs device", edit, edit.apply) if found else None
    return action, {tag for _element, tag in found}


def _action(name: str, edit: DefinitionEdit, record: Callable[[], None]) -> Action:
    before, after = edit.differing_elements()
    return Action(name, f"domain {edit.domain.name!r}", before, after, record, edit.undo)


__all__ = ["check_other_domains", "complete_device", "create_device", "definition_action", "removal_action"]
