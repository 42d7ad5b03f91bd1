# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""This host's libvirt, which is read once for all domains of a run."""

from __future__ import annotations

import functools
from collections.abc import Mapping

from ..._libvirt.connection import Hypervisor
from ..._libvirt.qemu_user import read_qemu_ids
from .writers import read_writers


class VolumesHost:
    """The libvirt at ``uri``, and what all of its domains have in common.

    :arg read_only: opens a connection that changes nothing.
    """

    def __init__(self, uri: str, *, read_only: bool = False) -> None:
        self.uri = uri
        self._read_only = read_only

    @functools.cached_property
    def hypervisor(self) -> Hypervisor:
        return Hypervisor(self.uri, read_only=self._read_only)

    @functools.cached_property
    def version(self) -> tuple[int, int, int]:
        return self.hypervisor.version

    @functools.cached_property
    def owner(self) -> tuple[int, int] | None:
        """Return uid and gid of QEMU, who owns the files of volumes."""
        return read_qemu_ids(self.hypervisor)

    @functools.cached_property
    def writers(self) -> Mapping[str, Mapping[str, bool]]:
        """Return what :func:`read_writers` returns."""
        return read_writers(self.hypervisor)

    def forget(self) -> None:
        """Read the writers again the next time, because a domain has changed."""
        self.__dict__.pop("writers", None)


__all__ = ["VolumesHost"]
