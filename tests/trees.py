# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Trees of files for another host, sent and received without a connection."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ansible_collections.granary.vmstore.plugins.module_utils._core.temporary import new_part_name
from ansible_collections.granary.vmstore.plugins.module_utils._remote import tree_stream
from ansible_collections.granary.vmstore.plugins.module_utils._remote.staging import Position, Staging
from ansible_collections.granary.vmstore.plugins.module_utils._remote.tree import Entry, Source, Tree, digest_of
from ansible_collections.granary.vmstore.plugins.module_utils._remote.tree_peer import TreePeer


def announce(*entries: Entry) -> bytes:
    """Return the description of a tree as a sender sends it."""
    return json.dumps({"tree": [vars(entry) for entry in entries]}).encode() + b"\n"


def record(source: Source, tree: Tree | None = None) -> bytes:
    """Return all that a sender sends.

    :arg tree: an earlier description of the source.
    """
    tree = tree or source.describe()
    sent = [announce(*tree)]
    tree_stream.send_data(source, tree, Position(0, 0, digest_of(tree)), lambda data: sent.append(bytes(data)))
    return b"".join(sent)


def receive(
    sent: bytes, target: Path, *, part: str | None = None, commit: Callable[[Staging], object] = Staging.publish
) -> list[dict[str, Any]]:
    """Receive bytes into a directory, and return the messages of the receiver."""
    answers = io.BytesIO()
    descriptor = os.open(target, os.O_RDONLY)
    try:
        peer = TreePeer(io.BufferedReader(io.BytesIO(sent)), answers, {"transfer": part or new_part_name()})
        peer.receive(descriptor, str(target), commit)
    finally:
        os.close(descriptor)
    return [json.loads(line) for line in answers.getvalue().splitlines()]


__all__ = ["announce", "receive", "record"]
