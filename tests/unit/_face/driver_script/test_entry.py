# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import bz2
import gzip
import hashlib
import http.server
import json
import lzma
import os
import random
import signal
import socket
import subprocess
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

MIB = 2**20
NAME = "0123456789abcdef0123456789abcdef"


def shell(*argv: object) -> str:
    return subprocess.run([str(word) for word in argv], capture_output=True, text=True, check=True).stdout


def zstd(data: bytes) -> bytes:
    return subprocess.run(["zstd", "-q", "-c"], input=data, capture_output=True, check=True).stdout


#: Content of 4 MiB, with data at the beginning only.
RAW = random.Random(1).randbytes(MIB) + bytes(3 * MIB)
COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": zstd,
}


@pytest.fixture
def image(scripts: Any) -> Path:
    path = scripts.files / "raw.img"
    path.write_bytes(RAW)
    return path


@pytest.fixture
def qcow2(scripts: Any) -> Path:
    path = scripts.files / "x.qcow2"
    shell("qemu-img", "create", "-q", "-f", "qcow2", path, "64M")
    return path


# cp


def copy_image(scripts: Any, **elements: object) -> tuple[Path, str]:
    done = scripts("cp", **elements)
    assert done.returncode == 0, done.stderr
    source, image_format = done.stdout.removesuffix("\n").split(" ")
    assert scripts.stored() == [os.path.basename(source)]
    assert oct(os.stat(source).st_mode) == "0o100640"
    return Path(source), image_format


def expect_refusal(scripts: Any, action: str = "cp", **elements: object) -> str:
    """Return the message for the user, and require that no files changed."""
    before = scripts.stored()
    done = scripts(action, **elements)
    assert (done.returncode, done.stdout) == (1, "")
    assert scripts.stored() == before
    return done.stderr


@pytest.mark.parametrize(
    "name", ["plain", "with blank", "quote'\"", "$(touch x)", "`touch x`", "-rf", "a;b|c&d", "*", "é", "%s %d", " x "]
)
def test_a_file_is_copied_whatever_it_is_called(scripts: Any, name: str) -> None:
    (scripts.files / name).write_bytes(RAW)
    stored, image_format = copy_image(scripts, I_PATH=scripts.files / name)
    assert image_format == "raw"
    assert stored.read_bytes() == RAW
    assert os.listdir(scripts.files) == [name]


@pytest.mark.parametrize(
    "path", ["/tmp/a\nb", "/tmp/a\tb", "relative", "", "/tmp/../etc/passwd", "/" + "a" * 5000, "-x"]
)
def test_what_is_no_path(scripts: Any, path: str) -> None:
    assert " is not accepted: " in expect_refusal(scripts, I_PATH=path)


@pytest.mark.parametrize("suffix", COMPRESSIONS)
def test_a_compressed_image_is_decompressed_and_its_checksum_is_that_of_the_file(scripts: Any, suffix: str) -> None:
    (path := scripts.files / "misnamed.txt").write_bytes(packed := COMPRESSIONS[suffix](RAW))
    digests = {
        f"IT_{name.upper()}": hashlib.new(name, packed).hexdigest().upper()
        for name in ("md5", "sha1", "sha256", "sha512")
    }
    stored, image_format = copy_image(scripts, I_PATH=path, **digests)
    assert (image_format, stored.read_bytes()) == ("raw", RAW)
    assert stored.stat().st_blocks * 512 < 2 * MIB
    assert scripts("stat", I_PATH=path).stdout == "4\n"


def test_a_compressed_image_has_a_format(scripts: Any, qcow2: Path) -> None:
    (path := scripts.files / "x.gz").write_bytes(gzip.compress(qcow2.read_bytes()))
    assert scripts("stat", I_PATH=path).stdout == "64\n"
    assert copy_image(scripts, I_PATH=path)[1] == "qcow2"


def test_nothing_is_decompressed_that_shall_not_be(scripts: Any) -> None:
    (path := scripts.files / "x.gz").write_bytes(packed := gzip.compress(RAW))
    stored, image_format = copy_image(scripts, I_PATH=path, DT_NO_DECOMPRESS="YES")
    assert (image_format, stored.read_bytes()) == ("raw", packed)
    assert scripts("stat", I_PATH=path, DT_NO_DECOMPRESS="yes").stdout == "2\n"


@pytest.mark.parametrize("kind", [3, 4, 5])
def test_the_files_of_a_file_datastore_are_stored_as_they_are(scripts: Any, qcow2: Path, kind: int) -> None:
    shell("qemu-img", "rebase", "-u", "-F", "raw", "-b", "/etc/passwd", qcow2)
    for content in (gzip.compress(RAW), b"PK\3\4 is a context file", qcow2.read_bytes()):
        (path := scripts.files / "x").write_bytes(content)
        stored, image_format = copy_image(scripts, I_PATH=path, I_TYPE=kind, D_TYPE=2, DT_DRIVER="qcow2")
        assert (image_format, stored.read_bytes()) == ("raw", content)
        assert scripts("stat", I_PATH=path, D_TYPE=2).stdout == f"{-(-len(content) // MIB)}\n" or content.startswith(
            b"QFI"
        )
        stored.unlink()


@pytest.mark.parametrize("algorithm", ["md5", "sha1", "sha256", "sha512"])
def test_another_checksum_leaves_nothing(scripts: Any, image: Path, algorithm: str) -> None:
    wrong = hashlib.new(algorithm, b"").hexdigest()
    right = hashlib.new(algorithm, RAW).hexdigest()
    assert expect_refusal(scripts, I_PATH=image, **{f"IT_{algorithm.upper()}": wrong}).endswith(
        f"the {algorithm} of what is at {image} is {right}."
    )
    assert "hexadecimal digits are expected" in expect_refusal(
        scripts, I_PATH=image, **{f"IT_{algorithm.upper()}": wrong[1:]}
    )


