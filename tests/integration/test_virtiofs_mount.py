# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module ``virtiofs_mount``, its info twin and the role ``virtiofs_guest``, run by Ansible in a guest with real
virtio-fs devices.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ansible_process
import pytest
import yaml
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import (
    Conflict,
    DependencyNotFound,
    InvalidInput,
    TimedOut,
    UnsupportedAction,
)
from lab import Lab
from refusal import require_failure

Execute = Callable[..., str]
Module = Callable[..., dict[str, Any]]
TAGS = ("one-1", "one-2")
POINT = "/mnt/share"
SHARES = "/srv/guest-tests"
DEVICE = """<filesystem type='mount' accessmode='passthrough'>
  <driver type='virtiofs'/><binary path='/usr/libexec/virtiofsd'/><source dir='{shares}/{tag}'/><target dir='{tag}'/>
</filesystem>"""

#: Mount points, including those left by tests of other modules.
UNMOUNT_ALL = "umount -a -t virtiofs; rm -d -f /mnt/*"


class Guest:
    """A guest from the test's view: Ansible on one side, its own tools on the other."""

    def __init__(self, site: Lab, name: str, module: Module, execute: Execute) -> None:
        self.site = site
        self.name = name
        self.host = site.guest(name).host.name
        self._module = module
        self._execute = execute

    def sh(self, script: str) -> str:
        return self.site.ssh(self.name, script)

    def on_host(self, script: str) -> str:
        return self._execute(self.host, "sh", "-ec", script)

    def module(self, module: str, **options: object) -> dict:
        return self._module(self.name, module, **options)

    def mount(self, **options: object) -> dict:
        return self.module("virtiofs_mount", **{"tag": "one-1", "path": POINT, **options})

    def live(self, point: str = POINT) -> list[str]:
        """Return ``ID SOURCE OPTIONS`` of each mount on ``point``, according to findmnt."""
        return self.sh(
            f"findmnt --noheadings --raw -o ID,SOURCE,VFS-OPTIONS --mountpoint {shlex.quote(point)} || true"
        ).splitlines()

    def fstab(self) -> list[str]:
        return [line for line in self.sh("cat /etc/fstab").splitlines() if not line.startswith("#")]

    def plug(self, tag: str, *flags: str) -> None:
        self._change("attach-device", tag, *flags)
        self.sh(f"until grep -qx {tag} /sys/fs/virtiofs/*/tag; do :; done")

    def unplug(self, tag: str, *flags: str) -> None:
        self._change("detach-device", tag, *flags)
        self.sh(f"while grep -qsx {tag} /sys/fs/virtiofs/*/tag; do :; done")

    def _change(self, command: str, tag: str, *flags: str) -> None:
        self._execute(
            self.host,
            "virsh",
            command,
            self.name,
            "/dev/stdin",
            "--live",
            *flags,
            stdin=DEVICE.format(shares=SHARES, tag=tag),
        )


@pytest.fixture(scope="module")
def shared_guest(site: Lab, module: Module, execute: Execute) -> Iterator[Guest]:
    guest = Guest(site, "hot", module, execute)
    for tag in TAGS:
        guest.on_host(f"mkdir -p {SHARES}/{tag}; echo {tag} >{SHARES}/{tag}/hello")
        guest.plug(tag, "--config")
    yield guest
    for tag in TAGS:
        guest.unplug(tag, "--config")
    guest.on_host(f"rm -r {SHARES}")


@pytest.fixture
def guest(shared_guest: Guest) -> Iterator[Guest]:
    """Return the guest without mounts and with its original fstab, before and after the test."""
    shared_guest.sh(f"{UNMOUNT_ALL}; cp -p /etc/fstab /root/fstab")
    yield shared_guest
    shared_guest.sh(f"cp -p /root/fstab /etc/fstab; {UNMOUNT_ALL}")


def names(result: dict) -> list[str]:
    return [action["name"] for action in result["actions"]]


def test_check_run_again_check_again(guest: Guest) -> None:
    checked = guest.mount(mode="0700", check=True)
    assert (checked["changed"], guest.live(), guest.fstab(), guest.sh("ls /mnt")) == (True, [], [], "")
    done = guest.mount(mode="0700")
    assert (done["mount"], done["actions"]) == (checked["mount"], checked["actions"])
    assert names(done) == ["create directory", "add fstab entry", "mount"]
    assert [line.split(" ")[1:] for line in guest.live()] == [["one-1", "rw,relatime"]]
    assert guest.fstab() == [f"one-1 {POINT} virtiofs nofail 0 0"]
    assert guest.sh(f"cat {POINT}/hello; echo written >{POINT}/new") == "one-1\n"
    assert guest.on_host(f"cat {SHARES}/one-1/new") == "written\n"
    for check in (False, True):
        again = guest.mount(mode="0700", check=check)
        assert (again["changed"], again["actions"], again["mount"]) == (False, [], done["mount"])
    guest.sh(f"umount {POINT}")
    assert guest.sh(f"stat -c %a {POINT}") == "700\n"


