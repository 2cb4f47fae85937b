"""The only module that imports numba.cuda: kernels for the GPU, its memory, its streams and its graphs.

Floor 0. A kernel is written once, as a function of one thread, and can be launched on three machines: on a GPU; in the
simulator, which runs it as Python (``NUMBA_ENABLE_CUDASIM=1``); and on a compiler that has no GPU and only says what a
kernel compiles to. Nothing of numba.cuda is imported before the first launch, so that without it everything else works.

On a GPU the samples that lie side by side are the threads of a warp, 32 of them: ``x[block, c, i, j, lane]``, with the
same index expressions as on the CPU. Neighbouring threads read neighbouring numbers, and a weight is read once for all.
"""

from __future__ import annotations

import functools
import math
import os
import time
import types
import warnings
from collections.abc import Callable
from contextlib import contextmanager

import numpy as np

from . import simulator
from .backend import CPUDispatcher, int32, typeof, uint32
from .checks import DeviceError

IS_SIMULATED = os.environ.get("NUMBA_ENABLE_CUDASIM", "0") not in ("", "0")
WARP = 4 if IS_SIMULATED else 32  # samples side by side: threads that a GPU runs in step
FLAT = 8 if IS_SIMULATED else 256  # threads in a block of a kernel that sees flat arrays
ROWS = 2 if IS_SIMULATED else 8  # warps in a block of a kernel that sees maps
REDUCERS = 8 if IS_SIMULATED else 256  # threads in a block that adds up; a power of two

REMEDY = 'use --device cpu, or on a machine with an NVIDIA GPU: pip install "handgrad[cuda]"'


class _Placeholder:
    """What the name ``cuda`` stands for in the files of the layers; a kernel that is launched gets the real thing."""

    def __getattr__(self, name: str):
        raise AttributeError(f"cuda.{name} exists in CUDA kernels alone")


cuda = _Placeholder()


class CudaFunction:
    """A function that CUDA kernels call; used through ``device_function``."""

    def __init__(self, function: Callable):
        functools.update_wrapper(self, function)
        self.function = function


def device_function(function: Callable) -> CudaFunction:
    """Mark a function that CUDA kernels call: it may use ``cuda`` and other such functions, and ``@scalar`` ones."""
    return CudaFunction(function)


class CudaKernel:
    """A kernel for one thread of a grid: ``kernel[grid, block](*arrays)`` launches it on the current device.

    Parameters
    ----------
    function : callable
    threads : int, optional
        Most threads of a block, and
    blocks : int
        least blocks that a multiprocessor can hold: from both the compiler knows how many registers there are.
    """

    def __init__(self, function: Callable, threads: int | None, blocks: int):
        functools.update_wrapper(self, function)
        self.function, self.threads, self.blocks = function, threads, blocks
        self.has_barriers = bool({"syncthreads", "shared"} & set(function.__code__.co_names))

    def __getitem__(self, shape: tuple) -> Callable[..., None]:
        grid, block = shape
        return lambda *arguments: device().launch(self, _axes(grid), _axes(block), arguments)


def cuda_kernel(function: Callable | None = None, *, threads: int | None = None, blocks: int = 1):
    """Make a CUDA kernel; see :class:`CudaKernel`."""
    if function is None:
        return functools.partial(cuda_kernel, threads=threads, blocks=blocks)
    return CudaKernel(function, threads, blocks)


def _axes(size) -> tuple[int, ...]:
    return tuple(map(int, size)) if isinstance(size, tuple) else (int(size),)


