# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plans on recorded files, and whole runs on the real kernel.

In runs with mounts tmpfs represents virtiofs, in a separate mount namespace: a tmpfs accepts any source name, like the
tag of a virtiofs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import (
    Conflict,
    DependencyNotFound,
    InvalidInput,
    UnsupportedAction,
)
from ansible_collections.granary.vmstore.plugins.module_utils._core.plan import Plan
from ansible_collections.granary.vmstore.plugins.module_utils._host.mount.virtiofs import Virtiofs
from ansible_collections.granary.vmstore.plugins.module_utils._service.mount.virtiofs_mount import (
    build_virtiofs_mount,
    read_virtiofs_mounts,
)
from refusal import refused

ROOT = "24 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n"
DEFAULTS = {"tag": "one-1", "options": [], "nofail": True, "mode": "0755", "state": "mounted"}


class Machine:
    """Directories that represent a guest's /etc, /proc and /sys, and a directory for mount points."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.point = base / "mnt"
        self.point.mkdir()
        for name in ("etc", "proc/self", "sys/fs/virtiofs"):
            (base / name).mkdir(parents=True)
        (base / "proc/filesystems").write_text("nodev\tproc\nnodev\tvirtiofs\n")
        self.tags("one-1", "one-2")
        self.live()
        self.fstab = base / "etc/fstab"
        self.fstab.write_text("# fstab\n")

    def tags(self, *tags: str) -> None:
        for number, tag in enumerate(tags):
            (self.base / f"sys/fs/virtiofs/{number}").mkdir()
            (self.base / f"sys/fs/virtiofs/{number}/tag").write_text(f"{tag}\n")

    def live(self, *lines: str) -> None:
        """Set the live mounts by the end of their line: ``MOUNT_POINT OPTIONS - TYPE SOURCE OPTIONS``."""
        text = "".join(f"{number} 24 0:{number} / {line}\n" for number, line in enumerate(lines, 31))
        (self.base / "proc/self/mountinfo").write_text(ROOT + text)

    def arguments(self) -> tuple[Virtiofs, str, str]:
        etc, proc, sys = (str(self.base / name) for name in ("etc", "proc", "sys"))
        return Virtiofs(proc, sys), etc, proc

    def plan(self, **options: object) -> Plan:
        return build_virtiofs_mount({**DEFAULTS, "path": str(self.point), **options}, *self.arguments()).plan()

    def actions(self, **options: object) -> list[str]:
        return [action.name for action in self.plan(**options).actions]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def format_mount(machine: Machine, options: str = "rw,relatime", tag: str = "one-1", super_options: str = "rw") -> str:
    return f"{machine.point} {options} - virtiofs {tag} {super_options}"


# Actions by present state


@pytest.mark.parametrize(
    ("live", "entry", "state", "expected"),
    [
        (False, False, "mounted", ["add fstab entry", "mount"]),
        (False, True, "mounted", ["mount"]),
        (True, False, "mounted", ["add fstab entry"]),
        (True, True, "mounted", []),
        (False, False, "present", ["add fstab entry"]),
        (True, False, "present", ["add fstab entry"]),
        (False, True, "present", []),
        (False, True, "unmounted", []),
        (True, True, "unmounted", ["unmount"]),
        (True, False, "unmounted", ["unmount"]),
        (False, False, "absent", []),
        (False, True, "absent", ["remove fstab entry"]),
        (True, False, "absent", ["unmount"]),
        (True, True, "absent", ["remove fstab entry", "unmount"]),
    ],
)
@pytest.mark.parametrize("tag", ["one-1", None])
def test_three_states_are_compared(live, entry, state, expected, tag, machine):
    if tag is None and state in ("mounted", "present"):
        return  # the argument spec requires a tag
    if live:
        machine.live(format_mount(machine))
    if entry:
        machine.fstab.write_text(f"one-1 {machine.point} virtiofs nofail 0 0\n")
    plan = machine.plan(state=state, tag=tag)
    assert [action.name for action in plan.actions] == expected
    assert plan.result["mount"]["fstab"] == (
        ["nofail"] if state in ("mounted", "present") or (entry and state == "unmounted") else None
    )
    assert plan.result["mount"]["live"] == (
        ["rw", "relatime"] if state == "mounted" or (live and state == "present") else None
    )


@pytest.mark.parametrize(
    ("live", "super_options", "options", "expected"),
    [
        ("rw,relatime", "rw", ["ro"], ["remount"]),
        ("ro,relatime", "rw", [], ["remount"]),
        ("rw,relatime", "ro", [], ["remount"]),
        ("rw,relatime,nosuid", "rw", ["noexec", "noatime"], ["remount"]),
        ("rw,relatime", "rw", ["sync"], ["unmount", "mount"]),
        ("rw,relatime", "rw,dax=never", [], ["unmount", "mount"]),
        ("rw,relatime", "rw", ["_netdev", "x-a"], []),
    ],
)
def test_other_options_are_remounted_where_a_remount_can(live, super_options, options, expected, machine):
    machine.live(format_mount(machine, live, super_options=super_options))
    assert machine.actions(options=options)[1:] == expected


def test_another_tag_is_unmounted_first(machine):
    machine.live(format_mount(machine, tag="one-2"))
    assert machine.actions() == ["add fstab entry", "unmount", "mount"]


def test_the_diff_shows_each_state(machine):
    machine.live(format_mount(machine, "rw,relatime"))
    machine.fstab.write_text(f"one-1 {machine.point} virtiofs noexec 0 0\n")
    diff = [(one["before"], one["after"]) for one in machine.plan(options=["ro"]).diff()]
    assert diff == [
        (f"one-1 {machine.point} virtiofs noexec 0 0\n", f"one-1 {machine.point} virtiofs ro,nofail 0 0\n"),
        ("one-1 type virtiofs (rw,relatime)\n", "one-1 type virtiofs (ro,relatime)\n"),
    ]


@pytest.mark.parametrize(("nofail", "line"), [(True, "virtiofs ro,nofail 0 0"), (False, "virtiofs ro 0 0")])
def test_nofail_is_for_fstab(nofail, line, machine):
    actions = machine.plan(options=["ro"], nofail=nofail).actions
    assert str(actions[0].after) == f"one-1 {machine.point} {line}\n"
    assert actions[1].after == "one-1 type virtiofs (ro,relatime)\n"


def test_directories_that_are_missing_are_made_each_by_its_own_action(machine):
    plan = machine.plan(path=str(machine.point / "a/b"), mode="0700")
    assert [(action.name, action.subject, action.after) for action in plan.actions[:2]] == [
        ("create directory", str(machine.point / "a"), "mode 0755"),
        ("create directory", str(machine.point / "a/b"), "mode 0700"),
    ]


def test_a_symbolic_link_is_followed(machine):
    (machine.base / "link").symlink_to("mnt")
    plan = machine.plan(path=str(machine.base / "link"))
    assert plan.actions[0].after == f"one-1 {machine.point} virtiofs nofail 0 0\n"
    # An entry under either name counts.
    machine.fstab.write_text(f"one-1 {machine.base / 'link'} virtiofs nofail 0 0\n")
    machine.live(format_mount(machine))
    assert machine.actions(path=str(machine.base / "link")) == ["replace fstab entry"]
    assert machine.actions(path=str(machine.base / "link"), state="absent") == ["remove fstab entry", "unmount"]


def test_absent_with_a_tag_means_only_that_tag(machine):
    machine.live(format_mount(machine, tag="one-2"))
    machine.fstab.write_text(f"one-2 {machine.point} virtiofs nofail 0 0\n")
    assert machine.actions(state="absent") == []
    assert machine.actions(state="absent", tag=None) == ["remove fstab entry", "unmount"]


def test_absent_leaves_what_is_not_virtiofs(machine):
    machine.live(f"{machine.point} rw,relatime - nfs4 nas:/x rw")
    machine.fstab.write_text(f"nas:/x {machine.point} nfs4 ro 0 0\n")
    assert machine.actions(state="absent") == machine.actions(state="unmounted") == []


# Refusals


def expect_refusal(machine: Machine, error: type[Exception], *parts: str, **options: object) -> None:
    before = machine.fstab.read_text()
    with refused(error, names=parts):
        machine.plan(**options)
    assert machine.fstab.read_text() == before


def test_a_kernel_without_virtiofs(machine, monkeypatch):
    (machine.base / "proc/filesystems").write_text("nodev\tproc\n")
    monkeypatch.setenv("PATH", str(machine.base))
    expect_refusal(machine, UnsupportedAction, os.uname().release)
    assert machine.actions(state="present") == ["add fstab entry"]


def test_a_tag_that_is_not_there(machine):
    expect_refusal(machine, DependencyNotFound, "'one-3'", "'one-1', 'one-2'", tag="one-3")
    machine.live(format_mount(machine))
    expect_refusal(machine, DependencyNotFound, "'one-3'", tag="one-3")
    assert machine.actions(state="present", tag="one-3") == ["add fstab entry"]


def test_another_file_system_on_the_path(machine):
    machine.live(f"{machine.point} rw,relatime - nfs4 nas:/x rw")
    expect_refusal(machine, Conflict, "nas:/x (type nfs4)", str(machine.point))


def test_a_bind_mount_of_a_part_of_a_share(machine):
    machine.live(format_mount(machine))
    table = machine.base / "proc/self/mountinfo"
    table.write_text(table.read_text().replace(" / " + str(machine.point), " /sub " + str(machine.point)))
    for state in ("mounted", "absent"):
        expect_refusal(machine, Conflict, " of /sub in one-1 (type virtiofs)", state=state)


def test_stacked_mounts_are_listed(machine):
    (machine.base / "proc/self/mountinfo").write_text(
        ROOT + f"31 24 0:31 / {format_mount(machine)}\n32 31 0:32 / {machine.point} rw - tmpfs over rw\n33 32 0:31 / "
        f"{format_mount(machine)}\n"
    )
    for state in ("mounted", "unmounted", "absent"):
        expect_refusal(
            machine, Conflict, "3 mounts are stacked", "one-1 (type virtiofs)", "over (type tmpfs)", state=state
        )
    assert machine.actions(state="present") == ["add fstab entry"]


def test_a_hidden_mount(machine):
    (machine.base / "proc/self/mountinfo").write_text(
        ROOT + f"31 24 0:31 / {format_mount(machine)}\n32 24 0:32 / {machine.base} rw - tmpfs over rw\n"
    )
    for state in ("mounted", "unmounted", "absent"):
        expect_refusal(machine, Conflict, "one-1 (type virtiofs)", "over (type tmpfs)", state=state)


def test_an_fstab_entry_of_another_file_system(machine):
    machine.fstab.write_text(f"# one\nnas:/x {machine.point}/ nfs4 ro 0 0\n")
    expect_refusal(machine, Conflict, "Line 2 ", "nas:/x")


def test_the_same_tag_elsewhere_with_other_superblock_options(machine):
    machine.live(f"{machine.base}/other rw,relatime - virtiofs one-1 rw,sync")
    expect_refusal(machine, Conflict, f"{machine.base}/other", "sync")
    assert machine.actions(options=["sync", "ro"]) == ["add fstab entry", "mount"]


def test_a_path_that_is_a_file_or_goes_through_one(machine):
    (machine.base / "file").touch()
    (machine.base / "link").symlink_to("file")
    for path in ("file", "file/below", "link", "link/below"):
        for state in ("mounted", "present"):
            expect_refusal(
                machine,
                InvalidInput,
                f"path: '{machine.base}/{path}'",
                f"{machine.base}/file ",
                path=f"{machine.base}/{path}",
                state=state,
            )


def test_a_link_to_a_directory_the_guest_needs(machine):
    (machine.base / "link").symlink_to("/etc")
    expect_refusal(machine, InvalidInput, "path: '/etc'", path=str(machine.base / "link"))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("mode", mode) for mode in ("755", "0999", "493", "u+x")),
        ("tag", "a b"),
        ("tag", "x" * 37),
        ("path", "mnt"),
        ("path", "/"),
        ("options", ["user"]),
    ]
    + [
        ("path", "/usr/bin"),
        ("path", "/etc/ssh"),
        ("path", "/bin"),
        ("path", "/lib/modules"),
        ("path", "/var/lib/dpkg/info"),
        ("path", "/var/run/sshd"),
        ("path", "/root/.ssh"),
        ("options", ["X-mount.subdir=../.."]),
    ],
)
def test_values_that_are_refused(option, value, machine):
    for state in ("mounted", "present"):
        with refused(InvalidInput, option=option):
            machine.plan(state=state, **{option: value})


def test_info(machine):
    machine.live(
        format_mount(machine, "ro,noatime"), "/srv/live rw,relatime - virtiofs one-2 rw", "/net rw - nfs4 nas:/x rw"
    )
    machine.fstab.write_text(
        f"one-1 {machine.point} virtiofs ro,nofail 0 0\none-3 /srv/boot virtiofs defaults 0 0\nnas:/x /net nfs4 ro "
        "0 "
        "0\n"
    )
    assert read_virtiofs_mounts(*machine.arguments()) == {
        "mounts": [
            {
                "path": str(machine.point),
                "tag": "one-1",
                "live": ["ro", "noatime"],
                "fstab": ["ro", "nofail"],
                "connected": True,
            },
            {"path": "/srv/live", "tag": "one-2", "live": ["rw", "relatime"], "fstab": None, "connected": True},
            {"path": "/srv/boot", "tag": "one-3", "live": None, "fstab": ["defaults"], "connected": False},
        ],
        "tags": ["one-1", "one-2"],
        "supported": True,
    }


# Whole runs

PRELUDE = """
import json, os, subprocess, sys
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import VmstoreError
from ansible_collections.granary.vmstore.plugins.module_utils._host.mount.virtiofs import Virtiofs
from ansible_collections.granary.vmstore.plugins.module_utils._service.mount.virtiofs_mount import build_virtiofs_mount

