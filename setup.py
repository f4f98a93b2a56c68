"""Builds quantize/kernels.c; all else about the package is in pyproject.toml.

It becomes a shared library that ctypes loads, without Python's headers, so that one build serves every Python. Without
a C compiler the package is installed all the same: it runs models, and what computes with weights says what is missing.
"""

from __future__ import annotations

import sys

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

# No option may let sums differ between processors: not -march, not -ffast-math.
UNIX_OPTIONS = ["-std=c11", "-O3", "-ffp-contract=off", "-fvisibility=hidden"]


class Library(build_ext):
    """Compiles to a library that bears no version of Python in its name."""

    def build_extension(self, ext: Extension) -> None:
        """Compile with the options of the compiler that was found."""
        ext.extra_compile_args = ["/O2"] if self.compiler.compiler_type == "msvc" else UNIX_OPTIONS
        super().build_extension(ext)

    def get_ext_filename(self, fullname: str) -> str:
        """The file of the library, relative to the packages."""
        return fullname.replace(".", "/") + (".dll" if sys.platform == "win32" else ".so")

    def get_export_symbols(self, ext: Extension) -> list[str]:
        """Nothing beside what the source exports."""
        return []


class Wheel(bdist_wheel):
    """A wheel for every Python 3 on one platform."""

    def get_tag(self) -> tuple[str, str, str]:
        """The wheel's tag."""
        return "py3", "none", super().get_tag()[2]


setup(
    ext_modules=[Extension("mimo_mobile.quantize.libkernels", ["quantize/kernels.c"], optional=True)],
    cmdclass={"build_ext": Library, "bdist_wheel": Wheel},
)
