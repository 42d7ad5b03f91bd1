# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""The store in the mount: marker, owner, group, mode, and the actions of the service user.

A tmpfs is empty after each mount. ``filled`` gives a new one the content of a store.
"""

from __future__ import annotations

MARKED = """filled("echo " + UUID + " > .granary-store; chown 61001:61002 .; chmod 0750 .")
"""


def test_a_marker_is_created_once_and_required_then(namespace) -> None:
    code = """
told += [run(marker="require")[0], live(), read()]
told += [run(marker=UUID)[0], live(), read()]
told += [run(marker="create", dry=True), live(), result(marker="create", dry=True)["marker"]]
made = result(marker="create")["marker"]
told += [store.is_uuid(made), made == open(os.path.join(point, ".granary-store")).read().strip()]
told += [run(marker="create"), run(marker="create", dry=True), run(marker="require"), run(marker=made)]
told += [run(marker=OTHER)[0], result()["marker"] == made, live()]
"""
    assert namespace(code) == [
        *("Conflict", [], "# fstab\n"),
        *("Conflict", [], "# fstab\n"),
        *(["add fstab entry", "mount", "create marker"], [], None),
        *(True, True),
        *([], [], [], []),
        *("Conflict", True, ["one rw,relatime"]),
    ]


def test_a_wrong_store_changes_nothing(namespace) -> None:
    """Check mode looks into the store in a mount namespace of its own, which nobody else sees."""
    point = namespace.point / "new"
    code = (
        MARKED
        + """
for dry in (True, False):
    told += [run(marker=OTHER, dry=dry)[0], live(), read(), os.path.exists(point), sources().count("one")]
told += [run(marker=UUID, dry=True), sources().count("one"), run(marker=UUID), result()["marker"] == UUID]
told += [result(dry=True)["marker"] == UUID]
before = read()
told += [run(source="two", remount="unmount", marker=OTHER)[0], live(), read() == before]
"""
    )
    wrong = ["Conflict", [], "# fstab\n", False, 0]
    steps = ["create directory", "add fstab entry", "mount"]
    assert namespace(code, point) == [
        *(wrong * 2),
        *(steps, 0, steps, True),
        True,
        *("Conflict", ["one rw,relatime"], True),
    ]


def test_an_error_of_a_wrong_marker_has_both(namespace) -> None:
    code = (
        MARKED
        + """
told += [run(marker=OTHER), UUID, OTHER]
"""
    )
    (kind, message, _fields), found, wanted = namespace(code)
    assert kind == "Conflict"
    assert found in message and wanted in message


def test_an_error_in_check_mode_names_the_desired_mount_point(namespace) -> None:
    point = namespace.point / "missing"
    code = """
filled("mkdir .granary-store")
told += [run(dry=True)[:2], run()[:2]]
attacked("mount", "echo 'mount: access denied to nas:/home' >&2; exit 32")
told += [warnings(dry=True, source="nas:/home")]
"""
    (kind, dry), (same, real), (warning,) = namespace(code, point)
    assert (kind, same) == ("Conflict", "Conflict")
    assert dry == real
    assert f"{point}/.granary-store" in dry
    assert "access denied to nas:/home" in warning


def test_a_check_before_the_store_is_exported_is_a_warning(namespace) -> None:
    code = """
attacked("mount", "echo 'mount: /x: access denied' >&2; exit 32")
told += [run(marker=UUID, dry=True), len(warnings(marker=UUID, dry=True)), run(marker=UUID)[0], live(), read()]
"""
    assert namespace(code) == [["add fstab entry", "mount"], 1, "CommandFailed", [], "# fstab\n"]


def test_owner_group_and_mode_of_the_mounted_root(namespace) -> None:
    """The mount point below stays as it is."""
    code = """
os.chmod(point, 0o711)
def root():
    found = os.stat(point)
    return [found.st_uid, found.st_gid, oct(found.st_mode & 0o7777)]
