"""Updates of optimizers as functions: what the ops update in place is returned.

Each takes arrays or pytrees of arrays of one structure, and runs once for all their leaves. Under
``jax.jit`` with ``donate_argnums`` the memory is that of the arguments.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from fastnn.errors import DTypeError, ShapeError
from fastnn.jax._call import call

Tree = Any  # an array, or a pytree of arrays


def _leaves(op: str, trees: dict[str, Tree]) -> tuple[Any, dict[str, list[Any]]]:
    """The trees' common structure, and the leaves of each, checked."""
    first = next(iter(trees))
    structure: Any = jax.tree.structure(trees[first])
    leaves = {}
    for name, tree in trees.items():
        if jax.tree.structure(tree) != structure:
            raise TypeError(
                f"{op}: {name} must have the structure of {first}, {structure}, got "
                f"{jax.tree.structure(tree)}"
            )
        leaves[name] = [jnp.asarray(leaf) for leaf in jax.tree.leaves(tree)]
        for leaf, like in zip(leaves[name], leaves[first], strict=True):
            if leaf.dtype not in (jnp.float32, jnp.float64) or leaf.dtype != like.dtype:
                raise DTypeError(
                    f"{op}: {name} must be float32 or float64 as {first} is, got {leaf.dtype}"
                )
            if leaf.shape != like.shape:
                raise ShapeError(f"{op}: {name} must have shape {like.shape}, got {leaf.shape}")
    return structure, leaves


def _step(
    op: str, trees: dict[str, Tree], scalars: dict[str, Any], numbers: dict[str, Any]
) -> tuple[Tree, ...]:
    """The op on all leaves; returns the trees it updates, in their order."""
    trees = {name: tree for name, tree in trees.items() if tree is not None}
    structure, leaves = _leaves(op, trees)
    updated = [name for name in trees if name != "grad"]
    new = {name: list(leaves[name]) for name in updated}
    for dtype in sorted({leaf.dtype for leaf in leaves["param"]}, key=str):
        places = [i for i, leaf in enumerate(leaves["param"]) if leaf.dtype == dtype]
        given = {
            name: jnp.asarray(value, jnp.int32 if name == "step" else dtype)
            for name, value in scalars.items()
        }
        runs = [{name: leaves[name][i] for name in trees} | given for i in places]
        results = call(
            op,
            runs,
            numbers,
            [leaves[name][i] for i in places for name in updated],
            updated=updated,
        )
        for at, i in enumerate(places):
            for j, name in enumerate(updated):
                new[name][i] = results[at * len(updated) + j]
    return tuple(jax.tree.unflatten(structure, new[name]) for name in updated)


def adam_step(
    param: Tree,
    grad: Tree,
    exp_avg: Tree,
    exp_avg_sq: Tree,
    *,
    step: Any,
    lr: Any,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    decoupled: bool = False,
    max_exp_avg_sq: Tree | None = None,
    eps_mode: str = "torch",
) -> tuple[Tree, ...]:
    """Adam's update, or AdamW's, as `fastnn.ops.adam_step` defines it.

    Parameters
    ----------
    param, grad, exp_avg, exp_avg_sq : array or pytree of arrays
    step : int or integer array ()
        Number of this update, from 1.
    lr : float or array ()
        Learning rate, used in the parameters' type.
    beta1, beta2, eps, weight_decay, decoupled, eps_mode
        As for `fastnn.ops.adam_step`.
    max_exp_avg_sq : array or pytree of arrays, optional
        Given, it is AMSGrad.

    Returns
    -------
    tuple
        param, exp_avg, exp_avg_sq and, where given, max_exp_avg_sq.

    Raises
    ------
    TypeError, fastnn.DTypeError, fastnn.ShapeError
        For trees that do not match.
    """
    return _step(
        "adam_step",
        {
            "param": param,
            "grad": grad,
            "exp_avg": exp_avg,
            "exp_avg_sq": exp_avg_sq,
            "max_exp_avg_sq": max_exp_avg_sq,
        },
        {"step": step, "lr": lr},
        {
            "beta1": beta1,
            "beta2": beta2,
            "eps": eps,
            "weight_decay": weight_decay,
            "decoupled": decoupled,
            "amsgrad": max_exp_avg_sq is not None,
            "eps_mode": eps_mode,
        },
    )


def sgd_step(
    param: Tree,
    grad: Tree,
    velocity: Tree | None = None,
    *,
    lr: Any,
    momentum: float = 0.0,
    dampening: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
) -> tuple[Tree, ...]:
    """Gradient descent's update, as `fastnn.ops.sgd_step` defines it; see `adam_step`.

    Returns
    -------
    tuple
        param and, where given, velocity.
    """
    return _step(
        "sgd_step",
        {"param": param, "grad": grad, "velocity": velocity},
        {"lr": lr},
        {
            "momentum": momentum,
            "dampening": dampening,
            "nesterov": nesterov,
            "weight_decay": weight_decay,
        },
    )


def adagrad_step(
    param: Tree,
    grad: Tree,
    sum_sq: Tree,
    *,
    lr: Any,
    eps: float = 1e-10,
    weight_decay: float = 0.0,
) -> tuple[Tree, ...]:
    """Adagrad's update, as `fastnn.ops.adagrad_step` defines it; see `adam_step`.

    Returns
    -------
    tuple
        param and sum_sq.
    """
    return _step(
        "adagrad_step",
        {"param": param, "grad": grad, "sum_sq": sum_sq},
        {"lr": lr},
        {"eps": eps, "weight_decay": weight_decay},
    )


def rmsprop_step(
    param: Tree,
    grad: Tree,
    square_avg: Tree,
    *,
    lr: Any,
    alpha: float = 0.99,
    eps: float = 1e-8,
    momentum: float = 0.0,
    velocity: Tree | None = None,
    grad_avg: Tree | None = None,
    weight_decay: float = 0.0,
    eps_in_sqrt: bool = False,
) -> tuple[Tree, ...]:
    """RMSProp's update, as `fastnn.ops.rmsprop_step` defines it; see `adam_step`.

    Given `grad_avg`, it is the centred one.

    Returns
    -------
    tuple
        param, square_avg and, where given, velocity and grad_avg.
    """
    return _step(
        "rmsprop_step",
        {
            "param": param,
            "grad": grad,
            "square_avg": square_avg,
            "velocity": velocity,
            "grad_avg": grad_avg,
        },
        {"lr": lr},
        {
            "alpha": alpha,
            "eps": eps,
            "momentum": momentum,
            "centered": grad_avg is not None,
            "weight_decay": weight_decay,
            "eps_in_sqrt": eps_in_sqrt,
        },
    )
