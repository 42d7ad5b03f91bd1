# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The datastore in a document of a front-end."""

from __future__ import annotations

from ..._core.errors import InvalidInput
from ..._core.paths import absolute
from ..._model.datastore import NFS_AUTO, REPLICA_HOST, Datastore
from .elements import Element, layout, parse_into

#: Types of datastores. The number in the element DATASTORE/TYPE is an index of these.
DATASTORE_TYPES = ("image", "system", "file", "backup")

#: The driver of a datastore without a driver.
NO_DRIVER = ("", "-")

#: The elements of a datastore that an action reads.
DATASTORE = layout(
    *("ID", "NAME", "TYPE", "DS_MAD", "TM_MAD", "BASE_PATH"),
    *(f"TEMPLATE/{name}" for name in ("SAFE_DIRS", "RESTRICTED_DIRS", "BRIDGE_LIST", "REPLICA_HOST")),
    *(f"TEMPLATE/{name}" for name in ("CONVERT", "DRIVER", "LIMIT_TRANSFER_BW", "NO_DECOMPRESS", "SPARSE", "VERIFY")),
    *(f"TEMPLATE/{name}" for name in ("SHARED", "MARKER")),
    *(f"TEMPLATE/NFS_AUTO_{name}" for name in ("ENABLE", "HOST", "PATH", "OPTS")),
)


def read_datastore(driver: str | None, document: Element) -> Datastore:
    """Return the datastore of a document. The directory stays as the front-end writes it, because the front-end stores
    the directory in the sources of images.

    :arg driver: the datastore driver; ``None`` for a system datastore.
    :arg document: the element above DATASTORE.
    :raises InvalidInput: an element is missing or can't be used.
    """
    template = "DATASTORE/TEMPLATE/"
    base_path = require_no_blanks("DATASTORE/BASE_PATH", document.require("DATASTORE/BASE_PATH"))
    absolute("DATASTORE/BASE_PATH", base_path)
    lists = {
        name: tuple(document.get(f"{template}{name}").split())
        for name in ("SAFE_DIRS", "RESTRICTED_DIRS", "BRIDGE_LIST")
    }
    kind = document.read_choice("DATASTORE/TYPE", DATASTORE_TYPES)
    marker = document.get(f"{template}MARKER").strip() or None
    # A front-end itself sets SHARED for a system datastore, and the front-end may be the file server. So only a marker
    # requires a mount there.
    is_shared = document.is_text(f"{template}SHARED", "yes") and (kind != "system" or marker is not None)
    datastore = Datastore(
        document.read_number("DATASTORE/ID"),
        document.get("DATASTORE/NAME"),
        kind,
        driver,
        document.get("DATASTORE/TM_MAD") or None,
        base_path.rstrip("/"),
        safe_dirs=tuple(absolute(f"{template}SAFE_DIRS", path) for path in lists["SAFE_DIRS"]),
        restricted_dirs=tuple(absolute(f"{template}RESTRICTED_DIRS", path) for path in lists["RESTRICTED_DIRS"]),
        bridge_list=lists["BRIDGE_LIST"],
        attributes={name: document.get(element_of(name)) for name in (*NFS_AUTO, REPLICA_HOST)},
        shared=is_shared,
        marker=marker,
    )
    if datastore.mounts_automatically:
        from ..._driver.datastore.shared_store import read_nfs_auto

        read_nfs_auto(datastore.attributes, element_of)
    return datastore


def parse_datastore(xml: bytes, origin: str) -> Datastore:
    """Return the datastore of a document with the root element DATASTORE.

    :arg origin: the place where the document comes from, for messages.
    :raises InvalidInput: the document isn't XML, or an element is missing or can't be used.
    """
    document = Element("")
    parse_into(document.add("DATASTORE"), xml, "DATASTORE", DATASTORE, origin)
    driver = document.get("DATASTORE/DS_MAD")
    return read_datastore(None if driver in NO_DRIVER else driver, document)


def require_no_blanks(element: str, text: str) -> str:
    """Return ``text``, and refuse blanks, because the front-end reads a result only up to the first blank.

    :raises InvalidInput: ``text`` has a blank.
    """
    if text.split() != [text]:
        raise InvalidInput(element, text, "a path without blanks is expected")
    return text


def element_of(attribute: str) -> str:
    """Return the path of the element that holds an attribute of the datastore."""
    return f"DATASTORE/TEMPLATE/{attribute.upper()}"


__all__ = ["DATASTORE", "element_of", "parse_datastore", "read_datastore", "require_no_blanks"]
