# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Snapshots of disks of running domains on real libvirts: 11.3 on hv1, and 9.0 on old.

virsh, qemu-img and qemu-io verify the results.
"""

from __future__ import annotations

import pytest
from running_disks import COPY, MERGE, RESIZE, SNAPSHOT, STORE, VM, Machine


def test_snapshots_of_a_running_domain_and_a_restart(machine: Machine) -> None:
    machine.write(2, 1)
    machine.snapshot(0)
    machine.write(3, 2)
    machine.snapshot(1)
    machine.write(4, 3)
    machine.check(f"{VM}/disk.0.snap/0", 1, 2, 0, 0)
    machine.check(f"{VM}/disk.0.snap/1", 1, 2, 3, 0)
    machine.check(machine.path, 1, 2, 3, 4)
    # libvirt wrote the chain into the definition, with the name that leads to another file by now.
    assert f"<source file='{machine.path}'/>" in machine.definition()
    assert "<backingStore" not in machine.definition()
    machine.restart()
    machine.write(5, 3)
    machine.virsh("destroy")
    machine.check(f"{VM}/disk.0.snap/1", 1, 2, 3, 0)
    machine.check(machine.path, 1, 2, 3, 5)


@pytest.mark.parametrize("steps", ["", 'link(path, f"disk.0.snap/{overlay}"), '])
def test_a_snapshot_that_is_killed_half_way(machine: Machine, steps: str) -> None:
    """QEMU writes to the new file, wherever the link leads: a restart takes the new file."""
    machine.write(2, 1)
    killed = SNAPSHOT.replace('link(path, f"disk.0.snap/{overlay}")', f"[{steps}sys.exit(print('{{}}'))]")
    assert machine.engine(killed, machine.path, 0, 1) == {}
    machine.write(3, 2)
    machine.restart()
    machine.write(4, 3)
    repair = 'link(paths[0], "disk.0.snap/1"); name_disk(domain, paths[0]); name_disk(domain, paths[0])'
    assert machine.engine(repair, machine.path) == {}
    machine.restart()
    assert f"<source file='{machine.path}'/>" in machine.definition()
    machine.check(machine.path, 1, 2, 3, 4)
    machine.check(f"{VM}/disk.0.snap/0", 1, 2, 0, 0)


@pytest.mark.parametrize(
    ("base", "chain", "is_restarted"),
    [
        (3, ["disk.0.snap/0", "1/image"], False),
        (3, ["disk.0.snap/0", "1/image"], True),
        (4, ["1/image"], False),
        (5, [], False),
    ],
)
def test_files_are_merged_into_the_newest_one(
    machine: Machine, base: int, chain: list[str], is_restarted: bool
) -> None:
    """The path of disk.0.snap/0 is wrong in libvirt, which opened it as disk.0, until the domain starts again."""
    machine.write(2, 1)
    for number in range(3):
        machine.snapshot(number)
        machine.write(3 + number, 2 + number)
    sums = machine.shell(f"cd {VM}/disk.0.snap; sha256sum 0 1 2 {STORE}/1/image")
    if is_restarted:
        machine.restart()
    result = machine.merge(base, 3, 2, 1, 0)
    assert "error" not in result
    assert machine.backing() == [one if one == "1/image" else f"0/6/{one}" for one in chain]
    assert machine.shell(f"cd {VM}/disk.0.snap; sha256sum 0 1 2 {STORE}/1/image") == sums
    # The data is in the file, and the domain starts with the merged chain.
    machine.kill()
    machine.check(machine.path, 1, 2, 3, 4, 5, 0)
    machine.virsh("start")
    machine.write(9, 5)
    machine.virsh("destroy")
    machine.check(machine.path, 1, 2, 3, 4, 5, 9)
    machine.check(f"{VM}/disk.0.snap/2", 1, 2, 3, 4, 0, 0)


def test_a_merge_whose_process_was_killed(machine: Machine) -> None:
    """QEMU completes the merge. A repeated one has nothing to merge, but still writes the data to the file."""
    machine.write(2, 1)
    machine.snapshot(0)
    machine.virsh("blockpull", "vda", "--base", "vda[2]", "--wait")
    assert machine.backing() == ["1/image"]
    assert machine.merge(1, 1) == {}
    machine.kill()
    machine.check(machine.path, 1, 2)


def test_files_that_the_domain_does_not_have_open_are_refused(machine: Machine) -> None:
    machine.snapshot(0, 1)
    for present in ((2, 1), (2, 0, 1)):
        refused = machine.merge(2, *present)
        assert refused["error"] == "Conflict" and f"{VM}/disk.0.snap/2" in refused["says"], refused
    assert machine.backing()[0] == "0/6/disk.0.snap/1"


def test_a_base_whose_name_leads_elsewhere_is_refused(machine: Machine) -> None:
    """With absolute names, QEMU would write the name disk.0 into the header, which leads to the file itself."""
    absolute = SNAPSHOT.replace("-b disk.0.snap/{backing}", "-b {path}.snap/{backing}")
    for number in (0, 1):
        assert machine.engine(absolute, machine.path, number, number + 1) == {}
    names = MERGE.replace('f"disk.0.snap/{other}"', 'f"{path}.snap/{other}"')
    refused = machine.merge(2, 2, 1, 0, program=names)
    assert refused["error"] == "Conflict" and f"{VM}/disk.0.snap/0" in refused["says"], refused
    assert machine.backing()[0] == "0/6/disk.0.snap/1"
    # Down to a file whose name is right, the names in the headers may be absolute.
    assert "error" not in machine.merge(3, 2, 1, 0, program=names)
    assert machine.backing() == ["1/image"]


def test_a_job_under_way_is_named(machine: Machine) -> None:
    machine.snapshot(0)
    machine.virsh("blockcopy", "vda", f"{VM}/copy", "--transient-job", "--wait")
    sentence = (
        f"The disk 'vda' of the domain {machine.name!r} has a block copy under way: wait for its end, or stop it with "
        "'virsh blockjob --abort'."
    )
    for refused in (
        machine.merge(2, 1, 0),
        machine.engine(RESIZE, machine.path, 32 << 20),
        machine.engine(COPY, machine.path, f"{VM}/other", "raw", "60"),
        machine.engine(SNAPSHOT, machine.path, "1", "2"),
        machine.detach(machine.path),
    ):
        assert (refused["error"], refused["says"]) == ("Conflict", sentence)
    machine.virsh("blockjob", "vda", "--abort")
    assert "error" not in machine.merge(2, 1, 0)


def test_a_merge_at_its_deadline_is_stopped(machine: Machine) -> None:
    assert machine.engine(RESIZE, machine.path, 256 << 20) == {}
    machine.write(7, 0, "192M")
    machine.snapshot(0)
    refused = machine.merge(2, 1, 0, program=MERGE.replace("deadline=60", "deadline=0"))
    assert refused["error"] == "TimedOut" and "'vda'" in refused["says"], refused
    assert refused["progress"][0] < refused["progress"][1] <= 256 << 20
    assert machine.backing()[0] == "0/6/disk.0.snap/0"
    assert "No current block job" in machine.virsh("blockjob", "vda")
    machine.virsh("suspend")
    paused = machine.merge(2, 1, 0)
    assert paused["error"] == "Conflict" and "'vda'" in paused["says"]
    machine.virsh("resume")
    assert "error" not in machine.merge(2, 1, 0)
    machine.check(machine.path, 7, 7)
