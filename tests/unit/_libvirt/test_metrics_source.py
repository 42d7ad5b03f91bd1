# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""The running domains with devices for metrics, on libvirt's own test driver. tests/integration has QEMU."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import libvirt
import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import LibvirtFailed, LibvirtMissing
from ansible_collections.granary.vmstore.plugins.module_utils._libvirt.devices.metrics import MetricsDevices
from ansible_collections.granary.vmstore.plugins.module_utils._libvirt.metrics_source import (
    MetricsSource,
    parse_figures,
)
from ansible_collections.granary.vmstore.plugins.module_utils._model.metrics import VmFigures
from refusal import refused

URI = "test:///default"
UUID = "d491271a-7fb7-473d-bbbd-d015e48d8f31"
DOMAIN = f"""<domain type='test'><name>measured</name><uuid>{UUID}</uuid><memory>8192</memory>
    <os><type>hvm</type></os><devices><channel type='unix'><source mode='bind' path='/run/port'/>
    <target type='virtio' name='org.github.vhostmd.1'/></channel></devices></domain>"""

#: Upper bound of the wait for an event in seconds.
LONGEST_WAIT = 60


@pytest.fixture
def changed() -> threading.Event:
    return threading.Event()


@pytest.fixture
def source(changed: threading.Event) -> Iterator[MetricsSource]:
    found = MetricsSource(URI, "/srv/metrics", changed.set)
    yield found
    found.close()


def test_domains_come_and_go(source: MetricsSource, changed: threading.Event) -> None:
    assert source.domains() == {}
    domain = libvirt.open(URI).createXML(DOMAIN)
    try:
        assert changed.wait(LONGEST_WAIT)
        [(found, devices)] = source.domains().items()
        assert (found.uuid, found.id) == (UUID, domain.ID())
        assert devices == MetricsDevices(False, "/run/port")
        # The test driver has no figures.
        assert source.figures([found]) == {}
        assert source.figures([]) == {}
        changed.clear()
    finally:
        domain.destroy()
    assert changed.wait(LONGEST_WAIT)
    assert source.domains() == {}


def test_a_domain_that_starts_again_is_another_one(source: MetricsSource) -> None:
    numbers = []
    for _unused in range(2):
        domain = libvirt.open(URI).createXML(DOMAIN)
        numbers += [one.id for one in source.domains()]
        domain.destroy()
    assert len(set(numbers)) == 2


def test_a_closed_connection_is_an_error(source: MetricsSource) -> None:
    source.close()
    with refused(LibvirtFailed):
        source.domains()
    source.close()


def test_a_libvirt_that_is_missing() -> None:
    with refused(LibvirtMissing, names=["/nonexistent"]):
        MetricsSource("qemu+unix:///system?socket=/nonexistent", "/srv/metrics", int)


def test_figures_are_those_of_the_record() -> None:
    record = {
        "vcpu.current": 2,
        "vcpu.maximum": 4,
        "vcpu.0.time": 1_500_000_000,
        "vcpu.3.time": 250_000_000,
        "balloon.current": 262144,
        "balloon.maximum": 524288,
    }
    assert parse_figures(record) == VmFigures(1.75, 2, 262144)
    for name in ("vcpu.current", "balloon.current"):
        assert parse_figures({key: value for key, value in record.items() if key != name}) is None
