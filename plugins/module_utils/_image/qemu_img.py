# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""qemu-img(1), run on files that are open: it gets descriptors, not names, and where root runs it, it can open nothing else."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from .._core.command import Completed, run
from .._core.confinement import Confinement
from .._core.directory import descriptor_path
from .._core.errors import CommandFailed


def run_qemu_img(
    *arguments: str,
    reads: Mapping[int, str],
    writes: Mapping[int, str] = MappingProxyType({}),
    directories: Mapping[int, str] = MappingProxyType({}),
    timeout: float,
    accept: Sequence[int] | None = (0,),
    limits: Sequence[str] = (),
) -> Completed:
    """Run a command of qemu-img; ``arguments`` name files as :func:`descriptor_path` does.

    :arg reads: paths, for messages, of the files that it may read, by descriptor.
    :arg writes: of those that it may read and write.
    :arg directories: of those in which it may look up names; a name counts only if it leads to one of the files.
    :arg timeout: seconds.
    :arg accept: as :func:`run` takes it, and ``limits``.
    :raises CommandFailed: qemu-img is missing, failed or ran too long; the message names files by their paths.
    :raises UnsupportedAction: the kernel can't confine it to the files.
    """
    if not any(os.access(os.path.join(directory, "qemu-img"), os.X_OK) for directory in os.get_exec_path()):
        raise CommandFailed("The command 'qemu-img' is not installed on this host: install the package qemu-utils or, outside Debian and Ubuntu, qemu-img.")
    files = {**reads, **writes, **directories}
    confinement = Confinement(tuple(reads), tuple(writes))
    return run(["qemu-img", *arguments], timeout=timeout, accept=accept, files=files, limits=limits, confinement=confinement)


def as_one_image(files: Sequence[int]) -> str:
    """A chain of qcow2 files as one name for qemu-img, which then takes nothing from headers; the top's format is told apart (QEMU, "json:" file names).

    :arg files: descriptors, each before the one that it is based on.
    """
    node: dict[str, Any] | None = None
    for descriptor in reversed(files):
        node = {"driver": "qcow2", "file": {"driver": "file", "filename": descriptor_path(descriptor)}, "backing": node}
    if node is None:
        raise ValueError("no files")
    del node["driver"]
    return "json:" + json.dumps(node)


__all__ = ["as_one_image", "run_qemu_img"]
