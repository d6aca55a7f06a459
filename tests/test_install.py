"""Wheels built from the sources, installed in an empty folder and used outside the repository."""

import ensurepip
import os
import shutil
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import pytest

import hnetfast

ROOT = Path(__file__).resolve().parent.parent
SOURCES = (
    "pyproject.toml",
    "setup.py",
    "README.md",
    "LICENSE",
    "build_support",
    "csrc",
    "hnetfast",
    "kernels",
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (ROOT / "setup.py").exists(), reason="needs the sources of hnetfast"),
]

USE = """
    import sys, torch
    sys.path.insert(0, sys.argv[1])
    import hnetfast, hnetfast.kernels
    from hnetfast.hnets.chunked_mlp_hnet import ChunkedHMLP
    assert all(p.startswith(sys.argv[1]) for p in [*hnetfast.__path__, *hnetfast.kernels.__path__])
    print(hnetfast.backends())
    torch.manual_seed(0)
    h = ChunkedHMLP([[10, 4], [10], [3, 10]], 17, num_cond_embs=2, layers=[8], verbose=False)
    sum(w.square().sum() for sample in h.forward(cond_id=[0, 1]) for w in sample).backward()
    assert all(p.grad is not None for p in h.parameters())
    print("weights", [tuple(w.shape) for w in h.forward(cond_id=0)])
"""


# These sources were compiled for the checkout, by the same setup.py: here it is about what goes into a wheel.
COMPILER = """#!{python}
import os, shutil, sys
from pathlib import Path

if "-o" not in sys.argv:
    os.execvp("c++", ["c++", *sys.argv[1:]])
output = Path(sys.argv[sys.argv.index("-o") + 1])
if output.suffix == ".o":
    output.touch()
    output.with_suffix(".o.d").touch()
else:
    shutil.copy({extension!r}, output)
"""


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """A copy of the sources, without what was built in the checkout."""
    folder = tmp_path_factory.mktemp("sources")
    skip = shutil.ignore_patterns("__pycache__", "_C*.so", "_build_info.json")
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=skip)
        elif source.exists():
            shutil.copy(source, folder / name)
    return folder


def pip(*arguments, **environment):
    # Whoever runs the tests may have forbidden the build, or be using the reference.
    own = {k: v for k, v in os.environ.items() if not k.startswith("HNETFAST_")}
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", *map(str, arguments)],
        env={**own, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def build_and_install(sources, folder, **environment):
    """Returns the wheel, the folder it is installed in, and what the person at the terminal saw."""
    flags = ("--no-deps", "--no-build-isolation", "--quiet")
    seen = pip("wheel", sources, *flags, "--wheel-dir", folder / "wheels", **environment).stderr
    (wheel,) = (folder / "wheels").glob("*.whl")
    pip("install", wheel, "--no-deps", "--quiet", "--target", folder / "site")
    return wheel, folder / "site", seen


def use(site, cwd, **environment):
    own = {k: v for k, v in os.environ.items() if not k.startswith("HNETFAST_") and k != "PYTHONPATH"}
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(USE), str(site)],
        env={**own, **environment},
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def compiled(sources, tmp_path_factory):
    folder = tmp_path_factory.mktemp("compiled")
    extension = next(Path(hnetfast.__file__).parent.glob("_C*.so"), None)
    if extension is None:
        return build_and_install(sources, folder)
    stand_in = folder / "c++"
    stand_in.write_text(COMPILER.format(python=sys.executable, extension=str(extension)))
    stand_in.chmod(0o755)
    return build_and_install(sources, folder, CXX=str(stand_in), CUDA_HOME=str(folder))


@pytest.fixture(scope="module")
def pure(sources, tmp_path_factory):
    return build_and_install(sources, tmp_path_factory.mktemp("pure"), HNETFAST_BUILD="0")


needs_compiler = pytest.mark.skipif(
    not any(shutil.which(name) for name in (os.environ.get("CXX", "c++"), "g++", "clang++")),
    reason="needs a C++ compiler",
)


