# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection. The option of every module that uses the catalog of the front-end.

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  catalog:
    description:
      - Path of the catalog, an SQLite database on the front-end with all datastores, images and attachments.
      - The catalog must be on a local disk, because file locks of network file systems are not reliable.
      - Root reads and writes the catalog with the rights of the owner of its directory. The file must belong to the
        same owner.
    type: path
    default: /var/lib/one/vmstore/catalog.sqlite
"""
