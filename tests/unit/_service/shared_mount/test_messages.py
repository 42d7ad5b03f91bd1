# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""The sentences of shared mounts, each once. All other tests compare classes and fields."""

from __future__ import annotations

import os

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import (
    CommandFailed,
    Conflict,
    DependencyMissing,
    DependencyNotFound,
    InvalidInput,
    StaleState,
    TimedOut,
)
from ansible_collections.granary.vmstore.plugins.module_utils._core.identity import Identity
from ansible_collections.granary.vmstore.plugins.module_utils._host.mount.nfs import Nfs
from ansible_collections.granary.vmstore.plugins.module_utils._host.mount.other_types import OtherType
from ansible_collections.granary.vmstore.plugins.module_utils._host.mount.store import (
    change_root,
    create_marker,
    read_root,
)
from ansible_collections.granary.vmstore.plugins.module_utils._host.mount.usability import require_usable
from ansible_collections.granary.vmstore.plugins.module_utils._service.mount.shared_mount import build_shared_mount
from refusal import refused

from .conftest import DEFAULTS

UUID = "0d0a3a9c-40a4-4c80-a35c-fd3b5b5b1c2e"
OTHER = "11111111-2222-4333-8444-555555555555"
USER = Identity(61001, 61001)

# Options


@pytest.mark.parametrize(
    ("option", "value", "accepted"),
    [
        (
            "source",
            "nas",
            "a source such as 'server:/directory', '192.0.2.1:/directory' or '[2001:db8::1]:/directory' is expected",
        ),
        ("source", "nas:/a/../b", "for the directory of the server, a path without '..' is expected"),
        ("fstype", "a b", "a type of file systems such as nfs, ceph, cifs or fuse.sshfs is expected"),
        ("fstype", "tmpfs", "a file system that several hosts share is expected, such as nfs"),
        ("options", ["vers=5"], "one of the versions 3, 4, 4.0, 4.1, 4.2 is expected"),
        (
            "options",
            ["nolock"],
            "only version 3 has this option, because the protocol of version 4 includes locks",
        ),
        ("options", ["password=x"], "every user can read mount options; a file with the secret is expected"),
        ("marker", "yes", "'create', 'require' or a UUID in lower case is expected"),
        ("timeout", 0, "1 to 3600 seconds are expected"),
    ],
)
def test_an_option_that_is_refused(option, value, accepted, fake_host) -> None:
    with refused(InvalidInput, option=option, accepted=accepted):
        fake_host.plan(**{option: value})


def test_options_that_exclude_each_other(fake_host) -> None:
    accepted = "the type nfs4 has the versions 4, 4.0, 4.1 and 4.2; use the type nfs"
    with refused(InvalidInput, option="options", accepted=accepted):
        fake_host.plan(fstype="nfs4", options=["vers=3"])
    accepted = "state=present is an entry in fstab, which boot=true requests"
    with refused(InvalidInput, option="boot", accepted=accepted):
        fake_host.plan(state="present", boot=False)


@pytest.mark.parametrize(
    ("fstype", "source", "accepted"),
    [
        ("ceph", "#a", "printable text that begins neither with '-' nor with '#' is expected"),
        ("ext4", "a", "a device in /dev, or one of UUID, LABEL, PARTUUID, PARTLABEL with a value, is expected"),
    ],
)
def test_a_source_that_is_refused(fstype, source, accepted, fake_host) -> None:
    with refused(InvalidInput, option="source", value=source, accepted=accepted):
        fake_host.plan(fstype=fstype, source=source)


def test_ids_and_users(fake_host) -> None:
    fake_host.live(fake_host.nfs())
    accepted = "a name, or a number of at most 4294967294, is expected"
    with refused(InvalidInput, option="owner", value="4294967295", accepted=accepted):
        fake_host.plan(owner="4294967295")
    with refused(DependencyNotFound, says="group: this host has no group 'nobody-here'."):
        fake_host.plan(group="nobody-here")
    with refused(DependencyNotFound, says="verify: this host has no user 'nobody-here'."):
        fake_host.plan(verify={"user": "nobody-here", "actions": []})


# The mount


def test_what_may_not_be_done_to_a_mount(fake_host) -> None:
    fake_host.live(fake_host.nfs("nas:/other"))
    says = (
        f"The mount nas:/other (type nfs4) on {fake_host.point} has to be changed, because it has another source than "
        "nas:/srv: allow that with remount=unmount."
    )
    with refused(Conflict, says=says):
        fake_host.plan()


def test_a_directory_that_is_not_empty(fake_host) -> None:
    (fake_host.point / "disk").touch()
    says = (
        f"The directory {fake_host.point} is not empty, and a mount would hide its content: 'disk'. Move that away, or "
        "set nonempty=true."
    )
    with refused(Conflict, says=says):
        fake_host.plan()


def test_an_automount_point(fake_host) -> None:
    fake_host.live(f"{fake_host.point} rw - autofs systemd-1 rw")
    says = (
        f"The path {fake_host.point} is an automount point (systemd-1 (type autofs) on {fake_host.point}), which "
        "mounts by itself: remove that from the configuration of the automounter or from fstab (x-systemd.automount), "
        "or take another path."
    )
    with refused(Conflict, says=says):
        fake_host.plan()


def test_an_edited_fstab(fake_host) -> None:
    plan = fake_host.plan(state="present")
    fake_host.fstab.write_text("# edited\n")
    says = f"Another program changed {fake_host.fstab} meanwhile, so it was left as it is; run it again."
    with refused(StaleState, says=says):
        plan.run()


