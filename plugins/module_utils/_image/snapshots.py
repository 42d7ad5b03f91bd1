# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Snapshots of an image: the files ``<image>.snap/<id>`` (design: driver-contract). How they hang together depends on the transfer driver:

* each is a whole copy, and the image is a file (raw, and qcow2 with ``ssh``);
* qcow2 overlays, each on the one before; the image is a symbolic link to the newest, which is no snapshot but what is written to;
* the same on shared storage: the image is the file of the first one, ``<image>.snap/0`` is a symbolic link back to it, what is written to is the one
  with the highest number, and ``<image>.snap/<image>.snap`` is a symbolic link to ``.``, so that backing files are found from both directories.

A change is written beside and renamed over, so that whatever happens all data is there whole. Every action can be repeated.
"""

from __future__ import annotations

import json
import os
import re
import stat
import struct
from collections.abc import Sequence
from typing import Any

from .._core.command import run
from .._core.errors import Conflict, InvalidInput, NotFound, os_errors
from .._core.files import remove_durably
from .copy import convert, copy_local
from .image_file import opened_file
from .new_image import NewImage, new_image, remove_files, replace_image, sweep

#: Seconds for a command that copies data.
TIMEOUT = 86400

#: Of the qcow2 header (QEMU, docs/interop/qcow2.txt): bytes up to the incompatible features, and the one that puts data into another file.
_HEADER = 80
_EXTERNAL_DATA_FILE = 4
_LONGEST_BACKING_NAME = 1023


def delete_snapshot(image: str, format: str, snapshot: int, *, timeout: float = TIMEOUT) -> None:
    """Remove a snapshot; qcow2 files that are based on it are based on its own backing file first. One that isn't there is removed already.

    :arg image: the image's path, of which the driver knows that it is in its datastore.
    :raises Conflict: it is what the image holds now, or the files aren't as described above.
    :raises CommandFailed: qemu-img failed; :raises NoSpace, FileAccessFailed.
    """
    path = _path(image, snapshot)
    sweep(os.path.dirname(image))  # a run that was killed may have done all but remove what it replaced
    if not os.path.lexists(path):
        return
    if format == "qcow2":
        if _file(image, snapshot) == _active(image):
            raise Conflict(f"{path} can't be deleted: it is not a snapshot but what the image {image} holds now.")
        for child in _children(image, snapshot):
            _rebase(image, child, snapshot, timeout)
    remove_durably(path)


def revert_snapshot(image: str, format: str, snapshot: int) -> None:
    """Make the image hold what the snapshot holds; the snapshot stays. Arguments and errors are those of :func:`delete_snapshot`.

    :raises NotFound: there is no such snapshot.
    """
    source = _chain(image, snapshot)[0] if format == "qcow2" else _file(image, snapshot)
    target = _active(image) if format == "qcow2" else image
    if source == target:
        return
    with new_image(os.path.dirname(image), owner=_owner(source)) as part:
        _copy(source, part)
        replace_image(target, part, outdated=[f"{image}.md5sum"])


def flatten_snapshot(image: str, format: str, snapshot: int, *, timeout: float = TIMEOUT) -> None:
    """Make the image a file that stands alone and holds what the snapshot holds, and remove all snapshots. Arguments and errors as above.

    A crash can leave the new image beside the snapshots, since no rename changes two names. A repeat removes them. Until then they are whole, but for those
    that are based on the image's own file (shared storage), which holds other data now.
    """
    directory = f"{image}.snap"
    if not os.path.lexists(directory) and os.path.isfile(image) and not os.path.islink(image):
        sweep(os.path.dirname(image))  # the run that did it may have been killed before it removed all
        return
    files = _chain(image, snapshot) if format == "qcow2" else [_file(image, snapshot)]
    with new_image(os.path.dirname(image), owner=_owner(files[0])) as part:
        if format == "qcow2":
            convert(as_one_image(files), "qcow2", part.path, "qcow2", timeout=timeout)
        else:
            _copy(files[0], part)
        replace_image(image, part, outdated=[f"{image}.md5sum"], remove=directory)


def list_snapshots(image: str) -> list[int]:
    """The ids of an image's snapshots, ascending. What the image holds now is none, also where its file has a number among them.

    :raises Conflict: the files aren't as described above; :raises FileAccessFailed: they can't be read.
    """
    if not os.path.lexists(f"{image}.snap"):
        return []
    active = _active(image)
    return [number for number in _numbers(image) if _file(image, number) != active]


def content_files(image: str, format: str, snapshot: int | None = None) -> list[str]:
    """The files that make up what the image holds, or held at a snapshot: one, or qcow2 overlays, each before the one it is based on.

    :raises NotFound, Conflict, FileAccessFailed: as :func:`delete_snapshot`; :raises InvalidInput: one isn't a regular file.
    """
    if format == "qcow2":
        return _with_backing_files(image, _active(image)) if snapshot is None else _chain(image, snapshot)
    return [image if snapshot is None else _file(image, snapshot)]


def remove_image(image: str) -> bool:
    """Remove an image with its snapshots and its checksum; ``False`` when there is none.

    :raises InvalidInput: it isn't named like an image; :raises NoSpace, FileAccessFailed.
    """
    if re.fullmatch("[0-9a-f]{32}", os.path.basename(image)) is None:
        raise InvalidInput("source", image, "the path of an image is expected, which ends in 32 hexadecimal digits")
    return remove_files([image, f"{image}.snap", f"{image}.md5sum"])


def _path(image: str, snapshot: int) -> str:
    return f"{image}.snap/{snapshot:d}"


def _file(image: str, snapshot: int) -> str:
    """The file that has a snapshot's data: its own, or the image where the snapshot is a link back to it."""
    path = _path(image, snapshot)
    with os_errors(f"read {path}"):
        if not os.path.lexists(path):
            raise NotFound(f"The image {image} has no snapshot {snapshot}: {path} does not exist.")
        if not os.path.islink(f"{image}.snap"):
            if stat.S_ISREG(os.lstat(path).st_mode):
                return path
            if not os.path.islink(image) and os.path.samefile(path, image):
                return image
    raise Conflict(f"{path} is not used: it is not a regular file in a directory of the image {image}.")


