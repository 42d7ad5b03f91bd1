# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whole runs on the real kernel: mounts, remounts, unmounts, and their undo."""

from __future__ import annotations


def test_from_nothing_to_absent(namespace) -> None:
    """Each step: check mode, run, run again, check mode again."""
    point = namespace.point / "new dir"
    code = """
for options in ({}, {"options": ["noexec"]}, {"boot": False}, {"state": "unmounted"}, {"state": "absent"}):
    before = (live(), read(), os.path.isdir(point))
    foretold = run(dry=True, **options)
    told.append(before == (live(), read(), os.path.isdir(point)))
    done = run(**options)
    told += [foretold == done, done, run(**options), run(dry=True, **options), live(), read()]
told.append(os.path.isdir(point))
"""
    escaped = str(point).replace(" ", "\\040")
    entry = f"# fstab\none {escaped} tmpfs {{}}_netdev,nofail 0 0\n"
    mounted, noexec = ["one rw,relatime"], ["one rw,noexec,relatime"]
    assert namespace(code, point) == [
        *(True, True, ["create directory", "add fstab entry", "mount"], [], [], mounted, entry.format("")),
        *(True, True, ["replace fstab entry", "remount"], [], [], noexec, entry.format("noexec,")),
        *(True, True, ["remove fstab entry", "remount"], [], [], mounted, "# fstab\n"),
        *(True, True, ["unmount"], [], [], [], "# fstab\n"),
        *(True, True, [], [], [], [], "# fstab\n"),
        True,
    ]


def test_present_leaves_the_mount(namespace) -> None:
    code = """
told += [run(state="present"), live(), run(state="present"), run(), run(state="present", options=["ro"]), live()]
told += [run(state="unmounted"), read()]
"""
    assert namespace(code) == [
        ["add fstab entry"],
        [],
        [],
        ["mount"],
        ["replace fstab entry"],
        ["one rw,relatime"],
        ["unmount"],
        f"# fstab\none {namespace.point} tmpfs ro,_netdev,nofail 0 0\n",
    ]


def test_what_may_be_done_to_a_mount_that_differs(namespace) -> None:
    """The size of a tmpfs can only be set by a new mount, as far as the engine knows."""
    code = """
run(options=["size=64k"])
before = read()
for remount in ("never", "live"):
    told += [run(options=["size=128k"], remount=remount)[0]]
    told += [run(source="two", options=["size=64k"], remount=remount)[0]]
told += [run(options=["size=64k", "ro"], remount="never")[0], live(), read() == before]
told += [run(options=["size=64k", "ro"]), live()]
told += [run(options=["size=128k"], remount="unmount"), run(source="two", remount="unmount"), live()]
"""
    assert namespace(code) == [
        *["Conflict"] * 5,
        ["one rw,relatime"],
        True,
        ["replace fstab entry", "remount"],
        ["one ro,relatime"],
        ["replace fstab entry", "unmount", "mount"],
        ["replace fstab entry", "unmount", "mount"],
        ["two rw,relatime"],
    ]


def test_a_mount_in_use_stays_and_its_user_is_named(namespace) -> None:
    code = """
run()
before = read()
with open(os.path.join(point, "open"), "w"):
    for options in ({"options": ["ro"]}, {"source": "two", "remount": "unmount"}, {"state": "unmounted"},
                    {"state": "absent"}):
        kind, message, _fields = run(**options)
        told.append([kind, f"({os.getpid()})" in message])
    told += [live(), read() == before]
told.append(run(state="absent"))
"""
    assert namespace(code) == [
        *[["Conflict", True]] * 4,
        ["one rw,relatime"],
        True,
        ["remove fstab entry", "unmount"],
    ]


def test_a_path_with_the_word_busy_is_not_in_use(namespace) -> None:
    """mount(8) has the path and the source in its messages."""
    point = namespace.base / "is busy"
    code = """
told += [run(source="target is busy", options=["size=x"])[0], live(), read()]
"""
    assert namespace(code, point) == ["CommandFailed", [], "# fstab\n"]


def test_a_mount_that_fails_leaves_nothing(namespace) -> None:
    point = namespace.point / "a/b"
    code = """
told += [run(options=["size=x"])[0], live(), read(), os.listdir(os.path.join(base, "mnt"))]
run(options=["size=64k"])
before = read()
told += [run(options=["size=x"], remount="unmount")[0], live(), read() == before]
"""
    assert namespace(code, point) == [
        *("CommandFailed", [], "# fstab\n", []),
        *("CommandFailed", ["one rw,relatime"], True),
    ]


