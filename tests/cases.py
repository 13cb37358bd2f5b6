"""Inputs for every op, drawn from the contract.

CASES lists, op by op, the lengths and options worth trying; the arrays follow from the stanza's
shapes. A case always draws the same numbers, so that any test can ask for it again.
"""

import zlib
from typing import NamedTuple

import numpy as np
import reference
from contract import OPS, UPDATED

DTYPES = {"f32": np.float32, "f64": np.float64}
WIDE = np.longdouble  # in which references compute

# 0, 1, primes, and one around every number of lanes of a vector (16 float32, 8 float64)
LENGTHS = (0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 127, 129, 1021)
CHUNK = 1 << 15  # reductions are cut here
GIVEN = "given"  # an optional array that the case passes
PROBABILITIES = "probabilities"
REQUIRED = {"lr": 0.1, "step": 3, "seed": 0x1234_5678_9ABC_DEF0, "p": 0.3, "max_norm": 1.5}
REQUIRED["rounds"] = 7

WHOLE = (0.0, -0.0, 1.0, -1.0, 2.5, -2.5, 3.0, -3.0)


class Case(NamedTuple):
    op: str
    dims: tuple  # (name, length or tuple of lengths)
    options: tuple  # (name, value), value GIVEN for an optional array

    def __str__(self):
        lengths = [f"{name}{'x'.join(map(str, np.atleast_1d(n)))}" for name, n in self.dims]
        return "-".join(lengths + [f"{name}={value}" for name, value in self.options])

    @property
    def dtypes(self):
        """Names of the types it exists for."""
        return ("f32",) if ("precision", "bf16") in self.options else tuple(DTYPES)

    def rng(self):
        return np.random.default_rng(zlib.crc32(f"{self.op} {self}".encode()))

    def arguments(self, dtype):
        """The op's arguments by name, arrays of the given dtype."""
        rng, dims, options = self.rng(), dict(self.dims), dict(self.options)
        arguments = {}
        for field in OPS[self.op].parameters:
            option = options.get(field.name)
            if field.kind in ("IN", "MAT", "INOUT", "TARGETS") or option is GIVEN:
                shape = self.shape(field, dims, options)
                arguments[field.name] = draw(self.op, field, shape, dims, option, rng, dtype)
            elif field.name in options:
                arguments[field.name] = option
            elif field.default == "REQUIRED":
                arguments[field.name] = REQUIRED[field.name]
        with np.errstate(all="ignore"):
            DERIVED.get(self.op, lambda arguments: None)(arguments)
        if OPS[self.op].takes_dtype:
            arguments["dtype"] = np.dtype(dtype).name
        return arguments

    def shape(self, field, dims, options):
        shape = field.shape
        if options.get(f"transpose_{field.name}"):
            shape = shape[::-1]
        if field.kind == "TARGETS" and options.get("targets") is PROBABILITIES:
            shape = ("n", "c")
        lengths = [np.atleast_1d(dims[dim.removesuffix("...")]) for dim in shape]
        return tuple(int(n) for part in lengths for n in part)


def execute(function, op, arguments):
    """All that a call wrote, by name: its results, and what it updated in place.

    Arguments are passed as users do: by position up to the stanza's KW, then by keyword.
    """
    parameters, results = OPS[op].parameters, OPS[op].results(arguments)
    positional = [f.name for f in parameters if not f.keyword_only]
    while positional and positional[-1] not in arguments:
        positional.pop()
    keywords = {name: value for name, value in arguments.items() if name not in positional}
    returned = function(*[arguments.get(name) for name in positional], **keywords)
    written = {f.name: arguments[f.name] for f in OPS[op].of(UPDATED) if f.name in arguments}
    if not results:
        assert returned is None
        return written
    returned = returned if isinstance(returned, tuple) else (returned,)
    return written | dict(zip(results, returned, strict=True))


def case(op, **given):
    """Lengths are told from options by their names."""
    names = {field.name for field in OPS[op].of({"DIM"})} - {
        field.name for field in OPS[op].parameters
    }
    dims = tuple((name, value) for name, value in given.items() if name in names)
    options = tuple((name, value) for name, value in given.items() if name not in names)
    return Case(op, dims, options)


