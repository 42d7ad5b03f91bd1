# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A libvirt domain's XML (https://libvirt.org/formatdomain.html) as a tree that is read, edited and written.

This module needs no connection to libvirt. Names with a prefix (``qemu:commandline``, anything in ``metadata``) and
their ``xmlns`` attributes are kept unchanged, because the parser doesn't resolve namespaces.
"""

from __future__ import annotations

import copy
import xml.etree.ElementTree as ET
from xml.parsers import expat

from .._core.errors import LibvirtFailed


def parse(text: str) -> ET.Element:
    """Return the tree of an XML document.

    :raises LibvirtFailed: the document isn't well-formed, or has a document type, which could declare entities.
    """
    builder = ET.TreeBuilder(insert_comments=True)
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.CommentHandler = builder.comment
    parser.StartDoctypeDeclHandler = _refuse_doctype
    try:
        parser.Parse(text, True)
    except expat.ExpatError as error:
        raise LibvirtFailed(f"The XML of the domain can't be read: {error}.") from error
    return builder.close()


def _refuse_doctype(name: str, *unused: object) -> None:
    raise LibvirtFailed(f"The XML of the domain declares a document type ({name!r}); libvirt writes none.")


def to_text(element: ET.Element) -> str:
    """Return ``element`` as XML, without the text that follows it in its parent."""
    alone = copy.copy(element)
    alone.tail = None
    return ET.tostring(alone, encoding="unicode")


def pretty(element: ET.Element) -> str:
    """Return ``element`` as XML for a person: indented, one element a line."""
    alone = copy.deepcopy(element)
    _indent(alone, "\n")
    return ET.tostring(alone, encoding="unicode") + "\n"


def _indent(element: ET.Element, line: str) -> None:
    children = list(element)
    element.tail = None
    if children:
        element.text = line + "  "
        for child in children:
            _indent(child, line + "  ")
            child.tail = line + "  "
        children[-1].tail = line


def devices(root: ET.Element) -> ET.Element:
    """Return the element with the devices of a domain."""
    return require_child(root, "devices")


def require_child(parent: ET.Element, tag: str) -> ET.Element:
    """Return the child ``tag`` of ``parent``.

    :raises LibvirtFailed: the child is missing.
    """
    found = parent.find(tag)
    if found is None:
        raise LibvirtFailed(f"The XML of the domain has no <{tag}> in <{parent.tag}>.")
    return found


def obtain_child(parent: ET.Element, tag: str) -> ET.Element:
    """Return the child ``tag`` of ``parent``. A missing child is created."""
    found = parent.find(tag)
    return ET.SubElement(parent, tag) if found is None else found


def attribute(element: ET.Element, path: str, name: str) -> str | None:
    """Return the attribute ``name`` of the element at ``path`` below ``element``; ``None`` if either is missing."""
    found = element.find(path)
    return None if found is None else found.get(name)


def set_attribute(element: ET.Element, name: str, value: object) -> None:
    """Set an attribute; ``None`` removes it."""
    if value is None:
        element.attrib.pop(name, None)
    else:
        element.set(name, str(value))


def drop_empty_child(parent: ET.Element, tag: str) -> None:
    """Remove the child ``tag`` of ``parent`` unless the child has attributes or children."""
    child = parent.find(tag)
    if child is not None and not child.attrib and not len(child):
        parent.remove(child)


__all__ = [
    "attribute",
    "devices",
    "drop_empty_child",
    "obtain_child",
    "parse",
    "pretty",
    "require_child",
    "set_attribute",
    "to_text",
]
