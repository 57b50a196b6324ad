"""The program that times each GPU kernel."""

import jax
import pytest
from jax.profiler import ProfileData

from experiments.benchmarks.box_conv import kernels
from experiments.benchmarks.box_conv.kernels import Kernel
from experiments.common.program import exit_code

# Two calls on one stream, 100 us apart: 30 us of `filter` and twice 5 us of `sums` in each.
_TRACE = """
planes {
  name: "/device:GPU:0"
  event_metadata { key: 1 value { id: 1 name: "filter" } }
  event_metadata { key: 2 value { id: 2 name: "sums" } }
  lines {
    name: "Stream #14(Compute)"
    events { metadata_id: 2 offset_ps: 0 duration_ps: 5000000 }
    events { metadata_id: 2 offset_ps: 10000000 duration_ps: 5000000 }
    events { metadata_id: 1 offset_ps: 20000000 duration_ps: 30000000 }
    events { metadata_id: 2 offset_ps: 100000000 duration_ps: 5000000 }
    events { metadata_id: 2 offset_ps: 110000000 duration_ps: 5000000 }
    events { metadata_id: 1 offset_ps: 120000000 duration_ps: 30000000 }
  }
  lines { name: "Source" events { metadata_id: 1 offset_ps: 0 duration_ps: 900000000 } }
}
planes {
  name: "/host:CPU"
  event_metadata { key: 1 value { id: 1 name: "filter" } }
  lines { name: "Stream" events { metadata_id: 1 offset_ps: 0 duration_ps: 900000000 } }
}
"""


def test_adds_up_the_kernels_of_a_profile():
    data = ProfileData.from_serialized_xspace(ProfileData.text_proto_to_serialized_xspace(_TRACE))
    profile = kernels.read_profile(data, calls=2)
    assert profile.kernels == [Kernel("filter", 30, 1), Kernel("sums", 5, 2)]
    assert (profile.busy, profile.span) == (40, 75)


@pytest.mark.skipif(jax.default_backend() == "gpu", reason="for machines without a GPU")
def test_needs_a_gpu(tmp_path, capsys):
    assert exit_code(kernels.main, ["--out", str(tmp_path / "figures.json")]) == 2
    assert "JAX found no GPU" in capsys.readouterr().err
