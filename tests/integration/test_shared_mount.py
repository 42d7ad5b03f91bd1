# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""The modules ``shared_mount`` and ``shared_mount_info`` with a real NFS server and two clients, each with a kernel of
its own. Other tools verify the results.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import (
    CommandFailed,
    Conflict,
    DependencyMissing,
    TimedOut,
)
from lab import Lab
from refusal import require_failure

Module = Callable[..., dict[str, Any]]
DATA = "/srv/vmstore"
POINT = "/mnt/vmstore"
SERVICE = 9869
UUID = re.compile(r"[0-9a-f-]{36}")
#: Marker of another store.
OTHER = "0b5c1d1e-7a55-4f0e-9a6b-5c1f6f1b8f11"
CLEAN_CLIENT = f"umount -a -f -l -t nfs,nfs4; rm -rf {POINT}; sed -i /nfs/d /etc/fstab"
CLEAN_SERVER = f"""
exportfs -ua
umount /srv/other 2>/dev/null || true
rm -rf /srv/* /etc/exports.d/*
mkdir -p {DATA} /srv/other
chown {SERVICE}:{SERVICE} {DATA} /srv/other
"""


class Site:
    """The server ``nfs`` and its clients ``frontend`` and ``hv1``."""

    def __init__(self, lab: Lab, module: Module) -> None:
        self.lab = lab
        self.hosts = lab.hosts()
        self._module = module

    def sh(self, script: str, host: str) -> str:
        return str(self.hosts[host].execute("sh", "-ec", script).stdout)

    def export(self, options: str = "rw,no_root_squash,no_subtree_check", path: str = DATA) -> None:
        self.sh(f"exportfs -o {options} '*:{path}'", "nfs")

    def source(self, path: str = DATA) -> str:
        return f"{self.hosts['nfs'].address}:{path}"

    def mount(self, host: str = "frontend", **options: object) -> dict[str, Any]:
        return self._module(host, "shared_mount", **{"path": POINT, "source": self.source(), **options})

    def info(self, host: str = "frontend", **options: object) -> list[dict[str, Any]]:
        return self._module(host, "shared_mount_info", user="service", **options)["mounts"]

    def mounted(self, host: str = "frontend") -> str:
        """Return source and options according to findmnt, or an empty text."""
        return self.sh(f"findmnt --noheadings --output SOURCE,OPTIONS {POINT} || true", host)

    def entries(self, host: str = "frontend") -> list[str]:
        return [line for line in self.sh("cat /etc/fstab", host).splitlines() if "nfs" in line.split()]


@pytest.fixture(scope="module")
def nfs_site(nfs_lab: Lab, module_in: Callable[[Lab], Module]) -> Iterator[Site]:
    site = Site(nfs_lab, module_in(nfs_lab))
    for host in site.hosts:
        site.sh(
            f"groupadd --gid {SERVICE} service; useradd --uid {SERVICE} --gid service --no-create-home service", host
        )
    site.sh("systemctl start nfs-server", "nfs")
    yield site
    clean(site)


@pytest.fixture
def site(nfs_site: Site) -> Site:
    """Return the hosts without exports and mounts."""
    clean(nfs_site)
    return nfs_site


def clean(site: Site) -> None:
    for host in ("frontend", "hv1"):
        site.sh(CLEAN_CLIENT, host)
    site.sh(CLEAN_SERVER, "nfs")


def names(result: dict[str, Any]) -> list[str]:
    return [action["name"] for action in result["actions"]]


def test_check_run_again_check_again(site: Site) -> None:
    site.export()
    desired = {
        **{"owner": "service", "group": "service", "mode": "0750", "marker": "create"},
        "verify": {"user": "service", "actions": ["create", "chmod", "chown", "lock"]},
    }
    steps = [
        *("create directory", "add fstab entry", "mount"),
        *("change root directory", "create marker"),
    ]
    checked = site.mount(check=True, **desired)
    assert names(checked) == steps
    assert (site.mounted(), site.entries(), site.sh(f"ls -A {DATA}", "nfs")) == ("", [], "")
    done = site.mount(**desired)
    assert names(done) == steps
    assert site.mounted().split()[0] == site.source()
    assert {"vers=4.2", "hard"} <= set(site.mounted().split()[1].split(","))
    assert site.sh(f"stat -c '%u:%g %a' {DATA}", "nfs") == f"{SERVICE}:{SERVICE} 750\n"
    marker = site.sh(f"cat {DATA}/.granary-store", "nfs").strip()
    assert done["mount"]["marker"] == marker
    assert UUID.fullmatch(marker)
    assert site.sh(f"ls -A {DATA}", "nfs") == ".granary-store\n"
    entry = f"{site.source()} {POINT} nfs vers=4.2,hard,nconnect=4,_netdev,nofail 0 0"
    assert site.entries() == [entry]
    for check in (False, True):
        again = site.mount(check=check, **desired)
        assert (again["changed"], again["mount"]) == (False, done["mount"])
    (seen,) = site.info()
    assert {key: seen[key] for key in ("state", "version", "protocol", "marker", "fstype")} == {
        **{"state": "ok", "version": "4.2", "protocol": "tcp", "marker": marker, "fstype": "nfs4"}
    }
    assert seen["access"] == {"read": True, "write": True, "search": True}
    assert 0 < seen["free_bytes"] <= seen["total_bytes"]
    absent = site.mount(state="absent")
    assert names(absent) == ["remove fstab entry", "unmount"]
    assert (site.mounted(), site.entries()) == ("", [])


