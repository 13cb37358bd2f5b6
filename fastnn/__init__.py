"""fastnn: hand-written training kernels for neural networks, small, exact and fast."""

from importlib.metadata import PackageNotFoundError, version

from fastnn import errors as errors  # the native module raises these
from fastnn import ops
from fastnn._core import get_num_threads, set_num_threads
from fastnn.config import from_config, to_config
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

try:
    __version__ = version("fastnn")
except PackageNotFoundError:  # running from a source tree that was never installed
    __version__ = "unknown"