class StandIn(Virtiofs):
    name = "tmpfs"

    def require_supported(self):
        pass

base, point = sys.argv[1:]
fstab = os.path.join(base, "etc/fstab")

def build(**options):
    defaults = {"path": point, "tag": "one-1", "options": [], "nofail": True, "mode": "0755", "state": "mounted"}
    virtiofs = StandIn(sys=os.path.join(base, "sys"))
    return build_virtiofs_mount({**defaults, **options}, virtiofs, os.path.join(base, "etc"))

def run(change=lambda: None, **options):
    made = build(**options)
    with made.exclusive():
        plan = made.plan()
        change()
        try:
            plan.run()
        except VmstoreError as error:
            return f"{type(error).__name__}: {error} {' '.join(plan.warnings)}".strip()
    return [action.name for action in plan.actions]

def live(path=point):
    command = ["findmnt", "--noheadings", "--raw", "--mountpoint", path, "-o", "SOURCE,VFS-OPTIONS"]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True).stdout.splitlines()

def read():
    return open(fstab).read()

def warnings(**options):
    return build(**options).plan().warnings

def attacked(command, attack):
    # A program before the real one in PATH acts at the worst moment.
    tools = os.path.join(base, "tools")
    os.makedirs(tools, exist_ok=True)
    with open(os.path.join(tools, command), "w") as file:
        file.write("#!/bin/sh -e" + chr(10) + attack + chr(10))
    os.chmod(file.name, 0o755)
    os.environ["PATH"] = tools + ":" + os.environ["PATH"]
