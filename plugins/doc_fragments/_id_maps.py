# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection. The maps of ids of a virtiofs device. Each module describes which ids it maps.

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  uid_map:
    type: list
    elements: dict
    suboptions:
      start:
        description: First id in the guest.
        type: int
        default: 0
      target:
        description: First id on the host, to which O(uid_map[].start) is mapped.
        type: int
        required: true
      count:
        description: Number of ids.
        type: int
        default: 65536
  gid_map:
    type: list
    elements: dict
    suboptions:
      start:
        description: First id in the guest.
        type: int
        default: 0
      target:
        description: First id on the host, to which O(gid_map[].start) is mapped.
        type: int
        required: true
      count:
        description: Number of ids.
        type: int
        default: 65536
"""
