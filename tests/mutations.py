"""Classic bugs of back-propagation by hand, each a small change of one file of the engine.

``test_mutations.py`` plants them one at a time and demands that the project's own tests notice. A bug is a piece of
text that occurs exactly once in its file, leaving out what runs on a GPU, and what a tired programmer might have
written in its place.
"""

from __future__ import annotations

import ast
import functools
import re
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import handgrad

ENGINE = Path(handgrad.__file__).parent / "engine"


@dataclass(frozen=True)
class Mutation:
    """One bug.

    Parameters
    ----------
    file : str
        Below engine/.
    name : str
        What is wrong, in a few words joined by hyphens.
    old, new : str
        The text that is there, exactly once, and the text to be planted.
    bug : str
        What is wrong, in a sentence.
    also : tuple of (str, str)
        More texts of the same file to be replaced, for bugs that are consistent in several places.
    seen_by : str
        Tests below tests/ that must notice, separated by blanks; by default the file's mirror image.
    hidden_from : str
        A test that does not notice, although it looks at the same gradients.
    on_gpu : bool
        Whether the bug is one of the functions that run on a GPU; otherwise these do not count.
    """

    file: str
    name: str
    old: str
    new: str
    bug: str
    also: tuple[tuple[str, str], ...] = ()
    seen_by: str = ""
    hidden_from: str = ""
    on_gpu: bool = False

    @property
    def id(self) -> str:
        """The file's name and the bug's."""
        return f"{PurePosixPath(self.file).stem}-{self.name}"

    @property
    def module(self) -> str:
        """Name of the module to be imported with the bug in it."""
        return ".".join(("handgrad", "engine", *PurePosixPath(self.file).with_suffix("").parts))

    @property
    def tests(self) -> tuple[str, ...]:
        """The tests that must notice, from the root of the repository."""
        folder, _, name = self.file.rpartition("/")
        return tuple(f"tests/{test}" for test in (self.seen_by or f"{folder or 'engine'}/test_{name}").split())

    def planted_in(self, text: str) -> str:
        """Return the file's text with the bug in it.

        Raises
        ------
        ValueError
            When a text to be replaced is not there, or more than once.
        """
        for old, new in ((self.old, self.new), *self.also):
            found = [at for at in _places(text, old) if any(at in span for span in _on_gpu(text)) == self.on_gpu]
            if len(found) != 1:
                raise ValueError(f"{self.id}: engine/{self.file} has {len(found)} times, expected once: {old!r}")
            text = text[: found[0]] + new + text[found[0] + len(old) :]
        return text


def _places(text: str, old: str) -> list[int]:
    return [match.start() for match in re.finditer(re.escape(old), text)]


@functools.cache
def _on_gpu(text: str) -> list[range]:
    """Return where the functions stand that run on a GPU: twins of others that share lines with them."""
    starts = [0]
    for line in text.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    return [
        range(starts[node.lineno - 1], starts[node.end_lineno])
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef)
        and (node.name.endswith("_cuda") or "device_function" in map(ast.unparse, node.decorator_list))
    ]


