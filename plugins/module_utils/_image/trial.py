# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Try options of mkfs and qemu-img on files that are thrown away, so that they are refused where they are declared and not with the first image."""

from __future__ import annotations

import os
import tempfile

from .._core.command import reason, run
from .._core.errors import CommandFailed, InvalidInput, VmstoreError
from .copy import creation_options
from .datablock import find_mkfs
from .qemu_img import run_qemu_img

#: How each command is kept from writing, so that it can be tried on large files, too.
_DRY_RUN = {"ext2": "-n", "ext3": "-n", "ext4": "-n", "xfs": "-N"}

#: Bytes of the files that options are tried on, one after the other: some fit only small or only large file systems.
_SIZES, _DRY_SIZES = (2**30, 2**23), (2**30, 2**23, 2**40)

#: Seconds for one command.
_TIMEOUT = 60


def try_fs_options(option: str, fs: str, options: str) -> None:
    """Refuse arguments that ``mkfs.<fs>`` of this host, where it is installed, accepts for no size.

    :arg option: what errors call the arguments.
    :raises InvalidInput: naming the reason that the command prints.
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
        return  # nothing is known without space for a trial, or time
    raise InvalidInput(option, options, f"arguments of {os.path.basename(command[0])} are expected, which prints: {reasons[0]}")


def try_qcow2_options(option: str, options: str) -> None:
    """Refuse options that qemu-img of this host, where it is installed, doesn't accept for a new qcow2 image.

    :arg option: what errors call the options.
    :raises InvalidInput: naming the reason that the command prints.
    """
    arguments = creation_options(options)
    try:
        with tempfile.TemporaryFile() as file:
            target = f"/proc/self/fd/{file.fileno()}"
            create = ["create", "-q", "-f", "qcow2", *arguments, "--", target, "1M"]
            completed = run_qemu_img(*create, reads={}, writes={file.fileno(): "the new image"}, data=0, timeout=_TIMEOUT, accept=None)
    except (OSError, VmstoreError):
        return
    if completed.returncode != 0:
        raise InvalidInput(option, options, f"options of qemu-img are expected, which prints: {reason(completed)}")


__all__ = ["try_fs_options", "try_qcow2_options"]
