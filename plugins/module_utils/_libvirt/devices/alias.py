# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The alias by which a device of a domain is recognized as a device of this collection."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from ..domain_xml import attribute, obtain_child

#: The beginning of an alias that a user gives (libvirt), as in KubeVirt.
PREFIX = "ua-"


def name_of(element: ET.Element) -> str | None:
    """Return the name in the alias of a device; ``None`` for a device without such an alias."""
    alias = attribute(element, "alias", "name") or ""
    return alias[len(PREFIX) :] if alias.startswith(PREFIX) else None


def set_name(element: ET.Element, name: str) -> None:
    """Set the alias of a device to ``name``."""
    obtain_child(element, "alias").set("name", PREFIX + name)


__all__ = ["PREFIX", "name_of", "set_name"]
