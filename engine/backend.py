"""The only module that imports Numba: decorators, register tiles, the kernel cache, facts about the machine.

Floor 0. Kernels are compiled on their first call and kept in the user's cache folder, in a sub-folder named by
a hash of every kernel source and of the versions, because Numba itself does not notice that a callee in
another file has changed. A cache that cannot be read or written costs time, never a crash.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import itertools
import os
import pickle
import platform
import tempfile
import threading
import time
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path

import llvmlite.binding
import numpy as np
from llvmlite import ir
from numba import int32, njit, typeof, types, uint32
from numba import uint64 as index  # an index that cannot be negative needs no wrap-around check
from numba.core import cgutils, config, event
from numba.core.bytecode import FunctionIdentity
from numba.core.caching import CompileResultCacheImpl, FunctionCache
from numba.core.codegen import JITCodeLibrary, get_host_cpu_features
from numba.core.compiler import CompilerBase
from numba.core.compiler_lock import global_compiler_lock
from numba.core.compiler_machinery import PassManager
from numba.core.errors import NumbaError
from numba.core.registry import CPUDispatcher, cpu_target
from numba.core.typed_passes import (
    AnnotateTypes,
    IRLegalization,
    NativeLowering,
    NoPythonBackend,
    NoPythonSupportedFeatureValidation,
    NopythonTypeInference,
    PreLowerStripPhis,
)
from numba.core.untyped_passes import (
    DeadBranchPrune,
    FixupArgs,
    GenericRewrites,
    IRProcessing,
    ReconstructSSA,
    TranslateByteCode,
)
from numba.extending import intrinsic, overload
from numba.np.arrayobj import populate_array

from .cores import yield_function
from .folders import kernels_folder

__all__ = [
    "CACHE_DIRECTORY",
    "LANES",
    "SQUARE",
    "TILE",
    "atomic_add",
    "atomic_load",
    "cache_directory",
    "compile_seconds",
    "copy_lanes",
    "cpu_features",
    "get_ready",
    "index",
    "int32",
    "kernel",
    "kernel_calls",
    "kernels_ready",
    "registers",
    "replay",
    "scalar",
    "transpose",
    "typeof",
    "uint32",
    "versions",
    "yield_core",
]

LANES = 16  # samples that lie side by side in the last axis of every array
SQUARE = LANES * LANES

# NaN and infinities stay what they are; only the order and the fusing of sums is left to the compiler
FAST_MATH = {"reassoc", "contract", "nsz", "arcp"}


def _flags() -> str:
    """Return what Numba tells LLVM of the processor, as ``+avx2,-avx512f``: the machine's, or what a user has set."""
    return get_host_cpu_features() if config.CPU_FEATURES is None else config.CPU_FEATURES


def cpu_features() -> set[str]:
    """Return the instruction sets that Numba compiles for; settings of Numba's such as ``NUMBA_CPU_NAME`` count."""
    return {flag[1:] for flag in _flags().split(",") if flag.startswith("+")}


def _use_whole_registers() -> None:
    """Let LLVM use all of AVX-512's registers: for many of Intel's processors it prefers their halves.

    Tiles that are made for whole ones do not fit into these: 46 to 70 GFLOP/s instead of 210. It has no effect where
    somebody else has compiled with Numba before, in the same process.
    """
    if "avx512f" in cpu_features():
        config.CPU_FEATURES = f"{_flags()},-prefer-256-bit"


_use_whole_registers()

# Rows of a plain register tile of TILE x LANES numbers; ``tiles.py`` has the others
TILE = 8 if "avx512f" in cpu_features() else 4

_clock = event.TimingListener()
event.register("numba:compile", _clock)
_loading = {"seconds": 0.0}
_kernels_asked_for: set[str] = set()


def compile_seconds() -> float:
    """Return the seconds that this process has spent compiling kernels or loading them from the cache."""
    return (_clock.duration if _clock.done else 0.0) + _loading["seconds"]


def kernels_ready() -> int:
    """Return how many kernels, each with its types, this process has compiled or loaded."""
    return len(_kernels_asked_for)


def versions() -> dict[str, str]:
    """Return the versions of everything that decides what a kernel compiles to."""
    return {
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in ("numba", "llvmlite", "numpy")},
    }


