# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every recorded call of the datastore driver fs (driver_calls/), repeated with the installed driver.

The tests compare the exit code, the output and the changes on disk. The trees match the recordings and are in a
directory of the test's own in /var/tmp. Where the recorded driver was wrong, the test names the defect and asserts the
correct result. The tests compare data with qemu-img and on disk, never with the engine itself.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import gzip
import hashlib
import http.server
import json
import os
import re
import shutil
import stat
import subprocess
import tarfile
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

CALLS = {
    path.stem.removeprefix("datastore-fs-"): json.loads(path.read_text())
    for path in sorted((Path(__file__).parent / "driver_calls").glob("datastore-fs-*.json"))
}
MIB = 2**20
OWNER = (999, 995)

#: Recorded calls on h1 or h2, hosts of a BRIDGE_LIST. The hosts of the recording shared no data, and one host could be
#: wrong. Our hosts share the data.
ON_BRIDGES = {"clone-1", "monitor-3", "rm-1", "rm-5"}

#: Defects of the existing driver and the correct exit codes, by call.
WRONG = {
    "clone-1": ("the image was on the other bridge", 0),
    "rm-1": ("the image was on the other bridge", 0),
    "mkfs-3": ("swap space couldn't be made", 0),
    "snap_delete-1": ("a snapshot that is not there couldn't be deleted, so the action couldn't be repeated", 0),
    # An image without snapshots looks the same as one whose flattening ended without a reply. The second case is
    # repeated.
    "snap_flatten-1": ("an image that has no snapshots, as after the action, couldn't be flattened", 0),
    "stat-1": ("compressed images at a URL had no size", 0),
}

#: Words that the message for the user contains when a call fails.
MESSAGES = {
    "cp-1": "tar archive",
    "cp-2": "is not accepted: it lies in the restricted directory /var and SAFE_DIRS",
    "cp-3": "/usr/lib/one/etc/oned.conf",
    "mkfs-1": "fs: 'bogusfs' is not accepted: one of ext2, ext3, ext4, swap, xfs is expected.",
    "mkfs-2": "The command 'mkfs.xfs' is not installed on this host: install the package xfsprogs.",
    "snap_revert-1": "has no snapshot 0",
    "stat-2": "nonexistent.img: No such file or directory",
}


def shell(*argv: object, **options: Any) -> str:
    return subprocess.run([str(word) for word in argv], capture_output=True, text=True, check=True, **options).stdout


