# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Another user owns a directory around the mount point, or the store, and replaces names while root works there."""

from __future__ import annotations

from pathlib import Path

import pytest

USER = 61001

THEIRS = """
theirs, roots = os.path.join(base, "theirs"), os.path.join(base, "roots")
for directory in (theirs, os.path.join(theirs, "mnt"), roots):
    os.makedirs(directory, exist_ok=True)
os.mkdir(os.path.join(roots, "mnt"))
for directory in (theirs, os.path.join(theirs, "mnt")):
    os.chown(directory, USER, USER)
def swap(name, target):
    os.rename(name, name + ".old")
    os.symlink(target, name)
    os.lchown(name, USER, USER)
def untouched():
    found = subprocess.run(["find", roots, "-printf", "%P %m %U "], stdout=subprocess.PIPE, text=True).stdout
    return found == " 755 0 mnt 755 0 "
"""


def theirs(namespace) -> Path:
    return namespace.base / "theirs/mnt"


def test_a_link_of_another_user_leads_nowhere(namespace) -> None:
    code = (
        THEIRS
        + """
swap(point, roots)
for path in (point, os.path.join(point, "new")):
    for state in ("mounted", "present", "absent"):
        told.append(run(path=path, state=state, owner="61002", mode="0777", marker="create")[0])
told += [live(roots), read(), untouched()]
"""
    )
    *errors, live, fstab, untouched = namespace(code, theirs(namespace))
    assert errors == ["PathNotAllowed"] * 6
    assert (live, fstab, untouched) == ([], "# fstab\n", True)


@pytest.mark.parametrize("new", ["", "/new", "/new/deeper"])
def test_a_parent_that_is_swapped_after_the_plan(new, namespace) -> None:
    code = (
        THEIRS
        + """
attempt = {"owner": "61002", "mode": "0777", "marker": "create"}
told += [run(lambda: swap(theirs, roots), **attempt)[0], read(), untouched(), sources().count("one")]
"""
    )
    kind, fstab, untouched, mounts = namespace(code, Path(f"{theirs(namespace)}{new}"))
    assert kind in ("PathNotAllowed", "StaleState")
    assert (fstab, untouched, mounts) == ("# fstab\n", True, 0)


def test_a_mount_point_that_is_swapped_while_mount_runs(namespace) -> None:
    code = (
        THEIRS
        + """
attacked("mount", f"/bin/mv {point} {point}.old; /bin/ln -s {roots} {point}; exec /bin/mount \\"$@\\"")
told += [run(owner="61002", mode="0777", marker="create")[0], read(), untouched(), sources().count("one")]
"""
    )
    assert namespace(code, theirs(namespace)) == ["StaleState", "# fstab\n", True, 0]


def test_a_mount_point_that_is_swapped_before_the_store_is_changed(namespace) -> None:
    """The owner can't rename a mount point, but a directory around it. The root of another directory stays as it is."""
    code = (
        THEIRS
        + """
real = service.SharedMountService._read
def read_late(self, path):
    found = real(self, path)
    swap(theirs, roots)
    return found
service.SharedMountService._read = read_late
told += [run(owner="61002", mode="0777", marker="create")[0], untouched(), sources().count("one")]
"""
    )
    kind, untouched, _mounts = namespace(code, theirs(namespace))
    assert kind in ("PathNotAllowed", "StaleState", "VmstoreError")
    assert untouched


def test_a_boot_would_follow_a_link_of_another_user(namespace) -> None:
    code = (
        THEIRS
        + """
told += [len(warnings()), len(warnings(path=os.path.join(base, "mnt")))]
run()
told += [len(warnings()), len(warnings(options=["noexec"]))]
"""
    )
    assert namespace(code, theirs(namespace)) == [1, 0, 0, 1]


def test_what_was_not_planned_for_is_not_unmounted(namespace) -> None:
    code = """
run()
for options in ({"state": "absent"}, {"options": ["ro"]}, {"source": "two", "remount": "unmount"}):
    before = read()
    told += [run(lambda: mount("stranger"), **options)[0], live(), read() == before]
    subprocess.run(["umount", point], check=True)
"""
    assert namespace(code) == ["StaleState", ["one rw,relatime", "stranger rw,relatime"], True] * 3


def test_nothing_is_mounted_over_what_came_meanwhile(namespace) -> None:
    code = """
told += [run(lambda: mount("stranger"))[0], live(), read()]
"""
    assert namespace(code) == ["StaleState", ["stranger rw,relatime"], "# fstab\n"]


@pytest.mark.parametrize(
    "source", ["a b", "a\\040b", "a\\", "a,b", 'a"b', "a'b", "a=b", "nas:/é\u4e2d", "$(ls)", "a#b", "%s"]
)
def test_a_source_with_any_characters(source, namespace) -> None:
    code = f"""
options = {{"source": {source!r}}}
told += [run(**options), run(**options), run(dry=True, **options), result(**options)["source"]]
told += [len(read().splitlines()), run(state="absent", **options), read(), live()]
"""
    done = ["add fstab entry", "mount"]
    assert namespace(code) == [done, [], [], source, 2, ["remove fstab entry", "unmount"], "# fstab\n", []]


@pytest.mark.parametrize(
    "name", ["a b", "a\\040b", "tab\\", "é\u4e2d", "$(ls)", "'", '"', "#", "a,b", "x (deleted)", "\x85"]
)
def test_a_mount_point_with_any_characters(name, namespace) -> None:
    code = """
told += [run(marker="create"), run(marker="create"), run(options=["ro"]), live()[0].partition(" ")[2]]
told += [run(state="absent"), read()]
"""
    steps = ["create directory", "add fstab entry", "mount", "create marker"]
    remounted = [["replace fstab entry", "remount"], "ro,relatime"]
    assert namespace(code, namespace.base / name) == [
        *(steps, [], *remounted),
        *(["remove fstab entry", "unmount"], "# fstab\n"),
    ]


@pytest.mark.parametrize(
    "word",
    ["a\nb", 'x-a="', "x-a,\x00", "é=1", "size=1m;ls", "$(ls)", "x-a\\040b", "x-a b", "-o", "a=\x1b[2J", "\udcff"],
)
def test_option_words_with_other_characters(word, namespace) -> None:
    code = f"""
done = run(options=[{word!r}])
told += [done[0], done[-1].get("option") if done[0] == "InvalidInput" else None, live(), read()]
"""
    kind, option, live, fstab = namespace(code)
    assert (kind, option) in (("InvalidInput", "options"), ("CommandFailed", None))
    assert (live, fstab) == ([], "# fstab\n")
