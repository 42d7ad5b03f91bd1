# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""Sphinx configuration for the pages that `script/test docs` makes of the modules' documentation."""

from __future__ import annotations

project = "granary.vmstore"
copyright = "2026, the granary.vmstore developers"
extensions = ["sphinx_antsibull_ext"]
html_theme = "sphinx_ansible_theme"
html_short_title = project
default_role = "any"
# Pages of other collections are linked from the published site only: a build needs no network. Whether a reference names something
# that exists is what `antsibull-docs lint-collection-docs --validate-collection-refs all` checks.
suppress_warnings = ["ref.any", "ref.ref"]
