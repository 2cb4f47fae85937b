"""What every CUDA kernel compiles to, found without a GPU: registers, spills, float64 instructions.

``python -m handgrad.benchmarks.kernels`` prints a row for each kernel and each combination of types with which the
layers, losses and optimisers of the curriculum and the training of some networks launch it, in the sizes of a GPU. It
compiles to PTX and on to machine code for one architecture, with NVIDIA's libraries of the extra "cuda". The exit code
is 1 where a kernel is not good, 4 where those libraries are missing.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np

from ..engine import cuda, schedules
from ..engine.cases import LAYERS, LOSSES, Case
from ..engine.checks import DeviceError
from ..engine.feed import Feed
from ..engine.graph import Input
from ..engine.layers.conv2d import Conv2D
from ..engine.layers.dense import Dense
from ..engine.losses.mean_squared_error import MeanSquaredError
from ..engine.losses.softmax_cross_entropy import SoftmaxCrossEntropy
from ..engine.models.build import build
from ..engine.network import Network
from ..engine.optimizers.adam import Adam
from ..engine.optimizers.momentum import Momentum
from ..engine.optimizers.sgd import SGD
from ..engine.training import Training

MOST_REGISTERS = 168  # per thread: then at least 12 warps fit on one of Hopper's multiprocessors
HOPPER = (9, 0)
# layers so wide that they take kernels which the small configurations of the curriculum do not need
WIDE = (
    Case("wide", lambda: Dense(4096), ((4096,),), 4096),
    Case("wide", lambda: Conv2D(64, 3, padding="same"), ((64, 32, 32),), 64),
    Case("wide", lambda: Conv2D(96, 11, stride=4), ((3, 227, 227),), 32),
)


@dataclass(frozen=True)
class CompiledKernel:
    """One kernel with one combination of types.

    Attributes
    ----------
    name, types : str
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


def link(ptx: str, capability: tuple[int, int]) -> str:
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


def examine(name: str, types: str, ptx: str, capability: tuple[int, int] = HOPPER) -> CompiledKernel:
    """Return the facts about one compiled kernel."""
    log = link(ptx, capability)

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


def launch_layer(case: Case, dtype: str) -> None:
    """Run one configuration of a layer forward and backward on the current device."""
    nodes = [Input(shape) for shape in case.shapes]
    network = Network(nodes, case.layer()(*nodes), dtype=dtype, device="cuda", threads=1)
    z = network.forward([np.ones((case.samples, *shape)) for shape in case.shapes], training=case.training)
    network.backward([np.ones_like(array) for array in z])


def launch_loss(case: Case, dtype: str) -> None:
    """Compute one loss and its gradient on the current device."""
    rng = np.random.default_rng(0)
    shape = (case.samples, *case.shapes[0])
    case.loss.call_cuda(case.x(rng, shape).astype(dtype), case.loss.check_target(case.target(rng, shape), shape))


def launch_trainings(dtype: str) -> None:
    """Train small networks for some steps with every optimiser, and evaluate them, on the current device."""
    rng = np.random.default_rng(0)
    pixels, labels = rng.integers(0, 256, (40, 1, 28, 28), dtype=np.uint8), rng.integers(0, 10, 40)
    for model, loss, optimizer, images in (
        ("lenet5", SoftmaxCrossEntropy(), SGD(), pixels),
        ("dropout 0.5 > flatten > dense 10", MeanSquaredError(), Adam(), pixels),
        ("lenet5-1998", SoftmaxCrossEntropy(), Momentum(), pixels.astype(dtype)),
        ("conv 2@5x5 > sigmoid > dense 9 > sigmoid > dense 10", SoftmaxCrossEntropy(), SGD(), pixels),
    ):
        network = build(model, dtype=dtype, device="cuda", threads=1)
        feed = Feed(images, labels, np.ones(1), np.zeros(1))
        training = Training(network, loss, optimizer, feed, feed, epochs=1, batch_size=20, schedule=schedules.constant)
        for _ in training.run():
            pass


def compiled_kernels(subjects: list[str], dtype: str = "float32", capability=HOPPER) -> Iterator[CompiledKernel]:
    """Yield a CompiledKernel for each kernel that some layers and losses launch, and all others for an empty list."""
    with cuda.launching_on(cuda.OfflineCompiler(capability)) as compiler:
        for name, cases in LAYERS.items():
            for case in cases if name in subjects or not subjects else ():
                launch_layer(case, dtype)
        for name, cases in LOSSES.items():
            for case in cases if name in subjects or not subjects else ():
                launch_loss(case, dtype)
        if not subjects:
            for case in WIDE if dtype == "float32" else ():
                launch_layer(case, dtype)
            launch_trainings(dtype)
    for (kernel, signature), ptx in compiler.compiled.items():
        yield examine(kernel.__name__, ", ".join(map(str, signature)), ptx, capability)


def render(rows: list[CompiledKernel]) -> str:
    """Return the table as text."""
    lines = [f"{'kernel':44} registers  shared  stack  spilled  float64"]
    for row in sorted(rows, key=lambda row: (row.name, row.types)):
        lines.append(
            f"{row.name:44} {row.registers:9} {row.shared:7} {row.stack:6} {row.spilled:8} {row.doubles:8}  "
            f"{'; '.join(row.complaints) or 'ok'}"
        )
    return "\n".join(lines)


def main() -> int:
    """Print the table, or one JSON object, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m handgrad.benchmarks.kernels", description=__doc__.split("\n")[0])
    parser.add_argument("subjects", nargs="*", help="layers and losses; by default everything")
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    asked = parser.parse_args()
    unknown = [name for name in asked.subjects if name not in (*LAYERS, *LOSSES)]
    if unknown:
        parser.error(f"got {unknown[0]}, expected one of {', '.join((*LAYERS, *LOSSES))}")
    try:
        rows = list(compiled_kernels(asked.subjects, asked.dtype))
    except DeviceError as error:
        print(f"handgrad: {error}", file=sys.stderr)
        return DeviceError.exit_code
    ok = not any(row.complaints for row in rows)
    if asked.json:
        listed = [{**asdict(row), "complaints": row.complaints} for row in rows]
        print(json.dumps({"ok": ok, "architecture": "sm_{}{}".format(*HOPPER), "kernels": listed}))
    else:
        print(render(rows))
        print(f"\n{len(rows)} kernels for sm_{HOPPER[0]}{HOPPER[1]}, {'all good' if ok else 'not all good'}")
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
