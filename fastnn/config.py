"""Architectures, losses, optimizers and schedules as JSON, for checkpoints.

``to_config(Adam(lr=1e-3))`` is ``{"class": "Adam", "lr": 0.001, ...}``: a class name and the
arguments of its constructor. Nothing but the classes of fastnn is ever made from such a dictionary.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from fastnn import layers, losses, optimizers, schedules

__all__ = ["from_config", "to_config"]

_BASES = {"Layer", "Loss", "Optimizer", "Schedule"}
_CLASSES: dict[str, type] = {
    name: getattr(module, name)
    for module in (layers, losses, optimizers, schedules)
    for name in module.__all__
    if name not in _BASES
}


def to_config(obj: Any) -> dict[str, Any]:
    """Class and arguments of a layer, loss, optimizer or schedule, fit for JSON.

    Parameters
    ----------
    obj : Layer, Loss, Optimizer or Schedule
        Of a class of fastnn; a `Sequential` holds such layers only. Initializers of one's own are
        left out, since a saved layer comes with its values.

    Returns
    -------
    dict
        What `from_config` takes. Arrays, such as class weights, become lists with their dtype.

    Raises
    ------
    ValueError
        If the class is not one of fastnn's.
    """
    name = type(obj).__name__
    if _CLASSES.get(name) is not type(obj):
        raise ValueError(f"to_config: {name} is not a class of fastnn; save its arrays yourself")
    arguments = obj.config() if isinstance(obj, layers.BuiltIn) else vars(obj)
    return {"class": name} | {key: _encode(value) for key, value in arguments.items()}


def from_config(config: Mapping[str, Any]) -> Any:
    """The object that `to_config` described.

    Parameters
    ----------
    config : mapping
        As returned by `to_config`, before or after a way through JSON.

    Returns
    -------
    Layer, Loss, Optimizer or Schedule
        A new one; a layer's arrays are not drawn yet.

    Raises
    ------
    ValueError
        If the class is unknown, or its constructor does not take these arguments.
    """
    arguments = dict(config)
    name = arguments.pop("class", None)
    if not isinstance(name, str) or name not in _CLASSES:
        raise ValueError(f"from_config: unknown class {name!r}")
    arguments = {key: _decode(value) for key, value in arguments.items()}
    try:
        if name == "Sequential":
            return layers.Sequential(*arguments.pop("layers"), **arguments)
        return _CLASSES[name](**arguments)
    except (KeyError, TypeError) as error:
        raise ValueError(f"from_config: wrong arguments for {name}: {error}") from error


def _encode(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, (list, tuple)):
        return [_encode(item) for item in value]
    if hasattr(value, "tolist"):
        return {"array": value.tolist(), "dtype": str(value.dtype)}
    return to_config(value)


def _decode(value: Any) -> Any:
    if isinstance(value, Mapping):
        if "array" in value:
            return np.array(value["array"], value["dtype"])
        return from_config(value)
    if isinstance(value, list):
        return [_decode(item) for item in value]
    return value
