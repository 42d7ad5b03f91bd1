# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Images that get their final names together."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import StaleState
from ansible_collections.granary.vmstore.plugins.module_utils._image.batch import Batch
from ansible_collections.granary.vmstore.plugins.module_utils._image.new_image import new_image, remove_files, sweep
from refusal import refused

PART = re.compile(r"\.[0-9a-f]{32}\.part")


def make(directory: Path, content: bytes, batch: Batch) -> str:
    with new_image(str(directory), owner=(1234, 1235), batch=batch) as part:
        os.write(part.fd, content)
        return part.commit()


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_images_get_their_names_together(tmp_path: Path) -> None:
    before = descriptors()
    batch = Batch()
    paths = [make(tmp_path, b"%d" % number, batch) for number in range(3)]
    assert all(map(PART.fullmatch, os.listdir(tmp_path)))
    assert batch.publish() == {}
    shown = subprocess.run(
        ["stat", "-c", "%n %u %g %a %s", *paths], stdout=subprocess.PIPE, text=True, check=True
    ).stdout
    assert shown.splitlines() == [f"{path} 1234 1235 640 1" for path in paths]
    assert [Path(path).read_bytes() for path in paths] == [b"0", b"1", b"2"]
    assert len(os.listdir(tmp_path)) == 3
    assert descriptors() == before


def test_what_waits_is_not_swept(tmp_path: Path) -> None:
    batch = Batch()
    path = make(tmp_path, b"x", batch)
    sweep(str(tmp_path))
    assert batch.publish() == {}
    assert Path(path).read_bytes() == b"x"


def test_what_was_not_published_leaves_nothing(tmp_path: Path) -> None:
    before = descriptors()
    batch = Batch()
    for _number in range(2):
        make(tmp_path, b"x", batch)
    batch.discard()
    assert (os.listdir(tmp_path), descriptors()) == ([], before)


def test_an_error_is_of_one_image(tmp_path: Path) -> None:
    batch = Batch()
    lost = make(tmp_path, b"lost", batch)
    other = make(tmp_path, b"other", batch)
    os.unlink(tmp_path / f".{os.path.basename(lost)}.part")
    errors = batch.publish()
    assert {path: str(error) for path, error in errors.items()} == {
        lost: f"Could not write an image in {tmp_path}: No such file or directory."
    }
    assert os.listdir(tmp_path) == [os.path.basename(other)]


def test_an_image_in_another_directory_of_that_name(tmp_path: Path) -> None:
    (place := tmp_path / "place").mkdir()
    batch = Batch()
    first = make(place, b"x", batch)
    place.rename(tmp_path / "aside")
    place.mkdir()
    with refused(StaleState, says=f"Another program replaced the directory {place} meanwhile."):
        make(place, b"x", batch)
    assert batch.publish() == {}
    assert (os.listdir(place), os.listdir(tmp_path / "aside")) == ([], [os.path.basename(first)])


PROGRAM = """
import sys
from ansible_collections.granary.vmstore.plugins.module_utils._image.batch import Batch
from ansible_collections.granary.vmstore.plugins.module_utils._image.new_image import new_image, remove_files
batch, paths = Batch(), []
for number in range(50):
    with new_image(sys.argv[1], batch=batch) as part:
        paths.append(part.commit())
batch.publish()
for path in paths:
    remove_files(sys.argv[1], [path.rpartition("/")[2]], batch=batch)
batch.publish()
"""


def test_a_directory_is_made_durable_once_for_all(tmp_path: Path) -> None:
    (place := tmp_path / "place").mkdir()
    log = tmp_path / "log"
    subprocess.run(
        ["strace", "-f", "-qq", "-y", "-e", "trace=fsync", "-o", log, sys.executable, "-c", PROGRAM, place], check=True
    )
    synced = re.findall(r"fsync\([0-9]+<(.*?)>\)", log.read_text())
    assert synced.count(str(place)) == 2
    assert len(set(synced)) == 51
    assert os.listdir(place) == []


def test_a_removal_of_several_files_needs_no_batch(tmp_path: Path) -> None:
    for name in ("x", "x.md5sum"):
        (tmp_path / name).touch()
    batch = Batch()
    assert remove_files(str(tmp_path), ["x", "x.snap", "x.md5sum"], batch=batch)
    assert os.listdir(tmp_path) == []
    assert batch.publish() == {}
