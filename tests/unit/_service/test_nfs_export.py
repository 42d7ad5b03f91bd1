# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Exports on directories that represent a host, with the real exportfs(8). The kernel's files are recorded ones."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import (
    CommandFailed,
    Conflict,
    DependencyMissing,
    DependencyNotFound,
    InvalidInput,
    LockTimeout,
    PathNotAllowed,
    VmstoreError,
)
from ansible_collections.granary.vmstore.plugins.module_utils._core.locks import locked
from ansible_collections.granary.vmstore.plugins.module_utils._core.plan import Plan
from ansible_collections.granary.vmstore.plugins.module_utils._service.nfs.export import (
    NfsExportService,
    build_nfs_export,
)
from ansible_collections.granary.vmstore.plugins.module_utils._service.nfs.info import read_nfs_exports
from nfs_host import NfsHost
from refusal import refused
from simulated_datastore.testing import SimulatedDatastore

DEFAULTS: dict[str, Any] = {"client": None, "options": [], "clients": None, "name": "data", "state": "present"}
NETWORK = "192.0.2.0/24"
DIFFERENT = "10.0.0.0/8"


def service(host: NfsHost, **options: object) -> NfsExportService:
    given = {**DEFAULTS, "path": str(host.data), **options}
    if given["state"] == "present" and not {"client", "clients"} & options.keys():
        given.update(client=NETWORK, options=options.get("options", ["rw"]))
    return build_nfs_export(given, *host.arguments())


def converge(host: NfsHost, **options: object) -> Plan:
    """Run the same options in check mode, normally, and again in both modes."""
    checked = service(host, **options).dry_run()
    done = service(host, **options).converge()
    assert (checked.result, checked.as_result()) == (done.result, done.as_result())
    for again in (service(host, **options).converge(), service(host, **options).dry_run()):
        assert (again.changed, again.result["export"]) == (False, done.result["export"])
    return done


def names(plan: Plan) -> list[str]:
    return [action.name for action in plan.actions]


def warned(plan: Plan) -> list[str]:
    """Return the warnings except for that of a stopped server."""
    return [one for one in plan.warnings if not one.startswith("The NFS server isn't running")]


# The three states


def test_check_run_again_check_again(nfs_host: NfsHost) -> None:
    done = converge(nfs_host, options=["no_root_squash,rw"])
    data = str(nfs_host.data)
    assert nfs_host.file("data").read_text() == f"{data} {NETWORK}(rw,sync,no_root_squash,no_subtree_check)\n"
    assert stat.S_IMODE(nfs_host.file("data").stat().st_mode) == 0o644
    (line,) = nfs_host.table()
    assert line.startswith(f"{data} {NETWORK}(sync,wdelay,hide,no_subtree_check,sec=sys,rw,")
    assert "no_root_squash" in line
    shown = [{"client": NETWORK, "options": ["rw", "sync", "no_root_squash"]}]
    assert done.result["export"] == {
        "path": data,
        "name": "data",
        "clients": shown,
        "file": str(nfs_host.file("data")),
        "table": shown,
        "live": None,
        "clients_live": [],
    }
    assert [(one.name, one.subject, one.before, one.after) for one in done.actions] == [
        (
            "add export",
            str(nfs_host.file("data")),
            None,
            f"{data} {NETWORK}(rw,sync,no_root_squash,no_subtree_check)\n",
        ),
        ("update export table", "/var/lib/nfs/etab", None, f"{data} {NETWORK}(rw,sync,no_root_squash)\n"),
    ]
    assert done.warnings == [
        "The NFS server isn't running on this host, so no client can mount the export: start nfs-server, for example "
        "by the role granary.vmstore.nfs_server."
    ]


def test_planning_leaves_no_trace(nfs_host: NfsHost) -> None:
    before = sorted(nfs_host.etc.rglob("*"))
    assert service(nfs_host).dry_run().changed
    assert (sorted(nfs_host.etc.rglob("*")), nfs_host.table()) == (before, [])


