# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The part of the standard library's ``dataclasses`` that the plugins use, with the same names, arguments and results
(PEP 557).

The standard module loads ``inspect`` and compiles the methods of each class from text, which takes more time than the
work of a driver's action. Here the methods are closures. Annotations are texts, and each of them is a field:
``ClassVar`` and ``InitVar`` have no meaning. No other plugin imports ``dataclasses``.

A driver's action is a process of its own, so most of its cost is the loading of modules. Modules that every action
loads avoid modules of the standard library that load slowly and have a simple substitute
(``tests/unit/_face/driver_script/test_loading.py`` lists them). Modules for only some actions are imported in
functions.
"""

from __future__ import annotations

import sys

#: The declaration as in ``typing``, which loads slowly. Type checkers recognize it by its name.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from dataclasses import FrozenInstanceError, dataclass, field, fields, is_dataclass, replace
else:
    _MISSING = object()

    #: Name of the attribute with the fields of a class, by their names and in their order.
    _FIELDS = "_record_fields"

    class FrozenInstanceError(AttributeError):
        """A field of a frozen instance can't be assigned or deleted."""

    class Field:
        """A field, as :func:`fields` returns it: ``name``, and ``type`` as the annotation has it."""

        def __init__(self, default, default_factory, init, repr):
            self.name = self.type = None
            self.default = default
            self.default_factory = default_factory
            self.init = init
            self.repr = repr

    def field(*, default=_MISSING, default_factory=_MISSING, init=True, repr=True):
        """Return the declaration of a field.

        :arg default: the default of every instance. ``default_factory`` creates a default for each instance.
        :arg init: whether the constructor takes the field.
        :arg repr: whether the representation has the field.
        """
        return Field(default, default_factory, init, repr)

    def dataclass(cls=None, *, frozen=False):
        """Add to a class the methods that follow from its annotations: construction, comparison, representation and, if
        the class is frozen, a hash.

        :raises TypeError: a field without a default follows one with a default, or only one of a class and its base is
            frozen.
        :raises ValueError: the default is mutable.
        """
        return (lambda cls: _make(cls, frozen)) if cls is None else _make(cls, frozen)

    def is_dataclass(value):
        """Return whether a value is such a class or an instance of one."""
        return hasattr(value if isinstance(value, type) else type(value), _FIELDS)

    def fields(value):
        """Return the fields of a class or an instance.

        :raises TypeError: the value is neither.
        """
        return tuple(_fields(value).values())

    def replace(value, /, **changes):
        """Return another instance with the same fields except for ``changes``.

        :raises TypeError: the class has no such field; :raises ValueError: the constructor doesn't take that field.
        """
        for name, one in _fields(value).items():
            if not one.init:
                if name in changes:
                    raise ValueError(f"field {name} is declared with init=False, it cannot be specified with replace()")
            elif name not in changes:
                changes[name] = getattr(value, name)
        return value.__class__(**changes)

    def _fields(value):
        try:
            return getattr(value, _FIELDS)
        except AttributeError:
            raise TypeError("must be called with a dataclass type or instance") from None

    def _own_fields(cls):
        # Before Python 3.10, a class without annotations has those of its base.
        annotations = cls.__annotations__ if sys.version_info >= (3, 10) else cls.__dict__.get("__annotations__", {})
        found = {}
        for name, annotation in annotations.items():
            default = getattr(cls, name, _MISSING)
            if isinstance(default, Field):
                one = default
                if one.default is _MISSING:
                    delattr(cls, name)  # otherwise an instance without the field would have this value
                else:
                    setattr(cls, name, one.default)
            else:
                one = field(default=default)
            if one.default is not _MISSING and one.default.__class__.__hash__ is None:
                raise ValueError(
                    f"mutable default {type(one.default)} for field {name} is not allowed: use default_factory"
                )
            one.name, one.type = name, annotation
            found[name] = one
        return found

    def _make(cls, frozen):
        found = {}
        for base in reversed(cls.__mro__[1:]):
            if _FIELDS in base.__dict__:
                if (base.__setattr__ is not object.__setattr__) != frozen:
                    raise TypeError("a dataclass that is frozen and one that is not cannot inherit from each other")
                found.update(base.__dict__[_FIELDS])
        found.update(_own_fields(cls))
        setattr(cls, _FIELDS, found)
        equal, hashed = _comparison(found)
        if not frozen and "__hash__" not in cls.__dict__:
            cls.__hash__ = None
        for method in (_init(cls, found), _repr(found), equal, *((hashed, *_refusals(cls, found)) if frozen else ())):
            # A method that the class defines itself is kept.
            if cls.__dict__.get(method.__name__) is None:
                method.__qualname__ = f"{cls.__qualname__}.{method.__name__}"
                setattr(cls, method.__name__, method)
        return cls

    def _init(cls, found):
        called = [one for one in found.values() if one.init]
        names = tuple(one.name for one in called)
        defaults = {one.name: one.default for one in called if one.default is not _MISSING}
        factories = {one.name: one.default_factory for one in found.values() if one.default_factory is not _MISSING}
        optional = False
        for name in names:
            if optional and name not in defaults and name not in factories:
                raise TypeError(f"non-default argument {name!r} follows default argument")
            optional = optional or name in defaults or name in factories
        late = tuple(name for name, one in found.items() if not one.init and name in factories)
        has_more = hasattr(cls, "__post_init__")

        def __init__(self, /, *values, **named):
            if named or len(values) != len(names):
                values = _complete(type(self), names, defaults, factories, values, named)
            for name, value in zip(names, values):
                _set(self, name, value)
            for name in late:
                _set(self, name, factories[name]())
            if has_more:
                self.__post_init__()

        return __init__

    _set = object.__setattr__

    def _complete(cls, names, defaults, factories, values, named):
        """Return the values of all ``names``, in their order."""
        if len(values) > len(names):
            raise TypeError(
                f"{cls.__qualname__}.__init__() takes {len(names) + 1} positional arguments but {len(values) + 1} were "
                "given"
            )
        complete = list(values)
        missing = []
        for name in names[len(values) :]:
            if name in named:
                complete.append(named.pop(name))
            elif name in defaults:
                complete.append(defaults[name])
            elif name in factories:
                complete.append(factories[name]())
            else:
                missing.append(name)
        for name in named:
            wrong = "multiple values for argument" if name in names else "an unexpected keyword argument"
            raise TypeError(f"{cls.__qualname__}.__init__() got {wrong} {name!r}")
        if missing:
            raise TypeError(
                f"{cls.__qualname__}.__init__() missing {len(missing)} required positional arguments: "
                f"{', '.join(map(repr, missing))}"
            )
        return complete

    def _repr(found):
        names = [name for name, one in found.items() if one.repr]

        def __repr__(self):
            return f"{self.__class__.__qualname__}({', '.join([f'{name}={getattr(self, name)!r}' for name in names])})"

        return __repr__

    def _comparison(found):
        names = tuple(found)

        def values(one):
            return tuple([getattr(one, name) for name in names])

        def __eq__(self, other):
            return values(self) == values(other) if other.__class__ is self.__class__ else NotImplemented

        def __hash__(self):
            return hash(values(self))

        return __eq__, __hash__

    def _refusals(cls, found):
        def is_frozen(one, name):
            return one.__class__ is cls or name in found

        def __setattr__(self, name, value):
            if is_frozen(self, name):
                raise FrozenInstanceError(f"cannot assign to field {name!r}")
            super(cls, self).__setattr__(name, value)

        def __delattr__(self, name):
            if is_frozen(self, name):
                raise FrozenInstanceError(f"cannot delete field {name!r}")
            super(cls, self).__delattr__(name)

        return __setattr__, __delattr__


__all__ = ["TYPE_CHECKING", "FrozenInstanceError", "dataclass", "field", "fields", "is_dataclass", "replace"]
