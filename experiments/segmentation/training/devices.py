"""The devices a program runs on: one, all of a machine, or those of several processes."""

import re

import jax
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

_ADDRESS = re.compile(r"(?P<coordinator>[^,]+:\d+),(?P<index>\d+)/(?P<count>\d+)")


def join_processes(text: str) -> None:
    """Joins the processes that train together; call it before the first computation.

    Args:
      text: `auto` where the cluster tells each process who it is (Slurm, Open MPI, TPU), otherwise
        `HOST:PORT,INDEX/COUNT`: where process 0 listens, and which of how many this one is.

    Raises:
      ValueError: `text` is neither.
    """
    if text == "auto":
        jax.distributed.initialize()
        return
    match = _ADDRESS.fullmatch(text)
    if match is None or not int(match["index"]) < int(match["count"]):
        raise ValueError(
            "must be auto or HOST:PORT,INDEX/COUNT such as node0:1234,0/2, with INDEX from 0 to "
            f"COUNT - 1; got {text!r}"
        )
    jax.distributed.initialize(match["coordinator"], int(match["count"]), int(match["index"]))


def data_mesh() -> Mesh:
    """All devices of all processes in one axis, `data`, over which batches are spread."""
    return jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """Each device has the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def spread(mesh: Mesh) -> NamedSharding:
    """Each device has an equal share of the first axis."""
    return NamedSharding(mesh, PartitionSpec("data"))


def is_first_process() -> bool:
    """Whether this process is the one that writes records and pictures."""
    return jax.process_index() == 0


def wait_for_all(where: str) -> None:
    """Returns when every process is here; `where` is a name for messages."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(where)


def any_process(flag: bool) -> bool:
    """Whether `flag` is set in any process."""
    if jax.process_count() == 1:
        return flag
    return bool(multihost_utils.process_allgather(jax.numpy.asarray(flag)).any())