def cache_directory() -> Path:
    """Return the folder of the compiled kernels of exactly these sources and versions."""
    options = (config.BOUNDSCHECK, config.OPT, config.DEBUGINFO_DEFAULT, config.CPU_NAME, config.CPU_FEATURES)
    options += (llvmlite.binding.get_host_cpu_name(),)
    digest = hashlib.sha256(repr((versions(), options, LANES, TILE)).encode())
    folder = Path(__file__).parent
    for path in sorted(folder.rglob("*.py")):
        text = path.read_bytes()
        if b"@kernel" in text or b"@scalar" in text or path.name in ("backend.py", "tiles.py"):
            digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + text)
    return kernels_folder() / digest.hexdigest()[:16]


CACHE_DIRECTORY = cache_directory()


def _number_anew() -> None:
    """Number functions from somewhere else than other processes: Numba counts from 1 in each of them.

    It tells functions of one name apart in machine code, and in the cache that of many processes comes together.
    """
    FunctionIdentity._unique_ids = itertools.count(int.from_bytes(os.urandom(6), "little"))


_number_anew()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_number_anew)


def get_ready() -> None:
    """Let Numba import what it needs to compile; kernels from the cache run without."""
    with global_compiler_lock:
        for context in (cpu_target.target_context, cpu_target.typing_context):
            context.refresh()


def _enclosed(function) -> list:
    """Return what a function encloses: constants as text, other functions by name, with what they enclose in turn."""
    contents = [cell.cell_contents for cell in function.__closure__ or ()]
    functions = [getattr(content, "py_func", content) for content in contents]
    return [(f.__module__, f.__qualname__, _enclosed(f)) if hasattr(f, "__closure__") else repr(f) for f in functions]


class KernelCache(FunctionCache):
    """One file per kernel and signature, named by a hash of both, so that processes cannot mix them up.

    A file is a checksum followed by what Numba pickles; a file whose checksum is wrong is not unpickled.
    """

    def __init__(self, function):
        self._py_func = function
        self._impl = object.__new__(CompileResultCacheImpl)  # reduces and rebuilds; where files go is decided here
        self.enable()

    @property
    def cache_path(self) -> str:
        """Folder of the cache files, for Numba's statistics."""
        return str(CACHE_DIRECTORY)

    def flush(self):
        """Do nothing: kernels of other sources lie in other folders."""

    def _index_key(self, sig, codegen):
        """Return what tells kernels of one name apart: types, machine, code, and what the code encloses."""
        code = hashlib.sha256(self._py_func.__code__.co_code).hexdigest()
        return sig, codegen.magic_tuple(), code, _enclosed(self._py_func)

    def path(self, sig, codegen) -> Path:
        """Return the file of the kernel for such a signature, there or not."""
        key = repr((self._py_func.__module__, self._py_func.__qualname__, self._index_key(sig, codegen)))
        return CACHE_DIRECTORY / f"{self._py_func.__name__}-{hashlib.sha256(key.encode()).hexdigest()[:24]}.bin"

    def load_overload(self, sig, target_context):
        """Return the compiled kernel from the cache, or None when it is missing, damaged or unreadable."""
        start = time.perf_counter()
        _kernels_asked_for.add(f"{self._py_func.__module__}.{self._py_func.__qualname__}{sig}")
        try:
            stored = self.path(sig, target_context.codegen()).read_bytes()
            if hashlib.sha256(stored[32:]).digest() != stored[:32]:
                return None
            return self._impl.rebuild(target_context, pickle.loads(stored[32:]))
        except (OSError, ValueError, TypeError, AttributeError, EOFError, pickle.UnpicklingError, NumbaError):
            return None
        finally:
            _loading["seconds"] += time.perf_counter() - start

    def save_overload(self, sig, data):
        """Write the compiled kernel atomically; a full disk or a read-only home is not an error."""
        if any(not part.can_cache for part in data.lifted) or data.library.has_dynamic_globals:
            return
        path = self.path(sig, data.codegen)
        temporary = None
        try:
            payload = pickle.dumps(self._impl.reduce(data), protocol=pickle.HIGHEST_PROTOCOL)
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
                temporary = file.name
                file.write(hashlib.sha256(payload).digest() + payload)
            os.replace(temporary, path)
        except OSError:
            if temporary is not None:
                with suppress(OSError):
                    os.unlink(temporary)


