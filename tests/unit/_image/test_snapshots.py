# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Snapshots in each layout of the transfer drivers.

qemu-img and qemu-io read the content of images, and check the files after every action.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import Conflict, InvalidInput, NotFound
from ansible_collections.granary.vmstore.plugins.module_utils._image.image_chain import ImageChain
from ansible_collections.granary.vmstore.plugins.module_utils._image.snapshots import (
    chain_files,
    delete_snapshot,
    flatten_snapshot,
    list_snapshots,
    remove_image,
    revert_snapshot,
)
from refusal import refused

NAME = "6573ae15e97409f235cae95705b4d830"
MEBIBYTE = 2**20


def qemu_img(*argv: object) -> str:
    return subprocess.run(["qemu-img", *map(str, argv)], check=True, stdout=subprocess.PIPE, text=True).stdout


def write(path: Path, number: int, image_format: str = "qcow2") -> None:
    """Write the guest's data before snapshot ``number``: to a MiB of its own and to the first MiB."""
    commands = [f"write -P {number + 1} {number}M 1M", f"write -P {number + 1} 0 64k"]
    subprocess.run(
        ["qemu-io", "-f", image_format, *(word for each in commands for word in ("-c", each)), str(path)],
        check=True,
        stdout=subprocess.DEVNULL,
    )


def content(path: Path, image_format: str = "qcow2") -> bytes:
    """Return the beginning of each MiB."""
    target = path.parent.parent / "content"
    qemu_img("convert", "-f", image_format, "-O", "raw", path, target)
    data = target.read_bytes()
    target.unlink()
    return bytes(data[start] for start in range(0, len(data), MEBIBYTE))


#: Content of the image at the snapshots 0, 1 and 2, and after the last one.
CONTENTS = [bytes([1, 0, 0, 0]), bytes([2, 2, 0, 0]), bytes([3, 2, 3, 0]), bytes([4, 2, 3, 4])]


def copies(image: Path, image_format: str) -> None:
    """Create whole copies, like the ssh driver."""
    qemu_img("create", "-q", "-f", image_format, image, "4M")
    Path(f"{image}.snap").mkdir()
    for number in range(3):
        write(image, number, image_format)
        subprocess.run(["cp", str(image), f"{image}.snap/{number}"], check=True)
    write(image, 3, image_format)


def copies_raw(image: Path) -> None:
    copies(image, "raw")


def copies_qcow2(image: Path) -> None:
    copies(image, "qcow2")


def overlays(image: Path, backing_directory: str) -> None:
    """Create the files 1 to 3 as overlays on the existing file 0."""
    directory = Path(f"{image}.snap")
    for number in range(4):
        if number:
            backing = f"{backing_directory}{image.name}.snap/{number - 1}"
            qemu_img("create", "-q", "-u", "-f", "qcow2", "-F", "qcow2", "-b", backing, directory / str(number), "4M")
        write(directory / str(number), number)


def chain(image: Path) -> None:
    """Create overlays with the image as a link to the newest one.

    A VM leaves this layout when it moves to the datastore from a host's own storage.
    """
    directory = Path(f"{image}.snap")
    directory.mkdir()
    (directory / directory.name).symlink_to(".")
    qemu_img("create", "-q", "-f", "qcow2", directory / "0", "4M")
    overlays(image, "")
    image.symlink_to(f"{image.name}.snap/3")


def shared(image: Path) -> None:
    """Create overlays on the image itself, like the qcow2 and shared drivers; names have a double slash."""
    directory = Path(f"{image}.snap")
    directory.mkdir()
    (directory / directory.name).symlink_to(".")
    qemu_img("create", "-q", "-f", "qcow2", image, "4M")
    (directory / "0").symlink_to(image)
    overlays(image, f"{image.parent}//")


LAYOUTS = [copies_raw, copies_qcow2, chain, shared]
Layout = Callable[[Path], None]


def kind(layout: Layout) -> str:
    return "raw" if layout is copies_raw else "qcow2"


def active(image: Path, layout: Layout) -> Path:
    """Return the file that the next VM writes to."""
    return Path(f"{image}.snap/3") if layout is shared else image


