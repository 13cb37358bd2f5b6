"""Every op against its meaning (reference.py), against finite differences, against PyTorch."""

import functools
import inspect
import re

import numpy as np
import pytest
import reference
from cases import CASES, DTYPES, WIDE, Case, case, execute, full
from contract import OPS, SOURCE, UPDATED
from support import (
    ISAS,
    available_isas,
    copies,
    digest,
    forced_isa,
    one_or_tuple,
    run,
    unset_like,
)
from tolerances import UNIT, assert_close, bounds

import fastnn
from fastnn import ops

ALL = [(op, chosen) for op, cases in CASES.items() for chosen in cases]
MIDDLE = {op: full(op, 17, 37) for op in OPS}
RESULTS = {op: OPS[op].results(dict(MIDDLE[op].options)) for op in OPS}
ELEMENTWISE = [
    op.name
    for op in OPS.values()
    if {f.shape for f in op.of({"IN", "OUT"})} == {("n...",)} and not op.of(UPDATED)
]


def wide(arguments):
    """float32 and float64 arrays as long double, everything else as it is; all of them copies.

    dtype= is about the type of the result alone: the reference has none.
    """
    return {
        name: value.astype(WIDE if value.dtype.kind == "f" else value.dtype)
        if isinstance(value, np.ndarray)
        else value
        for name, value in arguments.items()
        if name != "dtype"
    }


@functools.lru_cache(maxsize=8)
def exact_results(chosen, dtype):
    """True results and the error that each may have."""
    arguments = wide(chosen.arguments(DTYPES[dtype]))
    before = copies(arguments)
    with np.errstate(all="ignore"):
        exact = execute(getattr(reference, chosen.op), chosen.op, arguments)
    return exact, bounds(chosen.op, DTYPES[dtype], before, exact)


# ---- the contract --------------------------------------------------------------------------


def test_contract_is_complete():
    text = SOURCE.read_text()
    activations = re.findall(r"^ACTIVATION\((\w+)", text, re.M)
    names = set(re.findall(r"^OP\((\w+)", text, re.M)) | set(activations)
    names |= {name + "_backward" for name in activations}
    assert len(names) > 40
    assert names == set(OPS) == set(CASES)
    assert names <= set(dir(reference))
    assert names <= set(dir(ops))
    assert all(CASES.values())


@pytest.mark.parametrize("op", OPS)
def test_reference_has_the_signature_of_the_contract(op):
    parameters = inspect.signature(getattr(reference, op)).parameters.values()
    keyword_only = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    assert [p.name for p in parameters] == [f.name for f in OPS[op].parameters]
    assert keyword_only == [f.name for f in OPS[op].parameters if f.keyword_only]
    for p in parameters:
        default = OPS[op][p.name].default
        if default not in ("", "REQUIRED") and isinstance(p.default, (bool, int, float)):
            assert p.default == float(default)


@pytest.mark.parametrize("op", OPS)
def test_op_tells_its_signature(op):
    parameters = list(inspect.signature(getattr(ops, op)).parameters.values())
    assert [p.name for p in parameters if p.name not in ("out", "dtype")] == [
        field.name for field in OPS[op].parameters
    ]
    for p in parameters:
        if p.name not in ("out", "dtype"):
            assert (p.kind is p.KEYWORD_ONLY) == OPS[op][p.name].keyword_only
    assert ("out" in {p.name for p in parameters}) == bool(RESULTS[op])


# ---- values --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("chosen", "dtype", "isa"),
    [
        pytest.param(chosen, dtype, isa, id=f"{op}-{isa}-{dtype}-{chosen}")
        for op, chosen in ALL
        for dtype in chosen.dtypes
        for isa in ISAS
    ],
    indirect=["isa"],
)
def test_matches_reference(chosen, dtype, isa):
    exact, allowed = exact_results(chosen, dtype)
    results = run(chosen.op, chosen.arguments(DTYPES[dtype]))
    assert set(results) == set(exact)
    for name, value in results.items():
        types = {"f": DTYPES[dtype], "b": bool, "i": np.int64, "u": np.uint8}
        assert value.dtype == types[np.asarray(exact[name]).dtype.kind]
        assert_close(value, exact[name], allowed[name], value.dtype)


@pytest.mark.parametrize(
    ("chosen", "dtype"),
    [
        pytest.param(chosen, dtype, id=f"{op}-{dtype}-{chosen}")
        for op, chosen in ALL
        for dtype in chosen.dtypes
    ],
)
def test_isa_levels_give_the_same_bits(chosen, dtype):
    isas = available_isas()
    if len(isas) < 2:
        pytest.skip("this CPU has one level only")
    digests = {}
    for isa in isas:
        with forced_isa(isa):
            digests[isa] = digest(run(chosen.op, chosen.arguments(DTYPES[dtype])))
    assert len(set(digests.values())) == 1, digests


