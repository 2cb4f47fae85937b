"""Simple recurrent layer: reads a sequence step by step, with its own last output as a second input.

A sample x is a sequence of T time steps of F features each, x_1 … x_T (t counts time steps here, it is no
target). The U units keep what they have read so far in their state a_t, which is also their output. Every step
uses the same parameters W_x, W_h and b, so a sequence may have any length. The layer gives the last state a_T
alone or, with ``return_sequences``, all of them.

i and k run over the units, j over the features; a_0 = 0; f is tanh or the sigmoid; δ_t[i] is short for
∂L/∂z_t[i]; u_t[i] is the upstream gradient, by which the layers above ask for a change of a_t[i] (0 before t = T
where they read the last state alone).

Back-propagation through time: unrolled, the layer is a deep net of T layers with one set of weights. A state is
read twice, by the layers above and by the next step, so its gradient is a sum of two, (simple_rnn.5), and δ is
computed from the last step back to the first. The parameters are shared over time, so each of their gradients
adds up over the steps, as that of a convolution's kernel does over the positions: (simple_rnn.7).

What reaches the first step from the last has been multiplied by W_hᵀ and by f' once per step,
(simple_rnn.13). If every step shortens it by a factor, it vanishes and the layer cannot learn what depends on
the far past; if every step lengthens it by a factor, it explodes. With one unit, (simple_rnn.14), it surely vanishes
for |w| < 1 with tanh, whose slope is at most 1, and for |w| < 4 with the sigmoid, whose slope is at most 1/4. With a
larger |w| it explodes if the unit is so little saturated that |w| times the slope stays above 1.

S4 calls tanh and sigmoid good activation functions for recurrent networks. What they share is that they are
bounded, so that the state cannot grow without limit; between the two, tanh has the larger slope and
outputs around 0. Neither prevents a gradient from vanishing.

Conventions: PyTorch's nn.RNN has two biases, for x and for the state. Only their sum matters, and b is this sum;
the gradient of each of the two is that of b. Its nonlinearities are tanh and ReLU, without the sigmoid.

Sources
-------
S4 "Building Blocks" and its "Summary of Building Blocks" (tanh and sigmoid for recurrent networks); S0 has recurrent
networks in its list of buzzwords, and S1 compares frameworks by them. The notes give no equations. P. J. Werbos,
"Backpropagation through time: what it does and how to do it", Proceedings of the IEEE 78, 1990; Y. Bengio,
P. Simard, P. Frasconi, "Learning long-term dependencies with gradient descent is difficult", IEEE Transactions on
Neural Networks 5, 1994, for the product of the slopes.

Worked example
--------------
Two steps of one feature, 1 and 2, and one sigmoid unit with W_x = 1, W_h = -2, b = -1. z_1 = 1·1 - 2·0 - 1 = 0, so
a_1 is 1/2; z_2 = 1·2 - 2·1/2 - 1 is 0 as well:

>>> values = [[1], [2]], [[1]], [[-2]], [-1]
>>> x, W_x, W_h, b = (np.array(value, dtype=object) for value in values)
>>> forward(x, W_x, W_h, b, activation="sigmoid", return_sequences=True).tolist()
[[0.5], [0.5]]

Both slopes are 1/2 (1 - 1/2) = 1/4. With ∂L/∂a_2 = 1, δ_2 = 1/4 and δ_1 = -2 · 1/4 · 1/4 = -1/8. So ∂L/∂x is
(-1/8, 1/4), ∂L/∂W_x = -1/8 · 1 + 1/4 · 2 = 3/8, ∂L/∂W_h = -1/8 · 0 + 1/4 · 1/2 = 1/8 and ∂L/∂b = -1/8 + 1/4 = 1/8:

>>> gradients = backward(np.array([1], dtype=object), x, W_x, W_h, b, activation="sigmoid")
>>> [gradient.reshape(-1).tolist() for gradient in gradients]
[[-0.125, 0.25], [0.375], [0.125], [0.125]]

A tanh unit that never hears anything (x = 0) stays at 0, where its slope is 1. Ten steps back its gradient is
w¹⁰: a thousandth for w = 1/2, a thousand for w = 2:

>>> for w in (0.5, 2):
...     silence, W_h = zeros(11, 1), np.array([[w]], dtype=object)
...     print(backward(np.array([1], dtype=object), silence, W_x, W_h, zeros(1))[0][0, 0])
0.0009765625
1024.0
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from .notation import Equation, derivative, exp, tanh, zeros

LETTERS = (
    ("t, T", "time step; the last one"),
    ("f, f'", "activation function, tanh or the sigmoid; its slope"),
    ("W_x, W_h", "weights of the features and of the state before"),
    ("w", "the only weight W_h where there is one unit"),
    ("i, k; j", "two of the units; one of the features"),
    ("u", "upstream gradient, from the layers above"),
    ("δ", "gradient of the loss with respect to z"),
    ("D_t", "diagonal matrix of the slopes of step t"),
)


def forward(x, W_x, W_h, b, activation="tanh", return_sequences=False):
    """Read one sequence.

    Parameters
    ----------
    x : array of shape (T, F)
    W_x : array of shape (U, F)
    W_h : array of shape (U, U)
    b : array of shape (U,)
    activation : "tanh" or "sigmoid"
    return_sequences : bool

    Returns
    -------
    array of shape (U,), or (T, U) for all states
    """
    a = states(x, W_x, W_h, b, activation)
    return a[1:] if return_sequences else a[len(x)]


def backward(dL_da, x, W_x, W_h, b, activation="tanh", return_sequences=False):
    """Gradients of the loss with respect to the sequence and the parameters.

    Parameters
    ----------
    dL_da : array of shape (U,), or (T, U) for all states
    x, W_x, W_h, b, activation, return_sequences
        As in :func:`forward`.

    Returns
    -------
    dL_dx, dL_dW_x, dL_dW_h, dL_db : arrays of the shapes of x, W_x, W_h, b
    """
    (T, F), U, a = x.shape, len(b), states(x, W_x, W_h, b, activation)
    dL_dx, dL_dW_x, dL_dW_h, dL_db = zeros(T, F), zeros(U, F), zeros(U, U), zeros(U)
    delta = zeros(T + 2, U)  # row t is δ_t; the last one stays 0, for nothing comes after T
    for t in range(T, 0, -1):
        for i in range(U):
            if return_sequences:
                dL_da_t = dL_da[t - 1, i]
            else:
                dL_da_t = dL_da[i] if t == T else 0
            for k in range(U):
                dL_da_t += W_h[k, i] * delta[t + 1, k]  # (simple_rnn.5)
            delta[t, i] = dL_da_t * slope(a[t, i], activation)  # (simple_rnn.6)
        for i in range(U):
            dL_db[i] += delta[t, i]  # (simple_rnn.10)
            for j in range(F):
                dL_dW_x[i, j] += delta[t, i] * x[t - 1, j]  # (simple_rnn.8)
                dL_dx[t - 1, j] += W_x[i, j] * delta[t, i]  # (simple_rnn.11)
            for k in range(U):
                dL_dW_h[i, k] += delta[t, i] * a[t - 1, k]  # (simple_rnn.9)
    return dL_dx, dL_dW_x, dL_dW_h, dL_db


def states(x, W_x, W_h, b, activation):
    """Return a_0 … a_T, the rows of an array of shape (T + 1, U); the rows of x are x_1 … x_T."""
    (T, _), U = x.shape, len(b)
    a = zeros(T + 1, U)
    for t in range(1, T + 1):
        z_t = weighted_sum(x[t - 1], a[t - 1], W_x, W_h, b)
        for i in range(U):
            a[t, i] = activated(z_t[i], activation)  # (simple_rnn.2)
    return a


def weighted_sum(x_t, a_before, W_x, W_h, b):
    """Return z_t, of shape (U,), from this step's features and the state before."""
    z_t = zeros(len(b))
    for i in range(len(b)):
        z_t[i] = b[i]
        for j in range(len(x_t)):
            z_t[i] += W_x[i, j] * x_t[j]  # (simple_rnn.1)
        for k in range(len(b)):
            z_t[i] += W_h[i, k] * a_before[k]  # (simple_rnn.1)
    return z_t


