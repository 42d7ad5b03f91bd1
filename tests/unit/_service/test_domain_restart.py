# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""The restart on libvirt's test driver, whose guests shut down immediately.

tests/integration/test_virtiofs_daemon.py has guests that don't shut down.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import libvirt
import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import (
    InvalidInput,
    LibvirtFailed,
    PartlyDone,
)
from ansible_collections.granary.vmstore.plugins.module_utils._libvirt.connection import Domain
from ansible_collections.granary.vmstore.plugins.module_utils._service import host_lock
from ansible_collections.granary.vmstore.plugins.module_utils._service.export.export import VirtiofsExportService
from ansible_collections.granary.vmstore.plugins.module_utils._service.export.options import VIRTIOFS_EXPORT_SPEC
from refusal import refused

URI = "test:///default"
DOMAIN = "<domain type='test'><name>{}</name><memory unit='MiB'>64</memory><os><type>hvm</type></os></domain>"
DEFAULTS = {name: option.get("default") for name, option in VIRTIOFS_EXPORT_SPEC.argument_spec.items()}


@pytest.fixture
def host() -> Iterator[libvirt.virConnect]:
    libvirt.registerErrorHandler(lambda *unused: None, None)
    connection = libvirt.open(URI)
    for domain in connection.listAllDomains():
        persistent = domain.isPersistent()
        if domain.isActive():
            domain.destroy()
        if persistent:
            domain.undefine()
    yield connection
    connection.close()


@pytest.fixture
def running(host: libvirt.virConnect) -> libvirt.virDomain:
    """Start a domain without shared memory, so that every export needs a restart."""
    domain = host.defineXML(DOMAIN.format("a"))
    domain.create()
    return domain


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., VirtiofsExportService]:
    (tmp_path / "shared").mkdir()
    (daemon := tmp_path / "virtiofsd").write_text("#!/bin/sh\necho usage\n")
    daemon.chmod(0o755)
    monkeypatch.setattr(host_lock, "DIRECTORY", str(tmp_path / "lock"))
    desired = {
        "domain": "a",
        "source": str(tmp_path / "shared"),
        "mount_tag": "t",
        "binary": str(daemon),
        "allow_unmapped": True,
        "uri": URI,
    }

    def make(**options: object) -> VirtiofsExportService:
        return VirtiofsExportService({**DEFAULTS, **desired, "catalog": str(tmp_path / "catalog.sqlite"), **options})

    return make


@pytest.fixture
def number(host: libvirt.virConnect, running: libvirt.virDomain) -> Callable[[], int]:
    """libvirt numbers the starts of a domain."""
    return lambda: host.lookupByName("a").ID()


def test_a_restart_only_when_it_is_asked_for_and_needed(
    running: libvirt.virDomain, number: Callable, service: Callable
) -> None:
    first = number()
    assert [action.name for action in service().plan().actions] == ["add virtiofs device"]
    checked = service(restart="when_needed").plan()
    assert [action.name for action in checked.actions] == ["add virtiofs device", "restart domain"]
    assert checked.actions[1].before == {
        "restart_reasons": ["the memory of the running domain is not shared, which virtiofs needs"]
    }
    assert number() == first
    done = service(restart="when_needed").converge()
    assert done.as_result() == checked.as_result()
    assert (done.result["restart_required"], done.result["restart_reasons"]) == (False, [])
    assert number() != first
    assert "<target dir='t'/>" in running.XMLDesc()
    second = number()
    again = service(restart="when_needed").converge()
    assert (again.actions, number()) == ([], second)


def test_a_domain_that_is_off_stays_off(host: libvirt.virConnect, service: Callable) -> None:
    domain = host.defineXML(DOMAIN.format("a"))
    assert [action.name for action in service(restart="when_needed_force").converge().actions] == [
        "add virtiofs device"
    ]
    assert not domain.isActive()


@pytest.mark.parametrize(
    ("broken", "state"),
    [
        (1, "The domain 'a' runs again with its old definition."),
        (
            2,
            "The old definition of the domain 'a' is back, but it is off now, because it doesn't start with that "
            "either.",
        ),
    ],
)
def test_a_domain_that_does_not_start_again(
    broken: int, state: str, running: libvirt.virDomain, service: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, real, starts = running.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE), Domain.start, []

    def start(self: Domain) -> None:
        starts.append(self)
        if len(starts) <= broken:
            raise LibvirtFailed("It is broken.")
        real(self)

    monkeypatch.setattr(Domain, "start", start)
    with refused(LibvirtFailed, says=f"It is broken. {state}"):
        service(restart="when_needed").converge()
    assert running.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE) == before
    assert running.isActive() == (broken == 1)


def test_a_change_by_another_program_is_not_taken_back(
    host: libvirt.virConnect, running: libvirt.virDomain, service: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(_self: Domain) -> None:
        host.defineXML(
            running.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE).replace("</memory>", "</memory><title>mine</title>")
        )
        raise LibvirtFailed("It is broken.")

    monkeypatch.setattr(Domain, "start", start)
    with refused(LibvirtFailed, says="It is broken. The domain 'a' is off now."):
        service(restart="when_needed").converge()
    assert "<title>mine</title>" in running.XMLDesc()


def test_a_guest_that_does_not_shut_down(number: Callable, service: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Domain, "shut_down", lambda *unused: False)
    first = number()
    with refused(
        PartlyDone,
        says="The domain 'a' was not restarted, because its guest did not shut down within 120 "
        "seconds, and if it does so later, the domain stays off; 'restart: when_needed_force' "
        "turns its power off.",
    ) as raised:
        service(restart="when_needed").converge()
    assert [action.name for action in raised.value.plan.actions] == ["add virtiofs device"]
    assert raised.value.plan.result["restart_required"]
    assert number() == first
    assert [action.name for action in service(restart="when_needed_force").converge().actions] == ["restart domain"]
    assert number() != first


def test_nobody_waits_for_a_restart_of_another_domain(
    running: libvirt.virDomain, service: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shut_down(self: Domain, _deadline: float) -> bool:
        with service().exclusive():  # would fail at its deadline if the module held the lock
            self.destroy()
        return True

    monkeypatch.setattr(Domain, "shut_down", shut_down)
    assert service(restart="when_needed").converge().changed


def test_a_transient_domain_is_not_restarted(host: libvirt.virConnect, service: Callable) -> None:
    domain = host.createXML(DOMAIN.format("a"))
    plan = service(state="absent", restart="when_needed_force").converge()
    assert (plan.restart, domain.isActive()) == (None, True)


def test_the_guest_gets_time(service: Callable) -> None:
    with refused(InvalidInput, says="restart_timeout: 0 is not accepted: a number of seconds from 1 on is expected."):
        service(restart_timeout=0)