"""


def in_namespace(machine: Machine, code: str, point: Path | None = None) -> list:
    """Return the values that ``code`` appends to ``told``, in a separate mount namespace."""
    program = PRELUDE + "told = []\n" + code + "\nprint(json.dumps(told))"
    command = [
        "unshare",
        "--mount",
        "--propagation",
        "private",
        sys.executable,
        "-c",
        program,
        str(machine.base),
        str(point or machine.point),
    ]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)


def test_a_mount_from_nothing_to_absent(machine):
    point = machine.point / "new dir"
    code = """
told += [run(mode="0700"), oct(os.stat(os.path.dirname(point)).st_mode), live(), read(), run()]
subprocess.run(["umount", point], check=True)
told += [oct(os.stat(point).st_mode & 0o7777), run(), run(state="unmounted"), live(), run(state="unmounted"), run()]
told += [run(state="absent"), live(), read(), os.path.isdir(point), run(state="absent")]
"""
    escaped = str(point).replace(" ", "\\040")
    table = f"# fstab\none-1 {escaped} tmpfs nofail 0 0\n"
    assert in_namespace(machine, code, point) == [
        *(["create directory", "add fstab entry", "mount"], "0o40755", ["one-1 rw,relatime"], table, []),
        *("0o700", ["mount"], ["unmount"], [], [], ["mount"]),
        *(["remove fstab entry", "unmount"], [], "# fstab\n", True, []),
    ]


def test_other_options_keep_the_mount_where_they_can(machine):
    code = """