def test_other_options_keep_the_mount_where_they_can(guest: Guest) -> None:
    guest.mount()
    (before,) = guest.live()
    assert names(guest.mount(options=["ro", "noatime"])) == ["replace fstab entry", "remount"]
    (after,) = guest.live()
    assert after.split(" ") == [before.split(" ")[0], "one-1", "ro,noatime"]
    assert "Read-only file system" in guest.sh(f"touch {POINT}/x 2>&1 || true")
    assert not guest.mount(options="noatime,ro")["changed"]
    # These two changes can't be made to the live mount.
    assert names(guest.mount(options=["sync"])) == ["replace fstab entry", "unmount", "mount"]
    assert "sync" in guest.sh(f"findmnt -no FS-OPTIONS {POINT}")
    assert names(guest.mount(tag="one-2")) == ["replace fstab entry", "unmount", "mount"]
    assert guest.sh(f"cat {POINT}/hello") == "one-2\n"


def test_one_tag_on_two_points_read_only_and_writable(guest: Guest) -> None:
    """The mounts share a superblock, and the first mount made the superblock read-only."""
    guest.mount(options=["ro"])
    assert guest.mount(path="/mnt/second")["changed"]
    guest.sh("echo second >/mnt/second/second")
    assert not guest.mount(path="/mnt/second", check=True)["changed"]
    assert "Read-only file system" in guest.sh(f"touch {POINT}/x 2>&1 || true")


def test_a_tag_that_is_not_there(guest: Guest) -> None:
    failed = guest.mount(tag="nowhere")
    require_failure(failed, DependencyNotFound, names=["tag", "'nowhere'", *map(repr, TAGS)])
    assert (guest.fstab(), guest.sh("ls /mnt")) == ([], "")


def test_a_kernel_without_virtiofs(guest: Guest) -> None:
    hide = (
        "grep -v virtiofs /proc/filesystems >/run/filesystems; mount --bind /run/filesystems /proc/filesystems; mount "
        "-t tmpfs hidden /usr/lib/modules"
    )
    guest.sh(hide)
    try:
        failed = guest.mount()
        require_failure(failed, UnsupportedAction, names=[guest.sh("uname -r").strip()])
        assert (guest.fstab(), guest.sh("ls /mnt")) == ([], "")
    finally:
        guest.sh("umount /proc/filesystems /usr/lib/modules")


def test_a_busy_mount_stays_and_its_user_is_named(guest: Guest) -> None:
    guest.mount()
    before = guest.live(), guest.fstab()
    process = guest.sh(f"cd {POINT} && exec 9>>{POINT}/open && (sleep 600 >/dev/null 2>&1 & echo $!)").strip()
    try:
        require_failure(guest.mount(state="absent"), Conflict, names=[POINT, f"sleep ({process})"])
        assert (guest.live(), guest.fstab()) == before
    finally:
        guest.sh(f"kill {process}; while kill -0 {process} 2>/dev/null; do :; done")


def test_stacked_mounts_are_named(guest: Guest) -> None:
    guest.sh(f"mkdir {POINT}; mount -t tmpfs stranger {POINT}; mount -t virtiofs one-1 {POINT}")
    require_failure(guest.mount(state="absent"), Conflict, names=["stranger", "tmpfs"])
    guest.sh(f"umount {POINT}; umount {POINT}")


def test_a_mount_that_lost_its_device_is_mounted_again(guest: Guest) -> None:
    guest.mount()
    guest.unplug("one-1")
    try:
        require_failure(guest.mount(), DependencyNotFound, names=["'one-1'"])
        assert [one["connected"] for one in guest.module("virtiofs_mount_info")["mounts"]] == [False]
    finally:
        guest.plug("one-1")
    assert names(guest.mount()) == ["unmount", "mount"]
    assert guest.sh(f"cat {POINT}/hello") == "one-1\n"


def test_a_server_that_hangs_is_an_error_soon(guest: Guest) -> None:
    guest.mount()
    signal = f"pkill -{{}} -f -- {shlex.quote(f'--shared-dir {SHARES}/one-1( |$)')}"
    guest.on_host(signal.format("STOP"))
    try:
        require_failure(guest.mount(), TimedOut, names=[POINT])
    finally:
        guest.on_host(signal.format("CONT"))
    assert not guest.mount()["changed"]


