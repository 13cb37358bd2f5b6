"""scikit-learn's multi-layer perceptrons, trained by fastnn.

`MLPClassifier` and `MLPRegressor` are scikit-learn's own estimators, with its parameters,
attributes, checks and messages, except for the arithmetic. The same ``random_state`` gives the same
initial weights and the same batches, so that both follow one path up to rounding.
"""

import warnings
from collections.abc import Callable
from typing import Any, ClassVar, TypeAlias

import numpy as np
import numpy.typing as npt
import sklearn.neural_network as theirs
from scipy.optimize import OptimizeResult, minimize
from scipy.sparse import issparse
from sklearn.base import is_classifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.neural_network._multilayer_perceptron import BaseMultilayerPerceptron
from sklearn.neural_network._stochastic_optimizers import AdamOptimizer, SGDOptimizer
from sklearn.utils import shuffle as shuffled
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.optimize import _check_optimize_result
from sklearn.utils.validation import validate_data

from fastnn import ops
from fastnn._mlp import ACTIVATIONS, Design, Network
from fastnn.layers import BatchNorm
from fastnn.optimizers import SGD, Adam, Optimizer

__all__ = ["MLPClassifier", "MLPRegressor"]

Array: TypeAlias = npt.NDArray[Any]

_PREDICTED_AT_ONCE = 4096  # rows: hidden layers take memory, and sparse rows are made dense
_CONSTRAINTS = {"batch_norm": ["boolean"], "device": [str]}