run()
open(os.path.join(point, "stays"), "w").close()
told += [run(options=["ro", "noatime", "nosuid"]), live(), run(options=["ro", "noatime", "nosuid"])]
told += [run(options=["noexec"]), live(), os.listdir(point), run(), live()]
told += [run(options=["sync"]), os.listdir(point), live(), run(options=["sync"])]
told += [run(tag="one-2"), live(), run(tag="one-2")]
"""
    remounted, replaced = ["replace fstab entry", "remount"], ["replace fstab entry", "unmount", "mount"]
    assert in_namespace(machine, code) == [
        *(remounted, ["one-1 ro,nosuid,noatime"], []),
        *(remounted, ["one-1 rw,noexec,relatime"], ["stays"], remounted, ["one-1 rw,relatime"]),
        *(replaced, [], ["one-1 rw,relatime"], []),
        *(replaced, ["one-2 rw,relatime"], []),
    ]


def test_a_superblock_that_is_read_only_is_made_writable(machine):
    code = """
told += [run(options=["ro"]), subprocess.run(["mount", "-o", "remount,ro", point]).returncode, run(), live()]
open(os.path.join(point, "written"), "w").close()
"""
    assert in_namespace(machine, code) == [
        ["add fstab entry", "mount"],
        0,
        ["replace fstab entry", "remount"],
        ["one-1 rw,relatime"],
    ]


def test_a_busy_mount_stays_and_its_user_is_named(machine):
    code = """