@pytest.mark.parametrize(
    ("file", "table", "expected"),
    [
        ("rw", "rw", []),
        ("sync,no_root_squash,rw", "", ["replace export", "update export table"]),
        ("root_squash,sync,secure,rw,hide", "rw,sync,no_subtree_check", []),
        ("rw", "", ["update export table"]),
        ("rw", "ro", ["update export table"]),
        ("", "rw", ["add export"]),
        ("rw,brand_new", "rw", ["replace export"]),
        ("", "", ["add export", "update export table"]),
    ],
)
def test_file_and_table_are_compared(file: str, table: str, expected: list[str], nfs_host: NfsHost) -> None:
    if table:
        nfs_host.exportfs("-o", table, f"{NETWORK}:{nfs_host.data}")
    if file:
        nfs_host.file("data").parent.mkdir()
        nfs_host.file("data").write_text(f"{nfs_host.data} {NETWORK}({file})\n")
    assert names(service(nfs_host).converge()) == expected
    assert not service(nfs_host).converge().changed
    (line,) = nfs_host.table()
    assert "rw" in line.split("(")[1].rstrip(")").split(",")


def test_an_old_client_is_no_longer_exported_to(nfs_host: NfsHost) -> None:
    converge(nfs_host, clients=[{"client": NETWORK, "options": []}, {"client": "2001:db8::/64", "options": []}])
    done = converge(nfs_host, client=DIFFERENT)
    assert names(done) == ["replace export", "update export table"]
    assert [line.split("(")[0] for line in nfs_host.table()] == [f"{nfs_host.data} {DIFFERENT}"]


def test_insecure_is_not_printed_without_a_server(nfs_host: NfsHost) -> None:
    converge(nfs_host, options=["rw", "insecure"])
    assert "insecure" in (nfs_host.state / "etab").read_text()


def test_absent(nfs_host: NfsHost) -> None:
    converge(nfs_host)
    done = converge(nfs_host, state="absent")
    assert names(done) == ["remove export", "update export table"]
    assert (nfs_host.file("data").exists(), nfs_host.table(), done.warnings) == (False, [], [])
    assert done.result["export"]["clients"] == []
    assert done.result["export"]["file"] is None


def test_absent_of_a_directory_that_is_gone(nfs_host: NfsHost) -> None:
    converge(nfs_host)
    nfs_host.data.rmdir()
    converge(nfs_host, state="absent")
    assert nfs_host.table() == []


def test_the_default_name_comes_from_the_path(nfs_host: NfsHost) -> None:
    directory = nfs_host.base / "vm store-1.é"
    directory.mkdir()
    done = converge(nfs_host, path=f"{directory}//", name=None)
    name = f"{str(nfs_host.base)[1:].replace('-', '_').replace('/', '-')}-vm_store_1._"
    assert done.result["export"]["name"] == name
    assert nfs_host.file(name).exists()
    assert nfs_host.table()[0].startswith(f"{directory} {NETWORK}(")


def test_a_link_of_root_is_resolved(nfs_host: NfsHost) -> None:
    (nfs_host.base / "link").symlink_to("data")
    done = converge(nfs_host, path=str(nfs_host.base / "link"))
    assert done.result["export"]["path"] == str(nfs_host.data)
    assert nfs_host.table()[0].startswith(f"{nfs_host.data} ")


# Lines of other people


FOREIGN = '# caf\udce9 \r\n/usr/share\t*(ro)  \n\n"/usr/with blank" -ro \\\n\t@group # more \\\n'


def test_lines_of_other_people_stay(nfs_host: NfsHost) -> None:
    data = FOREIGN.encode("utf-8", "surrogateescape")
    nfs_host.file("data").parent.mkdir()
    nfs_host.file("data").write_bytes(data)
    nfs_host.exports.write_bytes(data.replace(b"share", b"lib"))
    service(nfs_host).converge()
    own = f"{nfs_host.data} {NETWORK}(rw,sync,root_squash,no_subtree_check)\n".encode()
    assert nfs_host.file("data").read_bytes() == data + own
    service(nfs_host, client=DIFFERENT).converge()
    service(nfs_host, state="absent").converge()
    assert nfs_host.file("data").read_bytes() == data
    assert nfs_host.exports.read_bytes() == data.replace(b"share", b"lib")
    assert {line.split("(")[0] for line in nfs_host.table()} >= {"/usr/share <world>", "/usr/lib <world>"}


