# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""virtiofs_export on real hypervisors, verified with virsh, the processes, and the guests themselves."""

from __future__ import annotations

import contextlib
import difflib
import json
import re
import shlex
from collections.abc import Callable, Iterator

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import (
    Conflict,
    DependencyNotFound,
    InvalidInput,
    LibvirtFailed,
    LibvirtMissing,
    UnsupportedAction,
)
from lab import Lab
from lab.guests import Guest
from refusal import require_failure

ODD = """/srv/it's "$(touch pwned)" & `x` <a> b"""
WRAPPER = "/usr/local/libexec/granary-virtiofsd"
Execute = Callable[..., str]
Make = Callable[..., str]
Module = Callable[..., dict]


@pytest.fixture
def export(module: Module) -> Callable[..., dict]:
    def run(machine: str = "hv1", **options: object) -> dict:
        return module(machine, "virtiofs_export", **options)

    return run


@pytest.fixture
def xml(execute: Execute) -> Callable[..., str]:
    def dump(domain: str, *options: str, machine: str = "hv1") -> str:
        return execute(machine, "virsh", "dumpxml", domain, *options)

    return dump


def names(result: dict) -> list[str]:
    assert "msg" not in result, result["msg"]
    return [action["name"] for action in result["actions"]]


def guest(site: Lab, name: str, script: str, check: bool = True) -> str:
    return site.ssh(name, script, check=check)


# A definition


def test_cold_check_run_again_check_again(
    export: Callable[..., dict], domain: Make, directory: Make, xml: Make, execute: Execute
) -> None:
    domain("hv1", "a")
    directory("hv1", ODD)
    desired = {
        "domain": "a",
        "source": ODD,
        "mount_tag": "odd",
        "read_only": True,
        "queue": 64,
        "xattr": True,
        "sandbox": "namespace",
        "thread_pool": 2,
    }
    before = xml("a", "--inactive", "--security-info")
    checked = export(**desired, check=True)
    assert xml("a", "--inactive", "--security-info") == before
    result = export(**desired)
    assert checked["actions"] == result["actions"]
    assert names(result) == ["add virtiofs device"]
    assert (result["mapped"], result["restart_required"], result["restart_reasons"]) == (True, False, [])
    assert result["device"]["owners"] == [
        {"guest": 0, "uid": 100000, "gid": 100000},
        {"guest": 1000, "uid": 101000, "gid": 101000},
    ]
    after = xml("a", "--inactive", "--security-info")
    changes = [line for line in difflib.ndiff(before.splitlines(), after.splitlines()) if line[0] in "+-"]
    assert [line for line in changes if line.startswith("-")] == []
    blocks = "".join(line[2:].strip() for line in changes)
    assert re.sub("<memoryBacking>.*?</memoryBacking>|<filesystem .*?</filesystem>", "", blocks) == ""
    assert "passwd='secret'" in after
    for run in (export(**desired), export(**desired, check=True)):
        assert (run["changed"], run["actions"]) == (False, [])
    # libvirt and the wrapper pass the name on unchanged.
    execute("hv1", "virsh", "start", "a")
    arguments = execute(
        "hv1", "sh", "-c", "tr '\\0' '\\n' < /proc/$(pgrep -of '[t]hread-pool-size=2')/cmdline"
    ).splitlines()
    assert ODD in arguments or f"--shared-dir={ODD}" in arguments
    assert {"--readonly", "--xattr"} <= set(arguments)
    assert execute("hv1", "sh", "-c", "find / -xdev -name pwned") == ""
    execute("hv1", "virsh", "destroy", "a")
    removed = export(domain="a", source=ODD, state="absent")
    assert names(removed) == ["remove virtiofs device"]
    assert "<filesystem" not in xml("a", "--inactive")
    assert execute("hv1", "test", "-d", ODD) == ""
    assert not export(domain="a", source=ODD, state="absent")["changed"]
    assert not export(domain="no such domain", source=ODD, state="absent")["changed"]


