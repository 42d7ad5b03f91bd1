# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Decisions of the service, on libvirt's own test driver, with real definitions and no running guests.

tests/integration/test_virtiofs_export.py has the tests that need a running domain, a real virtiofsd or a mapped id.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import libvirt
import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._catalog.catalog import Catalog, open_catalog
from ansible_collections.granary.vmstore.plugins.module_utils._catalog.images import IMAGES
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import (
    CatalogFailed,
    Conflict,
    DependencyMissing,
    DependencyNotFound,
    FileAccessFailed,
    InvalidInput,
    LibvirtFailed,
    LibvirtMissing,
    NotFound,
    PartlyDone,
    PathNotAllowed,
    StaleState,
    UnsupportedAction,
    VmstoreError,
)
from ansible_collections.granary.vmstore.plugins.module_utils._core.plan import Plan
from ansible_collections.granary.vmstore.plugins.module_utils._host.ids import domain_ids
from ansible_collections.granary.vmstore.plugins.module_utils._host.virtiofsd import wrapper as virtiofsd_wrapper
from ansible_collections.granary.vmstore.plugins.module_utils._host.virtiofsd.program import Daemon
from ansible_collections.granary.vmstore.plugins.module_utils._image.nocloud_seed import SeedMount, read_seed
from ansible_collections.granary.vmstore.plugins.module_utils._libvirt.connection import Domain
from ansible_collections.granary.vmstore.plugins.module_utils._libvirt.devices.filesystem import VirtioFs
from ansible_collections.granary.vmstore.plugins.module_utils._model.idmap import IdMap
from ansible_collections.granary.vmstore.plugins.module_utils._model.image import Image
from ansible_collections.granary.vmstore.plugins.module_utils._service import host_lock
from ansible_collections.granary.vmstore.plugins.module_utils._service.export import support
from ansible_collections.granary.vmstore.plugins.module_utils._service.export.export import VirtiofsExportService
from ansible_collections.granary.vmstore.plugins.module_utils._service.export.identity import decide_maps, owners
from ansible_collections.granary.vmstore.plugins.module_utils._service.export.info import virtiofs_export_info
from ansible_collections.granary.vmstore.plugins.module_utils._service.export.options import VIRTIOFS_EXPORT_SPEC
from ansible_collections.granary.vmstore.plugins.module_utils._service.export.support import (
    HostSupport,
    check_read_only,
    check_wrapper,
    map_obstacle,
)
from ansible_collections.granary.vmstore.plugins.module_utils._service.image.attachment import (
    ImageAttachment,
    attachments,
    record_attachment,
    resolve_attachment,
)
from refusal import refused

URI = "test:///default"
DOMAIN = """<domain type='test'><name>{}</name><metadata><a:b xmlns:a='http://a'>x</a:b></metadata>
<memory unit='MiB'>64</memory><os><type>hvm</type></os>
<devices><graphics type='vnc' port='5901' passwd='secret'/>{}</devices></domain>"""
DEVICE = (
    "<filesystem accessmode='passthrough'><driver type='virtiofs'/><source dir='{}'/><target dir='{}'/>{}</filesystem>"
)
DEFAULTS = {name: option.get("default") for name, option in VIRTIOFS_EXPORT_SPEC.argument_spec.items()}


@pytest.fixture
def host() -> Iterator[libvirt.virConnect]:
    """Yield another client's connection to the test driver's host. The host exists until its last connection ends."""
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
def define(host: libvirt.virConnect) -> Callable[..., libvirt.virDomain]:
    def one(name: str = "a", *devices: str) -> libvirt.virDomain:
        shared = "<memoryBacking><access mode='shared'/></memoryBacking>" if devices else ""
        return host.defineXML(DOMAIN.format(name, "".join(devices)).replace("<os>", f"{shared}<os>"))

    return one


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    directory = tmp_path / 'it\'s "$(touch pwned)" & <mine>'
    directory.mkdir()
    return directory


@pytest.fixture
def service(tmp_path: Path, shared: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., VirtiofsExportService]:
    """Return services whose virtiofsd can't map, so that the tests are independent of the machine's accounts."""
    daemon = tmp_path / "virtiofsd"
    daemon.write_text("#!/bin/sh\necho usage\n")
    daemon.chmod(0o755)
    monkeypatch.setattr(host_lock, "DIRECTORY", str(tmp_path / "lock"))
    monkeypatch.setattr(virtiofsd_wrapper, "RECORDS", str(tmp_path / "state" / "exports.json"))
    monkeypatch.setattr(domain_ids, "ALLOCATIONS", str(tmp_path / "state" / "domain_ids.json"))

    def make(**options: Any) -> VirtiofsExportService:
        desired = {
            "domain": "a",
            "binary": str(daemon),
            "allow_unmapped": True,
            "uri": URI,
            "host": "hv1",
            "catalog": str(tmp_path / "catalog.sqlite"),
            **options,
        }
        if not any(name in desired for name in ("image", "attachment", "source")) and desired.get("state") != "absent":
            desired.update({"source": str(shared), "mount_tag": "t", **options})
        return VirtiofsExportService({**DEFAULTS, **desired})

    return make