@pytest.mark.parametrize(
    ("driver", "convert", "answer"),
    [("qcow2", None, "qcow2"), ("qcow2", "yes", "qcow2"), ("qcow2", "no", "raw"), ("raw", None, "raw")],
)
def test_images_get_the_format_of_the_datastore(
    scripts: Any, image: Path, driver: str, convert: str | None, answer: str
) -> None:
    stored, image_format = copy_image(scripts, I_PATH=image, DT_DRIVER=driver, DT_CONVERT=convert)
    assert image_format == answer == json.loads(shell("qemu-img", "info", "--output=json", stored))["format"]
    shell("qemu-img", "compare", "-f", image_format, "-F", "raw", stored, image)


def test_a_qcow2_image_becomes_raw_and_keeps_its_holes(scripts: Any, qcow2: Path) -> None:
    stored, image_format = copy_image(scripts, I_PATH=qcow2, DT_DRIVER="raw")
    assert (image_format, stored.stat().st_size) == ("raw", 64 * MIB)
    assert stored.stat().st_blocks < 100


def test_a_cdrom_is_raw_and_not_converted(scripts: Any, image: Path) -> None:
    stored, image_format = copy_image(scripts, I_PATH=image, I_TYPE=1, DT_DRIVER="qcow2")
    assert (image_format, stored.read_bytes()) == ("raw", RAW)


@pytest.mark.parametrize(("sparse", "blocks"), [(None, 2048), ("NO", 8192)])
def test_holes_are_kept_unless_they_are_not_wanted(scripts: Any, sparse: str | None, blocks: int) -> None:
    with (path := scripts.files / "x").open("wb") as file:
        file.write(RAW[:MIB])
        file.truncate(4 * MIB)
    assert copy_image(scripts, I_PATH=path, DT_SPARSE=sparse)[0].stat().st_blocks == blocks


def test_an_archive_is_refused(scripts: Any, image: Path) -> None:
    with tarfile.open(scripts.files / "x.tar", "w") as archive:
        archive.add(image)
    (scripts.files / "x.tar.xz").write_bytes(lzma.compress((scripts.files / "x.tar").read_bytes()))
    with zipfile.ZipFile(scripts.files / "x.zip", "w") as archive:
        archive.write(image)
    for name, kind in (("x.tar", "tar"), ("x.tar.xz", "tar"), ("x.zip", "zip")):
        message = expect_refusal(scripts, I_PATH=scripts.files / name)
        assert f"this is a {kind} archive" in message
        assert message.endswith("; FORMAT=raw in the image's template stores it as it is.")


def test_what_is_no_image_is_refused(scripts: Any) -> None:
    (path := scripts.files / "x").write_bytes(b"<!DOCTYPE html><html><body>Please log in</body></html>")
    assert "this is an HTML page" in expect_refusal(scripts, I_PATH=path)
    path.write_bytes(b"")
    assert "this is empty" in expect_refusal(scripts, I_PATH=path)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_what_is_no_image_is_stored_where_the_template_says_so(scripts: Any, suffix: str) -> None:
    """A front-end requests the size first, and without the FORMAT. A refusal of the size would leave no way
    to consent.
    """
    page = b"<!DOCTYPE html><html><body>" + b"x" * MIB + b"</body></html>"
    (path := scripts.files / f"x{suffix}").write_bytes(gzip.compress(page) if suffix else page)
    done = scripts("stat", I_PATH=path)
    assert done.stdout == "2\n"
    assert f"INFO: {path}: an image is expected, and this is an HTML page" in done.log
    assert "FORMAT=raw in the image's template stores it as it is" in expect_refusal(scripts, I_PATH=path, I_FORMAT="")
    assert "FORMAT=raw" in expect_refusal(scripts, I_PATH=path, I_FORMAT="qcow2")
    stored, image_format = copy_image(scripts, I_PATH=path, I_FORMAT="raw")
    assert (image_format, stored.read_bytes()) == ("raw", page)


def test_what_is_an_image_stays_one_whatever_the_template_says(scripts: Any, qcow2: Path) -> None:
    """A front-end passes the FORMAT of a marketplace's appliances, which are compressed or in another format."""
    (path := scripts.files / "x.gz").write_bytes(gzip.compress(RAW))
    stored, image_format = copy_image(scripts, I_PATH=path, I_FORMAT="raw")
    assert (image_format, stored.read_bytes()) == ("raw", RAW)
    stored.unlink()
    assert copy_image(scripts, I_PATH=qcow2, I_FORMAT="raw")[1] == "qcow2"


def test_messages_name_what_the_user_of_a_front_end_can_do(
    scripts: Any, qcow2: Path, opened_by_qemu: Callable[..., None]
) -> None:
    shell("qemu-io", "-f", "qcow2", "-c", "write 0 64k", qcow2)
    (cut := scripts.files / "cut").write_bytes(qcow2.read_bytes()[:-1])
    assert expect_refusal(scripts, I_PATH=cut).endswith(
        "; VERIFY=NO in the datastore's template stores it nevertheless."
    )
    done = scripts("cp", I_PATH=cut, DT_VERIFY="NO")
    assert f"INFO: {cut} is stored because VERIFY is NO, but by the tables" in done.log
    source = done.stdout.split()[0]
    assert scripts("clone", I_PATH=source, I_FORMAT="qcow2", DT_VERIFY="NO").returncode == 0
    assert (
        "; VERIFY=NO in the datastore's template clones it nevertheless."
        in scripts("clone", I_PATH=source, I_FORMAT="qcow2").stderr
    )
    opened_by_qemu(qcow2)
    assert (
        "or give VERIFY=NO in the datastore's template to store what comes out." in scripts("cp", I_PATH=qcow2).stderr
    )