@pytest.mark.parametrize("path", ["/bin", "/mnt/conf/ssh"])
def test_a_directory_that_the_guest_needs(guest: Guest, path: str) -> None:
    """The directory is given by a link, and by a bind mount."""
    guest.sh("mkdir /mnt/conf; mount --bind /etc /mnt/conf")
    try:
        require_failure(guest.mount(path=path), InvalidInput, option="path")
        assert (guest.live(path), guest.live(guest.sh(f"realpath -m {path}").strip()), guest.fstab()) == ([], [], [])
    finally:
        guest.sh("umount /mnt/conf")


def test_files_that_a_mount_hides(guest: Guest) -> None:
    guest.sh(f"mkdir {POINT}; touch {POINT}/hidden")
    try:
        warnings = " ".join(guest.mount(check=True)["warnings"].split())
        assert "its content can't be seen: 'hidden'" in warnings
    finally:
        guest.sh(f"rm {POINT}/hidden")


def test_unmounted_and_absent(guest: Guest) -> None:
    guest.mount(path=f"{POINT}/", options=["ro"])
    assert names(guest.mount(state="unmounted")) == ["unmount"]
    assert (guest.live(), guest.fstab()) == ([], [f"one-1 {POINT} virtiofs ro,nofail 0 0"])
    # The mounted file system decides, not the entry of fstab.
    guest.sh(f"sed -i /virtiofs/d /etc/fstab; mount -t virtiofs one-1 {POINT}")
    assert names(guest.module("virtiofs_mount", path=POINT, state="absent")) == ["unmount"]
    assert (guest.live(), guest.fstab(), guest.sh("ls /mnt")) == ([], [], "share\n")
    assert not guest.mount(state="absent")["changed"]


def test_a_reboot_mounts_again_as_the_info_has_it(guest: Guest) -> None:
    """The test includes a path that fstab must escape. A missing tag doesn't prevent the other mounts."""
    odd = "/mnt/with blank\\and #"
    guest.mount(path=odd, options=["noexec"])
    guest.module("virtiofs_mount", tag="gone", path="/mnt/gone", state="present")
    guest.mount(tag="one-2", options=["ro"])
    machine = guest.site.guest(guest.name)
    guest.sh("sync")
    machine.stop()
    machine.start()
    machine.wait_ready()
    assert [line.split(" ")[1:] for line in guest.live(odd)] == [["one-1", "rw,noexec,relatime"]]
    assert [line.split(" ")[1:] for line in guest.live()] == [["one-2", "ro,relatime"]]
    assert not guest.mount(path=odd, options=["noexec"])["changed"]
    found = guest.module("virtiofs_mount_info")
    assert (found["changed"], found["supported"], set(TAGS) <= set(found["tags"])) == (False, True, True)
    live, options = ["rw", "relatime", "noexec"], ["noexec", "nofail"]
    assert sorted(found["mounts"], key=lambda mount: str(mount["tag"])) == [
        {"path": "/mnt/gone", "tag": "gone", "live": None, "fstab": ["nofail"], "connected": False},
        {"path": odd, "tag": "one-1", "live": live, "fstab": options, "connected": True},
        {"path": POINT, "tag": "one-2", "live": ["ro", "relatime"], "fstab": ["ro", "nofail"], "connected": True},
    ]


def test_systemd_reads_the_changed_fstab(guest: Guest, module: Module) -> None:
    """The guests have no systemd. A host has systemd, and ``present`` needs no support of its kernel."""

    def unit() -> str:
        return guest.on_host("systemctl show -p Options --value mnt-share.mount")

    assert module(guest.host, "virtiofs_mount", tag="one-1", path=POINT, options=["ro"], state="present")["changed"]
    assert unit() == "ro,nofail\n"
    assert module(guest.host, "virtiofs_mount", path=POINT, state="absent")["changed"]
    assert unit() == "\n"


def test_the_role(guest: Guest, tmp_path: Path) -> None:
    mounts = [{"tag": "one-1", "path": POINT}, {"tag": "one-2", "path": "/mnt/two", "options": ["ro"]}]
    play = {
        "hosts": guest.name,
        "gather_facts": False,
        "roles": [{"role": "granary.vmstore.virtiofs_guest", "virtiofs_guest_mounts": mounts}],
    }
    (tmp_path / "play.yml").write_text(yaml.safe_dump([play]))

    def recap() -> str:
        argv = [
            str(Path(sys.executable).with_name("ansible-playbook")),
            "-i",
            str(guest.site.inventory),
            str(tmp_path / "play.yml"),
        ]
        done = ansible_process.run(argv)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.splitlines()[-2]

    assert "changed=1" in recap()
    assert guest.fstab() == [f"one-1 {POINT} virtiofs nofail 0 0", "one-2 /mnt/two virtiofs ro,nofail 0 0"]
    assert "changed=0" in recap()
