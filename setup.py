"""Build of hnetfast: the Python packages and, where a compiler is found, the extension hnetfast/_C."""

from glob import glob

from setuptools import find_packages, setup

packages = [*find_packages(include=["hnetfast", "hnetfast.*"]), "hnetfast.kernels"]
package_dir = {"hnetfast": "hnetfast", "hnetfast.kernels": "kernels"}

sources = sorted(glob("csrc/*.cpp"))
ext_modules, cmdclass = [], {}
if sources:
    from torch.utils.cpp_extension import BuildExtension, CppExtension

    ext_modules = [
        CppExtension(
            "hnetfast._C",
            sources,
            extra_compile_args=["-O3", "-std=c++17", "-fopenmp", "-fvisibility=hidden"],
            extra_link_args=["-fopenmp"],
            py_limited_api=False,
        )
    ]
    cmdclass = {"build_ext": BuildExtension.with_options(use_ninja=True)}

setup(packages=packages, package_dir=package_dir, ext_modules=ext_modules, cmdclass=cmdclass)
