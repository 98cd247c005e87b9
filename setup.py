"""Builds the kernels: every `ext/<name>.pyx` becomes `bandit_serve._<name>`.

The sources are handed to setuptools as they are, without `cythonize()`, so that the sdist carries the `.pyx`.
"""

from pathlib import Path

import numpy
from setuptools import Extension, setup

NUMPY = Path(numpy.__file__).parent
# No -march=native (wheels are portable) and no -ffast-math: a fold must give the same bits everywhere it is replayed.
COMPILE = ["-O3", "-g0", "-ffp-contract=off", "-fno-math-errno", "-Wno-unreachable-code-fallthrough"]
# Holds what Cython would compile into every kernel, such as its memoryviews.
SHARED = "bandit_serve._cython"


def kernel(source: Path) -> Extension:
    return Extension(
        f"bandit_serve._{source.stem}",
        [source.as_posix()],
        depends=[
            path.as_posix() for pattern in ("*.pxd", "*.h") for path in sorted(Path("ext").glob(pattern))
        ],
        include_dirs=[numpy.get_include(), "ext"],
        library_dirs=[str(NUMPY / "random" / "lib"), str(NUMPY / "_core" / "lib")],
        libraries=["npyrandom", "npymath", "m"],
        define_macros=[("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION")],
        extra_compile_args=COMPILE,
    )


shared = Extension(SHARED, [f"{SHARED.replace('.', '/')}.c"], extra_compile_args=COMPILE)

setup(
    ext_modules=[shared, *(kernel(path) for path in sorted(Path("ext").glob("*.pyx")))],
    options={
        "build_ext": {"cython_c_in_temp": True, "parallel": True, "shared_utility_qualified_name": SHARED}
    },
)
