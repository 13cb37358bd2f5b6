"""The Python half of DLPack: what ``from_dlpack`` of another library expects to be handed."""

from typing import Any


class Holder:
    """Memory that is ready, on its way into another array library.

    Parameters
    ----------
    capsule : DLPack capsule
    device_type, device : int
        Where it lies, as DLPack names it.
    """

    def __init__(self, capsule: Any, device_type: int, device: int) -> None:
        self._capsule = capsule
        self._device = (device_type, device)

    def __dlpack__(self, **_: Any) -> Any:
        return self._capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._device
