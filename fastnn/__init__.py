"""fastnn: hand-written training kernels for neural networks, small, exact and fast."""

from importlib.metadata import PackageNotFoundError, version
from pkgutil import extend_path

# Run from the root of a checkout, Python finds this folder before the installed package, which
# has the extension module: look there, too.
__path__ = extend_path(__path__, __name__)

from fastnn import _core, errors, ops
from fastnn._core import get_num_threads, set_num_threads, synchronize
from fastnn.config import from_config, to_config
from fastnn.distributed import MPI
from fastnn.errors import (
    CheckpointError,
    DeviceError,
    DTypeError,
    FormatError,
    LabelError,
    OutOfMemoryError,
    ShapeError,
)
from fastnn.info import show_config
from fastnn.layers import (
    GELU,
    BatchNorm,
    Dropout,
    Flatten,
    HardSigmoid,
    Layer,
    LayerNorm,
    LeakyReLU,
    Linear,
    LogSoftmax,
    ReLU,
    Rescaling,
    Sequential,
    Sigmoid,
    SiLU,
    Softmax,
    Softplus,
    Tanh,
)
from fastnn.losses import MAE, MSE, BinaryCrossEntropy, CrossEntropy
from fastnn.optimizers import SGD, Adagrad, Adam, AdamW, RAdam, RMSProp
from fastnn.trainer import EarlyStopping, History, Trainer

__all__ = [
    "GELU",
    "MAE",
    "MPI",
    "MSE",
    "SGD",
    "Adagrad",
    "Adam",
    "AdamW",
    "BatchNorm",
    "BinaryCrossEntropy",
    "CheckpointError",
    "CrossEntropy",
    "DTypeError",
    "DeviceError",
    "Dropout",
    "EarlyStopping",
    "Flatten",
    "FormatError",
    "HardSigmoid",
    "History",
    "LabelError",
    "Layer",
    "LayerNorm",
    "LeakyReLU",
    "Linear",
    "LogSoftmax",
    "OutOfMemoryError",
    "RAdam",
    "RMSProp",
    "ReLU",
    "Rescaling",
    "Sequential",
    "ShapeError",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Softplus",
    "Tanh",
    "Trainer",
    "__version__",
    "errors",
    "from_config",
    "get_num_threads",
    "ops",
    "set_num_threads",
    "show_config",
    "synchronize",
    "to_config",
]

_core.read_environment()  # not while the module loads: that would make any error an ImportError

try:
    __version__ = version("fastnn")
except PackageNotFoundError:  # running from a source tree that was never installed
    __version__ = "unknown"
