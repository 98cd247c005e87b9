"""Builds the kernels: every `ext/<package>/<name>.pyx` becomes `bandit_serve.<package>._<name>`.

Two stubs say what a kernel offers: `bandit_serve/<package>/_<name>.pyi` to Python and, where other kernels use its
classes from C, `_<name>.pxd` next to it. Headers in `ext/` are compiled into each kernel that takes something of them.

The sources are handed to setuptools as they are, without `cythonize()`, so that the sdist carries the `.pyx`.
"""

from pathlib import Path

import numpy
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

NUMPY = Path(numpy.__file__).parent
# No -march=native (wheels are portable) and no -ffast-math: a fold must give the same bits everywhere it is replayed.
COMPILE = ["-g0", "-ffp-contract=off", "-fno-math-errno", "-Wno-unreachable-code-fallthrough"]
FAST = "-O3"
# Folds of results count and look up: at -O3 they are no faster, and take half as long again to compile.
LIGHT, LIGHT_PACKAGES = "-O2", {"bandit_serve.results"}
# Cython's own code for memoryviews, once for all kernels: it took three quarters of their build and of their size.
SHARED = "bandit_serve._cython"
HEADERS = sorted([*Path("ext").glob("*.pxd"), *Path("ext").glob("*.h"), *Path("bandit_serve").rglob("*.pxd")])


def kernel(source: Path) -> Extension:
    package = ".".join(("bandit_serve", *source.parent.parts[1:]))
    return Extension(
        f"{package}._{source.stem}",
        [source.as_posix()],
        depends=[path.as_posix() for path in HEADERS],
        include_dirs=[numpy.get_include(), "ext"],
        library_dirs=[str(NUMPY / "random" / "lib"), str(NUMPY / "_core" / "lib")],
        libraries=["npyrandom", "npymath", "m"],
        define_macros=[("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION")],
        extra_compile_args=[LIGHT if package in LIGHT_PACKAGES else FAST, *COMPILE],
    )


class BuildKernels(build_ext):
    """Kernels in several threads, after what they share: Cython makes that from what every compilation changes."""

    def initialize_options(self) -> None:
        """Options of `setup()` would not do: an editable install forgets them."""
        super().initialize_options()
        self.cython_c_in_temp = True
        self.cython_include_dirs = ["."]
        self.parallel = True
        self.shared_utility_qualified_name = SHARED

    def build_extensions(self) -> None:
        every = self.extensions
        self.forget_what_is_older_than_a_header()
        for shared in (True, False):
            self.extensions = [extension for extension in every if (extension.name == SHARED) is shared]
            super().build_extensions()
        self.extensions = every

    def forget_what_is_older_than_a_header(self) -> None:
        """Cython does not look for headers above the folder of a kernel when it asks whether its C is up to date."""
        newest = max(path.stat().st_mtime for path in HEADERS)
        for made in Path(self.build_temp).rglob("*.c"):
            if made.stat().st_mtime < newest:
                made.unlink()


setup(
    ext_modules=[
        Extension(SHARED, [], extra_compile_args=[LIGHT, *COMPILE]),
        *(kernel(path) for path in sorted(Path("ext").rglob("*.pyx"))),
    ],
    cmdclass={"build_ext": BuildKernels},
)