class Tree:
    """The disk of the recorded front-end: ``files`` as sources of images, and ``datastores``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files = root / "files"
        self.datastores = root / "one" / "datastores"
        self.files.mkdir()
        self.datastores.mkdir(parents=True)
        os.chown(self.datastores, *OWNER)

    def document(self, call: dict[str, Any], port: int) -> ElementTree.Element:
        xml = (
            call["stdin_xml"]
            .replace("/var/lib/one//datastores", f"{self.root}/one//datastores")
            .replace("/var/tmp/files", str(self.files))
        )
        return ElementTree.fromstring(xml.replace("127.0.0.1:8931", f"127.0.0.1:{port}"))

    def directory(self, number: str) -> None:
        path = self.datastores / number
        path.mkdir(exist_ok=True)
        os.chown(path, *OWNER)

    def entries(self) -> dict[str, os.stat_result]:
        """Return every path below the datastores, with its stat data."""
        return {str(path.relative_to(self.datastores)): path.lstat() for path in sorted(self.datastores.rglob("*"))}


def write_raw(path: Path, seed: int = 1) -> None:
    """Write a raw image of 64 MiB, with a little more than 3 MiB of data."""
    with path.open("wb") as file:
        for position in (0, 7 * MIB, 40 * MIB):
            file.seek(position)
            file.write(hashlib.shake_128(bytes([seed, position // MIB])).digest(MIB + 98304))
        file.truncate(64 * MIB)


def write_qcow2(path: Path, seed: int = 1, backing: str | None = None) -> None:
    """Write a qcow2 image of 64 MiB.

    With ``backing``, a name relative to the image's directory, only a few clusters differ.
    """
    if backing is None:
        raw = path.with_name(f"{path.name}.raw")
        write_raw(raw, seed)
        shell("qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, path)
        raw.unlink()
    else:
        shell("qemu-img", "create", "-q", "-f", "qcow2", "-b", backing, "-F", "qcow2", "-u", path, "64M")
        shell("qemu-io", "-f", "qcow2", "-c", f"write -P {seed} {seed}M 128k", path)


def write_sources(files: Path) -> None:
    write_raw(files / "raw64.img")
    write_qcow2(files / "q64.qcow2")
    with (files / "cd.iso").open("wb") as file:
        file.seek(32768)
        file.write(b"\1CD001\1" + bytes(12 * 1024))
        file.truncate(358400)
    with tarfile.open(files / "img.tar.gz", "w:gz", compresslevel=1) as archive:
        archive.add(files / "raw64.img", "img")
    with (files / "raw64.img").open("rb") as plain, gzip.open(files / "web64.img.gz", "wb", compresslevel=1) as packed:
        shutil.copyfileobj(plain, packed)


def write_image(tree: Tree, name: str, call: dict[str, Any], document: ElementTree.Element) -> None:
    """Write the image of a call, in the state that the recorded changes show."""
    text = functools.partial(document.findtext, default="")
    path = Path(os.path.normpath(text("IMAGE/SOURCE") or text("IMAGE/PATH")))
    image_format = text("IMAGE/FORMAT")
    tree.directory(path.parent.name)
    (write_raw if image_format == "raw" else write_qcow2)(path)
    if name.startswith("snap_") and name.partition("-")[0] + "-1" != name:
        (write_raw_snapshots if image_format == "raw" else write_qcow2_snapshots)(path, call, document)
    for directory, names, files in os.walk(path.parent):
        for entry in (*names, *files):
            os.chown(os.path.join(directory, entry), *OWNER, follow_symlinks=False)


def snapshot_ids(document: ElementTree.Element) -> list[int]:
    return [int(found.findtext("ID")) for found in document.iter("SNAPSHOT")]


def write_raw_snapshots(path: Path, call: dict[str, Any], document: ElementTree.Element) -> None:
    """Write snapshots that are whole copies."""
    (directory := Path(f"{path}.snap")).mkdir()
    for number in snapshot_ids(document):
        write_raw(directory / str(number), seed=10 + number)


def write_qcow2_snapshots(path: Path, call: dict[str, Any], document: ElementTree.Element) -> None:
    """Write snapshots that are overlays; the overlay with the highest number is the active one.

    With ``shared`` the image is the first file, otherwise a link to the active overlay.
    """
    (directory := Path(f"{path}.snap")).mkdir()
    name = directory.name
    (directory / name).symlink_to(".")
    shared = document.findtext("DATASTORE/TM_MAD") != "local" and "_ssh:" not in call["step"]
    if shared:
        (directory / "0").symlink_to(path)
    else:
        path.rename(directory / "0")
        path.symlink_to(f"{name}/3")
    ids = snapshot_ids(document)
    for number, parent in zip([*ids[1:], 3], ids, strict=True):
        write_qcow2(directory / str(number), 10 + number, f"{name}/{parent}")


def snapshots(path: Path) -> list[Path]:
    return [one for one in Path(f"{path}.snap").glob("*") if one.name.isdigit()]


def active(path: Path) -> Path:
    """Return the file with the data of the image."""
    if path.is_symlink() or not os.path.lexists(f"{path}.snap/{path.name}.snap"):
        return path
    return max(snapshots(path), key=lambda one: int(one.name))


def data(path: Path, image_format: str) -> str:
    """Return the digest of the guest's view of an image."""
    with tempfile.NamedTemporaryFile(dir="/var/tmp") as raw:
        shell("qemu-img", "convert", "-f", image_format, "-O", "raw", path, raw.name)
        return shell("sha256sum", raw.name).split()[0]