def test_a_warning_is_a_line_of_the_log(scripts: Any) -> None:
    (path := scripts.files / "x\u2028y").write_bytes(RAW)
    done = subprocess.run(
        [scripts.path("cp"), "7"], input=scripts.document(I_PATH=path), capture_output=True, check=True
    )
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith(f"INFO: {scripts.files}/x y is stored as a raw disk, though nothing in it is recognised (")
    path.write_bytes(RAW[:510] + b"\x55\xaa" + RAW)
    done = subprocess.run(
        [scripts.path("cp"), "7"], input=scripts.document(I_PATH=path), capture_output=True, check=True
    )
    assert done.stderr == b""


def test_an_image_that_needs_other_files_is_refused(scripts: Any, qcow2: Path) -> None:
    secret = scripts.files / "secret"
    secret.write_bytes(b"secret" * 100000)
    with_backing = scripts.files / "backing.qcow2"
    shell("qemu-img", "create", "-q", "-f", "qcow2", "-b", secret, "-F", "raw", with_backing)
    with_data = scripts.files / "data.qcow2"
    shell("qemu-img", "create", "-q", "-f", "qcow2", "-o", f"data_file={scripts.files}/outside", with_data, "1M")
    for path, flaw in ((with_backing, "a backing file"), (with_data, "an external data file")):
        for driver in (None, "raw", "qcow2"):
            message = expect_refusal(scripts, I_PATH=path, DT_DRIVER=driver)
            assert message.startswith(f"path: '{path}' is not accepted: ")
            assert flaw in message


def test_an_image_with_a_billion_clusters_is_refused(scripts: Any, qcow2: Path) -> None:
    with qcow2.open("r+b") as file:
        file.seek(24)
        file.write((2**62).to_bytes(8, "big"))
    for action in ("cp", "stat"):
        assert str(qcow2) in expect_refusal(scripts, action, I_PATH=qcow2)


SMALL = (
    "unshare",
    "-m",
    "sh",
    "-ec",
    'mount -t tmpfs -o size=16m tmpfs "$0"; "$@"; rc=$?; [ -z "$(ls -A "$0")" ] || echo left >&2; exit $rc',
)


