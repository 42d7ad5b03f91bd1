# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""BRIDGE_LIST of the fs driver, with real connections to a real sshd.

The hosts have the datastore. The same directory on the front-end is empty.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import gzip
import hashlib
import http.server
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import ansible_process
import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core import command, errors, records
from ansible_collections.granary.vmstore.plugins.module_utils._core.words import FRONT_END
from ansible_collections.granary.vmstore.plugins.module_utils._driver.datastore import bridge, bridge_protocol
from ansible_collections.granary.vmstore.plugins.module_utils._driver.datastore.base import (
    Capacity,
    CopiedImage,
    CopyOptions,
    DatastoreDriver,
    Settings,
)
from ansible_collections.granary.vmstore.plugins.module_utils._driver.datastore.fs import FsDriver
from ansible_collections.granary.vmstore.plugins.module_utils._driver.datastore.receiving import HANDLERS
from ansible_collections.granary.vmstore.plugins.module_utils._driver.datastore.registry import new_driver
from ansible_collections.granary.vmstore.plugins.module_utils._driver.datastore.users import LOCKED
from ansible_collections.granary.vmstore.plugins.module_utils._driver.datastore.virtiofs import VirtiofsDriver
from ansible_collections.granary.vmstore.plugins.module_utils._host.directory import Directory, Measuring
from ansible_collections.granary.vmstore.plugins.module_utils._model.datastore import Datastore
from ansible_collections.granary.vmstore.plugins.module_utils._remote import session
from ansible_collections.granary.vmstore.plugins.module_utils._remote.directory import look_there
from ansible_collections.granary.vmstore.plugins.module_utils._service.drivers.opennebula import launcher
from refusal import refused

ROOT = Path(__file__).parents[2]
MIB = 2**20
OS = CopyOptions("os")

#: Content of 4 MiB, with data at the beginning only.
RAW = random.Random(1).randbytes(MIB) + bytes(3 * MIB)

HOSTILE = [
    "plain",
    "with blank",
    "quote'\"",
    "$(touch x)",
    "`touch x`",
    "-rf",
    "a;b|c&d",
    "*",
    "é",
    "%s %d",
    " x ",
    "!!",
]


def shell(*argv: object) -> str:
    return subprocess.run([str(word) for word in argv], capture_output=True, text=True, check=True).stdout