def test_huge_pages_are_kept(export: Callable[..., dict], domain: Make, directory: Make, xml: Make) -> None:
    domain("hv1", "huge", hugepages=True)
    directory("hv1", "/srv/huge")
    export(domain="huge", source="/srv/huge", mount_tag="t")
    backing = re.search("<memoryBacking>.*</memoryBacking>", xml("huge", "--inactive"), re.DOTALL)
    assert re.sub(r"\s", "", backing[0]) == "<memoryBacking><hugepages/><accessmode='shared'/></memoryBacking>"


# A running domain


def test_a_running_guest_gets_it_and_loses_it(
    site: Lab, export: Callable[..., dict], directory: Make, xml: Make, execute: Execute, module: Module
) -> None:
    directory("hv1", "/srv/hot data")
    desired = {"domain": "hot", "source": "/srv/hot data", "mount_tag": "hot"}
    assert names(export(**desired, check=True)) == ["add virtiofs device", "plug virtiofs device"]
    assert "<filesystem" not in xml("hot")
    result = export(**desired)
    assert names(result) == ["add virtiofs device", "plug virtiofs device"]
    assert not result["restart_required"]
    try:
        guest(site, "hot", "mkdir -p /mnt/hot; until mount -t virtiofs hot /mnt/hot 2>/dev/null; do sleep 0.1; done")
        guest(site, "hot", "cd /mnt/hot; echo x > f; echo y > g; chown 1000:1000 g")
        assert execute("hv1", "stat", "-c", "%u:%g", "/srv/hot data/f", "/srv/hot data/g").split() == [
            "100000:100000",
            "101000:101000",
        ]
        assert execute("hv1", "sh", "-c", "ps -o uid= -p $(pgrep -of '[v]irtiofsd.*hot data')").split() == ["100000"]
        for check in (False, True):
            again = export(**desired, check=check)
            assert (again["changed"], again["restart_required"]) == (False, False)
        info = module("hv1", "virtiofs_export_info", domain="hot")["domains"][0]
        assert [
            (one["mount_tag"], one["persistent"], one["running"], one["differences"]) for one in info["devices"]
        ] == [("hot", True, True, [])]
        # A running domain keeps its values until a restart, and every run returns a warning.
        for changed in (True, False):
            result = export(**desired, cache="always")
            assert (result["changed"], result["restart_required"]) == (changed, True)
            assert result["restart_reasons"] == ["the running domain has the device with another cache"]
        info = module("hv1", "virtiofs_export_info", domain="hot")["domains"][0]
        assert info["devices"][0]["differences"] == ["cache"]
        guest(site, "hot", "umount /mnt/hot")
    finally:
        removed = export(domain="hot", mount_tag="hot", state="absent")
    assert names(removed) == ["remove virtiofs device", "unplug virtiofs device"]
    assert not removed["restart_required"]
    assert "<filesystem" not in xml("hot") + xml("hot", "--inactive")
    assert execute("hv1", "sh", "-c", "pgrep -af '[v]irtiofsd.*hot data' || true") == ""
    assert "hot" not in guest(site, "hot", "mount -t virtiofs hot /mnt/hot 2>/dev/null; cat /proc/mounts")
    assert not export(domain="hot", mount_tag="hot", state="absent")["changed"]


