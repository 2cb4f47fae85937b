"""The same networks in PyTorch: eager, channels last, and compiled, each as a runner.

Their samples are floats that lie ready in memory, so that gathering and scaling, which this engine does in every step,
costs them nothing.
"""

from __future__ import annotations

import time

import numpy as np

from .memory import torch_peak_bytes
from .nets import NETS
from .ours import BATCHES
from .runner import Runner

MODES = ("eager", "channels_last", "compile", "compile channels_last")


def modules(name: str):
    """Return a new PyTorch module for a net."""
    from torch import nn

    def lenet(activation, pool):
        features = [nn.Conv2d(1, 6, 5, padding=2), activation(), pool(2), nn.Conv2d(6, 16, 5), activation(), pool(2)]
        dense = [nn.Linear(400, 120), activation(), nn.Linear(120, 84), activation(), nn.Linear(84, 10)]
        return nn.Sequential(*features, nn.Flatten(), *dense)

    def small_alexnet():
        layers, before = [], 3
        for filters in (16, 32, 64):
            layers += [nn.Conv2d(before, filters, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
            before = filters
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(1024, 500), nn.ReLU(), nn.Linear(500, 10))

    def two_conv():
        return nn.Sequential(
            *[nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.25)],
            *[nn.Flatten(), nn.Linear(9216, 128), nn.ReLU(), nn.Dropout(0.5), nn.Linear(128, 10)],
        )

    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = (nn.Conv2d(16, 16, 3, padding=1) for _ in range(2))
            self.norm1, self.norm2 = nn.BatchNorm2d(16), nn.BatchNorm2d(16)

        def forward(self, x):
            y = nn.functional.relu(self.norm1(self.first(x)))
            return nn.functional.relu(self.norm2(self.second(y)) + x)

    return {
        "lenet5": lambda: lenet(nn.ReLU, nn.MaxPool2d),
        "lenet5-1998": lambda: lenet(nn.Tanh, nn.AvgPool2d),
        "mlp": lambda: nn.Sequential(
            nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10)
        ),
        "two-conv": two_conv,
        "alexnet-small": small_alexnet,
        "residual-block": Residual,
        "conv-stride2": lambda: nn.Conv2d(16, 32, 3, stride=2, padding=1),
        "conv-1x1": lambda: nn.Conv2d(16, 32, 1),
        "conv-1x1-stride2": lambda: nn.Conv2d(16, 32, 1, stride=2),
    }[name]()


class PyTorch(Runner):
    """Train one network in one mode.

    Parameters
    ----------
    name : str
        Of NETS.
    batch : int
    threads : int
    mode : str
        Of MODES.
    """

    def __init__(self, name: str, batch: int, threads: int, mode: str):
        import torch

        torch.set_num_threads(threads)
        torch.manual_seed(0)
        net, self.batch, self.label, self._turn = NETS[name], batch, f"PyTorch {mode}", 0
        layout = torch.channels_last if "channels_last" in mode else torch.contiguous_format
        self.module = modules(name).train()
        rng = np.random.default_rng(0)
        x = torch.tensor(rng.normal(size=(BATCHES * batch, *net.shape)).astype(np.float32))
        if len(net.shape) == 3:
            self.module, x = self.module.to(memory_format=layout), x.contiguous(memory_format=layout)
        self.x, self._one, self._with_input = x, x[:1].clone(), not net.classes
        if net.classes:
            self.target, criterion = torch.tensor(rng.integers(0, 10, BATCHES * batch)), torch.nn.CrossEntropyLoss()
            self._loss = lambda x, target: criterion(self.module(x), target)
        else:
            with torch.no_grad():
                z = self.module(x[:batch])
            u = torch.randn(z.shape).contiguous(memory_format=layout)
            self.target, self._loss = x, lambda x, target: (self.module(x) * u).sum()
        self._infer = self.module
        if "compile" in mode:
            import torch._dynamo

            torch._dynamo.config.automatic_dynamic_shapes = False  # every size gets code of its own
            self._loss, self._infer = torch.compile(self._loss), torch.compile(self.module)
        self.optimizer = torch.optim.SGD(self.module.parameters(), lr=0.01)
        self._inference = torch.inference_mode

    def _forget_and_lose(self):
        """Return the loss of the next mini-batch, without the gradients of the one before."""
        start = self._turn % BATCHES * self.batch
        self._turn += 1
        x, target = self.x[start : start + self.batch], self.target[start : start + self.batch]
        if self._with_input:
            x = x.detach().requires_grad_(True)
        self.optimizer.zero_grad(set_to_none=True)
        return self._loss(x, target)

    def step(self) -> None:
        """Train on the next mini-batch."""
        self._forget_and_lose().backward()
        self.optimizer.step()

    def forward(self) -> None:
        """Compute the outputs of a mini-batch, in inference."""
        with self._inference():
            self._infer(self.x[: self.batch])

    def backward_seconds(self) -> float:
        """Run both passes; every backward pass has its own forward pass, which compiled code demands."""
        loss = self._forget_and_lose()
        start = time.perf_counter()
        loss.backward()
        return time.perf_counter() - start

    def classify_one(self) -> None:
        """Compute the outputs of one sample."""
        with self._inference():
            self._infer(self._one)

    def enter(self, kind: str) -> None:
        """Switch between training and inference."""
        self.module.train(kind in ("step", "backward"))

    def step_bytes(self) -> int:
        """Return parameters and mini-batch, and the most that a training step holds besides, gradients included."""
        self.enter("step")
        self.optimizer.zero_grad(set_to_none=True)
        always = [*self.module.parameters(), *self.module.buffers(), self.x[: self.batch]]
        return sum(tensor.nbytes for tensor in always) + torch_peak_bytes(self.step)
