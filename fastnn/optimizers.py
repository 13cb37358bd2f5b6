"""Optimizers: what a gradient does to a parameter, as PyTorch defines it.

An optimizer is a frozen dataclass of hyper-parameters; its state (moments, velocities) lives with
the caller as ``{name: array}``, named as the arguments of the `fastnn.ops` function that does the
update. ``dataclasses.replace(adam, lr=1e-4)`` gives one with another rate.
"""

import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, TypeAlias

from fastnn import ops

__all__ = ["SGD", "Adagrad", "Adam", "AdamW", "Optimizer", "RAdam", "RMSProp"]

Array: TypeAlias = Any  # an array of any library that fastnn.ops takes

# What a hyper-parameter of that name must be, whichever optimizer has it.
_RULES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "lr": ("finite and >= 0", lambda lr: 0 <= lr < math.inf),
    "weight_decay": ("finite and >= 0", lambda decay: 0 <= decay < math.inf),
    "eps": ("finite and > 0", lambda eps: 0 < eps < math.inf),
    "momentum": ("in [0, 1]", lambda momentum: 0 <= momentum <= 1),
    "alpha": ("in [0, 1]", lambda alpha: 0 <= alpha <= 1),
    "dampening": ("finite", math.isfinite),
    "betas": ("two numbers in [0, 1)", lambda b: len(b) == 2 and all(0 <= x < 1 for x in b)),
    "eps_mode": ("'torch' or 'hat'", lambda mode: mode in ("torch", "hat")),
}


@dataclass(frozen=True)
class Optimizer:
    """Base of the optimizers; derive from it for one of your own.

    Attributes
    ----------
    lr : float
        Base learning rate; a schedule multiplies it.
    recordable : bool
        Whether `update` is calls of `fastnn.ops` alone, so that a `Trainer` may record it.
    """

    lr: float

    recordable: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        """A class with an update of its own is recordable only if it says so."""
        super().__init_subclass__()
        if "update" in vars(cls):
            cls.recordable = bool(vars(cls).get("recordable", False))

    def __post_init__(self) -> None:
        for name in (field.name for field in fields(self) if field.name in _RULES):
            rule, holds = _RULES[name]
            value = getattr(self, name)
            if not holds(value):
                raise ValueError(f"{type(self).__name__}: {name} must be {rule}, got {value!r}")

    @property
    def state_names(self) -> tuple[str, ...]:
        """Names of the state arrays, one of each per parameter and all of its shape."""
        return ()

    def init_state(self, param: Array) -> dict[str, Array]:
        """State of a parameter before its first update: zeros of its shape, dtype and library."""
        return {name: _zeros_like(param) for name in self.state_names}

    def update(
        self, param: Array, grad: Array, state: Mapping[str, Array], *, step: Any, lr: Any
    ) -> None:
        """Update `param` and `state` in place.

        Parameters
        ----------
        param, grad : float array, or lists of such arrays
            Parameters and gradients, shape for shape; lists take one native call.
        state : mapping of str to array, or to lists of arrays
            What `init_state` returned, for the same parameters.
        step : int or int array of shape ()
            Number of this update, from 1.
        lr : float or float64 array of shape ()
            Learning rate of this update.

        Raises
        ------
        DTypeError, ShapeError, ValueError
            As the function of `fastnn.ops`; nothing is changed then.
        """
        raise NotImplementedError(f"{type(self).__name__} must define update")

    def _arrays(self, state: Mapping[str, Array]) -> dict[str, Array]:
        return {name: state[name] for name in self.state_names}


@dataclass(frozen=True)
class SGD(Optimizer):
    """Stochastic gradient descent, with momentum if asked for (Sutskever et al. 2013).

    Parameters
    ----------
    lr : float
        Learning rate.
    momentum : float, default 0.0
        Weight of the previous velocity, 0 to 1.
    dampening : float, default 0.0
        The gradient enters the velocity times ``1 - dampening``.
    nesterov : bool, default False
        Look ahead along the velocity; needs momentum and no dampening.
    weight_decay : float, default 0.0
        L2 penalty.
    maximize : bool, default False
        Ascend.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """

    momentum: float = 0.0
    dampening: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    maximize: bool = False

    recordable: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nesterov and not (self.momentum > 0 and self.dampening == 0):
            raise ValueError("SGD: nesterov=True needs momentum > 0 and dampening = 0")

    @property
    def state_names(self) -> tuple[str, ...]:
        return ("velocity",) if self.momentum else ()

    def update(
        self, param: Array, grad: Array, state: Mapping[str, Array], *, step: Any, lr: Any
    ) -> None:
        ops.sgd_step(
            param,
            grad,
            **self._arrays(state),
            lr=lr,
            momentum=self.momentum,
            dampening=self.dampening,
            nesterov=self.nesterov,
            weight_decay=self.weight_decay,
            maximize=self.maximize,
        )


@dataclass(frozen=True)
class Adagrad(Optimizer):
    """Adagrad (Duchi, Hazan & Singer 2011): steps shrink with the sum of squared gradients.

    Parameters
    ----------
    lr : float, default 1e-2
        Learning rate.
    eps : float, default 1e-10
        Added to the root.
    weight_decay : float, default 0.0
        L2 penalty.
    maximize : bool, default False
        Ascend.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """

    lr: float = 1e-2
    eps: float = 1e-10
    weight_decay: float = 0.0
    maximize: bool = False

    recordable: ClassVar[bool] = True

    @property
    def state_names(self) -> tuple[str, ...]:
        return ("sum_sq",)

    def update(
        self, param: Array, grad: Array, state: Mapping[str, Array], *, step: Any, lr: Any
    ) -> None:
        ops.adagrad_step(
            param,
            grad,
            **self._arrays(state),
            lr=lr,
            eps=self.eps,
            weight_decay=self.weight_decay,
            maximize=self.maximize,
        )