def require_whole(image: Path, layout: Layout, snapshots: tuple[int, ...], now: bytes) -> None:
    """Require all expected files with their content, qcow2 files without errors, and no other files."""
    names = {re.sub("^[0-9a-f]{32}", "image", name) for name in os.listdir(image.parent)}
    assert names - {"image.md5sum"} == {"image", "image.snap"}
    paths = [active(image, layout)]
    for number in snapshots:
        path = Path(f"{image}.snap/{number}")
        assert content(path, kind(layout)) == CONTENTS[number]
        paths.append(path)
    assert content(paths[0], kind(layout)) == now
    if kind(layout) == "qcow2":
        for path in paths:
            check(path)


def check(path: Path) -> None:
    alone = "json:" + json.dumps({"file": {"driver": "file", "filename": str(path)}, "backing": None})
    found = json.loads(qemu_img("check", "--output=json", "-f", "qcow2", alone))
    assert (found["check-errors"], found.get("corruptions", 0), found.get("leaks", 0)) == (0, 0, 0)


@pytest.fixture(params=["tmpfs", "xfs"])
def image(request: pytest.FixtureRequest) -> Path:
    """Return the path of an image in a datastore on each file system."""
    directory = request.getfixturevalue(request.param) / "1"
    directory.mkdir()
    return directory / NAME


