"""Running a program: what it prints and which exit code it has, however it ends."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

import experiments
from experiments.common.program import UserError, exit_code, run
from experiments.segmentation.data.errors import DataError

# What a shell starts in the background ignores SIGINT, and so do the processes that it starts.
_INTERRUPTED = (
    "import os, signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "os.kill(os.getpid(), signal.SIGINT)"
)


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


@pytest.mark.parametrize(
    ("error", "code", "printed"),
    [
        (FileNotFoundError(2, "No such file", "a.json"), 2, "error: a.json: No such file\n"),
        (OSError(28, "No space left on device"), 2, "error: No space left on device\n"),
        (MemoryError("of 3 TiB"), 2, "error: there is not enough memory (of 3 TiB); choose "),
        (RuntimeError("RESOURCE_EXHAUSTED: of XLA\nmore"), 2, "error: there is not enough memory"),
        (RuntimeError("Unable to initialize backend 'x'"), 2, "error: JAX_PLATFORMS is "),
        (BrokenPipeError(), 141, ""),
    ],
)
def test_errors_of_files_memory_and_devices_are_one_line(capsys, error, code, printed):
    def main(_):
        raise error

    assert exit_code(main) == code
    shown = capsys.readouterr().err
    assert shown.startswith(printed)
    assert shown.count("\n") == (1 if printed else 0)


def test_ctrl_c_that_an_import_turns_into_another_error_is_still_ctrl_c(capsys):
    def main(_):
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as interrupt:
            raise ImportError("initialization failed") from interrupt

    assert exit_code(main) == 130
    assert capsys.readouterr().err == "stopped\n"


@pytest.mark.parametrize(
    ("library", "code", "printed"),
    [
        (_INTERRUPTED, 130, "stopped\n"),
        ("raise ValueError('what')", 2, "error: the libraries cannot be imported (what); check "),
        ("import nothing_of_this_name", 2, "error: No module named 'nothing_of_this_name'; "),
        (
            "import os; assert os.environ['MPLBACKEND'] == 'agg'; "
            "assert os.environ['OPENCV_LOG_LEVEL'] == 'SILENT'; raise OSError(5, 'no')",
            2,
            "error: no",
        ),
    ],
)
def test_what_ends_the_imports_is_one_line(tmp_path, library, code, printed):
    """In a process of its own; a module stands in the place of a library."""
    (tmp_path / "jax.py").write_text(library)
    done = subprocess.run(
        [sys.executable, str(Path(experiments.__file__).parent / "paper_table3.py")],
        env={"PYTHONPATH": str(tmp_path), "JAX_ENABLE_X64": "what", "MPLBACKEND": "what"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert done.stderr.startswith(printed)
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("stream", ["/dev/full", "closed pipe"])
def test_output_that_nobody_takes_is_no_traceback(tmp_path, stream):
    (tmp_path / "jax.py").write_text("for _ in range(9000): print('a line')\nraise SystemExit(0)")
    read, write = os.pipe()
    os.close(read)
    target = os.open(stream, os.O_WRONLY) if stream == "/dev/full" else write
    done = subprocess.run(
        [sys.executable, str(Path(experiments.__file__).parent / "paper_table3.py")],
        env={"PYTHONPATH": str(tmp_path)},
        stdout=target,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    expected = (2, "error: No space left on device\n") if stream == "/dev/full" else (141, "")
    assert (done.returncode, done.stderr) == expected


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
