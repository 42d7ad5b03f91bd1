# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""The connection, on libvirt's own test driver.

Every run is a separate process, so that the tests can read its output.
"""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import DependencyNotFound, InvalidInput
from ansible_collections.granary.vmstore.plugins.module_utils._libvirt.connection import Hypervisor, check_local
from refusal import refused

HEAD = """
import sys
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import VmstoreError
from ansible_collections.granary.vmstore.plugins.module_utils._libvirt.connection import Hypervisor
try:
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    script = (
        HEAD
        + textwrap.indent(textwrap.dedent(code), "    ")
        + "\nexcept VmstoreError as error:\n    print(type(error).__name__, error)\n"
    )
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)


def test_a_libvirt_that_is_down_is_one_sentence_and_no_noise() -> None:
    done = run('Hypervisor("qemu+unix:///system?socket=/nonexistent/socket")')
    assert done.stderr == ""
    assert done.stdout.startswith(
        "LibvirtMissing libvirt can't be reached at qemu+unix:///system?socket=/nonexistent/socket: "
    )
    assert "/nonexistent/socket" in done.stdout.partition(": ")[2]


def test_a_missing_library_names_package_and_interpreter() -> None:
    done = run('sys.modules["libvirt"] = None\nHypervisor("test:///default")')
    assert done.stderr == ""
    assert "python3-libvirt" in done.stdout
    assert sys.executable in done.stdout


def test_a_domain_that_vanished_is_named_and_nothing_is_printed() -> None:
    done = run(
        """
        hypervisor = Hypervisor("test:///default")
        domain = hypervisor.domain("test")
        text = domain.persistent_xml()
        domain.handle.destroy()
        domain.handle.undefine()
        print(hypervisor.find_domain("test"))
        domain.persistent_xml()
        """
    )
    assert done.stderr == ""
    assert done.stdout == "None\nNotFound Could not read the domain 'test': it doesn't exist (any more).\n"


def test_domains_are_found_by_name_and_by_uuid() -> None:
    hypervisor = Hypervisor("test:///default")
    domain = hypervisor.domain("test")
    assert hypervisor.domain(domain.uuid).name == "test"
    assert [one.name for one in hypervisor.domains()] == ["test"]
    assert (domain.is_running, domain.is_persistent, domain.saved_xml()) == (True, True, None)
    assert len(hypervisor.version) == 3
    with refused(
        DependencyNotFound, says="domain: libvirt has no domain with the name or UUID 'no such' on this host."
    ):
        hypervisor.domain("no such")


@pytest.mark.parametrize(
    "uri",
    [
        "qemu+ssh://host/system",
        "qemu://host/system",
        "qemu+tcp:///system",
        "",
        "system",
        "http://[::1",
        "test:///a\0b",
        "test:///\udc80",
    ],
)
def test_only_this_hosts_libvirt(uri: str) -> None:
    with refused(
        InvalidInput,
        says=f"uri: {uri!r} is not accepted: the URI of this host's libvirt is expected, such as 'qemu:///system'; run "
        "the module on the hypervisor itself.",
    ):
        check_local(uri)


def test_local_uris() -> None:
    for uri in ("qemu:///system", "qemu:///session", "test:///default"):
        assert check_local(uri) == uri


def test_what_libvirt_quotes_of_a_definition_is_not_repeated() -> None:
    done = run(
        """
        domain = Hypervisor("test:///default").domain("test")
        devices = "<devices><graphics passwd='precious'/><a>\\ufffe</a></devices>"
        domain.define(f"<domain type='test'><name>test</name>\\n{devices}</domain>")
        """
    )
    assert done.stdout.startswith("LibvirtFailed libvirt could not define the domain 'test': ")
    assert len(done.stdout.splitlines()) == 1
    assert "precious" not in done.stdout


def test_what_libvirts_schema_refuses_is_said_in_one_line() -> None:
    done = run(
        """
        domain = Hypervisor("test:///default").domain("test")
        domain.define(domain.persistent_xml().replace("<devices>", "<devices><nonsense/>"))
        """
    )
    assert len(done.stdout.splitlines()) == 1
    assert "element" in done.stdout.lower()
