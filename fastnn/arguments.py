"""Checks of arguments that several functions share."""

from operator import index
from typing import Any

__all__ = ["positive_integer", "seed_number"]


def _integer(where: str, name: str, value: Any, what: str) -> int:
    try:
        if isinstance(value, bool):
            raise TypeError
        return index(value)
    except TypeError:
        raise ValueError(f"{where}: {name} must be {what}, got {value!r}") from None


def positive_integer(where: str, name: str, value: Any) -> int:
    """The value as an int; ValueError unless it is a whole number >= 1."""
    number = _integer(where, name, value, "an integer >= 1")
    if number < 1:
        raise ValueError(f"{where}: {name} must be an integer >= 1, got {value!r}")
    return number


def seed_number(where: str, value: Any) -> int:
    """The value as an int; ValueError unless 0 <= value < 2^64."""
    number = _integer(where, "seed", value, "an integer in 0 .. 2^64 - 1")
    if not 0 <= number < 1 << 64:
        raise ValueError(f"{where}: seed must be in 0 .. 2^64 - 1, got {value!r}")
    return number
