"""Modules import from their own layer of the package or from a lower one, never upwards."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent

# From the bottom to the top; a module belongs where the longest prefix of its name stands.
LAYERS = {
    "foundations": ["hnetfast"],
    "kernels": ["hnetfast.kernels"],
    "ops": ["hnetfast.ops"],
    "layers": [
        "hnetfast.nn",
        "hnetfast.utils._evaluation_mode",
        "hnetfast.utils._spectral_norm",
        "hnetfast.utils._values",
        "hnetfast.utils.batchnorm_layer",
        "hnetfast.utils.context_mod_layer",
        "hnetfast.utils.init_utils",
        "hnetfast.utils.local_conv2d_layer",
        "hnetfast.utils.misc",
        "hnetfast.utils.self_attention_layer",
        "hnetfast.utils.torch_utils",
    ],
    "mnets": ["hnetfast.mnets"],
    "adapters": ["hnetfast.adapters"],  # which main networks call, but do not import
    "data": ["hnetfast.data"],  # one of its tasks is taught by a recurrent network
    "hnets": ["hnetfast.hnets"],
    "regularizers": ["hnetfast.regularizers"],
    "probabilistic": ["hnetfast.probabilistic"],
    "faces": ["hnetfast.utils"],
    "top": [
        "hnetfast._backends",
        "hnetfast._initial_scale",
        "hnetfast.compat",
        "hnetfast.examples",
        "hnetfast.hpsearch",
        "hnetfast.testing",
        "hnetfast.viz",
    ],
}


def module_files() -> dict[str, Path]:
    """All modules of the package and their files; ``kernels/`` is installed as ``hnetfast.kernels``."""
    files = {}
    for folder, package in (("hnetfast", "hnetfast"), ("kernels", "hnetfast.kernels")):
        for path in (ROOT / folder).rglob("*.py"):
            names = path.relative_to(ROOT / folder).with_suffix("").parts
            files[".".join([package, *names]).removesuffix(".__init__")] = path
    return files


def imported_names(source: str, package: str) -> Iterator[str]:
    """Names that a module of ``package`` imports, wherever it does, also for type checkers only."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            origin = ".".join([*parents, *([node.module] if node.module else [])])
            yield from (f"{origin}.{alias.name}" for alias in node.names)


def layer_of(module: str) -> int:
    def length(prefixes: list[str]) -> int:
        return max((len(p) for p in prefixes if f"{module}.".startswith(f"{p}.")), default=0)

    return max(range(len(LAYERS)), key=lambda i: length(list(LAYERS.values())[i]))


def upward_imports() -> set[tuple[str, str]]:
    files = module_files()
    found = set()
    for module, path in files.items():
        package = module if path.name == "__init__.py" else module.rpartition(".")[0]
        for name in imported_names(path.read_text(), package):
            target = name if name in files else name.rpartition(".")[0]
            if target in files and layer_of(target) > layer_of(module):
                found.add((module, target))
    return found


def test_no_module_imports_upwards():
    assert upward_imports() == set()


def test_all_kinds_of_imports_are_seen():
    source = """
import hnetfast.a
from hnetfast import b
from . import c
from ..other.d import name
if TYPE_CHECKING:
    from hnetfast.e import Name
def function():
    import hnetfast.f as g
"""
    assert sorted(imported_names(source, "hnetfast.package")) == [
        "hnetfast.a",
        "hnetfast.b",
        "hnetfast.e.Name",
        "hnetfast.f",
        "hnetfast.other.d.name",
        "hnetfast.package.c",
    ]


def test_every_layer_has_modules():
    occupied = {layer_of(module) for module in module_files()}
    assert occupied == set(range(len(LAYERS)))