def test_exports_of_a_cluster_stay(nfs_host: NfsHost) -> None:
    nfs_host.exportfs("-o", "rw", f"{DIFFERENT}:/usr")
    converge(nfs_host)
    converge(nfs_host, state="absent")
    assert [line.split("(")[0] for line in nfs_host.table()] == [f"/usr {DIFFERENT}"]


@pytest.mark.parametrize("other", [NETWORK, "192.0.2.0/255.255.255.0", "192.0.2.9/24"])
def test_the_same_client_in_another_file_is_named(other: str, nfs_host: NfsHost) -> None:
    nfs_host.exports.write_text(f"# first\n{nfs_host.data}/ hv1(ro) {other}(ro)\n")
    with refused(
        Conflict,
        says=f"Line 2 of {nfs_host.exports} exports {nfs_host.data} to {other} already: remove that client there, or "
        "leave it out here.",
    ):
        service(nfs_host).converge()
    assert (nfs_host.file("data").exists(), nfs_host.table()) == (False, [])


def test_other_clients_in_another_file_are_kept(nfs_host: NfsHost) -> None:
    nfs_host.exports.write_text(f"{nfs_host.data} {DIFFERENT}(ro)\n")
    done = converge(nfs_host)
    clients = [f"{nfs_host.data} {DIFFERENT}", f"{nfs_host.data} {NETWORK}"]
    assert sorted(line.split("(")[0] for line in nfs_host.table()) == clients
    assert [one["client"] for one in done.result["export"]["table"]] == [NETWORK]
    done = converge(nfs_host, state="absent")
    assert [line.split("(")[0] for line in nfs_host.table()] == clients[:1]
    assert done.warnings == [f"The directory stays exported to {DIFFERENT} by line 1 of {nfs_host.exports}."]


def test_a_last_line_without_an_end(nfs_host: NfsHost) -> None:
    nfs_host.file("data").parent.mkdir()
    nfs_host.file("data").write_text("/usr *(ro) \\\n")
    with refused(Conflict, names=[nfs_host.file("data")]):
        service(nfs_host).converge()
    assert nfs_host.file("data").read_text() == "/usr *(ro) \\\n"


# Failures of exportfs


def test_a_host_without_a_name_is_refused_and_all_is_as_before(nfs_host: NfsHost) -> None:
    converge(nfs_host)
    before = nfs_host.file("data").read_bytes(), nfs_host.table()
    with refused(CommandFailed, names=["nosuchhost.invalid"]):
        service(nfs_host, client="nosuchhost.invalid").converge()
    assert (nfs_host.file("data").read_bytes(), nfs_host.table()) == before
    with pytest.raises(CommandFailed):
        service(nfs_host, name="new", path=str(nfs_host.bin), client="nosuchhost.invalid").converge()
    assert not nfs_host.file("new").exists()


def test_one_of_several_hosts_without_a_name(nfs_host: NfsHost) -> None:
    clients = [{"client": "localhost", "options": []}, {"client": "nosuchhost.invalid", "options": []}]
    with pytest.raises(CommandFailed):
        service(nfs_host, clients=clients).converge()
    assert (nfs_host.file("data").exists(), nfs_host.table()) == (False, [])


