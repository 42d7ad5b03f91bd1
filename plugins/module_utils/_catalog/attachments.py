# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The catalog's attachments. Their table is called ``vm_disk`` since the first schema."""

from __future__ import annotations

from .._model.attachment import Attachment
from .columns import MOUNT_READERS, MOUNT_WRITERS
from .table import Table

ATTACHMENTS = Table(
    "vm_disk", Attachment, key=("image_id", "host", "domain"), readers=MOUNT_READERS, writers=MOUNT_WRITERS
)

__all__ = ["ATTACHMENTS"]
