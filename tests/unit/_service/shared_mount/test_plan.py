# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plans of shared mounts: the desired state compared with a recorded fstab and a recorded table of mounts."""

from __future__ import annotations

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import (
    Conflict,
    InvalidInput,
    StaleState,
    VmstoreError,
)
from refusal import refused

from .conftest import ROOT, SUPER, WORDS

# A plan reads the store of a mount that stays. So the content of the store is that of the directory.


@pytest.mark.parametrize(
    ("live", "entry", "options", "expected"),
    [
        (False, False, {}, ["add fstab entry", "mount"]),
        (False, True, {}, ["mount"]),
        (True, False, {}, ["add fstab entry"]),
        (True, True, {}, []),
        (False, False, {"boot": False}, ["mount"]),
        (True, True, {"boot": False}, ["remove fstab entry"]),
        (True, False, {"boot": False}, []),
        (False, False, {"state": "present"}, ["add fstab entry"]),
        (True, True, {"state": "present"}, []),
        (True, False, {"state": "present"}, ["add fstab entry"]),
        (True, True, {"state": "unmounted"}, ["unmount"]),
        (False, True, {"state": "unmounted"}, []),
        (True, True, {"state": "absent"}, ["remove fstab entry", "unmount"]),
        (False, True, {"state": "absent"}, ["remove fstab entry"]),
        (True, False, {"state": "absent"}, ["unmount"]),
        (False, False, {"state": "absent"}, []),
        (True, True, {"state": "absent", "source": None}, ["remove fstab entry", "unmount"]),
        (True, True, {"state": "absent", "source": "nas:/other"}, []),
        (True, True, {"state": "absent", "source": "nas:/srv/"}, ["remove fstab entry", "unmount"]),
        (True, True, {"state": "absent", "fstype": "ceph", "source": None}, []),
    ],
)
def test_three_states_are_compared(live, entry, options, expected, fake_host) -> None:
    if live:
        fake_host.live(fake_host.nfs())
    if entry:
        fake_host.fstab.write_text(fake_host.entry())
    plan = fake_host.plan(**options)
    assert [action.name for action in plan.actions] == expected
    mount = plan.result["mount"]
    state = options.get("state", "mounted")
    is_live = state == "mounted" or (live and state == "present")
    assert (mount["live"] is None) is not is_live
    has_entry = "add fstab entry" in expected or (entry and "remove fstab entry" not in expected)
    if options.get("source", "nas:/srv") in (None, "nas:/srv") and "fstype" not in options:
        assert (mount["fstab"] is not None) is has_entry


@pytest.mark.parametrize(
    ("own", "superblock", "options", "expected"),
    [
        ("rw,relatime", "rw", ["ro"], ["remount"]),
        ("ro,relatime", "ro", [], ["remount"]),
        ("rw,relatime,nosuid", "rw", ["noexec", "noatime"], ["remount"]),
        ("rw,relatime", "rw", ["soft"], Conflict),
        ("rw,relatime", "rw", ["vers=3"], Conflict),
        ("rw,relatime", "rw", ["x-a", "bg"], []),
    ],
)
def test_other_options_are_remounted_where_a_remount_can(own, superblock, options, expected, fake_host) -> None:
    fake_host.live(fake_host.nfs(own=own, superblock=SUPER.replace("rw", superblock, 1)))
    if expected is Conflict:
        with pytest.raises(Conflict):
            fake_host.plan(options=options)
        assert fake_host.actions(options=options, remount="unmount")[1:] == ["unmount", "mount"]
        return
    assert fake_host.actions(options=options)[1:] == expected
    if expected:
        with refused(Conflict, names=["remount=live"]):
            fake_host.plan(options=options, remount="never")


def test_another_source_needs_an_unmount(fake_host) -> None:
    fake_host.live(fake_host.nfs("nas:/other"))
    for remount in ("never", "live"):
        with refused(Conflict, names=["nas:/other", "remount=unmount"]):
            fake_host.plan(remount=remount)
    assert fake_host.actions(remount="unmount") == ["add fstab entry", "unmount", "mount"]


def test_slashes_of_a_source_make_no_other_source(fake_host) -> None:
    fake_host.live(fake_host.nfs("nas:/srv/"))
    fake_host.fstab.write_text(fake_host.entry())
    assert fake_host.actions() == []
    assert fake_host.actions(source="nas://srv/") == []


def test_the_result_of_a_mount_that_stays_is_what_the_kernel_has(fake_host) -> None:
    fake_host.live(fake_host.nfs(superblock=SUPER.replace("nconnect=4,", "nconnect=2,")))
    live = fake_host.plan(options=["vers=4"]).result["mount"]["live"]
    assert {"vers=4.2", "nconnect=2", "proto=tcp"} <= set(live)
    changed = fake_host.plan(options=["vers=4", "ro"]).result["mount"]["live"]
    assert changed[0] == "ro" and "vers=4.2" in changed


