# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection. The options that name a simulated datastore.

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  executable:
    description:
      - The program. The role P(granary.vmstore.simulated_datastore#role) puts its name into C(/usr/local/bin).
    type: path
    default: simulated-datastore
  name:
    description: Name of the simulated datastore.
    type: str
    required: true
"""