def contents(path: Path, image_format: str) -> dict[str, str]:
    """Return the data of the image and of each of its snapshots."""
    found = {"image": data(active(path), image_format)}
    for one in snapshots(path):
        found[one.name] = data(one, image_format)
    return found


@contextlib.contextmanager
def serve_directory(directory: Path) -> Iterator[int]:
    """Start a web server of ``directory``, and yield its port."""
    handler = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_args: None})
    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(handler, directory=str(directory))
    ) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def root() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="driver-calls-") as directory:
        yield Path(directory)


@pytest.fixture(scope="module")
def sources(root: Path) -> Path:
    (files := root / "sources").mkdir()
    write_sources(files)
    return files


@pytest.fixture
def tree(root: Path, sources: Path) -> Iterator[Tree]:
    (place := root / "tree").mkdir()
    tree = Tree(place)
    for source in sources.iterdir():
        (tree.files / source.name).symlink_to(source)
    yield tree
    shutil.rmtree(place)


Driver = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def driver(driver_scripts: Path, tmp_path_factory: pytest.TempPathFactory) -> Driver:
    """Call an action like the front-end."""
    without_xfs = tmp_path_factory.mktemp("no-xfs")

    def call(
        action: str, argument: str, document: ElementTree.Element, *, hide: str = ""
    ) -> subprocess.CompletedProcess[str]:
        command = [str(driver_scripts / "datastore" / "fs" / action), argument]
        if hide:  # a machine without this program
            program = shutil.which(hide, path="/usr/sbin:/sbin")
            assert program, f"install the package that has {hide}"
            (without_xfs / "empty").touch(mode=0o644)
            hidden = [str(without_xfs / "empty"), os.path.realpath(program)]
            command = ["unshare", "-m", "sh", "-ec", 'mount --bind "$0" "$1"; shift; exec "$@"', *hidden, *command]
        encoded = base64.b64encode(ElementTree.tostring(document)).decode()
        return subprocess.run(command, input=encoded, capture_output=True, text=True, check=False, timeout=300)

    return call


def shape(text: str) -> str:
    """Return a reply without the parts that differ between runs."""
    return re.sub(r"[0-9a-f]{32}", "<name>", re.sub(r"_MB=[0-9]+", "_MB=<number>", text))


def changes(before: dict[str, os.stat_result], after: dict[str, os.stat_result]) -> dict[str, set[str]]:
    def known(found: os.stat_result) -> tuple[int, ...]:
        return found.st_mode, found.st_ino, found.st_size, found.st_mtime_ns if stat.S_ISREG(found.st_mode) else 0

    return {
        "added": set(after) - set(before),
        "removed": set(before) - set(after),
        "changed": {path for path in set(before) & set(after) if known(before[path]) != known(after[path])},
    }