@pytest.fixture(scope="session")
def templates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of datastores that tests copy, with an image in each layout on each file system."""
    return tmp_path_factory.mktemp("templates")


@pytest.fixture(params=LAYOUTS, ids=lambda layout: layout.__name__)
def layout(request: pytest.FixtureRequest, image: Path, templates: Path) -> Layout:
    # Files contain the path of the image, which is therefore the same in each test.
    template = templates / request.param.__name__ / str(image.parent).lstrip("/")
    copy = ["cp", "--archive", "--sparse=always", "--no-target-directory"]
    if template.exists():
        subprocess.run([*copy, template, image.parent], check=True)
    else:
        request.param(image)
        require_whole(image, request.param, (0, 1, 2), CONTENTS[3])
        template.parent.mkdir(parents=True)
        subprocess.run([*copy, image.parent, template], check=True)
    Path(f"{image}.md5sum").touch()
    return request.param


@pytest.mark.parametrize("snapshot", [0, 1, 2])
def test_revert(image, layout, snapshot):
    for _time in range(2):
        revert_snapshot(str(image), kind(layout), snapshot)
        require_whole(image, layout, (0, 1, 2), CONTENTS[snapshot])
        assert not os.path.exists(f"{image}.md5sum")
    # Later writes change no snapshot.
    write(active(image, layout), 3, kind(layout))
    require_whole(image, layout, (0, 1, 2), bytes([4, *CONTENTS[snapshot][1:3], 4]))


def test_a_revert_keeps_what_the_image_is(image, layout):
    """The next snapshot is then created where its driver expects it, and the next VM finds the data there."""
    before = (os.path.islink(image) and os.readlink(image), sorted(os.listdir(f"{image}.snap")))
    revert_snapshot(str(image), kind(layout), 1)
    assert (os.path.islink(image) and os.readlink(image), sorted(os.listdir(f"{image}.snap"))) == before


@pytest.mark.parametrize("snapshot", [0, 1, 2])
def test_flatten(image, layout, snapshot):
    for _time in range(2):
        flatten_snapshot(str(image), kind(layout), snapshot)
        assert os.listdir(image.parent) == [NAME]
        assert not image.is_symlink()
        assert content(image, kind(layout)) == CONTENTS[snapshot]
        if kind(layout) == "qcow2":
            check(image)
            assert "backing" not in qemu_img("info", image)


def test_flatten_a_chain_that_only_its_names_tell(image):
    """Without the link to ".", which the local driver doesn't create, qemu-img can't find indirect backing files."""
    chain(image)
    os.unlink(f"{image}.snap/{NAME}.snap")
    flatten_snapshot(str(image), "qcow2", 2)
    assert content(image) == CONTENTS[2]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
def test_delete(image, layout, order):
    left = [0, 1, 2]
    for snapshot in order:
        for _time in range(2):
            delete_snapshot(str(image), kind(layout), snapshot)
        left.remove(snapshot)
        assert not os.path.lexists(f"{image}.snap/{snapshot}")
        require_whole(image, layout, tuple(left), CONTENTS[3])


@pytest.mark.parametrize("snapshot", [0, 7])
def test_delete_removes_what_a_killed_run_left(image, snapshot):
    copies_raw(image)
    part = image.parent / f".{'0' * 32}.part"
    part.touch()
    delete_snapshot(str(image), "raw", snapshot)
    assert not part.exists()


def test_delete_leaves_an_overlay_on_what_the_snapshot_was_based_on(image):
    shared(image)
    delete_snapshot(str(image), "qcow2", 1)
    told = json.loads(qemu_img("info", "--output=json", f"{image}.snap/2"))
    assert told["backing-filename"] == f"{image.parent}//{NAME}.snap/0"
    assert told["format-specific"]["data"]["compat"] == "1.1"
    # The overlay has its own MiB, the MiB of snapshot 1, and the first MiB.
    assert os.stat(f"{image}.snap/2").st_blocks * 512 < 3 * MEBIBYTE + MEBIBYTE // 2


def test_after_a_revert_a_leaf_is_deleted_without_its_data_going_anywhere(image):
    chain(image)
    revert_snapshot(str(image), "qcow2", 0)
    delete_snapshot(str(image), "qcow2", 2)
    delete_snapshot(str(image), "qcow2", 1)
    require_whole(image, chain, (0,), CONTENTS[0])


def test_remove(image, layout):
    (image.parent / ("0" * 32)).touch()
    assert remove_image(str(image))
    assert os.listdir(image.parent) == ["0" * 32]
    assert not remove_image(str(image))


def test_remove_what_a_killed_run_left(image):
    os.mkdir(f"{image}.snap")
    assert remove_image(str(image))
    assert os.listdir(image.parent) == []


@pytest.mark.parametrize(
    "name", ["", ".", "..", "x", NAME.upper(), NAME + "\n", NAME + ".snap", NAME[1:], f"-{NAME[1:]}"]
)
def test_only_images_are_removed(tmp_path, name):
    (tmp_path / "kept").touch()
    with refused(
        InvalidInput,
        says="source: * is not accepted: the path of an image is expected, which ends in 32 hexadecimal digits.",
    ):
        remove_image(f"{tmp_path}/{name}")
    assert (tmp_path / "kept").exists()


@pytest.mark.parametrize("action", [revert_snapshot, flatten_snapshot])
@pytest.mark.parametrize("snapshot", [7, -1])
def test_no_such_snapshot(image, layout, action, snapshot):
    with refused(
        NotFound, says=f"The image {image} has no snapshot {snapshot}: {image}.snap/{snapshot} does not exist."
    ):
        action(str(image), kind(layout), snapshot)
    require_whole(image, layout, (0, 1, 2), CONTENTS[3])


def test_no_such_image(tmp_path):
    with pytest.raises(NotFound):
        flatten_snapshot(str(tmp_path / NAME), "raw", 0)
    delete_snapshot(str(tmp_path / NAME), "qcow2", 0)


@pytest.mark.parametrize("layout_with_overlays", [chain, shared])
def test_what_the_image_is_now_is_not_deleted(tmp_path, layout_with_overlays):
    image = tmp_path / "1" / NAME
    image.parent.mkdir()
    layout_with_overlays(image)
    with refused(
        Conflict, says=f"{image}.snap/3 can't be deleted: it is not a snapshot but what the image {image} holds now."
    ):
        delete_snapshot(str(image), "qcow2", 3)
    require_whole(image, layout_with_overlays, (0, 1, 2), CONTENTS[3])


def rename_backing(image: Path, number: int, name: str) -> None:
    qemu_img("rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", name, f"{image}.snap/{number}")


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    qemu_img("create", "-q", "-f", "qcow2", path, "4M")
    return path


ELSEWHERE = [
    "{secret}",
    "../secret",
    "{image}.snap/../../secret",
    "{image}.snap/1",
    "{image}.snap-evil/0",
    "nbd://localhost/x",
    "{image}",
]


def refusal_of(image: Path, name: str) -> str:
    """Return the message about the snapshot 1, whose backing file is elsewhere."""
    if name == "{image}.snap/1":
        return f"{image}.snap/1 is not used: it is a backing file of itself."
    return f"{image}.snap/1 is not used: it refers to '*', which is not in {image}.snap."


@pytest.mark.parametrize("name", ELSEWHERE)
@pytest.mark.parametrize("action", [delete_snapshot, revert_snapshot, flatten_snapshot])
def test_backing_files_elsewhere_are_refused(tmp_path, secret, name, action):
    """A snapshot comes back from a host, and its header is untrusted."""
    image = tmp_path / "1" / NAME
    image.parent.mkdir()
    chain(image)
    os.mkdir(f"{image}.snap-evil")
    rename_backing(image, 1, name.format(secret=secret, image=image))
    with refused(Conflict, says=refusal_of(image, name)):
        action(str(image), "qcow2", 1)
    assert sorted(os.listdir(f"{image}.snap")) == ["0", "1", "2", "3", f"{NAME}.snap"]


@pytest.mark.parametrize("action", [revert_snapshot, flatten_snapshot])
@pytest.mark.parametrize("image_format", ["raw", "qcow2"])
def test_links_and_other_files_are_no_snapshots(tmp_path, secret, action, image_format):
    image = tmp_path / "1" / NAME
    image.parent.mkdir()
    copies(image, image_format)
    directory = Path(f"{image}.snap")
    (directory / "7").symlink_to(secret)
    os.mkfifo(directory / "8")
    for number in (7, 8):
        with refused(
            Conflict,
            says=f"{directory}/{number} is not used: it is not a regular file in a directory of the image {image}.",
        ):
            action(str(image), image_format, number)
    directory.rename(tmp_path / "elsewhere")
    directory.symlink_to(tmp_path / "elsewhere")
    with refused(Conflict, says=f"{directory} is not used: it is not a directory of the image {image}."):
        action(str(image), image_format, 0)
    image.unlink()
    image.symlink_to(secret)
    if image_format == "qcow2":
        with refused(Conflict, names=[directory]):
            action(str(image), image_format, 0)
    assert remove_image(str(image))
    assert sorted(os.listdir(tmp_path / "elsewhere")) == ["0", "1", "2", "7", "8"]
    assert secret.exists()


def test_an_image_that_is_not_qcow2_or_has_an_external_data_file(tmp_path):
    image = tmp_path / "1" / NAME
    image.parent.mkdir()
    copies_raw(image)
    with refused(Conflict, says=f"{image}.snap/0 is not used: it isn't a qcow2 image."):
        flatten_snapshot(str(image), "qcow2", 0)
    os.unlink(f"{image}.snap/0")
    qemu_img("create", "-q", "-f", "qcow2", "-o", f"data_file={tmp_path}/data", f"{image}.snap/0", "1M")
    with refused(Conflict, says=f"{image}.snap/0 is not used: it has an external data file, or its header is damaged."):
        revert_snapshot(str(image), "qcow2", 0)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(path := tmp_path / NAME)
    with refused(InvalidInput, says=f"image: '{path}' is not accepted: a regular file is expected."):
        chain_files(str(path), "qcow2")


def test_owner_and_mode(tmp_path):
    image = tmp_path / "1" / NAME
    image.parent.mkdir()
    copies_raw(image)
    os.chown(f"{image}.snap/0", 1234, 1235)
    revert_snapshot(str(image), "raw", 0)
    found = image.stat()
    assert (found.st_uid, found.st_gid, found.st_mode & 0o7777) == (1234, 1235, 0o640)


def test_list(image, layout):
    assert list_snapshots(str(image)) == [0, 1, 2]
    delete_snapshot(str(image), kind(layout), 1)
    assert list_snapshots(str(image)) == [0, 2]
    flatten_snapshot(str(image), kind(layout), 2)
    assert list_snapshots(str(image)) == []


def test_files(image, layout):
    """The result is one file, or a chain with the guest's data."""
    for snapshot, expected in [*enumerate(CONTENTS[:3]), (None, CONTENTS[3])]:
        files = chain_files(str(image), kind(layout), snapshot)
        assert (len(files) > 1) == (layout in (chain, shared) and snapshot != 0)
        target = image.parent.parent / "whole"
        with ImageChain(tuple(files), kind(layout)).opened() as opened:
            argv = ["qemu-img", "convert", "-f", kind(layout), "-O", kind(layout), opened.image, target]
            subprocess.run(argv, check=True, pass_fds=tuple(opened.reads))
        assert content(target, kind(layout)) == expected


@pytest.mark.parametrize("name", ELSEWHERE)
def test_files_elsewhere_are_refused(tmp_path, secret, name):
    image = tmp_path / "1" / NAME
    image.parent.mkdir()
    chain(image)
    os.mkdir(f"{image}.snap-evil")
    rename_backing(image, 1, name.format(secret=secret, image=image))
    for snapshot in (None, 1):
        with refused(Conflict, names=[f"{image}.snap/1"]):
            chain_files(str(image), "qcow2", snapshot)