# ---- values --------------------------------------------------------------------------------

POSITIVE = {
    *("weight", "sample_weight", "pos_weight", "rstd", "running_var"),
    *("sum_sq", "square_avg", "exp_avg_sq", "max_exp_avg_sq"),
}


def draw(op, field, shape, dims, option, rng, dtype):
    """Random values of the kind that the op expects of this argument."""
    if field.type == "u8":
        return rng.integers(0, 256, shape, np.uint8)
    if field.type == "bool":
        return np.asarray(rng.random(shape) < 0.5)
    if field.name == "index":
        return rng.integers(0, max(dims["rows"], 1), shape)
    if field.kind == "TARGETS" and option is not PROBABILITIES:
        return rng.integers(0, max(dims["c"], 1), shape)
    if field.name == "x" and option is not None:
        return np.resize(VALUES[option], shape).astype(dtype)
    return np.asarray(drawn_values(op, field, shape, option, rng)).astype(dtype)


def drawn_values(op, field, shape, option, rng):
    if option is PROBABILITIES or (op, field.name) == ("softmax_backward", "y"):
        return reference.softmax(rng.standard_normal(shape))
    if (op, field.name) == ("log_softmax_backward", "y"):
        return reference.log_softmax(rng.standard_normal(shape))
    if field.name in POSITIVE:
        return rng.uniform(0.1, 2, shape)
    if field.name == "targets":
        return rng.random(shape)
    if field.name == "grad_avg":  # its square stays below square_avg
        return rng.uniform(-0.2, 0.2, shape)
    return rng.standard_normal(shape) * (3 if field.name in ("x", "logits") else 1)


def statistics_of_x(arguments, axes):
    """mean and rstd as the forward pass returns them."""
    x = arguments["x"].astype(WIDE)
    rstd = 1 / np.sqrt(x.var(axis=axes) + 1e-5)
    arguments["mean"] = np.asarray(x.mean(axis=axes), arguments["x"].dtype)
    arguments["rstd"] = np.asarray(rstd, arguments["x"].dtype)


def batch_norm_forward(arguments):
    statistics_of_x(arguments, reference.per_channel(arguments["x"])[0])
    if "y" in arguments:
        y = reference.batch_norm(arguments["x"], arguments.get("gamma"), activation="relu")[0]
        arguments["y"] = y.astype(arguments["x"].dtype)


# Arguments that the forward pass returned, for the backward pass.
DERIVED = {
    "batch_norm_backward": batch_norm_forward,
    "layer_norm_backward": lambda arguments: statistics_of_x(arguments, -1),
}

SWEEP = np.concatenate(
    [-np.logspace(3, -42, 700), np.linspace(-12, 12, 701), np.logspace(-42, 3, 700)]
)
FINITE = [*WHOLE, 1e-45, -1e-45, 1e-40, -1e-40, 88.8, -88.8, 104, -104, 3e38, -3e38, 6, -6]
SPECIAL = [*FINITE, np.inf, -np.inf, np.nan]
VALUES = {"sweep": SWEEP, "finite": FINITE, "special": SPECIAL}

# ---- cases ---------------------------------------------------------------------------------


def elementwise(op, *options):
    """All lengths and some shapes, then every set of options at a length with a remainder."""
    plain = [case(op, n=(n,)) for n in LENGTHS] + [case(op, n=()), case(op, n=(3, 5, 7))]
    return plain + [case(op, n=(37,), **chosen) for chosen in options]


def activation(name, *options):
    return {
        name: [
            *elementwise(name, *options),
            case(name, n=SWEEP.shape, x="sweep"),
            case(name, n=(37,), x="special"),
        ],
        name + "_backward": [
            *elementwise(name + "_backward", *options),
            case(name + "_backward", n=SWEEP.shape, x="sweep"),
            case(name + "_backward", n=(37,), x="finite"),
        ],
    }


def rowwise(op, *options):
    shapes = [(n, c) for n in (0, 1, 3, 17) for c in (1, 2, 8, 9, 10, 16, 17, 33, 129)]
    plain = [case(op, n=n, c=c) for n, c in [*shapes, (5, 1021), (2, 4099), (67, 10)]]
    plain += [case(op, n=(2, 3), c=5), case(op, n=(), c=7)]
    return plain + [case(op, n=5, c=37, **chosen) for chosen in options]


