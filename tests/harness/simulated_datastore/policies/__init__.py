# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""The policies, one a file, and what all of them are."""

from __future__ import annotations

from ..request import Request


class Policy:
    """One stage of the pipeline. A policy raises :class:`OSError` to answer a request with an error."""

    #: Its key in the notes of a request, and its name in the status.
    name = ""

    def concerns(self, op: str) -> bool:
        """Whether requests of this kind pass through this policy, as it is set now."""
        return False

    async def before(self, request: Request) -> None:
        """Before the request is executed."""

    def enter(self, request: Request) -> None:
        """Right before the request is executed: nothing else happens in between."""

    def after(self, request: Request) -> None:
        """After it has been executed with success, before its reply."""

    def settle(self, request: Request) -> None:
        """At the end of every request that concerned this policy, successful or not."""


__all__ = ["Policy"]