def activated(z, activation):
    """Return f(z); the exponent is never positive, as in ``sigmoid``."""
    if activation == "tanh":
        return tanh(z)
    return 1 / (1 + exp(-z)) if z >= 0 else exp(z) / (1 + exp(z))


def slope(a, activation):
    """Return f'(z) from a = f(z)."""
    if activation == "tanh":
        return 1 - a * a  # (simple_rnn.3)
    return a * (1 - a)  # (simple_rnn.4)


def sample(rng: np.random.Generator) -> SimpleNamespace:
    """Return a random point at which the equations are evaluated: four steps, three units, either activation."""
    T, F, U = 4, 2, 3
    return SimpleNamespace(
        x=rng.normal(size=(T, F)),
        W_x=rng.normal(size=(U, F)),
        W_h=rng.normal(size=(U, U)),
        b=rng.normal(size=U),
        u=rng.normal(size=(T, U)),
        activation=str(rng.permuted(["tanh", "sigmoid"])[0]),
        none=np.zeros((T, U)),
    )


def _f(s, z):
    return np.tanh(z) if s.activation == "tanh" else 1 / (1 + np.exp(-z))


def _with(s, activation):
    return SimpleNamespace(**(vars(s) | {"activation": activation}))


def _one_unit(s):
    """The same point with the first unit alone."""
    return SimpleNamespace(
        **(vars(s) | {"W_x": s.W_x[:1], "W_h": s.W_h[:1, :1], "b": s.b[:1], "u": s.u[:, :1], "none": s.none[:, :1]})
    )


