"""Experimentation and serving: live prediction traffic over model versions, by bandits or A/B tests."""

from importlib.machinery import PathFinder
from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("bandit-serve")
    _built = PathFinder.find_spec("bandit_serve._cython", __path__) is not None
except PackageNotFoundError:
    _built = False
if not _built:
    raise ImportError(
        f"The kernels of bandit_serve are not built in {__path__[0]}: run `pip install -e .` in the checkout, "
        "or import the installed package from another directory."
    )
