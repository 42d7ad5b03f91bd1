# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""The write discipline for image files, also with several programs at the same time."""

from __future__ import annotations

import concurrent.futures
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import FileAccessFailed
from ansible_collections.granary.vmstore.plugins.module_utils._core.part_directory import create_part_directory
from ansible_collections.granary.vmstore.plugins.module_utils._core.temporary import new_part_name
from ansible_collections.granary.vmstore.plugins.module_utils._image.new_image import (
    new_image,
    remove_files,
    replace_image,
    sweep,
)
from refusal import refused

PART = r"\.[0-9a-f]{32}\.part"
PROGRAM = """
import os, sys
from ansible_collections.granary.vmstore.plugins.module_utils._image.new_image import new_image
with new_image(sys.argv[1]) as part:
    os.write(part.fd, b"half")
    print("ready", flush=True)
    sys.stdin.read()
"""


def make(directory: Path, content: bytes) -> str:
    with new_image(str(directory)) as part:
        os.write(part.fd, content)
        return part.commit()


def test_an_image_gets_its_name_when_it_is_whole(tmp_path):
    with new_image(str(tmp_path), owner=(1234, 1235)) as part:
        assert re.fullmatch(PART, part.name)
        os.write(part.fd, b"content")
        assert os.listdir(tmp_path) == [part.name]
        path = part.commit()
    assert re.fullmatch(r"[0-9a-f]{32}", os.path.basename(path))
    assert os.listdir(tmp_path) == [os.path.basename(path)]
    assert (
        subprocess.run(["stat", "-c", "%u %g %a %s", path], stdout=subprocess.PIPE, text=True, check=True).stdout
        == "1234 1235 640 7\n"
    )


@pytest.mark.parametrize("mask", [0, 0o077])
def test_the_mode_is_the_same_whatever_the_umask_is(tmp_path, mask):
    before = os.umask(mask)
    try:
        path = make(tmp_path, b"")
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o640


def test_what_fails_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError), new_image(str(tmp_path)) as part:
        os.write(part.fd, b"half")
        raise ZeroDivisionError
    with new_image(str(tmp_path)):
        pass
    assert os.listdir(tmp_path) == []


def test_no_directory(tmp_path):
    with (
        refused(FileAccessFailed, says=f"Could not make an image in {tmp_path}/none: No such file or directory."),
        new_image(str(tmp_path / "none")),
    ):
        pass


def test_parts_of_killed_programs_are_swept_and_those_of_running_ones_stay(tmp_path):
    running = [
        subprocess.Popen([sys.executable, "-c", PROGRAM, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _number in range(2)
    ]
    for process in running:
        assert process.stdout.readline() == b"ready\n"
    assert len(os.listdir(tmp_path)) == 2
    running[0].kill()
    running[0].wait()
    image = make(tmp_path, b"whole")
    left = [name for name in os.listdir(tmp_path) if name != os.path.basename(image)]
    assert len(left) == 1
    assert (tmp_path / left[0]).read_bytes() == b"half"
    running[1].communicate(b"")
    assert os.listdir(tmp_path) == [os.path.basename(image)]
    running[0].communicate()


def test_part_directories_are_swept_unless_a_program_holds_them(tmp_path):
    parent = os.open(tmp_path, os.O_RDONLY)
    held, left = (create_part_directory(parent) for _number in range(2))
    for part in (held, left):
        (tmp_path / part.name / "data" / "inner").mkdir(parents=True)
        (tmp_path / part.name / "data" / "inner" / "x").touch()
    left.close()
    (aside := tmp_path / new_part_name()).mkdir()
    (aside / "directory of root").mkdir()
    sweep(str(tmp_path))
    assert set(os.listdir(tmp_path)) == {held.name, aside.name}
    assert (tmp_path / held.name / "data" / "inner" / "x").exists()
    held.close()
    os.close(parent)


def test_the_sweep_takes_nothing_else(tmp_path):
    part = "." + "0" * 32 + ".part"
    kept = {"0" * 32, "." + "0" * 31 + ".part", "." + "A" * 32 + ".part", part[1:], part + "x", ".partition"}
    for name in kept:
        (tmp_path / name).touch()
    (tmp_path / part).mkdir()
    (tmp_path / part / "0").touch()
    (tmp_path / part.replace("0", "1")).symlink_to("0" * 32)
    sweep(str(tmp_path))
    assert set(os.listdir(tmp_path)) == kept


def test_many_at_once_never_take_each_others_parts(tmp_path):
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(lambda number: make(tmp_path, b"%d" % number), range(400)))
    assert [Path(path).read_bytes() for path in paths] == [b"%d" % number for number in range(400)]
    assert sorted(os.listdir(tmp_path)) == sorted(os.path.basename(path) for path in paths)


def test_a_replaced_link_and_what_goes_with_it(tmp_path):
    image, more = tmp_path / "image", tmp_path / "image.snap"
    more.mkdir()
    (more / "3").write_bytes(b"old")
    image.symlink_to("image.snap/3")
    with new_image(str(tmp_path)) as part:
        os.write(part.fd, b"new")
        replace_image(part, (part.directory, "image"), path=str(image), outdated=["none"], remove="image.snap")
    assert os.listdir(tmp_path) == ["image"]
    assert (image.is_symlink(), image.read_bytes()) == (False, b"new")


def test_a_replacement_that_fails_is_undone(tmp_path):
    image, other = tmp_path / "image", tmp_path / "other"
    image.write_bytes(b"old")
    other.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tests", str(other)], check=True)  # a mount point can't be renamed
    try:
        with (
            refused(FileAccessFailed, says=f"Could not replace {image}: Device or resource busy."),
            new_image(str(tmp_path)) as part,
        ):
            os.write(part.fd, b"new")
            (tmp_path / "first").touch()
            replace_image(part, (part.directory, "image"), path=str(image), outdated=["first"], remove="other")
        with refused(FileAccessFailed, says=f"Could not remove {image}: Device or resource busy."):
            remove_files(str(tmp_path), ["image", "other"])
    finally:
        subprocess.run(["umount", str(other)], check=True)
    assert sorted(os.listdir(tmp_path)) == ["first", "image", "other"]
    assert image.read_bytes() == b"old"
    assert image.stat().st_nlink == 1


def test_removal_can_be_repeated(tmp_path):
    (tmp_path / "image").touch()
    (tmp_path / "image.snap").mkdir()
    (tmp_path / "image.snap" / "0").touch()
    names = ["image", "image.snap"]
    assert remove_files(str(tmp_path), names)
    assert os.listdir(tmp_path) == []
    assert not remove_files(str(tmp_path), names)