@pytest.mark.parametrize("content", ["bomb", "full", "converted"])
def test_what_does_not_fit_leaves_nothing(scripts: Any, content: str) -> None:
    """The file system has 16 MiB."""
    path = scripts.files / "x"
    path.write_bytes(
        gzip.compress(bytes(64 * MIB))
        if content == "bomb"
        else random.Random(2).randbytes((32 if content == "full" else 10) * MIB)
    )
    done = scripts(
        "cp", within=[*SMALL, scripts.store], I_PATH=path, DT_DRIVER="qcow2" if content == "converted" else None
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert ("expands to more than that" if content == "bomb" else "No space left on device") in done.stderr


# Paths


def test_restricted_directories(scripts: Any, image: Path) -> None:
    for path in (
        "/etc/passwd",
        "/root/x",
        "/etc",
        "/dev/null",
        "/proc/self/environ",
        scripts.store / NAME,
        scripts.store.parent / "7" / NAME,
    ):
        for action in ("cp", "stat"):
            assert "the restricted directory" in expect_refusal(scripts, action, I_PATH=path)
    assert f"restricted directory {scripts.files}" in expect_refusal(
        scripts, I_PATH=image, DT_RESTRICTED_DIRS=f"/srv {scripts.files}"
    )
    assert "restricted directory /" in expect_refusal(
        scripts, I_PATH=image, DT_RESTRICTED_DIRS="/", DT_SAFE_DIRS="/srv"
    )
    copy_image(scripts, I_PATH=image, DT_RESTRICTED_DIRS="/", DT_SAFE_DIRS=f"/srv {scripts.files}")


SECRETS = [
    *(
        "one/var/x",
        "one/var",
        "one",
        "one/etc/oned.conf",
        "one/var/.one/one_auth",
        "one/var/.ssh/id_rsa",
        "one/var/one.db",
        "one/var/remotes/etc/x",
    ),
    *("home/x", "home/.one/one_auth", "located/etc/oned.conf", "located/var/x", "located", "auth"),
]


@pytest.mark.parametrize("path", SECRETS)
def test_the_front_ends_own_secrets_are_no_images_wherever_it_is_installed(scripts: Any, path: str) -> None:
    root = scripts.files.parent
    (secret := root / path).parent.mkdir(parents=True, exist_ok=True)
    if not secret.is_dir():
        secret.write_bytes(RAW)
    environment = {"HOME": f"{root}/home", "ONE_LOCATION": f"{root}/located", "ONE_AUTH": f"{root}/auth"}
    (scripts.files / "link").symlink_to(secret)
    for named in (secret, scripts.files / "link"):
        for name, action, kind in (("fs", "cp", 0), ("fs", "stat", 0), ("virtiofs", "cp", 7), ("virtiofs", "stat", 7)):
            if secret.is_dir() or name == "fs":
                done = scripts(action, name=name, environment=environment, I_PATH=named, I_TYPE=kind)
                assert (done.returncode, done.stdout, scripts.stored()) == (1, "", [])
                assert (
                    f"path: '{secret}' is not accepted: it " in done.stderr
                    and "the restricted directory" in done.stderr
                )


def test_a_safe_directory_opens_the_front_ends_directory_but_not_its_secrets(scripts: Any) -> None:
    above = scripts.remotes.parent
    (above / "isos").mkdir()
    for name in ("isos/x", ".one/one_auth", ".ssh/id_rsa", "one.db", "remotes/x"):
        (above / name).parent.mkdir(exist_ok=True)
        (above / name).write_bytes(RAW)
    for safe in (above, above / "isos"):
        assert scripts("stat", I_PATH=above / "isos" / "x", DT_SAFE_DIRS=safe).stdout == "4\n"
        for name in (".one/one_auth", ".ssh/id_rsa", "one.db", "remotes/x"):
            assert "restricted directory" in expect_refusal(scripts, I_PATH=above / name, DT_SAFE_DIRS=safe)


@pytest.mark.parametrize("home", ["/", "", "relative", "/nonexistent"])
def test_a_home_that_is_none_restricts_nothing(scripts: Any, image: Path, home: str) -> None:
    assert scripts("stat", environment={"HOME": home, "ONE_LOCATION": home}, I_PATH=image).stdout == "4\n"


def test_a_safe_directory_is_no_prefix(scripts: Any) -> None:
    (evil := scripts.files.parent / "files-evil").mkdir()
    (evil / "x").write_bytes(RAW)
    assert "restricted directory /" in expect_refusal(
        scripts, I_PATH=evil / "x", DT_RESTRICTED_DIRS="/", DT_SAFE_DIRS=scripts.files
    )


def test_a_link_is_what_it_leads_to(scripts: Any) -> None:
    (scripts.files / "link").symlink_to("/etc/passwd")
    (scripts.files / "dir").symlink_to("/etc")
    for path in ("link", "dir/passwd"):
        assert expect_refusal(scripts, I_PATH=scripts.files / path).startswith(
            "path: '/etc/passwd' is not accepted: it lies in the restricted directory /etc"
        )


@pytest.mark.parametrize("name", ["SAFE_DIRS", "RESTRICTED_DIRS"])
@pytest.mark.parametrize("value", ["relative", "/a /b/../c", "~", "$HOME"])
def test_a_rule_that_can_not_be_compared_is_an_error(scripts: Any, image: Path, name: str, value: str) -> None:
    assert expect_refusal(scripts, I_PATH=image, **{f"DT_{name}": value}).startswith(f"DATASTORE/TEMPLATE/{name}: ")


def test_only_files_are_images(scripts: Any) -> None:
    os.mkfifo(scripts.files / "fifo")
    (listener := socket.socket(socket.AF_UNIX)).bind(str(scripts.files / "socket"))
    listener.close()
    for name in ("fifo", "socket", "."):
        assert "a regular file is expected" in expect_refusal(scripts, I_PATH=scripts.files / name)
    assert "No such file or directory" in expect_refusal(scripts, I_PATH=scripts.files / "missing")


@pytest.mark.parametrize("base", ["/tmp/a b", "/tmp/a\nb", "relative", "/tmp/../x", ""])
def test_a_datastore_directory_that_can_not_be_answered_with(scripts: Any, image: Path, base: str) -> None:
    assert expect_refusal(scripts, I_PATH=image, D_BASE_PATH=base).startswith("DATASTORE/BASE_PATH: ")


@pytest.mark.parametrize("missing", ["D_BASE_PATH", "D_ID", "D_TYPE", "I_TYPE", "I_PATH"])
def test_a_missing_element_is_named(scripts: Any, image: Path, missing: str) -> None:
    element = missing.replace("D_", "DATASTORE/").replace("I_", "IMAGE/")
    expected = f"{element}: '' is not accepted: the document must have this element."
    assert expect_refusal(scripts, **{"I_PATH": image, missing: None}) == expected


@pytest.mark.parametrize(
    ("element", "value"),
    [("DRIVER", "vmdk"), ("LIMIT_TRANSFER_BW", "fast"), ("LIMIT_TRANSFER_BW", "0"), ("LIMIT_TRANSFER_BW", "-1")],
)
def test_an_attribute_that_is_not_understood(scripts: Any, image: Path, element: str, value: str) -> None:
    message = expect_refusal(scripts, I_PATH=image, **{f"DT_{element}": value})
    assert message.startswith(f"DATASTORE/TEMPLATE/{element}: '{value}' is not accepted: ")


EVERY_ACTION = ["clone", "cp", "export", "mkfs", "monitor", "rm", "snap_flatten", "snap_revert", "stat"]


def run_anything(scripts: Any, action: str, image: Path, **given: object) -> Any:
    return scripts(
        action, I_PATH=image, I_SOURCE=scripts.store / NAME, I_SIZE=1, I_FORMAT="raw", I_TARGET_SNAPSHOT=0, **given
    )


@pytest.mark.parametrize("action", EVERY_ACTION)
@pytest.mark.parametrize(
    ("attributes", "named"),
    [
        ({"HOST": "nfs.example"}, "PATH"),
        ({"PATH": "/srv"}, "HOST"),
        ({"HOST": "nfs.example", "PATH": "/srv", "OPTS": "loop"}, "OPTS"),
    ],
)
def test_a_datastore_that_the_drivers_can_not_mount(
    scripts: Any, image: Path, action: str, attributes: dict[str, str], named: str
) -> None:
    """The first monitoring would create its directory on the local disk."""
    scripts.store.rmdir()
    given = {f"DT_NFS_AUTO_{name}": value for name, value in attributes.items()}
    done = run_anything(scripts, action, image, DT_NFS_AUTO_ENABLE="YES", **given)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"DATASTORE/TEMPLATE/NFS_AUTO_{named}")
    assert not scripts.store.exists()


@pytest.mark.parametrize("action", [action for action in EVERY_ACTION if action not in ("cp", "stat")])
def test_a_shared_datastore_without_its_mount(scripts: Any, image: Path, action: str) -> None:
    scripts.store.rmdir()
    done = run_anything(scripts, action, image, DT_SHARED="YES")
    assert (done.returncode, done.stdout) == (1, "")
    assert not scripts.store.exists()


def test_attributes_of_automatic_mounts_that_are_switched_off(scripts: Any, image: Path) -> None:
    for unused in ({"ENABLE": "no", "HOST": "nfs.example"}, {"HOST": "nfs.example"}, {"ENABLE": "", "OPTS": "soft"}):
        stored, _format = copy_image(
            scripts, I_PATH=image, **{f"DT_NFS_AUTO_{name}": value for name, value in unused.items()}
        )
        stored.unlink()


def test_images_of_other_drivers(scripts: Any, image: Path) -> None:
    for kind, name in ((6, "backup"), (7, "filesystem")):
        assert (
            expect_refusal(scripts, I_PATH=image, I_TYPE=kind)
            == f"Images of type '{name}' are not supported by the fs driver."
        )


# URLs


class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_args: object) -> None:
        pass


