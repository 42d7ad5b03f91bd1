# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Run qemu-img(1) on open files. The command gets descriptors in place of names. If root runs the command, it can't
open other files.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from .._core.command import Completed, reason, run
from .._core.directory import descriptor_path
from .._core.errors import CommandFailed, from_os_error, missing_command
from .._core.records import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

#: Upper bound of the CPU time in seconds for a header, and for each piece of data. A sound header takes milliseconds,
#: and the slowest decompression far less than the bound.
CPU_SECONDS = 10
BYTES_PER_CPU_SECOND = 8 << 20
#: Upper bound of the memory in bytes. The block table of a 64 TiB VDI takes 256 MiB.
MEMORY = 512 << 20
#: Size of a stack in bytes. On a busy host, qemu-img starts up to 64 threads, whose stacks count as memory.
_STACK = 1 << 20
#: Basic time limit of a command in seconds, and the bytes of data that add one second.
_SECONDS = 600
_BYTES_PER_SECOND = 1 << 20


def run_qemu_img(
    *arguments: str,
    reads: Mapping[int, str],
    writes: Mapping[int, str] = MappingProxyType({}),
    directories: Mapping[int, str] = MappingProxyType({}),
    data: int,
    timeout: float,
    accept: Sequence[int] | None = (0,),
    watch: Callable[[], object] | None = None,
) -> Completed:
    """Run a command of qemu-img under limits. In ``arguments``, files have the names of :func:`descriptor_path`.

    :arg reads: paths of readable files by descriptor. Paths are only for messages.
    :arg writes: paths of readable and writable files by descriptor.
    :arg directories: paths of directories by descriptor. The command may look up names that lead to one of the files.
    :arg data: upper bound of the bytes read or of the bytes written, whichever is larger. The limits of CPU time and
        time are proportional to this number.
    :arg timeout: upper bound in seconds for any amount of data.
    :arg accept: see :func:`run`, also for ``watch``.
    :raises NoSpace: the file system of a written file is full.
    :raises CommandFailed: qemu-img is missing, failed or exceeded a limit. The message has the paths of files.
    :raises UnsupportedAction: the kernel can't confine qemu-img to the files.
    """
    from .._core.confinement import Confinement

    if not any(os.access(os.path.join(directory, "qemu-img"), os.X_OK) for directory in os.get_exec_path()):
        raise missing_command("qemu-img", "qemu-utils or, outside Debian and Ubuntu, qemu-img")
    files = {**reads, **writes, **directories}
    confinement = Confinement(tuple(reads), tuple(writes), tuple(directories))
    limits = (f"--cpu={_cpu_seconds(data)}", f"--data={MEMORY}", f"--stack={_STACK}", "--core=0")
    timeout = min(timeout, _SECONDS + data / _BYTES_PER_SECOND)
    done = run(
        ["qemu-img", *arguments],
        timeout=timeout,
        accept=None,
        files=files,
        limits=limits,
        confinement=confinement,
        watch=watch,
    )
    if accept is None or done.returncode in accept:
        return done
    if done.returncode < 0:
        names = ", ".join(dict.fromkeys(files.values()))
        raise CommandFailed(
            f"The command 'qemu-img' did not end in {limits_for(data)}, which are for {data} bytes of data, with "
            f"{names} ({describe_failure(done)})."
        )
    if os.strerror(errno.ENOSPC) in done.stderr:
        raise from_os_error(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), f"write {', '.join(writes.values())}")
    raise CommandFailed(f"The command 'qemu-img' failed with exit code {done.returncode}: {describe_failure(done)}")


def limits_for(data: int) -> str:
    """Return the limits of CPU time and memory for ``data`` bytes, for messages."""
    return f"{_cpu_seconds(data)} s of CPU time and {MEMORY >> 20} MiB"


def describe_failure(done: Completed) -> str:
    """Return the reason why a command failed, for messages."""
    if done.returncode >= 0:
        return reason(done)
    import signal

    return f"stopped by {signal.Signals(-done.returncode).name}"


def _cpu_seconds(data: int) -> int:
    return CPU_SECONDS + data // BYTES_PER_CPU_SECOND


def as_one_image(files: Sequence[int]) -> str:
    """Return a name for a chain of qcow2 files with which qemu-img ignores the backing files in headers. The format of
    the top file is a separate argument (QEMU, "json:" file names).

    :arg files: descriptors, each before that of its backing file.
    """
    import json

    node: dict[str, Any] | None = None
    for descriptor in reversed(files):
        node = {"driver": "qcow2", "file": {"driver": "file", "filename": descriptor_path(descriptor)}, "backing": node}
    if node is None:
        raise ValueError("no files")
    del node["driver"]
    return "json:" + json.dumps(node)


def as_vhd(descriptor: int, *, by_geometry: bool) -> str:
    """Return a name for a VHD that selects one of the two sizes in the footer, because the default of qemu-img depends
    on its version (QEMU, block/vpc.c).
    """
    import json

    node = {
        "force_size_calc": "chs" if by_geometry else "current_size",
        "file": {"driver": "file", "filename": descriptor_path(descriptor)},
    }
    return "json:" + json.dumps(node)


__all__ = ["as_one_image", "as_vhd", "describe_failure", "limits_for", "run_qemu_img"]