def test_warnings(fake_host) -> None:
    fake_host.live(fake_host.nfs())
    fake_host.fstab.write_text(fake_host.entry())
    plan = fake_host.plan(options=["nconnect=8", "vers=4.2"])
    assert plan.warnings == [
        "The changed options nconnect=4, nconnect=8 can't be compared with the live mount nas:/srv (type nfs4) on "
        f"{fake_host.point}, and take effect at its next mount."
    ]
    assert Nfs().warnings(["soft", "vers=3", "nolock"]) == [
        "With the option soft, a write fails when the server is away for longer than its timeouts, and a virtual disk "
        "loses data: use hard.",
        "Locks hold on this host only, so that two hosts can open the same virtual disk for writing: leave out nolock "
        "and local_lock.",
    ]


def test_a_server_that_hangs(datastore, tmp_path) -> None:
    datastore.set(state="hung")
    (tmp_path / "fstab").touch()
    mine = {"path": str(datastore.path()), "fstype": "fuse.host1", "source": "simulated-datastore", "timeout": 1}
    says = (
        f"The mount simulated-datastore (type fuse.host1) on {datastore.path()} did not respond within 1 seconds: its "
        "server is away, or very busy; nothing was changed. Bring the server back, or detach the mount with lazy=true."
    )
    with refused(TimedOut, says=says):
        build_shared_mount({**DEFAULTS, **mine}, str(tmp_path)).plan()
    datastore.set(state="up")


def test_programs_and_devices_that_are_missing(tmp_path) -> None:
    (tmp_path / "filesystems").touch()
    says = (
        "Neither the running kernel * nor a program mount.lustre can mount the type lustre: install the package with "
        "that program or module."
    )
    with refused(DependencyMissing, says=says):
        OtherType("lustre", str(tmp_path)).require_supported()
    with refused(DependencyMissing, says="source: This host has no block device /dev/missing."):
        OtherType("ext4").require_source("/dev/missing")


def test_the_reason_of_a_server() -> None:
    error = Nfs().explain(CommandFailed("mount.nfs: access denied by server."), "nas:/srv", "/mnt/a")
    assert str(error) == (
        "nas:/srv can't be mounted on /mnt/a: the server nas doesn't export /srv to this host, or not by this version. "
        "mount.nfs: access denied by server."
    )


# The store


def test_markers(fake_host) -> None:
    fake_host.live(fake_host.nfs())
    says = (
        f"nas:/srv on {fake_host.point} has no marker .granary-store: it isn't the expected store, or no host has "
        "marked it yet with marker=create."
    )
    with refused(Conflict, says=says):
        fake_host.plan(marker="require")
    create_marker(str(fake_host.point), UUID)
    says = (
        f"nas:/srv on {fake_host.point} is another store than the expected one: it has the marker {UUID}, not {OTHER}."
    )
    with refused(Conflict, says=says):
        fake_host.plan(marker=OTHER)
    says = f"Another host marked the store on {fake_host.point} with {UUID} meanwhile; run it again."
    with refused(Conflict, says=says):
        create_marker(str(fake_host.point), OTHER)
    (fake_host.point / ".granary-store").write_text("x")
    with refused(Conflict, says=f"The marker {fake_host.point}/.granary-store is damaged: it holds no UUID."):
        read_root(str(fake_host.point))
    (fake_host.point / ".granary-store").unlink()
    os.mkfifo(fake_host.point / ".granary-store")
    with refused(Conflict, says=f"The marker {fake_host.point}/.granary-store isn't a regular file."):
        read_root(str(fake_host.point))


def test_a_server_that_keeps_the_owner(datastore_factory) -> None:
    for squash, says in (
        (
            "root",
            "The server refused to change the owner or the mode of {}: it doesn't accept root of this host "
            "(root_squash). Set them on the server, or export with no_root_squash.",
        ),
        (
            "none",
            "The server keeps {} as 0:0 0755 instead of 61001:61001 0755: it maps users (all_squash, or id mapping).",
        ),
    ):
        datastore = datastore_factory({"host1": {"profile": "nfs4.2", "squash": squash}})
        path = datastore.path()
        if squash == "none":
            rule = datastore.control.call("rule.add", ops=["chown"], action="noop")["id"]
        with refused(CommandFailed, says=says.format(path)):
            change_root(str(path), 61001, 61001, 0o755)
    assert rule


@pytest.mark.parametrize(
    ("squash", "action", "says"),
    [
        (
            "all",
            "create",
            "verify: the user one can't create a file of its own in {}: the server gives it to 65534 instead of 61001; "
            "without all_squash, or with anonuid=61001, or with the same ids on both sides, it is the user's.",
        ),
        (
            "root",
            "chown",
            "verify: the user one can't give a file to another user as root in {}: the server squashes root "
            "(root_squash): export with no_root_squash, or leave chown out of verify.",
        ),
    ],
)
def test_what_a_user_cannot_do(squash, action, says, datastore_factory) -> None:
    datastore = datastore_factory({"host1": {"profile": "nfs4.2", "squash": squash}})
    datastore.backing.chmod(0o777)
    with refused(Conflict, says=says.format(datastore.path())):
        require_usable(str(datastore.path()), "one", USER, [action])


def test_a_store_that_is_closed(datastore) -> None:
    datastore.backing.chmod(0o700)
    says = f"verify: the user one can't reach {datastore.path()}, because {datastore.path()} is closed to that user."
    with refused(Conflict, says=says):
        require_usable(str(datastore.path()), "one", USER, ["create"])
    datastore.backing.chmod(0o755)
    says = (
        f"verify: the user one can't create a file in {datastore.path()}: the store belongs to 0:0 with mode 0755; set "
        "owner, group or mode so that the user may write."
    )
    with refused(Conflict, says=says):
        require_usable(str(datastore.path()), "one", USER, ["create"])
