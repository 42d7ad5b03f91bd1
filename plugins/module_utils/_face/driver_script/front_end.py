# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Facts from a front-end, by XML-RPC (spec: storage-driver, "TM Drivers Structure"; the API's methods ``one.vm.info``,
``one.datastore.info`` and ``one.hostpool.info``).

Transfer actions know only the ids of a VM and of a datastore. A call takes a few milliseconds. The command line
programs of a front-end, which print the same documents, take 300 milliseconds each.
"""

from __future__ import annotations

import os

from ..._core.directory import opened_file_at, opened_parent
from ..._core.errors import FrontEndFailed, InvalidInput, NotFound, VmstoreError, os_errors, printable
from ..._core.records import TYPE_CHECKING
from ..._driver.transfer.facts import VmFacts
from ..._model.vm import Host
from .datastore_document import parse_datastore
from .elements import layout, parse_document
from .http_post import LONGEST_SHOWN, parse_endpoint
from .secrets import AUTHENTICATION, HOME, account_home
from .vm_document import parse_vm
from .xml_rpc import call

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..._model.datastore import Datastore
    from ..._model.vm import Vm
    from .xml_rpc import Answer

#: Upper bound of the time of one call in seconds.
TIMEOUT = 30.0

#: The variable with the URL of the front-end, and its default.
ENDPOINT, LOCAL = "ONE_XMLRPC", "http://localhost:2633/RPC2"

#: The file with the user and the password, below the home directory. The variable ONE_AUTH names another file.
SESSION = ".one/one_auth"

#: Upper bound of that file in bytes.
LONGEST_SESSION = 4096

#: Characters that XML forbids beside control characters (XML 1.0, 2.2), and the substitute for bytes that aren't UTF-8.
UNUSABLE = frozenset("\ufffd\ufffe\uffff")

#: Codes of errors that a front-end returns.
UNAUTHENTICATED, MISSING = 0x100, 0x400

HOSTS = layout("HOST/NAME", "HOST/TEMPLATE/REPLICA_STORAGE_IP")


class FrontEnd(VmFacts):
    """A front-end as a source of facts.

    :arg environment: the environment of the action, with ONE_XMLRPC, ONE_AUTH and HOME.
    :arg timeout: seconds for each call.
    """

    def __init__(self, environment: Mapping[str, str], *, timeout: float = TIMEOUT) -> None:
        self._environment = environment
        self._timeout = timeout
        self._session = ""
        self._vms: dict[int, Vm] = {}
        self._given: Vm | None = None
        self._datastores: dict[int, Datastore] = {}
        self._hosts: dict[str, Host] | None = None

    def give(self, vm: Vm) -> None:
        """Use a VM that came without a call. Such a VM lacks its history."""
        self._given = vm

    def vm(self, vm_id: int) -> Vm:
        if self._given is not None and self._given.id == vm_id:
            return self._given
        return self._asked(vm_id)

    def previous_datastore(self, vm_id: int) -> int | None:
        return self._asked(vm_id).previous_datastore_id

    def _asked(self, vm_id: int) -> Vm:
        if vm_id not in self._vms:
            self._vms[vm_id] = parse_vm(*self._call("one.vm.info", vm_id, True))  # with its history
        return self._vms[vm_id]

    def datastore(self, datastore_id: int) -> Datastore:
        if datastore_id not in self._datastores:
            document = self._call("one.datastore.info", datastore_id, False)
            self._datastores[datastore_id] = parse_datastore(*document)
        return self._datastores[datastore_id]

    def host(self, name: str) -> Host:
        if self._hosts is None:
            # The method for one host takes only an id.
            xml, origin = self._call("one.hostpool.info")
            hosts = parse_document(xml, "HOST_POOL", HOSTS, origin).all("HOST")
            self._hosts = {
                host.require("NAME"): Host(host.require("NAME"), host.get("TEMPLATE/REPLICA_STORAGE_IP") or None)
                for host in hosts
            }
        if name not in self._hosts:
            raise NotFound(f"The front-end has no host {name!r}.")
        return self._hosts[name]

    def _call(self, method: str, *parameters: int | bool) -> tuple[bytes, str]:
        """Return the document that a method returns, and its origin for messages.

        :raises NotFound: the front-end has no such object.
        :raises VmstoreError: the front-end can't be reached, or refused the call.
        """
        endpoint = parse_endpoint(ENDPOINT, self._environment.get(ENDPOINT) or LOCAL)
        path = self._session_path()
        self._session = self._session or _read_session(path)
        called = " ".join((method, *map(str, parameters[:1])))
        answer = call(endpoint, method, (self._session, *parameters), self._timeout)
        if answer.code == 0:
            return answer.text.encode(), f"the result of {called} at {endpoint.url}"
        raise _refusal(answer, f"The front-end at {endpoint.url} refused {called}", self._session, path)

    def _session_path(self) -> str:
        """Return the path of the file with the user and the password.

        :raises InvalidInput: the environment names no such file.
        """
        path = self._environment.get(AUTHENTICATION)
        directory = self._environment.get(HOME) or account_home()
        if not path and not directory:
            raise InvalidInput(AUTHENTICATION, None, "the path of a file with one line '<user>:<password>' is expected")
        return os.path.abspath(path or os.path.join(directory, SESSION))


def _refusal(answer: Answer, what: str, session: str, path: str) -> VmstoreError:
    """Return the error about a call that the front-end refused.

    :arg what: the beginning of the sentence.
    :arg path: the file with the session.
    """
    from ..._core.secrets import WITHHELD

    text = answer.text.replace(session.partition(":")[2], WITHHELD)
    message = " ".join(printable(text).split())[:LONGEST_SHOWN].rstrip(". ")
    remedy = f": check the user and the password in {path}" if answer.code == UNAUTHENTICATED else ""
    return (NotFound if answer.code == MISSING else FrontEndFailed)(f"{what} ({message}){remedy}.")


def _read_session(path: str) -> str:
    """Return the user and the password in a file, as a front-end expects them: ``<user>:<password>``.

    :raises InvalidInput: the file has something else.
    :raises FileAccessFailed, PathNotAllowed: the file can't be read.
    """
    with os_errors(f"read {path}, which has the user and the password for the front-end"):
        with opened_parent(path, option=AUTHENTICATION) as (directory, name):
            with opened_file_at(directory, name) as file:
                data = os.read(file, LONGEST_SESSION + 1)
    # An error of the codec would show the password.
    session = data.decode(errors="replace").rstrip("\r\n")
    user, colon, password = session.partition(":")
    is_text = min(session, default="") >= " " and UNUSABLE.isdisjoint(session)
    if not (user and colon and password and is_text and len(data) <= LONGEST_SESSION):
        raise InvalidInput(AUTHENTICATION, path, "a file with one line '<user>:<password>' in UTF-8 is expected")
    return session


__all__ = ["FrontEnd"]