def with_reductions(op, small, *options):
    """Each set of options with each reduction."""
    return [
        case(op, **small, **chosen, reduction=reduction)
        for chosen in ({}, *options)
        for reduction in ("mean", "sum", "none")
    ]


def matmuls():
    sizes = [
        *((m, n, k) for m in (0, 1, 2) for n in (0, 1, 10) for k in (0, 1, 5)),
        *((1, 512, 33), (1, 17, 784), (5, 16, 31), (7, 33, 9), (8, 32, 256), (9, 31, 257)),
        *((13, 47, 129), (64, 10, 50), (6, 16, 512), (33, 65, 700), (127, 129, 65), (200, 100, 3)),
        *((3, 1, 1500), (300, 1, 17), (1, 1, 1021), (61, 7, 300)),
    ]
    plain = [case("matmul", m=m, n=n, k=k) for m, n, k in sizes]
    plain += [case("matmul", m=(2, 3), n=17, k=9), case("matmul", m=(2, 0, 3), n=5, k=6)]
    for m, n, k in (
        (7, 33, 9),
        (33, 65, 300),
        (1, 40, 70),
        (70, 10, 30),
        (79, 33, 5),
        (9, 7, 1100),
    ):
        for a, b in ((True, False), (False, True), (True, True)):
            plain.append(case("matmul", m=m, n=n, k=k, transpose_a=a, transpose_b=b))
    for name in OPS["matmul"]["activation"].choices:
        plain.append(case("matmul", m=9, n=35, k=20, bias=GIVEN, activation=name))
    options = [
        {"bias": GIVEN},
        {"activation": "gelu", "return_preactivation": True},
        {"bias": GIVEN, "activation": "relu", "return_preactivation": True},
        {"precision": "tf32"},
    ]
    shapes = (
        (0, 3, 2),
        (4, 5, 0),
        (1, 50, 300),
        (45, 10, 300),
        (21, 70, 300),
        (77, 5, 3),
        (5, 3, 1030),
    )
    for m, n, k in shapes:
        plain += [case("matmul", m=m, n=n, k=k, **chosen) for chosen in options]
    plain += [case("matmul", m=m, n=n, k=k, precision="bf16") for m, n, k in sizes[-12:]]
    return plain


NORMALISED = [
    *({"n": n, "c": c, "s": ()} for n in (2, 3, 17, 129) for c in (1, 2, 7, 8, 16, 17, 33, 65)),
    *(
        {"n": n, "c": c, "s": s}
        for n in (1, 2, 5)
        for c in (1, 3, 17)
        for s in ((7,), (16,), (4, 5))
    ),
    {"n": 1000, "c": 5, "s": ()},
    {"n": 3, "c": 2, "s": (1021,)},
]
AFFINE = {"gamma": GIVEN, "beta": GIVEN}
RUNNING = {"running_mean": GIVEN, "running_var": GIVEN}
BOTH = ({"n": 19, "c": 18, "s": ()}, {"n": 3, "c": 5, "s": (11,)})

POSITIVE_WEIGHTS = [
    {"p": 19, "pos_weight": GIVEN},
    {"p": 1, "pos_weight": GIVEN, "sample_weight": GIVEN},
]

