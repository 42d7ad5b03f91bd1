# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""Every block of the pages is run by a test, word by word except for names, or is listed here with a reason."""

from __future__ import annotations

import ast
import re

import yaml
from documentation import ROOT, blocks_of, files_of, read_blocks

Key = tuple[str, str, int]

#: Reasons for the blocks that no test runs.
FRAGMENTS: dict[Key, str] = {
    (
        "CONTRIBUTING.md",
        "Pinned tools",
        0,
    ): "renews the lock files, and so changes the checkout by what the package index has today",
    ("README.md", "A whole site", 1): "what script/demo prints: test_the_demo_of_readme_is_what_it_prints compares it",
    (
        "docs/images.md",
        "Where data comes from",
        0,
    ): "needs the https server of a site; test_image_urls.py runs one with these options",
    (
        "docs/images.md",
        "Where data comes from",
        1,
    ): "needs a volume group of this name; test_block_device.py has loop devices",
    (
        "docs/shared-storage.md",
        "A whole site",
        0,
    ): "names hosts of a site; molecule/shared runs these variables on a lab",
    (
        "roles/shared_mount/README.md",
        "granary.vmstore.shared_mount",
        0,
    ): "names hosts of a site; molecule/shared runs the role with these options",
    (
        "docs/simulated_datastore_tutorial.md",
        "Install",
        0,
    ): "clones the published repository, and installs what .venv has",
    (
        "docs/testing.md",
        "Install",
        0,
    ): "clones the published repository and installs on this machine; its last line is that of README.md",
    (
        "docs/virtiofs.md",
        "Space and inodes",
        0,
    ): "needs a kernel with project quotas, which machines for tests often lack",
    (
        "docs/virtiofs.md",
        "Space and inodes",
        1,
    ): "needs a kernel with CONFIG_XFS_QUOTA, which machines for tests often lack",
    (
        "roles/simulated_datastore/README.md",
        "granary.vmstore.simulated_datastore",
        0,
    ): "molecule/simulated_datastore runs the role, with directories of its own",
    (
        "tests/harness/README.md",
        "Install",
        0,
    ): "installs on this machine; script/lib.sh does the same with pinned versions",
    (
        "tests/harness/README.md",
        "In pytest",
        0,
    ): "the fixture is that of all tests in tests/integration; a lab more would cost half a minute",
    (
        "roles/simulated_datastore/README.md",
        "Test a role without changes",
        0,
    ): "has the role of a user in it; test_mount_helpers.py mounts as such a role does",
    (
        "tests/harness/README.md",
        "Containers, and without root",
        0,
    ): "begins a shell; the tests of the simulated datastore give it a directory of their own",
    (
        "tests/harness/README.md",
        "Test a role without changes",
        0,
    ): "installs helpers for mount(8); test_mount_helpers.py does so in a place of its own",
    (
        "tests/harness/README.md",
        "The simulated datastore",
        0,
    ): "installs on this machine; script/lib.sh does the same with pinned versions",
    (
        "tests/harness/README.md",
        "The simulated datastore",
        1,
    ): "test_command_line.py runs these commands, with directories of its own",
    (
        "tests/harness/README.md",
        "The datastore in pytest",
        0,
    ): "parts are left out of it; test_fixtures.py runs each of these fixtures",
}


def find_blocks_in_tests() -> set[Key]:
    """Return the blocks that tests run, according to the calls of block() and files_of() in the tests."""
    found: set[Key] = set()
    tests = [
        path for folder in ("integration", "harness/tests") for path in (ROOT / "tests" / folder).rglob("test_*.py")
    ]
    for path in tests:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("block", "files_of"):
                arguments = [ast.literal_eval(one) for one in node.args]
                if node.func.id == "block":
                    found.add((*arguments, 0)[:3])
                else:
                    found |= {one.key for one in files_of(*arguments).values()}
    return found


def test_every_block_is_run_or_has_a_reason() -> None:
    keys = {one.key for one in read_blocks()}
    assert find_blocks_in_tests() | FRAGMENTS.keys() == keys
    assert find_blocks_in_tests() & FRAGMENTS.keys() == set()


def test_the_demo_of_readme_is_what_it_prints() -> None:
    """molecule/virtiofs compares the files of the demo with the same table."""
    plays = yaml.safe_load((ROOT / "molecule" / "virtiofs" / "verify.yml").read_text())
    table = {row["what"]: str(row["expected"]) for row in plays[1]["vars"]["verify_table"]}
    shown = next(one.text for one in read_blocks() if one.key == ("README.md", "A whole site", 1))
    rows = [line for line in shown.splitlines() if line.startswith("  ") and line.strip() != "..."]
    assert len(rows) > 5
    for row in rows:
        what = next(name for name in table if row.strip().startswith(name))
        assert row.strip().removeprefix(what).strip() == table[what]


PAGE = """# Title
Text:

    indented

    more
- an item

    of the list

```yaml
a: 1
```
## Next

`a/b.yml`:

```
    x
```
"""


def test_every_class_of_errors_is_documented() -> None:
    tree = ast.parse((ROOT / "plugins/module_utils/_core/errors.py").read_text())
    raised = [one.name for one in tree.body if isinstance(one, ast.ClassDef) and one.bases]
    page = (ROOT / "docs/errors.md").read_text().partition("## Classes")[2]
    assert sorted(re.findall(r"^\| `(\w+)`", page, re.MULTILINE)) == sorted(raised)


def test_blocks_are_fenced_or_indented() -> None:
    found = [(one.heading, one.number, one.language, one.text, one.before) for one in blocks_of("page", PAGE)]
    assert found == [
        ("Title", 0, "", "indented\n\nmore\n", "Text:"),
        ("Title", 1, "yaml", "a: 1\n", "of the list"),
        ("Next", 0, "", "    x\n", "`a/b.yml`:"),
    ]
