"""Counts the instructions of the Mosaic GPU kernels, compiled for an H100 that is not there.

Run as `python -m tests.kernels.gpu_instructions [N,C,H,W,F [DTYPE]]`. For each kernel of forward
and backward it prints the registers and the instructions of the whole kernel and of each loop: how
many there are in all, how many load, store or exchange numbers between lanes, and how many convert
numbers. An outer loop's instructions contain those of the loops inside, once.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.kernels.test_mosaic_compiled import PROGRAM, describe, environment

_MEMORY = ("LDG", "STG", "LDS", "STS", "SHFL")
_CONVERSIONS = ("I2F", "F2I", "F2F", "FRND", "MUFU")


def _disassemble(ptx):
    """The number of registers and the machine code of a kernel, line by line."""
    cubin = ptx.with_suffix(".cubin")
    assembler = ["ptxas", "-v", "-O3", "-arch=sm_90a", ptx, "-o", cubin]
    said = _run(assembler).stderr
    return re.search(r"Used (\d+) registers", said)[1], _run(["nvdisasm", "-c", cubin]).stdout


def _run(command):
    return subprocess.run(command, check=True, capture_output=True, text=True, env=environment())


def _loops(code):
    """The names of the instructions of the whole kernel, and then of each loop."""
    names, labels, loops = [], {}, []
    for line in code.splitlines():
        if label := re.match(r"(\.L\w+):", line):
            labels[label[1]] = len(names)
        elif instruction := re.match(r"\s+/\*[0-9a-f]+\*/\s+(?:@!?U?P\d+ )?\s*([A-Z0-9]+)", line):
            names.append(instruction[1])
            target = re.search(r"BRA.*`\((\.L\w+)\)", line)
            # The last instruction of a kernel branches to itself.
            if target and labels.get(target[1], len(names)) < len(names) - 1:
                loops.append(names[labels[target[1]] :])
    return [names, *loops]


def _summary(names):
    memory = sum(name.startswith(_MEMORY) for name in names)
    conversions = sum(name.startswith(_CONVERSIONS) for name in names)
    return f"{len(names)} instructions, {memory} of memory, {conversions} conversions"


def main(shape="8,32,64,128,4", dtype="float32"):
    """Compiles the kernels and prints their instructions."""
    shapes = repr([tuple(map(int, shape.split(",")))])
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [sys.executable, "-c", PROGRAM, describe("H100"), shapes, dtype],
            check=True,
            capture_output=True,
            env=environment() | {"MOSAIC_GPU_DUMP_PTX": "1", "MOSAIC_GPU_DUMP_TO": folder},
        )
        for ptx in sorted(Path(folder).glob("*.ptx")):
            registers, code = _disassemble(ptx)
            whole, *loops = map(_summary, _loops(code))
            print(f"{ptx.stem}: {registers} registers, {whole}")
            for loop in loops:
                print(f"  loop: {loop}")


if __name__ == "__main__":
    main(*sys.argv[1:])
