"""fastnn's optimizer steps as optax's gradient transformations.

Names, arguments and defaults are optax's, so ``optax.adam(1e-3)`` becomes
``fastnn.jax.optax.adam(1e-3)``; states are this module's own. A step of the kernel on parameters of
zero is the update. What the kernels don't compute is refused.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from optax import GradientTransformation, safe_increment

from fastnn.jax._steps import adagrad_step, adam_step, rmsprop_step, sgd_step

Tree = Any
Rate = Any  # a number, an array () or a schedule


class AdamState(NamedTuple):
    """Updates made so far, and the moments."""

    count: Any
    mu: Tree
    nu: Tree


class SgdState(NamedTuple):
    """Updates made so far, and the velocity or None."""

    count: Any
    trace: Tree | None


class RmspropState(NamedTuple):
    """Updates made so far, running means of g^2 and, where there are, g, and the velocity."""

    count: Any
    nu: Tree
    mu: Tree | None
    trace: Tree | None


class AdagradState(NamedTuple):
    """Updates made so far, and eps plus the sums of g^2."""

    count: Any
    sum_of_squares: Tree


def _zeros(tree: Tree) -> Tree:
    return jax.tree.map(jnp.zeros_like, tree)


def _count() -> Any:
    return jnp.zeros([], jnp.int32)


def _rate(learning_rate: Rate, count: Any) -> Any:
    return learning_rate(count) if callable(learning_rate) else learning_rate


def _refuse(name: str, **wanted: Any) -> None:
    for argument, value in wanted.items():
        if value:
            raise ValueError(f"{name}: {argument}={value!r} is not supported; use optax.{name}")


def adam(
    learning_rate: Rate,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    eps_root: float = 0.0,
    mu_dtype: Any = None,
    *,
    nesterov: bool = False,
) -> GradientTransformation:
    """Adam (Kingma & Ba 2015) as `optax.adam`; `eps_root`, `mu_dtype`, `nesterov` are refused."""
    _refuse("adam", eps_root=eps_root, mu_dtype=mu_dtype, nesterov=nesterov)

    def update(updates: Tree, state: AdamState, params: Tree = None) -> tuple[Tree, AdamState]:
        count = safe_increment(state.count)
        new, mu, nu = adam_step(
            _zeros(updates),
            updates,
            state.mu,
            state.nu,
            step=count,
            lr=_rate(learning_rate, state.count),
            beta1=b1,
            beta2=b2,
            eps=eps,
        )
        return new, AdamState(count, mu, nu)

    return GradientTransformation(_adam_state, update)


def adamw(
    learning_rate: Rate,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    eps_root: float = 0.0,
    mu_dtype: Any = None,
    weight_decay: float = 1e-4,
    mask: Any = None,
    *,
    nesterov: bool = False,
) -> GradientTransformation:
    """AdamW (Loshchilov & Hutter 2019) as `optax.adamw`; see `adam`. `mask` is refused, too.

    The update is the difference of the kernel's parameters and the given ones.
    """
    _refuse("adamw", eps_root=eps_root, mu_dtype=mu_dtype, nesterov=nesterov, mask=mask)

    def update(updates: Tree, state: AdamState, params: Tree = None) -> tuple[Tree, AdamState]:
        if params is None:
            raise ValueError("adamw: update needs params: the decay is theirs")
        count = safe_increment(state.count)
        new, mu, nu = adam_step(
            params,
            updates,
            state.mu,
            state.nu,
            step=count,
            lr=_rate(learning_rate, state.count),
            beta1=b1,
            beta2=b2,
            eps=eps,
            weight_decay=weight_decay,
            decoupled=True,
        )
        return jax.tree.map(jnp.subtract, new, params), AdamState(count, mu, nu)

    return GradientTransformation(_adam_state, update)


def _adam_state(params: Tree) -> AdamState:
    return AdamState(_count(), _zeros(params), _zeros(params))


def sgd(
    learning_rate: Rate,
    momentum: float | None = None,
    nesterov: bool = False,
    accumulator_dtype: Any = None,
) -> GradientTransformation:
    """Gradient descent as `optax.sgd`; `accumulator_dtype` is refused."""
    _refuse("sgd", accumulator_dtype=accumulator_dtype)

    def init(params: Tree) -> SgdState:
        return SgdState(_count(), None if momentum is None else _zeros(params))

    def update(updates: Tree, state: SgdState, params: Tree = None) -> tuple[Tree, SgdState]:
        new, *trace = sgd_step(
            _zeros(updates),
            updates,
            state.trace,
            lr=_rate(learning_rate, state.count),
            momentum=momentum or 0.0,
            nesterov=nesterov and bool(momentum),
        )
        return new, SgdState(safe_increment(state.count), trace[0] if trace else None)

    return GradientTransformation(init, update)


def rmsprop(
    learning_rate: Rate,
    decay: float = 0.9,
    eps: float = 1e-8,
    initial_scale: float = 0.0,
    eps_in_sqrt: bool = True,
    centered: bool = False,
    momentum: float | None = None,
    nesterov: bool = False,
    bias_correction: bool = False,
) -> GradientTransformation:
    """RMSProp (Tieleman & Hinton 2012) as `optax.rmsprop`.

    `nesterov` and `bias_correction` are refused, and `momentum` with a schedule: optax's velocity
    holds steps, the kernel's holds them before the learning rate.
    """
    _refuse("rmsprop", nesterov=nesterov, bias_correction=bias_correction)
    if momentum is not None and callable(learning_rate):
        raise ValueError("rmsprop: momentum with a schedule is not supported; use optax.rmsprop")

    def init(params: Tree) -> RmspropState:
        nu = jax.tree.map(lambda p: jnp.full_like(p, initial_scale), params)
        return RmspropState(
            _count(),
            nu,
            _zeros(params) if centered else None,
            None if momentum is None else _zeros(params),
        )

    def update(
        updates: Tree, state: RmspropState, params: Tree = None
    ) -> tuple[Tree, RmspropState]:
        new, nu, *rest = rmsprop_step(
            _zeros(updates),
            updates,
            state.nu,
            lr=_rate(learning_rate, state.count),
            alpha=decay,
            eps=eps,
            momentum=momentum or 0.0,
            velocity=state.trace,
            grad_avg=state.mu,
            eps_in_sqrt=eps_in_sqrt,
        )
        trace = None if state.trace is None else rest.pop(0)
        mu = rest.pop() if rest else None
        return new, RmspropState(safe_increment(state.count), nu, mu, trace)

    return GradientTransformation(init, update)


def adagrad(
    learning_rate: Rate, initial_accumulator_value: float = 0.1, eps: float = 1e-7
) -> GradientTransformation:
    """Adagrad (Duchi et al. 2011) as `optax.adagrad`.

    optax adds `eps` under the root: here the sums begin with it, and the kernel, which adds its own
    to the root, gets the smallest that there is.
    """
    tiny = float(np.finfo(np.float32).tiny)

    def init(params: Tree) -> AdagradState:
        start = initial_accumulator_value + eps
        return AdagradState(_count(), jax.tree.map(lambda p: jnp.full_like(p, start), params))

    def update(
        updates: Tree, state: AdagradState, params: Tree = None
    ) -> tuple[Tree, AdagradState]:
        new, sums = adagrad_step(
            _zeros(updates),
            updates,
            state.sum_of_squares,
            lr=_rate(learning_rate, state.count),
            eps=tiny,
        )
        return new, AdagradState(safe_increment(state.count), sums)

    return GradientTransformation(init, update)
