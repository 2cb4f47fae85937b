"""What every CUDA kernel compiles to, found without a GPU: registers, spills, float64 instructions.

``python -m handgrad.benchmarks.kernels`` prints a row for each kernel and each combination of types with which the
layers and losses of the curriculum and a training step launch it. It compiles to PTX and on to machine code for one GPU
architecture, with NVIDIA's libraries of the extra "cuda".
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import click
import numpy as np

from ..engine import cuda
from ..engine.cases import LAYERS
from ..engine.checks import DeviceError
from ..engine.graph import Input
from ..engine.network import Network

MOST_REGISTERS = 168  # per thread: three blocks of 128 threads, or a fifth of the warps that a Hopper can hold


@dataclass(frozen=True)
class CompiledKernel:
    """One kernel with one combination of types.

    Attributes
    ----------
    name : str
    types : str
    registers, spilled, stack, shared : int
        Registers per thread; bytes per thread that did not fit into them, and of arrays that are not in registers;
        bytes of shared memory per block.
    doubles : int
        Instructions on float64.
    """

    name: str
    types: str
    registers: int
    spilled: int
    stack: int
    shared: int
    doubles: int

    @property
    def complaints(self) -> list[str]:
        """What is wrong with it, in words; nothing for a good kernel."""
        found = []
        if self.spilled:
            found.append(f"{self.spilled} bytes spilled")
        if self.stack:
            found.append(f"{self.stack} bytes of stack")
        if self.doubles and "float64" not in self.types:
            found.append(f"{self.doubles} float64 instructions")
        if self.registers > MOST_REGISTERS:
            found.append(f"{self.registers} registers")
        return found


def assemble(ptx: str, capability: tuple[int, int]) -> str:
    """Return what NVIDIA's linker reports when it turns PTX into machine code."""
    from cuda.bindings import nvjitlink

    linker = nvjitlink.create(2, [f"-arch=sm_{capability[0]}{capability[1]}", "-verbose"])
    try:
        code = ptx.encode()
        nvjitlink.add_data(linker, nvjitlink.InputType.PTX, code, len(code), "kernel")
        nvjitlink.complete(linker)
        log = bytearray(nvjitlink.get_info_log_size(linker))
        nvjitlink.get_info_log(linker, log)
        return log.decode(errors="replace")
    finally:
        nvjitlink.destroy(linker)


def examine(name: str, types: str, ptx: str, capability: tuple[int, int]) -> CompiledKernel:
    """Return the facts about one compiled kernel."""
    log = assemble(ptx, capability)

    def largest(pattern: str) -> int:
        return max((int(number) for number in re.findall(pattern, log)), default=0)

    return CompiledKernel(
        name,
        types,
        registers=largest(r"Used (\d+) registers"),
        spilled=largest(r"(\d+) bytes spill"),
        stack=largest(r"(\d+) bytes stack frame"),
        shared=largest(r"(\d+) bytes smem"),
        doubles=len(re.findall(r"^\s*(?:@%\w+\s+)?(?!mov|ld|st)\w+\S*\.f64", ptx, re.MULTILINE)),
    )


def launch_layers(names: list[str], dtype: str) -> None:
    """Run every configuration of some layers forward and backward on the current device."""
    for name in names:
        for case in LAYERS[name]:
            nodes = [Input(shape) for shape in case.shapes]
            network = Network(nodes, case.layer()(*nodes), dtype=dtype, device="cuda", threads=1)
            shapes = [(case.samples, *node.shape) for node in nodes]
            z = network.forward([np.ones(shape) for shape in shapes], training=case.training)
            network.backward(np.ones_like(z))


def compiled_kernels(names: list[str], dtype: str = "float32", capability: tuple[int, int] = (9, 0)):
    """Yield a CompiledKernel for each kernel that some layers launch."""
    with cuda.launching_on(cuda.OfflineCompiler(capability)) as compiler:
        launch_layers(names, dtype)
    for (kernel, signature), ptx in compiler.compiled.items():
        types = ", ".join(map(str, signature))
        yield examine(kernel.__name__, types, ptx, capability)


@click.command()
@click.argument("names", nargs=-1)
@click.option("--dtype", type=click.Choice(["float32", "float64"]), default="float32", show_default=True)
def main(names: tuple[str, ...], dtype: str) -> None:
    """Compile the CUDA kernels of some layers, by default of all; the exit code is 1 where one is not good."""
    try:
        rows = list(compiled_kernels(list(names) or list(LAYERS), dtype))
    except DeviceError as error:
        raise click.ClickException(str(error)) from error
    for row in sorted(rows, key=lambda row: row.name):
        click.echo(
            f"{row.name:44} registers {row.registers:3}  shared {row.shared:6}  stack {row.stack:3}  "
            f"spilled {row.spilled:3}  float64 {row.doubles:3}  {'; '.join(row.complaints) or 'ok'}"
        )
    raise SystemExit(any(row.complaints for row in rows))


if __name__ == "__main__":
    main()