def test_an_option_that_this_exportfs_lacks(nfs_host: NfsHost) -> None:
    """exportfs refuses the whole file, and its reason is in the message."""
    script = (nfs_host.bin / "exportfs").read_text()
    reason = f"exportfs: {nfs_host.file('data')}:1: unknown keyword"
    refusing = (
        f'[ "$1" != -a ] || ! grep -q pnfs {nfs_host.etc}/exports.d/* 2>/dev/null || {{ echo "{reason}" >&2; exit 1; }}'
    )
    (nfs_host.bin / "exportfs").write_text(script.replace("#!/bin/sh\n", f"#!/bin/sh\n{refusing}\n"))
    with refused(
        CommandFailed,
        says=f"The command 'exportfs' did not export {nfs_host.data} as desired: {nfs_host.file('data')}:1: unknown "
        "keyword.",
    ):
        service(nfs_host, options=["pnfs"]).converge()
    assert (nfs_host.file("data").exists(), nfs_host.table()) == (False, [])


def test_a_file_system_that_the_kernel_cannot_export(nfs_host: NfsHost) -> None:
    """exportfs tries the export in the kernel, complains, and has it in the table nevertheless."""
    script = (nfs_host.bin / "exportfs").read_text().replace("exec ", "", 1)
    complaint = f'[ "$1" != -a ] || {{ echo "exportfs: {nfs_host.data} does not support NFS export" >&2; exit 1; }}'
    (nfs_host.bin / "exportfs").write_text(f"{script}{complaint}\n")
    with refused(
        CommandFailed,
        says=f"The command 'exportfs' did not export {nfs_host.data} as desired: {nfs_host.data} does not support NFS "
        "export. Take a directory on a file system of another type, such as ext4, xfs or btrfs, or give an overlay the "
        "mount options index=on and nfs_export=on.",
    ):
        service(nfs_host).converge()
    assert (nfs_host.file("data").exists(), nfs_host.table()) == (False, [])
    # Of another directory, the same is no failure.
    (nfs_host.base / "other").mkdir()
    service(nfs_host, path=str(nfs_host.base / "other"), name="other").converge()


def test_an_export_of_other_people_that_fails_is_no_failure(nfs_host: NfsHost) -> None:
    nfs_host.exports.write_text("/nowhere *(rw)\n/srv nosuchhost.invalid(ro)\n")
    converge(nfs_host)
    assert f"{nfs_host.data} {NETWORK}" in [line.split("(")[0] for line in nfs_host.table()]


def test_a_host_is_listed_by_its_canonical_name(nfs_host: NfsHost) -> None:
    (nfs_host.etc / "hosts").write_text(Path("/etc/hosts").read_text())
    converge(nfs_host, clients=[{"client": "LOCALHOST", "options": ["rw"]}, {"client": NETWORK, "options": []}])
    assert f"{nfs_host.data} localhost" in [line.split("(")[0] for line in nfs_host.table()]


def test_without_exportfs(nfs_host: NfsHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(nfs_host.etc))
    with pytest.raises(DependencyMissing):
        service(nfs_host).converge()
    assert not nfs_host.file("data").exists()
    plan = service(nfs_host).dry_run()
    assert names(plan) == ["add export"]
    assert plan.result["export"]["table"] is None
    assert [one for one in plan.warnings if "install the package nfs-kernel-server" in one]
    assert not service(nfs_host, state="absent").converge().changed


def test_the_lock_is_held(nfs_host: NfsHost, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = service(nfs_host).exclusive()
    with lock, pytest.raises(LockTimeout), locked(str(nfs_host.etc / ".exports.lock"), deadline=0):
        pass


# The directory


def test_a_missing_directory(nfs_host: NfsHost) -> None:
    with refused(
        DependencyNotFound,
        says=f"path: the directory '{nfs_host.base}/new/er' is not on this host: create it first, for example with "
        "granary.vmstore.directory.",
    ):
        service(nfs_host, path=str(nfs_host.base / "new" / "er")).converge()
    assert names(service(nfs_host, path=str(nfs_host.base / "new")).dry_run()) == ["add export", "update export table"]


def test_a_file(nfs_host: NfsHost) -> None:
    with pytest.raises(InvalidInput) as error:
        service(nfs_host, path=str(nfs_host.exports)).plan()
    assert (error.value.option, error.value.accepted) == ("path", f"{nfs_host.exports} exists and isn't a directory")


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/etc",
        "/etc/ssh",
        "/usr",
        "/usr/bin",
        "/var",
        "/var/lib",
        "/var/run",
        "/root",
        "/boot",
        "/proc/1",
        "/x/.ssh",
    ],
)
@pytest.mark.parametrize("way", ["name", "link"])
def test_directories_of_the_system(path: str, way: str, nfs_host: NfsHost) -> None:
    if way == "link":
        if not os.path.isdir(path):
            return
        (nfs_host.base / "link").symlink_to(path)
    with pytest.raises(InvalidInput) as error:
        service(nfs_host, path=path if way == "name" else str(nfs_host.base / "link")).plan()
    assert error.value.option == "path"


