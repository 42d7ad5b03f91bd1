# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The thread that reads figures, writes the disks of metrics, and gives documents to the server of the ports."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

from ..._core.errors import VmstoreError
from ..._host.metrics.disks import MetricsDisks
from ..._host.metrics.document import HostDocument
from ..._host.metrics.figures import HostReader
from ..._host.metrics.port_server import PortServer
from ..._libvirt.devices.metrics import MetricsDevices
from ..._libvirt.metrics_source import MetricsSource
from ..._model.metrics import HostIdentity, RunningDomain

#: Time between two updates in seconds.
INTERVAL = 5.0

#: Lower bound of the time between two steps in seconds, when domains start and stop all the time.
SHORTEST_INTERVAL = 1.0

#: Time until another connection to libvirt is tried, in seconds. It doubles up to its upper bound.
RETRY, LONGEST_RETRY = 1.0, 30.0


class Collector:
    """The collection of metrics.

    :arg connect: opens a connection to libvirt. Its argument is called when an update is due.
    :arg name: the host's name for guests.
    """

    def __init__(
        self,
        connect: Callable[[Callable[[], object]], MetricsSource],
        disks: MetricsDisks,
        server: PortServer,
        name: str,
        log: Callable[[str], object],
    ) -> None:
        self._connect = connect
        self._disks = disks
        self._server = server
        self._name = name
        self._log = log
        self._host = HostReader()
        #: The domains of the last update.
        self._domains: Mapping[RunningDomain, MetricsDevices] = {}
        #: The last error in the log since the last update, and the time until the next connection in seconds.
        self._reported, self._delay = "", RETRY
        self._wake = threading.Event()
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Let :meth:`run` return after the current update."""
        self._stopped.set()
        self._wake.set()

    def run(self) -> None:
        """Collect until :meth:`stop`, with a new connection whenever one breaks."""
        while not self._stopped.is_set():
            try:
                self._run_with(self._connect(self._wake.set))
            except VmstoreError as error:
                # A libvirtd that is off would fill the log.
                if str(error) != self._reported:
                    self._reported = str(error)
                    self._log(f"No new metrics: {error}")
                self._stopped.wait(self._delay)
                self._delay = min(2 * self._delay, LONGEST_RETRY)
        self._disks.close()

    def _run_with(self, source: MetricsSource) -> None:
        due = time.monotonic()
        is_first = True
        try:
            while not self._stopped.is_set():
                begin = time.monotonic()
                self._wake.clear()
                domains = source.domains()
                # Other domains get their first metrics at once. Without other domains, an event costs no update.
                if begin >= due or domains != self._domains:
                    self.update(source, domains)
                    due = begin + INTERVAL
                if is_first:
                    self._log(f"Connected to libvirt, which runs QEMU {source.product}.")
                    self._reported, self._delay, is_first = "", RETRY, False
                self._wake.wait(max(0.0, due - time.monotonic()))
                self._stopped.wait(max(0.0, begin + SHORTEST_INTERVAL - time.monotonic()))
        finally:
            source.close()

    def update(self, source: MetricsSource, domains: Mapping[RunningDomain, MetricsDevices]) -> None:
        """Write new documents for these domains.

        :raises VmstoreError: libvirt or the kernel returned no figures.
        """
        self._domains = domains
        self._disks.keep([key for key, devices in domains.items() if devices.has_disk])
        self._server.set_ports({key: devices.socket for key, devices in domains.items() if devices.socket})
        if not domains:
            return
        figures = source.figures(domains)
        host = HostDocument(HostIdentity(self._name, source.product), self._host.read())
        documents = {key: host.with_vm(one) for key, one in figures.items()}
        self._server.publish(documents)
        for key, document in documents.items():
            self._disks.update(key, document + b"\n")


__all__ = ["Collector"]
