# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The comparison of a domain's definition with the definition that libvirt keeps."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Set

from .domain_xml import attribute

#: Attributes, by their elements and with their default values, that libvirt leaves out where they have that value.
_OMITTED = {"target": ("tray", "closed")}

#: Attributes that libvirt adds to existing elements for new devices. The first function of a PCI slot is marked when a
#: second one is in use.
_ADDED = {"address": ("multifunction", "on")}


def first_difference(
    expected: ET.Element, found: ET.Element, extensible: Set[ET.Element] = frozenset(), path: str = ""
) -> str | None:
    """Return the path of the first element of ``found`` that differs from ``expected``; ``None`` without a difference.

    Changes by libvirt itself are ignored: the order of elements with different names, white space, and PCI controllers,
    other controllers and marks of PCI slots that libvirt adds for new devices.

    :arg extensible: elements of ``expected`` to which libvirt may add (address, alias).
    """
    here = f"{path}/{expected.tag}"
    is_extensible = expected in extensible
    wanted_attributes, attributes = _attributes(expected), _attributes(found)
    added = _ADDED.get(str(expected.tag))
    if added is not None and added[0] not in wanted_attributes:
        attributes = {name: value for name, value in attributes.items() if (name, value) != added}
    if is_extensible:
        attributes = {name: value for name, value in attributes.items() if name in wanted_attributes}
    if (
        expected.tag != found.tag
        or wanted_attributes != attributes
        or (expected.text or "").strip() != (found.text or "").strip()
    ):
        return here
    wanted, got = _group(expected), _group(found)
    known = {_place(child) for child in wanted}
    got = [child for child in got if _place(child) in known or not (is_extensible or child.tag == "controller")]
    for one, other in zip(wanted, got):
        if _place(one) != _place(other):  # the earlier element has no counterpart
            return f"{here}/{min(one, other, key=_place).tag}"
        difference = first_difference(one, other, extensible, here)
        if difference is not None:
            return difference
    alone = wanted[len(got) :] or got[len(wanted) :]
    return f"{here}/{alone[0].tag}" if alone else None


def _attributes(element: ET.Element) -> dict[str, str]:
    omitted = {_OMITTED.get(str(element.tag))}
    if element.tag == "disk" and element.find("source") is None:  # the type of an empty drive is libvirt's choice
        omitted.add(("type", element.get("type", "")))
    return {name: value for name, value in element.attrib.items() if (name, value) not in omitted}


def _group(element: ET.Element) -> list[ET.Element]:
    return sorted(element, key=_place)


def _place(element: ET.Element) -> tuple[str, str]:
    """Return the sort key of an element. Disks are sorted by their target, like in libvirt, and controllers by type and
    index.

    Other elements keep their order.
    """
    if element.tag == "disk":
        return "disk", attribute(element, "target", "dev") or ""
    if element.tag == "controller":
        return "controller", f"{element.get('type')} {element.get('index')}"
    return str(element.tag), ""


__all__ = ["first_difference"]