run()
before = read()
with open(os.path.join(point, "open"), "w"):
    told += [open("/proc/self/comm").read().strip(), os.getpid()]
    told += [run(options=["ro"]), run(tag="one-2"), run(state="unmounted"), run(state="absent")]
    told += [live(), read() == before]
told += [run(state="absent")]
"""
    name, pid, *errors, still, same, done = in_namespace(machine, code)
    assert set(errors) == {
        f"Conflict: The mount on {machine.point} is busy: it is used by {name} ({pid}); nothing was changed."
    }
    assert len(errors) == 4
    assert (still, same, done) == (["one-1 rw,relatime"], True, ["remove fstab entry", "unmount"])


def test_a_mount_below_makes_it_busy_too(machine):
    code = """
run()
os.mkdir(os.path.join(point, "below"))
subprocess.run(["mount", "-t", "tmpfs", "below", os.path.join(point, "below")], check=True)
told += [run(state="absent")]
"""
    (error,) = in_namespace(machine, code)
    assert "a process or a mount below it uses it" in error


def test_a_mount_that_fails_leaves_nothing_behind(machine):
    """tmpfs refuses an option of virtiofs, like a virtiofs without a DAX window."""
    point = machine.point / "a/b"
    code = """
told += [run(options=["dax=always"]), read(), live(), os.path.exists(os.path.dirname(point))]
"""
    error, fstab, live, exists = in_namespace(machine, code, point)
    assert (
        error.startswith(f"CommandFailed: The command 'mount' failed with exit code 32: {point}: ")
        and "virtio-fs device with that tag" in error
    )
    assert (fstab, live, exists) == ("# fstab\n", [], False)


def test_a_failed_replacement_brings_the_old_mount_back(machine):
    code = """
run(options=["noexec"])
before = read()
told += [run(options=["dax=always"]), live(), read() == before]
"""
    error, live, same = in_namespace(machine, code)
    assert error.startswith("CommandFailed: ")
    assert (live, same) == (["one-1 rw,noexec,relatime"], True)


def test_a_missing_fstab_is_made_and_taken_back(machine):
    machine.fstab.unlink()
    code = """
told += [run(options=["dax=always"])[:13], os.path.exists(fstab), run(), read()]
"""
    assert in_namespace(machine, code) == [
        "CommandFailed",
        False,
        ["add fstab entry", "mount"],
        f"one-1 {machine.point} tmpfs nofail 0 0\n",
    ]


def test_a_full_etc_changes_nothing(machine):
    code = """
etc = os.path.dirname(fstab)
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "etc", etc], check=True)
with open(fstab, "w") as file:
    file.write("# fstab" + 4000 * "." + chr(10))
before = read()
with open(os.path.join(etc, "filler"), "wb") as file:
    try:
        while True:
            os.write(file.fileno(), bytes(4096))
    except OSError:
        pass