@needs_compiler
def test_wheel_runs_its_kernels_outside_the_repository(compiled, tmp_path):
    _, site, seen = compiled
    assert "pure Python" not in seen
    done = use(site, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "cpu   C++" in done.stdout and "weights [(10, 4), (10,), (3, 10)]" in done.stdout


@needs_compiler
def test_wheel_holds_the_packages_and_nothing_else(compiled, sources):
    wheel, _, _ = compiled
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"hnetfast"}
    packages = {sources / "hnetfast": "hnetfast", sources / "kernels": "hnetfast/kernels"}
    modules = {
        f"{name}/{file.relative_to(folder).as_posix()}"
        for folder, name in packages.items()
        for file in folder.glob("**/*.py")
    }
    assert modules == {name for name in names if name.endswith(".py")}
    assert {"hnetfast/py.typed", "hnetfast/_C.abi3.so", "hnetfast/_build_info.json"} <= set(names)
    metadata = next(name for name in names if name.endswith(".dist-info/METADATA"))
    text = zipfile.ZipFile(wheel).read(metadata).decode()
    assert "\nRequires-Dist: torch==2." in text and "\nLicense: Apache-2.0\n" in text
    assert any(name.endswith("/LICENSE") for name in names)


@needs_compiler
def test_wheel_with_the_reference_backend(compiled, tmp_path):
    done = use(compiled[1], tmp_path, HNETFAST_BACKEND="reference")
    assert done.returncode == 0, done.stderr
    assert "cpu   reference (HNETFAST_BACKEND=reference)" in done.stdout and "cpu   C++" not in done.stdout


def test_build_that_is_switched_off_gives_a_pure_wheel_that_says_so(pure, tmp_path):
    wheel, site, seen = pure
    assert wheel.name.endswith("-py3-none-any.whl")
    assert seen.count("installing as pure Python, without compiled kernels: HNETFAST_BUILD=0") == 1
    done = use(site, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "pure Python build: HNETFAST_BUILD=0" in done.stdout
    assert done.stderr.count("RuntimeWarning") == 1


def test_old_setuptools_reads_the_project_and_says_what_is_missing(sources):
    """That of a new environment of Python 3.11 and older."""
    bundled = sorted(Path(ensurepip.__file__).parent.glob("_bundled/setuptools-*.whl"))
    if not bundled:
        pytest.skip("this Python brings no setuptools")
    read = "from setuptools.config.pyprojecttoml import read_configuration as r; r('pyproject.toml', False)"
    options = {"cwd": sources, "capture_output": True, "text": True}
    options["env"] = {**os.environ, "PYTHONPATH": str(bundled[-1]), "HNETFAST_BUILD": "0"}
    done = subprocess.run([sys.executable, "-c", read], **options)
    assert done.returncode == 0, done.stderr
    done = subprocess.run([sys.executable, "setup.py", "--version"], **options)
    assert done.stdout.strip() == hnetfast.__version__ or "pip install 'wheel<0.46'" in done.stderr


def test_without_a_compiler_the_wheel_is_pure_and_says_so(sources, tmp_path):
    no_programs = {"PATH": str(tmp_path), "CXX": ""}
    seen = pip(
        "wheel", sources, "--no-deps", "--no-build-isolation", "-q", "-w", tmp_path, **no_programs
    ).stderr
    assert seen.count("installing as pure Python, without compiled kernels: no C++ compiler was found") == 1
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.endswith("-py3-none-any.whl")


@needs_compiler
def test_error_in_the_sources_fails_the_build(sources, tmp_path):
    broken = tmp_path / "sources"
    shutil.copytree(sources, broken, ignore=shutil.ignore_patterns("build", "*.egg-info", "*.cpp", "*.cu"))
    (broken / "csrc" / "broken.cpp").write_text("#error this can not be compiled\n")
    with pytest.raises(AssertionError, match="this can not be compiled"):
        pip("wheel", broken, "--no-deps", "--no-build-isolation", "-w", tmp_path)
