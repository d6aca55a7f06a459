"""Creates or refreshes the development environment `.venv`, hnetfast installed editable, for the Makefile.

The dependencies (torch above all) are large, so checkouts share them: they live in a virtual environment in
the user's cache, named after a hash of what is in it, and `.venv` of the checkout only points there. hnetfast
itself is in `.venv`. Without a cache that can be written, `.venv` holds everything. Where nothing has
changed, nothing is done. ``--docs`` adds what builds the documentation, which nothing else needs.
"""

from __future__ import annotations  # an old Python gets as far as being told so

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
MARKER = ".made-by-hnetfast"
BASE_PYTHON = getattr(sys, "_base_executable", sys.executable)  # not .venv's own, which may be replaced here
PROJECT, CONSTRAINTS = ROOT / "pyproject.toml", ROOT / "constraints.txt"
EXTRAS = ("data", "examples", "adapters", "text", "hpsearch", "test", "dev")


def main() -> None:
    """Brings the environment up to date."""
    if sys.version_info < (3, 10):  # noqa: UP036  (whatever python3 is on PATH runs this)
        sys.exit(f"hnetfast needs Python 3.10 or newer; this is {platform.python_version()} (set PYTHON=…)")
    requirements = ["torch>=2.11", "numpy", *extras(PROJECT, EXTRAS)]
    key = digest(
        *requirements,
        CONSTRAINTS.read_text(),
        sys.version,
        sys.base_prefix,
        platform.machine(),
    )
    home = cache_folder()
    dependencies = home / key if home else VENV
    if home:
        with open(home / f"{key}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            install_dependencies(dependencies, requirements)
            if "--docs" in sys.argv[1:]:
                add_docs(dependencies)
        point_to(dependencies)
    else:
        install_dependencies(VENV, requirements)
        if "--docs" in sys.argv[1:]:
            add_docs(VENV)
    install_project(key)


def extras(pyproject: Path, names: Sequence[str]) -> list[str]:
    """Returns the requirements of some extras."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        from pip._vendor import tomli as tomllib
    declared = tomllib.loads(pyproject.read_text())["project"]["optional-dependencies"]
    return sorted({requirement for extra in names for requirement in declared[extra]})


def digest(*parts: str) -> str:
    """Returns a short name for the texts."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def cache_folder() -> Path | None:
    """Returns the writable folder for shared environments, or None."""
    cache = os.environ.get("XDG_CACHE_HOME") or (os.environ.get("HOME") and os.environ["HOME"] + "/.cache")
    if not cache or not os.path.isabs(cache):
        return None
    folder = Path(cache, "hnetfast")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".writable-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError:
        return None
    return folder


def install_dependencies(env: Path, requirements: list[str]) -> None:
    """Creates a virtual environment with everything but hnetfast. Its stamp is written last."""
    stamp = env / ".complete"
    wanted = digest(*requirements, CONSTRAINTS.read_text(), sys.version)
    if is_stamped(env, stamp, wanted):
        return
    print(f"Installing the dependencies in {env} (about 5 GB, some minutes the first time) …", flush=True)
    create(env, with_pip=True)
    pip(env, "install", "-c", str(CONSTRAINTS), *requirements)
    stamp.write_text(wanted)


def add_docs(env: Path) -> None:
    """Adds the packages that build the documentation to the dependencies, once."""
    stamp, requirements = env / ".docs-complete", extras(PROJECT, ["docs"])
    wanted = digest(*requirements)
    if is_stamped(env, stamp, wanted):
        return
    print(f"Installing what builds the documentation in {env} …", flush=True)
    pip(env, "install", "-c", str(CONSTRAINTS), *requirements)
    stamp.write_text(wanted)


def point_to(dependencies: Path) -> None:
    """Creates `.venv` with nothing in it but a reference to the environment of the dependencies."""
    stamp = VENV / ".complete"
    if is_stamped(VENV, stamp, str(dependencies)):
        return
    create(VENV, with_pip=False)
    (site_packages(VENV) / "hnetfast_dependencies.pth").write_text(f"{site_packages(dependencies)}\n")
    for program in ("basedpyright", "clang-format", "ninja", "ruff"):
        (VENV / "bin" / program).symlink_to(dependencies / "bin" / program)
    stamp.write_text(str(dependencies))


def install_project(key: str) -> None:
    """Installs hnetfast editable, which builds the extension, where its sources have changed since."""
    sources = [ROOT / "setup.py", ROOT / "pyproject.toml", *(ROOT / "build_support").glob("*.py")]
    sources += (ROOT / "csrc").rglob("*")
    wanted = digest(
        key,
        *(
            f"{name}={os.environ.get(name, '')}"
            for name in ("HNETFAST_BUILD", "CXX", "CUDA_HOME", "CXXFLAGS")
        ),
        *(f"{file.relative_to(ROOT)}\0{file.read_text()}" for file in sorted(sources) if file.is_file()),
    )
    stamp = VENV / ".installed"
    if is_stamped(VENV, stamp, wanted) and (ROOT / "hnetfast" / "_build_info.json").is_file():
        return
    stamp.unlink(missing_ok=True)
    print("Building hnetfast …", flush=True)
    pip(VENV, "install", "--no-build-isolation", "--no-deps", "-e", str(ROOT))
    stamp.write_text(wanted)


def is_stamped(env: Path, stamp: Path, wanted: str) -> bool:
    """Returns whether the environment is whole and of this kind."""
    return (env / "bin" / "python").exists() and stamp.is_file() and stamp.read_text() == wanted


def create(env: Path, with_pip: bool) -> None:
    """Creates an empty virtual environment, in place of a broken or outdated one."""
    if env.exists():
        if not (env / MARKER).exists():
            sys.exit(
                f"{env} was not made by `make`: move it away first, or use it with pip (CONTRIBUTING.md)."
            )
        shutil.rmtree(env)
    env.mkdir()
    (env / MARKER).touch()
    ensurepip = find_spec("ensurepip") is not None
    flags = [] if with_pip and ensurepip else ["--without-pip"]
    run(BASE_PYTHON, "-m", "venv", *flags, str(env))
    if with_pip and not ensurepip:  # Debian ships ensurepip apart
        run(BASE_PYTHON, "-m", "pip", "--python", str(env / "bin" / "python"), "install", "-qq", "pip")


def site_packages(env: Path) -> Path:
    """Returns the folder of an environment's packages."""
    return env / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"


def pip(env: Path, command: str, *arguments: str) -> None:
    """Runs pip of the environment, quiet but for errors."""
    path = f"{env / 'bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    flags = ["-qq", "--disable-pip-version-check", "--no-warn-script-location"]
    run(str(env / "bin" / "python"), "-m", "pip", command, *flags, *arguments, PATH=path)


def run(*command: str, **environment: str) -> None:
    """Runs a command and ends this program where it fails; the command has said why."""
    code = subprocess.run(command, env={**os.environ, **environment}, check=False).returncode
    if code:
        sys.exit(f"failed ({code}): {' '.join(command)}")


if __name__ == "__main__":
    main()
