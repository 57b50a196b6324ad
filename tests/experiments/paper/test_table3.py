"""The program of Table 3: the figures that it writes, and bad arguments."""

import json
from pathlib import Path

import pytest

from experiments.common.program import exit_code
from experiments.paper import table3 as paper_table3


def test_counts_stand_beside_those_of_the_paper(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "new" / "table.json"
    assert exit_code(paper_table3.main, ["--rounds", "0", "--out", str(out)]) == 0
    networks = json.loads(out.read_text())["networks"]
    printed = capsys.readouterr().out
    for name, published in paper_table3.PUBLISHED.items():
        assert networks[name]["paper"]["parameters"] == published.parameters
        assert f"{networks[name]['parameters']:,} ({published.parameters:5.3f} M)" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rounds", "-1"], "--rounds must be 0 or more; got -1"),
        (["--out", "/proc/none/table.json"], "--out must be a file that can be written"),
    ],
)
def test_bad_arguments_say_what_is_allowed(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
):
    assert exit_code(paper_table3.main, arguments) == 2
    assert message in capsys.readouterr().err