def test_a_directory_of_the_system_under_another_name(nfs_host: NfsHost) -> None:
    subprocess.run(["mount", "--bind", "/etc", nfs_host.data], check=True)
    try:
        (nfs_host.proc / "self" / "mountinfo").write_text(Path("/proc/self/mountinfo").read_text())
        for path in (nfs_host.data, nfs_host.data / "ssl"):
            with pytest.raises(InvalidInput) as error:
                service(nfs_host, path=str(path)).plan()
            assert error.value.option == "path"
    finally:
        subprocess.run(["umount", nfs_host.data], check=True)


def test_an_export_of_the_system_can_be_removed(nfs_host: NfsHost) -> None:
    nfs_host.file("data").parent.mkdir()
    nfs_host.file("data").write_text("/etc *(rw)\n")
    nfs_host.exportfs("-a")
    converge(nfs_host, path="/etc", state="absent")
    assert nfs_host.table() == []


def test_message_of_a_directory_of_the_system(nfs_host: NfsHost) -> None:
    with refused(
        InvalidInput,
        says="path: '/etc/ssh' is not accepted: /etc holds the configuration of the system, which no client needs; a "
        "directory with data is expected, such as '/srv/vmstore'.",
    ):
        service(nfs_host, path="/etc/ssh").plan()


@pytest.mark.parametrize("path", ["relative", "/srv/../etc", "/srv/a\nb", "/srv/a\0b", "/srv/a\\040", "/srv/\udcff"])
def test_bad_paths(path: str, nfs_host: NfsHost) -> None:
    with pytest.raises(InvalidInput) as error:
        service(nfs_host, path=path)
    assert (error.value.option, error.value.value) == ("path", path)


@pytest.mark.parametrize("name", ["a b", "a\"b'", "a#b", "é", "(a)", "-a", "a\u2028b", "a\u00a0b"])
def test_characters_of_a_path(name: str, nfs_host: NfsHost) -> None:
    (nfs_host.base / name).mkdir()
    converge(nfs_host, path=str(nfs_host.base / name))
    assert f"{nfs_host.base}/{name} {NETWORK}(sync," in nfs_host.exportfs("-v").replace("\n\t\t", " ")


def test_a_link_of_another_user_is_refused(nfs_host: NfsHost, tenant: Path) -> None:
    (tenant / "link").symlink_to(nfs_host.data)
    os.lchown(tenant / "link", 61001, 61001)
    with pytest.raises(PathNotAllowed) as error:
        service(nfs_host, path=str(tenant / "link")).plan()
    assert error.value.option == "path"
    (tenant / "own").mkdir()
    (warning,) = warned(service(nfs_host, path=str(tenant / "own")).plan())
    assert warning == (
        f"Another user than root can replace {tenant} by a symbolic link, and the next start of the server would "
        "export where that leads: take a directory that only root can replace."
    )


def mountinfo(host: NfsHost, fstype: str) -> None:
    """Let the directory be a mount of a type in the host's table of mounts."""
    table = host.proc / "self" / "mountinfo"
    lines = table.read_text().splitlines()
    root = next(line.split(" ")[0] for line in lines if line.split(" ")[4] == "/")
    table.write_text("\n".join([*lines, f"9999 {root} 0:999 / {host.data} rw - {fstype} source rw"]) + "\n")