def _a(s, **changed):
    """All states; every step may have its own copy of a parameter, and its own push dz to z_t and da to a_t."""
    v = {"x": s.x, "W_x": s.W_x, "W_h": s.W_h, "b": s.b, "dz": s.none, "da": s.none} | changed
    copies = [np.broadcast_to(v[name], (len(s.x), *getattr(s, name).shape)) for name in ("W_x", "W_h", "b")]
    a, result = np.zeros(len(s.b)), []
    for x_t, dz_t, da_t, W_x, W_h, b in zip(v["x"], v["dz"], v["da"], *copies):
        a = _f(s, W_x @ x_t + W_h @ a + b + dz_t) + da_t
        result.append(a)
    return np.array(result)


def _before(s):
    """a_0 … a_(T-1)."""
    return np.concatenate([np.zeros((1, len(s.b))), _a(s)[:-1]])


def _z(s, a_before=None):
    return s.x @ s.W_x.T + (_before(s) if a_before is None else a_before) @ s.W_h.T + s.b


def _df_dz(s):
    """f'(z_t[i]) from differences, (T, U)."""
    return np.einsum("titi->ti", derivative(lambda z: _f(s, z), _z(s)))


def _loss(s, **changed):
    """L of a loss whose gradient with respect to the states is u: any smooth loss looks so close by."""
    return (s.u * _a(s, **changed)).sum()


def _dL(s, name):
    """Gradient with respect to one of the arguments of the literal code, from differences."""

    def loss(value):
        arguments = {"x": s.x, "W_x": s.W_x, "W_h": s.W_h, "b": s.b} | {name: value}
        return (s.u * forward(**arguments, activation=s.activation, return_sequences=True)).sum()

    return derivative(loss, getattr(s, name))


def _dL_da(s):
    return derivative(lambda da: _loss(s, da=da), s.none)


def _delta(s):
    return derivative(lambda dz: _loss(s, dz=dz), s.none)


def _next(rows):
    """Row t becomes that of t + 1, with 0 after the last."""
    return np.concatenate([rows[1:], 0 * rows[:1]])


def _dz_next_da(s):
    """∂z_(t+1)[k]/∂a_t[i] for t = 1 … T-1, (T-1, k, i)."""
    full = derivative(lambda a: _z(s, np.concatenate([np.zeros((1, len(s.b))), a])), _a(s)[:-1])
    return np.einsum("tkti->tki", full[1:])


def _backward_sum(s):
    """u_t[i] + Σ_k W_h[k,i] δ_(t+1)[k], (T, U)."""
    return s.u + _next(_delta(s)) @ s.W_h


def _copies(s, name):
    """Gradient with respect to each step's own copy of a parameter, (T, …)."""
    value = getattr(s, name)
    copies = np.broadcast_to(value, (len(s.x), *value.shape))
    return derivative(lambda changed: _loss(s, **{name: changed}), copies)


def _da_next_da(s):
    """∂a_(t+1)[i]/∂a_t[k] for t = 1 … T-1, (T-1, i, k)."""
    full = derivative(lambda da: _a(s, da=da), s.none)  # (time and unit of the effect, time and unit of the cause)
    return np.einsum("titk->tik", full[1:, :, :-1])


def _da_T_da_1(s):
    def last(da_1):
        return _a(s, da=np.concatenate([da_1[None], s.none[1:]]))[-1]

    return derivative(last, s.none[0])


def _product_of_jacobians(s):
    product = np.eye(len(s.b))
    for slopes in _df_dz(s)[1:]:
        product = np.diag(slopes) @ s.W_h @ product
    return product