@pytest.mark.parametrize("op", CASES)
def test_comparison_notices_a_small_error(op):
    """The bounds are tight: a relative error of 1e-3 in float32 is seen, whatever the result."""
    chosen = MIDDLE[op]
    exact, allowed = exact_results(chosen, "f32")
    seen = 0
    for name, value in exact.items():
        wrong = np.asarray(value).copy()
        if not wrong.size or not np.any(wrong != 0):
            continue
        at = np.unravel_index(np.argmax(np.abs(wrong)), wrong.shape)
        wrong[at] = (
            ~wrong[at]
            if wrong.dtype.kind in "bu"
            else wrong[at] * 1.001 + (wrong.dtype.kind == "i")
        )
        with pytest.raises(AssertionError):
            assert_close(wrong, value, allowed[name], wrong.dtype)
        seen += 1
    assert seen


# ---- results in arrays of the caller -------------------------------------------------------


RESULTS = {op: OPS[op].results(dict(MIDDLE[op].options)) for op in OPS}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("op", [op for op in OPS if RESULTS[op]])
def test_writes_into_out(op, dtype):
    arguments = MIDDLE[op].arguments(DTYPES[dtype])
    usual = run(op, copies(arguments))
    out = [unset_like(usual[name]) for name in RESULTS[op]]
    results = run(op, copies(arguments) | {"out": one_or_tuple(out)})
    assert digest(results) == digest(usual)
    for name, array in zip(RESULTS[op], out, strict=True):
        assert results[name] is array


@pytest.mark.parametrize("op", [op for op in OPS if len(RESULTS[op]) > 1])
def test_makes_what_out_leaves_open(op):
    arguments = MIDDLE[op].arguments(np.float32)
    usual = run(op, copies(arguments))
    for name in RESULTS[op]:
        given = unset_like(usual[name])
        out = tuple(given if other == name else None for other in RESULTS[op])
        results = run(op, copies(arguments) | {"out": out})
        assert digest(results) == digest(usual)
        assert results[name] is given


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("op", ELEMENTWISE)
def test_result_may_replace_an_input(op, dtype):
    arguments = MIDDLE[op].arguments(DTYPES[dtype])
    usual = run(op, copies(arguments))
    for field in OPS[op].of({"IN"}):
        if field.type == "T":
            fresh = copies(arguments)
            out = [fresh[field.name]] + [None] * (len(RESULTS[op]) - 1)
            assert digest(run(op, fresh | {"out": one_or_tuple(out)})) == digest(usual)


