"""PyTorch's optimizers on fastnn's kernels: one call updates all parameters of a group.

Each is derived from the optimizer of the same name in ``torch.optim``: the same arguments, formulas
and ``state_dict``, which loads into either. ``foreach`` makes no difference; ``fused``,
``capturable`` and ``differentiable`` are refused.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch

Tensor = Any
ops = torch.ops.fastnn

__all__ = ["SGD", "Adagrad", "Adam", "AdamW", "RMSprop"]


class _Optimizer(torch.optim.Optimizer):
    """What a step has in common: who is updated, and with whom in one call."""

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(param_group)
        self._refuse(self.param_groups[-1])

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        for group in self.param_groups:
            self._refuse(group)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update all parameters that have a gradient.

        Parameters
        ----------
        closure : callable, optional
            Clears the gradients, computes the loss and its gradients, returns the loss.

        Returns
        -------
        What the closure returned, else None.

        Raises
        ------
        RuntimeError
            If a parameter is neither float32 nor float64, or a gradient is sparse.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with torch.no_grad():
            for group in self.param_groups:
                params = [p for p in group["params"] if p.grad is not None]
                for batch in self._alike(group, params):
                    self._update(group, batch, [p.grad for p in batch])
        return loss

    def _refuse(self, group: dict[str, Any]) -> None:
        for name in ("fused", "capturable", "differentiable"):
            if group.get(name):
                raise ValueError(
                    f"{type(self).__name__}: {name}=True is not supported; use torch.optim"
                )

    def _alike(self, group: dict[str, Any], params: list[Tensor]) -> Iterable[list[Tensor]]:
        """Parameters of one type, on one device, that have seen the same number of updates."""
        alike: dict[Any, list[Tensor]] = {}
        for p in params:
            if p.grad.is_sparse:
                raise RuntimeError(f"{type(self).__name__}: sparse gradients are not supported")
            alike.setdefault((p.dtype, p.device, self._age(group, p)), []).append(p)
        return alike.values()

    def _age(self, group: dict[str, Any], p: Tensor) -> float:
        """Number of updates that a parameter has seen; makes the state of a new one."""
        state = self.state[p]
        for name in self._names(group):
            if name not in state:
                state[name] = torch.zeros_like(p, memory_format=torch.preserve_format)
        return float(state.setdefault("step", torch.tensor(0.0, dtype=torch.float32)))

    def _names(self, group: dict[str, Any]) -> list[str]:
        """Of the state's tensors, besides ``step``."""
        raise NotImplementedError

    def _update(self, group: dict[str, Any], params: list[Tensor], grads: list[Tensor]) -> None:
        raise NotImplementedError

    def _states(self, params: list[Tensor], name: str, wanted: bool = True) -> list[Tensor]:
        return [self.state[p][name] for p in params] if wanted else []

    def _next_step(self, params: list[Tensor]) -> int:
        """Count this update and return its number."""
        for p in params:
            self.state[p]["step"] += 1
        return int(self.state[params[0]]["step"])


class _Adam(_Optimizer):
    def _names(self, group: dict[str, Any]) -> list[str]:
        return ["exp_avg", "exp_avg_sq"] + ["max_exp_avg_sq"] * bool(group["amsgrad"])

    def _update(self, group: dict[str, Any], params: list[Tensor], grads: list[Tensor]) -> None:
        beta1, beta2 = group["betas"]
        ops.adam_step.default(
            params,
            grads,
            self._states(params, "exp_avg"),
            self._states(params, "exp_avg_sq"),
            self._states(params, "max_exp_avg_sq", group["amsgrad"]),
            self._next_step(params),
            float(group["lr"]),
            float(beta1),
            float(beta2),
            group["eps"],
            group["weight_decay"],
            group["decoupled_weight_decay"],
            "torch",
            group["maximize"],
        )


class Adam(_Adam, torch.optim.Adam):
    """`torch.optim.Adam`."""


class AdamW(_Adam, torch.optim.AdamW):
    """`torch.optim.AdamW`."""


class RMSprop(_Optimizer, torch.optim.RMSprop):
    """`torch.optim.RMSprop`."""

    def _names(self, group: dict[str, Any]) -> list[str]:
        more = ["momentum_buffer"] * (group["momentum"] > 0) + ["grad_avg"] * group["centered"]
        return ["square_avg", *more]

    def _update(self, group: dict[str, Any], params: list[Tensor], grads: list[Tensor]) -> None:
        self._next_step(params)
        ops.rmsprop_step.default(
            params,
            grads,
            self._states(params, "square_avg"),
            self._states(params, "momentum_buffer", group["momentum"] > 0),
            self._states(params, "grad_avg", group["centered"]),
            float(group["lr"]),
            group["alpha"],
            group["eps"],
            group["momentum"],
            group["centered"],
            group["weight_decay"],
            False,
            group["maximize"],
        )


class Adagrad(_Optimizer, torch.optim.Adagrad):
    """`torch.optim.Adagrad`."""

    def _names(self, group: dict[str, Any]) -> list[str]:
        return ["sum"]  # there since the constructor, with its initial value

    def _update(self, group: dict[str, Any], params: list[Tensor], grads: list[Tensor]) -> None:
        decay = 1 + (self._next_step(params) - 1) * group["lr_decay"]
        ops.adagrad_step.default(
            params,
            grads,
            self._states(params, "sum"),
            float(group["lr"]) / decay,
            group["eps"],
            group["weight_decay"],
            group["maximize"],
        )


class SGD(_Optimizer, torch.optim.SGD):
    """`torch.optim.SGD`."""

    def _age(self, group: dict[str, Any], p: Tensor) -> float:
        return float(not group["momentum"] or self.state[p].get("momentum_buffer") is not None)

    def _update(self, group: dict[str, Any], params: list[Tensor], grads: list[Tensor]) -> None:
        dampening = group["dampening"]
        if not self._age(group, params[0]):
            dampening = 0.0  # the first velocity is the whole gradient
            for p in params:
                self.state[p]["momentum_buffer"] = torch.zeros_like(p)
        ops.sgd_step.default(
            params,
            grads,
            self._states(params, "momentum_buffer", group["momentum"] != 0),
            float(group["lr"]),
            group["momentum"],
            dampening,
            group["nesterov"],
            group["weight_decay"],
            group["maximize"],
        )