class KernelCompiler(CompilerBase):
    """Numba's stages without those for what no kernel does: inner functions, ``with``, expressions of whole arrays.

    After each of them Numba works out anew where every variable is alive: a tenth of the time to compile.
    """

    STAGES = (
        TranslateByteCode,
        FixupArgs,
        IRProcessing,
        DeadBranchPrune,  # so that a kernel can be built without what it is not given
        GenericRewrites,
        ReconstructSSA,
        NopythonTypeInference,
        PreLowerStripPhis,
        NoPythonSupportedFeatureValidation,
        IRLegalization,
        AnnotateTypes,
        NativeLowering,
        NoPythonBackend,
    )

    def define_pipelines(self):
        """Return, in a list, what takes a kernel through the stages."""
        manager = PassManager("kernel")
        for stage in self.STAGES:
            manager.add_pass(stage, stage.__name__)
        manager.finalize()
        return [manager]


FIRST_OPTIMIZATIONS = 1  # LLVM's level, of 3


class KernelLibrary(JITCodeLibrary):
    """Machine code in the making; what LLVM does with each function before all are joined is done a little less well.

    It is done again for the whole. Kernels are as fast, a twelfth of the time to compile is saved.
    """

    def _optimize_functions(self, module):
        before, config.OPT = config.OPT, min(config.OPT, FIRST_OPTIMIZATIONS)
        try:
            super()._optimize_functions(module)
        finally:
            config.OPT = before


class Kernel(CPUDispatcher):
    """A compiled function whose calls from Python can be noted down and made again, many at a time, by ``replay``."""

    def is_cached(self, types: tuple) -> bool:
        """Return whether a process has compiled it for arguments of such types.

        Parameters
        ----------
        types : tuple of numba.types.Type
        """
        return types in self.overloads or self._cache.path(types, self.targetctx.codegen()).exists()

    def compile(self, signature):
        """Compile for arguments of such types, with settings that Numba has for the whole process.

        Parameters
        ----------
        signature : tuple of numba.types.Type
        """
        codegen = self.targetctx.codegen()
        with global_compiler_lock:
            before = config.SLP_VECTORIZE, codegen._library_class
            config.SLP_VECTORIZE, codegen._library_class = int(self.short_loops), KernelLibrary
            try:
                return super().compile(signature)
            finally:
                config.SLP_VECTORIZE, codegen._library_class = before

    def __call__(self, *args):
        """Run, and note the call where somebody wants to know, or note it instead."""
        notes = getattr(_notes, "calls", None)
        if notes is not None:
            notes.append((self, args))
            if not _notes.run:
                return None
        return super().__call__(*args)

    def machine_call(self, args) -> tuple[int, list[int]] | None:
        """Return the address of the machine code for such arguments, and what it takes, as 64-bit integers.

        Returns
        -------
        (int, list of int) or None
            None where an argument is something else than an array, an integer of 64 bits, or a tuple of these: floats
            travel in other registers.
        """
        compiled = self.overloads[tuple(typeof(argument) for argument in args)]
        numbers: list[int] = []
        for argument in args:
            if not _add_numbers(argument, numbers):
                return None
        if len(numbers) > SLOTS:
            return None
        return compiled.library.get_pointer_to_function(compiled.fndesc.llvm_func_name), numbers


_notes = threading.local()


@contextmanager
def kernel_calls(*, run: bool = True):
    """Yield a list to which every kernel that this thread calls from Python is added, as (kernel, arguments).

    Parameters
    ----------
    run : bool
        Whether the kernels are run as well.
    """
    before = getattr(_notes, "calls", None), getattr(_notes, "run", True)
    _notes.calls, _notes.run = [], run
    try:
        yield _notes.calls
    finally:
        _notes.calls, _notes.run = before


def _add_numbers(argument, numbers: list[int]) -> bool:
    """Append what Numba passes for an argument, field by field; False where it is not made of 64-bit integers."""
    if isinstance(argument, np.ndarray):
        owner = [0, 0]  # looked at by code that makes or keeps arrays, and kernels do neither
        numbers += [*owner, argument.size, argument.itemsize, argument.ctypes.data, *argument.shape, *argument.strides]
        return True
    if isinstance(argument, tuple):
        return all(_add_numbers(part, numbers) for part in argument)
    if isinstance(argument, (int, np.int64, np.uint64)) and not isinstance(argument, bool):
        numbers.append(int(argument) - (2**64 if argument >= 2**63 else 0))
        return True
    return False