def run(service: VirtiofsExportService) -> Plan:
    with service.exclusive():
        plan = service.plan()
        plan.run()
    return plan


def names(plan: Plan) -> list[str]:
    return [action.name for action in plan.actions]


def device_of(domain: libvirt.virDomain, tag: str = "t") -> ET.Element | None:
    return ET.fromstring(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)).find(
        f"devices/filesystem/target[@dir='{tag}']/.."
    )


def test_exports_of_one_host_wait_for_each_other(define: Callable, service: Callable, tmp_path: Path) -> None:
    define()
    with service().exclusive(), open(tmp_path / "lock" / "libvirt.lock", "rb") as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


# The definition


def test_check_run_again_check_again(define: Callable, service: Callable, shared: Path) -> None:
    domain = define()
    before = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_SECURE)
    assert names(service().plan()) == ["add virtiofs device"]
    assert domain.XMLDesc(libvirt.VIR_DOMAIN_XML_SECURE) == before
    plan = run(service())
    assert (names(plan), plan.result["restart_required"]) == (["add virtiofs device"], False)
    assert device_of(domain).find("source").get("dir") == str(shared)
    assert not run(service()).changed
    assert not service().plan().changed
    # The definition is restored, except for the shared memory, which stays.
    assert names(run(service(state="absent", mount_tag="t"))) == ["remove virtiofs device"]
    after = re.sub(
        r"  <memoryBacking>.*?</memoryBacking>\n", "", domain.XMLDesc(libvirt.VIR_DOMAIN_XML_SECURE), flags=re.DOTALL
    )
    assert after == before
    assert "passwd='secret'" in after


def test_the_directory_gets_its_owner_before_the_domain_gets_the_directory(
    define: Callable, service: Callable, shared: Path
) -> None:
    define()
    desired = {"owner": "guest:5", "group": "6", "mode": "0770"}
    assert names(service(**desired).plan()) == ["change directory", "add virtiofs device"]
    assert os.stat(shared).st_uid == 0
    assert names(run(service(**desired))) == ["change directory", "add virtiofs device"]
    found = os.stat(shared)
    assert (found.st_uid, found.st_gid, oct(found.st_mode)) == (5, 6, "0o40770")
    assert (
        not run(service(**desired)).changed and not service(**desired).plan().changed and not service().plan().changed
    )
    shared.chmod(0o755)
    assert names(run(service(**desired))) == ["change directory"]
    assert names(run(service(state="absent", mount_tag="t", **desired))) == ["remove virtiofs device"]
    assert os.stat(shared).st_uid == 5


def test_it_gets_the_old_one_back_where_the_export_fails(
    define: Callable, service: Callable, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    define()

    def fail(*_arguments: object) -> None:
        raise LibvirtFailed("libvirt is gone.")

    monkeypatch.setattr(Domain, "define", fail)
    with pytest.raises(LibvirtFailed):
        run(service(owner="5"))
    assert os.stat(shared).st_uid == 0
    assert not run(service(state="absent", mount_tag="t")).changed


def test_the_diff_shows_the_device_and_no_secret(define: Callable, service: Callable) -> None:
    define()
    plan = service().plan()
    assert '<target dir="t" />' in plan.actions[0].after
    assert "secret" not in json.dumps(plan.diff() + plan.as_result())


def test_an_option_that_isnt_given_stays_and_one_that_is_changes(define: Callable, service: Callable) -> None:
    domain = define()
    run(service(queue=64, thread_pool=4, xattr=True))
    assert names(run(service(cache="always"))) == ["change virtiofs device"]
    device = device_of(domain)
    assert (
        device.find("driver").get("queue"),
        device.find("binary/thread_pool").get("size"),
        device.find("binary").get("xattr"),
    ) == ("64", "4", "on")
    assert device.find("binary/cache").get("mode") == "always"
    run(service(cache="auto"))
    assert device_of(domain).find("binary/cache") is None


def test_a_symbolic_link_is_resolved_when_it_is_given_as_source(
    define: Callable, service: Callable, shared: Path
) -> None:
    domain = define()
    (shared.parent / "link").symlink_to(shared)
    run(service(source=str(shared.parent / "link"), mount_tag="t"))
    assert device_of(domain).find("source").get("dir") == str(shared)
    assert names(run(service(source=str(shared.parent / "link"), state="absent"))) == ["remove virtiofs device"]


def test_a_domain_undefined_half_way_stays_undefined(
    host: libvirt.virConnect, define: Callable, service: Callable
) -> None:
    domain = define()
    desired = service()
    plan = desired.plan()
    domain.undefine()
    with refused(NotFound, says="Could not read the domain 'a': it doesn't exist (any more)."):
        plan.run()
    assert host.listAllDomains() == []


def test_another_programs_change_is_not_lost(host: libvirt.virConnect, define: Callable, service: Callable) -> None:
    domain = define()
    plan = service().plan()
    host.defineXML(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_SECURE).replace("5901", "5977"))
    with refused(StaleState, names=["'a'"]):
        plan.run()
    assert "5977" in domain.XMLDesc()
    assert device_of(domain) is None


