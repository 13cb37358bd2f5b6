"""A small array library whose arrays lie on emulated CUDA devices (tests/simt/module.cpp): what
fastnn.ops sees of CuPy, PyTorch or JAX, and no more than that."""

import ctypes
import os
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent / "simt"))
import simt_build

CUDA = 2  # as DLPack names device types
KINDS, BFLOAT = {"i": 0, "u": 1, "f": 2, "b": 6}, 4
DEFAULT_STREAM = 1


class DLTensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class DLManagedTensor(ctypes.Structure):
    _fields_ = (("tensor", DLTensor), ("context", ctypes.c_void_p), ("deleter", ctypes.c_void_p))


Deleter = ctypes.CFUNCTYPE(None, ctypes.POINTER(DLManagedTensor))

python = ctypes.pythonapi
python.PyCapsule_New.restype = ctypes.py_object
python.PyCapsule_New.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
python.PyCapsule_GetPointer.restype = ctypes.c_void_p
python.PyCapsule_GetPointer.argtypes = (ctypes.py_object, ctypes.c_char_p)
python.PyCapsule_SetName.argtypes = (ctypes.py_object, ctypes.c_char_p)

API_NAME = b"fastnn._cuda.api"  # capsules keep the pointer
TENSOR_NAME, USED_NAME = b"dltensor", b"used_dltensor"


class Emulator:
    """The library of the emulated devices."""

    def __init__(self, folder):
        library = ctypes.CDLL(str(simt_build.make(folder, "module", "module")))
        for name, result, arguments in (
            ("emu_api", ctypes.c_void_p, ()),
            ("emu_allocate", ctypes.c_void_p, (ctypes.c_size_t,)),
            ("emu_release", None, (ctypes.c_void_p,)),
            ("emu_copy", None, (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)),
            ("emu_used", ctypes.c_size_t, ()),
            ("emu_set_limit", None, (ctypes.c_size_t,)),
            ("emu_set_machine", None, (ctypes.c_int,) * 3),
            ("emu_set_error", None, (ctypes.c_int,)),
            ("emu_last_stream", ctypes.c_void_p, ()),
            ("emu_replays", ctypes.c_int, ()),
            ("emu_awaited_stream", ctypes.c_void_p, ()),
            ("emu_set_capturing", None, (ctypes.c_int,)),
            ("emu_launches", ctypes.c_int, ()),
            ("emu_current_device", ctypes.c_int, ()),
        ):
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
            setattr(self, name.removeprefix("emu_"), function)
        self.set_machine(2, 99990, 90)

    @property
    def capsule(self):
        """What fastnn._core.use_cuda takes."""
        return python.PyCapsule_New(self.api(), API_NAME, None)


emulator = Emulator(Path(os.environ["FASTNN_SIMT_BUILD_DIR"]).resolve())


class OutOfMemoryError(Exception):
    """As other libraries call theirs."""


class Memory:
    """Device memory: allocated here, or by others, who are told when it is no longer used."""

    def __init__(self, data, release):
        self.data, self._release = data, release

    def __del__(self):
        self._release()


def allocate(size):
    data = emulator.allocate(max(size, 1))
    if not data:
        raise OutOfMemoryError
    return Memory(data, lambda: emulator.release(data))


def code_of(dtype):
    return BFLOAT if dtype.name == "bfloat16" else KINDS[dtype.kind]


def dtype_of(code, size):
    if code == BFLOAT:
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    kind = {code: kind for kind, code in KINDS.items()}[code]
    return np.dtype(f"{kind}{size}" if kind != "b" else "?")


