# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The comparison of a declared disk with a disk of a domain."""

from __future__ import annotations

import os

from ..._libvirt.devices.volume_disk import VolumeDisk


def differences(wanted: VolumeDisk, found: VolumeDisk) -> list[str]:
    """Return the names of the fields in which the disk of a domain differs from the declared one.

    The path of a disk with snapshots is a link to its newest file, which a running domain names itself.
    """
    names = wanted.differences(found)
    if "layer" in names and wanted.layer is not None and found.layer is not None:
        is_same = os.path.realpath(wanted.layer.path) == os.path.realpath(found.layer.path)
        if is_same and (wanted.layer.format, wanted.layer.is_block) == (found.layer.format, found.layer.is_block):
            names.remove("layer")
    return names


__all__ = ["differences"]