def test_two_hosts_have_the_same_store_and_another_one_is_refused(site: Site) -> None:
    site.export()
    marker = site.mount(marker="create")["mount"]["marker"]
    site.sh(f"echo {OTHER} >/srv/other/.granary-store", "nfs")
    site.export(path="/srv/other")
    for check in (True, False):
        refused = site.mount("hv1", source=site.source("/srv/other"), marker=marker, check=check)
        require_failure(refused, Conflict, names=[marker, OTHER])
        assert (site.mounted("hv1"), site.entries("hv1")) == ("", [])
    assert site.mount("hv1", marker=marker)["mount"]["marker"] == marker
    site.sh(f"setpriv --reuid=service --regid=service --clear-groups touch {POINT}/mine", "hv1")
    assert site.sh(f"stat -c %U {POINT}/mine", "frontend") == "service\n"


def test_an_export_that_is_not_there(site: Site) -> None:
    checked = site.mount(check=True)
    assert "msg" not in checked
    assert DATA in checked["warnings"]
    refused = site.mount()
    require_failure(refused, CommandFailed, names=[DATA])
    assert (site.mounted(), site.entries()) == ("", [])
    assert site.sh(f"ls -d {POINT} 2>&1 || true", "frontend").startswith("ls: cannot access")


def test_other_options_remount_or_refuse(site: Site) -> None:
    site.export()
    site.mount()
    assert names(site.mount(options=["noatime"])) == ["replace fstab entry", "remount"]
    assert "noatime" in site.mounted()
    refused = site.mount(options=["noatime", "vers=4.1"])
    require_failure(refused, Conflict, names=["vers"])
    assert "vers=4.2" in site.mounted()
    assert "vers=4.1" not in site.entries()[0]
    done = site.mount(options=["noatime", "vers=4.1"], remount="unmount")
    assert names(done) == ["replace fstab entry", "unmount", "mount"]
    assert "vers=4.1" in site.mounted()
    assert site.mount(options=["vers=4.1", "noatime"])["changed"] is False


def test_a_mount_in_use_stays_and_its_user_is_named(site: Site) -> None:
    site.export()
    site.mount()
    site.sh(f"cd {POINT} && (sleep 1000 >/dev/null 2>&1 & )", "frontend")
    refused = site.mount(options=["vers=4.1"], remount="unmount")
    require_failure(refused, Conflict, names=[POINT, "sleep ("])
    assert "vers=4.2" in site.mounted()
    assert "vers=4.1" not in site.entries()[0]
    site.sh("pkill sleep", "frontend")


@pytest.mark.parametrize("version", ["4.2", "3"])
def test_locks_exclude_across_hosts(site: Site, version: str) -> None:
    if version == "3":
        site.sh("nfsconf --set nfsd vers3 y && systemctl restart nfs-server", "nfs")
        for host in ("nfs", "frontend", "hv1"):
            site.sh("systemctl start rpcbind rpc-statd", host)
    site.export()
    for host in ("frontend", "hv1"):
        verify = {"user": "service", "actions": ["lock"]}
        site.mount(host, options=[f"vers={version}"], owner="service", verify=verify)
        assert f"vers={version}" in site.mounted(host)
    hold = f"flock --exclusive {POINT}/lock sh -c 'echo held > {POINT}/held; sleep 1000'"
    site.sh(f"({hold} >/dev/null 2>&1 & ); until [ -s {POINT}/held ]; do :; done", "frontend")
    tried = site.sh(f"flock --nonblock --conflict-exit-code 7 {POINT}/lock true || echo $?", "hv1")
    site.sh("pkill sleep", "frontend")
    assert tried == "7\n"


def test_root_that_the_server_squashes(site: Site) -> None:
    site.export("rw,root_squash,no_subtree_check")
    refused = site.mount(owner="root")
    require_failure(refused, CommandFailed, names=["root_squash"])
    assert site.mounted() == ""
    done = site.mount(marker="create", verify={"user": "service", "actions": ["create", "chmod", "lock"]})
    assert site.sh(f"stat -c %u {DATA}/.granary-store", "nfs") == f"{SERVICE}\n"
    assert site.mount(marker=done["mount"]["marker"])["changed"] is False
    refused = site.mount(verify={"user": "service", "actions": ["chown"]})
    require_failure(refused, Conflict, names=["verify", "no_root_squash"])
    assert site.sh(f"ls -A {DATA}", "nfs") == ".granary-store\n"