class DeviceArray:
    """An array of a shape and strides (in bytes) at an address of a device."""

    def __init__(self, memory, address, dtype, shape, strides, number=0):
        self._memory, self.address, self.number = memory, address, number
        self.dtype, self.shape, self.strides = np.dtype(dtype), tuple(shape), tuple(strides)
        self.streams = []  # that __dlpack__ was asked for

    def __dlpack_device__(self):
        return CUDA, self.number

    def __dlpack__(self, *, stream=None):
        self.streams.append(stream)
        managed = DLManagedTensor()
        tensor, ndim = managed.tensor, len(self.shape)
        tensor.data, tensor.device_type, tensor.device = self.address, CUDA, self.number
        tensor.ndim, tensor.lanes = ndim, 1
        tensor.code, tensor.bits = code_of(self.dtype), 8 * self.dtype.itemsize
        tensor.shape = (ctypes.c_int64 * ndim)(*self.shape)
        steps = [stride // self.dtype.itemsize for stride in self.strides]
        tensor.strides = (ctypes.c_int64 * ndim)(*steps)
        exported[ctypes.addressof(managed)] = managed, self
        managed.deleter = ctypes.cast(forget, ctypes.c_void_p)
        return python.PyCapsule_New(ctypes.addressof(managed), TENSOR_NAME, None)

    def __array_namespace__(self):
        return sys.modules[__name__]


class InterfaceArray:
    """The same for a library that knows the CUDA array interface alone."""

    def __init__(self, memory, address, dtype, shape, strides, number=0):
        self._memory, self.address, self.number = memory, address, number
        self.dtype, self.shape, self.strides = np.dtype(dtype), tuple(shape), tuple(strides)
        self.more = {}  # of the interface

    @property
    def __cuda_array_interface__(self):
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.address, False),
            "strides": self.strides,
            "version": 3,
        } | self.more


def from_interface(array):
    """An InterfaceArray of what another library made."""
    facts = array.__cuda_array_interface__
    assert facts["version"] == 3
    assert facts["stream"] is None
    assert facts["strides"] is None
    strides = np.empty(facts["shape"], facts["typestr"]).strides
    address, read_only = facts["data"]
    assert not read_only
    return InterfaceArray(array, address, facts["typestr"], facts["shape"], strides)


exported = {}  # what others hold


@Deleter
def forget(managed):
    del exported[ctypes.addressof(managed.contents)]


def empty(shape, dtype, like=DeviceArray):
    """A new C-contiguous array of a class of arrays."""
    shape, dtype = tuple(shape), np.dtype(dtype)
    strides = np.empty(shape, dtype).strides
    memory = allocate(int(np.prod(shape)) * dtype.itemsize)
    return like(memory, memory.data, dtype, shape, strides)


def from_dlpack(array):
    """An array of this library on memory of another's."""
    device_type, device = array.__dlpack_device__()
    assert device_type == CUDA
    capsule = array.__dlpack__(stream=DEFAULT_STREAM)
    address = python.PyCapsule_GetPointer(capsule, TENSOR_NAME)
    python.PyCapsule_SetName(capsule, USED_NAME)
    managed = DLManagedTensor.from_address(address)
    delete = Deleter(managed.deleter)
    tensor = managed.tensor
    assert (tensor.device_type, tensor.device) == (CUDA, device)
    dtype = dtype_of(tensor.code, tensor.bits // 8)
    shape = tensor.shape[: tensor.ndim]
    strides = np.empty(shape, dtype).strides
    memory = Memory(tensor.data, lambda: delete(ctypes.pointer(managed)))
    return DeviceArray(memory, tensor.data, dtype, shape, strides, device)


def bounds(shape, strides, item):
    """First and one-past-last byte of an array, from its first element."""
    if 0 in shape:
        return 0, 0
    steps = [(n - 1) * stride for n, stride in zip(shape, strides, strict=True)]
    return sum(min(step, 0) for step in steps), sum(max(step, 0) for step in steps) + item


def owner(array):
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def to_device(array, number=0, like=DeviceArray):
    """A copy on the device, in a copy of the whole memory that the NumPy array lies in."""
    whole = owner(array)
    first, last = bounds(whole.shape, whole.strides, whole.itemsize)
    begin = whole.ctypes.data + first
    memory = allocate(last - first)
    if last > first:
        emulator.copy(memory.data, begin, last - first)
    address = memory.data + array.ctypes.data - begin
    return like(memory, address, array.dtype, array.shape, array.strides, number)


def to_host(array):
    """A copy as a NumPy array."""
    first, last = bounds(array.shape, array.strides, array.dtype.itemsize)
    if last == first:
        return np.empty(array.shape, array.dtype)
    raw = np.empty(last - first, np.uint8)
    emulator.copy(raw.ctypes.data, array.address + first, last - first)
    return np.ndarray(array.shape, array.dtype, raw, -first, array.strides).copy()
