# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Try mkfs and qemu-img on temporary files.

So invalid options are refused when they are declared, not with the first image, and check mode detects images that
can't be created.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
import time
from collections.abc import Iterator, Sequence

from .._core.command import reason, run
from .._core.directory import descriptor_path
from .._core.errors import CommandFailed, InvalidInput, NoSpace, VmstoreError, os_errors
from .._core.temporary import lock
from .copy import creation_options, foresee_conversion
from .datablock import MEBIBYTE, PREALLOCATION, WRITING, check_datablock, find_mkfs, run_mkfs
from .qemu_img import run_qemu_img
from .room import may_compress, require_length, require_room, space

#: The option of each mkfs for a dry run, which is fast for large files, too.
_DRY_RUN = {"ext2": "-n", "ext3": "-n", "ext4": "-n", "ntfs": "-n", "xfs": "-N"}

#: Upper bound of the bytes that a command without a dry run may write in a trial.
_MOST_WRITTEN = 256 << 20

#: Sizes of the files for trials in bytes. Some options are valid only for small or only for large file systems.
_SIZES, _DRY_SIZES = (2**30, 2**23), (2**30, 2**23, 2**40)

#: Upper bound of the time of one command of a trial in seconds.
_TIMEOUT = 60
_WATCHED_TIMEOUT = 2 * _TIMEOUT


def try_fs_options(option: str, fs: str, options: str) -> None:
    """Refuse arguments that ``mkfs.<fs>`` refuses for every size. Do nothing if the command isn't installed.

    :arg option: the name of the arguments in errors.
    :raises InvalidInput: the command refused the arguments. The message has the output of the command.
    """
    try:
        command = find_mkfs(fs, options)
    except CommandFailed:
        return
    dry = _DRY_RUN.get(fs)
    reasons = []
    try:
        with tempfile.TemporaryFile() as file:
            for size in _DRY_SIZES if dry else _SIZES:
                os.truncate(file.fileno(), 0)
                os.truncate(file.fileno(), size)
                target = f"/proc/self/fd/{file.fileno()}"
                arguments = [*command, *([dry] if dry else []), target]
                completed = run(arguments, timeout=_TIMEOUT, files={file.fileno(): "the new image"}, accept=None)
                if completed.returncode == 0:
                    return
                reasons.append(reason(completed))
    except (OSError, CommandFailed):
        return  # a trial without enough space or time has no result
    raise InvalidInput(
        option, options, f"arguments of {os.path.basename(command[0])} are expected, which prints: {reasons[0]}"
    )


def try_datablock(
    directory: int,
    *,
    format: str,
    size_mb: int,
    fs: str | None = None,
    supported: Sequence[str] = (),
    fs_options: str = "",
    qcow2_options: str = "",
    sparse: bool = True,
) -> None:
    """Refuse a :func:`make_datablock` with the same arguments that would fail, as far as a trial shows this. The errors
    are the same, too.

    :arg directory: descriptor of the target directory.
    """
    mkfs = check_datablock(format=format, size_mb=size_mb, fs=fs, supported=supported, fs_options=fs_options)
    size = size_mb * MEBIBYTE
    if not sparse:
        require_room(directory, size, WRITING)
    if format == "raw" or mkfs:
        require_length(directory, size, WRITING)
    if mkfs:
        _try_mkfs(mkfs, str(fs), size, directory, qcow2_options if format == "qcow2" else None)
    elif format == "qcow2":
        options = ",".join(one for one in qcow2_options.split(",") if not one.startswith(PREALLOCATION))
        with contextlib.suppress(_NothingKnown), _trial_file(0) as descriptor:
            arguments = [
                "create",
                "-q",
                "-f",
                "qcow2",
                *creation_options(options),
                "--",
                descriptor_path(descriptor),
                str(size),
            ]
            run_qemu_img(*arguments, reads={}, writes={descriptor: "the new image"}, data=size, timeout=_TIMEOUT)


