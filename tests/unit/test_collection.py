# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""Consistency of the collection's own files."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from ansible_collections.granary.vmstore.plugins.module_utils._service.image.images import IMAGE_SPEC

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted(path.stem for path in (ROOT / "plugins" / "modules").glob("*.py") if path.stem != "__init__")
# Data, texts and files whose format has no comments.
UNMARKED_SUFFIXES = {".json", ".md", ".rst", ".txt", ".xml"}
# The license itself, and files that antsibull-changelog writes.
UNMARKED_NAMES = {"COPYING", "changelog.yaml"}


def list_tracked() -> list[Path]:
    names = subprocess.run(
        ["git", "-C", ROOT, "ls-files", "-z"], capture_output=True, check=True, text=True
    ).stdout.split("\0")
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


def test_the_action_group_lists_every_module() -> None:
    runtime = yaml.safe_load((ROOT / "meta" / "runtime.yml").read_text())
    assert runtime["action_groups"] == {"vmstore": MODULES}


@pytest.mark.parametrize("module", MODULES)
def test_a_module_documents_the_action_group(module: str) -> None:
    text = (ROOT / "plugins" / "modules" / f"{module}.py").read_text()
    assert "  - granary.vmstore._attributes.actiongroup_vmstore\n" in text


def read_block(module: str, name: str) -> str:
    """Return a block of a module's documentation as written in the file, without fragments."""
    text = (ROOT / "plugins" / "modules" / f"{module}.py").read_text()
    return re.search(rf'^{name} = r"""\n(.*?)^"""', text, re.DOTALL | re.MULTILINE)[1]


def test_each_option_is_documented_once() -> None:
    """The elements of ``images`` have the options of the module, and ``ansible-doc`` printed them twice."""
    shown = subprocess.run(
        ["ansible-doc", "--json", "granary.vmstore.image"], check=True, stdout=subprocess.PIPE
    ).stdout
    options = json.loads(shown)["granary.vmstore.image"]["doc"]["options"]
    assert "suboptions" not in options["images"]
    assert options.keys() == IMAGE_SPEC.argument_spec.keys()


def test_an_option_of_several_modules_is_documented_in_a_fragment() -> None:
    homes: dict[str, list[str]] = {}
    for module in MODULES:
        for name, option in yaml.safe_load(read_block(module, "DOCUMENTATION")).get("options", {}).items():
            text = f"{name}: {json.dumps(option, sort_keys=True)}"
            if len(text) > 150:  # a short text is easier to read than a fragment's name
                homes.setdefault(text, []).append(module)
    assert {text: modules for text, modules in homes.items() if len(modules) > 1} == {}


def test_actions_are_documented_alike() -> None:
    """Fragments can't contain return values of a module."""
    found = {}
    for module in MODULES:
        returned = yaml.safe_load(read_block(module, "RETURN")).get("actions")
        if returned:
            found[module] = {key: value for key, value in returned.items() if key != "sample"}
    assert len(found) > 5
    assert [module for module, documented in found.items() if documented != found["datastore"]] == []


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("block", ["EXAMPLES", "RETURN"])
def test_mappings_are_in_block_style(module: str, block: str) -> None:
    def crowded(node: yaml.Node) -> list[int]:
        inner = [one for pair in node.value for one in pair] if isinstance(node, yaml.MappingNode) else []
        inner = node.value if isinstance(node, yaml.SequenceNode) else inner
        own = isinstance(node, yaml.MappingNode) and node.flow_style and len(node.value) > 1
        return [node.start_mark.line] * own + [line for one in inner for line in crowded(one)]

    assert crowded(yaml.compose(read_block(module, block))) == []


def test_sanity_needs_no_exceptions() -> None:
    assert sorted((ROOT / "tests" / "sanity").glob("ignore-*.txt")) == []


def test_every_file_names_its_license() -> None:
    marker = "SPDX-License-Identifier" + ": GPL-3.0-or-later"
    assert [
        str(path.relative_to(ROOT))
        for path in list_tracked()
        if path.suffix not in UNMARKED_SUFFIXES
        and path.name not in UNMARKED_NAMES
        and path.stat().st_size
        and marker not in path.read_text(errors="replace")
    ] == []
