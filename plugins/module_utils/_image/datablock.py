# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Datablocks: new images that are empty or contain an empty file system or swap space (spec: storage-driver, mkfs)."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence

from .._core.command import Completed, reason, run
from .._core.directory import descriptor_path
from .._core.errors import CommandFailed, InvalidInput, from_os_error, missing_command, os_errors, printable
from .copy import convert, creation_options
from .new_image import NewImage, new_image
from .qemu_img import run_qemu_img
from .room import require_room, space

MEBIBYTE = 2**20

#: The work in errors.
WRITING = "write a datablock"

#: The option of a qcow2 image that allocates its space in advance.
PREALLOCATION = "preallocation="

#: Upper bound of the size of a datablock in MiB: 64 TiB, the limit of other images.
LARGEST_MB = 2**26

#: Debian's packages of ``mkfs.<fs>`` and mkswap.
_PACKAGES = {
    "btrfs": "btrfs-progs",
    "exfat": "exfatprogs",
    "ext2": "e2fsprogs",
    "ext3": "e2fsprogs",
    "ext4": "e2fsprogs",
    "f2fs": "f2fs-tools",
    "fat": "dosfstools",
    "msdos": "dosfstools",
    "ntfs": "ntfs-3g",
    "swap": "util-linux",
    "vfat": "dosfstools",
    "xfs": "xfsprogs",
}
#: Directories of system programs, which the PATH of service users often lacks.
SYSTEM_PROGRAMS = "/usr/local/sbin:/usr/sbin:/sbin"


def make_datablock(
    part: NewImage,
    *,
    format: str,
    size_mb: int,
    fs: str | None = None,
    supported: Sequence[str] = (),
    fs_options: str = "",
    qcow2_options: str = "",
    sparse: bool = True,
    timeout: float,
) -> None:
    """Fill the empty image ``part``.

    :arg format: ``raw`` or ``qcow2``.
    :arg fs: one of ``supported`` (SUPPORTED_FS), or ``swap``. ``None`` leaves the image empty.
    :arg fs_options: further arguments of ``mkfs.<fs>`` (FS_OPTS_<FS>), quoted as in a shell.
    :arg qcow2_options: see :func:`creation_options`.
    :arg sparse: ``False`` allocates all of the storage.
    :arg timeout: seconds for each command.
    :raises InvalidInput: an option can't be used.
    :raises CommandFailed: a command is missing or failed.
    :raises NoSpace, FileAccessFailed: the image can't be written.
    """
    mkfs = check_datablock(format=format, size_mb=size_mb, fs=fs, supported=supported, fs_options=fs_options)
    size = size_mb * MEBIBYTE
    if not sparse:
        require_room(part.fd, size, WRITING)
    if format == "raw":
        _make_raw(part, size, mkfs, sparse, timeout)
        return
    if not sparse and PREALLOCATION not in qcow2_options:
        qcow2_options = ",".join(filter(None, [qcow2_options, f"{PREALLOCATION}falloc"]))
    if mkfs:
        with new_image(part.directory) as scratch:
            _make_raw(scratch, size, mkfs, True, timeout)
            reads = {scratch.fd: "the new file system"}
            convert(scratch.file, "raw", part.fd, "qcow2", reads=reads, options=qcow2_options, timeout=timeout)
    else:
        arguments = ["create", "-q", "-f", "qcow2", *creation_options(qcow2_options), "--", part.file, str(size)]
        run_qemu_img(*arguments, reads={}, writes={part.fd: "the new image"}, data=size, timeout=timeout)


def check_datablock(
    *, format: str, size_mb: int, fs: str | None, supported: Sequence[str] = (), fs_options: str = ""
) -> list[str]:
    """Refuse an invalid datablock before any file is created. Return the command that makes the file system, without
    the path, or an empty list without a file system.

    Arguments and errors are those of :func:`make_datablock`.
    """
    if format not in ("raw", "qcow2"):
        raise InvalidInput("format", format, "raw or qcow2 is expected")
    if not 1 <= size_mb <= LARGEST_MB:
        raise InvalidInput("size", size_mb, f"1 to {LARGEST_MB} MiB are expected")
    return _mkfs(fs, supported, fs_options) if fs else []


def _make_raw(part: NewImage, size: int, mkfs: list[str], sparse: bool, timeout: float) -> None:
    with os_errors(WRITING):
        os.truncate(part.fd, size)
    if mkfs:
        run_mkfs(mkfs, part.fd, timeout=timeout)
    if not sparse:
        # Allocate after mkfs, because mkfs releases unused space.
        with os_errors(WRITING):
            os.posix_fallocate(part.fd, 0, size)


def run_mkfs(
    command: Sequence[str], descriptor: int, *, timeout: float, watch: Callable[[], object] | None = None
) -> None:
    """Make a file system in an open file.

    :arg command: a result of :func:`check_datablock`.
    :arg timeout: seconds.
    :arg watch: see :func:`run`.
    :raises CommandFailed: the command failed.
    :raises NoSpace: the command failed for lack of space.
    :raises FileAccessFailed: the file can't be read.
    """
    done = run(
        [*command, descriptor_path(descriptor)],
        timeout=timeout,
        files={descriptor: "the new image"},
        accept=None,
        watch=watch,
    )
    if done.returncode == 0:
        return
    with os_errors("read a datablock"):
        size = os.fstat(descriptor).st_size
        is_full = space(descriptor).free < MEBIBYTE
    if is_full or os.strerror(errno.ENOSPC) in done.stderr:
        raise from_os_error(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), WRITING)
    why = _reason(done).rstrip(".!")
    raise CommandFailed(f"{os.path.basename(command[0])} makes no file system of {size // MEBIBYTE} MiB: {why}.")


def _reason(done: Completed) -> str:
    """Return the first two errors that a command printed, because they usually cause the others."""
    import re

    errors = re.findall(r"^\s*error: *(\S.*)", f"{done.stderr}\n{done.stdout}", re.IGNORECASE | re.MULTILINE)
    return printable("; ".join(error.strip(" .!") for error in errors[:2])) or reason(done)


def _mkfs(fs: str, supported: Sequence[str], options: str) -> list[str]:
    """Return the command that makes ``fs``, without the path. Refuse other file systems than ``supported``."""
    if fs != "swap" and fs not in supported:
        raise InvalidInput("fs", fs, f"one of {', '.join(sorted({*supported, 'swap'}))} is expected")
    return find_mkfs(fs, options)


def is_known(fs: str) -> bool:
    """Return whether ``fs`` is a file system that images can have: one of Debian's, or another with a ``mkfs``
    on this host.
    """
    return fs in _PACKAGES or _find_program(f"mkfs.{fs}") is not None


def find_mkfs(fs: str, options: str) -> list[str]:
    """Return the command that makes ``fs``, without the path.

    :raises CommandMissing: the command isn't installed.
    :raises InvalidInput: a quotation in ``options`` has no end.
    """
    name = "mkswap" if fs == "swap" else f"mkfs.{fs}"
    program = _find_program(name)
    if program is None:
        raise missing_command(name, _PACKAGES.get(fs, "that has it"))
    try:
        import shlex

        return [program, *shlex.split(options)]
    except ValueError as error:
        raise InvalidInput(f"fs_opts_{fs}", options, f"arguments of {name} are expected") from error


def _find_program(name: str) -> str | None:
    import shutil

    return shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:{SYSTEM_PROGRAMS}")


__all__ = ["check_datablock", "find_mkfs", "is_known", "make_datablock", "run_mkfs"]