def test_a_file_system_without_an_identity(nfs_host: NfsHost, datastore: SimulatedDatastore) -> None:
    (nfs_host.proc / "self" / "mountinfo").write_text(Path("/proc/self/mountinfo").read_text())
    path = str(datastore.path())
    with pytest.raises(InvalidInput) as error:
        service(nfs_host, path=path).converge()
    message, _comma, word = str(error.value).rpartition(", such as ")
    assert message == (
        "options: 'rw,sync,root_squash' is not accepted: a file system of the type fuse.host1 has no identity "
        "of its own, so the option fsid is expected"
    )
    assert not nfs_host.file("data").exists()
    assert warned(service(nfs_host, path=path, options=["rw", word.strip("'.")]).plan()) == []
    clients = [{"client": NETWORK, "options": ["fsid=7"]}, {"client": DIFFERENT, "options": []}]
    with pytest.raises(InvalidInput):
        service(nfs_host, path=path, clients=clients).plan()


def test_a_file_system_that_hangs(tmp_path: Path) -> None:
    program = """
import sys
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import CommandFailed
from ansible_collections.granary.vmstore.plugins.module_utils._host.nfs import exported_directory
exported_directory.TIMEOUT = 1
try:
    exported_directory.look_at("path", sys.argv[1])
except CommandFailed as error:
    print(error)
print(exported_directory.resolve_or_keep("path", sys.argv[1] + "/below"))
"""
    hung = Path(__file__).parents[2] / "hung_mount.py"
    command = [sys.executable, hung, tmp_path, "fuse.sshfs", sys.executable, "-c", program, tmp_path]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == (
        f"Looking at the directory {tmp_path} did not end within 1 seconds and was stopped.\n{tmp_path}/below\n"
    )


@pytest.mark.parametrize(("fstype", "expected"), [("tmpfs", 1), ("ext4", 0), ("zfs", 0)])
def test_an_identity_that_changes(fstype: str, expected: int, nfs_host: NfsHost) -> None:
    mountinfo(nfs_host, fstype)
    assert len(warned(service(nfs_host).plan())) == expected
    assert warned(service(nfs_host, options=["fsid=7"]).plan()) == []


def test_message_of_an_identity_that_changes(nfs_host: NfsHost) -> None:
    mountinfo(nfs_host, "tmpfs")
    (warning,) = warned(service(nfs_host).plan())
    message, _comma, word = warning.rpartition(", such as ")
    assert message == (
        f"The identity of the tmpfs of {nfs_host.data} can change with each mount, and the clients then get 'Stale "
        "file handle': give the option fsid"
    )
    assert warned(service(nfs_host, options=[word.rstrip(".")]).plan()) == []


# Options


@pytest.mark.parametrize(
    ("client", "options", "expected"),
    [
        (NETWORK, "rw,no_root_squash,insecure", []),
        (NETWORK, "rw,async", ["async"]),
        ("*", "rw", []),
        ("*", "ro,no_root_squash,insecure", []),
        ("*", "rw,no_root_squash", ["no_root_squash"]),
        ("0.0.0.0/0", "rw,insecure", ["insecure"]),
        ("::/0", "rw,no_root_squash,insecure,async", ["async", "no_root_squash", "insecure"]),
        ("*", "sec=krb5,rw,no_root_squash,sec=sys,ro", ["no_root_squash"]),
    ],
)
def test_risks_are_warned_of(client: str, options: str, expected: list[str], nfs_host: NfsHost) -> None:
    warnings = warned(service(nfs_host, client=client, options=[options]).plan())
    assert [one.split(" ")[2] for one in warnings] == expected


def test_messages_of_risks(nfs_host: NfsHost) -> None:
    plan = service(nfs_host, client="*", options=["rw,no_root_squash,insecure,async"]).plan()
    assert warned(plan) == [
        "The option async for * loses writes that the client was told are stored, when the server crashes: give sync, "
        "also for virtual disks.",
        "The option no_root_squash lets root of every host that reaches this server (*) act as root in the directory: "
        "name the hosts or their network.",
        "The option insecure lets every user of every host that reaches this server (*) write as any other user: name "
        "the hosts or their network, or give secure.",
    ]