@pytest.fixture
def url(scripts: Any) -> Iterator[str]:
    """Serve the files over HTTP."""

    def handler(*args: Any) -> Handler:
        return Handler(*args, directory=str(scripts.files))

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        (thread := threading.Thread(target=server.serve_forever)).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("suffix", ["", *COMPRESSIONS])
def test_an_image_at_a_url(scripts: Any, url: str, suffix: str) -> None:
    content = COMPRESSIONS[suffix](RAW) if suffix else RAW
    (scripts.files / "x").write_bytes(content)
    assert scripts("stat", I_PATH=f"{url}/x").stdout == "4\n"
    stored, image_format = copy_image(scripts, I_PATH=f"{url}/x", IT_SHA256=hashlib.sha256(content).hexdigest())
    assert (image_format, stored.read_bytes()) == ("raw", RAW)
    assert "the md5 of what is at" in expect_refusal(scripts, I_PATH=f"{url}/x", IT_MD5="0" * 32)


def test_a_url_that_leads_nowhere(scripts: Any, url: str) -> None:
    assert "404" in expect_refusal(scripts, I_PATH=f"{url}/missing")
    assert " is not accepted: " in expect_refusal(scripts, I_PATH="ftp://127.0.0.1/x")
    for secret in ("http://user:hunter2@127.0.0.1:1/x?token=hunter2", "ssh://user:hunter2@127.0.0.1/x"):
        for action in ("cp", "stat"):
            assert "hunter2" not in expect_refusal(scripts, action, I_PATH=secret)
    (scripts.files / "page").write_bytes(b"<html>")
    assert "this is an HTML page: it is probably the login or error page" in expect_refusal(
        scripts, I_PATH=f"{url}/page"
    )
    assert scripts("stat", I_PATH=f"{url}/page").stdout == "1\n"
    # The error about refused data also names its URL without secrets.
    (scripts.files / "bad").write_bytes(b"QFI\xfb" + bytes(4))
    for action in ("cp", "stat"):
        message = expect_refusal(scripts, action, I_PATH=f"{url.replace('//', '//user:hunter2@')}/bad?token=hunter2")
        assert "127.0.0.1" in message and "hunter2" not in message


# URLs of other schemes

BACKUP = "rsync://102//0:0e6658/var/lib/one/datastores/102/21/0e6658/disk.0.0"


@pytest.fixture
def downloader(scripts: Any) -> Callable[[str], Path]:
    """Return a function that gives the front-end a downloader.

    The downloader writes its arguments to a file, one a line, and then runs the script. The function returns the path
    of the file.
    """

    def make(script: str) -> Path:
        notes = scripts.files.parent / "notes"
        path = scripts.remotes / "datastore" / "downloader.sh"
        path.write_text(f"#!/bin/sh\nprintf '%s\\n' \"$@\" >>'{notes}'\n{script}\n")
        path.chmod(0o755)
        return notes

    return make


@pytest.mark.parametrize(
    "url",
    [
        BACKUP,
        *(
            "restic://100/23/0:25f4b298,1:6968545c//var/lib/one/datastores/0/0/backup/disk.0",
            "s3://bucket/backup/disk.0",
            "s3://key@bucket/a%20b?region=x&v=2",
        ),
        *(
            "rbd://user@host/one/one-5?DS=5&CEPH_USER=libvirt",
            "docker://alpine?size=512&filesystem=ext4&format=raw",
            "RSYNC://102//x",
        ),
    ],
)
@pytest.mark.parametrize("suffix", ["", "gz", "zst"])
def test_a_restored_backup_is_read_by_the_front_ends_downloader(
    scripts: Any, downloader: Any, url: str, suffix: str
) -> None:
    (scripts.files / "x").write_bytes(content := COMPRESSIONS[suffix](RAW) if suffix else RAW)
    notes = downloader(f"cat '{scripts.files}/x'")
    stored, image_format = copy_image(scripts, I_PATH=url, IT_SHA256=hashlib.sha256(content).hexdigest())
    assert (image_format, stored.read_bytes()) == ("raw", RAW)
    assert notes.read_text() == f"{url}\n-\n"
    stored.unlink()
    assert scripts("stat", I_PATH=url).stdout == "4\n"
    assert notes.read_text() == f"{url}\n-\n" * 2


def test_what_the_downloader_reads_is_a_strangers(scripts: Any, downloader: Any, qcow2: Path) -> None:
    shell("qemu-img", "rebase", "-u", "-F", "raw", "-b", "/etc/passwd", qcow2)
    (scripts.files / "damaged").write_bytes(gzip.compress(RAW)[:-9])
    for name, flaw in ((qcow2.name, "has a backing file"), ("damaged", "a whole gzip stream is expected")):
        downloader(f"cat '{scripts.files}/{name}'")
        message = expect_refusal(scripts, I_PATH=f"{BACKUP}?key=hunter2")
        assert f"path: '{BACKUP}?...' is not accepted: " in message and flaw in message
    downloader(f"cat '{qcow2}'")
    assert "the md5 of what is at" in expect_refusal(scripts, I_PATH=BACKUP, IT_MD5="0" * 32)


@pytest.mark.parametrize("what", ["/dev/zero", "/dev/urandom"])
def test_a_downloader_without_end_leaves_nothing(scripts: Any, downloader: Any, what: str) -> None:
    """The file system has 16 MiB."""
    downloader(f"exec cat {what}")
    done = scripts("cp", within=[*SMALL, scripts.store], I_PATH=BACKUP)
    assert (done.returncode, done.stdout) == (1, "")
    assert BACKUP in done.stderr or "No space left" in done.stderr


