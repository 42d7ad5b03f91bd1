# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The names of backing files in the headers of qcow2 layers, which follow a change of the name or the use of their
image.
"""

from __future__ import annotations

import os

from .._core.directory import is_link_at, opened_file_at, sync_opened
from .._core.errors import os_errors
from .image_files import ImageFiles, files_in
from .layout import snapshot_directory, snapshot_number
from .qemu_img import as_one_image, run_qemu_img
from .snapshots import TIMEOUT
from .still import require_unused


def rename_layers(directory: int, path: str, old: str) -> None:
    """Let the headers of qcow2 layers follow a change of the name of the image or disk, durably. A repeated call goes
    on.

    :arg directory: descriptor of a directory that has the files under their new names, ``<name>`` and
        ``<name>.snap/<number>``. No other program may use it, because headers change in place.
    :arg path: path with the new name, for messages.
    :arg old: the former name, such as ``disk.0``. The link in the directory of the layers still has it.
    :raises Conflict: a file isn't a qcow2 image, or is based on something else than a layer with the old or new name.
    :raises CommandFailed, NoSpace, FileAccessFailed: a header can't be written.
    """
    with files_in(directory, path) as files:
        if files.snapshots is None:
            return
        former, new = snapshot_directory(old), snapshot_directory(files.name)
        with os_errors(f"write {snapshot_directory(path)}"):
            if former != new and is_link_at(files.snapshots, former):
                os.rename(former, new, src_dir_fd=files.snapshots, dst_dir_fd=files.snapshots)
                sync_opened(files.snapshots)
        set_backing_directory(files, new, former)


def set_backing_directory(files: ImageFiles, around: str, former: str) -> None:
    """Let the names of all backing files among the layers begin with the directory ``around``.

    :arg former: former name of the directory of the layers, without its path.
    :raises Conflict: a program uses a file that would change, or see :func:`rename_layers`.
    :raises CommandFailed, NoSpace, FileAccessFailed: a header can't be written.
    """
    numbers = [number for number in [None, *files.numbers()] if not is_link_at(*files.place(number))]
    for number in numbers:
        directory, name = os.path.split(files.backing_name(number) or "")
        backing = snapshot_number(name)
        is_layer = backing is not None and files.has(backing) and os.path.basename(directory) == former
        if is_layer and directory != around:
            _set_backing(files, number, f"{around}/{name}")
    for number in numbers:
        files.chain_from(number)


def _set_backing(files: ImageFiles, number: int | None, backing: str) -> None:
    path = files.path(number)
    place, own = files.place(number)
    with os_errors(f"write {path}"), opened_file_at(place, own, os.O_RDWR) as descriptor:
        require_unused(descriptor, path, "get another name of its backing file")
        arguments = ["rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", backing, "--", as_one_image([descriptor])]
        run_qemu_img(*arguments, reads={}, writes={descriptor: path}, data=0, timeout=TIMEOUT)
        os.fsync(descriptor)


__all__ = ["rename_layers", "set_backing_directory"]