def test_the_diff_shows_each_state(fake_host) -> None:
    fake_host.live(fake_host.nfs())
    fake_host.fstab.write_text(fake_host.entry("defaults"))
    diff = [(one["before"], one["after"]) for one in fake_host.plan(options=["ro"]).diff()]
    assert diff[0] == (fake_host.entry("defaults"), fake_host.entry(f"ro,{WORDS}"))
    assert [text.partition("(")[2][:2] for text in map(str, diff[1])] == ["rw", "ro"]


@pytest.mark.parametrize(("nofail", "words"), [(True, WORDS), (False, WORDS.replace(",nofail", ""))])
def test_the_words_of_fstab(nofail, words, fake_host) -> None:
    assert fake_host.plan(nofail=nofail).actions[0].after == fake_host.entry(words)
    given = [word for word in words.split(",") if word != "nofail"]
    assert fake_host.plan(nofail=nofail, options=given).actions[0].after == fake_host.entry(words)


def test_an_entry_with_the_same_meaning_stays(fake_host) -> None:
    fake_host.live(fake_host.nfs())
    fake_host.fstab.write_text(fake_host.entry("nofail,rw,nconnect=4,_netdev,hard,vers=4.2,comment=cloudconfig"))
    assert fake_host.actions() == []
    fake_host.fstab.write_text(fake_host.entry(fstype="nfs4"))
    assert fake_host.actions() == ["replace fstab entry"]


def test_entries_that_repeat_become_one(fake_host) -> None:
    fake_host.live(fake_host.nfs())
    fake_host.fstab.write_text(fake_host.entry() + "# between\n" + fake_host.entry("ro"))
    plan = fake_host.plan()
    assert [action.name for action in plan.actions] == ["replace fstab entry"]
    plan.run()
    assert fake_host.fstab.read_text() == fake_host.entry() + "# between\n"


def test_a_tag_of_virtiofs_is_a_source(fake_host) -> None:
    plan = fake_host.plan(fstype="virtiofs", source="one-1", state="present")
    assert plan.result["mount"]["source"] == "one-1"
    with refused(InvalidInput, option="source", value="#one"):
        fake_host.plan(fstype="virtiofs", source="#one", state="present")


# Refusals


def expect(fake_host, error: type[VmstoreError], *names: str, **options: object) -> None:
    """Require a refusal that contains the names, and an unchanged fstab."""
    before = fake_host.fstab.read_bytes()
    with refused(error, names=names):
        fake_host.plan(**options)
    assert fake_host.fstab.read_bytes() == before


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("path", "mnt"),
        ("path", "/"),
        ("path", "/etc/ssh"),
        ("path", "/mnt/a\nb"),
        ("path", "/mnt/../etc"),
        ("source", "nas"),
        ("source", "nas:srv"),
        ("source", "#nas:/srv"),
        ("fstype", "tmpfs"),
        ("fstype", "nfs;reboot"),
        ("fstype", ""),
        ("options", ["sfot"]),
        ("options", ["dax=never"]),
        ("options", ["x-systemd.automount"]),
        ("options", ["nofail"]),
        ("options", ["ro,rw"]),
        ("options", ["x-a\nnas:/x /mnt nfs"]),
        ("options", ["password=Geheim"]),
        ("mode", "755"),
        ("mode", "u+x"),
        ("marker", "yes"),
        ("marker", "0D0A3A9C-40A4-4C80-A35C-FD3B5B5B1C2E"),
        ("marker", ""),
        ("timeout", 0),
        ("timeout", 3601),
    ],
)
def test_values_that_are_refused(option, value, fake_host) -> None:
    with refused(InvalidInput, option=option) as refusal:
        fake_host.plan(**{option: value})
    assert "Geheim" not in str(refusal.value)


def test_an_entry_without_boot_is_refused(fake_host) -> None:
    with refused(InvalidInput, option="boot"):
        fake_host.plan(state="present", boot=False)


@pytest.mark.parametrize("option", ["owner", "group"])
@pytest.mark.parametrize("value", ["4294967295", "99999999999"])
def test_an_id_that_no_system_has(option, value, fake_host) -> None:
    """The id 4294967295 stands for no change in chown(2)."""
    fake_host.live(fake_host.nfs())
    with refused(InvalidInput, option=option, value=value):
        fake_host.plan(**{option: value})


def test_another_file_system_on_the_path(fake_host) -> None:
    fake_host.live(f"{fake_host.point} rw - ceph mon:/x rw")
    expect(fake_host, Conflict, "mon:/x (type ceph)")
    assert fake_host.actions(state="absent") == fake_host.actions(state="unmounted") == []


def test_an_automount_point(fake_host) -> None:
    fake_host.live(f"{fake_host.point} rw - autofs systemd-1 rw")
    expect(fake_host, Conflict, "automount", "systemd-1 (type autofs)")
    fake_host.live(f"{fake_host.point} rw - autofs systemd-1 rw", fake_host.nfs())
    for state in ("mounted", "unmounted", "absent"):
        expect(fake_host, Conflict, "systemd-1 (type autofs)", state=state)