@dataclass(frozen=True)
class RMSProp(Optimizer):
    """RMSProp (Hinton, lecture 6e, 2012): steps divided by a running root mean square.

    Parameters
    ----------
    lr : float, default 1e-2
        Learning rate.
    alpha : float, default 0.99
        Weight of the old mean square, 0 to 1.
    eps : float, default 1e-8
        Added to the root.
    momentum : float, default 0.0
        Weight of the previous velocity, 0 to 1.
    centered : bool, default False
        Divide by the standard deviation (Graves 2013).
    weight_decay : float, default 0.0
        L2 penalty.
    eps_in_sqrt : bool, default False
        Add `eps` under the root, as Keras and optax do.
    maximize : bool, default False
        Ascend.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """

    lr: float = 1e-2
    alpha: float = 0.99
    eps: float = 1e-8
    momentum: float = 0.0
    centered: bool = False
    weight_decay: float = 0.0
    eps_in_sqrt: bool = False
    maximize: bool = False

    recordable: ClassVar[bool] = True

    @property
    def state_names(self) -> tuple[str, ...]:
        names = ["square_avg"]
        if self.momentum:
            names.append("velocity")
        if self.centered:
            names.append("grad_avg")
        return tuple(names)

    def update(
        self, param: Array, grad: Array, state: Mapping[str, Array], *, step: Any, lr: Any
    ) -> None:
        ops.rmsprop_step(
            param,
            grad,
            **self._arrays(state),
            lr=lr,
            alpha=self.alpha,
            eps=self.eps,
            momentum=self.momentum,
            centered=self.centered,
            weight_decay=self.weight_decay,
            eps_in_sqrt=self.eps_in_sqrt,
            maximize=self.maximize,
        )


@dataclass(frozen=True)
class _AdamFamily(Optimizer):
    """What Adam, AdamW and RAdam share: two moments and their checks."""

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8

    def __post_init__(self) -> None:
        object.__setattr__(self, "betas", tuple(self.betas))  # a list, as JSON has it, is fine
        super().__post_init__()

    @property
    def state_names(self) -> tuple[str, ...]:
        return ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Adam(_AdamFamily):
    """Adam (Kingma & Ba 2015).

    Parameters
    ----------
    lr : float, default 1e-3
        Learning rate.
    betas : (float, float), default (0.9, 0.999)
        Decay of the first and second moment, each in [0, 1).
    eps : float, default 1e-8
        Added to the root.
    weight_decay : float, default 0.0
        L2 penalty; for decoupled decay use `AdamW`.
    amsgrad : bool, default False
        Use the running maximum of the second moment (Reddi et al. 2018).
    eps_mode : {"torch", "hat"}
        Where `eps` stands: added to the corrected root as in PyTorch, or to the plain root as in
        scikit-learn, Keras and ONNX.
    maximize : bool, default False
        Ascend.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """

    weight_decay: float = 0.0
    amsgrad: bool = False
    eps_mode: str = "torch"
    maximize: bool = False

    recordable: ClassVar[bool] = True
    _decoupled: ClassVar[bool] = False

    @property
    def state_names(self) -> tuple[str, ...]:
        return super().state_names + (("max_exp_avg_sq",) if self.amsgrad else ())

    def update(
        self, param: Array, grad: Array, state: Mapping[str, Array], *, step: Any, lr: Any
    ) -> None:
        ops.adam_step(
            param,
            grad,
            **self._arrays(state),
            step=step,
            lr=lr,
            beta1=self.betas[0],
            beta2=self.betas[1],
            eps=self.eps,
            weight_decay=self.weight_decay,
            decoupled=self._decoupled,
            amsgrad=self.amsgrad,
            eps_mode=self.eps_mode,
            maximize=self.maximize,
        )


@dataclass(frozen=True)
class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019).

    As `Adam`, except that each update first multiplies the parameters by
    ``1 - lr * weight_decay``, and that `weight_decay` is 1e-2 by default.
    """

    weight_decay: float = 1e-2

    _decoupled: ClassVar[bool] = True


@dataclass(frozen=True)
class RAdam(_AdamFamily):
    """Adam with a rectified variance (Liu et al. 2020): warms up by itself.

    Parameters
    ----------
    lr : float, default 1e-3
        Learning rate.
    betas : (float, float), default (0.9, 0.999)
        Decay of the first and second moment, each in [0, 1).
    eps : float, default 1e-8
        Added to the root.
    weight_decay : float, default 0.0
        L2 penalty, or decay when decoupled.
    decoupled_weight_decay : bool, default False
        Multiply the parameters by ``1 - lr * weight_decay`` instead of a penalty.
    maximize : bool, default False
        Ascend.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """

    weight_decay: float = 0.0
    decoupled_weight_decay: bool = False
    maximize: bool = False

    recordable: ClassVar[bool] = True

    def update(
        self, param: Array, grad: Array, state: Mapping[str, Array], *, step: Any, lr: Any
    ) -> None:
        ops.radam_step(
            param,
            grad,
            **self._arrays(state),
            step=step,
            lr=lr,
            beta1=self.betas[0],
            beta2=self.betas[1],
            eps=self.eps,
            weight_decay=self.weight_decay,
            decoupled=self.decoupled_weight_decay,
            maximize=self.maximize,
        )


def _zeros_like(param: Array) -> Array:
    """Zeros like `param` from its own library (NumPy, CuPy and PyTorch all have the function)."""
    return sys.modules[type(param).__module__.partition(".")[0]].zeros_like(param)