@pytest.mark.parametrize(
    ("options", "option"),
    [
        ({"clients": []}, "clients"),
        ({"clients": [{"client": "a b", "options": []}]}, "clients.client"),
        ({"clients": [{"client": NETWORK, "options": ["bogus"]}]}, "clients.options"),
        ({"client": "10.0.0.1/8"}, "client"),
        ({"client": None}, "client"),
        ({"clients": [{"client": None, "options": []}]}, "clients.client"),
        ({"options": ["rw,ro"]}, "options"),
        ({"options": [f"mp=/{'x' * 500}"]}, "options"),
        ({"name": "../passwd"}, "name"),
        ({"name": ""}, "name"),
        ({"name": ".hidden"}, "name"),
        ({"name": "a\n"}, "name"),
        ({"name": "x" * 201}, "name"),
        (
            {"clients": [{"client": NETWORK, "options": []}, {"client": "192.0.2.0/255.255.255.0", "options": []}]},
            "clients",
        ),
        ({"clients": [{"client": "hv1", "options": []}, {"client": "HV1", "options": ["rw"]}]}, "clients"),
    ],
)
def test_bad_values_are_refused(options: dict[str, object], option: str, nfs_host: NfsHost) -> None:
    with pytest.raises(InvalidInput) as error:
        service(nfs_host, **options)
    assert error.value.option == option


@pytest.mark.parametrize(
    ("options", "accepted"),
    [
        ({"client": None}, "a client is expected"),
        ({"clients": []}, "at least one client is expected"),
        (
            {"name": "a b"},
            "1 to 200 letters, digits and '_', '.', '-', not starting with '.' or '-', are expected",
        ),
        ({"options": [f"mp=/{'x' * 500}"]}, "a client and its options of at most 511 bytes are expected"),
        ({"path": "/srv/a\\b"}, "a path without '\\' is expected, because exportfs can misread it"),
    ],
)
def test_accepted_values(options: dict[str, object], accepted: str, nfs_host: NfsHost) -> None:
    with pytest.raises(InvalidInput) as error:
        service(nfs_host, **options)
    assert error.value.accepted == accepted


def test_message_of_a_repeated_client(nfs_host: NfsHost) -> None:
    with refused(
        InvalidInput, says="clients: 'HV1' is not accepted: 'hv1' is the same client, and each is expected once."
    ):
        service(nfs_host, clients=[{"client": "hv1", "options": []}, {"client": "HV1", "options": []}])


# A running server


def test_live_exports_and_clients(nfs_host: NfsHost) -> None:
    words = "rw,root_squash,sync,wdelay,no_subtree_check,uuid=1:2:3:4,sec=1"
    nfs_host.run_server(f"{nfs_host.data}\t{NETWORK}({words})\n", {"3": "192.0.2.7", "4": "198.51.100.1"})
    service(nfs_host).converge()
    plan = service(nfs_host).converge()
    assert (plan.changed, plan.warnings) == (False, [])
    assert plan.result["export"]["live"] == [{"client": NETWORK, "options": ["rw", "sync", "root_squash"]}]
    assert plan.result["export"]["clients_live"] == [{"address": "192.0.2.7", "version": "4.2"}]


def test_an_export_of_the_kernel_that_is_out_of_date(nfs_host: NfsHost) -> None:
    nfs_host.run_server(f"{nfs_host.data}\t*,{NETWORK}(rw,no_root_squash,sync,wdelay,no_subtree_check,sec=1)\n")
    service(nfs_host).converge()
    plan = service(nfs_host).plan()
    assert [(one.name, one.subject, one.before, one.after) for one in plan.actions] == [
        (
            "update kernel exports",
            "/proc/net/rpc/nfsd.export/content",
            f"*,{NETWORK}(rw,sync,no_root_squash)\n",
            None,
        )
    ]
    assert plan.result["export"]["live"] == []


