# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A virtiofs device of a domain as a declared filesystem."""

from __future__ import annotations

from typing import Any

from ..._libvirt.devices.filesystem import VirtioFs
from ..._model.volume_disks import FilesystemSpec

#: The length of a queue in requests that QEMU uses where the domain has none.
_QUEUE = 128


def describe_filesystem(found: VirtioFs, *, has_texts: bool) -> dict[str, Any]:
    """Return a filesystem as plain data. Default values are left out.

    :arg has_texts: whether the directory is made of texts. The host decides then whether the guest can write.
    """
    options: dict[str, Any] = {
        "read_only": True if found.read_only and not has_texts else None,
        "cache": found.cache if found.cache != "auto" else None,
        "queue": found.queue or _QUEUE,
        "xattr": found.xattr,
        "sandbox": found.sandbox,
        "thread_pool": found.thread_pool,
        "uid_map": [one.as_dict() for one in found.uid_map] or None,
        "gid_map": [one.as_dict() for one in found.gid_map] or None,
        "allow_unmapped": None if found.uid_map or found.gid_map else True,
    }
    if options["queue"] == FilesystemSpec.queue:
        del options["queue"]
    return {"name": found.tag, "virtiofs": {name: one for name, one in options.items() if one is not None}}


__all__ = ["describe_filesystem"]