EQUATIONS = (
    Equation(
        "simple_rnn.1",
        "z_t[i] = Σ_j W_x[i,j] x_t[j] + Σ_k W_h[i,k] a_(t-1)[k] + b[i]",
        r"z_{t,i} = \sum_j W_{x,ij}\, x_{t,j} + \sum_k W_{h,ik}\, a_{t-1,k} + b_i",
        "Definition: a dense layer of two inputs, this step's features and the last step's state, with a_0 = 0.",
        (
            lambda s: [weighted_sum(x, a, s.W_x, s.W_h, s.b) for x, a in zip(s.x, _before(s))],
            lambda s: s.x @ s.W_x.T + _before(s) @ s.W_h.T + s.b,
        ),
    ),
    Equation(
        "simple_rnn.2",
        "a_t[i] = f(z_t[i])",
        r"a_{t,i} = f(z_{t,i})",
        "Definition: f(z) is tanh(z) or the sigmoid, 1 / (1 + exp(-z)).",
        (
            lambda s: forward(s.x, s.W_x, s.W_h, s.b, s.activation, return_sequences=True),
            lambda s: _f(s, _z(s)),
        ),
    ),
    Equation(
        "simple_rnn.3",
        "∂a_t[i]/∂z_t[i] = f'(z_t[i]) = 1 - a_t[i]² (if f=tanh)",
        r"\frac{\partial a_{t,i}}{\partial z_{t,i}} = f'(z_{t,i}) = 1 - a_{t,i}^2 \quad (\text{if } f=\tanh)",
        "This is (tanh.3): the output alone says how steep the function is.",
        (
            lambda s: _df_dz(_with(s, "tanh")),
            lambda s: 1 / np.cosh(_z(_with(s, "tanh"))) ** 2,
            lambda s: 1 - _a(_with(s, "tanh")) ** 2,
        ),
    ),
    Equation(
        "simple_rnn.4",
        "∂a_t[i]/∂z_t[i] = f'(z_t[i]) = a_t[i] (1 - a_t[i]) (if f=sigmoid)",
        r"\frac{\partial a_{t,i}}{\partial z_{t,i}} = f'(z_{t,i}) = a_{t,i} (1 - a_{t,i})"
        r" \quad (\text{if } f=\text{sigmoid})",
        "This is (sigmoid.3).",
        (
            lambda s: _df_dz(_with(s, "sigmoid")),
            lambda s: 1 / (2 + 2 * np.cosh(_z(_with(s, "sigmoid")))),
            lambda s: _a(_with(s, "sigmoid")) * (1 - _a(_with(s, "sigmoid"))),
        ),
    ),
    Equation(
        "simple_rnn.5",
        "∂L/∂a_t[i] = u_t[i] + Σ_k δ_(t+1)[k] ∂z_(t+1)[k]/∂a_t[i] = u_t[i] + Σ_k W_h[k,i] δ_(t+1)[k]",
        r"\frac{\partial L}{\partial a_{t,i}} = u_{t,i} + \sum_k \delta_{t+1,k}"
        r" \frac{\partial z_{t+1,k}}{\partial a_{t,i}} = u_{t,i} + \sum_k W_{h,ki}\, \delta_{t+1,k}",
        "Chain rule: the layers above read a_t, and by (simple_rnn.1) all units of the next step do; δ_(T+1) = 0.",
        (
            _dL_da,
            lambda s: s.u + np.append(np.einsum("tk,tki->ti", _delta(s)[1:], _dz_next_da(s)), s.none[:1], axis=0),
            _backward_sum,
        ),
    ),
    Equation(
        "simple_rnn.6",
        "∂L/∂z_t[i] = δ_t[i] = ∂L/∂a_t[i] f'(z_t[i]) = (u_t[i] + Σ_k W_h[k,i] δ_(t+1)[k]) f'(z_t[i])",
        r"\frac{\partial L}{\partial z_{t,i}} = \delta_{t,i} = \frac{\partial L}{\partial a_{t,i}}\, f'(z_{t,i})"
        r" = \Big( u_{t,i} + \sum_k W_{h,ki}\, \delta_{t+1,k} \Big) f'(z_{t,i})",
        "Chain rule with (simple_rnn.2), in which each unit has its own z; then (simple_rnn.5). Backwards from t = T.",
        (
            _delta,
            lambda s: _copies(s, "b"),
            lambda s: _dL_da(s) * _df_dz(s),
            lambda s: _backward_sum(s) * _df_dz(s),
        ),
    ),
    Equation(
        "simple_rnn.7",
        "∂L/∂W[i,j] = Σ_t ∂L/∂W_t[i,j] (W_t=the copy of a parameter that step t uses)",
        r"\frac{\partial L}{\partial W_{ij}} = \sum_t \frac{\partial L}{\partial W_{t,ij}}"
        r" \quad (W_t = \text{the copy of a parameter that step } t \text{ uses})",
        "If every step had its own copies, all of them would move together; chain rule over the copies.",
        (lambda s: _dL(s, "W_h"), lambda s: _copies(s, "W_h").sum(axis=0)),
        computed=False,
    ),
    Equation(
        "simple_rnn.8",
        "∂L/∂W_x[i,j] = Σ_t δ_t[i] x_t[j]",
        r"\frac{\partial L}{\partial W_{x,ij}} = \sum_t \delta_{t,i}\, x_{t,j}",
        "(simple_rnn.7), where step t's copy of the weight is in z_t[i] alone, times x_t[j]; as a matrix Σ_t δ_t x_tᵀ.",
        (lambda s: _dL(s, "W_x"), lambda s: _delta(s).T @ s.x),
    ),
    Equation(
        "simple_rnn.9",
        "∂L/∂W_h[i,k] = Σ_t δ_t[i] a_(t-1)[k]",
        r"\frac{\partial L}{\partial W_{h,ik}} = \sum_t \delta_{t,i}\, a_{t-1,k}",
        "The same with the other input; a_0 = 0, so the first step adds nothing. As a matrix Σ_t δ_t a_(t-1)ᵀ.",
        (lambda s: _dL(s, "W_h"), lambda s: _delta(s).T @ _before(s)),
    ),
    Equation(
        "simple_rnn.10",
        "∂L/∂b[i] = Σ_t δ_t[i]",
        r"\frac{\partial L}{\partial b_i} = \sum_t \delta_{t,i}",
        "The bias is a weight whose input is always 1: put x_t[j] = 1 in (simple_rnn.8).",
        (lambda s: _dL(s, "b"), lambda s: _delta(s).sum(axis=0)),
    ),
    Equation(
        "simple_rnn.11",
        "∂L/∂x_t[j] = Σ_i δ_t[i] ∂z_t[i]/∂x_t[j] = Σ_i W_x[i,j] δ_t[i]",
        r"\frac{\partial L}{\partial x_{t,j}} = \sum_i \delta_{t,i} \frac{\partial z_{t,i}}{\partial x_{t,j}}"
        r" = \sum_i W_{x,ij}\, \delta_{t,i}",
        "Chain rule: all units hear x_t, in this step alone; what comes later is already in δ_t. As a matrix W_xᵀ δ_t.",
        (
            lambda s: _dL(s, "x"),
            lambda s: np.einsum("ti,titj->tj", _delta(s), derivative(lambda x: x @ s.W_x.T, s.x)),
            lambda s: _delta(s) @ s.W_x,
        ),
    ),
    Equation(
        "simple_rnn.12",
        "∂a_(t+1)[i]/∂a_t[k] = f'(z_(t+1)[i]) W_h[i,k]",
        r"\frac{\partial a_{t+1,i}}{\partial a_{t,k}} = f'(z_{t+1,i})\, W_{h,ik}",
        "Chain rule with (simple_rnn.1) and (simple_rnn.2): what one step does to a small change of the state.",
        (
            _da_next_da,
            lambda s: _df_dz(s)[1:, :, None] * s.W_h,
        ),
        computed=False,
    ),
    Equation(
        "simple_rnn.13",
        "∂a_T/∂a_1 = D_T W_h D_(T-1) W_h … D_2 W_h (D_t=diagonal matrix of the f'(z_t[i]))",
        r"\frac{\partial a_T}{\partial a_1} = D_T W_h\, D_{T-1} W_h \cdots D_2 W_h"
        r" \quad (D_t = \mathrm{diag}\, f'(z_{t,i}))",
        "(simple_rnn.12) from step to step; the gradient goes the same way back, by W_hᵀ D_t in every step.",
        (_da_T_da_1, _product_of_jacobians),
        computed=False,
    ),
    Equation(
        "simple_rnn.14",
        "∂a_T/∂a_1 = Π_(t=2…T) w f'(z_t) = w^(T-1) Π_(t=2…T) f'(z_t) (for one unit, W_h=w)",
        r"\frac{\partial a_T}{\partial a_1} = \prod_{t=2}^{T} w f'(z_t) = w^{T-1} \prod_{t=2}^{T} f'(z_t)"
        r" \quad (\text{for one unit, } W_h=w)",
        "(simple_rnn.13) for U = 1: the product vanishes or explodes with T as |w f'| stays well below or above 1.",
        (
            lambda s: _da_T_da_1(_one_unit(s))[0, 0],
            lambda s: np.prod(s.W_h[0, 0] * _df_dz(_one_unit(s))[1:]),
            lambda s: s.W_h[0, 0] ** 3 * np.prod(_df_dz(_one_unit(s))[1:]),
        ),
        computed=False,
    ),
)
