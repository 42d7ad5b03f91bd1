# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The open disks of metrics of all running domains."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection

from ..._core.directory import opened_directory
from ..._core.errors import VmstoreError
from ..._model.metrics import RunningDomain
from .disk import open_disk, update_disk


class MetricsDisks:
    """The disks of the running domains.

    A file stays open while its domain runs. So it is the file that QEMU has open, whatever happens to its name.

    :arg directory: directory that has one directory for each domain.
    :arg log: gets a line.
    """

    def __init__(self, directory: str, log: Callable[[str], object]) -> None:
        self._directory = directory
        self._log = log
        #: Descriptors by domain. ``None`` is a file that can't be used.
        self._opened: dict[RunningDomain, int | None] = {}

    def keep(self, domains: Collection[RunningDomain]) -> None:
        """Open the disks of these domains, and close all others."""
        for key in self._opened.keys() - set(domains):
            self._close(self._opened.pop(key))
        for key in set(domains) - self._opened.keys():
            self._opened[key] = self._open(key.uuid)

    def update(self, domain: RunningDomain, document: bytes) -> None:
        """Replace the document on the disk of a domain. A disk that can't be written is logged, and left alone."""
        descriptor = self._opened.get(domain)
        if descriptor is None:
            return
        try:
            update_disk(descriptor, document)
        except (OSError, ValueError) as error:
            self._log(f"The disk of the domain {domain.uuid} gets no more metrics: {error}.")
            self._close(descriptor)
            self._opened[domain] = None

    def close(self) -> None:
        """Close all disks."""
        self.keep([])

    def _open(self, uuid: str) -> int | None:
        try:
            with opened_directory(self._directory) as directory:
                return open_disk(directory, uuid)
        except (OSError, VmstoreError) as error:
            self._log(f"The disk of the domain {uuid} in {self._directory} gets no metrics: {error}.")
            return None

    @staticmethod
    def _close(descriptor: int | None) -> None:
        if descriptor is not None:
            os.close(descriptor)


__all__ = ["MetricsDisks"]
