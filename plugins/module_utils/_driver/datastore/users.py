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

#: The user of an image with QEMU's locks, where no program is known to have the image open.
LOCKED = "a program such as QEMU, perhaps on another host that shares it"


class ImageUsers:
    """The users of the images in ``directory``. The host is asked once.

    :arg log: gets a line if domains can't be read.
    """

    def __init__(self, directory: str, log: Callable[[str], object]) -> None:
        self._directory = os.path.realpath(directory)
        self._log = log

    def names(self, *, is_running: bool) -> set[str]:
        """Return the names of the images that have users, but for those that only have QEMU's locks.

        :arg is_running: as of :meth:`of`.
        """
        return {*self._programs, *({} if is_running else self._domains)}

    def of(self, path: str, *, is_running: bool) -> Sequence[str]:
        """Return the users of the image ``path``, in words.

        :arg is_running: whether only programs count that have the image open now.
        """
        from ..._image.image_file import opened_file
        from ..._image.snapshots import data_file
        from ..._image.still import is_used

        name = os.path.basename(path)
        programs = list(self._programs.get(name, ()))
        with contextlib.suppress(VmstoreError):  # there is no data
            if not programs:
                with opened_file(data_file(path)) as descriptor:
                    programs += [LOCKED] * is_used(descriptor)
        return (*(() if is_running else self._domains.get(name, ())), *programs)

    @functools.cached_property
    def _programs(self) -> Mapping[str, Sequence[str]]:
        """Programs by the name of the image."""
        from ..._host.open_files import open_files

        return self._by_image(open_files(self._directory))

    @functools.cached_property
    def _domains(self) -> Mapping[str, Sequence[str]]:
        """Domains of this host's libvirt by the name of the image."""
        from ..._libvirt.devices.disk_files import files_of_local_domains

        try:
            found = files_of_local_domains()
        except LibvirtFailed as error:  # a host of images needs no libvirt, and this user may not be allowed to ask
            self._log(f"domains are not looked at: {error}")
            return {}
        return self._by_image(
            {file: [f"libvirt's domain {domain!r}" for domain in domains] for file, domains in found.items()}
        )

    def _by_image(self, files: Mapping[str, Sequence[str]]) -> Mapping[str, Sequence[str]]:
        """Return the users of files by the name of the image that a file belongs to."""
        prefix = f"{self._directory}/"
        found: dict[str, list[str]] = {}
        for file, users in files.items():
            if file.startswith(prefix):
                known = found.setdefault(file[len(prefix) :].partition("/")[0].partition(SNAPSHOTS)[0], [])
                known += [user for user in users if user not in known]
        return found


__all__ = ["LOCKED", "ImageUsers"]
