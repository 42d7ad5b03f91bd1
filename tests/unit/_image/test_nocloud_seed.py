# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import (
    CommandMissing,
    Conflict,
    InvalidInput,
    PathNotAllowed,
)
from ansible_collections.granary.vmstore.plugins.module_utils._image.nocloud_seed import (
    FORMAT,
    Seed,
    SeedMount,
    read_seed,
    seed_bytes,
)
from refusal import refused

UUID = "6a8e0d7c-5b1d-4a35-9a8e-000000000001"
MOUNTS = (
    SeedMount("one-1", "/mnt/one-fs-1"),
    SeedMount("datasets", "/srv/datasets", read_only=True, options="noatime"),
)


@pytest.fixture
def seed(tmp_path: Path) -> Path:
    path = tmp_path / "seed.iso"
    path.write_bytes(seed_bytes(UUID, MOUNTS))
    return path


def extract(path: Path, directory: Path) -> Path:
    """Return the files as another program than our reader extracts them."""
    subprocess.run(
        ["xorriso", "-osirrox", "on", "-indev", str(path), "-extract", "/", str(directory)],
        check=True,
        stderr=subprocess.DEVNULL,
    )
    return directory


def test_blkid_finds_what_cloud_init_looks_for(seed):
    told = subprocess.run(
        ["blkid", "-o", "export", str(seed)], stdout=subprocess.PIPE, text=True, check=True
    ).stdout.splitlines()
    assert {"LABEL=cidata", "TYPE=iso9660", "UUID=1970-01-01-00-00-00-00"} <= set(told)


def test_the_files(seed, tmp_path):
    files = extract(seed, tmp_path / "files")
    assert sorted(os.listdir(files)) == ["granary", "meta-data", "user-data"]
    assert json.loads((files / "meta-data").read_text()) == {"instance-id": UUID}
    first, _newline, body = (files / "user-data").read_text().partition("\n")
    assert first == "#cloud-config"
    assert json.loads(body)["mounts"] == [
        ["one-1", "/mnt/one-fs-1", "virtiofs", "nofail", "0", "0"],
        ["datasets", "/srv/datasets", "virtiofs", "ro,noatime,nofail", "0", "0"],
    ]


def test_bootcmd_makes_cloud_init_apply_mounts_again(seed, tmp_path):
    commands = json.loads((extract(seed, tmp_path / "files") / "user-data").read_text().partition("\n")[2])["bootcmd"]
    assert commands[0] == ["rm", "-f", "/var/lib/cloud/instance/sem/config_mounts"]
    # Only the lines that cloud-init wrote for virtiofs disappear.
    kept = "# one-1 virtiofs\none-9 /x virtiofs ro 0 0\nUUID=1\t/\text4\tdefaults,comment=cloudconfig\t0\t1\n"
    table = tmp_path / "fstab"
    table.write_text(kept + "one-1\t/mnt/one-fs-1\tvirtiofs\tnofail,comment=cloudconfig\t0\t0\n")
    assert commands[1][-1] == "/etc/fstab"
    subprocess.run([*commands[1][:-1], str(table)], check=True)
    assert table.read_text() == kept


def test_same_input_same_bytes_at_any_time_and_place(seed, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "elsewhere"))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setenv("TZ", "Pacific/Kiritimati")
    old = os.umask(0o077)
    try:
        assert seed_bytes(UUID, MOUNTS) == seed.read_bytes()
    finally:
        os.umask(old)
    assert os.listdir(tmp_path / "elsewhere") == []


def test_read_back(seed):
    assert read_seed(str(seed)) == Seed(UUID, MOUNTS, FORMAT)


def test_no_file_is_no_seed(tmp_path):
    assert read_seed(str(tmp_path / "none")) is None


def test_a_seed_without_mounts(tmp_path):
    (tmp_path / "seed.iso").write_bytes(seed_bytes(UUID, []))
    body = (extract(tmp_path / "seed.iso", tmp_path / "files") / "user-data").read_text().partition("\n")[2]
    assert list(json.loads(body)) == ["bootcmd"]
    assert read_seed(str(tmp_path / "seed.iso")) == Seed(UUID, ())


def make_image(path: Path, files: Path, volume: str) -> None:
    command = ["xorriso", "-as", "mkisofs", "-quiet", "-volid", volume, "-joliet", "-rational-rock", "-o", path, files]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)


def foreign_seed(path: Path) -> None:
    files = path.with_name("foreign")
    files.mkdir()
    (files / "user-data").write_text("#cloud-config\nhostname: precious\n")
    (files / "meta-data").write_text("instance-id: x\n")
    make_image(path, files, "cidata")


def make_marked(path: Path, marker: bytes, volume: str = "cidata") -> None:
    files = path.with_name("marked")
    files.mkdir()
    (files / "granary").write_bytes(marker)
    make_image(path, files, volume)


