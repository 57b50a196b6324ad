"""The library of native kernels: where it is, and its functions as targets of `jax.ffi`.

It is compiled when the package is installed, if there is a C++ compiler, for several instruction
sets.
"""

import ctypes
import functools
import importlib.resources
import sys
from importlib.resources.abc import Traversable

import jax

FORWARD = "jaxbox_box_conv_forward"
BACKWARD = "jaxbox_box_conv_backward"

# The number of the calls' form, of which `ffi.cc` has a copy. Raise both when a call changes, so
# that a library of older sources is refused here and not by XLA when a program runs.
_CALLS_VERSION = 2

# CMake calls a module so on macOS, too.
_SUFFIX = ".dll" if sys.platform == "win32" else ".so"


@functools.cache
def why_missing() -> str | None:
    """Loads the library, and says why it cannot be used; `None` if it can."""
    if not _file("libjaxbox_cpu").is_file():
        return (
            "jaxbox was built without its native kernels, since there was no C++ compiler or it "
            "failed; README.md tells under 'Install' how to build them"
        )
    try:
        kernels = ctypes.CDLL(str(_file(f"libjaxbox_cpu_{_best_instruction_set()}")))
        if (version := _calls_version(kernels)) != _CALLS_VERSION:
            return (
                f"the library of native kernels has calls of version {version} and this jaxbox "
                f"makes those of version {_CALLS_VERSION}: it was compiled from other sources; "
                "install jaxbox again, as README.md tells under 'Install'"
            )
        for name in (FORWARD, BACKWARD):
            capsule = jax.ffi.pycapsule(getattr(kernels, name))
            jax.ffi.register_ffi_target(name, capsule, platform="cpu")
    except (OSError, AttributeError, RuntimeError) as error:
        return f"the library of native kernels cannot be loaded: {error}"
    return None


def _calls_version(kernels: ctypes.CDLL) -> int:
    """The version of the calls that a library serves; 0 if it is older than these versions."""
    function = getattr(kernels, "jaxbox_calls_version", None)
    return 0 if function is None else int(function())


def _file(name: str) -> Traversable:
    # In an editable installation libraries are not beside this file, and only the package knows.
    return importlib.resources.files(__package__) / f"{name}{_SUFFIX}"


def _best_instruction_set() -> str:
    """The best instruction set that this CPU has and a library was built for."""
    choose = ctypes.CDLL(str(_file("libjaxbox_cpu"))).jaxbox_best_instruction_set
    choose.restype = ctypes.c_char_p
    name: bytes = choose()
    return name.decode()