told += [run(), read() == before, live(), sorted(os.listdir(etc))]
"""
    error, same, live, files = in_namespace(machine, code)
    assert error == f"NoSpace: Could not write {machine.fstab}: No space left on device. Nothing was changed."
    assert (same, live, files) == (True, [], [".fstab.lock", "filler", "fstab"])


def test_a_directory_that_becomes_a_link_is_not_mounted_on(machine):
    code = """
other = os.path.join(base, "other")
os.mkdir(other)
def swap():
    os.rename(point, point + ".old")
    os.symlink(other, point)
told += [run(swap), live(other), read()]
"""
    error, live, fstab = in_namespace(machine, code)
    assert error.startswith(f"StaleState: The mount point {machine.point} was removed or replaced")
    assert (live, fstab) == ([], "# fstab\n")


def test_what_was_not_planned_for_is_not_unmounted(machine):
    code = """
run()
def over():
    subprocess.run(["mount", "-t", "tmpfs", "stranger", point], check=True)
told += [run(over, state="absent"), live()]
"""
    error, live = in_namespace(machine, code)
    assert error.startswith("StaleState: What is mounted on")
    assert live == ["one-1 rw,relatime", "stranger rw,relatime"]


def test_nothing_is_mounted_over_what_came_meanwhile(machine):
    code = """
told += [run(lambda: subprocess.run(["mount", "-t", "tmpfs", "stranger", point], check=True)), live(), read()]
"""
    error, live, fstab = in_namespace(machine, code)
    assert error.startswith(f"StaleState: Something was mounted on {machine.point}")
    assert (live, fstab) == (["stranger rw,relatime"], "# fstab\n")


def test_owner_and_mode_of_fstab_stay(machine):
    os.chown(machine.fstab, 0, 42)
    machine.fstab.chmod(0o640)
    code = """
run()
told += [oct(os.stat(fstab).st_mode), os.stat(fstab).st_gid]
"""
    assert in_namespace(machine, code) == ["0o100640", 42]


# Directories of other users

USER = 61001


@pytest.fixture
def theirs(machine) -> Path:
    """Create a directory of another user, with a mount point in it."""
    found = machine.base / "theirs"
    for directory in (found, found / "mnt"):
        directory.mkdir()
        os.chown(directory, USER, USER)
    (machine.base / "roots").mkdir()
    return found


def test_a_link_of_another_user_leads_nowhere(machine, theirs):
    code = """
roots = os.path.join(base, "roots")
os.rmdir(point)
os.symlink(roots, point)
os.lchown(point, 61001, 61001)
for path in (point, os.path.join(point, "new")):
    for state in ("mounted", "present", "absent"):
        try:
            told.append(run(path=path, state=state))
        except VmstoreError as error:
            told.append(f"{type(error).__name__}: {error}")
subprocess.run(["mount", "-t", "tmpfs", "one-1", roots], check=True)
for state in ("unmounted", "absent"):
    try:
        told.append(run(state=state))
    except VmstoreError as error:
        told.append(f"{type(error).__name__}: {error}")
told += [live(roots), read(), os.listdir(roots)]
"""
    *errors, live, fstab, names = in_namespace(machine, code, theirs / "mnt")
    assert [error.split(": ")[:2] for error in errors] == [["PathNotAllowed", "path"]] * 8
    assert (live, fstab, names) == (["one-1 rw,relatime"], "# fstab\n", [])


@pytest.mark.parametrize("new", ["", "/new", "/new/deeper"])
def test_a_directory_that_is_swapped_after_it_was_checked(machine, theirs, new):
    """The action creates, mounts and changes nothing at the target of the link."""
    (machine.base / "roots/mnt").mkdir(mode=0o700)
    code = """
theirs = os.path.join(base, "theirs")
def swap():
    os.rename(theirs, theirs + ".old")
    os.symlink(os.path.join(base, "roots"), theirs)
    os.lchown(theirs, 61001, 61001)
before = os.stat(os.path.join(base, "roots/mnt")).st_mtime_ns
told += [run(swap, mode="0777"), read(), os.stat(os.path.join(base, "roots/mnt")).st_mtime_ns == before]
found = subprocess.run(["find", os.path.join(base, "roots"), "-printf", "%P %m "], stdout=subprocess.PIPE, text=True)
told += [found.stdout]
told += [open("/proc/self/mountinfo").read().count(" one-1 ")]
"""
    error, fstab, untouched, found, mounts = in_namespace(machine, code, Path(f"{theirs}/mnt{new}"))
    assert error.startswith("PathNotAllowed: ")
    assert (fstab, untouched, found, mounts) == ("# fstab\n", True, " 755 mnt 700 ", 0)


def test_a_link_of_another_user_to_the_users_own_directory(machine, theirs):
    """The root of the mounted file system belongs to another user."""
    code = """