def kernel(function=None, *, short_loops: bool = False):
    """Compile a kernel: fills outputs that are passed in, returns nothing or a number, releases the lock.

    Parameters
    ----------
    function : callable
        Loops over arrays in lane layout.
    short_loops : bool
        For kernels whose loops over the lanes do so little that LLVM unrolls them before it looks for vectors: it then
        also joins equal statements into vector instructions. In other kernels that makes tiles slower.

    Returns
    -------
    callable
        The same function, compiled for each combination of argument types on its first call.
    """
    if function is None:
        return functools.partial(kernel, short_loops=short_loops)
    options = {"nogil": True, "fastmath": FAST_MATH, "error_model": "numpy"}
    # nobody calls kernels from C, and they make no arrays whose users would have to be counted: a tenth less to compile
    dispatcher = njit(**options, no_cfunc_wrapper=True, _nrt=False, pipeline_class=KernelCompiler)(function)
    dispatcher.__class__ = Kernel
    dispatcher._cache = KernelCache(function)
    dispatcher.short_loops = short_loops
    return dispatcher


def scalar(function):
    """Compile a formula of single numbers, to be called from CPU and CUDA kernels alike."""
    return njit(fastmath=FAST_MATH, error_model="numpy", inline="never")(function)


def by_precision(name: str, single, double, on_gpu):
    """Return one formula that is compiled from ``single`` for float32 and from ``double`` otherwise.

    Parameters
    ----------
    name : str
        What to call it in messages.
    single, double : callable
        Two implementations of the same function of one number.
    on_gpu : callable
        What CUDA kernels call in its place.
    """

    def formula(value):
        return double(value)

    formula.__name__, formula.on_gpu = name, on_gpu

    @overload(formula, jit_options={"fastmath": FAST_MATH})
    def choose(value):
        if value == types.float32:
            return lambda value: single(value)
        return lambda value: double(value)

    return formula


@intrinsic
def registers(typing_context, shape, count, like):
    """Return a small array that LLVM keeps in vector registers as long as every index into it is constant.

    It lies on the stack, aligned for vector loads.

    Parameters
    ----------
    shape : tuple of int
        Constant shape.
    count : int
        The product of the shape, a literal or a global constant.
    like : array or number
        Gives the dtype.
    """
    if not isinstance(count, types.IntegerLiteral):
        return None
    element = like.dtype if isinstance(like, types.Array) else like
    array_type = types.Array(element, len(shape), "C")

    def generate(context, builder, signature, arguments):
        kind = context.get_value_type(element)
        pointer = cgutils.alloca_once(builder, ir.ArrayType(kind, count.literal_value))
        pointer.align = 64
        sizes = cgutils.unpack_tuple(builder, arguments[0])
        item = stride = context.get_constant(types.intp, context.get_abi_sizeof(kind))
        strides = []
        for size in reversed(sizes):
            strides.insert(0, stride)
            stride = builder.mul(stride, size)
        array = context.make_array(array_type)(context, builder)
        data = builder.bitcast(pointer, kind.as_pointer())
        populate_array(array, data=data, shape=sizes, strides=strides, itemsize=item, meminfo=None)
        return array._getvalue()

    return array_type(shape, count, like), generate


@intrinsic
def copy_lanes(typing_context, to, lanes):
    """Copy ``LANES`` numbers of one sample each, as whole vectors: ``for v in range(LANES): to[v] = lanes[v]``.

    LLVM unrolls that loop before it looks for vectors, and then takes a tile of registers apart, number by number.
    """
    if not (isinstance(to, types.Array) and isinstance(lanes, types.Array) and to.dtype == lanes.dtype):
        return None

    def generate(context, builder, signature, arguments):
        target, source = (
            context.make_array(kind)(context, builder, argument).data
            for kind, argument in zip(signature.args, arguments, strict=True)
        )
        size = context.get_abi_sizeof(context.get_value_type(to.dtype))
        cgutils.raw_memcpy(builder, target, source, context.get_constant(types.intp, LANES), size, align=size)
        return context.get_dummy_value()

    return types.void(to, lanes), generate