def test_a_bind_mount(fake_host) -> None:
    fake_host.live(fake_host.nfs())
    table = fake_host.base / "proc/self/mountinfo"
    table.write_text(table.read_text().replace(f" / {fake_host.point}", f" /sub {fake_host.point}"))
    for state in ("mounted", "absent"):
        expect(fake_host, Conflict, "bind mount of /sub", state=state)


def test_stacked_mounts_are_listed(fake_host) -> None:
    (fake_host.base / "proc/self/mountinfo").write_text(
        f"{ROOT}31 24 0:31 / {fake_host.nfs()}\n32 31 0:32 / {fake_host.point} rw - tmpfs over rw\n"
    )
    for state in ("mounted", "unmounted", "absent"):
        expect(fake_host, Conflict, "nas:/srv (type nfs4)", "over (type tmpfs)", state=state)
    assert fake_host.actions(state="present") == ["add fstab entry"]


def test_a_hidden_mount(fake_host) -> None:
    (fake_host.base / "proc/self/mountinfo").write_text(
        f"{ROOT}31 24 0:31 / {fake_host.nfs()}\n32 24 0:32 / {fake_host.base} rw - tmpfs over rw\n"
    )
    for state in ("mounted", "unmounted", "absent"):
        expect(fake_host, Conflict, "over (type tmpfs)", state=state)


def test_a_mount_below_would_be_hidden(fake_host) -> None:
    fake_host.live(f"{fake_host.point}/below rw - nfs4 nas:/x rw")
    expect(fake_host, Conflict, "nas:/x (type nfs4)")
    expect(fake_host, Conflict, "nas:/x (type nfs4)", nonempty=True)


def test_an_entry_of_another_type(fake_host) -> None:
    fake_host.fstab.write_text(f"# one\nmon:/x {fake_host.point}/ ceph ro 0 0\n")
    expect(fake_host, Conflict, "Line 2 ", "mon:/x")
    assert fake_host.actions(state="absent") == []


def test_a_directory_that_is_not_empty(fake_host) -> None:
    (fake_host.point / "disk.qcow2").touch()
    expect(fake_host, Conflict, "'disk.qcow2'", "nonempty=true")
    plan = fake_host.plan(nonempty=True)
    assert [action.name for action in plan.actions] == ["add fstab entry", "mount"]
    assert any("'disk.qcow2'" in warning for warning in plan.warnings)
    assert fake_host.actions(state="present") == ["add fstab entry"]


def test_a_path_that_is_a_file(fake_host) -> None:
    (fake_host.base / "file").touch()
    with refused(InvalidInput, option="path", value=f"{fake_host.base}/file/below"):
        fake_host.plan(path=f"{fake_host.base}/file/below")


def test_options_that_endanger_data_are_warned_of(fake_host) -> None:
    assert len(fake_host.plan(options=["soft"]).warnings) == 1
    assert len(fake_host.plan(options=["vers=3", "nolock"], state="present").warnings) == 1
    assert fake_host.plan(options=["soft"], state="absent").warnings == []


# fstab


@pytest.mark.parametrize(
    "hostile",
    [
        "\x00\x01 /mnt nfs\n",
        "nas:/srv\\040/x /mnt\\012nfs nfs ro\n",
        "\udcff\udcfe /x\udcff nfs ro 0 0\n",
        "a" * 100000 + "\n",
        "x y\n\n\t\n#\n",
        "nas:/x /srv/x nfs \\777,\\400 0 0 # comment \\\n",
        "nas:/x /srv/x nfs ro 0 0\r\n",
    ],
)
def test_hostile_lines_of_fstab_stay_to_the_byte(hostile, fake_host) -> None:
    data = hostile.encode("utf-8", "surrogateescape")
    fake_host.fstab.write_bytes(data)
    plan = fake_host.plan(state="present")
    plan.run()
    assert fake_host.fstab.read_bytes() == data + fake_host.entry().encode()
    fake_host.plan(state="absent").run()
    assert fake_host.fstab.read_bytes() == data


def test_an_fstab_that_was_edited_meanwhile_is_not_overwritten(fake_host) -> None:
    plan = fake_host.plan(state="present")
    fake_host.fstab.write_text("# edited\n")
    with pytest.raises(StaleState):
        plan.run()
    assert fake_host.fstab.read_text() == "# edited\n"


def test_an_edited_fstab_is_not_taken_back(fake_host) -> None:
    plan = fake_host.plan(state="present")
    plan.run()
    with open(fake_host.fstab, "a") as file:
        file.write("# edited\n")
    assert len(plan.take_back()) == 1
    assert fake_host.fstab.read_text() == f"# fstab\n{fake_host.entry()}# edited\n"


def test_a_missing_fstab(fake_host) -> None:
    fake_host.fstab.unlink()
    plan = fake_host.plan(state="present")
    plan.run()
    assert fake_host.fstab.read_text() == fake_host.entry()
    assert plan.take_back() == []
    assert not fake_host.fstab.exists()
