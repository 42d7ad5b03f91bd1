# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""The collection, with figures of the test. tests/integration has those of QEMU."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import LibvirtFailed, LibvirtMissing
from ansible_collections.granary.vmstore.plugins.module_utils._host.metrics.disk import initial_disk
from ansible_collections.granary.vmstore.plugins.module_utils._host.metrics.disks import MetricsDisks
from ansible_collections.granary.vmstore.plugins.module_utils._libvirt.devices.metrics import MetricsDevices
from ansible_collections.granary.vmstore.plugins.module_utils._model.metrics import (
    RunningDomain,
    VmFigures,
    metrics_file,
)
from ansible_collections.granary.vmstore.plugins.module_utils._service.metrics.collector import INTERVAL, Collector
from metrics_reader import metrics_of, read_disk

BOTH, PORT = (RunningDomain(f"00000000-0000-4000-8000-{number:012}", number) for number in (1, 2))
LONGEST_WAIT = 60


class Source:
    """A libvirt with two domains. ``failures`` are raised by the next calls."""

    product = "10.0.2"

    def __init__(self, failures: list[Exception]) -> None:
        self.failures = failures
        self.is_closed = False
        self.looks = self.updates = 0

    def domains(self) -> Mapping[RunningDomain, MetricsDevices]:
        if self.failures:
            raise self.failures.pop()
        self.looks += 1
        return {BOTH: MetricsDevices(True, "/run/both"), PORT: MetricsDevices(False, "/run/port")}

    def figures(self, domains: Mapping[RunningDomain, MetricsDevices]) -> Mapping[RunningDomain, VmFigures]:
        self.updates += 1
        return {one: VmFigures(one.id, one.id, 1024 * one.id) for one in domains}

    def close(self) -> None:
        self.is_closed = True


class Server:
    """The server of the ports, which keeps what it gets."""

    def __init__(self) -> None:
        self.paths: Mapping[RunningDomain, str] = {}
        self.documents: Mapping[RunningDomain, bytes] = {}
        self.published = threading.Event()

    def set_ports(self, paths: Mapping[RunningDomain, str]) -> None:
        self.paths = paths

    def publish(self, documents: Mapping[RunningDomain, bytes]) -> None:
        self.documents = documents
        self.published.set()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = Path(metrics_file(BOTH.uuid, str(tmp_path)))
    path.parent.mkdir()
    path.write_bytes(initial_disk())
    return path


def create_collector(
    file: Path, server: Server, log: list[str], connect: Callable[[Callable[[], object]], Source]
) -> Collector:
    disks = MetricsDisks(str(file.parents[1]), log.append)
    return Collector(connect, disks, server, "node01", log.append)  # type: ignore[arg-type]


def test_documents_reach_disks_and_ports(file: Path) -> None:
    server, log = Server(), []
    collector = create_collector(file, server, log, lambda changed: Source([]))
    source = Source([])
    collector.update(source, source.domains())
    assert server.paths == {BOTH: "/run/both", PORT: "/run/port"}
    found = {domain: {row[:2]: row[-1] for row in rows} for domain, rows in documents(server).items()}
    for domain in (BOTH, PORT):
        assert found[domain]["vm", "ResourceMemoryLimit"] == str(1024 * domain.id)
        assert found[domain]["host", "HostName"] == "node01"
    # A document on a disk ends with a line end.
    assert read_disk(str(file)) == server.documents[BOTH] + b"\n"
    assert log == []


def documents(server: Server) -> dict[RunningDomain, list[tuple[str, ...]]]:
    return {domain: metrics_of(document) for domain, document in server.documents.items()}


def test_a_broken_connection_is_replaced(file: Path) -> None:
    """The first connection can't be opened, and the second breaks with the same error, which is logged once."""
    server, log, made = Server(), [], []

    def connect(_changed: Callable[[], object]) -> Source:
        if not made:
            made.append(None)
            raise LibvirtMissing("it broke")
        made.append(Source([LibvirtFailed("it broke")] if len(made) == 1 else []))
        return made[-1]

    collector = create_collector(file, server, log, connect)
    thread = threading.Thread(target=collector.run)
    thread.start()
    assert server.published.wait(LONGEST_WAIT)
    collector.stop()
    thread.join()
    assert [source.is_closed for source in made[1:]] == [True, True]
    assert ["it broke" in line for line in log] == [True, False]


def test_an_event_without_other_domains_costs_no_update(file: Path) -> None:
    """A guest could otherwise let the host read the figures of all domains all the time."""
    server, source, looked = Server(), Source([]), threading.Event()

    def connect(changed: Callable[[], object]) -> Source:
        domains = source.domains

        def look() -> Mapping[RunningDomain, MetricsDevices]:
            changed()
            if source.looks:
                looked.set()
            return domains()

        source.domains = look  # type: ignore[method-assign]
        return source

    collector = create_collector(file, server, [], connect)
    begin = time.monotonic()
    thread = threading.Thread(target=collector.run)
    thread.start()
    assert looked.wait(LONGEST_WAIT)
    collector.stop()
    thread.join()
    assert source.updates <= 1 + (time.monotonic() - begin) / INTERVAL
