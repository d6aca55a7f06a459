"""Docstrings stand whole where they are read, in an editor, and send nobody to another place."""

import importlib
import inspect
import pkgutil
import re
from dataclasses import is_dataclass
from functools import cache

import pytest

import hnetfast

# Instead of what an argument is.
HINT = re.compile(r"(?:see|as for|like|as in)\b[^.:;,]*(?::\w+:`[^`]*`|there)[^.:;,]*\.?\s*$", re.I)


@cache
def functions():
    """All public functions and methods, with the docstring that an editor shows."""
    found = {}
    for info in pkgutil.walk_packages(hnetfast.__path__, "hnetfast."):
        if "._" in info.name or info.name.startswith("hnetfast.kernels"):
            continue
        module = importlib.import_module(info.name)
        for name, value in vars(module).items():
            if name.startswith("_") or getattr(value, "__module__", None) != module.__name__:
                continue
            if inspect.isfunction(value):
                found[f"{module.__name__}.{name}"] = value, value.__doc__
            elif inspect.isclass(value):
                if (
                    "__init__" in vars(value)
                    and not issubclass(value, BaseException)
                    and not is_dataclass(value)
                ):
                    found[f"{module.__name__}.{name}"] = value.__init__, value.__doc__
                for base in value.__mro__:
                    if not base.__module__.startswith("hnetfast"):
                        continue
                    for attribute, member in vars(base).items():
                        member = getattr(member, "__func__", member)
                        key = f"{base.__module__}.{base.__qualname__}.{attribute}"
                        if inspect.isfunction(member) and not attribute.startswith("_"):
                            found[key] = member, shown(base, attribute)
    return found


def shown(kind, attribute):
    """A method's docstring, or that of the nearest base class whose method has one."""
    for base in kind.__mro__:
        member = vars(base).get(attribute)
        if (
            doc := getattr(member, "__func__", member) is not None
            and getattr(member, "__func__", member).__doc__
        ):
            return doc
    return None


def documented(docstring):
    """The arguments in the section Args, and what is said about each."""
    section = re.search(r"^( *)Args:\n((?:\1    .*\n|\s*\n)*)", docstring + "\n", re.M)
    if not section:
        return {}
    entries = re.split(rf"^{section[1]}    (?=\S)", section[2], flags=re.M)[1:]
    found = {}
    for entry in entries:
        names, _, text = entry.partition(":")
        found |= {name.strip(" *"): text for name in names.split(",")}
    return found


@pytest.mark.parametrize("name", functions())
def test_a_function_tells_its_arguments(name):
    function, docstring = functions()[name]
    assert docstring, "has no docstring"
    parameters = [p for p in inspect.signature(function).parameters if p not in ("self", "cls")]
    told = documented(docstring)
    if "show_<option>" in told:  # hnetfast.utils.cli_args, whose arguments are made of the options' names
        parameters = [p for p in parameters if p in told or not re.match("show_|d", p)]
        told = {p: text for p, text in told.items() if "<option>" not in p}
    assert list(told) == parameters or set(told) == set(parameters)
    hints = [p for p, text in told.items() if HINT.match(" ".join(text.split()))]
    assert "see there" not in docstring.lower()
    assert not hints, f"the descriptions of {hints} are to be looked up elsewhere"