@pytest.mark.parametrize("options", [{"state": "absent"}, {"client": DIFFERENT, "options": ["rw"]}])
def test_clients_that_lose_the_export_are_named(options: dict[str, object], nfs_host: NfsHost) -> None:
    service(nfs_host).converge()
    nfs_host.run_server("", {"3": "192.0.2.7", "4": "198.51.100.1"})
    (nfs_host.state / "rmtab").write_text(f"192.0.2.8:{nfs_host.data}:0x00000001\n192.0.2.9:/usr:0x00000001\n")
    plan = service(nfs_host, **options).dry_run()
    assert plan.warnings == [
        f"Connected clients lose {nfs_host.data}: 192.0.2.7 (NFSv4.2), 192.0.2.8 (NFSv3). Programs there that use the "
        "directory get errors, so unmount it on the clients first."
    ]
    assert plan.actions[-1].before == ("connected client 192.0.2.7 (NFSv4.2)\nconnected client 192.0.2.8 (NFSv3)\n")
    assert service(nfs_host, **options).converge().warnings == plan.warnings


def test_clients_of_names_are_found_by_the_kernels_addresses(nfs_host: NfsHost) -> None:
    domains = "#class IP domain\nnfsd 198.51.100.1 localhost,*.example.org\n"
    nfs_host.run_server("", {"3": "198.51.100.1", "4": "198.51.100.2"}, domains)
    service(nfs_host, client="localhost").converge()
    (found,) = service(nfs_host, client="localhost").plan().result["export"]["clients_live"]
    assert found["address"] == "198.51.100.1"


# All exports


def test_info(nfs_host: NfsHost) -> None:
    nfs_host.exportfs("-o", "rw", f"{DIFFERENT}:/usr/share")
    nfs_host.exports.write_text("# one\n/usr/lib -ro \\\n  nosuchhost.invalid()\n")
    service(nfs_host, options=["rw", "async"]).converge()
    nfs_host.run_server(f"{nfs_host.data}\t{NETWORK}(rw,root_squash,async,wdelay,sec=1)\n", {"3": "192.0.2.7"})
    found = read_nfs_exports(*nfs_host.arguments())
    assert found["server"] == {"running": True, "threads": 8, "versions": ["4", "4.1", "4.2"]}
    data, lib, share = sorted(found["exports"], key=lambda one: (one["path"].startswith("/usr"), one["path"]))
    client = data["clients"][0]
    assert (data["path"], client["client"], client["options"]) == (
        str(nfs_host.data),
        NETWORK,
        ["rw", "async", "root_squash"],
    )
    assert (client["file"], client["line"], client["table"]) == (str(nfs_host.file("data")), 1, True)
    assert client["effective"][:2] == ["async", "wdelay"]
    assert data["clients_live"] == [{"address": "192.0.2.7", "version": "4.2"}]
    assert len(data["live"]) == 1
    assert [(one["client"], one["file"], one["line"], one["table"]) for one in lib["clients"]] == [
        ("nosuchhost.invalid", str(nfs_host.exports), 2, False)
    ]
    assert [(one["client"], one["file"], one["line"], one["table"]) for one in share["clients"]] == [
        (DIFFERENT, None, None, True)
    ]
    assert share["clients_live"] == lib["clients_live"] == []


def test_info_without_exportfs(nfs_host: NfsHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(nfs_host.etc))
    with pytest.raises(DependencyMissing):
        read_nfs_exports(*nfs_host.arguments())


def test_a_full_disk_leaves_all_as_it_was(nfs_host: NfsHost) -> None:
    nfs_host.file("data").parent.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "full", nfs_host.file("data").parent], check=True)
    try:
        nfs_host.file("filler").write_bytes(b"#" * 4095 + b"\n")
        with pytest.raises(VmstoreError):
            service(nfs_host).converge()
        assert [one.name for one in nfs_host.file("data").parent.iterdir()] == ["filler.exports"]
    finally:
        subprocess.run(["umount", nfs_host.file("data").parent], check=True)
    assert nfs_host.table() == []
