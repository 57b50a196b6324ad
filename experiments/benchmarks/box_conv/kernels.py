"""Times each GPU kernel of box convolution, forward with both gradients.

JAX's profiler records when each kernel starts and ends. Calls take turns on copies of the images
that do not fit into the cache together. Busy is the time of all kernels of a call, span that from
one call to the next, with the gaps between kernels. Prints a table for each shape and dtype, and
writes JSON.
"""

import math
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.profiler import ProfileData

from experiments.benchmarks.box_conv import compilation
from experiments.benchmarks.box_conv.contestants import box_conv_planes, images, sample_boxes
from experiments.benchmarks.box_conv.shapes import DTYPES, GPU_SHAPES, Shape, check_dtypes
from experiments.common import report
from experiments.common.command_line import MOST_ROUNDS, check_list, check_whole, read_settings
from experiments.common.program import UserError

# Several times the second-level cache of an H200.
_PAST_CACHE_BYTES = 2**28


@dataclass(frozen=True)
class Settings:
    """Times each GPU kernel of box convolution."""

    shapes: tuple[str, ...] = GPU_SHAPES
    """Shapes B,C,H,W,F: images, channels, height, width, and boxes for each channel."""
    dtypes: tuple[str, ...] = DTYPES
    """Dtypes of the images: float32, bfloat16 or both."""
    rounds: int = 20
    """Number of times that each copy of the images is used."""
    out: Path = Path("runs/profile_box_conv.json")
    """JSON file for the figures."""


@dataclass(frozen=True)
class Kernel:
    """A kernel of a program.

    Attributes:
      name: the name in the profile.
      microseconds: the mean time of a launch.
      launches: the number of launches in a call.
    """

    name: str
    microseconds: float
    launches: float


@dataclass(frozen=True)
class Profile:
    """The kernels of a call, the slowest first.

    Attributes:
      busy: the time of all kernels of a call, in microseconds.
      span: the time from one call to the next, in microseconds.
      kernels: the kernels.
    """

    busy: float
    span: float
    kernels: list[Kernel]


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the program."""
    settings = read_settings(Settings, arguments, description=__doc__)
    for name, values in (("shapes", settings.shapes), ("dtypes", settings.dtypes)):
        check_list(f"--{name}", values)
    check_dtypes(settings.dtypes)
    shapes = [Shape.parse(text) for text in settings.shapes]
    check_whole("--rounds", settings.rounds, 1, MOST_ROUNDS)
    report.make_writable(settings.out)
    if jax.default_backend() != "gpu":
        raise UserError("JAX found no GPU, whose kernels this program times")
    profiles = []
    for dtype in settings.dtypes:
        for shape in shapes:
            profile = _profile(shape, dtype, settings.rounds)
            print(f"{shape}, {dtype}\n{_table(profile)}\n", flush=True)
            profiles.append({"shape": shape, "dtype": dtype, **asdict(profile)})
    report.write(settings.out, {"shapes_are": Shape._fields, "profiles": profiles})


def _profile(shape: Shape, dtype: str, rounds: int) -> Profile:
    """Profiles forward with both gradients on planes."""
    theta = sample_boxes(shape)
    arguments = compilation.arguments("forward+backward", images(shape, dtype)["planes"], theta)
    function = compilation.function(box_conv_planes, "forward+backward")
    call = compilation.compile_once(function, arguments).executable
    moved_bytes = shape.moved_bytes(dtype, "forward+backward")
    copies = [
        jax.tree.map(jnp.copy, arguments) for _ in range(math.ceil(_PAST_CACHE_BYTES / moved_bytes))
    ]
    for copy in copies:
        jax.block_until_ready(call(*copy))
    with tempfile.TemporaryDirectory() as directory:
        with jax.profiler.trace(directory):
            for _ in range(rounds):
                results = [call(*copy) for copy in copies]
                jax.block_until_ready(results)
        (path,) = Path(directory).rglob("*.xplane.pb")
        return read_profile(ProfileData.from_file(str(path)), rounds * len(copies))


def read_profile(data: ProfileData, calls: int) -> Profile:
    """Adds up the kernels in a profile of so many calls."""
    events = list(_events(data))
    if not events:
        raise UserError("JAX's profiler recorded no kernels; it may lack the right to")
    nanoseconds: dict[str, list[float]] = defaultdict(list)
    for name, _, duration in events:
        nanoseconds[name].append(duration)
    kernels = [
        Kernel(name, sum(times) / len(times) / 1000, len(times) / calls)
        for name, times in sorted(nanoseconds.items(), key=lambda item: -sum(item[1]))
    ]
    first = min(start for _, start, _ in events)
    last = max(start + duration for _, start, duration in events)
    busy = sum(duration for _, _, duration in events)
    return Profile(busy / calls / 1000, (last - first) / calls / 1000, kernels)


def _events(data: ProfileData) -> Iterator[tuple[str, float, float]]:
    """The name, start and duration in nanoseconds of what ran on GPUs."""
    for plane in data.planes:
        if "GPU" in plane.name:
            for line in plane.lines:
                if "Stream" in line.name:
                    yield from ((e.name, e.start_ns, e.duration_ns) for e in line.events)


def _table(profile: Profile) -> str:
    rows = [
        f"{kernel.microseconds:>9.2f} us{kernel.launches:>7.1f} times a call  {kernel.name[:80]}"
        for kernel in profile.kernels
    ]
    return "\n".join([*rows, f"busy {profile.busy:.1f} us, span {profile.span:.1f} us"])