def test_everybody_whom_the_server_squashes(site: Site) -> None:
    site.export("rw,all_squash,no_subtree_check")
    site.sh(f"chmod 0777 {DATA}", "nfs")
    refused = site.mount(verify={"user": "service"})
    require_failure(refused, Conflict, names=["verify", "all_squash"])
    assert (site.mounted(), site.sh(f"ls -A {DATA}", "nfs")) == ("", "")
    site.sh("exportfs -ua", "nfs")
    site.export(f"rw,all_squash,anonuid={SERVICE},anongid={SERVICE},no_subtree_check")
    site.mount(verify={"user": "service"})
    assert site.mounted() != ""


def test_a_directory_with_files_is_not_hidden(site: Site) -> None:
    site.export()
    site.sh(f"mkdir {POINT} && echo precious > {POINT}/file", "frontend")
    require_failure(site.mount(), Conflict, names=[POINT, "'file'"])
    assert (site.mounted(), site.entries()) == ("", [])
    assert names(site.mount(nonempty=True)) == ["add fstab entry", "mount"]
    assert site.sh(f"umount {POINT}; cat {POINT}/file", "frontend") == "precious\n"


def test_a_server_that_is_away(site: Site) -> None:
    """The server comes back once. The second time, the mount is detached without it."""
    site.export()
    site.mount()
    nfs = site.hosts["nfs"]
    nfs.pause()
    try:
        (seen,) = site.info(timeout=3)
        assert (seen["state"], seen["total_bytes"]) == ("stale", None)
        refused = site.mount(options=["noatime"], timeout=3)
        require_failure(refused, TimedOut, names=[POINT, "3 seconds"])
        assert "noatime" not in site.entries()[0]
        require_failure(site.mount("hv1", timeout=3), CommandFailed, names=[POINT])
        assert site.entries("hv1") == []
    finally:
        nfs.resume()
    assert site.mount(options=["noatime"])["changed"]
    assert site.info()[0]["state"] == "ok"
    nfs.pause()
    try:
        assert names(site.mount(state="absent", lazy=True, timeout=3)) == ["remove fstab entry", "detach"]
    finally:
        nfs.resume()
    assert (site.mounted(), site.entries()) == ("", [])


def test_a_server_and_then_a_client_that_reboot(site: Site) -> None:
    """The mount comes back by itself each time, and so does the export, which is in a file."""
    line = f"{DATA} *(rw,no_root_squash,no_subtree_check,fsid=7)"
    site.sh(
        f"mkdir -p /etc/exports.d; echo '{line}' > /etc/exports.d/t.exports; systemctl enable nfs-server; exportfs -ra",
        "nfs",
    )
    marker = site.mount(marker="create")["mount"]["marker"]
    site.hosts["nfs"].reboot()
    (seen,) = site.info(timeout=60)
    assert (seen["state"], seen["marker"]) == ("ok", marker)
    site.hosts["frontend"].reboot()
    site.sh("systemctl start remote-fs.target", "frontend")
    assert site.mounted().split()[0] == site.source()
    site.sh("systemctl disable nfs-server; systemctl start nfs-server", "nfs")


def test_a_datastore_is_used_only_while_its_store_is_mounted(site: Site) -> None:
    catalog = "/var/tmp/catalog.sqlite"
    site.export()
    marker = site.mount(marker="create")["mount"]["marker"]
    site.sh(f"rm -f {catalog}*", "frontend")
    module = site._module
    datastore = {"name": "nas", "ds_driver": "fs", "tm_driver": "shared", "shared": True, "marker": marker}
    module("frontend", "datastore", catalog=catalog, base_path=f"{POINT}/100", **datastore)
    image = {"datastore": "nas", "type": "datablock", "size": "1M", "catalog": catalog}
    made = module("frontend", "image", name="one", **image)
    assert site.sh(f"stat -c %s {DATA}/100/*", "nfs") == f"{1 << 20}\n"
    site.mount(state="unmounted")
    require_failure(module("frontend", "image", name="two", **image), DependencyMissing, names=["'nas'", POINT])
    assert site.sh(f"ls -A {POINT}", "frontend") == ""
    (info,) = [one for one in module("frontend", "datastore_info", catalog=catalog)["datastores"] if one["id"] == 100]
    assert info["monitor_error"]
    site.mount()
    assert module("frontend", "image", name="two", **image)["changed"]
    assert made["image"]["path"].startswith(f"{POINT}/100/")