@intrinsic
def transpose(typing_context, square):
    """Exchange rows and columns of LANES x LANES numbers that lie one after the other; the shape is not checked.

    Four times, pairs of rows that are 1, 2, 4 and 8 apart exchange the numbers that belong to the other one: 64 moves
    of whole vectors instead of 256 single numbers.
    """
    if not (isinstance(square, types.Array) and square.layout == "C" and square.ndim == 2):
        return None

    def generate(context, builder, signature, arguments):
        data = context.make_array(square)(context, builder, arguments[0]).data
        lane = context.get_value_type(square.dtype)
        vectors = builder.bitcast(data, ir.VectorType(lane, LANES).as_pointer())
        places = [builder.gep(vectors, [context.get_constant(types.intp, k)]) for k in range(LANES)]
        align = context.get_abi_sizeof(lane)
        rows = [builder.load(place, align=align) for place in places]
        for apart in (1, 2, 4, 8):
            for k in range(LANES):
                if not k & apart:
                    kept = [v + LANES - apart if v & apart else v for v in range(LANES)]
                    given = [v + LANES if v & apart else v + apart for v in range(LANES)]
                    above, below = rows[k], rows[k + apart]
                    for row, order in ((k, kept), (k + apart, given)):
                        mask = ir.Constant(ir.VectorType(ir.IntType(32), LANES), order)
                        rows[row] = builder.shuffle_vector(above, below, mask)
        for place, row in zip(places, rows, strict=True):
            builder.store(row, place, align=align)
        return context.get_dummy_value()

    return types.void(square), generate


SLOTS = 160  # numbers that a call can take: an array of k axes is 5 + 2 k of them


@intrinsic
def _word(typing_context, address):
    """Return the int64 at an address."""

    def generate(context, builder, signature, arguments):
        return builder.load(builder.inttoptr(arguments[0], ir.IntType(64).as_pointer()))

    return types.int64(types.int64), generate


@intrinsic
def _call(typing_context, address, results, numbers):
    """Call machine code at an address with the numbers at another one as its arguments; return the status.

    Every kernel first takes two places to write to, for its result and for an error, then its arguments. All that are
    integers or pointers lie in the same registers and stack slots, and what a function does not take it does not look
    at: so one call that passes SLOTS of them fits every kernel.
    """

    def generate(context, builder, signature, arguments):
        word = ir.IntType(64)
        kind = ir.FunctionType(ir.IntType(32), [word] * (2 + SLOTS))
        first = builder.inttoptr(arguments[2], word.as_pointer())
        slots = [builder.load(builder.gep(first, [ir.Constant(word, k)])) for k in range(SLOTS)]
        places = [arguments[1], builder.add(arguments[1], ir.Constant(word, 8))]
        return builder.call(builder.inttoptr(arguments[0], kind.as_pointer()), [*places, *slots])

    return types.int32(types.int64, types.int64, types.int64), generate


@kernel
def replay(job):
    """Make calls one after the other; return how many went well, all of them or those before the first that failed.

    Parameters
    ----------
    job : int64 array of shape (5,)
        How many calls; the addresses of their addresses, of the places of their first numbers, and of their numbers,
        which ``Kernel.machine_call`` gave, and SLOTS more; and the address of 16 bytes that are written to.
    """
    count, addresses, firsts, numbers, results = job[0], job[1], job[2], job[3], job[4]
    for k in range(count):
        if _call(_word(addresses + 8 * k), results, numbers + 8 * _word(firsts + 8 * k)) != 0:
            return k
    return count


@intrinsic
def atomic_add(typing_context, array, amount):
    """Add to element 0 of an int64 array in one indivisible step and return what it was before."""
    if not (isinstance(array, types.Array) and array.dtype == types.int64):
        return None

    def generate(context, builder, signature, arguments):
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        return builder.atomic_rmw("add", data, arguments[1], "seq_cst")

    return types.int64(array, types.int64), generate


@intrinsic
def atomic_load(typing_context, array):
    """Read element 0 of an int64 array that another thread may be changing."""
    if not (isinstance(array, types.Array) and array.dtype == types.int64):
        return None

    def generate(context, builder, signature, arguments):
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        return builder.load_atomic(data, "seq_cst", 8)

    return types.int64(array), generate


YIELD = "handgrad_yield_core"
llvmlite.binding.add_symbol(YIELD, ctypes.cast(yield_function(), ctypes.c_void_p).value)


@intrinsic
def yield_core(typing_context):
    """Let a thread that waits for this core have it."""

    def generate(context, builder, signature, arguments):
        kind = ir.FunctionType(ir.IntType(32), [])
        builder.call(cgutils.get_or_insert_function(builder.module, kind, YIELD), [])
        return context.get_dummy_value()

    return types.void(), generate
