"""The Python half of DLPack: what ``from_dlpack`` of another library expects to be handed."""

from typing import Any


class Holder:
    """Memory on the CPU, on its way into another array library."""

    def __init__(self, capsule: Any) -> None:
        self._capsule = capsule

    def __dlpack__(self, **_: Any) -> Any:
        return self._capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)
