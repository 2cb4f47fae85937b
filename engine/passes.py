"""One mini-batch on its way through the network: the buffers of every worker, the forward and the backward pass.

Floor 3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from . import cuda
from .arrays import Buffers, Workspace, blocks_for
from .layers.layer import Layer, Share
from .machines import OneSample
from .program import Piece, Program

if TYPE_CHECKING:
    from .graph import Node
    from .network import Network


# products of a single sample for each worker that helps, which take it 3 to 15 microseconds, and of a layer for which
# they meet; and those of a sample for which others are woken up, which takes some 300
WORTH_A_WORKER, WORTH_A_MEETING, WORTH_WAKING = 250_000, 20_000, 20_000_000


class Part:
    """The buffers of one worker: a stretch of the mini-batch's blocks, with a Share for every layer it has to do with.

    Parameters
    ----------
    network : Network
    machine : Cpu, OneSample or Cuda
    rank : int
        Of the worker.
    bounds : list of int
        Worker r has the blocks from bounds[r] up to bounds[r + 1]; those with none have the highest ranks.
    samples : int
        Of the whole mini-batch.
    joined : dict of str to str
        Activations that the layer before them applies, by that layer.
    undone : dict of str to str
        Layers that go back through a joined activation in front of them, by the layer that applies it.
    common : dict of str to dict of str to numpy.ndarray
        What the layers asked for in ``common_scratch``.
    wanted : set of str
        Nodes whose gradients somebody needs.

    Attributes
    ----------
    blocks : int
    first_sample, samples : int
        Which samples of the mini-batch are here.
    values, gradients : dict of str to numpy.ndarray
        Of every node, in lane layout; gradients are empty before the first backward pass.
    edges : dict of (str, int) to numpy.ndarray or None
        Gradient that a node sends to each of its inputs, by position.
    seeds : dict of int to numpy.ndarray
        Upstream gradient of each output, by position.
    programs : dict of str to Program
        What the forward pass and the backward pass do, once they have been run.
    draws : array of uint64
        On a GPU: the ``draw`` of every layer that takes random numbers, in topological order.
    own_gradients : dict of str to numpy.ndarray
        This worker's part of the gradients of the parameters of each layer, flat; of the first worker, and where a
        layer takes them over the whole mini-batch, they lie in the network's own array.
    """

    def __init__(
        self,
        network: Network,
        machine,
        rank: int,
        bounds: list[int],
        samples: int,
        joined: dict,
        undone: dict,
        common: dict,
        wanted: set[str],
    ):
        self.blocks, self.first_sample = bounds[rank + 1] - bounds[rank], bounds[rank] * machine.lanes
        blocks = self.blocks
        self.samples = min(samples - self.first_sample, blocks * machine.lanes)
        team = sum(stop > start for start, stop in pairwise(bounds))
        self.values: dict[str, np.ndarray] = {}
        self.gradients: dict[str, np.ndarray] = {}
        self.edges: dict[tuple[str, int], np.ndarray | None] = {}
        self.seeds: dict[int, np.ndarray] = {}
        self.shares: dict[str, Share] = {}
        self.programs: dict[str, Program] = {}
        self.own_gradients: dict[str, np.ndarray] = {}
        workspace = Workspace(machine)
        for name, node in network.nodes.items():
            shape = (blocks, *node.shape, machine.lanes)
            if node.layer is None:
                self.values[name] = machine.zeros(shape, network.dtype)
                continue
            x = tuple(self.values[source.name] for source in node.inputs)
            if name in joined.values():
                self.values[name] = x[0]
                continue
            z = node.layer.view(x[0], node.shape)
            self.values[name] = machine.zeros(shape, network.dtype) if z is None else z
            shapes = tuple(source.shape for source in node.inputs)
            scratch = machine.scratch(node.layer, shapes, blocks, network.dtype)
            if not any(source.name in wanted for source in node.inputs):
                unused = node.layer.states("only_for_dL_dx") or ()
                scratch = {key: array for key, array in scratch.items() if key not in unused}
            scratch = workspace.put(scratch, node.layer.states("passing") or {})
            self.shares[name] = Share(
                x=x,
                z=self.values[name],
                parameters=network.layer_arrays(name, network.theta_there),
                scratch=scratch,
                first_sample=self.first_sample,
                samples=self.samples,
                N=samples,
                statistics=network.statistics_there[name],
                activation=network.nodes[joined[name]].layer if name in joined else None,
                is_undone=name in undone,
                common=common[name],
                all_reduce_sum=partial(network.workers.all_reduce_sum, rank, team=team),
            )
        for name, behind in undone.items():
            self.shares[behind].before = self.shares[name].activation
        workspace.divide()
        random = [name for name, share in self.shares.items() if network.nodes[name].layer.random]
        if machine.is_gpu and random:
            self.draws = machine.put(np.zeros(len(random), np.uint64))
            for k, name in enumerate(random):
                self.shares[name].draw = self.draws[k : k + 1]

    def of_worker(self, rank: int, size: int, shared: dict[str, Layer]) -> Part:
        """Return the part of one of several workers that share some layers of a single sample.

        It has the same values, scratch of its own, and no share of a layer of which another worker does all.
        """
        part = copy(self)
        part.programs, part.shares = {}, {}
        for name, share in self.shares.items():
            if name in shared:
                share = shared[name].part_of_one(share, rank, size)
            elif rank:
                share = None
            if share is not None:
                scratch = {key: OneSample.put(array) for key, array in share.scratch.items()}
                part.shares[name] = replace(share, scratch=scratch)
        return part


class Pass:
    """Buffers and order of work for mini-batches of one size.

    Parameters
    ----------
    network : Network
    samples : int
        N, at least 1.
    input_gradient : bool
        False leaves out the gradients of nodes before which there are no parameters.
    fused : bool
        Whether layers that can do so apply the activation behind them, where it is the only one to read them. The two
        nodes then share their arrays, which hold the activation's value, and the gradient before it. Gradients of
        nodes last until the layers before have theirs.
    one : bool
        Whether the only sample goes without lanes, through layers that state ``takes_one``; forward and in inference.
        Workers may share it: then all parts have the same values, and each fills some rows of them.
    """

    def __init__(self, network: Network, samples: int, input_gradient: bool, fused: bool, one: bool = False):
        self.network, self.samples, self.is_one = network, samples, one
        self.machine = machine = OneSample() if one else network.machine
        self._consumers = self._find_consumers()
        self.is_fused, self.joined = fused, self._find_joined() if fused else {}
        self.undone = {} if machine.is_gpu else self._find_undone()
        self._wanted = self._nodes_that_need_gradients(input_gradient)
        blocks, size = blocks_for(samples, machine.lanes), 1 if machine.is_gpu else network.workers.size
        bounds = [blocks * rank // size for rank in range(size + 1)]
        if blocks < size:
            bounds = [min(rank, blocks) for rank in range(size + 1)]
        workspace = Workspace(machine)
        common = {
            name: workspace.put(self._common_scratch(node, blocks), node.layer.states("passing") or {})
            for name, node in network.nodes.items()
            if node.layer is not None
        }
        workspace.divide()
        self.parts = [
            Part(network, machine, rank, bounds, samples, self.joined, self.undone, common, self._wanted)
            if bounds[rank + 1] > bounds[rank]
            else None
            for rank in range(size)
        ]
        skipped = set(self.joined.values())
        self.steps = [
            (name, node.layer) for name, node in network.nodes.items() if node.layer is not None and name not in skipped
        ]
        self._alone: Part | None = None  # for a single sample that could be shared, when the other workers are asleep
        if one:
            self._share_sample()
        # what the training step that used this pass last remembers with it
        self.training_plan: object = None
        self._has_gradients = self._is_training = False
        self._crew: object = None  # the threads for which the programs of the parts were made
        # whether steps that have been run are run again without Python in between
        self.as_programs = not machine.is_gpu
        self.is_complete = False  # whether the gradients belong to the values

    def _common_scratch(self, node: Node, blocks: int) -> dict[str, np.ndarray]:
        """Return what a layer needs for all of the mini-batch; it is for backward passes alone."""
        if self.is_one or self.machine.is_gpu:
            return {}
        shapes = tuple(source.shape for source in node.inputs)
        return node.layer.common_scratch(shapes, blocks, self.network.dtype)

    def _share_sample(self) -> None:
        """Let as many workers as it is worth compute a single sample, each some outputs of the larger layers.

        They meet before and after each of these, which takes longer than most of them where Python has to be asked.
        """
        (whole,), workers = self.active, self.network.workers
        shapes = {name: [source.shape for source in self.network.nodes[name].inputs] for name, _ in self.steps}
        products = {name: layer.multiply_adds(*shapes[name]) for name, layer in self.steps}
        work = sum(products.values())
        size = min(workers.size, work // WORTH_A_WORKER)
        if size < 2 or not workers.can_meet or not all(self._calls_kernels_alone(layer) for _, layer in self.steps):
            return
        large = {name: layer for name, layer in self.steps if products[name] >= WORTH_A_MEETING}
        shared = {name: layer for name, layer in large.items() if layer.states("part_of_one")}
        parts = [whole.of_worker(rank, size, shared) for rank in range(size)]
        self.parts = [part if part.shares else None for part in parts] + [None] * (workers.size - size)
        self._alone = whole if work < WORTH_WAKING and len(self.active) > 1 else None

    def _calls_kernels_alone(self, layer: Layer) -> bool:
        return layer.states("kernels_alone") or (self.is_one and layer.states("kernels_alone_one"))

    def _piece(self, layer: Layer, work: Callable[[], None]) -> Piece:
        """Say of some work of a layer whether it only calls kernels, always the same on the same arrays."""
        return self._calls_kernels_alone(layer), work

    def _nodes_that_need_gradients(self, input_gradient: bool) -> set[str]:
        wanted: set[str] = set()
        for name, node in self.network.nodes.items():
            has_parameters = node.layer is not None and self.network.layer_arrays(name, self.network.theta)
            if input_gradient or has_parameters or any(source.name in wanted for source in node.inputs):
                wanted.add(name)
        return wanted

    def _find_consumers(self) -> dict[str, list[tuple[str, int]]]:
        """Return for each node who sends it a gradient: (consumer, position) pairs, outputs as ("", position)."""
        consumers: dict[str, list[tuple[str, int]]] = {name: [] for name in self.network.nodes}
        for name, node in self.network.nodes.items():
            for position, source in enumerate(node.inputs):
                consumers[source.name].append((name, position))
        for position, node in enumerate(self.network.outputs):
            consumers[node.name].append(("", position))
        return consumers

    def _find_joined(self) -> dict[str, str]:
        """Return the activations that need no step of their own, by the layer that applies them."""
        joined, nodes = {}, self.network.nodes
        statement = "takes_activation_cuda" if self.machine.is_gpu else "takes_activation"
        for name, node in nodes.items():
            consumers = [consumer for consumer, _ in self._consumers[name]]
            if node.layer is None or not node.layer.states(statement) or len(consumers) != 1 or not consumers[0]:
                continue
            is_read = all(consumer for consumer, _ in self._consumers[consumers[0]])  # an output's seed is the caller's
            if is_read and getattr(nodes[consumers[0]].layer, "formulas", None) is not None:
                joined[name] = consumers[0]
        return joined

    def _find_undone(self) -> dict[str, str]:
        """Return who goes back through a joined activation in its stead, by the layer that applies it."""
        undone = {}
        for name, activation in self.joined.items():
            (behind, _), *others = self._consumers[activation]
            if not others and self.network.nodes[behind].layer.states("undoes_activation"):
                undone[name] = behind
        return undone

    @property
    def active(self) -> list[Part]:
        """The parts of the workers that have something to do, in the order of their ranks."""
        return [part for part in self.parts if part is not None]

    @property
    def holders(self) -> list[Part]:
        """Those of them that hold samples of their own: workers that share a single sample have the same values."""
        return self.active[:1] if self.is_one else self.active

    def allocate_gradients(self) -> None:
        """Make the gradient buffers, once, from the outputs to the inputs.

        Where a node has one consumer, the consumer writes straight into the node's gradient. In a fused pass nobody
        looks at a gradient once the layers before have theirs, and its memory serves another node.
        """
        if self._has_gradients:
            return
        network = self.network
        for rank, part in enumerate(self.active):
            part.seeds = {
                position: self.machine.zeros((part.blocks, *node.shape, self.machine.lanes), network.dtype)
                for position, node in enumerate(network.outputs)
            }
            buffers = Buffers(network.dtype, self.machine, reuse=self.is_fused)
            for name in reversed(network.nodes):
                if name in self._wanted:
                    self._allocate_node(part, name, network.nodes[name], buffers)
                    self._allocate_parameter_gradients(part, name, is_first=rank == 0)
        self._has_gradients = True

    def _allocate_node(self, part: Part, name: str, node: Node, buffers: Buffers) -> None:
        """Make a node's gradient and what it sends back, and give back what is not read after its backward pass."""
        incoming, is_joined, machine = self._incoming(part, name), name in self.joined.values(), self.machine
        part.gradients[name] = incoming[0] if len(incoming) == 1 else buffers.take(part.values[name].shape)
        if node.layer is None:
            return
        before = self.joined.get(name, name)  # a joined activation has no step: its sum is taken in that of its layer
        summed = [] if is_joined else self._incoming(part, before)
        if len(summed) > 1:
            for edge in summed:
                buffers.give_back(edge)
        for position, source in enumerate(node.inputs):
            edge = None
            if source.name in self._wanted:
                dL_dz = part.gradients[name]
                edge = dL_dz if is_joined else node.layer.view_back(dL_dz, source.shape, position)
                if edge is None:
                    edge = buffers.take((part.blocks, *source.shape, machine.lanes))
            part.edges[name, position] = edge
        sent = [part.edges[name, position] for position in range(len(node.inputs))]
        own = machine.address(part.gradients[name])
        if not any(edge is not None and machine.address(edge) == own for edge in sent):
            buffers.give_back(part.gradients[name])

    def _allocate_parameter_gradients(self, part: Part, name: str, *, is_first: bool) -> None:
        """Tell a layer where its gradients are; of all but the first worker, make those of the parameters."""
        network, node = self.network, self.network.nodes[name]
        if name not in part.shares:
            return
        share = part.shares[name]
        share.dL_dz = part.gradients[name]
        share.dL_dx = tuple(part.edges[name, position] for position in range(len(node.inputs)))
        stretch = network.layer_stretch(name)
        if is_first or node.layer.finishes or not share.parameters:
            share.gradients = network.layer_arrays(name, network.gradients_there)
        else:
            own = part.own_gradients[name] = self.machine.zeros(stretch.stop - stretch.start, network.dtype)
            share.gradients = network.layer_arrays(name, own, stretch.start)

    def _incoming(self, part: Part, name: str) -> list[np.ndarray]:
        return [part.edges[edge] if edge[0] else part.seeds[edge[1]] for edge in self._consumers[name]]

    def load(self, name: str, x: np.ndarray) -> None:
        """Copy samples in user layout into an input's value."""
        for part in self.holders:
            self.machine.pack(x[part.first_sample : part.first_sample + part.samples], part.values[name])

    def load_seed(self, position: int, dL_dz: np.ndarray) -> None:
        """Copy an upstream gradient in user layout to an output."""
        for part in self.active:
            self.machine.pack(dL_dz[part.first_sample : part.first_sample + part.samples], part.seeds[position])

    def prepare(self, training: bool, draw: int) -> None:
        """Tell every layer whether this is training, and which random numbers are its own."""
        self.prepare_layers(training)
        random = [name for name, layer in self.steps if layer.random]
        if not training or not random:
            return
        keys = self.draw_keys(draw)
        if self.machine.is_gpu:
            cuda.device().write(self.parts[0].draws, keys)
            return
        for part in self.active:
            for name, key in zip(random, keys, strict=True):
                part.shares[name].draw = int(key)

    def prepare_layers(self, training: bool) -> None:
        """Tell every layer whether this is training."""
        self._is_training = training
        for part in self.active:
            for share in part.shares.values():
                share.training = training

    def draw_keys(self, draw: int) -> np.ndarray:
        """Return the keys of one draw, uint64, one for each layer that takes random numbers, in topological order."""
        return np.array(
            [self.network.draw_key(name, draw) for name, layer in self.steps if layer.random], dtype=np.uint64
        )

    def run(self, function) -> None:
        """Call ``function(part)`` for every worker's part at the same time."""
        self._forget_programs_of_others()
        if len(self.active) == 1:
            function(self.active[0])
        else:
            self.network.workers.run(lambda rank: self.parts[rank] is not None and function(self.parts[rank]))

    def run_all(self, which: str) -> None:
        """Do "forward" or "backward" for every worker's part at the same time, without Python from then on.

        Programs are made by the first one; see ``Workers.run_programs``. For a single sample, whose pass only goes
        forward, others are not woken up.
        """
        if self._alone is not None and self.network.workers.run_alone(partial(self.forward, self._alone)):
            return
        self._forget_programs_of_others()
        programs, key = [None], self._key(which)
        if len(self.active) > 1:
            programs = [Program() if part is None else part.programs.get(key) for part in self.parts]
        if None in programs:
            self.run(getattr(self, which))
        elif self._alone is not None and any(program.job is None for program in programs):
            self.parts = [self._alone] + [None] * (len(self.parts) - 1)  # to ask Python would take longer than the rest
            self._alone = None
            self.run(self.forward)
        else:
            self.network.workers.run_programs(programs)

    def _forget_programs_of_others(self) -> None:
        """Let programs go whose meetings are those of threads that are there no more, see ``Workers.crew``."""
        if len(self.active) > 1 and self._crew is not self.network.workers.crew:
            self._crew = self.network.workers.crew
            for part in self.active:
                part.programs.clear()

    def _key(self, which: str) -> str:
        """Return the name of a program; what is done in training and what otherwise may differ."""
        return f"{which} in training" if self._is_training else which

    def forward(self, part: Part) -> None:
        """Run the layers in topological order."""
        self._run(part, "forward", self._forward_pieces)

    def _forward_pieces(self, part: Part) -> Iterator[Piece]:
        is_shared = self.is_one and part is not self._alone
        shared = {name for other in self.active[1:] for name in other.shares} if is_shared else set()
        for position, (name, layer) in enumerate(self.steps):
            if position and not shared.isdisjoint((name, self.steps[position - 1][0])):
                yield self.meeting(len(self.active))  # nobody may read what others are still writing
            if name in part.shares:
                yield self._piece(layer, partial(self.machine.forward, layer, part.shares[name]))

    def _run(self, part: Part, which: str, pieces: Callable[[Part], Iterator[Piece]]) -> None:
        """Run the steps, as a program from the second time on."""
        if not self.as_programs:
            for _, work in pieces(part):
                work()
            return
        key = self._key(which)
        if key in part.programs:
            part.programs[key].run()
            return
        part.programs[key] = Program.of(pieces(part))

    def training_pieces(self, part: Part) -> tuple[Iterator[Piece], Iterator[Piece]]:
        """Return what forward pass and backward pass do for a part, for a program of all of a training step."""
        return self._forward_pieces(part), self._backward_pieces(part)

    def backward(self, part: Part) -> None:
        """Run the layers in reversed order, after adding up what the consumers of each node sent back.

        All parts at the same time: their workers wait for each other, before and after a layer's ``finish``.
        """
        self._run(part, "backward", self._backward_pieces)

    def _backward_pieces(self, part: Part) -> Iterator[Piece]:
        team, has_finished = self.active, False
        for name, layer in reversed(self.steps):
            if name not in self._wanted:
                continue
            share, finishes = part.shares[name], layer.finishes and not self.machine.is_gpu
            if finishes and has_finished:
                yield self.meeting(len(team))  # nobody may fill what all have in common before all have read it
            yield True, partial(self._sum_of_consumers, part, self.joined.get(name, name))
            yield self._piece(layer, partial(self.machine.backward, layer, share))
            if finishes:
                yield self.meeting(len(team))
                yield self._piece(layer, partial(layer.finish, share, team.index(part), len(team)))
                has_finished = True
        for node in self.network.inputs:
            if node.name in self._wanted:
                yield True, partial(self._sum_of_consumers, part, node.name)

    def meeting(self, team: int) -> Piece:
        """Return the piece in which the first workers wait for each other, in a kernel where they have a core each."""
        workers = self.network.workers
        return (True, partial(workers.meet, team)) if workers.can_meet else (False, partial(workers.barrier, team))

    def _sum_of_consumers(self, part: Part, name: str) -> None:
        """dL/dy = Σ over the consumers of y; with a single consumer the gradient is already in its place."""
        incoming, machine = self._incoming(part, name), self.machine
        if len(incoming) > 1:
            dL_dy = part.gradients[name].reshape(-1)
            machine.copy_into(dL_dy, incoming[0].reshape(-1))
            for dL_dy_k in incoming[1:]:
                machine.add_into(dL_dy, dL_dy_k.reshape(-1))  # (add.4)

    def reduce_gradients(self, stretch: slice = slice(None)) -> None:
        """Add up the workers' gradients of a stretch of the parameters, in the order of their ranks."""
        total, machine = self.network.dL_dtheta, self.machine
        first, stop, _ = stretch.indices(total.size)
        for part in self.active[1:]:
            for name, own in part.own_gradients.items():
                start = self.network.layer_stretch(name).start
                low, high = max(first, start), min(stop, start + own.size)
                if low < high:
                    machine.add_into(total[low:high], own[low - start : high - start])

    def value(self, name: str) -> np.ndarray:
        """Return a node's value in user layout."""
        return self._in_user_layout([part.values[name] for part in self.holders])

    def gradient(self, name: str) -> np.ndarray:
        """Return the gradient of a node's value in user layout."""
        return self._in_user_layout([part.gradients[name] for part in self.active])

    def _in_user_layout(self, parts: list[np.ndarray]) -> np.ndarray:
        return self.machine.unpack(np.concatenate(parts) if len(parts) > 1 else parts[0], self.samples)
