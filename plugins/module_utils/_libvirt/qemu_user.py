# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The user as which QEMU runs, from the capabilities of the host (https://libvirt.org/formatcaps.html)."""

from __future__ import annotations

import re

from .connection import Hypervisor
from .domain_xml import parse

#: The types of domains with a label of their own.
_TYPES = ("kvm", "qemu")


def read_qemu_ids(hypervisor: Hypervisor) -> tuple[int, int] | None:
    """Return uid and gid of QEMU; ``None`` where QEMU runs as the user of libvirt itself.

    :raises LibvirtFailed: libvirt can't be asked.
    """
    for model in parse(hypervisor.capabilities_xml()).findall("host/secmodel"):
        if model.findtext("model") != "dac":
            continue
        for label in model.findall("baselabel"):
            found = re.fullmatch(r"\+(\d+):\+(\d+)", label.text or "")
            if found is not None and label.get("type") in _TYPES:
                return int(found[1]), int(found[2])
    return None


__all__ = ["read_qemu_ids"]