link = os.path.join(base, "theirs/link")
os.symlink("mnt", link)
os.lchown(link, 61001, 61001)
told += [build(path=link).plan().result["mount"]["path"] == point]
told += [run(path=link), run(path=link), live(), run(path=link, state="absent"), live()]
"""
    assert in_namespace(machine, code, theirs / "mnt") == [
        True,
        ["add fstab entry", "mount"],
        [],
        ["one-1 rw,relatime"],
        ["remove fstab entry", "unmount"],
        [],
    ]


def test_a_directory_that_is_swapped_while_mount_runs(machine, theirs):
    """The mount is made on the opened directory, detected at another path, and undone."""
    code = """
roots = os.path.join(base, "roots")
attacked("mount", f"/bin/mv {point} {point}.old; /bin/ln -s {roots} {point}; exec /bin/mount \\"$@\\"")
told += [run(), live(roots), live(point + ".old"), read(), open("/proc/self/mountinfo").read().count(" one-1 ")]
"""
    error, *rest = in_namespace(machine, code, theirs / "mnt")
    assert error.startswith(f"StaleState: The mount point {theirs}/mnt was moved to another path during the mount")
    assert rest == [[], [], "# fstab\n", 0]


def test_a_mount_point_that_its_owner_replaces_in_another_namespace(machine, theirs):
    """The kernel then detaches the mount. No other mount may be unmounted instead."""
    code = """
roots = os.path.join(base, "roots")
told += [run()]
subprocess.run(["mount", "-t", "tmpfs", "one-1", roots], check=True)
def swap():
    script = f"mv {point} {point}.old; ln -s {roots} {point}"
    unshare = ["unshare", "--mount", "--propagation", "private"]
    subprocess.run([*unshare, "sh", "-ec", f"umount {point}; {script}"], check=True)
told += [run(swap, state="absent"), live(roots)]
"""
    done, error, live = in_namespace(machine, code, theirs / "mnt")
    assert done == ["add fstab entry", "mount"]
    assert error.startswith("StaleState: ")
    assert live == ["one-1 rw,relatime"]


def test_unmount_follows_no_link(machine):
    code = """
from ansible_collections.granary.vmstore.plugins.module_utils._host.mount.commands import _UNMOUNT
run()
os.symlink(point, os.path.join(base, "link"))
done = subprocess.run([sys.executable, "-c", _UNMOUNT, os.path.join(base, "link")], stderr=subprocess.PIPE, text=True)
told += [done.returncode, done.stderr, live()]
"""
    assert in_namespace(machine, code) == [1, "Invalid argument\n", ["one-1 rw,relatime"]]


def test_a_boot_would_follow_a_link_of_another_user(machine, theirs):
    code = """
told += [warnings(), warnings(path=os.path.join(base, "mnt"))]
run()
told += [warnings()]
"""
    warned, nothing, again = in_namespace(machine, code, theirs / "mnt")
    assert warned == [
        f"Another user than root can replace {theirs}/mnt by a symbolic link, and a boot would mount the tag where "
        "that leads: take a mount point in a directory that only root can change."
    ]
    assert (nothing, again) == ([], [])


# Directories that a mount would hide


def test_another_name_of_a_system_directory(machine):
    """A mount on a bind mount would appear under both names."""
    (machine.base / "link").symlink_to(machine.point)
    code = """
subprocess.run(["mount", "--bind", "/etc", point], check=True)
for path in (os.path.join(point, "ssl"), os.path.join(base, "link", "new")):
    try:
        told.append(run(path=path))
    except VmstoreError as error:
        told.append(str(error))
"""
    errors = in_namespace(machine, code)
    assert [error.split(" is not")[0] for error in errors] == ["path: '/etc/ssl'", "path: '/etc/new'"]


def test_what_is_mounted_on_a_system_directory_can_be_taken_away(machine):
    code = """
