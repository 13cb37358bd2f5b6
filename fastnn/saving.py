"""Checkpoints of a Trainer: what is saved under which name, and how it is put back."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastnn import checkpoint
from fastnn.config import from_config, to_config
from fastnn.errors import CheckpointError
from fastnn.sampler import Position

if TYPE_CHECKING:
    from fastnn.trainer import Trainer

__all__ = ["load", "save"]

_OPTIMIZER = "optimizer."
_PARTS = ("model", "loss", "optimizer", "schedule")
_PLACE = ("updates", "epoch", "row", "end")


def _describe(part: Any) -> Any:
    """The configuration of a built-in object; None for a class of one's own."""
    try:
        return to_config(part)
    except (TypeError, ValueError):
        return None


def save(trainer: "Trainer", path: str | Path) -> None:
    """Write everything that the next step depends on."""
    arrays = {name: np.asarray(a) for name, a in trainer.model.state_dict().items()}
    for state, flat in trainer._state.items():
        for name, view in trainer._flat.named(flat).items():
            arrays[f"{_OPTIMIZER}{state}.{name}"] = view
    metadata = {
        **{part: _describe(getattr(trainer, part)) for part in _PARTS},
        "precision": trainer.precision,
        "seed": trainer.seed,
        "clip_grad_norm": trainer.clip_grad_norm,
        "check_finite": trainer.check_finite,
        **_place(trainer),
    }
    checkpoint.save(path, arrays, metadata)


def _place(trainer: "Trainer") -> dict[str, int]:
    """Where the training is."""
    at = trainer._position.at(trainer.updates)
    return dict(zip(_PLACE, (at.updates, at.epoch, at.row, at.end), strict=True))


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 62:
        raise ValueError(f"{value!r} is no count")
    return value


def load(cls: type["Trainer"], path: str | Path, device: str, *given: Any) -> "Trainer":
    """A Trainer as it was when `save` wrote the file."""
    arrays, metadata = checkpoint.load(path)
    parts = {
        name: _part(path, metadata, name) if part is None else part
        for name, part in zip(_PARTS, given, strict=True)
    }
    try:
        trainer = cls(
            **parts,
            device=device,
            precision=metadata["precision"],
            seed=metadata["seed"],
            clip_grad_norm=metadata["clip_grad_norm"],
            check_finite=metadata["check_finite"],
        )
        updates, epoch, row, end = (_count(metadata[name]) for name in _PLACE)
        if row > end:
            raise ValueError(f"row {row} of {end}")
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: not a Trainer's checkpoint ({error!r})") from error
    _put_back(trainer, path, arrays)
    trainer._clock.set(updates)
    trainer._position = Position(epoch, row, end, updates)
    return trainer


def _part(path: str | Path, metadata: dict[str, Any], name: str) -> Any:
    config = metadata.get(name)
    if config is None:
        raise CheckpointError(
            f"{path}: the {name} is of a class of one's own; use Trainer.load(path, {name}=...)"
        )
    try:
        return from_config(config)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: can't rebuild the {name}: {error}") from error


def _put_back(trainer: "Trainer", path: str | Path, arrays: dict[str, Any]) -> None:
    """Fill model and optimizer state from the arrays: all of them, or none."""
    targets: dict[str, Any] = dict(trainer.model.state_dict())
    for state, flat in trainer._state.items():
        for name, view in trainer._flat.named(flat).items():
            targets[f"{_OPTIMIZER}{state}.{name}"] = view
    for name in (*targets, *arrays):
        if name not in arrays or name not in targets:
            wrong = "lacks" if name in targets else "has an unknown"
            raise CheckpointError(f"{path}: another model: the file {wrong} array {name!r}")
        have, want = arrays[name], targets[name]
        if have.shape != want.shape or have.dtype != want.dtype:
            raise CheckpointError(
                f"{path}: another model: {name!r} is {have.dtype} {have.shape} in the file, "
                f"{want.dtype} {want.shape} in the model"
            )
    model = {name: a for name, a in arrays.items() if not name.startswith(_OPTIMIZER)}
    trainer.model.load_state_dict(model)
    for name, array in arrays.items():
        if name.startswith(_OPTIMIZER):
            targets[name][...] = array