def flat(size: int) -> tuple[int, int]:
    """Return grid and block of a kernel with one thread for each of ``size`` numbers."""
    return max(1, -(-size // FLAT)), FLAT


def maps(shape: tuple[int, ...], columns: int = 1) -> tuple[tuple[int, int, int], tuple[int, int]]:
    """Return grid and block of a kernel with a thread for each number of (blocks, C, H, W, WARP), or each few columns.

    Its threads ask ``position`` which number is theirs.
    """
    blocks, C, H, W, _ = shape
    width = -(-W // columns)
    rows = min(ROWS, width)
    return (blocks * C, H, -(-width // rows)), (WARP, rows)


def features(x) -> tuple:
    """Return grid and block of a kernel with a thread for each number of (blocks, features, WARP), in place of W."""
    return maps((x.shape[0], 1, 1, *x.shape[1:]))


@device_function
def position(C):
    """Return n, c, h, q and v of the number that is this thread's, in a launch over ``maps``; q may lie beyond W."""
    n = cuda.blockIdx.x // C
    q = cuda.blockIdx.z * cuda.blockDim.y + cuda.threadIdx.y
    return n, cuda.blockIdx.x - n * C, cuda.blockIdx.y, q, cuda.threadIdx.x


@device_function
def add_up(partial, thread, threads):
    """Add the numbers of a shared array, one of each thread, in a fixed order; the sum is then in ``partial[0]``."""
    cuda.syncthreads()
    half = threads // 2
    while half > 0:
        if thread < half:
            partial[thread] += partial[thread + half]
        cuda.syncthreads()
        half //= 2


def _load4(array, first):
    return array[first], array[first + 1], array[first + 2], array[first + 3]


def _store4(array, first, a, b, c, d):
    array[first], array[first + 1], array[first + 2], array[first + 3] = a, b, c, d


load4 = device_function(_load4)
load4.__doc__ = """Read four neighbouring numbers of a flat array in one instruction; first is a multiple of 4."""
store4 = device_function(_store4)
store4.__doc__ = """Write four neighbouring numbers of a flat array in one instruction; first is a multiple of 4."""


def vector_intrinsics() -> tuple:
    """Return load4 and store4 as LLVM's vector loads and stores, which the compiler cannot know to be aligned."""
    from llvmlite import ir
    from numba import types as of
    from numba.cuda.extending import intrinsic

    def vector(context, builder, kind, array, index):
        data = context.make_array(kind)(context, builder, value=array).data
        if index.type.width < 64:
            index = builder.zext(index, ir.IntType(64))
        pointer = builder.gep(data, [index])
        numbers = ir.VectorType(context.get_data_type(kind.dtype), 4)
        return numbers, builder.bitcast(pointer, numbers.as_pointer(pointer.type.addrspace))

    @intrinsic
    def load4(typing_context, array, first):
        def generate(context, builder, signature, arguments):
            _, pointer = vector(context, builder, array, arguments[0], arguments[1])
            loaded = builder.load(pointer, align=16)
            parts = [builder.extract_element(loaded, ir.Constant(ir.IntType(32), k)) for k in range(4)]
            return context.make_tuple(builder, signature.return_type, parts)

        return of.UniTuple(array.dtype, 4)(array, first), generate

    @intrinsic
    def store4(typing_context, array, first, a, b, c, d):
        def generate(context, builder, signature, arguments):
            numbers, pointer = vector(context, builder, array, arguments[0], arguments[1])
            packed = ir.Constant(numbers, ir.Undefined)
            for k in range(4):
                packed = builder.insert_element(packed, arguments[2 + k], ir.Constant(ir.IntType(32), k))
            builder.store(packed, pointer, align=16)
            return context.get_dummy_value()

        number = array.dtype
        return of.void(array, first, number, number, number, number), generate

    return load4, store4


def _rebuilt(function: Callable, replace: Callable[[object], object]) -> types.FunctionType:
    """Return a function in which every global name and every enclosed value is what ``replace`` makes of it."""
    named = set(function.__code__.co_names) & set(function.__globals__)
    names = {name: replace(function.__globals__[name]) for name in named}
    cells = tuple(types.CellType(replace(cell.cell_contents)) for cell in function.__closure__ or ())
    copy = types.FunctionType(
        function.__code__, {**function.__globals__, **names}, function.__name__, function.__defaults__, cells
    )
    copy.__qualname__, copy.__module__ = function.__qualname__, function.__module__
    return copy


class _Translator:
    """Rebuilds functions, each once, with what stands for CUDA and for other functions on some device."""

    def __init__(self):
        self._functions: dict[object, Callable] = {}

    def translated(self, function: Callable) -> Callable:
        """Return a function as the device runs or compiles it."""
        if function not in self._functions:
            self._functions[function] = _rebuilt(function, self._replace)
        return self._functions[function]

    def _replace(self, value: object) -> object:
        raise NotImplementedError


class _HostMemory:
    """The memory of devices that are none: the host's."""

    def zeros(self, shape, dtype) -> np.ndarray:
        """Return memory that is filled with zeros."""
        return np.zeros(shape, dtype)

    def put(self, array: np.ndarray) -> np.ndarray:
        """Return a copy on the device."""
        return np.array(array, order="C")

    def write(self, target: np.ndarray, array: np.ndarray) -> None:
        """Copy an array of the host into one of the device."""
        target[...] = array

    def get(self, array: np.ndarray) -> np.ndarray:
        """Return a copy on the host."""
        return array.copy()

    def address(self, array: np.ndarray) -> int:
        """Return where an array begins."""
        return array.ctypes.data

    def synchronize(self) -> None:
        """Wait until everything is done."""


class SimulatedDevice(_Translator, _HostMemory):
    """Launches kernels in the simulator; its memory is the host's."""

    name = "simulator"

    def __init__(self):
        super().__init__()
        self.simulator = simulator.Simulator()
        self._recording: list | None = None

    def launch(self, kernel: CudaKernel, grid: tuple, block: tuple, arguments: tuple) -> None:
        """Run a kernel, or only note it down during a capture."""
        if self._recording is not None:
            self._recording.append((kernel, grid, block, arguments))
            return
        function = self.translated(kernel.function)
        self.simulator.launch(function, grid, block, arguments, kernel.has_barriers)

    def _replace(self, value):
        if value is cuda:
            return self.simulator
        if value is math:
            return simulator.MATH
        if value is uint32 or value is int32:
            return np.dtype(value.name).type
        return self.translated(value.function) if isinstance(value, CudaFunction) else value

    @contextmanager
    def capture(self):
        """Note down the launches in the block; yields an object whose ``replay`` makes them again."""
        graph = _SimulatedGraph(self)
        self._recording = graph.launches
        try:
            yield graph
        finally:
            self._recording = None


class _SimulatedGraph:
    def __init__(self, device: SimulatedDevice):
        self.device, self.launches = device, []

    def replay(self) -> None:
        for launch in self.launches:
            self.device.launch(*launch)


class Compiler(_Translator):
    """Shared by the devices that compile: turns kernels into what numba.cuda launches."""

    def __init__(self):
        super().__init__()
        self.cuda = import_numba_cuda()
        self._vectors = dict(zip((_load4, _store4), vector_intrinsics()))

    def _replace(self, value):
        if value is cuda:
            return self.cuda
        if isinstance(value, CudaFunction) and value.function in self._vectors:
            return self._vectors[value.function]
        if isinstance(value, CudaFunction):
            return self._on_device(value.function)
        if isinstance(value, CPUDispatcher):
            return self._on_device(value.py_func)
        return getattr(value, "on_gpu", value)

    def _on_device(self, function: Callable):
        key = ("on device", function)
        if key not in self._functions:
            self._functions[key] = self.cuda.jit(device=True)(self.translated(function))
        return self._functions[key]


def import_numba_cuda():
    """Return the module numba.cuda of the package numba-cuda, or raise a DeviceError that says what to install."""
    if not hasattr(np, "row_stack"):  # numba-cuda 0.30 asks for it, and NumPy 2.5 no longer has it (numba-cuda #907)
        np.row_stack = np.vstack  # noqa: NPY201
    os.environ.setdefault("NUMBA_CUDA_LOW_OCCUPANCY_WARNINGS", "0")  # small grids are what small networks have
    if os.path.isdir("/usr/local/cuda/nvvm"):  # where a toolkit of the system lies, if there are no packages
        os.environ.setdefault("CUDA_HOME", "/usr/local/cuda")
    try:
        from numba import cuda as module
    except ImportError as error:
        raise DeviceError(f"device cuda: numba.cuda cannot be imported ({error})", remedy=REMEDY) from error
    if getattr(module, "implementation", "") != "NVIDIA":
        raise DeviceError("device cuda: the package numba-cuda is not installed", remedy=REMEDY)
    return module


class Gpu:
    """The first NVIDIA GPU: memory, launches on one stream, and graphs.

    Raises
    ------
    DeviceError
        Where numba-cuda or the toolkit is missing, or there is no GPU.
    """

    def __init__(self):
        self._compiler = Compiler()
        self.cuda = self._compiler.cuda
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                self.name = self.cuda.get_current_device().name
            except Exception as error:  # numba.cuda raises a class of its own for every way in which a driver can fail
                reason = " ".join(str(error).split()).strip(" :.") or type(error).__name__
                raise DeviceError(f"device cuda: no GPU can be used ({reason})", remedy="use --device cpu") from error
        self.name = self.name.decode() if isinstance(self.name, bytes) else self.name
        self.stream = self.cuda.stream()
        self._kernels: dict[CudaKernel, object] = {}

    def launch(self, kernel: CudaKernel, grid: tuple, block: tuple, arguments: tuple) -> None:
        """Enqueue a kernel; the first launch with such arguments compiles it."""
        if kernel not in self._kernels:
            bounds = {} if kernel.threads is None else {"launch_bounds": (kernel.threads, kernel.blocks)}
            self._kernels[kernel] = self.cuda.jit(**bounds)(self._compiler.translated(kernel.function))
        compiled, start = self._kernels[kernel], time.perf_counter()
        count = len(compiled.overloads)
        compiled[grid, block, self.stream](*arguments)
        if len(compiled.overloads) > count:
            _compiling["seconds"] += time.perf_counter() - start

    def zeros(self, shape, dtype):
        """Return memory that is filled with zeros."""
        array = self.cuda.device_array(shape, dtype, stream=self.stream)
        if array.size:
            clear_cuda[flat(array.size)](array.reshape(-1))
        return array

    def put(self, array: np.ndarray):
        """Return a copy on the device."""
        copy = self.cuda.to_device(np.ascontiguousarray(array), stream=self.stream)
        self.stream.synchronize()  # the host's array may be gone before an asynchronous copy has read it
        return copy

    def write(self, target, array: np.ndarray) -> None:
        """Copy an array of the host into one of the device."""
        target.copy_to_device(np.ascontiguousarray(array, target.dtype), stream=self.stream)
        self.stream.synchronize()

    def get(self, array) -> np.ndarray:
        """Return a copy on the host."""
        copy = array.copy_to_host(stream=self.stream)
        self.stream.synchronize()
        return copy

    def address(self, array) -> int:
        """Return where an array begins."""
        return array.__cuda_array_interface__["data"][0]

    def synchronize(self) -> None:
        """Wait until everything is done."""
        self.stream.synchronize()

    @contextmanager
    def capture(self):
        """Note down the launches in the block in a CUDA graph; yields an object whose ``replay`` makes them again.

        Every kernel must have been launched before: compiling and loading are not allowed during a capture.
        """
        from cuda.bindings import driver

        graph = _Graph(driver, driver.CUstream(int(_handle(self.stream))))
        _check(driver.cuStreamBeginCapture(graph.stream, driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED))
        try:
            yield graph
        finally:
            (captured,) = _check(driver.cuStreamEndCapture(graph.stream))
        (graph.executable,) = _check(driver.cuGraphInstantiate(captured, 0))
        _check(driver.cuGraphUpload(graph.executable, graph.stream))


class _Graph:
    """A captured stretch of work; one call replays it."""

    def __init__(self, driver, stream):
        self.driver, self.stream, self.executable = driver, stream, None

    def replay(self) -> None:
        """Enqueue all of it again."""
        _check(self.driver.cuGraphLaunch(self.executable, self.stream))


def _handle(stream) -> int:
    """Return the driver's number of a stream, which numba.cuda has kept in two ways."""
    if hasattr(stream, "__cuda_stream__"):
        return stream.__cuda_stream__()[1]
    return getattr(stream.handle, "value", stream.handle)


def _check(result: tuple) -> tuple:
    """Return the results of a call of the driver, or raise a DeviceError."""
    status, *results = result
    if int(status) != 0:
        raise DeviceError(f"the CUDA driver reports {status.name}")
    return tuple(results)


class OfflineCompiler(_HostMemory):
    """A device without a GPU: its launches compile, once for each combination of types, and run nothing.

    Parameters
    ----------
    capability : (int, int)
        Of the GPU to compile for: (9, 0) is Hopper.

    Attributes
    ----------
    compiled : dict of (CudaKernel, tuple) to str
        The PTX of each kernel that was launched, by the types of its arguments.
    """

    name = "compiler"

    def __init__(self, capability: tuple[int, int] = (9, 0)):
        self._compiler, self.capability = Compiler(), capability
        self.compiled: dict[tuple, str] = {}
        from numba.cuda import dispatcher  # which asks the GPU what to compile functions for, and there is none

        dispatcher.get_current_device = lambda: types.SimpleNamespace(compute_capability=capability, id=0)

    def launch(self, kernel: CudaKernel, grid: tuple, block: tuple, arguments: tuple) -> None:
        """Compile a kernel to PTX."""
        signature = tuple(typeof(argument) for argument in arguments)
        if (kernel, signature) not in self.compiled:
            bounds = {} if kernel.threads is None else {"launch_bounds": (kernel.threads, kernel.blocks)}
            self.compiled[kernel, signature], _ = self._compiler.cuda.compile(
                self._compiler.translated(kernel.function),
                signature,
                device=False,
                abi="numba",
                output="ptx",
                cc=self.capability,
                **bounds,
            )

    @contextmanager
    def capture(self):
        """Yield an object whose ``replay`` does nothing: the launches in the block compile as always."""
        yield types.SimpleNamespace(replay=lambda: None)


_current: list = []
_compiling = {"seconds": 0.0}


def compile_seconds() -> float:
    """Return the seconds that this process has spent compiling CUDA kernels."""
    return _compiling["seconds"]


def device():
    """Return the device that kernels are launched on: the simulator where it is asked for, otherwise the first GPU.

    Raises
    ------
    DeviceError
        Where there is none.
    """
    if not _current:
        _current.append(SimulatedDevice() if IS_SIMULATED else Gpu())
    return _current[-1]


@contextmanager
def launching_on(other):
    """Launch kernels on another device for the length of a block."""
    _current.append(other)
    try:
        yield other
    finally:
        _current.remove(other)


@cuda_kernel
def clear_cuda(array):
    """Set every element of a flat array to 0."""
    k = cuda.grid(1)
    if k < array.size:
        array[k] = array.dtype.type(0)


@cuda_kernel
def copy_into_cuda(target, source):
    """target = source, element by element, on flat arrays."""
    k = cuda.grid(1)
    if k < target.size:
        target[k] = source[k]


@cuda_kernel
def add_into_cuda(total, part):
    """total = total + part, element by element, on flat arrays."""
    k = cuda.grid(1)
    if k < total.size:
        total[k] += part[k]


@cuda_kernel
def sum_of_parts_cuda(parts, total):
    """total[k] = Σ over m of parts[m, k], in the order of m: where many blocks have added up a part each."""
    k = cuda.grid(1)
    if k < total.size:
        acc = parts[0, k]
        for m in range(1, parts.shape[0]):
            acc += parts[m, k]
        total[k] = acc