def wait_until(reached: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while not reached():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def process_ids(pattern: str) -> list[int]:
    done = subprocess.run(["pgrep", "-f", "--", pattern], capture_output=True, text=True, check=False)
    return [int(number) for number in done.stdout.split()]


@pytest.fixture
def driver(bridges: Any) -> Callable[..., DatastoreDriver]:
    """Return the driver of the datastore 100 with these hosts in its BRIDGE_LIST."""

    def make(*hosts: str, type: str = "image", restricted: tuple[str, ...] = (), **options: Any) -> DatastoreDriver:
        datastore = Datastore(
            100, "x", type, "fs", "shared", str(bridges.store), restricted_dirs=restricted, bridge_list=hosts or ("h1",)
        )
        return new_driver(datastore, **options)

    return make


@pytest.fixture
def image(tmp_path: Path) -> Path:
    (path := tmp_path / "raw.img").write_bytes(RAW)
    return path


@pytest.fixture
def once(bridges: Any) -> Iterator[None]:
    """Require that the test makes one connection."""
    before = bridges.connections()
    yield
    assert bridges.connections() == before + 1


# Every action, over one connection


@pytest.mark.parametrize("name", HOSTILE)
def test_cp(bridges: Any, driver: Any, tmp_path: Path, once: None, name: str) -> None:
    (files := tmp_path / "files").mkdir()
    (files / name).write_bytes(RAW)
    copied = driver().cp(str(files / name), OS)
    assert (copied.format, copied.size_mb) == ("raw", 4)
    assert bridges.stored() == [os.path.basename(copied.source)]
    stored = bridges.path(copied.source)
    assert stored.read_bytes() == RAW
    assert stored.stat().st_blocks * 512 < 2 * MIB
    assert oct(stored.stat().st_mode) == "0o100640"
    assert os.listdir(files) == [name]


def test_cp_of_a_file_with_large_holes(bridges: Any, driver: Any, tmp_path: Path, once: None) -> None:
    """Holes are not read, sent or written."""
    with (path := tmp_path / "x").open("wb") as file:
        for position in (1 << 31, (1 << 32) + 4096):
            file.seek(position)
            file.write(RAW[:MIB])
        file.truncate(1 << 33)
    with path.open("rb") as file:
        sent = 0
        for piece in bridge.read_frames(file.fileno()):
            sent += len(piece)
            assert sent < 3 * MIB
    copied = driver().cp(str(path), OS)
    stored = bridges.path(copied.source)
    assert stored.stat().st_size == 1 << 33
    assert stored.stat().st_blocks * 512 < 3 * MIB
    for position in (0, 1 << 31, (1 << 32) + 4096):
        with stored.open("rb") as file:
            file.seek(position)
            assert file.read(MIB) == (RAW[:MIB] if position else bytes(MIB))


@pytest.mark.parametrize("digest", ["sha256", "md5"])
def test_cp_unpacks_converts_and_checks(
    bridges: Any, driver: Any, image: Path, tmp_path: Path, digest: str, once: None
) -> None:
    (path := tmp_path / "x.gz").write_bytes(packed := gzip.compress(RAW))
    checksums = {digest: hashlib.new(digest, packed).hexdigest()}
    copied = driver(settings=Settings(qcow2_options="cluster_size=128k")).cp(
        str(path), CopyOptions("os", driver_format="qcow2", checksums=checksums)
    )
    assert copied.format == "qcow2"
    stored = bridges.path(copied.source)
    assert json.loads(shell("qemu-img", "info", "--output=json", stored))["cluster-size"] == 128 << 10
    shell("qemu-img", "compare", "-f", "qcow2", "-F", "raw", stored, image)


def test_cp_that_is_refused_leaves_nothing(bridges: Any, driver: Any, image: Path, tmp_path: Path) -> None:
    (archive := tmp_path / "x.zip").write_bytes(b"PK\3\4" + bytes(5 * MIB))
    (qcow2 := tmp_path / "x.qcow2").touch()
    shell("qemu-img", "create", "-q", "-f", "qcow2", "-b", image, "-F", "raw", qcow2)
    for path, options, fields in (
        (
            image,
            CopyOptions("os", checksums={"md5": "0" * 32}),
            {"option": "md5", "value": "0" * 32, "names": [image, hashlib.md5(RAW).hexdigest()]},
        ),
        (image, CopyOptions("os", checksums={"md5": "0"}), {"option": "md5", "value": "0", "names": [32]}),
        (archive, OS, {"option": "path", "value": str(archive), "names": ["zip"]}),
        (qcow2, OS, {"option": "path", "value": str(qcow2), "names": ["qcow2"]}),
    ):
        with refused(errors.InvalidInput, **fields) as caught:
            driver().cp(str(path), options)
        assert caught.value.accepted
        assert bridges.stored() == []
    with refused(errors.UnsupportedAction, says="Images of type 'filesystem' are not supported by the fs driver."):
        driver().cp(str(image), CopyOptions("filesystem"))


def test_paths_are_checked_on_the_front_end(bridges: Any, driver: Any, image: Path) -> None:
    """The checks take place before any connection."""
    for path in ("/etc/passwd", str(bridges.store / "x"), str(bridges.datastores / "7" / "x")):
        for act in (lambda path: driver().cp(path, OS), lambda path: driver().stat(path)):
            with refused(errors.PathNotAllowed, option="path", value=path):
                act(path)
    with refused(errors.PathNotAllowed, option="path", value=str(image), names=[f" {image.parent} "]):
        driver(restricted=(str(image.parent),)).cp(str(image), OS)
    with refused(errors.FileAccessFailed, names=["/tmp/nothing/there", os.strerror(errno.ENOENT)]):
        driver().cp("/tmp/nothing/there", OS)
    assert bridges.connections() == 0


def test_stat(bridges: Any, driver: Any, image: Path, tmp_path: Path) -> None:
    (packed := tmp_path / "x.gz").write_bytes(gzip.compress(RAW))
    shell("qemu-img", "create", "-q", "-f", "qcow2", qcow2 := tmp_path / "x.qcow2", "64M")
    with (large := tmp_path / "large").open("wb") as file:
        file.truncate(1 << 40)
    for number, (path, size) in enumerate(((image, 4), (packed, 4), (qcow2, 64), (large, 1 << 20)), start=1):
        assert driver().stat(str(path)) == size
        assert bridges.connections() == number
    assert driver().stat(str(packed), no_decompress=True) == 2
    assert driver(type="file").stat(str(packed)) == 2
    (directory := tmp_path / "directory").mkdir()
    (directory / "x").touch()
    assert driver().stat(str(directory)) == 1  # a directory of the front-end
    assert bridges.stored() == []


def test_preview(bridges: Any, driver: Any, image: Path, tmp_path: Path) -> None:
    """The preview returns the errors and the warnings of cp."""
    (page := tmp_path / "page").write_bytes(b"<!DOCTYPE html>")
    (packed := tmp_path / "x.gz").write_bytes(gzip.compress(RAW))
    for path in (image, packed):
        found, copied = driver().preview(str(path), OS), driver().cp(str(path), OS)
        assert (found.size_mb, found.warnings) == (4, copied.warnings)
        assert copied.warnings[0].startswith(f"{path} is stored as a raw disk, though nothing in it is recognised")
        driver().rm(copied.source)
        assert driver().cp(str(path), CopyOptions("os", image_format="raw")).warnings == ()
    before = bridges.stored()
    for act in (driver().preview, driver().cp):
        with refused(errors.InvalidInput, option="path", value=str(page), names=["HTML"]):
            act(str(page), OS)
    assert bridges.stored() == before


def expect_refusal(*acts: Callable[[], object]) -> str:
    """Return the message, which is the same for all."""
    messages = set()
    for act in acts:
        with pytest.raises(errors.VmstoreError) as caught:
            act()
        messages.add(str(caught.value))
    (message,) = messages
    return message


def test_a_bridge_says_before_what_it_will_refuse(bridges: Any, driver: Any, image: Path) -> None:
    wrong = CopyOptions("os", checksums={"md5": "0" * 32})
    assert "the md5 of what is at" in expect_refusal(
        lambda: driver().preview(str(image), wrong), lambda: driver().cp(str(image), wrong)
    )
    message = expect_refusal(lambda: driver().preview_mkfs(100, "raw", "xfs"), lambda: driver().mkfs(100, "raw", "xfs"))
    assert (
        message == "On the bridge h1: mkfs.xfs makes no file system of 100 MiB: Filesystem must be larger than 300MB."
    )
    driver().preview_mkfs(400, "raw", "xfs")
    assert bridges.stored() == []
    shell("qemu-img", "create", "-q", "-f", "qcow2", image.with_suffix(".qcow2"), "1M")
    shell("qemu-io", "-f", "qcow2", "-c", "write -q 0 1M", image.with_suffix(".qcow2"))
    source = driver().cp(str(image.with_suffix(".qcow2")), OS).source
    assert driver().preview_clone(source, "qcow2", OS).format == "qcow2"
    os.truncate(bridges.path(source), 300_000)
    options = {"words": FRONT_END}
    message = expect_refusal(
        lambda: driver(**options).preview_clone(source, "qcow2", OS),
        lambda: driver(**options).clone(source, "qcow2", OS),
    )
    assert message.endswith("; VERIFY=NO in the datastore's template clones it nevertheless.")
    assert len(bridges.stored()) == 1


def test_warnings_of_a_bridge_can_not_act_on_a_terminal(
    bridges: Any, driver: Any, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_answer = session.read_answer

    def lying(*arguments: Any) -> dict[str, Any]:
        answer = read_answer(*arguments)
        if "result" in answer:
            answer["result"] = records.replace(answer["result"], warnings=("a\x1b[31m\nb",))
        return answer

    monkeypatch.setattr(session, "read_answer", lying)
    for act in (driver().preview, driver().cp):
        assert act(str(image), OS).warnings == ("a?[31m?b",)


def test_a_url_is_fetched_by_the_bridge(bridges: Any, driver: Any, image: Path) -> None:
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(image.parent))

        def log_message(self, *_args: object) -> None:
            asked.append(self.path)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        (thread := threading.Thread(target=server.serve_forever)).start()
        url = f"http://127.0.0.1:{server.server_address[1]}/raw.img"
        assert driver().stat(url) == driver().preview(url, OS).size_mb == 4
        copied = driver().cp(url, CopyOptions("os", checksums={"sha1": hashlib.sha1(RAW).hexdigest()}))
        assert bridges.path(copied.source).read_bytes() == RAW
        with refused(errors.TransferFailed, names=["bridge h1", f"{url}.none?...", 404]):
            driver().cp(f"{url}.none?token=hunter2", OS)
        server.shutdown()
        thread.join()
    assert bridges.connections() == 4
    assert len(asked) >= 3


def test_mkfs(bridges: Any, driver: Any, once: None) -> None:
    source = driver(settings=Settings(fs_options={"ext4": '-L "my label"'})).mkfs(16, "raw", "ext4")
    assert shell("blkid", "-p", "-o", "value", "-s", "LABEL", bridges.path(source)) == "my label\n"
    assert bridges.stored() == [os.path.basename(source)]


def test_clone_export_rm(bridges: Any, driver: Any, image: Path) -> None:
    source = driver().cp(str(image), OS).source
    cloned = driver().clone(source, "raw", CopyOptions("os", driver_format="qcow2"))
    shell("qemu-img", "compare", "-f", "qcow2", "-F", "raw", bridges.path(cloned.source), image)
    exported = driver().export(source, None)
    assert (exported.source, exported.format, exported.md5) == (source, "raw", hashlib.md5(RAW).hexdigest())
    for _time in range(2):
        driver().rm(source)
        assert bridges.stored() == [os.path.basename(cloned.source)]
    assert bridges.connections() == 5
    with refused(errors.PathNotAllowed, option="source", value="/etc/passwd"):
        driver().rm("/etc/passwd")
    with refused(
        errors.FileAccessFailed, says=f"On the bridge h1: Could not read {source}: No such file or directory."
    ):
        driver().export(source, None)


def test_snapshots(bridges: Any, driver: Any, image: Path) -> None:
    source = driver().cp(str(image), OS).source
    (snapshots := Path(f"{bridges.path(source)}.snap")).mkdir()
    for number in range(3):
        (snapshots / str(number)).write_bytes(bytes([number]) * MIB)
    driver().snap_revert(source, "raw", 1)
    assert bridges.path(source).read_bytes() == b"\1" * MIB
    for _time in range(2):
        driver().snap_delete(source, "raw", 1)
        assert sorted(os.listdir(snapshots)) == ["0", "2"]
    with refused(errors.NotFound, names=["bridge h1", source, "snapshot 1"]):
        driver().snap_revert(source, "raw", 1)
    for _time in range(2):
        driver().snap_flatten(source, "raw", 2)
        assert bridges.path(source).read_bytes() == b"\2" * MIB
        assert bridges.stored() == [os.path.basename(source)]
    assert bridges.connections() == 7


def test_what_an_image_has_of_snapshots(bridges: Any, driver: Any, image: Path) -> None:
    source = driver().cp(str(image), OS).source
    (snapshots := Path(f"{bridges.path(source)}.snap")).mkdir()
    for number in (10, 2):
        (snapshots / str(number)).write_bytes(bytes([number]) * MIB + b"x")
    assert driver().snapshots(source) == [2, 10]
    assert driver().snap_size(source, "raw", 2) == 2
    assert driver().snap_same(source, "raw", 2) is False
    driver().snap_revert(source, "raw", 2)
    assert driver().snap_same(source, "raw", 2) is True
    with refused(
        errors.UnsupportedAction,
        says="content is not supported by the fs driver where the data is on the hosts of a bridge_list.",
    ):
        driver().content(source, "raw")


def test_monitor_and_prepare(bridges: Any, driver: Any) -> None:
    bridges.data.rmdir()
    with refused(errors.NotFound, names=["bridge h1", f"{bridges.store} "]):
        driver().monitor()
    driver().prepare()
    found = driver().monitor()
    assert isinstance(found, Capacity)
    assert abs(found.total_mb - int(shell("df", "-B1", "--output=size", bridges.data).split()[1]) // MIB) <= 1
    assert bridges.connections() == 3


def test_inventory_and_sweep(bridges: Any, driver: Any, image: Path) -> None:
    copied = driver().cp(str(image), OS)
    stored = bridges.path(copied.source)
    (part := stored.parent / f".{'0' * 32}.part").write_bytes(b"left by a killed run")
    found = driver().inventory({copied.source: "sha256"})
    [one] = found.images
    assert (one.path, one.format, one.length) == (copied.source, "raw", len(RAW))
    assert (one.allocated, one.checksum) == (stored.stat().st_blocks * 512, hashlib.sha256(RAW).hexdigest())
    assert [os.path.basename(leftover.path) for leftover in found.stale] == [part.name]
    driver().sweep()
    assert not part.exists()


def test_who_uses_an_image_and_what_is_wrong_with_it(
    bridges: Any, driver: Any, image: Path, opened_by_qemu: Callable[..., None]
) -> None:
    source = driver().cp(str(image), CopyOptions("os", driver_format="qcow2")).source
    assert (list(driver().users(source)), driver().damage(source, "qcow2")) == ([], None)
    opened_by_qemu(bridges.path(source), "-f", "qcow2")
    # The bridge has the file under another path, and therefore sees only the locks.
    assert list(driver("h1", "h2").users(source)) == [LOCKED]
    os.truncate(bridges.path(source), 1000)
    assert driver().damage(source, "qcow2").startswith("by the tables of this qcow2 image the file has ")
    assert driver().damage(source, "raw", "sha256:" + "0" * 64).startswith("its checksum is sha256:")


@pytest.fixture
def opened_on_bridge(bridges: Any) -> Iterator[Callable[[str, str], None]]:
    """Let qemu-io open an image on a bridge until the end of the test."""
    with contextlib.ExitStack() as running:

        def opened(host: str, source: str) -> None:
            command = ["ssh", host, "exec", "qemu-io", "-f", "raw", source]
            process = running.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
            running.callback(process.stdin.close)
            process.stdin.write(b"read 0 512\n")
            process.stdin.flush()
            assert b"read 512/512" in process.stdout.readline()

        yield opened


def test_every_bridge_is_asked_once_who_uses_images(
    bridges: Any, driver: Any, image: Path, opened_on_bridge: Callable[[str, str], None]
) -> None:
    used, other = (driver().cp(str(image), CopyOptions("os", image_format="raw")).source for _number in range(2))
    opened_on_bridge("h1", used)
    before = bridges.connections()
    told: list[str] = []
    asked = driver("h1", "dead", "h2", log=told.append)
    # Both names belong to the same machine here.
    programs = [re.sub(r"process \d+", "process N", user) for user in asked.users(used)]
    assert programs == [f"the program qemu-io (process N) on the host {host!r}" for host in ("h1", "h2")]
    assert list(asked.users(other)) == []
    assert bridges.connections() == before + 2
    assert any(line.startswith("who uses images on the bridge dead is not known: ") for line in told)
    with refused(errors.CommandFailed, names=["uses", "BRIDGE_LIST", "dead: ssh: "]):
        driver("dead", "dead2").users(used)


def test_nobody_uses_what_was_never_stored(bridges: Any, driver: Any) -> None:
    bridges.data.rmdir()
    assert list(driver().users(f"{bridges.store}/{'0' * 32}")) == []


def test_a_long_answer(bridges: Any, driver: Any, once: None) -> None:
    names = [f"{number:032x}" for number in range(3000)]
    for name in names:
        (bridges.data / name).touch()
    assert driver().stored() == {f"{bridges.store}/{name}" for name in names}


def test_all_actions_of_the_driver_are_the_bridges() -> None:
    """No action runs on the front-end by mistake; the test covers actions of the future too."""
    own = {"check", "require"}
    own |= {"check_mkfs", "try_attributes"}  # they use the commands of the front-end
    own |= {"content", "source_at"}  # they read the data
    own |= {"batch", "publish"}  # a bridge creates and removes each image by itself
    own |= {"require_store"}  # a check inside other actions, on the host that runs them
    actions = {name for name in dir(FsDriver) if not name.startswith("_") and callable(getattr(FsDriver, name))} - own
    done = {name for name in actions if getattr(FsDriver, name) is not getattr(DatastoreDriver, name)}
    assert done >= {
        "cp",
        "mkfs",
        "rm",
        "stat",
        "clone",
        "monitor",
        "snap_delete",
        "snap_flatten",
        "snap_revert",
        "export",
        "prepare",
    }
    assert done == {
        name for name in actions if getattr(bridge.BridgedFsDriver, name) is not getattr(DatastoreDriver, name)
    }
    asked = done - {"clone_origin", "users"} | {"uses"}
    assert asked == bridge_protocol.OPERATIONS.keys() == HANDLERS.keys()


# Hosts


@pytest.mark.parametrize("unable", ["dead", "bare", "old", "closed"])
def test_another_host_is_asked_when_one_can_not_be(bridges: Any, driver: Any, image: Path, unable: str) -> None:
    told: list[str] = []
    for _time in range(60):  # either host can come first
        source = driver(unable, "h1", log=told.append).cp(str(image), OS).source
        assert bridges.stored() == [os.path.basename(source)]
        driver().rm(source)
        if told:
            break
    assert [line.partition(": ")[0] for line in told] == [f"the bridge {unable}"]


def test_hosts_share_the_work() -> None:
    """Each host comes first for some images."""
    orders = {tuple(bridge.spread(("h1", "h2", "h3"))) for _time in range(200)}
    assert orders == {("h1", "h2", "h3"), ("h2", "h3", "h1"), ("h3", "h1", "h2")}


def test_no_host_answers(bridges: Any, driver: Any, image: Path) -> None:
    with pytest.raises(errors.CommandFailed) as caught:
        driver("dead", "bare", "old", "closed", "dead2").cp(str(image), OS)
    message = str(caught.value)
    assert message.startswith("cp needs a host of the datastore's BRIDGE_LIST, and none can be used: ")
    assert "\n" not in message
    no_server = "ssh: connect to host 127.0.0.1 port 1: Connection refused"
    for reason in (
        f"dead: {no_server}",
        f"dead2: {no_server}",
        "closed: This account is closed",
        "old: Python 3.9 or newer is expected, and python3 is 3.8",
    ):
        assert reason in message
    assert "bare: python3, 3.9 or newer, is not installed there (" in message


def test_a_host_that_does_not_get_on(bridges: Any, driver: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "GRACE", 0.5)
    with refused(errors.CommandFailed, names=["slow: ", "python3", 0.5]):
        driver("slow").monitor()


def test_what_a_login_shell_prints_is_skipped(driver: Any, image: Path) -> None:
    assert driver("noisy").stat(str(image)) == 4


@pytest.mark.parametrize(
    ("host", "grace", "why"),
    [
        ("welcoming", 60, "its output isn't that of python3"),
        ("slowly", 1.5, "python3 did not start within 1.5 seconds"),
    ],
)
def test_a_host_that_greets_for_ever(
    driver: Any, monkeypatch: pytest.MonkeyPatch, host: str, grace: float, why: str
) -> None:
    monkeypatch.setattr(session, "GRACE", grace)
    with refused(
        errors.CommandFailed,
        says=f"monitor needs a host of the datastore's BRIDGE_LIST, and none can be used: {host}: {why}.",
    ):
        driver(host).monitor()


@pytest.mark.parametrize(
    ("host", "why"),
    [
        (
            "flooding",
            "The bridge flooding sent an invalid answer to {}: * log lines, and at most 100 and 10 a second are "
            "accepted.",
        ),
        ("shouting", "The bridge shouting sent an invalid answer to {}: a log line of more than 65536 bytes."),
        ("logging", "The bridge logging sent no answer to {} within 0.5 seconds and is given up."),
        (
            "complaining",
            "The connection to the bridge complaining is given up during {}: The command 'ssh' wrote more than 1048576 "
            "bytes of messages and was stopped.",
        ),
        ("endless", "The bridge endless sent an invalid answer to {}: a line of more than 1048576 bytes."),
    ],
)
@pytest.mark.parametrize("action", ["monitor", "cp"])
def test_a_bridge_that_never_answers(
    driver: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str, why: str, action: str
) -> None:
    monkeypatch.setattr(command, "MOST_STDERR", MIB)
    # Where another limit than the time is tested, a busy machine gets all the time that it needs.
    seconds = 0.5 if host == "logging" else 60
    for name, value in {"LOG_LINES": 100, "LONGEST_ANSWER": MIB, "LONGEST_ACTION": seconds}.items():
        monkeypatch.setattr(session, name, value)
    (tmp_path / "small").write_bytes(RAW[:1000])
    bridged = driver(host, timeout=seconds - session.GRACE)  # the additional time for the reply
    with refused(errors.CommandFailed, says=why.format(action)):
        bridged.monitor() if action == "monitor" else bridged.cp(str(tmp_path / "small"), OS)


def test_a_bridge_that_takes_nothing_is_given_up(driver: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "STALL", 1.0)
    (tmp_path / "large").write_bytes(random.Random(2).randbytes(MIB) * 64)
    with refused(
        errors.CommandFailed, says="The bridge logging accepts no more data for cp within 1 seconds and is given up."
    ):
        driver("logging").cp(str(tmp_path / "large"), OS)


@pytest.mark.parametrize("host", ["-oProxyCommand=touch x", "a b", "", "$(touch x)", "a;b"])
def test_what_is_no_host(bridges: Any, driver: Any, host: str) -> None:
    with refused(errors.InvalidInput, option="bridge_list", value=host):
        driver("h1", host).monitor()
    assert bridges.connections() == 0


# Connections that break, and processes that end

SLOW = """
import sys
sys.path.insert(0, {library!r})
from granary_vmstore._model.datastore import Datastore
from granary_vmstore._core.errors import VmstoreError
from granary_vmstore._driver.datastore.base import CopyOptions
from granary_vmstore._driver.datastore.registry import new_driver
driver = new_driver(Datastore(100, "x", "image", "fs", "shared", {store!r}, bridge_list=("h1", "h2")))
try:
    driver.cp({path!r}, CopyOptions("os", bandwidth=1 << 20))
except VmstoreError as error:
    print(type(error).__name__, error)
"""


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """Return the engine, as installed by the module opennebula_drivers."""
    (directory := tmp_path / "library").mkdir()
    (directory / "granary_vmstore").symlink_to(ROOT / "plugins" / "module_utils")
    return directory


@pytest.fixture
def copying(bridges: Any, library: Path, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Start a process that copies an image slowly, and wait for the first bytes at the destination."""
    (path := tmp_path / "big").write_bytes(random.Random(2).randbytes(64 * MIB))
    program = SLOW.format(library=str(library), store=str(bridges.store), path=str(path))
    process = subprocess.Popen([sys.executable, "-I", "-c", program], stdout=subprocess.PIPE, text=True)
    try:
        wait_until(lambda: any(one.stat().st_size > 2 * MIB for one in bridges.data.iterdir()), "nothing arrives")
        assert [name[0] for name in bridges.stored()] == ["."]
        yield process
    finally:
        process.kill()
        process.communicate()


def bridge_processes() -> list[int]:
    """Return the processes on the bridges of this test.

    No other processes have this command line.
    """
    return process_ids("^python3 -ISXutf8 -c import os,sys,zlib;")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_front_end_that_ends_leaves_nothing(bridges: Any, copying: subprocess.Popen[str], number: int) -> None:
    copying.send_signal(number)
    copying.wait()
    wait_until(lambda: bridges.stored() == [], "the part stays")


@pytest.mark.parametrize("victim", ["client", "server"])
def test_a_connection_that_breaks_leaves_nothing_and_is_not_retried(
    bridges: Any, copying: subprocess.Popen[str], victim: str
) -> None:
    if victim == "client":
        (number,) = process_ids(f"^/usr/bin/ssh -F {bridges.root}/sshd/client")
    else:
        # The server's process of the connection is the parent of the running command.
        (number,) = (
            int(Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()[1])
            for one in bridge_processes()
            if str(bridges.datastores) in Path(f"/proc/{one}/mountinfo").read_text()
        )
    os.kill(number, signal.SIGKILL)
    answer = copying.communicate(timeout=60)[0]
    assert answer.startswith("TransferFailed The connection to the bridge h"), answer
    assert " broke during cp: " in answer
    wait_until(lambda: bridges.stored() == [], "the part stays")
    assert bridges.connections() == 1


def test_a_front_end_that_ends_stops_what_the_bridge_waits_for(bridges: Any, driver: Any, library: Path) -> None:
    """During a download the bridge reads no input from the front-end."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        program = SLOW.format(
            library=str(library), store=str(bridges.store), path=f"http://127.0.0.1:{server.getsockname()[1]}/x"
        )
        process = subprocess.Popen([sys.executable, "-I", "-c", program])
        with server.accept()[0] as connection:
            connection.recv(65536)
            assert len(bridges.stored()) == 1
            process.kill()
            process.wait()
            wait_until(lambda: bridges.stored() == [], "the part stays")


def test_what_is_not_what_was_sent_is_no_image(
    bridges: Any, driver: Any, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(*arguments: Any, **options: Any) -> Iterator[bytes]:
        for piece in whole(*arguments, **options):
            yield piece.replace(RAW[100:110], RAW[100:110][::-1])

    whole = bridge.read_frames
    monkeypatch.setattr(bridge, "read_frames", damaged)
    with refused(
        errors.TransferFailed,
        says="On the bridge h1: What arrived from the front-end is not what it sent: the digests differ.",
    ):
        driver().cp(str(image), OS)
    assert bridges.stored() == []


def test_a_file_that_changes_while_it_is_sent_is_no_image(
    bridges: Any, driver: Any, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = bridge.read_frames

    def meanwhile(descriptor: int, **options: Any) -> Iterator[bytes]:
        with image.open("ab") as file:
            file.write(bytes(512))
        yield from original(descriptor, **options)

    monkeypatch.setattr(bridge, "read_frames", meanwhile)
    with refused(errors.StaleState, names=[image, "verify: false"]):
        driver().cp(str(image), OS)
    wait_until(lambda: not bridges.stored(), "the bridge removed the part")


@pytest.mark.parametrize("action", ["cp", "mkfs", "clone"])
def test_an_image_that_nobody_learns_of_is_removed(
    bridges: Any, driver: Any, image: Path, monkeypatch: pytest.MonkeyPatch, action: str
) -> None:
    """The front-end ends after the image is created and before the result arrives."""
    source = driver().cp(str(image), OS).source
    before = bridges.stored()

    def interrupted(*_arguments: object) -> dict[str, object]:
        assert len(bridges.stored()) == 2
        raise KeyboardInterrupt

    monkeypatch.setattr(session, "read_answer", interrupted)
    calls = {
        "cp": lambda: driver().cp(str(image), OS),
        "mkfs": lambda: driver().mkfs(1, "raw", None),
        "clone": lambda: driver().clone(source, "raw", OS),
    }
    with pytest.raises(KeyboardInterrupt):
        calls[action]()
    wait_until(lambda: bridges.stored() == before, "the image stays")


@pytest.mark.parametrize(
    ("source", "image_format"),
    [
        ("/etc/shadow", "raw"),
        ("{store}/../2/" + "0" * 32, "raw"),
        ("{store}/" + "0" * 31, "raw"),
        ("{store}/" + "0" * 32 + "\n", "raw"),
        ("{store}/" + "0" * 32, "raw\nx"),
        ("{store}/" + "0" * 32, ""),
    ],
)
def test_a_bridge_can_not_name_another_file(
    bridges: Any, driver: Any, monkeypatch: pytest.MonkeyPatch, image: Path, source: str, image_format: str
) -> None:
    source = source.format(store=bridges.store)
    read_answer = session.read_answer

    def lying(*arguments: Any) -> dict[str, Any]:
        answer = read_answer(*arguments)
        action = arguments[1]
        if "result" in answer:
            answer["result"] = (
                source if action == "mkfs" else records.replace(answer["result"], source=source, format=image_format)
            )
        return answer

    monkeypatch.setattr(session, "read_answer", lying)
    calls = [lambda: driver().cp(str(image), OS)] + (
        [lambda: driver().mkfs(1, "raw", None)] if image_format == "raw" else []
    )
    for call in calls:
        with refused(
            errors.CommandFailed, says="The bridge h1 sent an invalid answer to *: no image of the datastore."
        ):
            call()
    wait_until(lambda: bridges.stored() == [], "the image stays")


# Origin of the engine


def test_no_secret_is_on_a_command_line(bridges: Any, library: Path) -> None:
    secret = os.urandom(8).hex()  # no other test on this machine has it
    with socket.create_server(("127.0.0.1", 0)) as server:
        program = SLOW.format(
            library=str(library),
            store=str(bridges.store),
            path=f"http://user:{secret}@127.0.0.1:{server.getsockname()[1]}/x?token={secret}",
        )
        process = subprocess.Popen([sys.executable, "-I"], stdin=subprocess.PIPE, text=True)
        assert process.stdin
        process.stdin.write(program)
        process.stdin.close()
        with server.accept()[0] as connection:
            connection.recv(65536)
            assert process_ids(f"^/usr/bin/ssh -F {bridges.root}/sshd/client")
            words = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.parent.exists()]
            process.kill()
            process.wait()
    assert not any(secret.encode() in word for word in words)


# URLs with the schemes of the front-end's own downloader

BACKUP = "rsync://102//0:0e6658/var/lib/one/datastores/102/21/0e6658/disk.0.0"


@pytest.fixture
def restoring(driver: Any, tmp_path: Path) -> Callable[..., DatastoreDriver]:
    """Return the driver of a front-end whose downloader runs the given script. The bridges have no such program."""

    def make(script: str, *hosts: str) -> DatastoreDriver:
        (path := tmp_path / "downloader.sh").write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return driver(*hosts, settings=Settings(downloader=str(path)))

    return make


@pytest.mark.parametrize("packed", [False, True])
def test_a_backup_is_restored_to_a_bridge(
    bridges: Any, restoring: Any, tmp_path: Path, packed: bool, once: None
) -> None:
    (tmp_path / "x").write_bytes(content := gzip.compress(RAW) if packed else RAW)
    checksums = {"sha256": hashlib.sha256(content).hexdigest()}
    copied = restoring(f"cat '{tmp_path}/x'").cp(BACKUP, CopyOptions("os", checksums=checksums))
    assert (copied.format, copied.size_mb) == ("raw", 4)
    assert bridges.path(copied.source).read_bytes() == RAW


@pytest.mark.parametrize("kind", ["raw", "gzip", "qcow2"])
def test_the_size_of_a_backup_for_a_bridge(bridges: Any, restoring: Any, tmp_path: Path, kind: str, once: None) -> None:
    (tmp_path / "x").write_bytes(gzip.compress(RAW) if kind == "gzip" else RAW)
    if kind == "qcow2":
        shell("qemu-img", "create", "-q", "-f", "qcow2", tmp_path / "x", "4M")
    (temporary := tmp_path / "temporary").touch()
    assert restoring(f"cat '{tmp_path}/x' && rm '{temporary}'").stat(BACKUP) == 4
    assert bridges.stored() == []
    assert not temporary.exists()


def test_a_backup_that_is_refused_leaves_nothing_on_a_bridge(bridges: Any, restoring: Any, tmp_path: Path) -> None:
    shell("qemu-img", "create", "-q", "-f", "qcow2", "-b", "/etc/passwd", "-F", "raw", tmp_path / "x", "4M")
    for script, error, fields in (
        (
            f"cat '{tmp_path}/x'",
            errors.InvalidInput,
            {"option": "path", "value": f"{BACKUP}?...", "names": ["qcow2"]},
        ),
        (
            "head -c 3000000 /dev/zero; echo 'The repository is locked' >&2; exit 1",
            errors.TransferFailed,
            {"says": f"Could not read {BACKUP}?...: * failed: The repository is locked."},
        ),
    ):
        with refused(error, **fields):
            restoring(script).cp(f"{BACKUP}?key=hunter2", OS)
        wait_until(lambda: bridges.stored() == [], "something is left on the bridge")
    with refused(errors.InvalidInput, option="path", value="file:///etc/passwd"):
        restoring("echo x").cp("file:///etc/passwd", OS)


# Directories as images


@pytest.fixture
def shares(bridges: Any) -> Callable[..., DatastoreDriver]:
    """Return the driver virtiofs of a datastore with these hosts in its BRIDGE_LIST.

    The directories to register are in the bridges' directory of datastores.
    """

    def make(*hosts: str, **options: Any) -> DatastoreDriver:
        return VirtiofsDriver(
            Datastore(7, "x", "image", "virtiofs", "virtiofs", "/srv/datastores/7", bridge_list=hosts or ("h1",)),
            **options,
        )

    return make


@pytest.mark.parametrize("name", HOSTILE)
def test_a_directory_of_a_bridge_is_found_and_measured_over_one_connection(
    bridges: Any, shares: Any, once: None, name: str
) -> None:
    (bridges.data / name).mkdir()
    (bridges.data / name / "x").write_bytes(RAW[:MIB])
    assert shares().cp(f"{bridges.store}/{name}", CopyOptions("filesystem")) == CopiedImage(
        f"{bridges.store}/{name}", "dir", 2
    )
    assert bridges.stored() == [name, f"{name}/x"]


def test_a_directory_of_a_bridge_is_not_measured_unless_that_is_wanted(bridges: Any, shares: Any, once: None) -> None:
    (bridges.data / "share").mkdir()
    assert shares("h2").cp(f"{bridges.store}/share", CopyOptions("filesystem", measure=False)) == CopiedImage(
        f"{bridges.store}/share", "dir", 0
    )


def test_a_link_of_a_bridge_is_what_it_leads_to(bridges: Any, shares: Any) -> None:
    (bridges.data / "share").mkdir()
    (bridges.data / "link").symlink_to("share")
    (bridges.data / "etc").symlink_to("/etc")
    assert shares().cp(f"{bridges.store}/link", CopyOptions("filesystem")).source == f"{bridges.store}/share"
    for use in (lambda path: shares().cp(path, CopyOptions("filesystem")), lambda path: shares().stat(path)):
        with refused(errors.PathNotAllowed, option="path", value="/etc"):
            use(f"{bridges.store}/etc")


def test_hosts_that_have_no_such_directory(bridges: Any, shares: Any) -> None:
    with refused(
        errors.InvalidInput,
        says=f"path: '{bridges.store}/none' is not accepted: a directory on the front-end or on a host of the "
        "datastore's bridge_list is expected (the front-end: No such file or directory; h1: no such directory; "
        "dead: ssh: *).",
    ):
        shares("h1", "dead").stat(f"{bridges.store}/none")
    for host in ("noisy", "closed"):
        with refused(errors.CommandFailed, says=f"The host {host} did not print a path: *"):
            shares(host).stat(f"{bridges.store}/none")


def test_what_can_not_be_read_on_a_bridge_does_not_count(
    tenant: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bridge's user has no rights on files of other users."""
    (ssh := tmp_path / "ssh").write_text(
        '#!/bin/sh\nwhile [ "$1" != -- ]; do shift; done\nexec setpriv --bounding-set -all --inh-caps -all sh -c "$3"\n'
    )
    ssh.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    for name in ("private", "share", "share/private"):
        (tenant / name).mkdir(mode=0o700 if "private" in name else 0o755)
        os.chown(tenant / name, tenant.stat().st_uid, -1)
    said: list[str] = []
    for name in ("share", "private"):
        found = look_there("h1", f"{tenant}/{name}", str, Measuring(60, said.append))
        assert found == Directory(f"{tenant}/{name}", 1 if name == "share" else 0, "h1")
    assert len(said) == 2 and all("is without 1 of its files and directories" in line for line in said)


# Driver scripts


def front_end(bridges: Any, library: Path, tmp_path: Path) -> Path:
    """Return the remotes of a front-end, with the drivers of the module opennebula_drivers."""
    (library / "current").symlink_to(".")
    text = launcher(sys.executable, str(library))
    (directory := tmp_path / "one" / "remotes" / "datastore" / "fs").mkdir(parents=True)
    for action in ("cp", "rm", "monitor"):
        (directory / action).write_text(text)
        (directory / action).chmod(0o755)
    return directory


def call(bridges: Any, script: Path, hosts: str, image: str) -> subprocess.CompletedProcess[str]:
    template = f"<BRIDGE_LIST>{hosts}</BRIDGE_LIST><STAGING_DIR>/nowhere</STAGING_DIR>"
    datastore = f"<ID>100</ID><TYPE>0</TYPE><BASE_PATH>{bridges.store}</BASE_PATH><TEMPLATE>{template}</TEMPLATE>"
    xml = f"<DATASTORE>{datastore}</DATASTORE><IMAGE><TYPE>0</TYPE>{image}</IMAGE>"
    encoded = base64.b64encode(f"<DS_DRIVER_ACTION_DATA>{xml}</DS_DRIVER_ACTION_DATA>".encode()).decode()
    done = subprocess.run([script, "7"], input=encoded, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    return done


def test_driver_scripts(bridges: Any, library: Path, image: Path, tmp_path: Path) -> None:
    scripts = front_end(bridges, library, tmp_path)
    bridges.data.rmdir()  # the first monitoring creates it
    assert call(bridges, scripts / "monitor", "h1 h2", "").stdout.startswith("USED_MB=")
    assert bridges.data.is_dir()
    done = call(bridges, scripts / "cp", "h1 h2", f"<PATH>{escape(str(image))}</PATH>")
    source, image_format = done.stdout.split()
    assert re.fullmatch("INFO: .* is stored as a raw disk, though nothing in it is recognised .*\n", done.stderr), (
        "the bridge's warning, in one line"
    )
    assert image_format == "raw"
    assert bridges.path(source).read_bytes() == RAW
    assert call(bridges, scripts / "rm", "h2\n h1", f"<SOURCE>{source}</SOURCE>").returncode == 0
    assert bridges.stored() == []
    failed = call(bridges, scripts / "cp", "bare dead", f"<PATH>{escape(str(image))}</PATH>")
    assert (failed.returncode, failed.stdout) == (1, "")
    message = [line for line in failed.stderr.splitlines() if not line.startswith("INFO: ")]
    assert len(message) == 1 and message[0].startswith("cp needs a host of the datastore's BRIDGE_LIST")
    assert failed.stderr.count("INFO: the bridge ") == 2


def test_an_engine_in_a_zip_file(bridges: Any, image: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "engine.zip", "w") as archive:
        for path in (ROOT / "plugins" / "module_utils").rglob("*.py"):
            archive.write(path, f"granary_vmstore/{path.relative_to(ROOT / 'plugins' / 'module_utils')}")
        for package in (ROOT / "plugins" / "module_utils").rglob("_*/"):
            archive.writestr(
                f"granary_vmstore/{package.relative_to(ROOT / 'plugins' / 'module_utils')}/__init__.py", ""
            )
        archive.writestr("granary_vmstore/_driver/datastore/__init__.py", "")
        archive.writestr("granary_vmstore/__init__.py", "")
    program = SLOW.format(library=str(tmp_path / "engine.zip"), store=str(bridges.store), path=str(image))
    done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")
    (name,) = bridges.stored()
    assert (bridges.data / name).read_bytes() == RAW


def test_an_engine_in_a_module_of_ansible(bridges: Any, tmp_path: Path) -> None:
    (tmp_path / "catalog").mkdir()
    catalog = str(tmp_path / "catalog" / "catalog.sqlite")
    wish = {
        "name": "fs",
        "ds_driver": "fs",
        "tm_driver": "shared",
        "base_path": str(bridges.store),
        "bridge_list": ["h1"],
        "catalog": catalog,
    }
    answer = tmp_path / "answer.json"
    tasks = [
        {"granary.vmstore.datastore": wish},
        {"granary.vmstore.datastore_info": {"name": "fs", "catalog": catalog}, "register": "found"},
        {"ansible.builtin.copy": {"content": "{{ found | to_json }}", "dest": str(answer), "mode": "0600"}},
    ]
    (playbook := tmp_path / "play.json").write_text(
        json.dumps([{"hosts": "localhost", "gather_facts": False, "tasks": tasks}])
    )
    command = [
        str(Path(sys.executable).with_name("ansible-playbook")),
        "-i",
        "localhost,",
        "-c",
        "local",
        str(playbook),
    ]
    done = ansible_process.run([*command, "-e", f"ansible_python_interpreter={sys.executable}"])
    assert done.returncode == 0, done.stdout
    (found,) = json.loads(answer.read_text())["datastores"]
    assert found["monitor_error"] is None
    assert found["total_mb"] > 0
    assert bridges.connections() == 2  # the first query returns the size of the datastore, the second its content


def test_actions_without_bridges_do_not_load_it(library: Path) -> None:
    program = (
        f"import sys; sys.path.insert(0, {str(library)!r})\n"
        "from granary_vmstore._driver.datastore.registry import new_driver\n"
        "from granary_vmstore._model.datastore import Datastore\n"
        f"new_driver(Datastore(1, 'x', 'image', 'fs', 'shared', '/nowhere')).stat({str(library)!r})\n"
        "print([name for name in sys.modules if 'bridge' in name or '_remote' in name])"
    )
    assert shell(sys.executable, "-I", "-c", program) == "[]\n"