def test_a_mount_below_a_live_export(site: Lab, export: Callable[..., dict], directory: Make, execute: Execute) -> None:
    """The guest's rmdir unmounts no shared mount of the host. The module warns of mounts that aren't shared."""
    shared, private = "/srv/shared", "/srv/private"
    late = "mkdir {0}/late; chown 100000:100000 {0}/late; mount -t tmpfs late {0}/late; touch {0}/late/kept"
    for path in (shared, private):
        directory("hv1", path)
    execute(
        "hv1",
        "sh",
        "-ec",
        f"mount -t tmpfs private {private}; mount --make-private {private}; chown 100000:100000 {private}",
    )
    try:
        for path, tag in ((shared, "shared"), (private, "private")):
            assert not export(domain="hot", source=path, mount_tag=tag)["restart_required"]
            execute("hv1", "sh", "-ec", late.format(path))
            again = export(domain="hot", source=path, mount_tag=tag)
            assert not again["changed"]
            warnings = " ".join(again.get("warnings", "").split())
            assert (
                f"The file system late (type tmpfs) on {path}/late was mounted after a virtiofsd began to share"
                in warnings
            ) == (path == private)
        guest(
            site,
            "hot",
            "mkdir -p /mnt/shared; until mount -t virtiofs shared /mnt/shared 2>/dev/null; do sleep 0.1; done",
        )
        assert "Device or resource busy" in guest(site, "hot", "rmdir /mnt/shared/late 2>&1", check=False)
        assert "kept" in execute("hv1", "ls", f"{shared}/late")
        guest(site, "hot", "umount /mnt/shared")
    finally:
        for tag in ("shared", "private"):
            export(domain="hot", mount_tag=tag, state="absent")
        execute("hv1", "sh", "-c", f"umount {shared}/late {private}/late {private}; rmdir {shared}/late")


@pytest.mark.usefixtures("catalog_directory")
def test_a_guest_boots_with_a_read_only_image(
    site: Lab, module: Module, directory: Make, execute: Execute, cold: Guest
) -> None:
    """The catalog with datastore, image and export is on the hypervisor. The guest mounts the export with the module's
    result.
    """
    directory("hv1", "/srv/image")
    execute("hv1", "sh", "-c", "echo hello > /srv/image/file; chmod a+r /srv/image/file")
    for name, options in (
        ("datastore", {"name": "fs", "type": "image", "ds_driver": "virtiofs", "tm_driver": "virtiofs"}),
        ("image", {"name": "data", "datastore": "fs", "type": "filesystem", "path": "/srv/image", "read_only": True}),
    ):
        made = module("hv1", name, **options)
        assert made["changed"], made
    result = module("hv1", "virtiofs_export", domain="cold", image="data", mount_point="/data")
    assert names(result) == ["claim image", "add virtiofs device"]
    device = result["device"]
    assert (device["image"], device["mount_point"], device["read_only"]) == ("data", "/data", True)
    assert not module("hv1", "virtiofs_export", domain="cold", image="data", mount_point="/data")["changed"]
    cold.start()
    cold.wait_ready()
    assert (
        guest(
            site, "cold", f"mkdir -p /data; mount -t virtiofs {shlex.quote(device['mount_tag'])} /data; cat /data/file"
        ).strip()
        == "hello"
    )
    assert "Read-only file system" in guest(site, "cold", "touch /data/new 2>&1 || true")
    assert names(module("hv1", "virtiofs_export", domain="cold", image="data", state="absent")) == [
        "remove virtiofs device",
        "unplug virtiofs device",
        "release image",
    ]
    assert module("hv1", "image_info", name="data")["images"][0]["attachments"] == []


def test_memory_that_isnt_shared_needs_a_restart(
    export: Callable[..., dict], domain: Make, directory: Make, xml: Make, execute: Execute
) -> None:
    domain("hv1", "private", start=True)
    directory("hv1", "/srv/private")
    desired = {"domain": "private", "source": "/srv/private", "mount_tag": "t"}
    for check, changed in ((True, True), (False, True), (False, False), (True, False)):
        result = export(**desired, check=check)
        assert (result["changed"], result["restart_required"]) == (changed, True)
        assert result["restart_reasons"] == ["the memory of the running domain is not shared, which virtiofs needs"]
    assert "<filesystem" in xml("private", "--inactive")
    assert "<filesystem" not in xml("private")
    execute("hv1", "virsh", "destroy", "private")
    execute("hv1", "virsh", "start", "private")
    assert "<filesystem" in xml("private")
    result = export(**desired)
    assert (result["changed"], result["restart_required"]) == (False, False)


