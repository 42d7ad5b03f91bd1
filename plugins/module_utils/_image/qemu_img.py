# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Run qemu-img(1) on files that are open: the command gets descriptors, not names, and where root runs it, it can open
nothing else.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from .._core.command import Completed, reason, run
from .._core.directory import descriptor_path
from .._core.errors import CommandFailed
from .._core.records import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

#: Limits. A sound header takes milliseconds of CPU time, and the slowest decompression far less than this for each
#: piece of data.
CPU_SECONDS = 10
BYTES_PER_CPU_SECOND = 8 << 20
#: Bytes: the block table of a 64 TiB VDI takes 256 MiB.
MEMORY = 512 << 20
#: Bytes: qemu-img starts up to 64 threads where the host is busy, and their stacks count as memory.
_STACK = 1 << 20
#: Seconds that a command gets besides those for its data, and bytes of data for each second.
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
    """Run a command of qemu-img under limits; ``arguments`` name files as :func:`descriptor_path` does.

    :arg reads: paths, for messages, of the files that it may read, by descriptor.
    :arg writes: of those that it may read and write.
    :arg directories: of those in which it may look up names; a name counts only if it leads to one of the files.
    :arg data: upper bound of the bytes that it reads or writes, whichever are more: CPU time and time are limited in
        proportion.
    :arg timeout: seconds at most, however much the data is.
    :arg accept: as :func:`run` takes it, and ``watch``.
    :raises CommandFailed: qemu-img is missing, failed or exceeded a limit; the message names files by their paths.
    :raises UnsupportedAction: the kernel can't confine it to the files.
    """
    from .._core.confinement import Confinement

    if not any(os.access(os.path.join(directory, "qemu-img"), os.X_OK) for directory in os.get_exec_path()):
        raise CommandFailed(
            "The command 'qemu-img' is not installed on this host: install the package qemu-utils or, outside Debian "
            "and Ubuntu, qemu-img."
        )
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
            f"{names} ({failure(done)})."
        )
    raise CommandFailed(f"The command 'qemu-img' failed with exit code {done.returncode}: {failure(done)}")


def limits_for(data: int) -> str:
    """Return the CPU time and the memory that a command gets for so many bytes of data, for messages."""
    return f"{_cpu_seconds(data)} s of CPU time and {MEMORY >> 20} MiB"


def failure(done: Completed) -> str:
    """Return why a command failed, for messages."""
    if done.returncode >= 0:
        return reason(done)
    import signal

    return f"stopped by {signal.Signals(-done.returncode).name}"


def _cpu_seconds(data: int) -> int:
    return CPU_SECONDS + data // BYTES_PER_CPU_SECOND


def as_one_image(files: Sequence[int]) -> str:
    """A chain of qcow2 files as one name for qemu-img, which then takes nothing from headers; the top's format is told
    apart (QEMU, "json:" file names).

    :arg files: descriptors, each before the one that it is based on.
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
    """A VHD as one name for qemu-img, whose own choice between the two sizes in the footer differs from version to
    version (QEMU, block/vpc.c).
    """
    import json

    node = {
        "force_size_calc": "chs" if by_geometry else "current_size",
        "file": {"driver": "file", "filename": descriptor_path(descriptor)},
    }
    return "json:" + json.dumps(node)


__all__ = ["as_one_image", "as_vhd", "failure", "limits_for", "run_qemu_img"]
