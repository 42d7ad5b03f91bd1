# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Virtiofs mounts of a guest: the options of the modules ``virtiofs_mount`` and ``virtiofs_mount_info``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..._core.arguments import ArgumentSpec
from ..._core.paths import absolute
from ..._host.mount.virtiofs import Virtiofs
from ..directory import read_mode
from .info import list_mounts
from .mount import MountService, MountSpec

VIRTIOFS_MOUNT_SPEC = ArgumentSpec(
    {
        "path": {"type": "str", "required": True},
        "tag": {"type": "str"},
        "options": {"type": "list", "elements": "str", "default": []},
        "nofail": {"type": "bool", "default": True},
        "mode": {"type": "str", "default": "0755"},
        "state": {"type": "str", "choices": ["mounted", "present", "unmounted", "absent"], "default": "mounted"},
    },
    required_if=[["state", "mounted", ["tag"]], ["state", "present", ["tag"]]],
)

VIRTIOFS_MOUNT_INFO_SPEC = ArgumentSpec({})


def build_virtiofs_mount(
    options: Mapping[str, Any], virtiofs: Virtiofs | None = None, etc: str = "/etc", proc: str = "/proc"
) -> MountService:
    """Return the service for the options of the module ``virtiofs_mount``.

    :raises InvalidInput: naming the option.
    """
    virtiofs = virtiofs or Virtiofs()
    tag = None if options["tag"] is None else virtiofs.check_source("tag", options["tag"])
    desired = MountSpec(
        path=absolute("path", options["path"]),
        source=tag,
        options=virtiofs.options.check("options", options["options"]),
        nofail=options["nofail"],
        point_mode=read_mode("mode", options["mode"]),
        state=options["state"],
    )
    return MountService(desired, virtiofs, etc, proc)


def read_virtiofs_mounts(
    virtiofs: Virtiofs | None = None, etc: str = "/etc", proc: str = "/proc"
) -> Mapping[str, object]:
    """Return every virtiofs mount of this machine, live or in fstab, and the machine's tags."""
    virtiofs = virtiofs or Virtiofs()
    return {
        "mounts": list_mounts(virtiofs, etc, proc),
        "tags": virtiofs.available_tags(),
        "supported": virtiofs.is_supported(),
    }


__all__ = ["VIRTIOFS_MOUNT_INFO_SPEC", "VIRTIOFS_MOUNT_SPEC", "build_virtiofs_mount", "read_virtiofs_mounts"]