def test_a_downloader_gets_to_its_end(scripts: Any, downloader: Any, qcow2: Path) -> None:
    """At its end the downloader removes the image that it merged from increments, perhaps on another host."""
    with qcow2.open("ab") as file:
        file.truncate(8 * MIB)
    for name, size in ((qcow2, 64), (qcow2.with_suffix(".gz"), 64)):
        if name != qcow2:
            name.write_bytes(gzip.compress(qcow2.read_bytes() + random.Random(4).randbytes(4 * MIB)))
        (temporary := scripts.files.parent / "temporary").touch()
        downloader(f"cat '{name}' && rm '{temporary}'")
        assert scripts("stat", I_PATH=BACKUP).stdout == f"{size}\n"
        assert not temporary.exists()
    downloader(f"cat '{qcow2}'; exec yes")
    assert scripts("stat", I_PATH=BACKUP).stdout == "64\n"


def test_a_downloader_that_fails(scripts: Any, downloader: Any) -> None:
    program = scripts.remotes / "datastore" / "downloader.sh"
    downloader('head -c 100000 /dev/urandom; echo INFO: noise >&2; echo "Cannot read from $1." >&2; exit 255')
    for action in ("cp", "stat"):
        message = expect_refusal(scripts, action, I_PATH=f"{BACKUP}?key=hunter2")
        assert (
            message == f"Could not read {BACKUP}?...: {program} failed: Cannot read from {BACKUP}?...."
        )  # the last dot ends the sentence
    program.write_text("no program")
    assert "could not be started" in expect_refusal(scripts, I_PATH=BACKUP)
    program.chmod(0o644)
    assert expect_refusal(scripts, I_PATH=BACKUP).endswith(
        "is not accepted: an absolute path or a URL with http, https or ssh is expected."
    )


@pytest.mark.parametrize(
    "rest",
    [
        *(
            "x/$(touch x)",
            "x/`id`",
            "x/a;b",
            "x/a b",
            "x/'",
            'x/"',
            "x/a|b",
            "x/a>b",
            "x/a<b",
            "x/\\",
            "x/a#b",
            "x/*",
            "x/[a]",
            "x/{a}",
            "x/!",
            "x/a&b",
            "x/é",
        ),
        *("x/../y", "x/..", "me:hunter2@host/x", "[::1/x", "x/a\tb"),
    ],
)
def test_what_a_downloader_must_not_get(scripts: Any, downloader: Any, rest: str) -> None:
    """The downloader passes its argument on to shells, and process lists show the argument."""
    notes = downloader("echo x")
    for action in ("cp", "stat"):
        message = expect_refusal(scripts, action, I_PATH=f"rsync://{rest}")
        assert " is not accepted: " in message and "hunter2" not in message
    assert not notes.exists()


def test_a_file_of_the_front_end_is_no_url(scripts: Any, downloader: Any) -> None:
    notes = downloader("echo x")
    for url in ("file:///etc/passwd", "FILE:///etc/passwd"):
        assert "an absolute path or a URL with http, https or ssh is expected" in expect_refusal(scripts, I_PATH=url)
    assert not notes.exists()


def test_what_the_downloader_learns_from_its_environment(scripts: Any, downloader: Any) -> None:
    """The environment has the setting for unpacking, and the document with the keys of a storage."""
    notes = downloader('printf "%s\\n" "$NO_DECOMPRESS" "$DRV_ACTION" >>"${0%/*}/../../../../notes"; echo image')
    assert scripts("cp", I_PATH=BACKUP).returncode == 0
    assert notes.read_text().splitlines() == [BACKUP, "-", "yes", scripts.document(I_PATH=BACKUP).decode()]
    assert scripts("cp", I_PATH=BACKUP, DT_MANY="x" * (1 << 20)).returncode == 0  # too long for a variable