wanted = {"owner": "61001", "group": "games", "mode": "02770"}
told += [run(dry=True, **wanted), root(), run(**wanted), root(), run(**wanted), run(dry=True, **wanted)]
told += [[result()[name] for name in ("owner", "group", "mode")], run(mode="0700"), root()]
told += [run(state="absent"), root(), pwd.getpwnam("games").pw_gid]
"""
    *told, games = namespace(code)
    assert told == [
        ["add fstab entry", "mount", "change root directory"],
        [0, 0, "0o711"],
        ["add fstab entry", "mount", "change root directory"],
        [61001, games, "0o2770"],
        *([], []),
        ["61001", "games", "2770"],
        ["change root directory"],
        [61001, games, "0o700"],
        ["remove fstab entry", "unmount"],
        [0, 0, "0o711"],
    ]


def test_a_user_that_is_missing_changes_nothing(namespace) -> None:
    code = """
for options in ({"owner": "nobody-here"}, {"group": "nobody-here"}, {"verify": {"user": "nobody-here", "actions": []}}):
    told += [run(**options)[0], live(), read(), run(dry=True, **options) in (
        ["add fstab entry", "mount"], ["add fstab entry", "mount", "not known yet"])]
run()
for options in ({"owner": "nobody-here"}, {"verify": {"user": "nobody-here", "actions": []}}):
    told += [run(**options)[0], live()]
"""
    assert namespace(code) == [
        *(["DependencyNotFound", [], "# fstab\n", True] * 3),
        *(["DependencyNotFound", ["one rw,relatime"]] * 2),
    ]


def test_a_verification_that_fails_takes_all_back(namespace) -> None:
    point = namespace.point / "new"
    code = """
actions = ["create", "chmod", "chown", "lock"]
verify = {"user": "games", "actions": actions}
attempt = {"verify": verify, "marker": "create", "mode": "0700"}
told += [run(dry=True, **attempt), run(**attempt)[0], live(), read(), os.path.exists(point)]
told += [run(verify=verify, marker="create", owner="games", mode="0750"), sorted(os.listdir(point))]
told += [run(verify=verify), run(mode="0700", owner="root", verify=verify)[0], oct(os.stat(point).st_mode & 0o7777)]
told += [os.stat(point).st_uid == pwd.getpwnam("games").pw_uid, sorted(os.listdir(point))]
"""
    assert namespace(code, point) == [
        ["create directory", "add fstab entry", "mount", "change root directory", "create marker"],
        *("Conflict", [], "# fstab\n", False),
        ["create directory", "add fstab entry", "mount", "change root directory", "create marker"],
        [".granary-store"],
        *([], "Conflict", "0o750"),
        True,
        [".granary-store"],
    ]


def test_a_marker_that_its_owner_replaced(namespace) -> None:
    code = """
secret = os.path.join(base, "secret")
open(secret, "w").write(UUID + chr(10))
for content in ("mkfifo .granary-store", f"ln -s {secret} .granary-store", "mkdir .granary-store",
                "head -c 1000000 /dev/zero > .granary-store", "mknod .granary-store c 1 5"):
    filled(content + "; chown -h 61001:61001 .granary-store; chown 61001:61001 .")
    for marker in ("create", "require", UUID, None):
        for dry in (True, False):
            done = run(marker=marker, dry=dry, timeout=30)
            told.append([done[0], live(), read()])
told += [open(secret).read() == UUID + chr(10)]
"""
    *refusals, same = namespace(code)
    assert refusals == [["Conflict", [], "# fstab\n"]] * 40
    assert same


def test_a_read_only_store(namespace) -> None:
    code = (
        MARKED
        + """
run(marker=UUID)
told += [run(options=["ro"], marker=UUID), live()]
told += [run(options=["ro"], mode="0700")[0], oct(os.stat(point).st_mode & 0o7777), run(state="absent")]
filled("true")
told += [run(options=["ro"], marker="create")[0], live(), read()]
"""
    )
    assert namespace(code) == [
        ["replace fstab entry", "remount"],
        ["one ro,relatime"],
        *("FileAccessFailed", "0o750"),
        ["remove fstab entry", "unmount"],
        *("FileAccessFailed", [], "# fstab\n"),
    ]