@pytest.mark.parametrize("op", ["softmax_cross_entropy", "sigmoid_cross_entropy"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_gradient_may_replace_logits(op, dtype):
    for chosen in CASES[op]:
        arguments = chosen.arguments(DTYPES[dtype])
        usual = run(op, copies(arguments))
        assert digest(run(op, arguments | {"out": (None, arguments["logits"])})) == digest(usual)


# ---- calling -------------------------------------------------------------------------------


@pytest.mark.parametrize("op", OPS)
def test_takes_every_argument_by_name(op):
    arguments = MIDDLE[op].arguments(np.float32)
    usual = run(op, copies(arguments))
    fresh = copies(arguments)
    returned = getattr(ops, op)(**fresh)
    named = {f.name: fresh[f.name] for f in OPS[op].of(UPDATED) if f.name in fresh}
    returned = returned if isinstance(returned, tuple) else (returned,)
    named |= dict(zip(OPS[op].results(arguments), returned, strict=False))
    assert digest(named) == digest(usual)


@pytest.mark.parametrize("op", OPS)
def test_defaults_are_those_of_the_contract(op):
    """Writing the defaults out changes nothing."""
    chosen = Case(op, MIDDLE[op].dims, ())
    arguments = chosen.arguments(np.float32)
    written_out = {}
    for field in OPS[op].parameters:
        if field.choices:
            index = int(field.default)
            written_out[field.name] = None if index < 0 else field.choices[index]
        elif field.kind == "FLAG":
            written_out[field.name] = bool(int(field.default))
        elif field.kind == "INT" and field.default != "REQUIRED":
            written_out[field.name] = int(field.default)
        elif field.default not in ("", "REQUIRED"):
            written_out[field.name] = float(field.default)
        elif field.kind in ("OPT", "OPTINOUT"):
            written_out[field.name] = None
    if "offset" in written_out:
        written_out["offset"] = int(written_out["offset"])
    plain, spelled = run(op, copies(arguments)), run(op, written_out | copies(arguments))
    named = {k: v for k, v in spelled.items() if v is not None}
    assert digest(plain) == digest(named)


def test_losses_are_numpy_scalars():
    for dtype in DTYPES.values():
        x = np.ones((3, 2), dtype)
        assert type(ops.mse(x, x)[0]) is dtype
        assert type(ops.softmax_cross_entropy(x, np.array([0, 1, 0]))[0]) is dtype
        assert type(ops.l2_norm(x)) is dtype


STEPS = [op for op in OPS if op.endswith("_step")]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("op", STEPS)
def test_step_takes_lists(op, dtype):
    for chosen in CASES[op]:
        options = dict(chosen.options)
        pieces = [
            case(op, n=n, **options).arguments(DTYPES[dtype]) for n in ((5,), (0,), (3, 4), ())
        ]
        alone = [run(op, copies(piece)) for piece in pieces]
        lists = {
            name: [piece[name].copy() for piece in pieces]
            if isinstance(value, np.ndarray)
            else value
            for name, value in pieces[0].items()
        }
        together = run(op, lists)
        for i, results in enumerate(alone):
            assert digest({name: arrays[i] for name, arrays in together.items()}) == digest(results)


@pytest.mark.parametrize("op", STEPS)
def test_step_takes_empty_lists_and_tuples(op):
    arguments = MIDDLE[op].arguments(np.float32)
    arrays = {name for name, value in arguments.items() if isinstance(value, np.ndarray)}
    usual = run(op, copies(arguments))
    for none in ([], ()):
        assert run(op, arguments | dict.fromkeys(arrays, none)) is not None
    one = {k: (v.copy(),) if k in arrays else v for k, v in arguments.items()}
    results = run(op, one)
    assert digest({name: value[0] for name, value in results.items()}) == digest(usual)


@pytest.mark.parametrize("op", STEPS)
@pytest.mark.parametrize("kind", [np.float64, np.float32])
def test_rate_and_step_may_be_arrays(op, kind):
    arguments = MIDDLE[op].arguments(np.float32)
    scalars = {f.name for f in OPS[op].of({"SCALAR"})}
    usual = run(op, copies(arguments) | {name: float(kind(arguments[name])) for name in scalars})
    given = {name: np.array(arguments[name], kind) for name in scalars}
    assert digest(run(op, copies(arguments) | given)) == digest(usual)


# ---- gradients against finite differences ---------------------------------------------------


def numeric_gradient(loss, x):
    """Central differences in float64: off by about h^2 and by 2^-53 / h."""
    h, gradient = 2.0**-17, np.zeros_like(x)
    for i in np.ndindex(x.shape):
        up, down = x.copy(), x.copy()
        up[i] += h
        down[i] -= h
        gradient[i] = (loss(up) - loss(down)) / (2 * h)
    return gradient


def assert_gradient(gradient, loss, x):
    numeric = numeric_gradient(loss, x)
    assert np.abs(numeric).max() > 1e-4
    np.testing.assert_allclose(gradient, numeric, rtol=1e-7, atol=1e-8)


def normal(*shape, seed=1):
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


OPTIONS = {"leaky_relu": {"negative_slope": 0.2}, "softplus": {"beta": 1.5}}
PAIRS = [op for op in ELEMENTWISE if op + "_backward" in OPS and op != "dropout"]


@pytest.mark.parametrize("op", PAIRS)
def test_gradient_of_activation(op):
    x, dy, options = 3 * normal(41), normal(41, seed=2), OPTIONS.get(op, {})
    dx = getattr(ops, op + "_backward")(dy, x, **options)
    assert_gradient(dx, lambda x: (dy * getattr(ops, op)(x, **options)).sum(), x)


@pytest.mark.parametrize("op", ["softmax", "log_softmax"])
def test_gradient_of_softmax(op):
    x, dy, forward = normal(3, 9), normal(3, 9, seed=2), getattr(ops, op)
    dx = getattr(ops, op + "_backward")(dy, forward(x))
    assert_gradient(dx, lambda x: (dy * forward(x)).sum(), x)


LOSSES = [
    *(
        (op, chosen)
        for op in ("softmax_cross_entropy", "sigmoid_cross_entropy", "mse", "mae")
        for chosen in CASES[op]
        if chosen.options and dict(chosen.dims)["n"] == 23
    )
]


@pytest.mark.parametrize("chosen", [pytest.param(c, id=f"{op}-{c}") for op, c in LOSSES])
def test_gradient_of_loss(chosen):
    arguments = chosen.arguments(np.float64)
    prediction = OPS[chosen.op].of({"IN"})[0].name
    x = arguments.pop(prediction)
    forward = functools.partial(getattr(ops, chosen.op), **arguments)
    _, gradient = forward(**{prediction: x})
    part = x[:2].copy()  # the loss of some rows depends on their own scores only

    def loss(part):
        return np.sum(forward(**{prediction: np.concatenate([part, x[2:]])})[0])

    np.testing.assert_allclose(gradient[:2], numeric_gradient(loss, part), rtol=1e-6, atol=2e-8)
    assert np.abs(gradient).max() > 1e-4


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("activation", [None, "relu"])
@pytest.mark.parametrize("shape", [(7, 3), (3, 2, 5)])
def test_gradient_of_batch_norm(shape, activation, training):
    c = shape[1]
    x, dy, gamma, beta = normal(*shape), normal(*shape, seed=2), normal(c), normal(c, seed=2)
    running = (normal(c, seed=3), 1 + normal(c, seed=4) ** 2)

    def forward(x, gamma, beta):
        return ops.batch_norm(
            x, gamma, beta, *map(np.copy, running), training=training, activation=activation
        )

    y, mean, rstd = forward(x, gamma, beta)
    dx, dgamma, dbeta = ops.batch_norm_backward(
        dy, x, gamma, mean, rstd, training=training, activation=activation, y=y
    )
    assert_gradient(dx, lambda x: (dy * forward(x, gamma, beta)[0]).sum(), x)
    assert_gradient(dgamma, lambda gamma: (dy * forward(x, gamma, beta)[0]).sum(), gamma)
    assert_gradient(dbeta, lambda beta: (dy * forward(x, gamma, beta)[0]).sum(), beta)


def test_gradient_of_layer_norm():
    x, dy, gamma, beta = normal(2, 3, 9), normal(2, 3, 9, seed=2), normal(9), normal(9, seed=2)
    _, mean, rstd = ops.layer_norm(x, gamma, beta)
    dx, dgamma, dbeta = ops.layer_norm_backward(dy, x, gamma, mean, rstd)
    assert_gradient(dx, lambda x: (dy * ops.layer_norm(x, gamma, beta)[0]).sum(), x)
    assert_gradient(dgamma, lambda gamma: (dy * ops.layer_norm(x, gamma, beta)[0]).sum(), gamma)
    assert_gradient(dbeta, lambda beta: (dy * ops.layer_norm(x, gamma, beta)[0]).sum(), beta)


def test_gradient_of_dropout():
    x, dy = normal(41), normal(41, seed=2)
    _, mask = ops.dropout(x, 0.4, seed=7)
    dx = ops.dropout_backward(dy, mask, 0.4)
    assert_gradient(dx, lambda x: (dy * ops.dropout(x, 0.4, seed=7)[0]).sum(), x)


def test_gradient_of_a_layer():
    """matmul, its two transposed products and column_sum make up the chain rule of a layer."""
    x, w, b, target = normal(5, 7), normal(7, 4), normal(4), normal(5, 4, seed=2)

    def forward(x, w, b):
        y, z = ops.matmul(x, w, bias=b, activation="tanh", return_preactivation=True)
        return *ops.mse(y, target), z

    _, dy, z = forward(x, w, b)
    dz = ops.tanh_backward(dy, z)
    assert_gradient(ops.matmul(dz, w, transpose_b=True), lambda x: forward(x, w, b)[0], x)
    assert_gradient(ops.matmul(x, dz, transpose_a=True), lambda w: forward(x, w, b)[0], w)
    assert_gradient(ops.column_sum(dz), lambda b: forward(x, w, b)[0], b)


# ---- a second opinion: PyTorch -------------------------------------------------------------


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


def agree(torch, ours, theirs, rtol=1e-12):
    np.testing.assert_allclose(ours, theirs.detach().cpu().numpy(), rtol=rtol, atol=rtol)


@pytest.mark.parametrize("op", PAIRS)
def test_torch_agrees_on_activation(torch, op):
    x, dy, options = 4 * normal(1000), normal(1000, seed=2), OPTIONS.get(op, {})
    name = {"hard_sigmoid": "hardsigmoid", "gelu_tanh": "gelu"}.get(op, op)
    theirs = {"approximate": "tanh"} if op == "gelu_tanh" else options
    tensor = torch.tensor(x, requires_grad=True)
    y = getattr(torch.nn.functional, name)(tensor, **theirs)
    y.backward(torch.tensor(dy))
    agree(torch, getattr(ops, op)(x, **options), y)
    of_single_sixth = 1e-7  # PyTorch's hard_sigmoid multiplies by a float32 1/6
    rtol = of_single_sixth if op == "hard_sigmoid" else 1e-12
    agree(torch, getattr(ops, op + "_backward")(dy, x, **options), tensor.grad, rtol)


@pytest.mark.parametrize("chosen", [pytest.param(c, id=f"{op}-{c}") for op, c in LOSSES])
def test_torch_agrees_on_loss(torch, chosen):
    arguments = chosen.arguments(np.float64)
    loss, gradient = getattr(ops, chosen.op)(**arguments)
    names = [field.name for field in OPS[chosen.op].parameters[:2]]
    tensors = {k: torch.tensor(v) if isinstance(v, np.ndarray) else v for k, v in arguments.items()}
    pred, target = (tensors.pop(name) for name in names)
    pred.requires_grad_()
    sample_weight = tensors.pop("sample_weight", None)
    reduction = tensors.pop("reduction")
    function = {
        "softmax_cross_entropy": torch.nn.functional.cross_entropy,
        "sigmoid_cross_entropy": torch.nn.functional.binary_cross_entropy_with_logits,
        "mse": torch.nn.functional.mse_loss,
        "mae": torch.nn.functional.l1_loss,
    }[chosen.op]
    if sample_weight is None:
        theirs = function(pred, target, **tensors, reduction=reduction)
    else:
        theirs, total = function(pred, target, **tensors, reduction="none"), sample_weight.sum()
        sample_weight = sample_weight.reshape((-1,) + (1,) * (theirs.ndim - 1))
        if chosen.op == "softmax_cross_entropy" and target.ndim == 1:
            share = tensors.get("weight", torch.ones(pred.shape[1]))[target]
            share = share * (target != tensors.get("ignore_index", -100))
            total = (share * sample_weight).sum()
        elif theirs.ndim > 1:
            total = total * theirs[0].numel()
        theirs = theirs * sample_weight
        theirs = {"none": theirs, "sum": theirs.sum(), "mean": theirs.sum() / total}[reduction]
    theirs.sum().backward()
    agree(torch, loss, theirs)
    agree(torch, gradient, pred.grad)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(31, 5), (6, 3, 4, 5)])