def test_a_terminated_action_leaves_nothing(scripts: Any) -> None:
    """The signal arrives while the action waits for the rest of a download."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        document = scripts.document(I_PATH=f"http://127.0.0.1:{server.getsockname()[1]}/x")
        process = subprocess.Popen(
            [scripts.path("cp"), "7"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert process.stdin
        process.stdin.write(document)
        process.stdin.close()
        connection = server.accept()[0]
        with connection:
            connection.recv(65536)
            assert len(scripts.stored()) == 1
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 128 + signal.SIGTERM
    assert process.stdout and process.stdout.read() == b""
    process.stdout.close()
    assert process.stderr
    process.stderr.close()
    assert scripts.stored() == []


@pytest.mark.parametrize("action", ["cp", "mkfs", "clone"])
def test_an_image_that_nobody_learns_of_is_removed(scripts: Any, image: Path, action: str) -> None:
    source = image
    if action == "clone":
        source = Path(scripts("cp", I_PATH=image).stdout.split()[0])
    before = scripts.stored()
    document = scripts.document(I_PATH=source, I_FORMAT="raw", I_SIZE=1)
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [scripts.path(action), "7"], input=document, stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert done.returncode == 1
    assert done.stderr.startswith(b"Could not answer on standard output: No space left on device.")
    assert scripts.stored() == before


# Descriptors that are closed


def run_with_closed(
    scripts: Any, closed: str, *, action: str = "cp", **elements: object
) -> subprocess.CompletedProcess[bytes]:
    """Run an action without some of the descriptors 0, 1 and 2."""
    command = f'exec "$0" 7 {" ".join(f"{number}>&-" for number in closed)}'
    return subprocess.run(
        ["sh", "-c", command, scripts.path(action)],
        input=scripts.document(**elements),
        capture_output=True,
        check=False,
    )


@pytest.mark.parametrize("driver", [None, "qcow2"])
def test_messages_that_nobody_reads_are_not_in_the_image(
    scripts: Any, url: str, image: Path, driver: str | None
) -> None:
    # The number of parent directories decides if a directory or the image would get the descriptor.
    for place in (scripts.store, scripts.store / "below"):
        place.mkdir(exist_ok=True)
        done = run_with_closed(scripts, "2", I_PATH=f"{url}/raw.img", DT_DRIVER=driver, D_BASE_PATH=place)
        assert (done.returncode, done.stderr) == (0, b"")
        stored = Path(done.stdout.decode().split()[0])
        if driver:
            shell("qemu-img", "compare", stored, image)
        else:
            assert stored.read_bytes() == RAW


@pytest.mark.parametrize("closed", ["1", "12"])
def test_an_answer_that_nobody_reads_is_an_error(scripts: Any, url: str, image: Path, closed: str) -> None:
    for action, elements in (("cp", {"I_PATH": f"{url}/raw.img"}), ("mkfs", {"I_FORMAT": "raw", "I_SIZE": 1})):
        done = run_with_closed(scripts, closed, action=action, **elements)
        assert done.returncode == 1
        told = [line for line in done.stderr.splitlines() if not line.startswith(b"INFO: ")]
        assert told == ([b"Could not answer on standard output: Bad file descriptor."] if closed == "1" else [])
        assert scripts.stored() == []


@pytest.mark.parametrize("closed", ["0", "01", "02", "012"])
def test_a_document_that_is_not_there_is_an_error(scripts: Any, image: Path, closed: str) -> None:
    done = run_with_closed(scripts, closed, I_PATH=image)
    assert (done.returncode, done.stdout, scripts.stored()) == (1, b"", [])
    assert done.stderr == (
        b"" if "2" in closed else b"Could not read the document on standard input: Bad file descriptor.\n"
    )


# The other actions

CONFIGURATION = """
# file systems
SUPPORTED_FS="ext4, vfat"
export FS_OPTS_EXT4='-L "my label"' # quoted
"""


def test_datablocks(scripts: Any) -> None:
    (scripts.remotes / "etc" / "datastore").mkdir(parents=True)
    (scripts.remotes / "etc" / "datastore" / "datastore.conf").write_text(CONFIGURATION)
    for fs, image_format in (("ext4", "raw"), ("swap", "raw"), ("", "qcow2"), ("ext4", "qcow2")):
        done = scripts("mkfs", I_FORMAT=image_format, I_SIZE=16, I_FS=fs, I_TYPE=2)
        assert done.returncode == 0, done.stderr
        path = done.stdout.strip()
        assert (
            json.loads(shell("qemu-img", "info", "--output=json", "-f", image_format, path))["virtual-size"] == 16 * MIB
        )
        if image_format == "raw":
            assert shell("blkid", "-p", "-o", "value", "-s", "TYPE", path).strip() == fs
        if (fs, image_format) == ("ext4", "raw"):
            assert shell("blkid", "-p", "-o", "value", "-s", "LABEL", path).strip() == "my label"
    message = expect_refusal(scripts, "mkfs", I_FORMAT="raw", I_SIZE=16, I_FS="ext4;touch x")
    assert message == "fs: 'ext4;touch x' is not accepted: one of ext4, swap, vfat is expected."
    for wrong in (
        {"I_FORMAT": "vmdk"},
        {"I_SIZE": 0},
        {"I_SIZE": "-1"},
        {"I_FS": "xfs"},
        {"I_FORMAT": None},
        {"I_SIZE": None},
    ):
        expect_refusal(scripts, "mkfs", **{"I_FORMAT": "raw", "I_SIZE": 16, **wrong})


def test_configuration_that_can_not_be_read(scripts: Any) -> None:
    (scripts.remotes / "etc" / "datastore").mkdir(parents=True)
    (path := scripts.remotes / "etc" / "datastore" / "datastore.conf").write_text("SUPPORTED_FS='ext4\n")
    assert expect_refusal(scripts, "mkfs", I_FORMAT="raw", I_SIZE=16).startswith(f"{path}: ")


@pytest.mark.parametrize(
    "source",
    [
        "",
        "/etc/passwd",
        "{store}/../100/{name}",
        "{store}",
        "{store}/x",
        "{store}/{name}.snap",
        "{store}/sub/{name}",
        "{store}1/{name}",
    ],
)
def test_only_the_datastore_is_written_to(scripts: Any, source: str) -> None:
    wrong = source.format(store=scripts.store, name=NAME)
    (scripts.store / NAME).write_bytes(RAW)
    for action in ("rm", "snap_delete", "snap_flatten", "snap_revert", "export"):
        message = expect_refusal(scripts, action, I_SOURCE=wrong, I_FORMAT="raw", I_TARGET_SNAPSHOT=0, I_SIZE=4)
        assert message.startswith(("source: ", "IMAGE/SOURCE: "))


def test_an_image_is_removed_with_all_that_is_its(scripts: Any) -> None:
    for name in (NAME, f"{NAME}.md5sum", "f" * 32):
        (scripts.store / name).write_bytes(b"x")
    (scripts.store / f"{NAME}.snap").mkdir()
    (scripts.store / f"{NAME}.snap" / "0").write_bytes(b"x")
    for _time in range(2):
        assert scripts("rm", I_SOURCE=f"{scripts.store.parent}//100/{NAME}").returncode == 0
        assert scripts.stored() == ["f" * 32]


def test_a_clone_is_of_an_image(scripts: Any, image: Path) -> None:
    (scripts.store / NAME).write_bytes(RAW)
    (elsewhere := scripts.store.parent / "7").mkdir()
    (elsewhere / NAME).symlink_to("/etc/passwd")
    (elsewhere / ("a" * 32)).write_bytes(RAW)
    for path in ("/etc/passwd", image, elsewhere / "x"):
        assert "an image of the datastore or of one beside it is expected" in expect_refusal(
            scripts, "clone", I_PATH=path, I_FORMAT="raw"
        )
    assert "is not used: it refers to '/etc/passwd'" in expect_refusal(
        scripts, "clone", I_PATH=elsewhere / NAME, I_FORMAT="raw"
    )
    for path, driver in ((scripts.store / NAME, None), (elsewhere / ("a" * 32), "qcow2")):
        done = scripts("clone", I_PATH=path, I_FORMAT="raw", DT_DRIVER=driver)
        source, image_format = done.stdout.split()
        assert image_format == (driver or "raw")
        shell("qemu-img", "compare", "-f", image_format, "-F", "raw", source, path)


def test_what_a_guest_wrote_into_its_raw_disk_is_data(scripts: Any, qcow2: Path) -> None:
    """The rule includes data that looks like an image with a backing file."""
    shell("qemu-img", "rebase", "-u", "-F", "raw", "-b", "/etc/passwd", qcow2)
    (scripts.store / NAME).write_bytes(qcow2.read_bytes())
    done = scripts("clone", I_PATH=scripts.store / NAME, I_FORMAT="raw", DT_DRIVER="qcow2")
    source, image_format = done.stdout.split()
    assert image_format == "qcow2"
    shell("qemu-img", "compare", "-f", "qcow2", "-F", "raw", source, qcow2)
    assert scripts("clone", I_PATH=scripts.store / NAME, I_FORMAT="qcow2").returncode == 1


def test_an_export(scripts: Any) -> None:
    (scripts.store / NAME).write_bytes(RAW)
    for image_format in ("raw", None):
        found = ElementTree.fromstring(
            scripts("export", I_SOURCE=scripts.store / NAME, I_SIZE=4, I_FORMAT=image_format).stdout
        )
        assert found.tag == "IMPORT_INFO"
        expected = {
            "IMPORT_SOURCE": str(scripts.store / NAME),
            "MD5": hashlib.md5(RAW).hexdigest(),
            "SIZE": "4",
            "FORMAT": "raw",
            "DISPOSE": "NO",
        }
        assert {one.tag: one.text for one in found} == expected


def test_a_directory_has_the_size_of_du(scripts: Any, image: Path) -> None:
    size = int(shell("du", "-s", "-B1", scripts.files).split()[0])
    assert scripts("stat", I_PATH=scripts.files).stdout == f"{-(-size // MIB)}\n"


def test_what_only_backup_drivers_do(scripts: Any) -> None:
    assert expect_refusal(scripts, "increment_flatten") == "increment_flatten is not supported by the fs driver."


def test_what_is_no_action_or_driver(scripts: Any) -> None:
    assert expect_refusal(scripts, "backup").startswith("There is no action 'backup'")
    (scripts.remotes / "datastore" / "ceph").mkdir()
    assert scripts("cp", name="ceph").stderr.startswith("There is no datastore driver 'ceph'")


# virtiofs


def test_a_directory_becomes_an_image(scripts: Any) -> None:
    (scripts.files / "link").symlink_to(scripts.files)
    done = scripts("cp", name="virtiofs", I_PATH=f"{scripts.files}/link/", I_TYPE=7, DT_DRIVER="virtiofs")
    assert done.stdout == f"{scripts.files} dir\n"
    assert scripts("rm", name="virtiofs", I_SOURCE=scripts.files).returncode == 0
    assert scripts("monitor", name="virtiofs").stdout == "USED_MB=0\nFREE_MB=0\nTOTAL_MB=0\n"
    for action in ("mkfs", "clone", "snap_delete", "snap_flatten", "snap_revert", "increment_flatten", "export"):
        elements = {"I_PATH": "/x", "I_SOURCE": "/x", "I_FORMAT": "raw", "I_SIZE": 1, "I_TARGET_SNAPSHOT": 0}
        assert (
            scripts(action, name="virtiofs", **elements).stderr == f"{action} is not supported by the virtiofs driver."
        )


def test_a_directory_has_a_size_only_where_it_is_asked_for(scripts: Any) -> None:
    """A share of millions of files is registered without a delay."""
    for number in range(3):
        (scripts.files / str(number)).mkdir()
    log = scripts.files.parent / "strace"
    tracing = ["strace", "-f", "-qq", "-e", "trace=execve", "-o", log]
    assert scripts("cp", name="virtiofs", within=tracing, I_PATH=scripts.files, I_TYPE=7).returncode == 0
    assert '"du"' not in log.read_text()
    size = int(shell("du", "-s", "-B1", scripts.files).split()[0])
    assert scripts("stat", name="virtiofs", within=tracing, I_PATH=scripts.files).stdout == f"{-(-size // MIB)}\n"
    assert '"du"' in log.read_text()


def test_a_directory_that_is_refused_is_not_measured(scripts: Any) -> None:
    (scripts.files / "link").symlink_to("/etc")
    log = scripts.files.parent / "strace"
    for name in ("fs", "virtiofs"):
        for path in ("/etc", "/", scripts.files / "link", scripts.store):
            done = scripts(
                "stat", name=name, within=["strace", "-f", "-qq", "-e", "trace=execve", "-o", log], I_PATH=path
            )
            assert (done.returncode, done.stdout) == (1, "")
            assert "the restricted directory" in done.stderr
            assert '"du"' not in log.read_text()


def test_what_the_front_ends_user_can_not_read_does_not_count(scripts: Any) -> None:
    (scripts.files / "home").mkdir(mode=0o700)
    (scripts.files / "home" / "x").write_bytes(random.Random(3).randbytes(3 * MIB))
    os.chown(scripts.files / "home", 61001, 61001)
    as_other_user = [
        "setpriv",
        "--bounding-set",
        "-all",
        "--inh-caps",
        "-all",
    ]  # root without rights on files of other users
    done = scripts("stat", name="virtiofs", within=as_other_user, I_PATH=scripts.files)
    assert (done.returncode, done.stdout) == (0, "1\n")
    assert (
        f"INFO: the size of {scripts.files} is without 1 of its files and directories that could not be read: "
        f"'{scripts.files}/home'" in done.log
    )
    assert (
        scripts("cp", name="virtiofs", within=as_other_user, I_PATH=scripts.files, I_TYPE=7).stdout
        == f"{scripts.files} dir\n"
    )


def test_a_directory_with_a_blank_would_share_another(scripts: Any) -> None:
    (scripts.files / "a").mkdir()
    (scripts.files / "a b").mkdir()
    (scripts.files / "c").symlink_to("a b")
    for name in ("a b", "c"):
        done = scripts("cp", name="virtiofs", I_PATH=scripts.files / name, I_TYPE=7)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == f"IMAGE/PATH: '{scripts.files}/a b' is not accepted: a path without blanks is expected."