class _Perceptron(BaseMultilayerPerceptron):  # type: ignore[misc]
    """What replaces the arithmetic of scikit-learn's perceptrons.

    `_optimizer` is scikit-learn's object, which only keeps the learning rate here; `_network` does
    the work. Between two calls the weights are those in `coefs_`, `intercepts_`, `batch_norms_`.
    """

    batch_norms_: Any = ()
    _no_improvement_count: Any

    def _initialize(self, y: Array, layer_units: list[int], dtype: npt.DTypeLike) -> None:
        if self.batch_norm and len(y) < 2:
            raise ValueError("batch_norm=True needs at least 2 samples, got n_samples=1")
        super()._initialize(y, layer_units, dtype)
        widths = layer_units[1:-1] if self.batch_norm else []
        self.batch_norms_ = [_fresh_batch_norm(width, dtype) for width in widths]
        for name in ("_network", "_best_coefs", "_best_intercepts", "_best_batch_norms"):
            self.__dict__.pop(name, None)  # of an earlier fit

    def _new_network(self, optimizer: Optimizer, mean_of: int) -> Network:
        design = Design(
            sizes=[len(self.coefs_[0]), *(len(bias) for bias in self.intercepts_)],
            activation=self.activation,
            output=self.out_activation_,
            optimizer=optimizer,
            alpha=self.alpha,
            mean_of=mean_of,
            dtype=self.coefs_[0].dtype,
            batch_norm=bool(self.batch_norms_),
            device=self.device,
        )
        return Network(design)

    def _check_device(self, sample_weight: Array | None) -> None:
        """On a GPU recorded steps find the numbers that they were recorded with."""
        if self.device == "cpu":
            return
        if sample_weight is not None and self.alpha:
            raise ValueError(f"device={self.device!r} takes sample weights only with alpha=0")
        if self.solver == "sgd" and self.learning_rate != "constant" and self.momentum:
            raise ValueError(
                f"device={self.device!r} takes learning_rate={self.learning_rate!r} only with "
                "momentum=0"
            )

    def _write(self, network: Network) -> None:
        network.write(self.coefs_, self.intercepts_, self.batch_norms_)

    def _read(self, network: Network) -> None:
        self.coefs_, self.intercepts_, self.batch_norms_ = network.read()

    def _targets(self, y: Array, dtype: npt.DTypeLike) -> Array:
        """As the loss takes them: class indices, or a float for each output."""
        if self.out_activation_ == "softmax":
            return np.asarray(y.argmax(axis=1))
        return np.ascontiguousarray(y, dtype)

    # ---- training ---------------------------------------------------------------------------

    def _fit_lbfgs(self, X: Any, y: Array, sample_weight: Array | None, *_: Any) -> None:
        self._check_device(sample_weight)
        network = self._new_network(SGD(lr=1.0), mean_of=1)
        self._write(network)
        x, targets = _rows(X, network.dtype)(slice(None)), self._targets(y, network.dtype)
        weight = None if sample_weight is None else sample_weight.astype(network.dtype)
        result = minimize(
            lambda theta: network.loss_and_grad(theta, x, targets, weight),
            network.parameters,
            method="L-BFGS-B",
            jac=True,
            callback=_print_iteration if self.verbose else None,
            options={"maxfun": self.max_fun, "maxiter": self.max_iter, "gtol": self.tol},
        )
        self.n_iter_ = _check_optimize_result("lbfgs", result, self.max_iter)
        self.loss_ = float(result.fun)
        network.parameters = result.x
        network.set_statistics(x)
        self._read(network)

    def _fit_stochastic(self, X: Any, y: Array, sample_weight: Array | None, *rest: Any) -> None:
        incremental = rest[-1]
        if incremental and self.early_stopping:
            raise ValueError("partial_fit does not support early_stopping=True")
        self._check_device(sample_weight)
        if not incremental or not hasattr(self, "_network"):
            self._optimizer, optimizer = self._solver()
            mean_of = 1 if is_classifier(self) else self.n_outputs_
            self._network = self._new_network(optimizer, mean_of)
        self._write(self._network)
        validation: tuple[Any, ...] = (None, None, None)
        if self.early_stopping:
            (X, y, sample_weight), validation = self._split(X, y, sample_weight)
        try:
            self._run_epochs(X, y, sample_weight, validation, incremental)
        except KeyboardInterrupt:
            warnings.warn("Training interrupted by user.", stacklevel=4)
        self._read(self._network)
        if self.early_stopping and hasattr(self, "_best_coefs"):
            self.coefs_, self.intercepts_ = self._best_coefs, self._best_intercepts
            self.batch_norms_ = self._best_batch_norms

    def _solver(self) -> tuple[Any, Optimizer]:
        """scikit-learn's keeper of the learning rate, and the optimizer in fastnn's terms."""
        if self.solver == "adam":
            betas = self.beta_1, self.beta_2
            keeper = AdamOptimizer([], self.learning_rate_init, *betas, self.epsilon)
            return keeper, Adam(lr=1.0, betas=betas, eps=self.epsilon, eps_mode="hat")
        keeper = SGDOptimizer([], self.learning_rate_init, self.learning_rate, power_t=self.power_t)
        nesterov = self.nesterovs_momentum and self.momentum > 0
        return keeper, SGD(lr=1.0, momentum=self.momentum, nesterov=nesterov)

    def _split(self, *arrays: Any) -> tuple[list[Any], tuple[Any, ...]]:
        """Samples, targets and weights to train on, and to validate on, the latter as labels."""
        given = [array for array in arrays if array is not None]
        single = is_classifier(self) and self.n_outputs_ == 1
        parts = train_test_split(
            *given,
            random_state=self._random_state,
            test_size=self.validation_fraction,
            stratify=arrays[1] if single else None,
        )
        training, validation = parts[::2], parts[1::2]
        if validation[0].shape[0] < 2:
            raise ValueError(
                "The validation set is too small: it has less than 2 samples; "
                "increase validation_fraction or give more samples"
            )
        if is_classifier(self):
            validation[1] = self._label_binarizer.inverse_transform(validation[1])
        missing = [None] * (len(arrays) - len(given))
        return training + missing, (*validation, *missing)

    def _run_epochs(
        self, X: Any, y: Array, weight: Array | None, validation: tuple[Any, ...], once: bool
    ) -> None:
        network, n = self._network, X.shape[0]
        x, targets = _rows(X, network.dtype), self._targets(y, network.dtype)
        weight = None if weight is None else weight.astype(network.dtype)
        batch = self._batch(n)
        order = np.arange(n) if self.shuffle else None
        self.n_iter_ = 0
        while self.n_iter_ < self.max_iter:
            if order is not None:
                order = shuffled(order, random_state=self._random_state)
            network.set_rate(self._optimizer.learning_rate)
            self.loss_ = network.epoch(x, targets, weight, order, batch)
            self.n_iter_ += 1
            self.t_ += n
            self.loss_curve_.append(self.loss_)
            if self.verbose:
                print(f"Iteration {self.n_iter_}, loss = {self.loss_:.8f}")
            self._judge(validation)
            self._optimizer.iteration_ends(self.t_)
            if self._no_improvement_count > self.n_iter_no_change:
                if self._optimizer.trigger_stopping(self._reason(), self.verbose):
                    return
                self._no_improvement_count = 0
            if once:
                return
        warnings.warn(
            f"Stochastic Optimizer: Maximum iterations ({self.max_iter}) reached and the "
            "optimization hasn't converged yet.",
            ConvergenceWarning,
            stacklevel=5,
        )

    def _batch(self, n: int) -> int:
        size = 200 if self.batch_size == "auto" else int(self.batch_size)
        if size > n and self.batch_size != "auto":
            warnings.warn(f"batch_size is {size}, but there are only {n} samples", stacklevel=6)
        return min(size, n)

    def _judge(self, validation: tuple[Any, ...]) -> None:
        """Compare the epoch with those before it, and keep the weights of the best score."""
        best = self.best_validation_score_ if self.early_stopping else None
        if self.early_stopping:
            self._read(self._network)
        self._update_no_improvement_count(self.early_stopping, *validation)
        if self.early_stopping and self.best_validation_score_ != best:
            self._best_batch_norms = self.batch_norms_

    def _reason(self) -> str:
        what = "Validation score" if self.early_stopping else "Training loss"
        return (
            f"{what} did not improve more than tol={self.tol:f} "
            f"for {self.n_iter_no_change} consecutive epochs."
        )

    # ---- prediction -------------------------------------------------------------------------

    def _forward_pass_fast(self, X: Any, check_input: bool = True) -> Array:
        if check_input:
            X = validate_data(self, X, accept_sparse=["csr", "csc"], reset=False)
        rows = _rows(X, self.coefs_[0].dtype)
        starts = range(0, X.shape[0], _PREDICTED_AT_ONCE)
        return np.concatenate(
            [self._outputs(rows(slice(first, first + _PREDICTED_AT_ONCE))) for first in starts]
        )

    def _outputs(self, x: Array) -> Array:
        hidden = ACTIVATIONS[self.activation][1]
        *layers, last = zip(self.coefs_, self.intercepts_, strict=True)
        for i, (coef, intercept) in enumerate(layers):
            fused = None if self.batch_norms_ else hidden
            x = ops.matmul(x, coef, bias=intercept, activation=fused)
            if self.batch_norms_:
                norm = {name: np.array(array) for name, array in self.batch_norms_[i].items()}
                x = _normalised(x, **norm)
                x = getattr(ops, hidden)(x) if hidden else x
        x = ops.matmul(x, last[0], bias=last[1])
        output = {"softmax": ops.softmax, "logistic": ops.sigmoid}.get(self.out_activation_)
        return np.asarray(output(x) if output else x)