misc = "/var/lib/misc"
told += [subprocess.run(["mount", "-t", "tmpfs", "one-1", misc]).returncode]
told += [run(path=misc, state="absent"), live(misc)]
"""
    assert in_namespace(machine, code) == [0, ["unmount"], []]


def test_a_directory_that_is_not_empty(machine):
    for name in "fedcba":
        (machine.point / name).touch()
    code = """
told += [warnings(), warnings(state="present"), run(), warnings(), warnings(options=["ro"])]
"""
    warned, *rest = in_namespace(machine, code)
    assert warned == [
        f"The directory {machine.point} is not empty; while the tag is mounted there, its content can't be seen: 'a', "
        "'b', 'c', 'd', 'e' and others."
    ]
    assert rest == [[], ["add fstab entry", "mount"], [], []]


def test_a_mount_below_is_not_hidden(machine):
    code = """
below = os.path.join(point, "below")
os.mkdir(below)
subprocess.run(["mount", "-t", "tmpfs", "stranger", below], check=True)
try:
    run()
except VmstoreError as error:
    told += [str(error), live(), read()]
"""
    error, live, fstab = in_namespace(machine, code)
    assert error.startswith(
        f"The mount stranger (type tmpfs) on {machine.point}/below would be hidden by a mount on {machine.point}"
    )
    assert (live, fstab) == ([], "# fstab\n")


def test_a_mount_without_an_option_that_was_asked_for_is_taken_back(machine):
    code = """
attacked("mount", "for word; do shift; set -- \\"$@\\" \\"${word%nosuid}\\"; done; exec /bin/mount \\"$@\\"")
told += [run(options=["nosuid"]), live(), read()]
told += [run(), run(options=["nosuid"]), live(), read()]
"""
    mounted, *first, done, remounted, live, fstab = in_namespace(machine, code)
    for error in (mounted, remounted):
        assert error.startswith(
            f"CommandFailed: The kernel mounted one-1 (type tmpfs) on {machine.point} with 'suid' instead of 'nosuid'"
        )
    assert first == [[], "# fstab\n"]
    assert done == ["add fstab entry", "mount"]
    assert (live, fstab) == (["one-1 rw,relatime"], f"# fstab\none-1 {machine.point} tmpfs nofail 0 0\n")


def test_another_type_of_file_systems_needs_its_options_only(machine):
    """The code that plans and mounts is independent of virtiofs."""
    code = """
from ansible_collections.granary.vmstore.plugins.module_utils._host.mount.file_system import FileSystemType
from ansible_collections.granary.vmstore.plugins.module_utils._host.mount.options import OptionRules
from ansible_collections.granary.vmstore.plugins.module_utils._service.mount import mount as mounts

class Tmpfs(FileSystemType):
    name = "tmpfs"
    source_noun = "source"
    options = OptionRules(values={"size": ""}, synonyms={}, advice="Take another type.")

def change(options=(), state="mounted"):
    words = Tmpfs.options.check("options", options)
    spec = mounts.MountSpec(path=point, source="any name", options=words, nofail=False, state=state)
    plan = mounts.MountService(spec, Tmpfs(), os.path.join(base, "etc")).converge()
    return [action.name for action in plan.actions], plan.result["mount"]

told += [change(["size=64k", "noexec"]), change(["noexec", "size=64k"]), read(), live()]
told += [change(["size=64k", "nodev"])[0], change(["size=128k", "nodev"])[0], live(), change(state="absent")[0], read()]
try:
    change(["dax=never"])
except VmstoreError as error:
    told += [str(error)]
"""
    made, again, table, mounted, *others, refusal = in_namespace(machine, code)
    words = ["size=64k", "noexec"]
    result = {"path": str(machine.point), "source": "any name", "live": ["rw", "relatime", *reversed(words)]}
    assert made == [["add fstab entry", "mount"], {**result, "fstab": words}]
    assert again == [[], {**result, "fstab": words}]
    assert table == f"# fstab\nany\\040name {machine.point} tmpfs size=64k,noexec 0 0\n"
    assert mounted == ["any\\x20name rw,noexec,relatime"]
    assert others == [
        ["replace fstab entry", "remount"],
        ["replace fstab entry", "unmount", "mount"],
        ["any\\x20name rw,nodev,relatime"],
        ["remove fstab entry", "unmount"],
        "# fstab\n",
    ]
    assert refusal.startswith("options: 'dax=never' is not accepted: ")
