"""What a pass needs to know of the machine that it runs on: how memory is had, and which of a layer's methods to call.

Floor 2.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from . import arrays, cuda
from .backend import LANES
from .layers.layer import Layer, Shape, Share


class Cpu:
    """The processor: samples side by side are the lanes of its vectors, and each core has a part of the mini-batch."""

    name = "cpu"
    lanes = LANES
    is_gpu = False
    zeros, put = staticmethod(arrays.aligned_zeros), staticmethod(arrays.aligned)
    pack, unpack = staticmethod(arrays.pack), staticmethod(arrays.unpack)

    @staticmethod
    def address(array: np.ndarray) -> int:
        """Return where an array begins."""
        return array.ctypes.data

    @staticmethod
    def scratch(layer: Layer, x_shapes: tuple[Shape, ...], blocks: int, dtype: np.dtype) -> dict[str, np.ndarray]:
        """Return what the layer's kernels need beside input and output."""
        return layer.scratch(x_shapes, blocks, dtype)

    @staticmethod
    def forward(layer: Layer, share: Share) -> None:
        """Run a layer forward."""
        layer.forward(share)

    @staticmethod
    def backward(layer: Layer, share: Share) -> None:
        """Run a layer backward."""
        layer.backward(share)

    @staticmethod
    def on_host(share: Share) -> Share:
        """Return a share with arrays that NumPy can look at: this one."""
        return share

    @staticmethod
    def read_number(array: np.ndarray, at: tuple[int, ...]) -> float:
        """Return one number of an array of this machine, or of the network's own."""
        return array[at]

    @staticmethod
    def write_number(array: np.ndarray, at: tuple[int, ...], value: float) -> None:
        """Change one number of an array of this machine, or of the network's own."""
        array[at] = value

    copy_into, add_into = staticmethod(arrays.copy_into), staticmethod(arrays.add_into)


class OneSample(Cpu):
    """The processor with a single sample in inference: its own features or columns side by side fill the vectors."""

    lanes = 1

    @staticmethod
    def pack(values: np.ndarray, lanes: np.ndarray) -> None:
        """Copy the sample (1, ...) into (1, ..., 1)."""
        lanes[..., 0] = values

    @staticmethod
    def unpack(lanes: np.ndarray, samples: int) -> np.ndarray:
        """Return a copy of the sample, (1, ...)."""
        return lanes[..., 0].copy()

    @staticmethod
    def scratch(layer: Layer, x_shapes: tuple[Shape, ...], blocks: int, dtype: np.dtype) -> dict[str, np.ndarray]:
        """Return what the layer's forward kernels for one sample need beside input and output."""
        return layer.scratch_one(x_shapes, dtype)

    @staticmethod
    def forward(layer: Layer, share: Share) -> None:
        """Run a layer forward."""
        layer.forward_one(share)


class Cuda:
    """A GPU: samples side by side are the threads of its warps, and all of the mini-batch is one part."""

    name = "cuda"
    lanes = cuda.WARP
    is_gpu = True

    def __init__(self):
        cuda.device()  # or say here why there is none

    @staticmethod
    def zeros(shape, dtype):
        """Return zeros on the GPU."""
        return cuda.device().zeros(shape, dtype)

    @staticmethod
    def put(array: np.ndarray):
        """Return a copy on the GPU."""
        return cuda.device().put(array)

    @staticmethod
    def address(array) -> int:
        """Return where an array begins."""
        return cuda.device().address(array)

    @staticmethod
    def pack(values: np.ndarray, lanes) -> None:
        """Copy samples of the host, (N, ...), into lane layout on the GPU."""
        packed = np.empty(lanes.shape, lanes.dtype)
        arrays.pack(values, packed)
        cuda.device().write(lanes, packed)

    @staticmethod
    def unpack(lanes, samples: int) -> np.ndarray:
        """Return samples on the GPU in user layout on the host."""
        return arrays.unpack(cuda.device().get(lanes), samples)

    @staticmethod
    def scratch(layer: Layer, x_shapes: tuple[Shape, ...], blocks: int, dtype: np.dtype) -> dict[str, np.ndarray]:
        """Return what the layer's CUDA kernels need beside input and output, still on the host."""
        return layer.scratch_cuda(x_shapes, blocks, dtype)

    @staticmethod
    def forward(layer: Layer, share: Share) -> None:
        """Run a layer forward."""
        layer.forward_cuda(share)

    @staticmethod
    def backward(layer: Layer, share: Share) -> None:
        """Run a layer backward."""
        layer.backward_cuda(share)

    @staticmethod
    def on_host(share: Share) -> Share:
        """Return a copy of a share with arrays that NumPy can look at."""
        get = cuda.device().get
        x, scratch = tuple(map(get, share.x)), {name: get(array) for name, array in share.scratch.items()}
        statistics = {name: get(array) for name, array in share.statistics.items()}
        return replace(share, x=x, z=get(share.z), scratch=scratch, statistics=statistics)

    @staticmethod
    def read_number(array, at: tuple[int, ...]) -> float:
        """Return one number of an array of this machine, or of the network's own, which is the host's."""
        return (array if _is_of_network(array) else cuda.device().get(array))[at]

    @staticmethod
    def write_number(array, at: tuple[int, ...], value: float) -> None:
        """Change one number of an array of this machine, or of the network's own."""
        if _is_of_network(array):
            array[at] = value
            return
        changed = cuda.device().get(array)
        changed[at] = value
        cuda.device().write(array, changed)

    @staticmethod
    def copy_into(target, source) -> None:
        """target = source, on flat arrays."""
        cuda.copy_into_cuda[cuda.flat(target.size)](target, source)

    @staticmethod
    def add_into(total, part) -> None:
        """total = total + part, on flat arrays."""
        cuda.add_into_cuda[cuda.flat(total.size)](total, part)


def _is_of_network(array) -> bool:
    """Return whether an array is the host's, as those of ``Network.parameters`` are."""
    return isinstance(array, np.ndarray)
