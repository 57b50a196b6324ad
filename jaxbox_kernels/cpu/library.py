"""The library of native kernels: where it is, and its functions as targets of `jax.ffi`.

It is compiled when the package is installed, if there is a C++ compiler.
"""

import ctypes
import functools
import importlib.resources
import platform

import jax

FORWARD = "jaxbox_box_conv_forward"
BACKWARD = "jaxbox_box_conv_backward"

_NAME = "jaxbox_cpu"
_SUFFIX = {"Windows": ".dll", "Darwin": ".so"}.get(platform.system(), ".so")
_PREFIX = "" if platform.system() == "Windows" else "lib"


@functools.cache
def why_missing() -> str | None:
    """Loads the library, and says why it cannot be used; `None` if it can."""
    file = importlib.resources.files(__package__) / f"{_PREFIX}{_NAME}{_SUFFIX}"
    if not file.is_file():
        return (
            "jaxbox was installed without its native kernels, for lack of a C++ compiler or CMake; "
            "install both and reinstall jaxbox"
        )
    try:
        library = ctypes.CDLL(str(file))
        for name in (FORWARD, BACKWARD):
            capsule = jax.ffi.pycapsule(getattr(library, name))
            jax.ffi.register_ffi_target(name, capsule, platform="cpu")
    except (OSError, AttributeError, RuntimeError) as error:
        return f"the library of native kernels cannot be loaded: {error}"
    return None
