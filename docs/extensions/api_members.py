"""What the reference says about a module and a class, and the directive ``exported``.

Of what a module passes on only names from private modules, which have no page. Of what a class inherits only
what comes from private classes of the package; public ones are its bases and documented themselves.
"""

from __future__ import annotations

import importlib
import re
from typing import TYPE_CHECKING, Any

from docutils.statemachine import StringList
from sphinx.ext.autosummary import Autosummary

if TYPE_CHECKING:
    from sphinx.application import Sphinx


def _is_public(module: str) -> bool:
    return module.partition(".")[0] != "hnetfast" or not any(p.startswith("_") for p in module.split("."))


def _owner(cls: type, name: str) -> type | None:
    """The class that a member comes from."""
    for base in cls.__mro__:
        if name in vars(base) or name in vars(base).get("__annotations__", {}):
            return base
    return None


def _skip(app: Sphinx, what: str, name: str, member: Any, skip: bool, options: Any) -> bool | None:
    here = app.env.current_document.autodoc_module
    if not here:  # autosummary, which makes a page of each module from our template
        return None
    if what == "module":
        home = getattr(member, "__module__", here)
        return True if home != here and _is_public(str(home)) else None
    cls = getattr(importlib.import_module(here), app.env.current_document.autodoc_class)
    owner = _owner(cls, name)
    elsewhere = owner is None or (owner is not cls and _is_public(owner.__module__))
    return True if elsewhere or name in getattr(cls, "_fields", ()) else None


def _bases(app: Sphinx, name: str, cls: type, options: Any, bases: list[type]) -> None:
    """In place of private bases, the public ones that they have."""
    shown: list[type] = []
    for base in bases:
        for each in base.__mro__ if isinstance(base, type) else [base]:
            if each is object or any(issubclass(found, each) for found in shown if isinstance(found, type)):
                continue
            if _is_public(each.__module__):
                shown.append(each)
    bases[:] = shown or [object]


def _signature(
    app: Sphinx, what: str, name: str, value: Any, options: Any, arguments: Any, result: Any
) -> Any:
    """Defaults that are made for each object, in a form that is Python."""
    if arguments is None or "<factory>" not in arguments:
        return None
    return arguments.replace("<factory>", "..."), result


def _returns(app: Sphinx, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    """What a function returns is a sentence; napoleon would take words before a colon in it for a type."""
    text = "\n".join(lines)

    def field(match: re.Match) -> str:
        words = " ".join(line.strip() for line in match["text"].splitlines())
        return f":{match['name'].lower()}: {words}\n"

    section = re.compile(r"^(?P<name>Returns|Yields):\n(?P<text>(?:[ ]+\S.*\n?)+)", re.MULTILINE)
    lines[:] = section.sub(field, text).split("\n")


class Exported(Autosummary):
    """A table of what a package offers, each with its first sentence; after ``automodule``."""

    has_content = False
    required_arguments = 1

    def run(self) -> list[Any]:
        """Make the table."""
        package = self.arguments[0]
        names = sorted(importlib.import_module(package).__all__, key=str.lower)
        self.content = StringList(names, source=package)
        return super().run()


def setup(app: Sphinx) -> dict[str, Any]:
    """Register all."""
    app.add_directive("exported", Exported)
    app.connect("autodoc-skip-member", _skip)
    app.connect("autodoc-process-bases", _bases)
    app.connect("autodoc-process-signature", _signature)
    app.connect("autodoc-process-docstring", _returns, priority=400)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