def test_a_mount_that_does_not_end_in_time_leaves_nothing(namespace) -> None:
    """The file system is mounted when the deadline comes, and its helper still runs."""
    code = """
attacked("mount", 'PATH=/usr/sbin:/usr/bin:/sbin:/bin; mount "$@"; echo $$ > ' + base + '/helper; exec sleep 1000')
start = time.monotonic()
kind, message, _fields = run(timeout=2)
told += [kind, time.monotonic() - start < 60, sources().count("one"), live(), read()]
helper = int(open(os.path.join(base, "helper")).read())
end = time.monotonic() + 60
while os.path.exists(f"/proc/{helper}") and open(f"/proc/{helper}/stat").read().split()[2] != "Z":
    assert time.monotonic() < end
os.unlink(os.path.join(base, "tools/mount"))
told.append(run())
"""
    assert namespace(code) == ["TimedOut", True, 0, [], "# fstab\n", ["add fstab entry", "mount"]]


def test_a_mount_whose_maker_is_killed_leaves_nothing(namespace) -> None:
    """Another program kills the child process of the engine between the mount and its check."""
    code = """
attacked("mount", 'PATH=/usr/sbin:/usr/bin:/sbin:/bin; mount "$@"; kill -9 $PPID')
told += [run()[0], sources().count("one"), live(), read()]
"""
    assert namespace(code) == ["CommandFailed", 0, [], "# fstab\n"]


def test_a_long_timeout_is_the_only_one(namespace) -> None:
    """A command inside of the deadline has no shorter one of its own."""
    code = """
from ansible_collections.granary.vmstore.plugins.module_utils._core import command
from ansible_collections.granary.vmstore.plugins.module_utils._host.mount import commands
seen = []
real = commands.run
def spy(*words, **options):
    seen.append(options.get("timeout", 60))
    return real(*words, **options)
commands.run = spy
from ansible_collections.granary.vmstore.plugins.module_utils._core import deadline
def inside(seconds, doing, function):
    return function()
from ansible_collections.granary.vmstore.plugins.module_utils._host.mount import live as lives
lives.run_with_deadline = inside
service.MountService._within = lambda self, doing, function: function()
told += [run(timeout=3600), run(options=["ro"], timeout=3600), run(state="absent", timeout=3600)]
told.append(min(seen) >= 3600)
"""
    *done, is_long = namespace(code)
    assert done == [
        ["add fstab entry", "mount"],
        ["replace fstab entry", "remount"],
        ["remove fstab entry", "unmount"],
    ]
    assert is_long


def test_settings_of_the_superblock_are_remounted(namespace) -> None:
    """ext4 on a loop device represents a cluster file system."""
    code = """
def output(*words):
    return subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()

image = os.path.join(base, "image")
output("mkfs.ext4", "-q", image, "8M")
device = output("losetup", "--find", "--show", image)
try:
    ext4 = {"source": device, "fstype": "ext4", "nonempty": True}
    for number in (20, 30):
        words = ["nosuid", f"commit={number}"]
        told += [run(options=words, **ext4), run(options=words, **ext4)]
        told += [live()[0].partition(" ")[2], f"commit={number}" in output("findmnt", "-no", "FS-OPTIONS", point)]
    told += [run(state="absent", **ext4)]
finally:
    output("losetup", "--detach", device)
"""
    assert namespace(code) == [
        *(["add fstab entry", "mount"], [], "rw,nosuid,relatime", True),
        *(["replace fstab entry", "remount"], [], "rw,nosuid,relatime", True),
        ["remove fstab entry", "unmount"],
    ]


def test_options_that_cannot_be_compared_are_warned_of_once(namespace) -> None:
    code = """
run()
told += [len(warnings(options=["size=64k"])), run(options=["size=64k"]), len(warnings(options=["size=64k"]))]
told += [len(warnings(options=["size=64k", "x-a"])), len(warnings(options=["noexec", "size=64k"]))]
told += [len(warnings())]
"""
    assert namespace(code) == [1, ["replace fstab entry"], 0, 0, 0, 1]


def test_two_runs_at_once_make_one_mount(namespace) -> None:
    code = """
children = []
for number in range(4):
    child = os.fork()
    if child == 0:
        done = run(marker="create")
        os._exit(0 if isinstance(done, list) and "TimedOut" not in done else 1)
    children.append(child)
told += [[os.waitpid(child, 0)[1] for child in children], live(), read(), run(marker="require")]
"""
    statuses, live, fstab, again = namespace(code)
    assert statuses == [0] * 4
    assert live == ["one rw,relatime"]
    assert fstab == f"# fstab\none {namespace.point} tmpfs _netdev,nofail 0 0\n"
    assert again == []


def test_a_killed_run_is_completed_by_the_next(namespace) -> None:
    """SIGKILL comes between the mount and the marker."""
    code = """
child = os.fork()
if child == 0:
    service.store.create_marker = lambda path, marker: os.kill(os.getppid(), 9)
    run(marker="create", timeout=60)
    os._exit(0)
told += [os.waitpid(child, 0)[1], live(), os.listdir(point)]
told += [run(marker="create", mode="0700"), len(open(os.path.join(point, ".granary-store")).read())]
told += [run(marker="create", mode="0700"), sources().count("one")]
"""
    assert namespace(code) == [
        9,
        ["one rw,relatime"],
        [],
        ["change root directory", "create marker"],
        37,
        [],
        1,
    ]
