"""The devices that a program trains on: one, all of a machine, or those of several processes."""

import re

import jax
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from experiments.common.program import first_line

_ADDRESS = re.compile(
    r"(?P<coordinator>[^,:]+:(?P<port>[0-9]{1,5})),(?P<index>[0-9]{1,9})/(?P<count>[0-9]{1,9})"
)
_MOST_PORT = 65535


def join_processes(text: str) -> None:
    """Connects the processes that train together; call it before the first computation.

    Args:
      text: `auto` on a cluster that tells each process its index (Slurm, Open MPI, TPU), otherwise
        `HOST:PORT,INDEX/COUNT`: process 0 listens at `HOST:PORT`, and this process is `INDEX` of
        `COUNT`.

    Raises:
      ValueError: `text` is neither of the two.
    """
    if text == "auto":
        try:
            jax.distributed.initialize()
        except (ValueError, RuntimeError) as error:
            raise ValueError(
                f"auto finds no cluster ({first_line(error)}); give HOST:PORT,INDEX/COUNT"
            ) from error
        return
    match = _ADDRESS.fullmatch(text)
    if match is None or not (
        int(match["index"]) < int(match["count"]) and 0 < int(match["port"]) <= _MOST_PORT
    ):
        raise ValueError(
            "must be auto or HOST:PORT,INDEX/COUNT such as node0:1234,0/2, with INDEX from 0 to "
            f"COUNT - 1 and PORT up to {_MOST_PORT}; got {text!r}"
        )
    jax.distributed.initialize(match["coordinator"], int(match["count"]), int(match["index"]))


def data_mesh() -> Mesh:
    """A mesh of all devices of all processes, whose one axis `data` batches are spread over."""
    return jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of an array that each device has as a whole."""
    return NamedSharding(mesh, PartitionSpec())


def spread(mesh: Mesh) -> NamedSharding:
    """The sharding of an array of whose first axis each device has an equal share."""
    return NamedSharding(mesh, PartitionSpec("data"))


def is_first_process() -> bool:
    """Whether this process is the one that writes metrics and pictures."""
    return jax.process_index() == 0


def wait_for_all(where: str) -> None:
    """Waits until every process has called it; `where` is a name for error messages."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(where)


def any_process(flag: bool) -> bool:
    """Whether `flag` is set in any process."""
    if jax.process_count() == 1:
        return flag
    return bool(multihost_utils.process_allgather(jax.numpy.asarray(flag)).any())