def test_no_free_port_needs_a_restart(export: Callable[..., dict], domain: Make, directory: Make, xml: Make) -> None:
    domain("hv1", "full", ports=0, shared=True, start=True)
    directory("hv1", "/srv/full")
    result = export(domain="full", source="/srv/full", mount_tag="t")
    assert (names(result), result["restart_required"]) == (["add virtiofs device"], True)
    assert "no free PCI slot" in result["restart_reasons"][0]
    # libvirt adds the port of the device, which is no change of ours.
    assert "pcie-root-port" in xml("full", "--inactive")


def test_a_guest_that_does_not_release_the_device(
    export: Callable[..., dict], domain: Make, directory: Make, xml: Make, execute: Execute
) -> None:
    domain("hv1", "asleep", shared=True, start=True)
    directory("hv1", "/srv/asleep")
    assert names(export(domain="asleep", source="/srv/asleep", mount_tag="t")) == [
        "add virtiofs device",
        "plug virtiofs device",
    ]
    execute("hv1", "virsh", "suspend", "asleep")
    result = export(domain="asleep", mount_tag="t", state="absent")
    assert (names(result), result["restart_required"]) == (["remove virtiofs device"], True)
    assert "is paused, so that its guest can't release the device 't'" in result["restart_reasons"][0]
    assert "<filesystem" in xml("asleep")
    assert "<filesystem" not in xml("asleep", "--inactive")
    again = export(domain="asleep", mount_tag="t", state="absent")
    assert (again["changed"], again["restart_required"]) == (False, True)


def test_a_daemon_that_fails_leaves_the_definition_as_it_was(
    export: Callable[..., dict], domain: Make, directory: Make, xml: Make, execute: Execute
) -> None:
    domain("hv1", "fails", shared=True, start=True)
    directory("hv1", "/srv/fails")
    script = (
        f'#!/bin/sh\ncase "$1" in --help|--print-capabilities) exec {WRAPPER} "$@";; esac\n'
        'echo "no such luck" >&2\nexit 1\n'
    )
    execute(
        "hv1",
        "sh",
        "-c",
        "cat > /usr/local/bin/failing-virtiofsd; chmod 755 /usr/local/bin/failing-virtiofsd",
        stdin=script,
    )
    before = xml("fails", "--inactive")
    result = export(domain="fails", source="/srv/fails", mount_tag="t", binary="/usr/local/bin/failing-virtiofsd")
    require_failure(result, LibvirtFailed, names=["'fails'", "no such luck"])
    assert xml("fails", "--inactive") == before
    assert "<filesystem" not in xml("fails")


def test_a_saved_state_still_has_the_old_devices(
    export: Callable[..., dict], domain: Make, directory: Make, execute: Execute
) -> None:
    domain("hv1", "saved", start=True)
    directory("hv1", "/srv/saved")
    execute("hv1", "virsh", "managedsave", "saved")
    result = export(domain="saved", source="/srv/saved", mount_tag="t")
    assert (result["changed"], result["restart_required"]) == (True, True)
    assert "managedsave" in result["restart_reasons"][0]
    again = export(domain="saved", source="/srv/saved", mount_tag="t")
    assert (again["changed"], again["restart_required"]) == (False, True)


# Seed


def test_a_seed_is_a_drive_and_a_file(
    export: Callable[..., dict], domain: Make, directory: Make, xml: Make, execute: Execute
) -> None:
    domain("hv1", "seeded", shared=True)
    directory("hv1", "/srv/seeded")
    desired = {
        "domain": "seeded",
        "source": "/srv/seeded",
        "mount_tag": "t",
        "mount_point": "/srv/in",
        "seed": "/var/lib/libvirt/images/seed.iso",
    }
    try:
        assert names(export(**desired, check=True)) == names(export(**desired)) == ["add virtiofs device", "write seed"]
        assert not export(**desired)["changed"]
        extract = (
            'cd "$(mktemp -d)"; xorriso -osirrox on -indev "$0" -extract /user-data user-data 2>/dev/null; '
            'cat user-data; rm -r "$PWD"'
        )
        user_data = execute("hv1", "sh", "-c", extract, desired["seed"])
        assert json.loads(user_data.partition("\n")[2])["mounts"][0][:3] == ["t", "/srv/in", "virtiofs"]
        execute("hv1", "virsh", "start", "seeded")
        drive = re.search("<disk type='file' device='cdrom'>.*?</disk>", xml("seeded"), re.DOTALL)[0]
        assert "<source file='/var/lib/libvirt/images/seed.iso'" in drive
        assert "<readonly/>" in drive
    finally:
        execute("hv1", "rm", "-f", "/var/lib/libvirt/images/seed.iso")