def _numbers(image: str) -> list[int]:
    with os_errors(f"read {image}.snap"):
        return sorted(int(name) for name in os.listdir(f"{image}.snap") if re.fullmatch("[0-9]{1,9}", name))


def _active(image: str) -> str:
    """The qcow2 file that the image's data is written to."""
    if os.path.islink(image):
        return _file(image, _number(image, os.readlink(image), image))
    if os.path.islink(f"{image}.snap/{os.path.basename(image)}.snap"):
        return _file(image, _numbers(image)[-1])
    return image


def _number(image: str, name: str, named_by: str) -> int:
    """The snapshot that a symbolic link or a backing file's name means; relative names are relative to the image's directory."""
    directory, number = os.path.split(os.path.join(os.path.dirname(image), name))
    if re.fullmatch("[0-9]{1,9}", number) is None or os.path.realpath(directory) != os.path.realpath(f"{image}.snap"):
        raise Conflict(f"{named_by} is not used: it refers to {name!r}, which is not in {image}.snap.")
    return int(number)


def _backing_name(path: str) -> str | None:
    """What a qcow2 file names as its backing file. Read from its header, because asking qemu-img opens what it names."""
    with opened_file(path) as descriptor, os_errors(f"read {path}"):
        header = os.pread(descriptor, _HEADER, 0)
        if len(header) < _HEADER or header[:4] != b"QFI\xfb":
            raise Conflict(f"{path} is not used: it isn't a qcow2 image.")
        version, offset, length = struct.unpack_from(">IQI", header, 4)
        (features,) = struct.unpack_from(">Q", header, 72)
        if version >= 3 and features & _EXTERNAL_DATA_FILE or length > _LONGEST_BACKING_NAME:
            raise Conflict(f"{path} is not used: it has an external data file, or its header is damaged.")
        return os.fsdecode(os.pread(descriptor, length, offset)) if offset else None


def _parent(image: str, path: str) -> int | None:
    name = _backing_name(path)
    return None if name is None else _number(image, name, path)


def _chain(image: str, snapshot: int) -> list[str]:
    """The qcow2 files that make up a snapshot, down to the one without a backing file; all of them belong to the image."""
    return _with_backing_files(image, _file(image, snapshot))


def _with_backing_files(image: str, path: str) -> list[str]:
    files = [path]
    while (number := _parent(image, files[-1])) is not None:
        path = _file(image, number)
        if path in files:
            raise Conflict(f"{path} is not used: it is a backing file of itself.")
        files.append(path)
    return files


def _children(image: str, snapshot: int) -> list[str]:
    """The qcow2 files of the image whose backing file is the snapshot."""
    paths = [_path(image, number) for number in _numbers(image)]
    return [path for path in (image, *paths) if not os.path.islink(path) and _parent(image, path) == snapshot]


def _rebase(image: str, child: str, snapshot: int, timeout: float) -> None:
    """Base ``child`` on what ``snapshot`` is based on, its content unchanged."""
    _chain(image, snapshot)
    parent = _parent(image, _file(image, snapshot))
    # Spelled as before. qemu-img finds relative names from the image's directory, where the part is.
    name = "" if parent is None else os.path.join(os.path.dirname(_backing_name(child) or ""), str(parent))
    with new_image(os.path.dirname(image), owner=_owner(child)) as part:
        _copy(child, part)
        # Each write is flushed: tables that qemu-img fails to write only when it closes the file, it takes for written.
        run(["qemu-img", "rebase", "-t", "writethrough", "-f", "qcow2", "-F", "qcow2", "-b", name, "--", part.path], timeout=timeout)
        run(["qemu-img", "check", "-q", "-f", "qcow2", "--", part.path], timeout=timeout)
        replace_image(child, part)


def as_one_image(files: Sequence[str]) -> str:
    """A qcow2 chain as one name for qemu-img, which then takes nothing from headers; the top's format is told apart (QEMU, "json:" file names)."""
    node: dict[str, Any] | None = None
    for path in reversed(files):
        node = {"driver": "qcow2", "file": {"driver": "file", "filename": path}, "backing": node}
    if node is None:
        raise ValueError("no files")
    del node["driver"]
    return "json:" + json.dumps(node)


def _owner(path: str) -> tuple[int, int]:
    with os_errors(f"read {path}"):
        found = os.lstat(path)
    return found.st_uid, found.st_gid


def _copy(path: str, part: NewImage) -> None:
    with opened_file(path) as descriptor:
        copy_local(descriptor, part.fd)


__all__ = ["as_one_image", "content_files", "delete_snapshot", "flatten_snapshot", "list_snapshots", "remove_image", "revert_snapshot"]
