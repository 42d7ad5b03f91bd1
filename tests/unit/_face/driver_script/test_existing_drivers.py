# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Defects of the datastore drivers that are part of a front-end.

For each defect, a test with its name shows the correct behaviour of our drivers.
"""

from __future__ import annotations

import gzip
import http.server
import os
import random
import re
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._face.driver_script import datastore_action

MIB = 2**20
RAW = random.Random(1).randbytes(MIB)
NAME = "0123456789abcdef0123456789abcdef"
TMPFS = (
    "unshare",
    "-m",
    "sh",
    "-ec",
    'mount -t tmpfs -o size=16m tmpfs "$0"; "$@"; rc=$?; [ -z "$(ls -A "$0")" ] || echo left >&2; exit $rc',
)


@pytest.fixture
def image(scripts: Any) -> Path:
    (path := scripts.files / "raw.img").write_bytes(RAW)
    return path


def trace_calls(scripts: Any, calls: str, action: str, **elements: object) -> list[str]:
    """Return the system calls of a successful action, in order."""
    log = scripts.files.parent / "strace"
    done = scripts(
        action,
        within=["strace", "-f", "-qq", "-y", "-s", "4096", "-e", f"trace={calls}", "-e", "signal=none", "-o", log],
        **elements,
    )
    assert done.returncode == 0, done.stderr
    return log.read_text().splitlines()


# Paths and names


@pytest.mark.parametrize("image_format", [None, "raw", "qcow2"])
def test_the_restricted_file_that_a_qcow2_image_names_as_its_backing_file_becomes_the_image(
    scripts: Any, image_format: str | None
) -> None:
    path = scripts.files / "x.qcow2"
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-b", "/etc/passwd", "-F", "raw", path, "1M"], check=True
    )
    done = scripts("cp", I_PATH=path, DT_DRIVER=image_format)
    assert (done.returncode, scripts.stored()) == (1, [])
    assert "has a backing file" in done.stderr


@pytest.mark.parametrize(
    "text",
    ["$(touch ran)", "`touch ran`", "x;touch ran", "x'$(touch ran)'", 'x"$(touch ran)"', "x|touch ran", "x\ntouch ran"],
)
def test_commands_in_texts_are_run(scripts: Any, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    (directory := scripts.files.parent / "run").mkdir()
    monkeypatch.chdir(directory)
    (scripts.files / text.replace("\n", "-")).mkdir()
    blank = {"I_FORMAT": "raw", "I_SIZE": 16, "I_TARGET_SNAPSHOT": 0}
    for action, elements in (
        ("mkfs", {"I_FS": f"ext4{text}"}),
        ("mkfs", {"I_SIZE": text}),
        ("mkfs", {"I_FORMAT": text}),
        ("cp", {"I_PATH": f"http://127.0.0.1:1/{text}"}),
        ("cp", {"I_PATH": f"ssh://127.0.0.1:1/{text}"}),
        ("cp", {"I_PATH": f"/{text}"}),
        ("cp", {"I_PATH": "/x", "IT_MD5": text}),
        ("cp", {"I_PATH": "/x", "DT_LIMIT_TRANSFER_BW": text}),
        ("clone", {"I_PATH": f"{scripts.store}/{text}"}),
        ("rm", {"I_SOURCE": f"{scripts.store}/{text}"}),
        ("snap_delete", {"I_SOURCE": f"{scripts.store}/{NAME}", "I_TARGET_SNAPSHOT": text}),
        ("monitor", {"D_BASE_PATH": f"{scripts.files}/missing/{text}"}),
    ):
        assert scripts(action, **{**blank, **elements}).returncode == 1
    done = scripts("stat", name="virtiofs", I_PATH=f"{scripts.files}/{text}")
    assert done.returncode == (1 if "\n" in text else 0), done.stderr
    scripts("cp", name="virtiofs", I_PATH=f"{scripts.files}/{text}", I_TYPE=7)
    assert (os.listdir(directory), scripts.stored()) == ([], [])


def test_a_blank_in_a_path_shares_another_directory(scripts: Any) -> None:
    (scripts.files / "a").mkdir()
    (scripts.files / "a b").mkdir()
    done = scripts("cp", name="virtiofs", I_PATH=scripts.files / "a b", I_TYPE=7)
    assert (done.returncode, done.stdout) == (1, "")
    assert scripts("stat", name="virtiofs", I_PATH=scripts.files / "a b", I_TYPE=7).returncode == 0


def test_what_begins_like_a_safe_directory_is_safe(scripts: Any) -> None:
    (evil := scripts.files.parent / "files-evil").mkdir()
    (evil / "x").write_bytes(RAW)
    allowed = {"DT_RESTRICTED_DIRS": "/", "DT_SAFE_DIRS": scripts.files}
    done = scripts("cp", I_PATH=evil / "x", **allowed)
    assert (done.returncode, scripts.stored()) == (1, [])
    assert scripts("cp", name="virtiofs", I_PATH=evil, I_TYPE=7, **allowed).returncode == 1


@pytest.mark.parametrize("path", ["/", "/var", "/var/lib", "/usr"])
def test_a_directory_that_holds_restricted_ones_is_accepted(scripts: Any, path: str) -> None:
    done = scripts("cp", name="virtiofs", I_PATH=path, I_TYPE=7, DT_RESTRICTED_DIRS="/var/lib/one", DT_SAFE_DIRS=path)
    assert (done.returncode, done.stdout) == (1, "")
    assert "it is or contains the restricted directory" in done.stderr


def test_a_link_is_stored_and_not_what_it_led_to(scripts: Any) -> None:
    (scripts.files / "real").mkdir()
    (scripts.files / "link").symlink_to("real")
    assert (
        scripts("cp", name="virtiofs", I_PATH=scripts.files / "link", I_TYPE=7).stdout == f"{scripts.files}/real dir\n"
    )


# Data


@pytest.mark.parametrize(
    ("elements", "content"),
    [
        ({"IT_MD5": "0" * 32}, RAW),
        ({}, RAW * 20),
        ({"DT_DRIVER": "qcow2"}, RAW * 10),
        ({}, gzip.compress(bytes(64 * MIB))),
        ({}, gzip.compress(RAW)[:-9]),
    ],
    ids=["checksum", "no space", "no space to convert", "bomb", "truncated"],
)
def test_a_cp_that_fails_leaves_its_files(
    scripts: Any, image: Path, elements: dict[str, object], content: bytes
) -> None:
    """The file system has 16 MiB."""
    image.write_bytes(content)
    done = scripts("cp", within=[*TMPFS, scripts.store], I_PATH=image, **elements)
    assert (done.returncode, done.stdout) == (1, "")


@pytest.mark.parametrize("action", ["cp", "mkfs", "clone"])
def test_neither_the_file_nor_its_directory_is_synced(scripts: Any, image: Path, action: str) -> None:
    (scripts.store / NAME).write_bytes(RAW)
    path = scripts.store / NAME if action == "clone" else image
    calls = trace_calls(
        scripts, "fsync,fdatasync,rename,renameat,renameat2", action, I_PATH=path, I_FORMAT="raw", I_SIZE=1
    )
    (source,) = {entry for entry in scripts.stored() if entry != NAME}
    renamed = next(number for number, call in enumerate(calls) if "rename" in call and f'"{source}"' in call)
    assert any(
        re.search(rf"f(data)?sync\(\d+<{re.escape(str(scripts.store))}/\.[0-9a-f]{{32}}\.part>\)", call)
        for call in calls[:renamed]
    )
    assert any(f"<{scripts.store}>" in call for call in calls[renamed + 1 :])


def test_a_revert_removes_the_image_before_it_copies_the_snapshot(scripts: Any) -> None:
    (scripts.store / NAME).write_bytes(RAW)
    (scripts.store / f"{NAME}.snap").mkdir()
    (scripts.store / f"{NAME}.snap" / "0").write_bytes(RAW[::-1])
    elements = {"I_SOURCE": scripts.store / NAME, "I_FORMAT": "raw", "I_TARGET_SNAPSHOT": 0}
    calls = trace_calls(
        scripts, "rename,renameat,renameat2,unlink,unlinkat,truncate,ftruncate", "snap_revert", **elements
    )
    touched = [call for call in calls if f'"{NAME}"' in call]
    assert len(touched) == 1 and re.search(rf'rename\w*\(.*\.part", .*"{NAME}"', touched[0]), touched
    assert (scripts.store / NAME).read_bytes() == RAW[::-1]


@pytest.mark.parametrize("action", ["rm", "snap_delete"])
def test_what_is_removed_already_is_an_error(scripts: Any, action: str) -> None:
    (scripts.store / NAME).write_bytes(RAW)
    (scripts.store / f"{NAME}.snap").mkdir()
    for number in ("0", "1"):
        (scripts.store / f"{NAME}.snap" / number).write_bytes(RAW)
    for _time in range(2):
        assert scripts(action, I_SOURCE=scripts.store / NAME, I_FORMAT="raw", I_TARGET_SNAPSHOT=0).returncode == 0
        assert scripts.stored() == ([] if action == "rm" else [NAME, f"{NAME}.snap", f"{NAME}.snap/1"])


# Monitoring


def test_a_document_of_more_than_128_kib_gives_the_figures_of_another_file_system(scripts: Any) -> None:
    for size in (0, 200 << 10, 4 << 20):
        done = scripts("monitor", within=[*TMPFS, scripts.store], IT_NOTE="x" * size)
        assert (done.returncode, done.stdout) == (0, "USED_MB=0\nFREE_MB=16\nTOTAL_MB=16\n")


def test_a_hung_file_server_blocks_it_for_ever(scripts: Any) -> None:
    script = scripts.path("monitor")
    # The same script with a shorter timeout.
    module = datastore_action.__name__
    script.write_text(
        script.read_text().replace("launch()\n", f"import {module} as action\naction.MONITOR_TIMEOUT = 0.5\nlaunch()\n")
    )
    hung = Path(__file__).parents[3] / "hung_mount.py"
    done = subprocess.run(
        [sys.executable, hung, scripts.store, "fuse", script, "7"],
        input=scripts.document(),
        capture_output=True,
        check=False,
        timeout=110,
    )
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr == b"The command 'stat' did not end within 0.5 seconds and was stopped.\n"


# HTTP, and costs of the actions


class Missing(http.server.BaseHTTPRequestHandler):
    asked: list[str] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_error(404)

    def log_message(self, *_args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[http.server.ThreadingHTTPServer]:
    """Start a server without any files."""
    Missing.asked.clear()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Missing) as server:
        (thread := threading.Thread(target=server.serve_forever)).start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("action", ["cp", "stat"])
def test_what_is_not_there_is_asked_for_again_and_again(
    scripts: Any, server: http.server.ThreadingHTTPServer, action: str
) -> None:
    done = scripts(action, I_PATH=f"http://127.0.0.1:{server.server_port}/x")
    assert done.returncode == 1
    assert "404" in done.stderr
    assert Missing.asked == ["/x"]


def test_the_certificate_of_a_server_is_not_verified(
    scripts: Any, server: http.server.ThreadingHTTPServer, tmp_path: Path
) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "1",
        "-keyout",
        key,
        "-out",
        certificate,
        *subject,
    ]
    subprocess.run(command, capture_output=True, check=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    done = scripts("cp", I_PATH=f"https://127.0.0.1:{server.server_port}/x")
    assert "certificate" in done.stderr
    assert Missing.asked == []
    trusting = scripts(
        "cp", I_PATH=f"https://127.0.0.1:{server.server_port}/x", environment={"SSL_CERT_FILE": str(certificate)}
    )
    assert "404" in trusting.stderr


def test_a_cp_starts_a_hundred_processes(scripts: Any, image: Path) -> None:
    assert [
        call
        for call in trace_calls(scripts, "fork,vfork,clone,clone3", "cp", I_PATH=image)
        if "CLONE_THREAD" not in call
    ] == []