@pytest.mark.parametrize("name", CALLS)
def test_a_recorded_call(name: str, driver: Driver, tree: Tree, request: pytest.FixtureRequest) -> None:
    call = CALLS[name]
    bridges = request.getfixturevalue("bridges") if name in ON_BRIDGES else None
    action = call["action"]
    assert (call["kind"], call["driver"], call["stdin_encoding"]) == ("datastore", "fs", "base64")
    with serve_directory(tree.files) as port:
        document = tree.document(call, port)
        if action in ("clone", "rm") or action.startswith("snap_"):
            write_image(tree, name, call, document)
        if action != "monitor" or not find_created(call, document.findtext("DATASTORE/ID")):
            tree.directory(document.findtext("DATASTORE/ID"))
        image = document.findtext("IMAGE/SOURCE")
        held = (
            contents(Path(os.path.normpath(image)), document.findtext("IMAGE/FORMAT"))
            if action.startswith("snap_")
            else {}
        )
        before = tree.entries()
        done = driver(action, call["argv"][0], document, hide="mkfs.xfs" if name == "mkfs-2" else "")
        after = tree.entries()
        if done.returncode == 0 and name not in ("monitor-1",):
            again = driver(action, call["argv"][0], document)
            assert again.returncode == 0, f"it can't be repeated: {again.stderr}"
            if action not in ("cp", "clone", "mkfs"):
                assert tree.entries().keys() == after.keys()

    assert bridges is None or bridges.connections() > 0
    expected_rc = WRONG[name][1] if name in WRONG else call["rc"]
    assert (done.returncode == 0) == (expected_rc == 0), done.stderr
    messages = [line for line in done.stderr.splitlines() if not re.match("(ERROR|INFO|WARN|DEBUG): ", line)]
    found = changes(before, after)
    if expected_rc != 0:
        # Some of the recorded messages are empty. mkfs-2 left its file. All failures ended with an exit code of some
        # shell command.
        assert done.returncode == 1
        assert done.stdout == ""
        assert len(messages) == 1
        assert MESSAGES[name] in messages[0]
        assert found == {"added": set(), "removed": set(), "changed": set()}
        return
    assert messages == []
    CHECKS[action](name, call, document, tree, done.stdout, found)
    if held:
        check_contents(name, document, held)


def check_new_image(
    name: str, call: dict[str, Any], document: ElementTree.Element, tree: Tree, stdout: str, found: dict[str, set[str]]
) -> None:
    """Require that the reply of cp, clone or mkfs names the only new file."""
    # The recorded reply of clone-4 has no format, and the image's own format applies.
    expected = call["stdout"] or "/var/lib/one//datastores/101/<name>\n"
    if name in ("clone-1", "clone-4"):
        expected = f"/var/lib/one//datastores/{document.findtext('DATASTORE/ID')}/<name> raw\n"
    assert shape(stdout) == shape(expected).replace("/var/lib/one", f"{tree.root}/one")
    path = Path(os.path.normpath(stdout.split()[0]))
    if document.findtext("IMAGE/FORMAT") == "save_as":  # only a name: a transfer action will put the data there
        assert found == {"added": set(), "removed": set(), "changed": set()}
        assert not os.path.lexists(path)
        return
    assert found == {"added": {str(path.relative_to(tree.datastores))}, "removed": set(), "changed": set()}
    status = path.lstat()
    # The recorded mode is 0644, which lets every user of the host read any image.
    assert (oct(status.st_mode), status.st_uid, status.st_gid) == ("0o100640", *OWNER)
    recorded = next(iter(call["fs_diff"]["added"].values()), None)
    image_format = (stdout.split() + [document.findtext("IMAGE/FORMAT")])[1]
    size = {"cd.iso": 358400}.get(
        os.path.basename(document.findtext("IMAGE/PATH")), int(document.findtext("IMAGE/SIZE")) * MIB
    )
    assert json.loads(shell("qemu-img", "info", "--output=json", "-f", image_format, path))["virtual-size"] == size
    if recorded:
        assert status.st_blocks <= recorded["blocks"] * 1.2 + 64, "holes were filled"
    if image_format == "raw":
        assert status.st_size == size
    if image_format == "qcow2":
        shell("qemu-img", "check", "-f", "qcow2", path)
    fs = document.findtext("IMAGE/FS")
    if fs:
        assert shell("blkid", "-p", "-o", "value", "-s", "TYPE", path).strip() == fs
    source = document.findtext("IMAGE/PATH")
    if source:
        source_format = "qcow2" if source.endswith(".qcow2") else document.findtext("IMAGE/FORMAT") or "raw"
        assert data(path, image_format) == data(Path(source), source_format)


def check_rm(
    name: str, call: dict[str, Any], document: ElementTree.Element, tree: Tree, stdout: str, found: dict[str, set[str]]
) -> None:
    assert stdout == call["stdout"] == ""
    removed = {path.partition(":")[2] for path in call["fs_diff"]["removed"]}
    if name == "rm-1":
        removed = {os.path.relpath(document.findtext("IMAGE/SOURCE"), tree.datastores)}
    assert found == {"added": set(), "removed": removed, "changed": set()}


