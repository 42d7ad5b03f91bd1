# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""The Sphinx configuration of the site that `script/test docs` builds: pages of modules and roles, and the guides."""

from __future__ import annotations

from sphinx.application import Sphinx

project = "granary.vmstore"
copyright = "2026, the granary.vmstore developers"
extensions = ["sphinx_antsibull_ext", "myst_parser"]
html_theme = "sphinx_ansible_theme"
html_short_title = project
default_role = "any"
myst_heading_anchors = 3
# A build needs no network, so references to other collections stay unresolved.
# `antsibull-docs lint-collection-docs --validate-collection-refs all` checks that each reference names something.
suppress_warnings = ["ref.any", "ref.ref"]

REPOSITORY = "https://github.com/granary/vmstore/blob/main/"


def link_to_repository(_app: Sphinx, _name: str, source: list[str]) -> None:
    """Turn a guide's links to files outside docs/, which the site lacks, into links to the repository."""
    source[0] = source[0].replace("](../", f"]({REPOSITORY}")


def setup(app: Sphinx) -> None:
    app.connect("source-read", link_to_repository)