# Identity


@contextlib.contextmanager
def edit_file(execute: Execute, path: str, text: str) -> Iterator[None]:
    old = execute("hv1", "cat", path)
    execute("hv1", "sh", "-c", 'cat > "$0"', path, stdin=text)
    try:
        yield
    finally:
        execute("hv1", "sh", "-c", 'cat > "$0"', path, stdin=old)


def test_ids_that_the_host_does_not_grant(
    export: Callable[..., dict], domain: Make, directory: Make, xml: Make, execute: Execute
) -> None:
    domain("hv1", "ids")
    directory("hv1", "/srv/ids")
    desired = {"domain": "ids", "source": "/srv/ids", "mount_tag": "t"}
    before = xml("ids", "--inactive")
    with edit_file(execute, "/etc/subgid", "somebody:100000:65536\n"):
        result = export(**desired)
    require_failure(result, DependencyNotFound, names=["oneadmin:100000:65536", "/etc/subgid"])
    result = export(**desired, uid_map=[{"start": 0, "target": 165000, "count": 1000}])
    require_failure(result, DependencyNotFound, names=["oneadmin:165000:1000", "/etc/subuid"])
    result = export(**desired, uid_map=[{"target": 100000, "count": 10}, {"start": 5, "target": 100010, "count": 10}])
    require_failure(result, InvalidInput, option="uid_map", names=["'0:100000:10 5:100010:10'"])
    require_failure(export(**desired, sandbox="chroot"), InvalidInput, option="sandbox", names=["'chroot'"])
    require_failure(export(**desired, service_user="nobody-here"), DependencyNotFound, names=["'nobody-here'"])
    execute("hv1", "mv", "/usr/bin/newuidmap", "/usr/bin/newuidmap.away")
    try:
        require_failure(export(**desired), DependencyNotFound, names=["newuidmap", "uidmap"])
    finally:
        execute("hv1", "mv", "/usr/bin/newuidmap.away", "/usr/bin/newuidmap")
    result = export(**desired, binary="/usr/libexec/virtiofsd")
    require_failure(result, UnsupportedAction, names=["/usr/libexec/virtiofsd"])
    assert xml("ids", "--inactive") == before
    # Adjacent ranges are merged into one. libvirt uses exactly the requested ranges.
    with edit_file(execute, "/etc/subuid", "oneadmin:100000:1000\noneadmin:101000:64536\n"):
        assert export(**desired, uid_map=[{"target": 100000, "count": 2000}])["changed"]
        execute("hv1", "virsh", "start", "ids")
    assert "--uid-map=:0:100000:2000:" in execute(
        "hv1", "sh", "-c", "tr '\\0' ' ' < /proc/$(pgrep -of '[v]irtiofsd.*srv/ids')/cmdline"
    )


def test_a_directory_that_the_mapped_root_cant_use_is_a_warning(
    export: Callable[..., dict], domain: Make, directory: Make, execute: Execute
) -> None:
    domain("hv1", "closed")
    directory("hv1", "/srv/closed")
    execute("hv1", "sh", "-c", "chown 0:0 /srv/closed && chmod 755 /srv/closed")
    result = export(domain="closed", source="/srv/closed", mount_tag="t", check=True)
    assert result["changed"]
    warning = (
        "100000:100000 on this host and can't write to '/srv/closed', because /srv/closed belongs to 0:0 with mode "
        "0755."
    )
    assert warning in " ".join(result["warnings"].split())


