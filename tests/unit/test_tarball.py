# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""The archive for Ansible Galaxy holds the files that users need, and no others."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]

#: Directories and files of the checkout that users need.
NEEDED = (
    "CHANGELOG.md",
    "CODE_OF_CONDUCT.md",
    "CONTRIBUTING.md",
    "COPYING",
    "LICENSES/",
    "README.md",
    "changelogs/changelog.yaml",
    "docs/",
    "examples/",
    "meta/runtime.yml",
    "playbooks/",
    "plugins/",
    "roles/",
    # The program that the role simulated_datastore installs on hosts.
    "tests/harness/simulated_datastore/",
)
#: Exceptions: settings of our build of the documentation.
LEFT_OUT = {"docs/docsite/conf.py"}
#: Files that ansible-galaxy creates.
MADE = {"MANIFEST.json", "FILES.json"}


def list_tracked() -> list[str]:
    command = ["git", "-C", ROOT, "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split("\0")
    return [name for name in names if name and (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of the unpacked archive, built from a checkout with typical leftovers of development."""
    checkout, unpacked = tmp_path_factory.mktemp("checkout"), tmp_path_factory.mktemp("unpacked")
    leftovers = [".cache/a", ".venv/b", ".ansible/c", "plugins/modules/__pycache__/image.cpython-311.pyc", "x.tar.gz"]
    for name in list_tracked():
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).write_bytes((ROOT / name).read_bytes())
    for name in leftovers:
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).touch()
    command = ["ansible-galaxy", "collection", "build", "--output-path", unpacked, checkout]
    subprocess.run(command, check=True, stdout=subprocess.PIPE)
    (archive,) = unpacked.glob("*.tar.gz")
    subprocess.run(["tar", "--extract", "--file", archive, "--directory", unpacked], check=True)
    archive.unlink()
    return unpacked


def test_the_archive_holds_what_users_need(packed: Path) -> None:
    expected = {name for name in list_tracked() if name.startswith(NEEDED)} - LEFT_OUT
    found = {path.relative_to(packed).as_posix() for path in packed.rglob("*") if path.is_file()}
    assert sorted(found - MADE - expected) == []
    assert sorted(expected - found) == []


def test_the_role_finds_the_program_that_it_installs(packed: Path) -> None:
    """The role has the program's path relative to itself in the collection."""
    role = packed / "roles" / "simulated_datastore"
    harness = yaml.safe_load((role / "vars" / "main.yml").read_text())["simulated_datastore_harness"]
    directory = harness.replace("{{ role_path | dirname | dirname }}", str(packed))
    assert (Path(directory) / "simulated_datastore" / "__main__.py").is_file()