CASES = {
    "matmul": matmuls(),
    "column_sum": [
        *(case("column_sum", n=n, c=c) for n in (0, 1, 2, 9, 300) for c in (1, 8, 10, 17, 33, 65)),
        *(case("column_sum", n=n, c=c) for n, c in ((5, 0), (3, 1021), (2500, 3), (9000, 16))),
    ],
    **activation("relu"),
    **activation("leaky_relu", {"negative_slope": 0.3}, {"negative_slope": -1.5}),
    **activation("sigmoid"),
    "sigmoid_backward_from_output": elementwise("sigmoid_backward_from_output"),
    **activation("hard_sigmoid"),
    **activation("tanh"),
    "tanh_backward_from_output": elementwise("tanh_backward_from_output"),
    **activation("gelu"),
    **activation("gelu_tanh"),
    **activation("silu"),
    **activation("softplus", {"beta": 2.5}, {"beta": 0.7, "threshold": 1.5}),
    "softmax": rowwise("softmax"),
    "softmax_backward": rowwise("softmax_backward"),
    "log_softmax": rowwise("log_softmax"),
    "log_softmax_backward": rowwise("log_softmax_backward"),
    "softmax_cross_entropy": [
        *rowwise("softmax_cross_entropy")[:-2],
        *with_reductions(
            "softmax_cross_entropy",
            {"n": 23, "c": 19},
            {"weight": GIVEN},
            {"sample_weight": GIVEN},
            {"label_smoothing": 0.1},
            {"ignore_index": 3},
            {"weight": GIVEN, "sample_weight": GIVEN, "label_smoothing": 0.2, "ignore_index": 2},
            {"targets": PROBABILITIES},
            {"targets": PROBABILITIES, "weight": GIVEN, "sample_weight": GIVEN},
            {"targets": PROBABILITIES, "label_smoothing": 0.3, "weight": GIVEN},
        ),
        case("softmax_cross_entropy", n=9, c=1000, label_smoothing=1.0),
        case("softmax_cross_entropy", n=9, c=1000, targets=PROBABILITIES),
    ],
    **{
        op: [
            *(
                case(op, n=n, f=(f,))
                for n in (0, 1, 3, 17)
                for f in (0, 1, 2, 7, 8, 9, 17, 33, 129)
            ),
            *(case(op, n=n, f=f) for n, f in ((9, ()), (4, (3, 5)), (CHUNK + 3, (2,)), (1021, ()))),
            *with_reductions(op, {"n": 23, "f": (19,)}, {"sample_weight": GIVEN}, *more),
            *with_reductions(op, {"n": 23, "f": ()}, {"sample_weight": GIVEN}),
        ]
        for op, more in {"sigmoid_cross_entropy": POSITIVE_WEIGHTS, "mse": [], "mae": []}.items()
    },
    "batch_norm": [
        *(case("batch_norm", **dims) for dims in NORMALISED),
        *(
            case("batch_norm", **dims, **chosen)
            for dims in BOTH
            for chosen in (
                AFFINE,
                {"gamma": GIVEN},
                {"beta": GIVEN},
                {**AFFINE, **RUNNING},
                {**RUNNING, "momentum": 0.9, "eps": 0.1},
                {**RUNNING, "unbiased_running_var": False},
                {**RUNNING, "training": False},
                {**AFFINE, **RUNNING, "training": False, "activation": "relu"},
                {**AFFINE, "activation": "relu"},
                {"running_mean": GIVEN},
            )
        ),
        *(case("batch_norm", n=1, c=9, s=(), **RUNNING, training=False),),
    ],
    "batch_norm_backward": [
        *(case("batch_norm_backward", **dims) for dims in NORMALISED),
        *(
            case("batch_norm_backward", **dims, **chosen)
            for dims in BOTH
            for chosen in (
                {"gamma": GIVEN},
                {"gamma": GIVEN, "training": False},
                {"gamma": GIVEN, "activation": "relu", "y": GIVEN},
                {"activation": "relu", "y": GIVEN, "training": False},
            )
        ),
    ],
    "layer_norm": rowwise("layer_norm", AFFINE, {"gamma": GIVEN}, {"beta": GIVEN}, {"eps": 0.5}),
    "layer_norm_backward": rowwise("layer_norm_backward", {"gamma": GIVEN}),
    "dropout": elementwise("dropout", {"p": 0.0}, {"p": 0.999}, {"seed": 0}, {"offset": 2**40 + 5}),
    "dropout_backward": elementwise("dropout_backward", {"p": 0.0}, {"p": 0.75}),
    "sgd_step": elementwise(
        "sgd_step",
        {"weight_decay": 0.3, "maximize": True},
        {"velocity": GIVEN, "momentum": 0.9},
        {"velocity": GIVEN, "momentum": 0.9, "dampening": 0.5, "maximize": True},
        {"velocity": GIVEN, "momentum": 0.9, "nesterov": True, "weight_decay": 0.3},
    ),
    "adagrad_step": elementwise(
        "adagrad_step", {"weight_decay": 0.3}, {"eps": 0.1, "maximize": True}
    ),
    "rmsprop_step": elementwise(
        "rmsprop_step",
        {"alpha": 0.5, "eps": 0.1},
        {"eps": 0.1, "eps_in_sqrt": True},
        {"momentum": 0.9, "velocity": GIVEN},
        {"centered": True, "grad_avg": GIVEN, "weight_decay": 0.3},
        {"momentum": 0.5, "velocity": GIVEN, "centered": True, "grad_avg": GIVEN, "maximize": True},
        {"centered": True, "grad_avg": GIVEN, "eps_in_sqrt": True},
    ),
    "adam_step": elementwise(
        "adam_step",
        {"step": 1},
        {"step": 100000, "beta2": 0.9999},
        {"eps": 0.1, "eps_mode": "hat"},
        {"weight_decay": 0.3},
        {"weight_decay": 0.3, "decoupled": True, "maximize": True},
        {"amsgrad": True, "max_exp_avg_sq": GIVEN},
        {"amsgrad": True, "max_exp_avg_sq": GIVEN, "eps_mode": "hat", "weight_decay": 0.3},
        {"beta1": 0.0, "beta2": 0.5},
    ),
    "radam_step": elementwise(
        "radam_step",
        {"step": 1},
        {"step": 5},
        {"step": 6},
        {"step": 1000, "weight_decay": 0.3},
        {"step": 100, "weight_decay": 0.3, "decoupled": True, "maximize": True},
    ),
    "rescale": elementwise("rescale", {"scale": 1 / 255}, {"scale": -0.3, "offset": 0.7}),
    "take_rows": [
        case("take_rows", rows=rows, n=n, f=f)
        for rows, n in ((1, 1), (5, 0), (0, 0), (7, 3), (50, 129))
        for f in (0, 1, 7, 16, 33, 784)
    ],
    "count_correct": [
        *(case("count_correct", n=n, c=c) for n in (0, 1, 2, 33) for c in (1, 2, 9, 10, 17, 129)),
        case("count_correct", n=40000, c=3),
        case("count_correct", n=129, c=10, targets=PROBABILITIES),
    ],
    "count_correct_binary": [
        *elementwise("count_correct_binary"),
        case("count_correct_binary", n=(2 * CHUNK + 5,)),
    ],
    "l2_norm": [*elementwise("l2_norm"), case("l2_norm", n=(2 * CHUNK + 5,))],
    "clip_grad_norm": [
        *elementwise("clip_grad_norm", {"max_norm": 1e-3}, {"max_norm": 1e6}),
        case("clip_grad_norm", n=(2 * CHUNK + 5,)),
    ],
    "first_nonfinite": [
        *elementwise("first_nonfinite", {"x": "special"}),
        case("first_nonfinite", n=(2 * CHUNK + 5,)),
    ],
    "probe_fma": [
        case("probe_fma", n=n, rounds=rounds) for n in (0, 1, 17, 129) for rounds in (0, 7)
    ],
    "probe_read": [case("probe_read", n=n, c=c) for n in (0, 1, 5) for c in (0, 1, 9, 17, 129)],
}

# What makes an op use all of its optional arrays and return all of its results.
SWITCHES = {
    "matmul": {"activation": "tanh", "return_preactivation": True},
    "batch_norm_backward": {"activation": "relu"},
    "sgd_step": {"momentum": 0.9},
    "rmsprop_step": {"momentum": 0.9, "centered": True},
    "adam_step": {"amsgrad": True},
}


def full(op, rows, columns):
    """A case with every array that the op can take or return, of rows x columns or less."""
    dims = [field.name for field in OPS[op].of({"DIM"})]
    lengths = {"rows": rows + 1, "m": rows, "n": rows, "c": columns, "f": columns, "p": columns}
    lengths |= {"s": (), "k": columns + 2}
    if op == "matmul":
        lengths["n"] = columns
    if dims == ["n"] and op != "probe_fma":
        lengths["n"] = (rows, columns)
    optional = {field.name: GIVEN for field in OPS[op].of({"OPT", "OPTINOUT"})}
    return case(op, **{dim: lengths[dim] for dim in dims}, **optional, **SWITCHES.get(op, {}))