def test_a_datastore_that_its_driver_mounts(site: Site) -> None:
    catalog = "/var/tmp/catalog.sqlite"
    site.export()
    site.sh(f"rm -f {catalog}*; mkdir -p {POINT}", "frontend")
    module = site._module
    attributes = {"nfs_auto_enable": True, "nfs_auto_host": site.hosts["nfs"].address, "nfs_auto_path": DATA}
    datastore = {"name": "auto", "ds_driver": "fs", "tm_driver": "shared", "attributes": attributes}
    module("frontend", "datastore", catalog=catalog, base_path=POINT, **datastore)
    image = {"datastore": "auto", "type": "datablock", "size": "1M", "catalog": catalog}
    checked = module("frontend", "image", name="one", check=True, **image)
    assert (checked["changed"], site.mounted()) == (True, "")
    assert module("frontend", "image", name="one", **image)["changed"]
    assert site.mounted().split()[0] == site.source()
    assert site.sh(f"stat -c %s {DATA}/*", "nfs") == f"{1 << 20}\n"
    assert module("frontend", "image", name="one", **image)["changed"] is False


def test_a_front_end_whose_drivers_mount_as_the_service_user(site: Site) -> None:
    site.export()
    remotes = "/var/tmp/remotes"
    site.sh(f"mkdir -p {remotes}/datastore {remotes}/tm {POINT} && chown -R service {remotes} {POINT}", "frontend")
    site._module("frontend", "opennebula_drivers", remotes=remotes, names=["fs"])
    xml = f"""<DS_DRIVER_ACTION_DATA><DATASTORE><ID>100</ID><NAME>nas</NAME><TYPE>0</TYPE><TM_MAD>shared</TM_MAD>
        <BASE_PATH>{POINT}</BASE_PATH><TEMPLATE><NFS_AUTO_ENABLE>YES</NFS_AUTO_ENABLE>
        <NFS_AUTO_HOST>{site.hosts["nfs"].address}</NFS_AUTO_HOST><NFS_AUTO_PATH>{DATA}</NFS_AUTO_PATH>
        </TEMPLATE></DATASTORE></DS_DRIVER_ACTION_DATA>"""
    document = base64.b64encode(xml.encode()).decode()
    user = "setpriv --reuid=service --regid=service --clear-groups"
    monitor = f"echo {document} | {user} {remotes}/datastore/fs/monitor 100 2>&1 || true"
    assert "sudo" in site.sh(monitor, "frontend")
    assert site.mounted() == ""
    site.sh("echo 'service ALL=(root) NOPASSWD: /usr/bin/mount' > /etc/sudoers.d/service", "frontend")
    assert re.search(r"^TOTAL_MB=[1-9]", site.sh(monitor, "frontend"), re.MULTILINE)
    assert site.sh(f"findmnt --noheadings --list --output SOURCE,TARGET | grep -c ' {POINT}$'", "frontend") == "1\n"
    assert site.mounted().split()[0] == site.source()
    site.sh(f"rm -rf {remotes} /etc/sudoers.d/service /usr/local/lib/granary-vmstore", "frontend")


def test_a_locked_out_user_is_told_which_directory_is_closed(site: Site) -> None:
    site.export()
    site.sh("mkdir -p /mnt/closed && chmod 0700 /mnt/closed", "frontend")
    refused = site.mount(path="/mnt/closed/store", verify={"user": "service"})
    require_failure(refused, Conflict, names=["verify", "/mnt/closed "])
    assert "/mnt/closed" not in site.sh("cat /proc/mounts", "frontend")
    site.sh("rm -rf /mnt/closed", "frontend")


def test_a_store_that_the_server_has_lost(site: Site) -> None:
    site.export()
    site.sh(f"mkdir {DATA}/sub", "nfs")
    desired = {"source": site.source(f"{DATA}/sub")}
    site.mount(**desired)
    site.sh(f"rmdir {DATA}/sub; mkdir {DATA}/sub", "nfs")
    (seen,) = site.info()
    assert (seen["state"], seen["reason"]) == ("stale", "Stale file handle")
    refused = site.mount(**desired)
    require_failure(refused, Conflict, names=["remount=unmount"])
    assert names(site.mount(remount="unmount", **desired)) == ["unmount", "mount"]
    site.sh(f"rmdir {DATA}/sub", "nfs")
    assert names(site.mount(state="absent", **desired)) == ["remove fstab entry", "unmount"]
    assert (site.mounted(), site.entries()) == ("", [])


def test_options_that_the_kernel_completes(site: Site) -> None:
    site.export()
    site.mount(options=["noac", "port=2049"])
    assert {"noac", "acregmin=0", "sync"} <= set(site.mounted().split()[1].split(","))
    assert site.mount(options=["noac", "port=2049"], source=f"{site.source()}/")["changed"] is False