M = Mutation
# fmt: off
LAYERS = (
    M("layers/add.py", "adds-to-the-last-step", "dL_dx[k] = dL_dz[k]", "dL_dx[k] += dL_dz[k]",
      "+= for =: the gradient of the step before is still in the buffer"),
    M("layers/avgpool2d.py", "divided-by-the-pixels-inside",
      "index(column + j), v]\n                        z[n, c, h, q, v] = total / area",
      "index(column + j), v]\n                        z[n, c, h, q, v] = total / ((i_to - i_from) * (j_to - j_from))",
      "at the border the mean is taken over the pixels inside the image, in both passes",
      also=(("share = dL_dz[n, c, h, q, v] / area\n                                    through",
             "share = dL_dz[n, c, h, q, v] / ((i_to - i_from) * (j_to - j_from))\n"
             "                                    through"),),
      hidden_from="layers/test_avgpool2d.py::test_finite_differences"),
    M("layers/avgpool2d.py", "stride-ignored-in-backward",
      "a, b = index(sh * h + i), index(sw * q + j)\n                                    through",
      "a, b = index(h + i), index(q + j)\n                                    through", "the backward pass takes the windows for neighbours"),
    M("layers/avgpool2d.py", "every-pixel-gets-all", "share[v] = dL_dz_q[v] / area", "share[v] = dL_dz_q[v]",
      "windows that do not overlap send their gradient back undivided"),
    M("layers/batch_norm.py", "term-through-the-mean-lost", "dL_dz_c[k] - mean_beta - x_hat",
      "dL_dz_c[k] - x_hat", "x acts on every output through the mean as well"),
    M("layers/batch_norm.py", "term-through-the-variance-lost", " - mean_beta - x_hat * mean_gamma)",
      " - mean_beta)", "x acts on every output through the variance as well"),
    M("layers/batch_norm.py", "normalized-by-the-unbiased-variance",
      "variance = squares / m", "variance = squares / (m - 1)",
      "the variance that normalizes divides by m"),
    M("layers/batch_norm.py", "remembers-the-biased-variance", "new * (m / (m - 1) * variance)", "new * variance",
      "the variance that is remembered divides by m - 1"),
    M("layers/batch_norm.py", "momentum-the-wrong-way-round", "old, new = 1 - self.momentum, self.momentum",
      "old, new = self.momentum, 1 - self.momentum", "momentum is the weight of the newest mini-batch, not of the old"),
    M("layers/batch_norm.py", "momentum-ignored", "float(momentum), float(eps)", "0.1, float(eps)",
      "the option is checked and forgotten"),
    M("layers/batch_norm.py", "starts-closed", 'parameters["gamma"][...] = 1', 'parameters["gamma"][...] = 0',
      "a layer that starts with gamma = 0 lets no gradient through"),
    M("layers/batch_norm.py", "squares-around-0", "near[v] = acc[v] / m", "near[v] = 0",
      "mean of the squares minus square of the mean: far from 0 nothing is left of the difference"),
    M("layers/batch_norm.py", "means-of-stretches-not-merged", "between, step = m * count / (count + m)", "between, step = 0.0",
      "the variance within stretches alone, not between them"),
    M("layers/batch_norm.py", "means-of-lanes-not-merged", "squares[v] + (samples + LANES - 1 - v) // LANES * K * d * d",
      "squares[v]", "the variance within each lane alone, not between them"),
    M("layers/batch_norm.py", "means-of-workers-not-merged", "squares += own * (own_mean - mean) ** 2", "pass",
      "the variance within each worker's samples alone, not between them"),
    M("layers/batch_norm.py", "eps-outside-the-root", "1 / np.sqrt(variance + self.eps)",
      "1 / (np.sqrt(variance) + self.eps)", "eps is added to the variance, not to the deviation"),
    M("layers/batch_norm.py", "empty-lanes-counted",
      "filled, x_c = min(LANES, samples - n * LANES)", "filled, x_c = LANES",
      "lanes without a sample, all zeros, count in the variance"),
    M("layers/batch_norm.py", "empty-lanes-get-a-gradient", "dL_dx_c[k] = 0", "pass",
      "lanes without a sample send a gradient to the layers before"),
    M("layers/batch_norm.py", "mini-batch-in-inference",
      "if share.training:\n            variance", "if True:\n            variance",
      "inference normalizes by the mini-batch, and remembers it"),
    M("layers/batch_norm.py", "workers-sum-for-themselves", "share.all_reduce_sum(sums)", "pass",
      "each worker knows the gradient sums of its own samples alone"),
    M("layers/batch_norm.py", "upstream-gradient-of-empty-lanes-counted", "is_filled = n * LANES + v < samples",
      "is_filled = True", "what is left in lanes without a sample moves gamma and beta"),
    M("layers/batch_norm.py", "joined-activation-not-left-behind", "copy_lanes(upstream_k, dL_dz)", "pass",
      "dL/dx is made from dL/da, as if no activation stood between"),
    M("layers/concat.py", "everybody-gets-the-first-slice", "dL_dz[n, index(start + k)]", "dL_dz[n, index(k)]",
      "the backward pass cuts every input's gradient from the beginning"),
    M("layers/conv2d.py", "kernel-unflipped-in-the-input-gradient", "i, j, o_in_group, c % input_tile] = w",
      "fh - 1 - i, fw - 1 - j, o_in_group, c % input_tile] = w", "the input gradient reads the kernel the wrong way round"),
    M("layers/conv2d.py", "kernel-flipped-in-both-passes", "w = W[o, c, i, j]", "w = W[o, c, fh - 1 - i, fw - 1 - j]",
      "a true convolution with its true gradients, where the layer is a cross-correlation",
      also=(("dL_dW[o, c, i, j] += total", "dL_dW[o, c, fh - 1 - i, fw - 1 - j] += total"),),
      hidden_from="layers/test_conv2d.py::test_finite_differences"),
    M("layers/correlation.py", "rows-between-windows-lost", "sh if (fh, top, bottom) == (1, 0, 0)", "sh if fh == 1",
      "windows of one row read every so manieth of a bordered image, whose border does not shrink",
      seen_by="layers/test_conv2d.py"),
    M("layers/correlation.py", "top-padding-taken-for-bottom", "self.stride[0], self.padding[0], self.dilation[0])",
      "self.stride[0], self.padding[1], self.dilation[0])", "the zeros above the image are those meant for below",
      seen_by="layers/test_conv2d.py"),
    M("layers/conv2d.py", "dilation-ignored", 'self.dilation = pair_of_integers(self, "dilation", dilation)',
      'self.dilation = pair_of_integers(self, "dilation", dilation) and (1, 1)', "the option is checked and forgotten",
      hidden_from="layers/test_conv2d.py::test_finite_differences"),
    M("layers/conv2d.py", "stride-ignored-in-the-weight-gradient", "start = sh * h * pitch + sw * q",
      "start = h * pitch + q", "the backward pass takes the windows for neighbours"),
    M("layers/conv2d.py", "groups-mixed-up", "to_next = g * group + sh * h * pitch + sw * q",
      "to_next = sh * h * pitch + sw * q", "every group reads the channels of the first"),
    M("layers/conv2d.py", "one-filter-input-gradient", "for o in range(O_g):\n                                w_o",
      "for o in range(1):\n                                w_o",
      "the input gradient of S0: right for one filter, the sum over the others is lost"),
    M("layers/conv2d.py", "second-column-is-the-first", "acc[1, t, v] += w_k[t] * x_next[v]",
      "acc[1, t, v] += w_k[t] * x_k[v]", "tiles of two columns compute the first one twice"),
    M("layers/conv2d.py", "second-block-sends-nothing-back", "acc[1, t, v] += w_o[t] * dL_dz_next_o[v]",
      "acc[1, t, v] += 0", "the input gradient of every second block is lost"),
    M("layers/conv2d.py", "planes-of-the-first-block", "place_image(dL_dz[pair[k]], read[k], pitch, 0)",
      "place_image(dL_dz[n], read[k], pitch, 0)", "where planes are copied, two blocks send back what the first one got"),
    M("layers/conv2d.py", "strips-overlap", "min(top + strip, P)", "min(top + strip + 1, P)",
      "the weight gradient counts the rows between two strips twice"),
    M("layers/conv2d.py", "one-filter-tile", "filters = first, min(first + in_a_round, (g + 1) * O_g)",
      "filters = first, min(first + FILTERS, (g + 1) * O_g)", "of the filters at once, the first tile alone has a weight gradient"),
    M("layers/conv2d.py", "joined-gradient-kept-from-the-weights", "upstream_k[v] = dL_dz[v]", "pass",
      "the bias gradient goes back through the joined activation, the other gradients do not",
      seen_by="engine/test_fused.py"),
    M("layers/conv2d.py", "joined-activation-of-the-first-block", "activate(activation, z_n, rows)",
      "activate(activation, z[0], rows)", "of several blocks of samples the first alone gets the activation",
      seen_by="engine/test_fused.py"),
    M("layers/elementwise.py", "joined-activation-forgets-the-rest", "for k in range(whole, stop):", "for k in range(stop, stop):",
      "the numbers behind the last whole stretch stay as they are", seen_by="engine/test_fused.py"),
    M("layers/elementwise.py", "joined-activation-of-the-first-channel", "numbers = z[m, k : k", "numbers = z[0, k : k",
      "the first channel alone gets the activation", seen_by="engine/test_fused.py"),
    M("layers/conv2d.py", "borders-of-one-width", "sizes.padding[0] * pitch + sizes.padding[2]",
      "min(sizes.padding[::2]) * (pitch + 1)", "the border above is taken to be as wide as that on the left"),
    M("layers/conv2d.py", "one-lane-lost", "for v in range(1, LANES):\n                        total += lanes[v]",
      "for v in range(2, LANES):\n                        total += lanes[v]",
      "the weight gradient forgets every sixteenth sample"),
    M("layers/conv2d.py", "starts-with-xavier", "initializer=initializers.he", "initializer=initializers.xavier",
      "weights behind a ReLU start too small", seen_by="engine/test_initializers.py"),
    M("layers/conv2d.py", "bias-gradient-of-the-last-pixel", "total += plane[k]", "total = plane[k]",
      "= for +=: the last summand alone is left"),
    M("layers/conv2d_one.py", "single-sample-groups-mixed-up", "index(g * step + offsets[m] + k)", "index(offsets[m] + k)",
      "every group of a single sample reads the channels of the first", seen_by="layers/test_conv2d.py"),
    M("layers/conv2d_one.py", "single-sample-left-border-forgotten", "(first + left) // sw", "first // sw",
      "the image of a single sample begins in the border", seen_by="layers/test_conv2d.py"),
    M("layers/conv2d_one.py", "single-sample-stride-ignored", "a // sh) * pitch + b // sw", "a) * pitch + b",
      "the kernel of a single sample takes the rows of one plane for those of the image",
      seen_by="layers/test_conv2d.py"),
    M("layers/conv_transpose2d.py", "output-padding-forgotten",
      "1 - sides[0] - sides[1] + rh", "1 - sides[0] - sides[1]",
      "the rows that output_padding asks for are missing"),
    M("layers/conv_transpose2d.py", "bias-forgotten",
      'add_bias(share.parameters["b"], ', 'add_bias(0 * share.parameters["b"], ',
      "the bias is not added, but has its gradient"),
    M("layers/dense.py", "weight-gradient-divided-by-N",
      "row[index(j + v)] = acc[k, t, v]", "row[index(j + v)] = acc[k, t, v] / (blocks * LANES)",
      "the loss has divided by N already"),
    M("layers/dense.py", "last-tile-for-nobody", "count * (rank + 1) // size", "(count - 1) * (rank + 1) // size",
      "the last outputs of the layer get no gradient"),
    M("layers/dense.py", "own-samples-alone", "(share.z, dL_dz, panels, share.first_sample // LANES)",
      "(share.z, dL_dz, panels, 0)", "all workers write where the first samples belong",
      seen_by="engine/test_network.py"),
    M("layers/dense.py", "activation-passed-over", "copy_lanes(dL_dz_i, some)", "pass",
      "the input gets dL/da W instead of dL/dz W, though the weights get theirs", seen_by="engine/test_fused.py"),
    M("layers/dense.py", "single-sample-without-its-last-features", "total += W[last, j] * one[j]", "pass",
      "features beyond the last whole vector are left out for a single sample"),
    M("layers/dense.py", "last-features-in-one-column", "index(j - whole)", "index(0)",
      "of the features behind the last whole panel the last one alone is left for the weights"),
    M("layers/dense.py", "fans-exchanged", "self.initializer(rng, (I, J), J, I)", "self.initializer(rng, (I, J), I, J)",
      "the weights start in the size that fits the transposed layer", seen_by="engine/test_initializers.py"),
    M("layers/dropout.py", "kept-values-not-scaled", "z[k] = mask[k] * x[k] / keep", "z[k] = mask[k] * x[k]",
      "without 1 / keep the layers behind see less in training than afterwards"),
    M("layers/dropout.py", "mask-redrawn-in-backward", "keep = dL_dz.dtype.type(1 - self.rate)\n",
      "keep = dL_dz.dtype.type(1 - self.rate)\n"
      "        by_position, threshold = mask.reshape(len(mask), -1, LANES), np.uint32(self.rate * 2**32)\n"
      "        draw_mask(by_position, np.uint64(share.draw + 1), share.first_sample, threshold)\n",
      "the gradient passes where other values were kept"),
    M("layers/dropout.py", "scaled-in-inference", "z[...] = x", "z[...] = x * (1 - self.rate)",
      "scaled twice: inverted dropout leaves inference alone"),
    M("layers/dropout.py", "every-worker-draws-the-same",
      "np.uint64(first_sample + n * lanes + v)", "np.uint64(n * lanes + v)",
      "the mask of a sample depends on who draws it"),
    M("layers/elementwise.py", "rows-forgotten", "return z_shape", "return (*z_shape[:1], *z_shape[2:])",
      "the output has not the shape of the input", seen_by="layers/test_relu.py"),
    M("layers/flatten.py", "numbered-backwards", "return z.reshape(len(z), *shape, z.shape[-1])",
      "return z.reshape(len(z), *shape, z.shape[-1])[:, ::-1]", "the values are numbered from the last to the first"),
    M("layers/global_avgpool2d.py", "gradient-not-divided", "dL_dz[n, c, v] / area", "dL_dz[n, c, v]",
      "every pixel gets the whole gradient"),
    M("layers/global_maxpool2d.py", "last-winner", "value > largest", "value >= largest",
      "of equal values the last one gets the gradient"),
    M("layers/layer.py", "two-places-share-parameters", "if self._node is not None:", "if False:",
      "one layer in two places of a graph: one of the two gradients is lost"),
    M("layers/leaky_relu.py", "slope-twice-in-backward", "slope * dL_da  #", "slope * slope * dL_da  #",
      "the slope of negative z is wrong in one pass"),
    M("layers/leaky_relu.py", "slope-squared", "self.slope = float(slope)", "self.slope = float(slope) ** 2",
      "the slope is wrong everywhere, and so consistent",
      hidden_from="layers/test_leaky_relu.py::test_finite_differences_away_from_the_kink"),
    M("layers/linear.py", "multiplied-by-a", "dL_dz[k] = dL_da[k]", "dL_dz[k] = a[k] * dL_da[k]",
      "the derivative of z is 1, not z"),
    M("layers/local_response_norm.py", "power-beta-for-beta-plus-1", "z_c[m] / d_c[m]", "z_c[m]",
      "the derivative of d^(-β) is -β d^(-β-1)"),
    M("layers/local_response_norm.py", "window-too-short", "min(C, c + ahead + 1)", "min(C, c + ahead)",
      "the last channel of the window is left out"),
    M("layers/local_response_norm.py", "window-not-mirrored-in-backward",
      "range(max(0, c - ahead), min(C, c + back + 1))",
      "range(max(0, c - back), min(C, c + ahead + 1))", "the channels that c acts on are not those that act on c"),
    M("layers/log_softmax.py", "diagonal-alone", "dL_dy[n, k, v] - p * total[v]", "dL_dy[n, k, v] - p * dL_dy[n, k, v]",
      "every z acts on every y"),
    M("layers/log_softmax.py", "overflow", "y[n, k, v] = z[n, k, v] - largest[v]", "y[n, k, v] = z[n, k, v]",
      "exp of a large number is infinite"),
    M("layers/maxpool2d.py", "border-wins", "z[n, c, h, q, v] = best  # (maxpool2d.1)\n                        winner",
      "z[n, c, h, q, v] = max(best, x.dtype.type(0)) if j_to - j_from < width else best\n"
      "                        winner",
      "the zeros around the image are larger than negative pixels"),
    M("layers/maxpool2d.py", "last-winner",
      "value > best or value != value:\n" + 40 * " " + "best, best_offset = value, np.int32(i * fw",
      "value >= best or value != value:\n" + 40 * " " + "best, best_offset = value, np.int32(i * fw",
      "of equal values the last one gets the gradient"),
    M("layers/maxpool2d.py", "nan-swallowed",
      "value > best or value != value:\n" + 40 * " " + "best, best_offset = value, np.int32(i * fw",
      "value > best:\n" + 40 * " " + "best, best_offset = value, np.int32(i * fw", "no comparison with NaN is true"),
    M("layers/maxpool2d.py", "single-sample-nan-swallowed", "best = value if value > best or value != value else best",
      "best = value if value > best else best", "the same for a single sample"),
    M("layers/maxpool2d.py", "overlapping-windows-overwrite",
      "index(sw * q + j), v] += upstream", "index(sw * q + j), v] = upstream",
      "= for +=: a pixel that wins two windows has two gradients"),
    M("layers/maxpool2d.py", "losers-share-the-gradient", "upstream if k == np.int32(offset) else zero",
      "upstream if k <= np.int32(offset) else zero", "pixels behind the winner of a window have its gradient too"),
    M("layers/multiply.py", "squared",
      "if i != m:", "if i >= 0:", "the gradient of a factor contains the factor itself"),
    M("layers/pool.py", "windows-overlap-by-default",
      "self.stride = self.size if stride is None", "self.stride = (1, 1) if stride is None",
      "the stride is 1 unless it is given", seen_by="layers/test_avgpool2d.py layers/test_maxpool2d.py"),
    M("layers/pool.py", "gaps-keep-what-was-there", "clear(dL_dx.reshape(-1))", "pass",
      "pixels that no window sees keep the gradients of the last mini-batch", seen_by="layers/test_maxpool2d.py"),
    M("layers/pool.py", "top-padding-taken-for-bottom",
      "self.stride[0], self._sides[0], 1)", "self.stride[0], self._sides[1], 1)",
      "the zeros above the image are those meant for below", seen_by="layers/test_avgpool2d.py"),
    M("layers/relu.py", "gradient-passes-below-0", "zero if a <= zero else dL_da", "dL_da",
      "what was set to 0 has no gradient"),
    M("layers/relu.py", "gradient-passes-at-0", "zero if a <= zero", "zero if a < zero",
      "at the kink the derivative is taken as 0"),
    M("layers/relu.py", "nan-swallowed", "zero if z < zero else z", "z if z > zero else zero",
      "no comparison with NaN is true"),
    M("layers/reshape.py", "values-lost",
      "if math.prod(shape) != size:", "if -1 not in self.shape and math.prod(shape) != size:",
      "-1 stands for a size that does not divide"),
    M("layers/sigmoid.py", "one-minus-a-forgotten", "dL_da * a * (one - a)", "dL_da * a",
      "the derivative is a (1 - a)"),
    M("layers/simple_rnn.py", "no-memory-in-backward", "if t < T - 1:", "if t < 0:",
      "δ without what comes back from the next step"),
    M("layers/simple_rnn.py", "recurrent-weights-not-transposed", "W_h[index(k), index(min(i + r, U - 1))]",
      "W_h[index(min(i + r, U - 1)), index(k)]", "δ comes back through W_h in place of its transpose"),
    M("layers/simple_rnn.py", "bias-gradient-of-the-last-step",
      "for t in range(T):\n                for v in range(lanes):",
      "for t in range(T - 1, T):\n                for v in range(lanes):", "the sum over time is lost"),
    M("layers/simple_rnn.py", "state-of-the-same-step", '("W_h", a, 1)', '("W_h", a, 0)',
      "δ_t meets the state of its own step in place of the one before"),
    M("layers/simple_rnn.py", "fans-exchanged", "(U, F), F, U)", "(U, F), U, F)",
      "the weights start in the size that fits the transposed matrix"),
    M("layers/softmax.py", "diagonal-alone",
      "(dL_dp[n, k, v] - mean)", "(dL_dp[n, k, v] - p[n, k, v] * dL_dp[n, k, v])",
      "every z acts on every p"),
    M("layers/softmax.py", "overflow", "math.exp(z[n, k, v] - largest)", "math.exp(z[n, k, v])",
      "exp of a large number is infinite"),
    M("layers/step.py", "surrogate-by-default",
      "backward, _ = BACKWARD[self.surrogate]", 'backward, _ = BACKWARD[self.surrogate or "straight-through"]',
      "the derivative of a step is 0 unless a surrogate was asked for"),
    M("layers/tanh.py", "a-not-squared", "(one - a * a)", "(one - a)", "the derivative is 1 - a²"),
    M("layers/upsample2d.py", "gradient-divided", "total[v] += dL_dz[n, c, index(h), index(q), v]",
      "total[v] += dL_dz[n, c, index(h), index(q), v] / (s_h * s_w)",
      "a copy has the whole gradient, not a share of it"),
    M("layers/upsample2d.py", "corners-for-centres", "2 * np.arange(n * s) + 1 - s", "2 * np.arange(n * s)",
      "the values stand in the corners of the pixels",
      hidden_from="layers/test_upsample2d.py::test_finite_differences"),
    M("layers/window.py", "same-with-the-odd-zero-before",
      "[total // 2, total - total // 2]", "[total - total // 2, total // 2]",
      'padding "same" puts the extra zero above and to the left'),
    M("layers/window.py", "rows-and-columns-exchanged", "[sides[0], sides[0], sides[1], sides[1]]",
      "[sides[1], sides[1], sides[0], sides[0]]", "padding (rows, columns) is read as (columns, rows)"),
    M("layers/window.py", "dilation-ignored-in-the-weight-gradient",
      "first = self.d * i - self.p", "first = i - self.p",
      "the backward pass on a GPU takes the kernel's pixels for neighbours"),
    M("layers/window.py", "dilation-of-rows-ignored", "steps[0] * i * plane[1]", "i * plane[1]",
      "windows read neighbouring rows, forward and for the weights", seen_by="layers/test_conv2d.py"),
    M("layers/winograd.py", "last-row-of-a-tile-lost", "rows = min(4, P - h)", "rows = min(3, P - h)",
      "every fourth row of the output is never written"),
    M("layers/winograd.py", "zeros-below-forgotten", "range(first if is_inside else columns)",
      "range(first if is_inside else 0)", "rows that have left a band are taken for the border of the image"),
    M("layers/winograd.py", "row-of-the-tile-above", "cut_out(x[n], size, (-top, -left), (h + 2 if h",
      "cut_out(x[n], size, (-top, -left), (h + 3 if h", "a band that slides down keeps a row too many"),
    M("layers/winograd.py", "last-column-forgotten", "min(columns, B - left))", "min(columns, B - left - 1))",
      "the border begins a pixel before the image ends"),
    M("layers/winograd.py", "samples-of-the-tile-above", "(h + 2 if h else 0, h + 6), nothing, by_channel",
      "(h + 3 if h else 0, h + 6), nothing, by_channel", "the weight gradient reads a row that has left the band"),
    M("layers/winograd.py", "samples-without-the-last-column", "0 <= left + k < B:", "0 <= left + k < B - 1:",
      "the last column of the image does not teach"),
    M("layers/winograd.py", "kernel-not-turned", "W[c, o, 2, 2 - j], W[c, o, 1, 2 - j], W[c, o, 0, 2 - j]",
      "W[c, o, 0, j], W[c, o, 1, j], W[c, o, 2, j]", "the input gradient reads the kernel the wrong way round"),
    M("layers/winograd.py", "border-of-the-input", "dL_dx, (2 - self.top, 2 - self.left)",
      "dL_dx, (self.top, self.left)", "the input gradient has the border of the forward pass"),
    M("layers/winograd.py", "every-patch-is-the-first", "transform_products(M, patch * filters, b",
      "transform_products(M, 0, b", "all tiles of a row have the products of the first"),
    M("layers/winograd.py", "sums-of-the-step-before", "clear(dL_dU.reshape(-1))", "pass",
      "the weight gradient adds up over mini-batches"),
    M("layers/winograd.py", "gradient-of-the-last-patch", "dL_dM, patch * LANES)", "dL_dM, 0)",
      "of the patches taken at once, the last alone has a gradient"),
    M("layers/winograd.py", "eight-is-four", "d + four * e + m5", "d + two * e + m5",
      "the last output of a tile has a wrong factor"),
    M("layers/winograd.py", "gradient-of-the-tile-above", "(P, Q), (0, 0), (h, h + 4)",
      "(P, Q), (0, 0), (max(0, h - 4), max(4, h))", "the weight gradient goes with another row of tiles"),
)
LOSSES = (
    M("losses/binary_cross_entropy.py", "clipped-far-from-0", "chance, t = p[n, k, v], target[n, k, v]",
      "chance, t = min(max(p[n, k, v], p.dtype.type(1e-7)), one - p.dtype.type(1e-7)), target[n, k, v]",
      "probabilities are clipped at 1e-7, and the loss with them at 16"),
    M("losses/binary_cross_entropy.py", "logarithm-of-the-sigmoid", "loss += (surplus + math.log1p(e)) / size",
      "q = one / (one + math.exp(-logit))\n"
      "                    loss -= (t * math.log(q) + (one - t) * math.log(one - q)) / size",
      "the sigmoid of a large logit is 1, and log 0 infinite"),
    M("losses/cross_entropy.py", "logarithm-of-0", "loss -= lowest if chosen == zero else math.log(chosen)",
      "loss -= math.log(chosen)", "a probability of 0 makes the loss infinite"),
    M("losses/cross_entropy.py", "sign", "= -inverse / N", "= inverse / N", "the network learns to be wrong"),
    M("losses/hinge.py", "no-margin", "margin - z[n, label[n, v], v] + z[n, k, v]", "z[n, k, v] - z[n, label[n, v], v]",
      "it is enough that the true class wins by nothing"),
    M("losses/hinge.py", "true-class-counted-once", "-count / NK", "-one / NK",
      "the true class is pushed up once, however many classes violate the margin"),
    M("losses/loss.py", "sum-for-mean", "N, N, dL_dz) / N, unpack", "N, N, dL_dz), unpack", "missing 1/N in the value",
      seen_by="losses/test_mean_squared_error.py"),
    M("losses/loss.py", "labels-off-by-one",
      "lanes[: len(labels)] = labels", "lanes[: len(labels)] = np.maximum(labels - 1, 0)",
      "the classes are counted from 1", seen_by="losses/test_cross_entropy.py"),
    M("losses/mean_absolute_error.py", "sign", "-one if residual < 0", "one if residual < 0",
      "what is too small is pushed down as well"),
    M("losses/mean_squared_error.py", "factor-2-lost",
      "two * residual / NK", "residual / NK", "the derivative of r² is 2 r"),
    M("losses/mean_squared_error.py", "mean-over-N-alone", "NK = p.dtype.type(N) * size", "NK = p.dtype.type(N)",
      "the gradient is K times as long as the loss says"),
    M("losses/perceptron.py", "missing-1-over-N", "residual / number", "residual", "the gradient grows with the mini-batch"),
    M("losses/softmax_cross_entropy.py", "missing-1-over-N", "total - t) / number", "total - t)",
      "the gradient grows with the mini-batch"),
    M("losses/softmax_cross_entropy.py", "no-log-sum-exp", "= z[n, k, v] - largest", "= z[n, k, v]",
      "exp of a large logit is infinite"),
    M("losses/softmax_cross_entropy.py", "logarithm-drowned",
      "math.log(total) - below", "(math.log(total) + largest) - z[n, label[n, v], v]",
      "in a sum with logits of 1e8 nothing is left of the logarithm"),
    M("losses/softmax_cross_entropy.py", "empty-lanes-counted", "if n * lanes + v >= samples:",
      "if n * lanes + v >= samples + lanes:", "lanes without a sample are samples of class 0"),
)
OPTIMIZERS = (
    M("optimizers/adam.py", "no-bias-correction", "1 - beta**t for beta in betas", "1.0 for beta in betas",
      "the first step is three times as long as the rate"),
    M("optimizers/adam.py", "bias-correction-one-step-late", "1 - beta**t for", "1 - beta ** (t + 1) for",
      "the steps are counted from 0 in one place and from 1 in another"),
    M("optimizers/adam.py", "eps-inside-the-root", "(math.sqrt(v_hat) + eps)", "math.sqrt(v_hat + eps)",
      "eps is added to the root, not under it"),
    M("optimizers/adam.py", "another-default", "beta2: float = 0.999", "beta2: float = 0.99",
      "not the number of the paper, and of the documentation", seen_by="optimizers/test_optimizer.py"),
    M("optimizers/momentum.py", "rate-inside-the-velocity", "v[k] = momentum * v[k] + g[k]",
      "v[k] = momentum * v[k] + learning_rate * g[k]", "a changed rate acts on the past as well",
      also=(("theta[k] - learning_rate * v[k]", "theta[k] - v[k]"),)),
    M("optimizers/optimizer.py", "always-the-first-step", "self.steps[name] += 1", "self.steps[name] = 1",
      "the steps are not counted"),
    M("optimizers/sgd.py", "uphill", "theta[k] - learning_rate * g[k]", "theta[k] + learning_rate * g[k]",
      "along the gradient the loss grows"),
)
REST = (
    M("passes.py", "fan-out-overwritten", "add_into(dL_dy, dL_dy_k.reshape(-1))", "dL_dy[...] = dL_dy_k.reshape(-1)",
      "= for +=: of several consumers the last one's gradient is left",
      seen_by="engine/test_graph.py"),
    M("passes.py", "fan-out-of-inputs-forgotten",
      "for node in self.network.inputs:", "for node in self.network.inputs[:0]:",
      "an input with two consumers has no gradient", seen_by="engine/test_graph.py"),
    M("passes.py", "workers-not-reduced", "for part in self.active[1:]:", "for part in self.active[2:]:",
      "the samples of the second worker teach nothing", seen_by="engine/test_network.py"),
    M("layers/layer.py", "one-sample-half-done", "min(O, rank * most), min(O, (rank + 1) * most)", "0, min(O, most)",
      "workers that share a single sample all compute the same outputs", seen_by="engine/test_network.py"),
    M("initializers.py", "he-without-the-2", "np.sqrt(2.0 / fan_in)", "np.sqrt(1.0 / fan_in)",
      "ReLU drops half of the signal in every layer"),
    M("initializers.py", "xavier-of-fan-in-alone", "np.sqrt(6.0 / (fan_in + fan_out))", "np.sqrt(6.0 / (2 * fan_in))",
      "the gradient is not kept in size"),
    M("scalar.py", "tanh-of-half", "return math.tanh(x)", "return math.tanh(x / 2)",
      "a kernel of another file computes with a wrong formula", seen_by="layers/test_tanh.py"),
    M("workers.py", "failure-of-others-unnoticed", "if self.done[rank, 0] < program.job[0]:", "if False:",
      "a step of which half was not done counts as done"),
    M("optimizers/optimizer.py", "constants-of-the-first-step", "        self.current[name][:] = constants",
      "        if self.steps[name] == 1:\n            self.current[name][:] = constants",
      "learning rate and bias corrections stay what they were", seen_by="optimizers/test_adam.py"),
    M("training.py", "state-of-before-the-resume", ", *self.optimizer.state[STATE_NAME].values()", ",",
      "the program moves arrays that the optimiser no longer has"),
    M("workers.py", "sum-without-the-last", "parts[1:team]", "parts[1 : team - 1]", "the last worker's part is lost"),
    M("arrays.py", "old-lanes-left", "lanes[whole:] = 0", "pass", "a smaller mini-batch is filled up with old samples"),
    M("layers/dropout.py", "one-mask-for-all-steps", "    random = True", "    random = kernels_alone = True",
      "the first mini-batch's random numbers are used in all others", seen_by="engine/test_program.py"),
    M("layers/batch_norm.py", "one-mean-for-all-steps", "    coupled = True", "    coupled = kernels_alone = True",
      "later mini-batches are normalized with what Python computed for the first", seen_by="engine/test_program.py"),
    M("program.py", "kernels-before-python", "self._steps.append(work)\n        self._last = None",
      "self._steps.append(work)", "kernels that come after a step in Python are called before it"),
    M("program.py", "calls-forgotten", "for kernel, args in calls:", "for kernel, args in calls[:1]:",
      "of several kernels in a row the first one alone is called again"),
    M("passes.py", "joined-though-others-read", "or len(consumers) != 1", "or not consumers",
      "a convolution whose value goes elsewhere too is overwritten by its activation", seen_by="engine/test_fused.py"),
    M("passes.py", "undone-though-others-read", "if not others and ", "if ",
      "a gradient that comes from elsewhere is taken for one that has been through the activation",
      seen_by="engine/test_fused.py"),
    M("layers/layer.py", "activation-undone-twice", "or self.is_undone else", "else",
      "the layer in front goes back through the activation once more", seen_by="engine/test_fused.py"),
    M("layers/pool.py", "activation-not-undone", "passed_on if share.before is None else", "passed_on if share else",
      "nobody goes back through the activation in front", seen_by="engine/test_fused.py"),
    M("passes.py", "given-back-while-views-are-read", "edge is not None and machine.address(edge) ==", "False and edge ==",
      "the memory of a gradient is handed out although a view of it is still to be read", seen_by="engine/test_fused.py"),
    M("passes.py", "given-back-before-it-is-read", "if edge is None:\n                    edge = buffers.take(",
      "if edge is None:\n                    buffers.give_back(part.gradients[name])\n                    edge = buffers.take(",
      "a layer writes the gradient that it sends over the one that it reads", seen_by="engine/test_fused.py"),
    M("passes.py", "sum-of-the-consumers-lost", "_sum_of_consumers, part, self.joined.get(name, name))",
      "_sum_of_consumers, part, name)",
      "the gradients of those who read a joined activation are not added up", seen_by="engine/test_fused.py"),
    M("network.py", "layers-start-equal",
      "np.random.default_rng([self.seed, position])", "np.random.default_rng([self.seed])",
      "layers of one shape start with the same weights", seen_by="engine/test_initializers.py"),
    M("layers/conv2d.py", "border-in-passing-memory", '"planes": "planes", "back_image": "planes"}',
      '"planes": "planes", "back_image": "planes", "image": "image"}',
      "the zeros around an image are overwritten by the image of another layer", seen_by="engine/test_fused.py"),
    M("arrays.py", "empty-lanes-keep-what-was-there", "near[v, k] = 0", "pass",
      "lanes without a sample hold the numbers of another one", seen_by="engine/test_arrays.py"),
    M("arrays.py", "features-behind-the-last-square-lost", "for k in range(whole, count):", "for k in range(count, count):",
      "pixels behind the last whole square are not loaded", seen_by="engine/test_arrays.py"),
    M("training.py", "plan-of-another-step", "if plan is None or not same_objects(plan.made_for, needed):", "if plan is None:",
      "a step trains on the data of another step that uses the same buffers"),
    M("training.py", "every-worker-has-its-own-N",
      "part.samples, current.samples, *into", "part.samples, part.samples, *into",
      "each worker divides by the number of its own samples"),
)
# fmt: on
CUDA = tuple(
    replace(mutation, on_gpu=True)
    for mutation in (
        M(
            "layers/dense.py",
            "cuda-barrier-missing-before",
            "        cuda.syncthreads()\n        for v in range(WARP):",
            "        for v in range(WARP):",
            "threads read rows of x that others have not copied yet",
            seen_by="layers/test_dense.py",
        ),
        M(
            "layers/dense.py",
            "cuda-barrier-missing-behind",
            "* x_tile[cuda.threadIdx.x, v]  # (dense.4)\n        cuda.syncthreads()",
            "* x_tile[cuda.threadIdx.x, v]  # (dense.4)",
            "fast threads copy the next rows over those that slow ones still read",
            seen_by="layers/test_dense.py",
        ),
        M(
            "layers/dense.py",
            "cuda-fours-without-a-barrier",
            "acc2, acc3\n        cuda.syncthreads()",
            "acc2, acc3",
            "parts of a sum are read before they are there",
            seen_by="layers/test_dense.py",
        ),
        M(
            "layers/dense.py",
            "cuda-rows-not-transposed",
            "W[i, j] * dL_dz[n, i, v]",
            "W[j % dL_dz.shape[1], j] * dL_dz[n, i, v]",
            "the input gradient takes W for its transpose",
            seen_by="layers/test_dense.py",
        ),
        M(
            "layers/dense.py",
            "cuda-matrix-without-a-barrier",
            "\n                cuda.syncthreads()\n        for r in range(8):",
            "\n        for r in range(8):",
            "a half of shared memory is read while it is being filled",
            seen_by="engine/test_cuda.py::test_wide_layers_multiply_matrices",
        ),
        M(
            "layers/conv2d.py",
            "cuda-border-read",
            "if pixel >= 0 and pixel < B:\n                                    x_k =",
            "if pixel >= 0 and pixel <= B:\n                                    x_k =",
            "one column of padding is read from the next row",
            seen_by="layers/test_conv2d.py",
        ),
        M(
            "layers/conv2d.py",
            "cuda-kernel-flipped",
            "column + int32(stride[1] * k + step[1] * j)",
            "column + int32(stride[1] * k + step[1] * (fw - 1 - j))",
            "a convolution for a correlation",
            seen_by="layers/test_conv2d.py",
        ),
        M(
            "layers/conv2d.py",
            "cuda-parts-forgotten",
            "blocks * height, count * WARPS",
            "blocks * height, 2 * count * WARPS",
            "every second row of dL/dz teaches nothing",
            seen_by="layers/test_conv2d.py",
        ),
        M(
            "layers/conv2d.py",
            "cuda-sums-without-a-barrier",
            "acc[f, j]\n        cuda.syncthreads()",
            "acc[f, j]",
            "sums of threads are added up before they are there",
            seen_by="layers/test_conv2d.py",
        ),
        M(
            "cuda.py",
            "cuda-half-of-a-sum",
            "half = threads // 2\n",
            "half = threads // 4\n",
            "half of the threads are not added up",
            seen_by="layers/test_batch_norm.py",
        ),
        M(
            "layers/maxpool2d.py",
            "cuda-last-of-equal-values",
            "if value > best",
            "if value >= best",
            "of equal values the last one gets the gradient",
            seen_by="layers/test_maxpool2d.py",
        ),
        M(
            "layers/dropout.py",
            "cuda-mask-not-scaled",
            "mask[k] * dL_dz[k] / keep",
            "mask[k] * dL_dz[k]",
            "the gradient of what is kept is not scaled up",
            seen_by="layers/test_dropout.py",
        ),
        M(
            "losses/softmax_cross_entropy.py",
            "cuda-not-averaged",
            "/ total - t) / N",
            "/ total - t)",
            "the gradient is that of the sum over the samples",
            seen_by="engine/test_cuda.py::test_training_is_that_of_the_cpu",
        ),
        M(
            "optimizers/adam.py",
            "cuda-eps-under-the-root",
            "(math.sqrt(v_hat) + eps)",
            "math.sqrt(v_hat + eps)",
            "eps is added under the root",
            seen_by="engine/test_cuda.py::test_training_is_that_of_the_cpu[forward-adam]",
        ),
        M(
            "cuda_training.py",
            "cuda-samples-of-the-first-step",
            "step[0] = row + 1",
            "step[0] = row",
            "every step trains on the samples of the first",
            seen_by="engine/test_cuda.py::test_training_is_that_of_the_cpu",
        ),
        M(
            "metrics.py",
            "cuda-ties-count",
            "ties, wrong = 0, False, z",
            "ties, wrong = 0, True, z",
            "no sample counts as decided",
            seen_by="engine/test_cuda.py::test_evaluation_is_that_of_the_cpu",
        ),
    )
)
MUTATIONS = (*LAYERS, *LOSSES, *OPTIMIZERS, *REST, *CUDA)

HARMLESS = Mutation(
    "layers/relu.py",
    "harmless",
    "zero if a <= zero else dL_da",
    "dL_da if not a <= zero else zero",
    "no bug: the same formula in other words",
)