def test_torch_agrees_on_batch_norm(torch, shape, training):
    c = shape[1]
    x, dy = 2 + 3 * normal(*shape), normal(*shape, seed=2)
    gamma, beta, mean, var = normal(c), normal(c, seed=2), normal(c, seed=3), 1 + normal(c) ** 2
    t = [torch.tensor(value) for value in (x, gamma, beta, mean, var)]
    for tensor in t[:3]:
        tensor.requires_grad_()
    theirs = torch.nn.functional.batch_norm(
        t[0], t[3], t[4], t[1], t[2], training=training, momentum=0.3, eps=1e-3
    )
    theirs.backward(torch.tensor(dy))
    y, used_mean, rstd = ops.batch_norm(
        x, gamma, beta, mean, var, training=training, momentum=0.3, eps=1e-3
    )
    gradients = ops.batch_norm_backward(dy, x, gamma, used_mean, rstd, training=training)
    agree(torch, y, theirs)
    agree(torch, mean, t[3])
    agree(torch, var, t[4])
    for gradient, tensor in zip(gradients, t[:3], strict=True):
        agree(torch, gradient, tensor.grad)


def test_torch_agrees_on_layer_norm(torch):
    x, dy, gamma, beta = normal(4, 3, 17), normal(4, 3, 17, seed=2), normal(17), normal(17, seed=2)
    t = [torch.tensor(value, requires_grad=True) for value in (x, gamma, beta)]
    theirs = torch.nn.functional.layer_norm(t[0], (17,), t[1], t[2])
    theirs.backward(torch.tensor(dy))
    y, mean, rstd = ops.layer_norm(x, gamma, beta)
    agree(torch, y, theirs)
    for gradient, tensor in zip(ops.layer_norm_backward(dy, x, gamma, mean, rstd), t, strict=True):
        agree(torch, gradient, tensor.grad)


