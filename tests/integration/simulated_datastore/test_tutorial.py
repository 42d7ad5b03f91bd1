# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""docs/simulated_datastore_tutorial.md, word by word, on a copy of this machine's file system: nothing of it is seen outside."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "docs" / "simulated_datastore_tutorial.md"

#: Mount and process ids are those of a namespace, and directories that the page changes are overlays. /etc is copied because it may have files mounted in it.
NAMESPACE = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation=slave", "bash", "-euc"]
SETUP = """
mount -t tmpfs none /mnt
for directory in "$@"; do
    mkdir -p "/mnt/kept$directory"
    mount --bind "$directory" "/mnt/kept$directory"
done
cp -a /etc /mnt/etc
mount --bind /mnt/etc /etc
for directory in /opt /usr /var "$0"; do
    mkdir -p /mnt/up$directory /mnt/work$directory
    mount -t overlay overlay -o lowerdir=$directory,upperdir=/mnt/up$directory,workdir=/mnt/work$directory $directory
done
# A datastore's directory can't be in an overlay.
mount -t tmpfs none /srv
mount -t tmpfs none /tmp
# Wherever these directories are: an overlay doesn't show what is mounted below its lower directory.
for directory in "$@"; do
    mkdir -p "$directory"
    mount --bind "/mnt/kept$directory" "$directory"
done
mount -t tmpfs none /mnt
mkdir -p /run/simulated-datastore
mount -t tmpfs none /run/simulated-datastore
mount -t tmpfs none /run/lock
"""
#: What the page must leave as it was.
LOOK = "cat /etc/fstab; ls -d /opt/* /usr/local/bin/* /sbin/mount* /srv/* /mnt/* /tmp/* /run/simulated-datastore/* 2>/dev/null || true"


@dataclass
class Block:
    """A block of code: the paragraph above it, its language, its lines, and the lines of the block of text that shows what it prints."""

    before: str
    language: str
    lines: list[str] = field(default_factory=list)
    printed: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "\n".join(self.lines) + "\n"

    @property
    def file(self) -> str | None:
        """The name of the file that it is."""
        name = re.search(r"`(backup_storage/[\w./-]+)`", self.before)
        return name and name[1]


def read_page() -> list[Block]:
    found: list[Block] = []
    before, inside = "", None
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line == "```":
            inside, before = None, ""
        elif inside is not None:
            inside.append(line)
        elif line == "```text":
            inside = found[-1].printed
        elif line.startswith("```"):
            found.append(Block(before, line[3:]))
            inside = found[-1].lines
        elif line:
            before = line
    return found


def script(commands: list[Block]) -> str:
    """All commands in one shell, as a user runs them. The paragraph above a block says that it fails."""
    parts = []
    for number, block in enumerate(commands):
        text = f"if\n{block.text}then echo 'It did not fail.'; exit 1; fi\n" if "fails" in block.before else block.text
        parts.append(f"echo '=== {number}'\n{text}")
    return "".join(parts)


def test_the_page_works_word_by_word(tmp_path: Path) -> None:
    if shutil.which("unshare") is None:
        pytest.fail("unshare is missing: install util-linux.")
    blocks = read_page()
    for block in blocks:
        if block.file is not None:
            path = tmp_path / block.file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, encoding="utf-8")
    # The first commands install packages, which are there, and Molecule, which .venv has.
    _packages, build, *commands = (block for block in blocks if block.file is None)
    assert "molecule" in _packages.text
    assert "collection install" in build.text
    assert len(commands) == 6
    names = subprocess.run(["git", "ls-files", "-coz", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True).stdout
    checkout = tmp_path / "vmstore"
    checkout.mkdir()
    copy = f"tar --create --null --ignore-failed-read --files-from - | tar --extract --directory {checkout}"
    subprocess.run(["sh", "-c", copy], cwd=ROOT, input=names, check=True)
    home = pwd.getpwuid(0).pw_dir
    text = f"{SETUP}\n({LOOK}) >{tmp_path}/before\n(cd {checkout}\n{build.text})\n{script(commands)}\ncd /\n({LOOK}) | diff {tmp_path}/before -\n"
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("ANSIBLE_", "MOLECULE_", "PYTHON", "TMPDIR"))}
    environment |= {
        "HOME": home,
        "PATH": f"{Path(sys.executable).parent}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "NO_COLOR": "1",
        "LC_ALL": "C.UTF-8",
    }
    done = subprocess.run(
        [*NAMESPACE, text, home, ROOT, tmp_path],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout
    outputs = re.split(r"^=== \d+\n", done.stdout, flags=re.MULTILINE)[1:]
    for block, output in zip(commands, outputs, strict=True):
        position = 0
        for line in block.printed:
            # In this order.
            position = output.find(line, position)
            assert position >= 0, f"{line!r} is missing after {block.text}:\n{output}"
            position += len(line)
