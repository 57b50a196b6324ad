"""The library of native kernels: where it is, and its functions as targets of `jax.ffi`.

It is compiled when the package is installed, if there is a C++ compiler.
"""

import ctypes
import functools
import importlib.resources
import sys

import jax

FORWARD = "jaxbox_box_conv_forward"
BACKWARD = "jaxbox_box_conv_backward"

# CMake calls a module so on macOS, too.
_NAME = "libjaxbox_cpu.dll" if sys.platform == "win32" else "libjaxbox_cpu.so"


@functools.cache
def why_missing() -> str | None:
    """Loads the library, and says why it cannot be used; `None` if it can."""
    # In an editable installation the library is not beside this file, and only the package knows.
    file = importlib.resources.files(__package__) / _NAME
    if not file.is_file():
        return (
            "jaxbox was built without its native kernels, since there was no C++ compiler or it "
            "failed; README.md tells under 'Install' how to build them"
        )
    try:
        library = ctypes.CDLL(str(file))
        for name in (FORWARD, BACKWARD):
            capsule = jax.ffi.pycapsule(getattr(library, name))
            jax.ffi.register_ffi_target(name, capsule, platform="cpu")
    except (OSError, AttributeError, RuntimeError) as error:
        return f"the library of native kernels cannot be loaded: {error}"
    return None
