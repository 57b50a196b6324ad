"""The comparison of context blocks: its table, and one run of it."""

import pytest

import compare_layers
from compare_layers import Row
from jaxbox.models.cost import Cost


def test_figures_of_the_table():
    rows = {
        "dilated": Row(Cost(1000, 4_000_000, 3_000_000), 10.0, 0.5),
        "box": Row(Cost(900, 4_000_000, 2_000_000), 5.0, None),
    }
    lines = compare_layers.table(rows).split("\n")
    assert lines[2] == "| dilated | 1,000 | 3.0 | 10.0 | 1.00 | 0.500 |"
    assert lines[3] == "| box | 900 | 2.0 | 5.0 | 0.50 |  |"


def test_bad_settings(capsys):
    assert compare_layers.main(["--size", "12", "16"]) == 2
    assert "multiples of 8" in capsys.readouterr().err


@pytest.mark.slow
def test_it_runs(tmp_path, capsys):
    out = tmp_path / "table.md"
    arguments = ["--size", "32", "48", "--steps", "2", "--batch-size", "2", "--rounds", "1"]
    assert compare_layers.main([*arguments, "--out", str(out)]) == 0
    assert out.read_text() in capsys.readouterr().out
    assert len(out.read_text().strip().split("\n")) == 7
