# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Files that libvirt's domains have as disks, or start from, whoever gave them to the domains."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence

from .._core.errors import NotFound
from .connection import Hypervisor
from .domain_xml import parse

#: Where a domain's XML names files (https://libvirt.org/formatdomain.html): also those that a disk is based on, or is copied to.
_FILES = (".//disk//source", ".//os/kernel", ".//os/initrd")


def files_of_domains(uri: str) -> Mapping[str, Sequence[str]]:
    """The names of the domains, running or defined, by the paths of their files. Links are resolved.

    :raises LibvirtFailed: libvirt isn't here, or doesn't answer.
    """
    found: dict[str, list[str]] = defaultdict(list)
    for domain in Hypervisor(uri).domains():
        try:
            texts = (domain.persistent_xml() if domain.is_persistent else None, domain.running_xml(), domain.saved_xml())
        except NotFound:  # it has just been removed
            continue
        for path in sorted({os.path.realpath(path) for text in texts if text for path in disk_files(text)}):
            found[path].append(domain.name)
    return found


def disk_files(text: str) -> list[str]:
    """The files in a domain's XML."""
    tree = parse(text)
    elements = [element for place in _FILES for element in tree.iterfind(place)]
    return [path for element in elements for path in (element.get("file"), element.get("dev"), element.text) if path and path.startswith("/")]


__all__ = ["disk_files", "files_of_domains"]