def make_damaged(path: Path) -> None:
    data = bytearray(seed_bytes(UUID, MOUNTS))
    data[16 * 2048 + 158 : 16 * 2048 + 162] = b"\xff" * 4  # the root directory begins far beyond the end
    path.write_bytes(data)


def test_another_users_link_is_not_read(tmp_path: Path, tenant: Path) -> None:
    """The content of a seed is private: it describes the mounts of another user's machine."""
    (tmp_path / "seed.iso").write_bytes(seed_bytes(UUID, MOUNTS))
    owner = tenant.stat().st_uid
    for name, target, path in (("seed.iso", "seed.iso", "seed.iso"), ("directory", "", "directory/seed.iso")):
        (tenant / name).symlink_to(tmp_path / target)
        os.chown(tenant / name, owner, owner, follow_symlinks=False)
        with refused(PathNotAllowed, says=f"seed: '{tenant}* that isn't that user's."):
            read_seed(str(tenant / path))


@pytest.mark.parametrize(
    "make",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"precious"),
        lambda path: path.write_bytes(os.urandom(100_000)),
        lambda path: path.write_bytes(seed_bytes(UUID, MOUNTS) + bytes(4 * 1024 * 1024)),
        lambda path: path.mkdir(),
        os.mkfifo,
        lambda path: path.symlink_to("nowhere"),
        foreign_seed,
        make_damaged,
        lambda path: make_marked(path, b"[" * 100_000),
        lambda path: make_marked(path, b"{}"),
        lambda path: make_marked(path, b'{"mounts": 7}'),
        lambda path: make_marked(path, b'{"mounts": [], "instance_id": "x", "format": Infinity}'),
        lambda path: make_marked(path, b'{"mounts": [], "instance_id": "x\\u0000", "format": 1}'),
        lambda path: make_marked(
            path,
            b'{"mounts": [{"tag": "/dev/x", "mount_point": "/mnt", "read_only": 0, "options": ""}], "instance_id": '
            b'"x", "format": 1}',
        ),
        lambda path: make_marked(path, b'{"mounts": [], "instance_id": "x", "format": 1}', volume="other"),
    ],
)
def test_what_is_not_ours_is_not_read(make, tmp_path):
    path = tmp_path / "seed.iso"
    make(path)
    with refused(Conflict, names=[path]):
        read_seed(str(path))


@pytest.mark.parametrize("tag", ["sda", "xvdb1", "sr0", "root", "swap", "ephemeral0", "ebs1"])
def test_a_tag_that_cloud_init_takes_for_something_else_is_refused(tag):
    with refused(
        InvalidInput,
        says=f"mount_tag: '{tag}' is not accepted: cloud-init takes it for a block device, so another tag is expected.",
    ):
        seed_bytes(UUID, [SeedMount(tag, "/mnt/a")])


@pytest.mark.parametrize("point", ["/mnt/a b", "/mnt/a\\b", "/mnt/#", "/mnt/\xa0"])
def test_a_mount_point_that_cloud_init_cannot_carry_is_refused(point):
    with refused(
        InvalidInput,
        says=f"mount_point: {point!r} is not accepted: cloud-init writes it to fstab as it is, so a path without "
        "blanks, '\\' and '#' is expected.",
    ):
        seed_bytes(UUID, [SeedMount("one-1", point)])


@pytest.mark.parametrize(
    ("option", "value"),
    [*(("mount_tag", tag) for tag in ("a b", "x:y", "a" * 37)), *(("mount_point", path) for path in ("mnt", "/etc"))],
)
def test_what_no_mount_can_have_is_refused(option, value):
    mount = {"mount_tag": "one-1", "mount_point": "/mnt/a", option: value}
    with refused(InvalidInput, option=option, value=value):
        seed_bytes(UUID, [SeedMount(mount["mount_tag"], mount["mount_point"])])


def test_two_mounts_on_one_point_are_refused():
    with refused(InvalidInput, says="mount_point: '/mnt/a' is not accepted: one mount a mount point is expected."):
        seed_bytes(UUID, [SeedMount("one-1", "/mnt/a"), SeedMount("one-2", "/mnt//a/")])


@pytest.mark.parametrize("name", ["", "a\nb", "../x", "a" * 129])
def test_an_instance_id_that_is_no_name_is_refused(name):
    with refused(InvalidInput, says=f"instance_id: {name!r} is not accepted: a domain's uuid is expected."):
        seed_bytes(name, MOUNTS)


def test_without_xorriso_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with refused(CommandMissing, names=["'xorriso'", "package xorriso"]):
        seed_bytes(UUID, MOUNTS)
    assert os.listdir(tmp_path) == []
