# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The users of images on this host: programs that have a file of an image open, and domains of libvirt."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Mapping, Sequence

from ..._core.errors import LibvirtFailed, VmstoreError
from ..._image.layout import SNAPSHOTS

#: The description of an unknown program that has QEMU's locks on an image.
LOCKED = "a program such as QEMU, perhaps on another host that shares it"


class ImageUsers:
    """The users of the images in ``directory``. The host is queried once.

    :arg log: is called with a line if domains can't be read.
    """

    def __init__(self, directory: str, log: Callable[[str], object]) -> None:
        self._directory = os.path.realpath(directory)
        self._log = log

    def names(self, *, is_running: bool) -> set[str]:
        """Return the names of the images that have users. Images that only have QEMU's locks are left out.

        :arg is_running: see :meth:`of`.
        """
        return {*self._programs, *({} if is_running else self._domains)}

    def of(self, path: str, *, is_running: bool) -> Sequence[str]:
        """Return descriptions of the users of the image ``path``.

        :arg is_running: whether to return only programs that have the image open now.
        """
        from ..._image.image_file import opened_file
        from ..._image.snapshots import data_file
        from ..._image.still import is_used

        name = os.path.basename(path)
        programs = list(self._programs.get(name, ()))
        with contextlib.suppress(VmstoreError):  # the image has no data
            if not programs:
                with opened_file(data_file(path)) as descriptor:
                    programs += [LOCKED] * is_used(descriptor)
        return (*(() if is_running else self._domains.get(name, ())), *programs)

    @functools.cached_property
    def _programs(self) -> Mapping[str, Sequence[str]]:
        """Return descriptions of programs by the name of the image."""
        from ..._host.open_files import open_files

        return self._by_image(open_files(self._directory))

    @functools.cached_property
    def _domains(self) -> Mapping[str, Sequence[str]]:
        """Return descriptions of this host's libvirt domains by the name of the image."""
        from ..._libvirt.devices.disk_files import files_of_local_domains

        try:
            found = files_of_local_domains()
        except LibvirtFailed as error:  # libvirt may be missing, or refuse this user
            self._log(f"domains are not looked at: {error}")
            return {}
        return self._by_image(
            {file: [f"libvirt's domain {domain!r}" for domain in domains] for file, domains in found.items()}
        )

    def _by_image(self, files: Mapping[str, Sequence[str]]) -> Mapping[str, Sequence[str]]:
        """Return the users of each file by the name of the file's image."""
        prefix = f"{self._directory}/"
        found: dict[str, list[str]] = {}
        for file, users in files.items():
            if file.startswith(prefix):
                known = found.setdefault(file[len(prefix) :].partition("/")[0].partition(SNAPSHOTS)[0], [])
                known += [user for user in users if user not in known]
        return found


__all__ = ["LOCKED", "ImageUsers"]
