"""Running a program: what it prints and which exit code it has, however it ends."""

import importlib
from pathlib import Path

import pytest

import experiments
from experiments.common.program import UserError, exit_code, run
from experiments.segmentation.data.errors import DataError


@pytest.mark.parametrize("error", [UserError, DataError])
def test_a_users_error_is_one_line_and_exit_code_2(capsys, error):
    def main(arguments):
        raise error(f"--rounds must be 1 or more; got {arguments[0]}")

    assert exit_code(main, ["0"]) == 2
    assert capsys.readouterr().err == "error: --rounds must be 1 or more; got 0\n"


@pytest.mark.parametrize(("message", "printed"), [((), "stopped\n"), (("resume",), "resume\n")])
def test_ctrl_c_is_exit_code_130(capsys, message, printed):
    def main(_):
        raise KeyboardInterrupt(*message)

    assert exit_code(main) == 130
    assert capsys.readouterr().err == printed


def test_other_errors_are_not_hidden():
    def main(_):
        raise ValueError("a defect of the program")

    with pytest.raises(ValueError, match="defect"):
        exit_code(main)


@pytest.mark.parametrize(("returned", "code"), [(None, 0), (130, 130)])
def test_the_process_ends_with_what_main_returned(returned, code):
    with pytest.raises(SystemExit) as ended:
        run(lambda _: returned)
    assert ended.value.code == code


PROGRAMS = sorted(file.stem for file in Path(experiments.__file__).parent.glob("[!_]*.py"))


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_program_has_a_main_with_help(capsys, name):
    main = importlib.import_module(f"experiments.{name}").main
    with pytest.raises(SystemExit) as ended:
        exit_code(main, ["--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("usage: ")