def zeros(op, options):
    """State of an optimizer before its first step."""
    needed = {"momentum": "velocity", "centered": "grad_avg", "amsgrad": "max_exp_avg_sq"}
    optional = {state for option, state in needed.items() if options.get(option)}
    return [f.name for f in OPS[op].of(UPDATED) if f.kind == "INOUT" or f.name in optional][1:]


@pytest.mark.parametrize(
    ("op", "peer", "options"),
    [
        ("sgd_step", "SGD", {}),
        ("sgd_step", "SGD", {"weight_decay": 0.1, "maximize": True}),
        ("sgd_step", "SGD", {"momentum": 0.9}),
        ("sgd_step", "SGD", {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
        ("sgd_step", "SGD", {"momentum": 0.9, "dampening": 0.4}),
        ("adagrad_step", "Adagrad", {}),
        ("adagrad_step", "Adagrad", {"weight_decay": 0.1, "eps": 0.01, "maximize": True}),
        ("rmsprop_step", "RMSprop", {}),
        ("rmsprop_step", "RMSprop", {"alpha": 0.8, "momentum": 0.9, "weight_decay": 0.1}),
        ("rmsprop_step", "RMSprop", {"centered": True, "maximize": True, "eps": 0.01}),
        ("rmsprop_step", "RMSprop", {"centered": True, "momentum": 0.5}),
        ("adam_step", "Adam", {}),
        ("adam_step", "Adam", {"beta1": 0.8, "beta2": 0.95, "weight_decay": 0.1}),
        ("adam_step", "Adam", {"amsgrad": True, "maximize": True}),
        ("adam_step", "AdamW", {"weight_decay": 0.1, "amsgrad": True}),
        ("radam_step", "RAdam", {}),
        ("radam_step", "RAdam", {"weight_decay": 0.1, "decoupled": True}),
        ("radam_step", "RAdam", {"weight_decay": 0.1, "maximize": True, "beta2": 0.9}),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value) or "plain",
)
def test_torch_agrees_on_ten_steps(torch, op, peer, options):
    renamed = dict(options)
    if "beta1" in options or "beta2" in options:
        renamed["betas"] = (renamed.pop("beta1", 0.9), renamed.pop("beta2", 0.999))
    if "decoupled" in options:
        renamed["decoupled_weight_decay"] = renamed.pop("decoupled")
    ours = options | ({"decoupled": True} if peer == "AdamW" else {})
    param = normal(37)
    tensor = torch.nn.Parameter(torch.tensor(param))
    optimizer = getattr(torch.optim, peer)([tensor], lr=0.05, **renamed)
    if "dampening" in options:  # PyTorch starts the velocity at the first gradient
        optimizer.state[tensor]["momentum_buffer"] = torch.zeros_like(tensor)
    state = {name: np.zeros_like(param) for name in zeros(op, options)}
    for i in range(10):
        grad = normal(37, seed=i + 10)
        tensor.grad = torch.tensor(grad)
        optimizer.step()
        step = {"step": i + 1} if op in ("adam_step", "radam_step") else {}
        getattr(ops, op)(param, grad, **state, lr=0.05, **step, **ours)
        agree(torch, param, tensor)


def test_torch_agrees_on_clipping(torch):
    for max_norm in (0.5, 100.0):
        grad = normal(5, 7)
        tensor = torch.nn.Parameter(torch.zeros(5, 7, dtype=torch.float64))
        tensor.grad = torch.tensor(grad)
        norm = torch.nn.utils.clip_grad_norm_([tensor], max_norm)
        agree(torch, ops.clip_grad_norm(grad, max_norm), norm)
        agree(torch, grad, tensor.grad)


# ---- promises about special values ---------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
class TestSpecialValues:
    def test_softmax_confines_nan_and_infinity_to_their_row(self, dtype):
        x = normal(7, 19).astype(dtype)
        rows = {1: np.nan, 3: np.inf, 5: -np.inf}
        for op in (ops.softmax, ops.log_softmax):
            usual, disturbed = op(x), x.copy()
            disturbed[1, 4], disturbed[3, 18], disturbed[5] = rows.values()
            y = op(disturbed)
            assert np.isnan(y[list(rows)]).all()
            healthy = [i for i in range(7) if i not in rows]
            np.testing.assert_array_equal(y[healthy], usual[healthy])

    def test_softmax_takes_some_minus_infinities(self, dtype):
        x = np.array([[0, -np.inf, 0, -np.inf]], dtype)
        np.testing.assert_array_equal(ops.softmax(x), np.array([[0.5, 0, 0.5, 0]], dtype))
        np.testing.assert_array_equal(np.isneginf(ops.log_softmax(x)), [[False, True, False, True]])

    def test_softmax_sums_to_one(self, dtype):
        for c in (2, 10, 129, 4099):
            total = ops.softmax(3 * normal(5, c).astype(dtype)).astype(WIDE).sum(axis=1)
            bound = 4 * UNIT[np.dtype(dtype)] * np.ceil(np.log2(c))
            assert np.abs(total - 1).max() <= bound

    def test_minus_infinity_off_target_leaves_the_loss_finite(self, dtype):
        logits = np.array([[1, -np.inf, 0.5], [-np.inf, 0, -np.inf]], dtype)
        loss, gradient = ops.softmax_cross_entropy(logits, np.array([0, 1]), reduction="none")
        assert np.isfinite(loss).all()
        assert np.isfinite(gradient).all()
        assert loss[1] == 0

    def test_ignored_rows_count_for_nothing(self, dtype):
        logits = normal(4, 5).astype(dtype)
        usual, gradient = ops.softmax_cross_entropy(logits[[0, 3]], np.array([2, 1]))
        logits[1], logits[2] = -np.inf, np.nan
        loss, partly = ops.softmax_cross_entropy(logits, np.array([2, -100, -100, 1]))
        assert loss == usual
        np.testing.assert_array_equal(partly[[0, 3]], gradient)
        np.testing.assert_array_equal(partly[[1, 2]], 0)

    def test_mean_over_no_row_is_zero(self, dtype):
        logits = np.full((3, 5), np.nan, dtype)
        loss, gradient = ops.softmax_cross_entropy(logits, np.full(3, -100))
        assert loss == 0
        np.testing.assert_array_equal(gradient, 0)
        zero = np.zeros(3, dtype)
        loss, gradient = ops.softmax_cross_entropy(
            normal(3, 5).astype(dtype), np.arange(3), sample_weight=zero
        )
        assert loss == 0
        np.testing.assert_array_equal(gradient, 0)

    def test_matmul_multiplies_zero_by_infinity(self, dtype):
        for special in (np.nan, np.inf):
            for m, n, k in ((1, 1, 1), (3, 40, 20), (40, 10, 300), (70, 70, 70)):
                a, b = np.zeros((m, k), dtype), normal(k, n).astype(dtype)
                b[k // 2, n // 2] = special
                y = ops.matmul(a, b)
                assert np.isnan(y[:, n // 2]).all()
                np.testing.assert_array_equal(np.delete(y, n // 2, axis=1), 0)

    def test_nan_stays_in_its_row_of_a_product(self, dtype):
        a, b = normal(37, 50).astype(dtype), normal(50, 33).astype(dtype)
        usual = ops.matmul(a, b)
        a[5, 7] = np.nan
        y = ops.matmul(a, b)
        assert np.isnan(y[5]).all()
        np.testing.assert_array_equal(np.delete(y, 5, axis=0), np.delete(usual, 5, axis=0))

    def test_nan_stays_in_its_channel(self, dtype):
        x = normal(29, 20).astype(dtype)
        usual = ops.batch_norm(x)
        x[3, 7] = np.nan
        for value, before in zip(ops.batch_norm(x), usual, strict=True):
            assert np.isnan(value[..., 7]).all()
            np.testing.assert_array_equal(
                np.delete(value, 7, axis=-1), np.delete(before, 7, axis=-1)
            )

    def test_constant_channel_becomes_beta(self, dtype):
        for shape in ((1000, 5), (3, 5, 7, 11), (131, 5)):
            x = np.full(shape, 0.1, dtype) * np.arange(1, 6, dtype=dtype).reshape(
                (-1,) + (1,) * (len(shape) - 2)
            )
            gamma, beta = normal(5).astype(dtype), normal(5, seed=2).astype(dtype)
            y, mean, rstd = ops.batch_norm(x, gamma, beta)
            expected = np.broadcast_to(beta.reshape((5,) + (1,) * (len(shape) - 2)), shape)
            np.testing.assert_array_equal(y, expected)
            gradients = ops.batch_norm_backward(np.ones_like(x), x, gamma, mean, rstd)
            assert all(np.isfinite(gradient).all() for gradient in gradients)

    @pytest.mark.parametrize("ratio", [1e3, 1e4, 1e5])
    @pytest.mark.parametrize("shape", [(1024, 8), (4, 8, 256), (65536, 2)])
    def test_variance_survives_a_large_mean(self, dtype, shape, ratio):
        x = (ratio + normal(*shape)).astype(dtype)
        axes = tuple(i for i in range(x.ndim) if i != 1)
        variance = x.astype(WIDE).var(axis=axes)
        _, _, rstd = ops.batch_norm(x, eps=1e-30)
        error = np.abs(1 / rstd.astype(WIDE) ** 2 / variance - 1).max()
        rounding_of_rstd = 2
        assert error <= (8 + rounding_of_rstd) * UNIT[np.dtype(dtype)]

    def test_layer_norm_variance_survives_a_large_mean(self, dtype):
        x = (1e4 + normal(50, 1021)).astype(dtype)
        _, _, rstd = ops.layer_norm(x, eps=1e-30)
        error = np.abs(1 / rstd.astype(WIDE) ** 2 / x.astype(WIDE).var(axis=1) - 1).max()
        assert error <= 10 * UNIT[np.dtype(dtype)]

    def test_denormals_are_kept(self, dtype):
        tiny = np.full(37, np.finfo(dtype).smallest_subnormal * 12)
        np.testing.assert_array_equal(ops.relu(tiny), tiny)
        np.testing.assert_array_equal(ops.matmul(tiny[:, None], np.ones((1, 3), dtype))[:, 1], tiny)
        np.testing.assert_array_equal(ops.leaky_relu(-tiny, 0.5), -tiny / 2)
        np.testing.assert_array_equal(ops.tanh(tiny), tiny)
        assert np.float32(1e-45) / np.float32(1) > 0  # the process's own mode is as before
        assert ops.column_sum(tiny[:, None])[0] == np.finfo(dtype).smallest_subnormal * 12 * 37

    def test_dropout_keeps_the_right_share(self, dtype):
        y, mask = ops.dropout(np.ones(100_000, dtype), 0.25, seed=3)
        assert abs(mask.mean() - 0.75) < 0.006  # four standard deviations
        np.testing.assert_array_equal(y != 0, mask)
        _, other = ops.dropout(np.ones(100_000, dtype), 0.25, seed=3, offset=1)
        assert 0.3 < (mask ^ other).mean() < 0.45  # 2 * 0.25 * 0.75 when independent

    def test_negative_targets_are_never_correct(self, dtype):
        logits = np.array([[1, 0], [0, 1], [2, 2]], dtype)
        assert ops.count_correct(logits, np.array([0, 1, 0])) == 3
        assert ops.count_correct(logits, np.array([-1, 1, -100])) == 1

    def test_nan_is_the_largest_score(self, dtype):
        logits = np.array([[1, np.nan, 2], [np.nan, 9, np.nan], [1, 2, np.inf]], dtype)
        assert ops.count_correct(logits, np.array([1, 0, 2])) == 3
        assert ops.count_correct(logits, np.array([2, 2, 0])) == 0

    def test_first_nonfinite_finds_the_first(self, dtype):
        for n in (1, 17, 1000, 70_000):
            for at in {0, n // 2, n - 1}:
                x = np.zeros(n, dtype)
                x[at:] = np.inf
                x[-1] = np.nan
                assert ops.first_nonfinite(x) == at

    def test_norm_is_summed_in_double(self, dtype):
        assert ops.l2_norm(np.full(100_000, 1e15, dtype)) == pytest.approx(1e15 * np.sqrt(1e5))
        if dtype is np.float32:
            assert ops.l2_norm(np.full(4, 1e30, dtype)) == np.float32(2e30)


# ---- nothing to do -------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(0, 5), (0, 5, 7), (3, 5, 0), (3, 0), (0, 0)])
def test_batch_norm_of_nothing(shape):
    c = shape[1]
    running = [np.full(c, 3.0), np.full(c, 2.0)]
    y, mean, rstd = ops.batch_norm(np.ones(shape), None, None, *running)
    assert y.shape == shape
    assert mean.shape == rstd.shape == (c,)
    np.testing.assert_array_equal(running, np.broadcast_to([[3.0], [2.0]], (2, c)))
    dx, dgamma, dbeta = ops.batch_norm_backward(
        np.ones(shape), np.ones(shape), None, np.zeros(c), np.ones(c)
    )
    assert dx.shape == shape
    np.testing.assert_array_equal([dgamma, dbeta], np.zeros((2, c)))


def test_layer_norm_of_nothing():
    y, mean, rstd = ops.layer_norm(np.ones((3, 0)))
    assert y.shape == (3, 0)
    assert mean.shape == rstd.shape == (3,)
    dx, dgamma, dbeta = ops.layer_norm_backward(np.ones((3, 0)), np.ones((3, 0)), None, mean, rstd)
    assert dx.shape == (3, 0)
    assert dgamma.shape == dbeta.shape == (0,)


@pytest.mark.parametrize("op", ["softmax", "log_softmax"])
@pytest.mark.parametrize("shape", [(3, 0), (0, 0), (0,), (2, 0, 5)])
def test_softmax_of_nothing(op, shape):
    assert getattr(ops, op)(np.ones(shape)).shape == shape
    assert getattr(ops, op + "_backward")(np.ones(shape), np.ones(shape)).shape == shape


def test_product_over_no_term_is_the_bias():
    y = ops.matmul(np.ones((3, 0)), np.ones((0, 4)), bias=np.arange(4.0), activation="relu")
    np.testing.assert_array_equal(y, np.broadcast_to(np.arange(4.0), (3, 4)))


def test_show_config_says_what_runs():
    cpu = fastnn.show_config("dicts")["cpu"]
    assert cpu["isa"] in cpu["isa_available"]
    assert "scalar" in cpu["isa_available"]


@pytest.mark.parametrize("isa", available_isas())
@pytest.mark.parametrize(
    ("x", "rounded"),
    [
        (1 + 2.0**-8, 1.0),  # a tie: to even
        (1 + 3 * 2.0**-8, 1 + 2.0**-6),
        (1 + 2.0**-8 + 2.0**-20, 1 + 2.0**-7),
        (3.4e38, np.inf),
        (-np.inf, -np.inf),
        (2.0**-126, 2.0**-126),
        (2.0**-127, 0.0),  # bfloat16 instructions know no denormals
        (np.uint32(0x7F800001).view(np.float32), np.nan),  # its upper half alone is infinity
    ],
)
def test_bf16_rounds_both_factors(isa, x, rounded):
    one, x = np.ones((1, 1), np.float32), np.full((1, 1), x, np.float32)
    with forced_isa(isa):
        for a, b in [(x, one), (one, x)]:
            np.testing.assert_array_equal(
                ops.matmul(a, b, precision="bf16"), np.full((1, 1), rounded, np.float32)
            )
