"""Build of hnetfast: the Python packages and, where a compiler is found, the extension hnetfast/_C."""

import json
import os
import sys
from pathlib import Path

import setuptools
from setuptools import find_packages, setup

# pip checks this only when it isolates the build; editable installations came with 64
if int(setuptools.__version__.split(".")[0]) < 64:
    raise SystemExit(
        f"hnetfast: setuptools 64 or newer is needed to build, found {setuptools.__version__}. "
        "Leave out --no-build-isolation, or: python -m pip install -U 'setuptools>=64,<82'"
    )


from setuptools.command.build_py import build_py
from setuptools.command.editable_wheel import editable_wheel
from setuptools.errors import ModuleError

ROOT = Path(__file__).resolve().parent
try:
    bdist_wheel = setuptools.Distribution().get_command_class("bdist_wheel")
except ModuleError:  # setuptools has its own since 70.1, and wheel none since 0.46
    raise SystemExit(
        f"hnetfast: setuptools {setuptools.__version__} needs the package wheel to build. Leave out "
        "--no-build-isolation, or: python -m pip install 'wheel<0.46', or: -U 'setuptools>=70.1,<82'"
    ) from None
sys.path.insert(0, str(ROOT / "build_support"))
import hnetfast_build as build  # noqa: E402

PACKAGES = [*find_packages(include=["hnetfast", "hnetfast.*"]), "hnetfast.kernels"]
PACKAGE_DIR = {"hnetfast": "hnetfast", "hnetfast.kernels": "kernels"}
CXX_FLAGS = [
    "-O3",
    "-g0",
    "-fvisibility=hidden",
    "-fvisibility-inlines-hidden",
    "-Wall",
    "-Wno-unknown-pragmas",
]


def sources(ending: str) -> list[str]:
    """Returns the files of csrc, in whatever folder, that end so."""
    return sorted(str(path.relative_to(ROOT)) for path in (ROOT / "csrc").rglob(f"*.{ending}"))


def write_build_info(folder: Path, info: dict) -> None:
    """Writes what the build was made with, for `hnetfast.backends()` and for the check at load time."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "_build_info.json").write_text(json.dumps(info, indent=1) + "\n")


def pure_setup(reason: str) -> dict:
    """Returns setup()'s arguments for a build without the extension."""
    info = {"extension": False, "reason": reason}

    def told(command: type) -> type:
        class Told(command):
            def run(self):
                build.say(f"installing as pure Python, without compiled kernels: {reason}")
                if command is editable_wheel:
                    for built in (ROOT / "hnetfast").glob("_C*.so"):
                        built.unlink()
                    write_build_info(ROOT / "hnetfast", info)
                super().run()

        return Told

    class PureBuildPy(build_py):
        def run(self):
            super().run()
            if not self.editable_mode:
                write_build_info(Path(self.build_lib, "hnetfast"), info)

    return {
        "install_requires": [build.TORCH, "numpy"],
        "cmdclass": {
            "bdist_wheel": told(bdist_wheel),
            "editable_wheel": told(editable_wheel),
            "build_py": PureBuildPy,
        },
    }


def extension_setup(cpp_sources: list[str]) -> dict:
    """Returns setup()'s arguments for a build with the extension."""
    cxx = build.compiler()
    if "CXX" not in os.environ:
        os.environ["CXX"] = cxx
        os.environ.setdefault("LDCXXSHARED", f"{cxx} -shared")
    cuda_sources = sources("cu")
    import torch

    cuda, why_not = None, "there are no CUDA sources"
    sanitizer = os.environ.get("HNETFAST_SANITIZE", "").split()  # flags of the compiler, for `make asan`
    if sanitizer:
        why_not = "this is a build with a sanitizer"
    elif cuda_sources:
        cuda, why_not = build.cuda_home(torch.version.cuda)
        if cuda is None:
            build.say(f"leaving the CUDA sources out: {why_not}")
        else:
            # torch reads both at import; it would guess the folder from whatever nvcc is first on PATH.
            os.environ["CUDA_HOME"] = cuda
            os.environ.setdefault("TORCH_CUDA_ARCH_LIST", "8.0;9.0+PTX")
    from torch.utils.cpp_extension import BuildExtension, CppExtension, CUDAExtension

    # Compiled with -fopenmp, not linked with it: the GOMP_* symbols come from the OpenMP runtime that
    # libtorch_cpu has loaded, whatever its file is called: the process never gets a second pool of threads.
    openmp = ["-fopenmp"] if torch.backends.openmp.is_available() else []
    flags = {"cxx": [*CXX_FLAGS, *openmp, *sanitizer], "nvcc": ["-O3"]}
    extension = (CUDAExtension if cuda else CppExtension)(
        "hnetfast._C",
        cpp_sources + (cuda_sources if cuda else []),
        include_dirs=[str(ROOT / "csrc")],
        depends=[*sources("h"), *sources("cuh"), "setup.py"],
        extra_compile_args=flags,
        extra_link_args=sanitizer,
        py_limited_api=True,  # the kernels are reached through torch.ops: no symbol of Python is used
    )
    info = {
        "extension": True,
        "torch": torch.__version__,
        "compiler": cxx,
        "flags": " ".join(flags["cxx"]),
        "cuda": why_not if cuda else None,
        "cuda_reason": None if cuda else why_not,
    }

    class BuildExt(BuildExtension):
        def finalize_options(self):
            super().finalize_options()
            if self.editable_mode:
                # Kept between calls, unlike setuptools' choice, so that ninja compiles only what has changed.
                self.build_temp = str(ROOT / "build" / "editable")

        def build_extensions(self):
            # local_conv2d.cpp and local_conv2d.cu must not both become local_conv2d.o.
            named_by_stem = self.compiler.object_filenames

            def object_filenames(files, **options):
                names = zip(files, named_by_stem(files, **options), strict=True)
                return [f"{name[:-2]}cu.o" if file.endswith(".cu") else name for file, name in names]

            self.compiler.object_filenames = object_filenames
            super().build_extensions()

        def run(self):
            super().run()
            write_build_info(Path(self.build_lib, "hnetfast"), info)
            if self.inplace or self.editable_mode:
                write_build_info(ROOT / "hnetfast", info)

    major, minor = torch.__version__.split(".")[:2]
    return {
        "ext_modules": [extension],
        "cmdclass": {"build_ext": BuildExt},
        # torch's C++ interface is stable within a minor version only
        "install_requires": [f"torch=={major}.{minor}.*", "numpy"],
        "options": {"bdist_wheel": {"py_limited_api": "cp310"}},
    }


os.chdir(ROOT)
cpp_sources = sources("cpp")
pure_reason = build.why_pure() if cpp_sources else "the sources hold no extension"
setup(
    packages=PACKAGES,
    package_dir=PACKAGE_DIR,
    license="Apache-2.0",
    **(pure_setup(pure_reason) if pure_reason else extension_setup(cpp_sources)),
)