def check_stat(
    name: str, call: dict[str, Any], document: ElementTree.Element, tree: Tree, stdout: str, found: dict[str, set[str]]
) -> None:
    assert stdout == "64\n"
    assert call["stdout"] in ("64\n", "")
    assert found == {"added": set(), "removed": set(), "changed": set()}


def find_created(call: dict[str, Any], number: str) -> set[str]:
    """Return the directory of the datastore if the recorded call created it.

    Other processes created the directories of other datastores during the recording.
    """
    return {path.partition(":")[2] for path in call["fs_diff"]["added"]} & {number}


def check_monitor(
    name: str, call: dict[str, Any], document: ElementTree.Element, tree: Tree, stdout: str, found: dict[str, set[str]]
) -> None:
    assert shape(stdout) == shape(call["stdout"])
    number = document.findtext("DATASTORE/ID")
    # The first monitoring of a new datastore creates its directory.
    assert found == {"added": find_created(call, number), "removed": set(), "changed": set()}
    status = (tree.datastores / number).lstat()
    assert oct(status.st_mode) == "0o40755"
    answer = dict(line.split("=") for line in stdout.splitlines())
    total, used, free = map(int, shell("df", "-B1", "--output=size,used,avail", tree.datastores).split()[-3:])
    assert int(answer["TOTAL_MB"]) == total // MIB
    assert abs(int(answer["USED_MB"]) - used // MIB) <= 512  # other processes write too
    assert abs(int(answer["FREE_MB"]) - free // MIB) <= 512


def check_snapshots(
    name: str, call: dict[str, Any], document: ElementTree.Element, tree: Tree, stdout: str, found: dict[str, set[str]]
) -> None:
    assert stdout == call["stdout"] == ""
    assert found["added"] == set()
    assert found["removed"] == {path.removeprefix("fe:") for path in call["fs_diff"]["removed"]}
    assert not list(tree.datastores.rglob(".*"))


def check_contents(name: str, document: ElementTree.Element, held: dict[str, str]) -> None:
    """Check the content of the image and its snapshots; ``held`` is their content before the call."""
    path = Path(os.path.normpath(document.findtext("IMAGE/SOURCE")))
    image_format, target = document.findtext("IMAGE/FORMAT"), document.findtext("IMAGE/TARGET_SNAPSHOT")
    now = contents(path, image_format)
    if name.startswith("snap_revert"):
        # The recorded driver overwrote the image's file. With shared storage, this file is the base of all later
        # overlays.
        assert held["image"] != held[target]
        assert now == {**held, "image": held[target], **({"3": held[target]} if "3" in held else {})}
    elif name == "snap_flatten-1":
        assert now == held
    elif name.startswith("snap_flatten"):
        assert now == {"image": held[target]}
        assert stat.S_ISREG(path.lstat().st_mode)
        assert oct(path.lstat().st_mode) == "0o100640"
        assert "backing-filename" not in json.loads(
            shell("qemu-img", "info", "--output=json", "-f", image_format, path)
        )
    else:
        assert now == {number: digest for number, digest in held.items() if number != target}
    if image_format == "qcow2":
        for one in [path, *snapshots(path)]:
            shell("qemu-img", "check", "-f", "qcow2", one)


CHECKS = {
    "clone": check_new_image,
    "cp": check_new_image,
    "mkfs": check_new_image,
    "monitor": check_monitor,
    "rm": check_rm,
    "snap_delete": check_snapshots,
    "snap_flatten": check_snapshots,
    "snap_revert": check_snapshots,
    "stat": check_stat,
}


def test_all_calls_are_here() -> None:
    assert len(CALLS) == 46
    assert {call["action"] for call in CALLS.values()} == set(CHECKS)
