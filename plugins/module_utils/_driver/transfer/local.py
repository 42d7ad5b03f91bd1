# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The ``local`` transfer driver: disks are on the hosts, and qcow2 disks consist of layers (design: transfers).

It also serves images of ``shared`` and ``qcow2`` in a system datastore of the hosts (spec: storage-driver, "Mixed
Transfer modes").
"""

from __future__ import annotations

from .base import TransferInfo
from .ssh import SshTransferDriver


class LocalTransferDriver(SshTransferDriver):
    info = TransferInfo("local")

    _makes_layers = True
    _copies_whole = False


__all__ = ["LocalTransferDriver"]