def _try_mkfs(command: list[str], fs: str, size: int, directory: int, qcow2_options: str | None) -> None:
    """Make the file system in a temporary file.

    :arg size: bytes.
    :arg qcow2_options: options of the qcow2 image for the file system, or ``None`` for a raw image.
    """
    with os_errors("look at the file system to make a datablock"):
        free = space(directory).free
        is_known = not may_compress(directory)
    try:
        with _trial_file(size) as descriptor:
            dry = _DRY_RUN.get(fs)
            if dry:
                run_mkfs([*command, dry], descriptor, timeout=_WATCHED_TIMEOUT, watch=_Watch(descriptor, 0))
            # The dry run is enough if the file system fits even without holes.
            if not dry or (is_known and size * (1 if qcow2_options is None else 2) > free):
                limit = min(free, _MOST_WRITTEN)
                with contextlib.suppress(_TooMuch) if limit == free else contextlib.nullcontext():
                    run_mkfs(command, descriptor, timeout=_WATCHED_TIMEOUT, watch=_Watch(descriptor, limit))
                if is_known:
                    _require_room(descriptor, directory, qcow2_options)
    except _NothingKnown:
        return


def _require_room(made: int, directory: int, qcow2_options: str | None) -> None:
    """Refuse a file system that doesn't fit, by the size of the file system of the trial."""
    taken = os.fstat(made).st_blocks * 512
    require_room(directory, taken, WRITING)
    if qcow2_options is not None:
        reads = {made: "the new file system"}
        image = descriptor_path(made)
        foresee_conversion(
            image, "raw", directory, "qcow2", reads=reads, options=qcow2_options, taken=taken, timeout=_TIMEOUT
        )


class _NothingKnown(Exception):
    """The error of a trial without a result."""


class _TooMuch(_NothingKnown):
    """The error of a trial that takes too much space or time."""


class _Watch:
    """A check that ends a trial after ``limit`` bytes or :data:`_TIMEOUT`."""

    def __init__(self, descriptor: int, limit: int) -> None:
        self._descriptor, self._limit = descriptor, limit
        self._end = time.monotonic() + _TIMEOUT

    def __call__(self) -> None:
        if time.monotonic() > self._end:
            raise _NothingKnown
        if os.fstat(self._descriptor).st_blocks * 512 > self._limit:
            raise _TooMuch


@contextlib.contextmanager
def _trial_file(size: int) -> Iterator[int]:
    """Yield a descriptor of a file of ``size`` bytes without a name, locked like a new image.

    :raises _NothingKnown: the file system has no such files, or lacks space.
    """
    with contextlib.ExitStack() as stack:
        try:
            descriptor = stack.enter_context(tempfile.TemporaryFile()).fileno()
            os.truncate(descriptor, size)
            lock(descriptor, fcntl.F_OFD_SETLK)
        except OSError as error:
            raise _NothingKnown from error
        try:
            yield descriptor
        except NoSpace as error:
            if space(descriptor).free < MEBIBYTE:
                raise _NothingKnown from error
            raise


def try_qcow2_options(option: str, options: str) -> None:
    """Refuse options that qemu-img refuses for a new qcow2 image. Do nothing if qemu-img isn't installed.

    :arg option: the name of the options in errors.
    :raises InvalidInput: qemu-img refused the options. The message has the output of qemu-img.
    """
    arguments = creation_options(options)
    try:
        with tempfile.TemporaryFile() as file:
            target = f"/proc/self/fd/{file.fileno()}"
            create = ["create", "-q", "-f", "qcow2", *arguments, "--", target, "1M"]
            completed = run_qemu_img(
                *create, reads={}, writes={file.fileno(): "the new image"}, data=0, timeout=_TIMEOUT, accept=None
            )
    except (OSError, VmstoreError):
        return
    if completed.returncode != 0:
        raise InvalidInput(option, options, f"options of qemu-img are expected, which prints: {reason(completed)}")


__all__ = ["try_datablock", "try_fs_options", "try_qcow2_options"]
