"""Links to the reference: names that a module imports, that a class inherits, and that stand in the text.

A name is documented where it is defined and called as its readers know it: ``hnetfast.hnets.HMLP`` is
``hnetfast.hnets.mlp_hnet.HMLP``, and ``InputError`` in a docstring what the module around it has imported.
Names of PyTorch, numpy or a private module have to exist, but lead nowhere. What is left is reported, as
always.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.nodes import make_refnode

if TYPE_CHECKING:
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment

_CODE = re.compile(r"(hnetfast(?:\.\w+)+)(?:\(\))?")


@cache
def where_defined(name: str) -> str | None:
    """The name of a module, or of what is in one, where it is defined; None if there is no such thing."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            value: Any = importlib.import_module(".".join(parts[:count]))
        except (ImportError, ValueError):
            continue
        home = value.__name__
        for part in parts[count:]:
            owners = [base for base in getattr(value, "__mro__", ()) if _has(base, part)]
            if not owners and not _has(value, part):
                return None
            home = f"{owners[0].__module__}.{owners[0].__qualname__}" if owners else home
            value, home = getattr(value, part, None), f"{home}.{part}"
            if inspect.isclass(value) or inspect.isfunction(value):
                home = f"{value.__module__}.{value.__qualname__}"
        return home
    return None


def _has(owner: Any, name: str) -> bool:
    return (
        name in getattr(owner, "__dict__", {})
        or name in getattr(owner, "__annotations__", {})
        or (not inspect.isclass(owner) and hasattr(owner, name))
    )


@cache
def imported_names(module: str) -> dict[str, str]:
    """What a module imports, also for type checkers only, by the names that it uses."""
    found = {}
    try:
        tree = ast.parse(inspect.getsource(importlib.import_module(module)))
    except (ImportError, OSError, TypeError):
        return found
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return found


def _meanings(name: str, module: str | None, cls: str | None) -> Iterator[str]:
    """What a name may stand for in a docstring of a module, or of a class in it."""
    if module and cls:
        yield f"{module}.{cls}.{name}"
    if module:
        yield f"{module}.{name}"
        first, dot, rest = name.partition(".")
        if first in (imported := imported_names(module)):
            yield f"{imported[first]}{dot}{rest}"
    yield name


def _link(env: BuildEnvironment, docname: str, name: str, content: nodes.Node) -> nodes.reference | None:
    objects = env.domains["py"].objects  # type: ignore[attr-defined]
    for each in (name, where_defined(name)):
        if each in objects:
            entry = objects[each]
            return make_refnode(env._app.builder, docname, entry.docname, entry.node_id, [content], each)
    return None


def _resolve(app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.Element) -> Any:
    """Resolve a reference that Sphinx does not know."""
    if node.get("refdomain") != "py":
        return None
    meanings = list(_meanings(node["reftarget"], node.get("py:module"), node.get("py:class")))
    for name in meanings:
        if link := _link(env, node["refdoc"], name, content):
            return link
    homes = [home for home in map(where_defined, meanings) if home]
    elsewhere = any(not home.startswith("hnetfast.") or "._" in home for home in homes)
    return content if elsewhere else None


class LinkNamesInText(SphinxPostTransform):
    """Make links of ``hnetfast.…`` where it stands as code in the text."""

    default_priority = 15

    def run(self, **kwargs: Any) -> None:
        """Go through the page."""
        for node in list(self.document.findall(nodes.literal)):
            match = _CODE.fullmatch(node.astext())
            if match is None or isinstance(node.parent, (nodes.reference, pending_xref)):
                continue
            if link := _link(self.env, self.env.docname, match[1], node.deepcopy()):
                node.replace_self(link)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register both."""
    app.connect("missing-reference", _resolve)
    app.add_post_transform(LinkNamesInText)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
