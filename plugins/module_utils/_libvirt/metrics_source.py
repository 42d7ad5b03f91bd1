# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The running domains that have devices for metrics, and their figures."""

from __future__ import annotations

import contextlib
import functools
import queue
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from .._core.errors import LibvirtFailed
from .._model.metrics import RunningDomain, VmFigures
from .connection import Hypervisor, load_libvirt
from .devices.metrics import MetricsDevices, find_metrics_devices
from .domain_xml import parse
from .events import start_event_loop

#: Time between two probes of a connection in seconds, and the number of probes that a broken libvirtd leaves
#: unanswered.
PROBE_INTERVAL, PROBES = 5, 3

NANOSECONDS = 1_000_000_000


class MetricsSource:
    """A connection to libvirt that only reads.

    :arg directory: directory of the files for the disks.
    :arg changed: called in another thread when a domain starts or stops, or its devices change, or the connection ends.
    :raises LibvirtMissing: libvirt can't be reached.
    """

    def __init__(self, uri: str, directory: str, changed: Callable[[], object]) -> None:
        start_event_loop(load_libvirt())
        self._hypervisor = Hypervisor(uri, read_only=True)
        self._libvirt = self._hypervisor.libvirt
        self._connection = self._hypervisor.connection
        self._directory = directory
        self._changed = changed
        #: The handles of running domains, and their devices, which are read once after each start and each event.
        self._known: dict[RunningDomain, tuple[Any, MetricsDevices | None]] = {}
        #: UUIDs of domains whose devices have changed, from the thread of events.
        self._stale: queue.SimpleQueue[str] = queue.SimpleQueue()
        #: The numbers of the registered events.
        self._events: list[int] = []
        with self._hypervisor.calls("send events"):
            self._register()
            self.product = self._version()

    def _register(self) -> None:
        libvirt = self._libvirt
        self._connection.registerCloseCallback(lambda *unused: self._changed(), None)
        with contextlib.suppress(libvirt.libvirtError):  # a driver without a daemon
            self._connection.setKeepAlive(PROBE_INTERVAL, PROBES)
        for event, callback in (
            (libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._note_lifecycle),
            (libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_ADDED, self._mark_stale),
            (libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED, self._mark_stale),
        ):
            self._events.append(self._connection.domainEventRegisterAny(None, event, callback, None))

    def _version(self) -> str:
        number = self._connection.getVersion()
        return f"{number // 1000000}.{number // 1000 % 1000}.{number % 1000}"

    def _note_lifecycle(self, _connection: object, _domain: object, event: int, *unused: object) -> None:
        # A guest can cause other events all the time.
        if event in (self._libvirt.VIR_DOMAIN_EVENT_STARTED, self._libvirt.VIR_DOMAIN_EVENT_STOPPED):
            self._changed()

    def _mark_stale(self, _connection: object, domain: Any, *unused: object) -> None:
        self._stale.put(domain.UUIDString())
        self._changed()

    def close(self) -> None:
        """Close the connection, also one that libvirt has closed."""
        self._known.clear()
        # libvirt keeps a connection open that has registered events.
        calls = [functools.partial(self._connection.domainEventDeregisterAny, number) for number in self._events]
        for call in (*calls, self._connection.unregisterCloseCallback, self._connection.close):
            with contextlib.suppress(self._libvirt.libvirtError):
                call()

    def domains(self) -> Mapping[RunningDomain, MetricsDevices]:
        """Return the running domains that have devices for metrics.

        :raises LibvirtFailed: libvirt refuses the call, or the connection is broken.
        """
        with self._hypervisor.calls("list its domains"):
            handles = self._connection.listAllDomains(self._libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE)
        running = {RunningDomain(one.UUIDString(), one.ID()): one for one in handles}
        stale = {self._stale.get_nowait() for _unused in range(self._stale.qsize())}
        self._known = {key: self._known[key] for key in running if key in self._known and key.uuid not in stale}
        for key, handle in running.items():
            if key not in self._known:
                self._known[key] = handle, self._find_devices(handle)
        return {key: found for key, (_handle, found) in self._known.items() if found is not None}

    def _find_devices(self, handle: Any) -> MetricsDevices | None:
        try:
            return find_metrics_devices(parse(handle.XMLDesc(0)), self._directory)
        except (self._libvirt.libvirtError, LibvirtFailed):  # the domain has ended
            return None

    def figures(self, domains: Iterable[RunningDomain]) -> Mapping[RunningDomain, VmFigures]:
        """Return the figures of domains that :meth:`domains` has returned, all by one call.

        A domain is missing in the result while libvirt can't read its figures without waiting.

        :raises LibvirtFailed: libvirt refuses the call, or the connection is broken.
        """
        handles = [self._known[key][0] for key in domains]
        if not handles:
            return {}
        wanted = self._libvirt.VIR_DOMAIN_STATS_VCPU | self._libvirt.VIR_DOMAIN_STATS_BALLOON
        # Otherwise one domain with a long-running job would delay the figures of all others.
        flags = self._libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT
        with self._hypervisor.calls("return figures of its domains"):
            records = self._connection.domainListGetStats(handles, wanted, flags)
        found = {RunningDomain(one.UUIDString(), one.ID()): parse_figures(record) for one, record in records}
        return {key: figures for key, figures in found.items() if figures is not None}


def parse_figures(record: Mapping[str, Any]) -> VmFigures | None:
    """Return the figures in a record of statistics; ``None`` if the record lacks some."""
    processors, memory = record.get("vcpu.current"), record.get("balloon.current")
    if processors is None or memory is None:
        return None
    # The numbers of online processors have gaps.
    times = (record.get(f"vcpu.{number}.time", 0) for number in range(record.get("vcpu.maximum", processors)))
    return VmFigures(sum(times) / NANOSECONDS, processors, memory)


__all__ = ["MetricsSource", "parse_figures"]
