# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The operations of transfer drivers on the host that has the disk."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any

from ..._core.directory import exists_at, opened_directory
from ..._core.errors import Conflict, NotFound, os_errors
from ..._core.files import replace_file
from ..._core.records import dataclass
from ..._image.image_files import files_in, owner_like
from ..._image.new_image import new_image
from ..._image.snapshots import merge
from ..._image.vm_directory import DiskPath, opened_system_datastore, parse_disk_path
from ..._image.vm_disk import DiskRecord, OpenDisk, check_image, opened_disk, unchanged
from ..._image.vm_disk_data import copy_disk, describe_disk, grow_disk
from ..._image.vm_disk_new import clone_image, foresee_merge, link_image, make_disk
from ..._image.vm_disk_snapshots import create_snapshot, delete_snapshot, revert_snapshot
from ..._image.vm_lock import locked_disk
from ..._image.vm_removal import remove, remove_disk_at, remove_directory_at, require_unused_at
from ..._remote.staging import Staging
from ..._remote.tree import Source, Tree
from .arrival import Arrival
from .disk_source import FilesSource, disk_source
from .local_peer import Target, copy_tree
