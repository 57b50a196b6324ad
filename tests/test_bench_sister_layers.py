"""The benchmark of the sister layers runs and compares each with the plain convolution."""

import pytest

import bench_sister_layers


@pytest.mark.slow
def test_it_prints_ratios(capsys):
    assert bench_sister_layers.main(["--rounds", "1", "--no-backward"]) == 0
    lines = capsys.readouterr().out.strip().split("\n")[1:]
    assert all("1.000" in line for line in lines if line.endswith("plain"))
    assert {line.split()[-1] for line in lines} == {"plain", "DCLS", "octave", "DO-Conv", "folded"}


def test_bad_settings(capsys):
    assert bench_sister_layers.main(["--rounds", "0"]) == 2
    assert "--rounds" in capsys.readouterr().err
