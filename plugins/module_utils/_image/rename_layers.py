# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Give the layers of an image or a disk another name, after a transfer has renamed their files."""

from __future__ import annotations

import os

from .._core.directory import is_link_at, open_file_at, sync_opened
from .._core.errors import os_errors
from .image_files import ImageFiles, files_in
from .layout import snapshot_directory, snapshot_file, snapshot_number
from .qemu_img import as_one_image, run_qemu_img
from .snapshots import TIMEOUT


def rename_layers(directory: int, path: str, old: str) -> None:
    """Let the headers of qcow2 layers, which name their backing files, follow a change of the name of the image or
    disk, durably. Headers change in place, so no program may use the files yet. A repeated call goes on.

    :arg directory: descriptor of a directory that has the files under their new names, ``<name>`` and
        ``<name>.snap/<number>``.
    :arg path: path with the new name, for messages.
    :arg old: the former name, such as ``disk.0``. The link in the directory of the layers still has it.
    :raises Conflict: a file isn't a qcow2 image, or is based on something else than a layer with the old or new name.
    :raises CommandFailed, NoSpace, FileAccessFailed: a header can't be written.
    """
    with files_in(directory, path) as files:
        if files.snapshots is None:
            return
        with os_errors(f"write {snapshot_directory(path)}"):
            former = snapshot_directory(old)
            if former != snapshot_directory(files.name) and is_link_at(files.snapshots, former):
                os.rename(
                    former, snapshot_directory(files.name), src_dir_fd=files.snapshots, dst_dir_fd=files.snapshots
                )
                sync_opened(files.snapshots)
        for number in [None, *files.numbers()]:
            if not is_link_at(*files.place(number)):
                _rename_backing(files, number, former)


def _rename_backing(files: ImageFiles, number: int | None, former: str) -> None:
    """Replace the name of the directory in the name of a backing file."""
    name = files.backing_name(number) or ""
    around, file = os.path.split(name)
    backing = snapshot_number(file)
    if os.path.basename(around) == former and backing is not None and files.has(backing):
        path = files.path(number)
        place, own = files.place(number)
        with os_errors(f"write {path}"):
            descriptor = open_file_at(place, own, os.O_RDWR)
        try:
            named = ["-u", "-F", "qcow2", "-b", snapshot_file(files.name, backing)]
            arguments = ["rebase", "-f", "qcow2", *named, "--", as_one_image([descriptor])]
            run_qemu_img(*arguments, reads={}, writes={descriptor: path}, data=0, timeout=TIMEOUT)
            with os_errors(f"write {path}"):
                os.fsync(descriptor)
        finally:
            os.close(descriptor)


__all__ = ["rename_layers"]