def test_a_directory_that_becomes_a_link_before_it_is_used(define: Callable, service: Callable, shared: Path) -> None:
    domain = define()
    plan = service().plan()
    shared.rename(shared.parent / "moved")
    shared.symlink_to("/etc")
    with refused(
        StaleState,
        names=["source", repr(str(shared)), "'/etc'"],
    ):
        plan.run()
    assert device_of(domain) is None
    shared.unlink()
    shared.mkdir()
    plan = service().plan()
    shared.rmdir()
    (shared.parent / "moved").rename(shared)
    with refused(
        StaleState,
        names=["source", repr(str(shared))],
    ):
        plan.run()
    assert device_of(domain) is None


def test_what_libvirt_drops_puts_the_old_definition_back(
    define: Callable, service: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    domain = define()
    before = domain.XMLDesc()
    desired = service()
    plan = desired.plan()
    real = Domain.define

    def dropping(self, text, validate=True):
        """Define like a libvirt without support of <cache>, which drops the element if the schema isn't checked."""
        real(self, text.replace('<cache mode="none" />', ""), validate=False)

    monkeypatch.setattr(Domain, "define", dropping)
    with refused(LibvirtFailed, names=["/domain/devices/filesystem/binary/cache", "'a'"]):
        plan.run()
    assert domain.XMLDesc() == before


def test_a_later_step_that_fails_puts_the_old_definition_back(
    define: Callable, service: Callable, tmp_path: Path
) -> None:
    domain = define()
    before = domain.XMLDesc()
    (tmp_path / "gone").mkdir()
    plan = service(seed=str(tmp_path / "gone" / "seed.iso"), mount_point="/srv/x").plan()
    (tmp_path / "gone").rmdir()
    with refused(FileAccessFailed, says=f"Could not write {tmp_path}/gone/seed.iso: No such file or directory."):
        plan.run()
    assert domain.XMLDesc() == before


# Refusals


@pytest.mark.parametrize(
    ("options", "error", "refusal"),
    [
        ({"source": "relative"}, InvalidInput, {"option": "source", "value": "relative"}),
        ({"source": "/etc"}, PathNotAllowed, {"option": "source", "value": "/etc"}),
        ({"source": "/"}, PathNotAllowed, {"option": "source", "value": "/"}),
        ({"source": "/mnt/\udcff"}, InvalidInput, {"option": "source", "value": "/mnt/\udcff"}),
        ({"mount_tag": None}, InvalidInput, {"says": "mount_tag is missing: a source that is no image needs a tag."}),
        ({"mount_tag": "x" * 37}, InvalidInput, {"option": "mount_tag", "value": "x" * 37}),
        ({"mount_tag": "a b"}, InvalidInput, {"option": "mount_tag", "value": "a b"}),
        ({"mount_point": "/etc"}, InvalidInput, {"option": "mount_point", "value": "/etc"}),
        (
            {"seed": "/mnt/seed"},
            InvalidInput,
            {"says": "mount_point is missing: a seed for a source that is no image needs a mount point."},
        ),
        (
            {"queue": 100},
            InvalidInput,
            {"says": "queue: 100 is not accepted: a power of 2 from 1 to 1024 is expected."},
        ),
        (
            {"thread_pool": -1},
            InvalidInput,
            {"says": "thread_pool: -1 is not accepted: a number of threads from 0 on is expected."},
        ),
        ({"binary": "/etc/passwd"}, InvalidInput, {"option": "binary", "value": "/etc/passwd"}),
        ({"uri": "qemu+ssh://x/system"}, InvalidInput, {"option": "uri", "value": "qemu+ssh://x/system"}),
        (
            {"gid_map": [{"start": 0, "target": 5, "count": 9}, {"start": 8, "target": 50, "count": 9}]},
            InvalidInput,
            {"option": "gid_map", "value": "0:5:9 8:50:9"},
        ),
        (
            {"source": None, "attachment": {"source": "/etc"}, "mount_tag": None},
            InvalidInput,
            {"option": "attachment", "value": "source"},
        ),
        (
            {"source": None},
            InvalidInput,
            {
                "says": "state: 'present' is not accepted: with it one of image, attachment and source is expected.",
            },
        ),
        ({"domain": "nope"}, DependencyNotFound, {"names": ["domain", "'nope'"]}),
        ({"source": "/mnt/no such directory"}, DependencyNotFound, {"names": ["source", "'/mnt/no such directory'"]}),
        ({"read_only": True}, UnsupportedAction, {"names": ["read_only"]}),
        ({"allow_unmapped": False}, UnsupportedAction, {"names": ["'allow_unmapped: true'"]}),
        (
            {"uid_map": [{"start": 0, "target": 100000, "count": 9}]},
            UnsupportedAction,
            {"names": ["uid_map", "'0:100000:9'"]},
        ),
    ],
)
def test_bad_input_is_one_sentence_and_changes_nothing(
    define: Callable,
    service: Callable,
    options: dict[str, Any],
    error: type[VmstoreError],
    refusal: dict[str, Any],
) -> None:
    domain = define()
    before = domain.XMLDesc()
    with refused(error, **refusal) as raised:
        run(service(**{"mount_tag": "t", "source": "/mnt", **options}))
    assert "\n" not in str(raised.value)
    assert domain.XMLDesc() == before


def test_a_transient_domain_has_no_definition(host: libvirt.virConnect, service: Callable) -> None:
    host.createXML(DOMAIN.format("a", ""))
    with refused(
        UnsupportedAction, says="The domain 'a' is transient: it has no definition that an export could be added to."
    ):
        service().plan()


def test_a_tag_or_a_directory_twice_names_the_other_side(define: Callable, service: Callable, shared: Path) -> None:
    define(
        "a",
        DEVICE.format("/srv/other", "t", ""),
        "<filesystem><source dir='/srv/9p'/><target dir='nine'/></filesystem>",
    )
    with refused(Conflict, says="mount_tag: 't' belongs to '/srv/other' in the domain 'a'."):
        service().plan()
    with refused(Conflict, names=["'nine'", "'/srv/9p'"]):
        service(mount_tag="nine").plan()
    run(service(mount_tag="first"))
    with refused(
        Conflict,
        says=f"The domain 'a' exports {str(shared)!r} already, with the mount tag 'first', and can have it only once; "
        "remove that export (state: absent) to have it as 'second'.",
    ):
        service(mount_tag="second").plan()


# Images


@pytest.fixture
def catalog(tmp_path: Path, shared: Path) -> Iterator[Catalog]:
    with open_catalog(str(tmp_path / "catalog.sqlite"), create=True) as opened, opened.transaction():
        for number, (name, persistent, read_only) in enumerate(
            (("pers", True, False), ("both", False, True), ("plain", False, False)), 5
        ):
            path = tmp_path / name
            path.mkdir()
            IMAGES.insert(
                opened,
                Image(
                    number,
                    name,
                    1,
                    "filesystem",
                    str(path),
                    1,
                    persistent,
                    read_only,
                    f"one-{number}",
                    f"/mnt/one-fs-{number}",
                ),
            )
    with open_catalog(str(tmp_path / "catalog.sqlite"), create=False) as opened:
        yield opened


def query_attachments(catalog: Catalog) -> list[tuple[str, str]]:
    return [(one.image, one.domain) for one in attachments(catalog)]


def test_an_image_is_attached_with_the_change_and_detached_with_it(
    define: Callable, service: Callable, catalog: Catalog
) -> None:
    domain = define()
    assert names(service(image="pers").plan()) == ["claim image", "add virtiofs device"]
    assert query_attachments(catalog) == []
    plan = run(service(image="pers"))
    assert (plan.result["device"]["mount_tag"], plan.result["device"]["mount_point"]) == ("one-5", "/mnt/one-fs-5")
    assert query_attachments(catalog) == [("pers", "a")]
    assert not run(service(image="5")).changed
    assert names(run(service(image="pers", mount_point="/data"))) == ["claim image"]
    assert attachments(catalog)[0].mount_point == "/data"
    assert names(run(service(image="pers", state="absent"))) == ["remove virtiofs device", "release image"]
    assert (device_of(domain, "one-5"), query_attachments(catalog)) == (None, [])
    assert not run(service(image="pers", state="absent")).changed
    assert not run(service(image="no such image", state="absent")).changed


def test_absent_leaves_other_devices(define: Callable, service: Callable, catalog: Catalog) -> None:
    domain = define("a", DEVICE.format("/srv/other", "other", ""))
    run(service(image="pers"))
    assert names(run(service(image="pers", state="absent"))) == ["remove virtiofs device", "release image"]
    assert device_of(domain, "other") is not None


def test_an_export_without_a_map_is_warned_of_on_each_run(define: Callable, service: Callable, shared: Path) -> None:
    define()
    for plan in (run(service()), run(service())):
        assert plan.warnings[0].startswith(
            f"{shared} is exported without an id map, so the guest's root is root in it: "
        )


def test_another_image_of_the_same_directory_is_not_removed(
    define: Callable, service: Callable, catalog: Catalog, tmp_path: Path
) -> None:
    domain = define()
    IMAGES.insert(
        catalog, Image(9, "reader", 1, "filesystem", str(tmp_path / "pers"), 1, False, True, "one-9", "/mnt/one-fs-9")
    )
    run(service(image="pers"))
    assert not run(service(image="reader", state="absent")).changed
    assert device_of(domain, "one-5") is not None
    assert query_attachments(catalog) == [("pers", "a")]


def test_an_attachment_outlives_a_device_that_the_guest_keeps(
    define: Callable, service: Callable, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    domain = define()
    run(service(image="pers"))
    domain.create()
    monkeypatch.setattr(Domain, "detach", lambda *unused: False)
    plan = run(service(image="pers", state="absent"))
    assert (names(plan), plan.result["restart_required"], query_attachments(catalog)) == (
        ["remove virtiofs device"],
        True,
        [("pers", "a")],
    )
    domain.destroy()
    assert names(run(service(image="pers", state="absent"))) == ["release image"]
    assert query_attachments(catalog) == []


def test_a_device_that_libvirt_does_not_unplug_keeps_its_image(
    define: Callable, service: Callable, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rest is done: the guest may have begun to release the device, so nothing is taken back."""
    domain = define()
    run(service(image="pers"))
    domain.create()

    def refuse(*_arguments: object) -> bool:
        raise LibvirtFailed("libvirt is busy.")

    with monkeypatch.context() as patch:
        patch.setattr(Domain, "detach", refuse)
        with refused(PartlyDone, names=["libvirt is busy."]):
            run(service(image="pers", state="absent"))
    assert (device_of(domain, "one-5"), query_attachments(catalog)) == (None, [("pers", "a")])
    assert names(service(image="pers", state="absent").plan()) == ["unplug virtiofs device", "release image"]


def test_a_device_that_is_not_as_it_was_asked_for_is_unplugged(
    define: Callable, service: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    domain = define("a", "<controller type='pci' index='0' model='pci-root'/>")
    domain.create()
    running, plugged, detached = domain.XMLDesc(), [], []

    def attach(_domain: Domain, device: str) -> None:
        plugged.append(device.replace("<source ", "<readonly /><source "))

    monkeypatch.setattr(Domain, "attach", attach)
    monkeypatch.setattr(Domain, "detach", lambda _self, device, *unused: detached.append(device))
    monkeypatch.setattr(
        Domain, "running_xml", lambda _domain: running.replace("</devices>", f"{''.join(plugged)}</devices>")
    )
    with refused(LibvirtFailed, names=["'t'"]):
        run(service())
    assert len(detached) == 1
    assert device_of(domain) is None


def test_root_is_known_whatever_the_uri_says(
    define: Callable, service: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    define()
    seen: list[bool] = []
    monkeypatch.setattr(
        support, "map_obstacle", lambda *unused, runs_as_root: (seen.append(runs_as_root), "of this test")[1]
    )
    for user, uri in ((0, "test:///default"), (1000, "test:///default")):
        monkeypatch.setattr(os, "geteuid", lambda user=user: user)
        service(uri=uri).plan()
    assert seen == [True, True]


def test_a_source_that_others_can_choose_is_refused(define: Callable, service: Callable, tmp_path: Path) -> None:
    define()
    (tmp_path / "theirs" / "in").mkdir(parents=True)
    (tmp_path / "theirs" / "link").symlink_to(tmp_path / "plain")
    (tmp_path / "plain").mkdir()
    assert run(service(source=str(tmp_path / "theirs" / "link"), mount_tag="root")).changed
    os.chown(tmp_path / "theirs", 54321, -1)
    with refused(
        PathNotAllowed,
        says=f"source: '{tmp_path}/theirs/link' is not accepted: '{tmp_path}/theirs/link' is a "
        f"symbolic link, and '{tmp_path}/theirs' belongs to the user id 54321; the path of the "
        "directory itself is expected.",
    ):
        service(source=str(tmp_path / "theirs" / "link"), mount_tag="x").plan()
    assert run(service(source=str(tmp_path / "theirs" / "in"), mount_tag="y")).changed


def test_an_attachment_can_not_lead_to_a_directory_of_the_system(define: Callable, service: Callable) -> None:
    define()
    for source in ("/", "/etc", "/var"):
        with refused(PathNotAllowed, option="attachment.source", value=str(source)):
            service(
                attachment=ImageAttachment(
                    5, "pers", source, True, False, "one-5", "/mnt/x", None, None, "hv1", "a"
                ).as_dict()
            ).plan()


def test_the_tag_alone_removes_the_attachment_too(define: Callable, service: Callable, catalog: Catalog) -> None:
    define()
    run(service(image="pers"))
    run(service(image="plain"))
    assert names(run(service(mount_tag="one-5", state="absent"))) == ["remove virtiofs device", "release image"]
    assert query_attachments(catalog) == [("plain", "a")]


def test_nothing_is_attached_when_the_domain_refuses(define: Callable, service: Callable, catalog: Catalog) -> None:
    define("a", DEVICE.format("/srv/other", "one-5", ""))
    with refused(Conflict, names=["/srv/other"]):
        run(service(image="pers"))
    assert query_attachments(catalog) == []


def test_a_catalog_that_cant_be_written_leaves_the_domain_alone(
    define: Callable, service: Callable, catalog: Catalog
) -> None:
    domain = define()
    before = domain.XMLDesc()
    # A trigger makes SQLite refuse the row, like a full disk would.
    catalog.execute("CREATE TRIGGER refuse BEFORE INSERT ON vm_disk BEGIN SELECT RAISE(ABORT, 'no'); END")
    with refused(CatalogFailed, names=["catalog", "no"]):
        run(service(image="pers"))
    assert domain.XMLDesc() == before


@pytest.mark.parametrize("earlier", [{}, {"mount_point": "/data"}])
def test_a_domain_that_fails_has_the_attachment_it_had(
    define: Callable, service: Callable, catalog: Catalog, monkeypatch: pytest.MonkeyPatch, earlier: dict[str, str]
) -> None:
    define()
    if earlier:
        run(service(image="pers", **earlier))
    before = attachments(catalog)

    def refuse(self, text, validate=True):
        raise LibvirtFailed("no")

    monkeypatch.setattr(Domain, "define", refuse)
    with refused(LibvirtFailed, names=["no"]):
        run(service(image="pers", cache="always"))
    assert attachments(catalog) == before


def test_another_host_that_was_faster_has_the_image(define: Callable, service: Callable, catalog: Catalog) -> None:
    domain = define()
    before = domain.XMLDesc()
    plan = service(image="pers").plan()
    record_attachment(catalog, resolve_attachment(catalog, "pers", "hv2", "web"))
    with refused(
        Conflict,
        says="The image 'pers' is persistent and the domain 'web' on the host 'hv2' uses it; only an "
        "image that is non-persistent and read_only can be shared.",
    ):
        plan.run()
    assert domain.XMLDesc() == before


def test_nobody_waits_for_libvirt_to_write_to_the_catalog(
    define: Callable, service: Callable, catalog: Catalog
) -> None:
    define()
    desired = service(image="pers")
    with desired.exclusive():
        desired.plan()
        with catalog.transaction():  # would fail at its deadline if the module held a transaction
            pass


def test_sharing_names_the_other_domain(define: Callable, service: Callable, catalog: Catalog, tmp_path: Path) -> None:
    define("a")
    define("b", DEVICE.format(tmp_path / "pers", "own", ""), DEVICE.format(tmp_path / "both", "own2", ""))
    with refused(
        Conflict,
        says="The image 'pers' is persistent and the domain 'b' on this host exports "
        f"'{tmp_path}/pers' writable with the mount tag 'own'; only one domain can write, so give "
        "one of them an image that is read-only.",
    ):
        service(image="pers").plan()
    run(service(image="plain"))
    define("c")
    with refused(
        Conflict,
        says="The image 'plain' is not read-only and the domain 'a' on the host 'hv1' uses it; only "
        "an image that is read_only can be shared.",
    ):
        service(domain="c", image="plain").plan()
    # A directory without an image is ignored.
    assert run(service(source=str(tmp_path / "plain"), mount_tag="x", domain="c")).changed


def test_an_attachment_of_a_domain_that_is_gone_is_removed(
    define: Callable, service: Callable, catalog: Catalog
) -> None:
    gone = define("gone")
    run(service(domain="gone", image="pers"))
    gone.undefine()
    define("a")
    plan = service(image="pers").plan()
    assert any("'gone'" in warning for warning in plan.warnings)
    assert query_attachments(catalog) == [("pers", "gone")]
    run(service(image="pers"))
    assert query_attachments(catalog) == [("pers", "a")]
    # Domains of another host are out of reach.
    with refused(Conflict, names=["'a'", "'hv1'"]):
        service(image="pers", host="hv2").plan()


def test_absent_where_the_domain_is_gone_removes_the_attachment(
    define: Callable, service: Callable, catalog: Catalog
) -> None:
    gone = define("gone")
    run(service(domain="gone", image="pers"))
    gone.undefine()
    assert names(run(service(domain="gone", image="pers", state="absent"))) == ["release image"]
    assert query_attachments(catalog) == []
    assert not run(service(domain="gone", image="pers", state="absent")).changed


def test_an_images_directory_that_became_a_link(
    define: Callable, service: Callable, catalog: Catalog, tmp_path: Path
) -> None:
    define()
    (tmp_path / "pers").rename(tmp_path / "moved")
    (tmp_path / "pers").symlink_to(tmp_path / "moved")
    with refused(StaleState, names=[f"'{tmp_path}/pers'", f"'{tmp_path}/moved'"]):
        service(image="pers").plan()


def attachment(source: Path, **values: Any) -> dict[str, Any]:
    fixed = {
        "image_id": 7,
        "image": "far",
        "persistent": True,
        "read_only": False,
        "mount_tag": "far",
        "mount_point": "/far",
        "uid_map": None,
        "gid_map": None,
    }
    return ImageAttachment(**{**fixed, "source": str(source), "host": "hv1", "domain": "a", **values}).as_dict()


def test_an_attachment_from_the_front_end(define: Callable, service: Callable, shared: Path) -> None:
    domain = define()
    plan = run(service(attachment=attachment(shared)))
    assert (names(plan), plan.result["device"]["image"], plan.result["device"]["mount_point"]) == (
        ["add virtiofs device"],
        "far",
        "/far",
    )
    assert not run(service(attachment=attachment(shared))).changed
    define("b")
    with refused(
        InvalidInput, says="attachment.domain: 'a' is not accepted: the attachment to the domain 'b' is expected."
    ):
        service(domain="b", attachment=attachment(shared)).plan()
    with refused(
        Conflict,
        names=["'far'", "'a'", repr(str(shared))],
    ):
        service(domain="b", attachment=attachment(shared, domain="b")).plan()
    assert run(service(attachment=attachment(shared), state="absent")).changed
    assert device_of(domain, "far") is None


def test_a_missing_catalog_names_it(define: Callable, service: Callable, tmp_path: Path) -> None:
    define()
    with refused(DependencyNotFound, names=[tmp_path / "catalog.sqlite"]):
        run(service(image="pers"))
    assert not os.path.exists(tmp_path / "catalog.sqlite")
    assert not run(service(image="pers", state="absent")).changed


def test_record_is_shared_with_image_attachment(
    define: Callable, service: Callable, catalog: Catalog, tmp_path: Path
) -> None:
    """The module image_attachment writes the same record."""
    define()
    made = attachment(tmp_path / "pers", image_id=5, image="pers", mount_tag="one-5", mount_point="/mnt/one-fs-5")
    with catalog.transaction():
        record_attachment(catalog, ImageAttachment.from_dict(made))
    assert names(run(service(image="pers"))) == ["add virtiofs device"]


# Seed


def test_the_seed_lists_the_exports_given_with_it(define: Callable, service: Callable, tmp_path: Path) -> None:
    domain = define()
    seed = str(tmp_path / "seed.iso")
    (tmp_path / "two").mkdir()
    assert names(service(seed=seed, mount_point="/b").plan()) == ["add virtiofs device", "write seed"]
    assert not os.path.exists(seed)
    run(service(seed=seed, mount_point="/b"))
    run(service(seed=seed, source=str(tmp_path / "two"), mount_tag="two", mount_point="/a"))
    found = read_seed(seed)
    assert (found.instance_id, found.mounts) == (domain.UUIDString(), (SeedMount("two", "/a"), SeedMount("t", "/b")))
    drives = ET.fromstring(domain.XMLDesc()).findall("devices/disk[@device='cdrom']")
    assert [(drive.find("source").get("file"), drive.find("readonly") is not None) for drive in drives] == [
        (seed, True)
    ]
    assert not run(service(seed=seed, mount_point="/b")).changed
    assert names(run(service(seed=seed, mount_tag="t", state="absent"))) == ["remove virtiofs device", "write seed"]
    assert read_seed(seed).mounts == (SeedMount("two", "/a"),)
    define("b")
    with refused(Conflict, says=f"seed: '{seed}' is the seed of the domain 'a'; the domain 'b' needs one of its own."):
        service(domain="b", seed=seed, mount_point="/b").plan()
    (tmp_path / "text").write_text("mine")
    with refused(
        Conflict,
        says=f"The file {tmp_path}/text is not a seed that this collection wrote; it is left alone, so "
        "remove it or name another file.",
    ):
        service(domain="b", seed=str(tmp_path / "text"), mount_point="/b").plan()


# Identity

WRAPPER = Daemon("/w", is_wrapper=True, can_map=True, can_read_only=True)
MAP = (IdMap(0, 200000, 10),)


@pytest.mark.parametrize(
    ("version", "daemon", "runs_as_root", "obstacle"),
    [
        ((10, 0, 0), WRAPPER, True, None),
        ((9, 10, 0), WRAPPER, True, "its libvirt is 9.10.0 and maps ids from 10.0.0 on"),
        ((11, 3, 0), Daemon("/c", False, False, False), False, "/c has no --uid-map"),
        ((11, 3, 0), Daemon("/r", False, True, True), True, "/r runs as root"),
        ((11, 3, 0), Daemon("/r", False, True, True), False, None),
    ],
)
def test_what_keeps_a_host_from_mapping(
    version: tuple[int, int, int], daemon: Daemon, runs_as_root: bool, obstacle: str | None
) -> None:
    found = map_obstacle(version, daemon, runs_as_root=runs_as_root)
    assert (found is None) if obstacle is None else found.startswith(obstacle)


def test_read_only_needs_both() -> None:
    check_read_only((11, 0, 0), WRAPPER)
    with refused(
        UnsupportedAction,
        says="read_only: a read-only export can't be had on this host, because its libvirt is 10.10.0 "
        "and exports read-only from 11.0.0 on.",
    ):
        check_read_only((10, 10, 0), WRAPPER)
    with refused(
        UnsupportedAction,
        says="read_only: a read-only export can't be had on this host, because /old has no --readonly "
        "(virtiofsd 1.13 or later is needed).",
    ):
        check_read_only((11, 0, 0), Daemon("/old", True, True, False))


@pytest.mark.parametrize("allow", [True, False])
def test_a_map_that_was_asked_for_is_never_left_out(allow: bool) -> None:
    with refused(
        UnsupportedAction, says="gid_map: the map '0:200000:10' can't be had on this host, because it is old."
    ):
        decide_maps(None, MAP, user="root", obstacle="it is old", allow_unmapped=allow)


def test_no_map_only_where_it_is_allowed() -> None:
    assert decide_maps(None, None, user="root", obstacle="it is old", allow_unmapped=True) == ((), ())
    with refused(
        UnsupportedAction,
        says="The guest's ids can't be mapped on this host, because it is old; without a map the "
        "guest's root is root in the directory, which 'allow_unmapped: true' accepts.",
    ):
        decide_maps(None, None, user="root", obstacle="it is old", allow_unmapped=False)
    with refused(DependencyNotFound, names=["'no-such-user'"]):
        decide_maps(None, None, user="no-such-user", obstacle=None, allow_unmapped=True)


@pytest.mark.parametrize("kind", ["uid", "gid"])
def test_the_guests_root_has_to_be_mapped(kind: str) -> None:
    # Without a mapped root, virtiofsd keeps the ids of its own user.
    maps = {"uid_map": None, "gid_map": None, f"{kind}_map": (IdMap(1, 200000, 10),)}
    with refused(
        InvalidInput,
        says=f"{kind}_map: '1:200000:10' is not accepted: a map of the guest's id 0 is expected, because virtiofsd "
        "works as 'root' itself without it.",
    ):
        decide_maps(**maps, user="root", obstacle=None, allow_unmapped=True)


def test_ids_of_a_domain_alone_where_they_cant_be_had(define: Callable, service: Callable) -> None:
    define()
    with refused(
        UnsupportedAction,
        says="subid: ids of the domain alone can't be had on this host, because its libvirt is 9.0.0 "
        "and maps ids from 10.0.0 on.",
    ):
        service(subid="per_domain").plan()


def test_what_guest_ids_are_on_the_host() -> None:
    assert owners((IdMap(0, 100000, 65536),), (IdMap(0, 5000, 10),)) == [
        {"guest": 0, "uid": 100000, "gid": 5000},
        {"guest": 1000, "uid": 101000, "gid": None},
    ]
    assert owners((), ()) == [{"guest": 0, "uid": 0, "gid": 0}, {"guest": 1000, "uid": 1000, "gid": 1000}]


# Info


def test_info_tells_definition_and_running_apart(define: Callable, host: libvirt.virConnect) -> None:
    domain = define("a", DEVICE.format("/srv/a", "t", "<binary><cache mode='always'/></binary>"))
    assert (
        virtiofs_export_info({"domain": "a", "service_user": "oneadmin", "uri": URI})["domains"][0]["devices"][0][
            "differences"
        ]
        == []
    )
    domain.create()
    host.defineXML(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE).replace("always", "none"))
    define("b")
    found = virtiofs_export_info({"domain": None, "service_user": "oneadmin", "uri": URI})["domains"]
    assert [(one["name"], one["running"], len(one["devices"])) for one in found] == [("a", True, 1), ("b", False, 0)]
    [device] = found[0]["devices"]
    assert (device["mount_tag"], device["source"], device["cache"], device["persistent"], device["running"]) == (
        "t",
        "/srv/a",
        "none",
        True,
        True,
    )
    assert device["differences"] == ["cache"]
    with refused(DependencyNotFound, names=["'c'"]):
        virtiofs_export_info({"domain": "c", "service_user": "oneadmin", "uri": URI})


def test_a_binary_left_to_libvirt_is_no_difference() -> None:
    assert VirtioFs("t", "/a").differences(VirtioFs("t", "/a", binary="/usr/libexec/virtiofsd")) == []
    assert VirtioFs("t", "/a", binary="/w").differences(VirtioFs("t", "/a", binary="/usr/libexec/virtiofsd")) == [
        "binary"
    ]


# Prerequisites that earlier tasks would install


def test_check_mode_goes_on_without_libvirt(service: Callable[..., VirtiofsExportService], shared: Path) -> None:
    with pytest.raises(LibvirtMissing):
        service(uri="test:///none").plan()
    plan = service(uri="test:///none", mount_point="/srv").dry_run()
    assert names(plan) == ["not known yet"]
    assert len(plan.warnings) == 1 and plan.warnings[0].endswith(
        "If no task before this one would bring that, the run fails here."
    )
    assert plan.result["device"] == {
        "image": None,
        "source": str(shared),
        "mount_tag": "t",
        "mount_point": "/srv",
        "read_only": False,
    }
    absent = service(uri="test:///none", state="absent", source=None, mount_tag="t").dry_run()
    assert (names(absent), absent.result["device"], len(absent.warnings)) == ([], None, 1)


def test_check_mode_goes_on_without_the_image(
    service: Callable[..., VirtiofsExportService], tmp_path: Path, define: Callable[..., libvirt.virDomain]
) -> None:
    define()
    for number in (0, 1):
        plan = service(image="new", source=None, mount_tag=None).dry_run()
        assert names(plan) == ["not known yet"]
        assert (plan.result["device"]["mount_tag"], plan.result["device"]["mount_point"]) == (
            f"one-{number}",
            f"/mnt/one-fs-{number}",
        )
        with open_catalog(str(tmp_path / "catalog.sqlite"), create=True) as catalog, catalog.transaction():
            catalog.take_id("image")


@pytest.mark.parametrize(
    ("version", "daemon", "may_be_installed"),
    [
        ((11, 0, 0), Daemon("/d", False, True, True), True),
        # No task upgrades an old libvirt or an old virtiofsd.
        ((9, 0, 0), Daemon("/d", False, True, True), False),
        ((11, 0, 0), Daemon("/d", False, False, True), False),
    ],
)
def test_check_mode_goes_on_without_the_wrapper(
    version: tuple[int, int, int], daemon: Daemon, may_be_installed: bool
) -> None:
    found = HostSupport(version, daemon.path, daemon, map_obstacle(version, daemon, runs_as_root=True))
    if may_be_installed:
        with refused(
            DependencyMissing,
            says="The guest's ids can't be mapped on this host yet, because /d runs as root and virtiofsd "
            "maps ids only as another user (the role granary.vmstore.hypervisor installs "
            "/usr/local/libexec/granary-virtiofsd for that).",
        ):
            check_wrapper(found)
    else:
        check_wrapper(found)
