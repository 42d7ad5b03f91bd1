# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Programs of this collection, started without some of the descriptors 0, 1 and 2."""

from __future__ import annotations

import io
import itertools
import shlex
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._driver.datastore import bridge_protocol
from ansible_collections.granary.vmstore.plugins.module_utils._host.virtiofsd import (
    wrapper as virtiofsd_wrapper,
)
from ansible_collections.granary.vmstore.plugins.module_utils._remote import engine, session

UTILS = "ansible_collections.granary.vmstore.plugins.module_utils"

#: Program that writes the targets of the descriptors 0 to 2 and of a newly opened file to a file.
REPORT = """
import os, sys
other = os.open("/etc/passwd", os.O_RDONLY)
lines = [os.readlink(f"/proc/self/fd/{number}").split(":")[0] for number in (0, 1, 2, other)]
with open(sys.argv[1], "w") as file:
    print(*lines, file=file)
"""

CLOSED = [closed for length in range(4) for closed in itertools.combinations((0, 1, 2), length)]


def report(tmp_path: Path, code: str, closed: tuple[int, ...]) -> list[str]:
    command = f"exec {shlex.quote(sys.executable)} -c {shlex.quote(code + REPORT)} {tmp_path}/report " + " ".join(
        f"{number}>&-" for number in closed
    )
    done = subprocess.run(["sh", "-c", command], input=b"{}", capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    return (tmp_path / "report").read_text().split()


@pytest.mark.parametrize("closed", CLOSED)
@pytest.mark.parametrize(
    "code",
    [
        f"from {UTILS}._core.descriptors import open_standard_descriptors\nopen_standard_descriptors()",
        f"from {UTILS}._host.virtiofsd.wrapper import main\nassert main([], lambda arguments: None) == 1",
        f"from {UTILS}._face.ansible import _Module\nfrom ansible.module_utils import basic\n"
        f"basic._ANSIBLE_ARGS = b'{{\"ANSIBLE_MODULE_ARGS\": {{}}}}'\nbasic._ANSIBLE_PROFILE = "
        f"'legacy'\n_Module(argument_spec={{}})",
    ],
    ids=["script", "wrapper", "module"],
)
def test_no_other_file_gets_their_numbers(tmp_path: Path, code: str, closed: tuple[int, ...]) -> None:
    assert report(tmp_path, code, closed) == [
        *("/dev/null" if number in closed else "pipe" for number in (0, 1, 2)),
        "/etc/passwd",
    ]


def test_what_is_closed_can_neither_be_read_nor_written(tmp_path: Path) -> None:
    code = f"""from {UTILS}._core.descriptors import open_standard_descriptors
open_standard_descriptors()
import os
for use in (lambda: os.read(0, 1), lambda: os.write(1, b"x")):
    try:
        use()
        raise SystemExit("no error")
    except OSError:
        pass
os.write(2, b"x")
"""
    report(tmp_path, code, (0, 1, 2))


def test_a_refusal_of_the_wrapper_without_standard_error() -> None:
    command = f"exec {shlex.quote(sys.executable)} {shlex.quote(virtiofsd_wrapper.__file__)} --shared-dir=/nowhere 2>&-"
    assert subprocess.run(["sh", "-c", command], check=False).returncode == 1


@pytest.mark.parametrize(("closed", "what"), [("", "pipe"), ("2>&-", "/dev/null")])
def test_the_engine_of_a_bridge_gets_no_messages(closed: str, what: str) -> None:
    with io.BytesIO() as file:
        with zipfile.ZipFile(file, "w") as archive:
            for name in ("__init__", "_driver/__init__", "_driver/datastore/__init__"):
                archive.writestr(f"{engine.ENGINE}/{name}.py", "")
            archive.writestr(
                f"{engine.ENGINE}/_driver/datastore/bridge_protocol.py",
                "import os\ndef serve(stdin): print(os.readlink('/proc/self/fd/2').split(':')[0])\n",
            )
        code = zlib.compress(file.getvalue())
    done = subprocess.run(
        ["sh", "-c", f"{session.command_for(bridge_protocol.__name__)} {closed}"],
        input=b"%d\n%b" % (len(code), code),
        capture_output=True,
        check=True,
    )
    assert done.stdout.decode().split("\n") == [session.READY, what, ""]
