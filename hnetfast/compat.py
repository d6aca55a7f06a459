"""Runs code that was written for hypnettorch on hnetfast, unchanged.

Either call :func:`install` before the first ``import hypnettorch``, or start the script with
``python -m hnetfast.compat script.py arguments…`` (or ``-m package.module``).
"""

import importlib
import importlib.util
import io
import multiprocessing
import multiprocessing.spawn
import pkgutil
import runpy
import sys
import warnings
from importlib.abc import InspectLoader, Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import CodeType, ModuleType

from hnetfast._locks import ProcessLock

_OLD, _NEW = "hypnettorch", "hnetfast"
_lock = ProcessLock()
_shadowed: dict[str, ModuleType] = {}


def _is_old(name: str) -> bool:
    return name == _OLD or name.startswith(_OLD + ".")


def _new_name(name: str) -> str:
    return _NEW + name.removeprefix(_OLD)


class _AliasLoader(Loader):
    """Enters hnetfast's own module object under hypnettorch's name, so that classes exist only once."""

    def exec_module(self, module: ModuleType) -> None:
        # The import system takes whatever stands in sys.modules after this call.
        sys.modules[module.__name__] = importlib.import_module(_new_name(module.__name__))

    def get_code(self, name: str) -> CodeType | None:
        """Returns the code of a module that is run with ``python -m``."""
        spec = importlib.util.find_spec(_new_name(name))
        loader = spec and spec.loader
        return loader.get_code(_new_name(name)) if isinstance(loader, InspectLoader) else None


class _AliasFinder(MetaPathFinder):
    """Answers for every module of hypnettorch, whether or not that is installed."""

    def find_spec(self, name, path=None, target=None) -> ModuleSpec | None:
        if not _is_old(name):
            return None
        found = importlib.util.find_spec(_new_name(name))
        if found is None:
            raise ModuleNotFoundError(
                f"No module named {name!r}: hnetfast.compat is installed, and hnetfast has no "
                f"{_new_name(name)!r}.",
                name=name,
            )
        is_package = found.submodule_search_locations is not None
        return importlib.util.spec_from_loader(name, _AliasLoader(), is_package=is_package)


_finder = _AliasFinder()
_prepare_process = multiprocessing.spawn.get_preparation_data


class _InstallWhenUnpickled:
    """Pickled, this is a call of :func:`install`."""

    def __reduce__(self):
        return install, ()


def _prepare_process_with_compat(name: str) -> dict:
    """Returns what a new process reads before it imports the program; reading it installs."""
    return {**_prepare_process(name), __name__: _InstallWhenUnpickled()}


def install() -> None:
    """Makes ``import hypnettorch…`` resolve to ``hnetfast…``; a second call does nothing.

    It doesn't matter whether hypnettorch itself is installed. Where it has been imported already, a
    ``RuntimeWarning`` says so: later imports resolve to hnetfast, names taken before stay what they are.
    A module that hnetfast lacks raises ``ModuleNotFoundError`` instead of falling back to the original.
    Processes that ``multiprocessing`` starts from now on, data loaders' workers among them, do the same.
    """
    with _lock:
        if _finder in sys.meta_path:
            return
        _shadowed.update({name: module for name, module in list(sys.modules.items()) if _is_old(name)})
        for name in _shadowed:
            del sys.modules[name]
        sys.meta_path.insert(0, _finder)
        multiprocessing.spawn.get_preparation_data = _prepare_process_with_compat
        if _shadowed:
            warnings.warn(
                "hypnettorch was imported before hnetfast.compat.install(): what was taken from it stays "
                "the original, only later imports resolve to hnetfast.",
                RuntimeWarning,
                stacklevel=2,
            )


def uninstall() -> None:
    """Undoes :func:`install`: hypnettorch's names mean again what they meant before. Else does nothing."""
    with _lock:
        if _finder not in sys.meta_path:
            return
        sys.meta_path.remove(_finder)
        multiprocessing.spawn.get_preparation_data = _prepare_process
        for name in [name for name in sys.modules if _is_old(name)]:
            del sys.modules[name]
        sys.modules.update(_shadowed)
        _shadowed.clear()


def _run_script(script: Path) -> None:
    """Runs a file as ``python script`` does: ``__file__`` is absolute, ``sys.argv[0]`` as it was given.

    ``runpy.run_path`` gives both the same value, and takes ``__main__`` away before ``atexit``.
    """
    main = ModuleType("__main__")
    main.__file__ = str(script.absolute())
    sys.modules["__main__"] = main
    with io.open_code(main.__file__) as file:
        code = compile(file.read(), main.__file__, "exec", dont_inherit=True)
    exec(code, vars(main))


def _main() -> None:
    usage = "usage: python -m hnetfast.compat (script.py | -m module) [arguments …]"
    arguments = sys.argv[1:]
    if arguments and arguments[0] in ("-h", "--help"):
        print(f"{usage}\n\nRuns a program written for hypnettorch on hnetfast.")
        return
    as_module = arguments[:1] == ["-m"]
    if len(arguments) < 1 + as_module or (arguments[0].startswith("-") and not as_module):
        sys.exit(usage)
    program, *sys.argv[1:] = arguments[as_module:]
    if not as_module and not Path(program).exists():
        sys.exit(f"{program}: no such file\n{usage}")
    # Not this module's install(): here it runs as __main__, and the program may import hnetfast.compat.
    importlib.import_module("hnetfast.compat").install()
    # The server of "forkserver" is told nothing but would import the program; its processes do so themselves.
    multiprocessing.set_forkserver_preload([])
    sys.argv[0] = program
    if as_module:
        runpy.run_module(program, run_name="__main__", alter_sys=True)
    else:
        sys.path[0] = str(Path(program).resolve().parent)
        if pkgutil.get_importer(program) is None:
            _run_script(Path(program))
        else:  # a folder or an archive with a __main__.py
            runpy.run_path(program, run_name="__main__")


if __name__ == "__main__":
    _main()
