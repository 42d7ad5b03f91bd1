# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The ISO image with the context of a VM, which the front-end makes and a host gets as a disk."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping

from ..._core.directory import opened_directory
from ..._core.errors import os_errors
from ..._image.iso_image import IsoLabels, check_file_name, iso_bytes
from ..._image.iso_sources import add_sources
from ..._remote.tree import Source

#: The volume id by which a guest finds the image (spec: storage-driver, "context").
VOLUME_ID = "CONTEXT"


@contextlib.contextmanager
def context_image(files: Mapping[str, str], name: str) -> Iterator[Source]:
    """Yield an image with files of this host, as the tree with the one file ``name``.

    :arg files: paths by the names in the image.
    :raises InvalidInput: a name isn't accepted, or the files are too large.
    :raises VmstoreError: a file can't be read, or the image can't be made.
    """
    for file_name in files:
        check_file_name("file", file_name)
    image = iso_bytes(IsoLabels(VOLUME_ID), add_sources({}, files))
    with contextlib.ExitStack() as stack:
        with os_errors("make a context image"):
            place = stack.enter_context(tempfile.TemporaryDirectory(prefix="vmstore-context-"))
            with open(os.path.join(place, name), "xb") as file:
                file.write(image)
            directory = stack.enter_context(opened_directory(place))
        yield Source(directory, place, {name: name})


__all__ = ["context_image"]