class MLPClassifier(_Perceptron, theirs.MLPClassifier):  # type: ignore[misc]
    """`sklearn.neural_network.MLPClassifier`, trained by fastnn.

    Parameters and attributes are scikit-learn's; there are two more of the former and one more of
    the latter. float32 samples give a float32 network, anything else a float64 one. Sparse samples
    are made dense piece by piece.

    Parameters
    ----------
    batch_norm : bool, default False
        Normalise every hidden layer before its activation (Ioffe & Szegedy 2015). A last batch of
        one sample then joins the batch before it, and with ``solver='lbfgs'`` the running
        statistics are those of all samples at the end.
    device : {'cpu', 'cuda', 'cuda:1', ...}, default 'cpu'
        Where the training runs; see `fastnn.Trainer`. Predictions are made on the CPU. On a GPU
        sample weights need ``alpha=0``, and learning rates that change need ``momentum=0``.

    Attributes
    ----------
    batch_norms_ : list of dict
        With ``batch_norm=True``, of every hidden layer: ``weight``, ``bias``, ``running_mean`` and
        ``running_var``, each of shape (width,).
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **theirs.MLPClassifier._parameter_constraints,
        **_CONSTRAINTS,
    }

    def __init__(
        self,
        hidden_layer_sizes: Any = (100,),
        activation: str = "relu",
        *,
        solver: str = "adam",
        alpha: float = 0.0001,
        batch_size: Any = "auto",
        learning_rate: str = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float = 0.0001,
        verbose: Any = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-08,
        n_iter_no_change: Any = 10,
        max_fun: int = 15000,
        batch_norm: bool = False,
        device: str = "cpu",
    ) -> None:
        super().__init__(
            hidden_layer_sizes=hidden_layer_sizes,
            activation=activation,
            solver=solver,
            alpha=alpha,
            batch_size=batch_size,
            learning_rate=learning_rate,
            learning_rate_init=learning_rate_init,
            power_t=power_t,
            max_iter=max_iter,
            shuffle=shuffle,
            random_state=random_state,
            tol=tol,
            verbose=verbose,
            warm_start=warm_start,
            momentum=momentum,
            nesterovs_momentum=nesterovs_momentum,
            early_stopping=early_stopping,
            validation_fraction=validation_fraction,
            beta_1=beta_1,
            beta_2=beta_2,
            epsilon=epsilon,
            n_iter_no_change=n_iter_no_change,
            max_fun=max_fun,
        )
        self.batch_norm, self.device = batch_norm, device


class MLPRegressor(_Perceptron, theirs.MLPRegressor):  # type: ignore[misc]
    """`sklearn.neural_network.MLPRegressor`, trained by fastnn.

    As `MLPClassifier`. ``loss='poisson'`` is refused. With several outputs and ``solver='lbfgs'``,
    `loss_` is the sum over the outputs, whose gradient is followed, not their mean.
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **theirs.MLPRegressor._parameter_constraints,
        **_CONSTRAINTS,
        "loss": [StrOptions({"squared_error"})],
    }

    def __init__(
        self,
        loss: str = "squared_error",
        hidden_layer_sizes: Any = (100,),
        activation: str = "relu",
        *,
        solver: str = "adam",
        alpha: float = 0.0001,
        batch_size: Any = "auto",
        learning_rate: str = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float = 0.0001,
        verbose: Any = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-08,
        n_iter_no_change: Any = 10,
        max_fun: int = 15000,
        batch_norm: bool = False,
        device: str = "cpu",
    ) -> None:
        super().__init__(
            loss=loss,
            hidden_layer_sizes=hidden_layer_sizes,
            activation=activation,
            solver=solver,
            alpha=alpha,
            batch_size=batch_size,
            learning_rate=learning_rate,
            learning_rate_init=learning_rate_init,
            power_t=power_t,
            max_iter=max_iter,
            shuffle=shuffle,
            random_state=random_state,
            tol=tol,
            verbose=verbose,
            warm_start=warm_start,
            momentum=momentum,
            nesterovs_momentum=nesterovs_momentum,
            early_stopping=early_stopping,
            validation_fraction=validation_fraction,
            beta_1=beta_1,
            beta_2=beta_2,
            epsilon=epsilon,
            n_iter_no_change=n_iter_no_change,
            max_fun=max_fun,
        )
        self.batch_norm, self.device = batch_norm, device


# ---- helpers ---------------------------------------------------------------------------------


def _fresh_batch_norm(width: int, dtype: npt.DTypeLike) -> dict[str, Array]:
    norm = BatchNorm(width)
    norm.build(None, dtype)
    return norm.state_dict()


def _normalised(
    x: Array, weight: Array, bias: Array, running_mean: Array, running_var: Array
) -> Array:
    y, *_ = ops.batch_norm(x, weight, bias, running_mean, running_var, training=False)
    return np.asarray(y)


def _rows(X: Any, dtype: npt.DTypeLike) -> Callable[[Any], Array]:
    """Function that gives some rows of a matrix, dense and in C order."""
    if issparse(X):
        X = X.tocsr()
        return lambda rows: X[rows].toarray().astype(dtype, copy=False)
    return lambda rows: np.ascontiguousarray(X[rows], dtype)


def _print_iteration(intermediate_result: OptimizeResult) -> None:
    print(f"loss = {intermediate_result.fun:.8f}")
