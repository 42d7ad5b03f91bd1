# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files such as SHA256SUMS, written by the original programs."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import InvalidInput
from ansible_collections.granary.vmstore.plugins.module_utils._image.checksum_list import find_checksum

URL = "https://h/x/disk.img"
MIB = 1 << 20
ONE, TWO = "1" * 64, "2" * 64


def find(content: bytes | str, origin: str = URL, algorithm: str = "sha256") -> str:
    return find_checksum(
        content.encode() if isinstance(content, str) else content, algorithm, origin, "https://h/SHA256SUMS"
    )


def expect_refusal(content: bytes | str, origin: str = URL) -> str:
    with pytest.raises(InvalidInput) as caught:
        find(content, origin)
    return str(caught.value)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    for name in (
        "disk.img",
        "other.img",
        "a b.img",
        " blank.img",
        "*star.img",
        "back\\slash\nnew\rline.img",
        "größe.img",
    ):
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path


@pytest.mark.parametrize(
    "command",
    [
        "sha256sum --", "sha256sum --binary --", "sha256sum --tag --", "cksum --algorithm=sha256 "
                                                                       "--", "cksum --algorithm=sha256 --untagged --",
        "shasum --algorithm 256 --",
    ],
)  # fmt: skip
def test_what_programs_write(files: Path, command: str) -> None:
    names = sorted(path.name for path in files.iterdir())
    content = subprocess.run([*command.split(), *names], cwd=files, check=True, stdout=subprocess.PIPE).stdout
    for name in names:
        assert find(content, f"/srv/{name}") == hashlib.sha256(name.encode()).hexdigest()
        assert find(content.replace(b"\n", b"\r\n"), f"/srv/{name}") == hashlib.sha256(name.encode()).hexdigest()


@pytest.mark.parametrize("algorithm", ["md5", "sha1", "sha256", "sha384", "sha512"])
@pytest.mark.parametrize(
    "command", ["{}sum disk.img", "{}sum --tag disk.img", "openssl dgst -{} disk.img", "openssl dgst -{} -r disk.img"]
)
def test_every_algorithm(files: Path, algorithm: str, command: str) -> None:
    content = subprocess.run(command.format(algorithm).split(), cwd=files, check=True, stdout=subprocess.PIPE).stdout
    expected = hashlib.new(algorithm, b"disk.img").hexdigest()
    assert find(content, algorithm=algorithm) == expected
    assert find(content.upper().replace(b"DISK.IMG", b"disk.img"), algorithm=algorithm) == expected


@pytest.mark.parametrize(
    "content",
    [
        f"{ONE}\n", f"  {ONE}  ", f"\ufeff{ONE}\r\n", f"{ONE}  -\n", f"# a comment\n\n{ONE}  disk.img\n{TWO}  "
                                                                     "other.img", f"{ONE}\tdisk.img\n",
        f"{ONE} disk.img\n", f"{ONE}  ./disk.img\n", f"{ONE}  .//./disk.img\n", f"{ONE} *x/disk.img\n{TWO} "
                                                                                "*y/disk.img\n",
        f"{ONE}  x/disk.img\n{TWO}  disk.img\n",
        f"{ONE}  disk.img\n{ONE}  ./disk.img\n", f"SHA256 (disk.img) = {ONE}\nSHA512 (disk.img) = {TWO * 2}\nMD5 "
                                                 f"(disk.img) = {TWO[:32]}\n",
        f"{TWO * 2}  disk.img\n{ONE}  disk.img\n",
        "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n# disk.img: 1 bytes\nSHA256 (disk.img) = "
        f"{ONE}\n-----BEGIN PGP SIGNATURE-----\n\niQIzBAEBCAAd\n",
    ],
)  # fmt: skip
def test_what_people_write(content: str) -> None:
    assert find(content) == ONE


def test_the_name_is_that_of_the_url_decoded() -> None:
    assert find(f"{ONE}  a b+ä.img\n", "https://h/x/a%20b+%C3%A4.img?token=x/disk.img#y") == ONE
    assert find(f"{ONE}  disk.img\n", "ssh://h/srv/disk.img") == ONE
    assert find(f"{ONE}\n", "https://h/download/?id=3") == ONE
    assert find(b"%b  \xff.img\n" % ONE.encode(), "https://h/%FF.img") == ONE


@pytest.mark.parametrize(
    ("content", "origin", "has"),
    [
        ("", URL, "no sha256 checksums at all"),
        ("<html><title>Sign in</title></html>\n", URL, "no sha256 checksums at all"),
        (f"{TWO * 2}  disk.img\n", URL, "no sha256 checksums at all"),
        (f"{ONE}  disk.img.asc\n", URL, "1 of other files, such as 'disk.img.asc'"),
        (f"{ONE}  y/disk.img\n{TWO}  isk.img\n", URL, "2 of other files, such as 'y/disk.img' and 'isk.img'"),
        (f"{ONE}  \x1b[2J\x9b.img\n" + f"{TWO}  x\n" * 3, URL, "4 of other files, such as '?[2J?.img' and 'x'"),
        (f"{ONE}  disk.img\n", "https://h/x/", "1 of other files, such as 'disk.img'"),
        (f"{ONE}\n{TWO}\n", URL, "2 of other files, such as '-' and '-'"),
    ],
)
def test_a_file_without_the_image(content: str, origin: str, has: str) -> None:
    name = origin.rpartition("/")[2]
    assert expect_refusal(content, origin) == (
        f"checksum: 'sha256:https://h/SHA256SUMS' is not accepted: a file with the sha256 checksum of {name!r} is "
        f"expected, and it has {has}: give the URL of the right file, or the checksum itself."
    )


def test_checksums_that_contradict_each_other() -> None:
    assert expect_refusal(f"{ONE}  disk.img\n{TWO} *./disk.img\n") == (
        "checksum: 'sha256:https://h/SHA256SUMS' is not accepted: one sha256 checksum of 'disk.img' is expected, "
        f"and https://h/SHA256SUMS has {ONE} and {TWO}: give the right one itself."
    )


@pytest.mark.parametrize(
    "line", [b"(" * MIB, b"SHA256 (" + b")" * MIB, b"\\" * MIB, b"\n" * MIB, ONE.encode() + b" \t" * MIB + b"x"]
)
def test_a_hostile_file_takes_little_time(line: bytes) -> None:
    """Each of these files would take hours if the time grew with the square of the length."""
    assert "is not accepted" in expect_refusal(line)