@pytest.mark.parametrize(
    ("owner", "mode"), [("0:0", "700"), ("oneadmin:oneadmin", "700"), ("0:100000", "710"), ("0:oneadmin", "710")]
)
def test_a_directory_that_virtiofsd_does_not_get_to_is_refused(
    export: Callable[..., dict], domain: Make, directory: Make, execute: Execute, owner: str, mode: str
) -> None:
    domain("hv1", "shut", shared=True)
    directory("hv1", "/srv/shut/in")
    execute("hv1", "sh", "-c", f"chown {owner} /srv/shut && chmod {mode} /srv/shut")
    try:
        desired = {"domain": "shut", "source": "/srv/shut/in", "mount_tag": "t"}
        for check in (True, False):
            refused = export(**desired, check=check)
            require_failure(refused, Conflict, names=["source", "'/srv/shut/in'", " /srv/shut "])
        # The message names some of the remedies.
        execute(
            "hv1",
            "sh",
            "-c",
            "chmod o+x /srv/shut" if owner.startswith("oneadmin") else "setfacl -m u:oneadmin:x,u:100000:x /srv/shut",
        )
        assert export(**desired)["changed"]
        execute("hv1", "virsh", "start", "shut")
    finally:
        execute("hv1", "sh", "-c", "virsh destroy shut; rm -rf /srv/shut")


def test_an_old_hypervisor_refuses_what_it_cant_do(
    export: Callable[..., dict], domain: Make, directory: Make, xml: Make, execute: Execute
) -> None:
    domain("old", "a", shared=True, start=True)
    directory("old", "/srv/old")
    desired = {"machine": "old", "domain": "a", "source": "/srv/old", "mount_tag": "t"}
    before = xml("a", "--inactive", machine="old")
    require_failure(export(**desired), UnsupportedAction, names=["9.0.0", "10.0.0", "'allow_unmapped: true'"])
    asked = export(**desired, allow_unmapped=True, uid_map=[{"target": 100000}])
    require_failure(asked, UnsupportedAction, names=["uid_map", "'0:100000:65536'"])
    require_failure(export(**desired, allow_unmapped=True, read_only=True), UnsupportedAction, names=["read_only"])
    assert xml("a", "--inactive", machine="old") == before
    result = export(**desired, allow_unmapped=True)
    assert (names(result), result["mapped"], result["device"]["uid_map"]) == (
        ["add virtiofs device", "plug virtiofs device"],
        False,
        [],
    )
    assert "guest's root is root in it" in " ".join(result["warnings"].split())
    assert execute("old", "sh", "-c", "ps -o user= -p $(pgrep -of '[v]irtiofsd.*srv/old')").strip() == "root"
    assert not export(**desired, allow_unmapped=True)["changed"]
    # This QEMU waits for the guest's release of the device, and no system runs in this domain.
    result = export(machine="old", domain="a", mount_tag="t", state="absent")
    assert names(result)[0] == "remove virtiofs device"
    assert result["restart_required"] == ("<filesystem" in xml("a", machine="old"))
    assert "<filesystem" not in xml("a", "--inactive", machine="old")


def test_a_libvirtd_that_is_down(export: Callable[..., dict], execute: Execute, module: Module) -> None:
    units = ["libvirtd.service", "libvirtd.socket", "libvirtd-ro.socket", "libvirtd-admin.socket"]
    execute("old", "systemctl", "stop", *units)
    try:
        for result in (
            export(machine="old", domain="a", source="/srv", mount_tag="t"),
            module("old", "virtiofs_export_info"),
        ):
            require_failure(result, LibvirtMissing, names=["qemu:///system"])
    finally:
        execute("old", "systemctl", "start", *units[1:])


def test_a_missing_library(site: Lab, export: Callable[..., dict], execute: Execute) -> None:
    place = execute("old", "python3", "-c", "import libvirt; print(libvirt.__file__)").strip()
    execute("old", "mv", place, f"{place}.away")
    try:
        result = export(machine="old", domain="a", source="/srv", mount_tag="t")
    finally:
        execute("old", "mv", f"{place}.away", place)
    require_failure(result, LibvirtMissing, names=["python3-libvirt"])
