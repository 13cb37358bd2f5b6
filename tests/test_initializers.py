import functools
import math

import numpy as np
import pytest
from numpy.testing import assert_allclose

from fastnn import initializers

FAN_IN, FAN_OUT = 300, 200

# name, arguments, variance, largest magnitude (None: unbounded)
DISTRIBUTIONS = [
    ("uniform", {"a": -1.0, "b": 1.0}, 1 / 3, 1.0),
    ("normal", {"std": 0.5}, 0.25, None),
    ("trunc_normal", {}, 0.7737413, 2.0),
    ("trunc_normal", {"std": 0.5, "a": -0.5, "b": 0.5}, 0.25 * 0.2911251, 0.5),
    ("kaiming_uniform", {}, 2 / FAN_IN, math.sqrt(6 / FAN_IN)),
    ("kaiming_uniform", {"a": math.sqrt(5)}, 1 / (3 * FAN_IN), 1 / math.sqrt(FAN_IN)),
    ("kaiming_uniform", {"mode": "fan_out"}, 2 / FAN_OUT, math.sqrt(6 / FAN_OUT)),
    ("kaiming_normal", {}, 2 / FAN_IN, None),
    ("kaiming_normal", {"a": 2.0, "mode": "fan_out"}, 2 / 5 / FAN_OUT, None),
    ("xavier_uniform", {}, 2 / 500, math.sqrt(6 / 500)),
    ("xavier_uniform", {"gain": 3.0}, 9 * 2 / 500, 3 * math.sqrt(6 / 500)),
    ("xavier_normal", {}, 2 / 500, None),
    ("xavier_normal", {"gain": 3.0}, 9 * 2 / 500, None),
    ("he_uniform", {}, 2 / FAN_IN, math.sqrt(6 / FAN_IN)),
    ("he_normal", {}, 2 / FAN_IN, 2 * math.sqrt(2 / FAN_IN) / 0.8796256),
    ("glorot_uniform", {}, 2 / 500, math.sqrt(6 / 500)),
    ("glorot_normal", {}, 2 / 500, 2 * math.sqrt(2 / 500) / 0.8796256),
    ("lecun_uniform", {}, 1 / FAN_IN, math.sqrt(3 / FAN_IN)),
    ("lecun_normal", {}, 1 / FAN_IN, 2 * math.sqrt(1 / FAN_IN) / 0.8796256),
]


def draw(name, dtype=np.float64, seed=0, shape=(FAN_IN, FAN_OUT), **arguments):
    return initializers.get(name)(np.random.default_rng(seed), shape, dtype, **arguments)


@pytest.mark.parametrize(("name", "arguments", "variance", "largest"), DISTRIBUTIONS)
def test_has_the_moments_of_its_formula(name, arguments, variance, largest):
    values = draw(name, **arguments)
    assert values.shape == (FAN_IN, FAN_OUT)
    std = math.sqrt(variance)
    assert abs(values.mean()) < 4 * std / math.sqrt(values.size)
    # The kurtosis of all these is at most 3: the variance's own deviation at most sqrt(2 / n).
    assert_allclose(values.var(), variance, rtol=4 * math.sqrt(2 / values.size))
    if largest is None:
        assert np.abs(values).max() > 3 * std
    else:
        assert 0.99 * largest < np.abs(values).max() <= largest * (1 + 1e-7)


@pytest.mark.parametrize(("name", "arguments", "variance", "largest"), DISTRIBUTIONS)
def test_float32_values_are_the_rounded_float64_ones(name, arguments, variance, largest):
    single, double = draw(name, np.float32, **arguments), draw(name, np.float64, **arguments)
    assert single.dtype == np.float32
    assert double.dtype == np.float64
    np.testing.assert_array_equal(single, double.astype(np.float32))


@pytest.mark.parametrize("name", [n for n in initializers.__all__ if n not in ("get", "constant")])
def test_depends_on_the_generator_alone(name):
    first, again, other = draw(name), draw(name), draw(name, seed=1)
    np.testing.assert_array_equal(first, again)
    assert (name in ("zeros", "ones")) == np.array_equal(first, other)
    assert first.flags.c_contiguous


@pytest.mark.parametrize("shape", [(40, 40), (40, 25), (25, 40), (1, 7), (7, 1), (0, 3)])
def test_orthogonal_columns_or_rows(shape):
    q = draw("orthogonal", shape=shape, gain=2.0)
    assert q.shape == shape
    product = q.T @ q if shape[0] >= shape[1] else q @ q.T
    assert_allclose(product, 4 * np.eye(len(product)), atol=1e-13)


def test_orthogonal_has_no_preferred_sign():
    corners = [draw("orthogonal", shape=(3, 3), seed=seed)[0, 0] for seed in range(200)]
    assert abs(np.mean(corners)) < 4 * math.sqrt(1 / 3 / 200)
    assert abs(np.mean(np.square(corners)) - 1 / 3) < 0.1


def test_constants():
    assert draw("zeros", np.float32).tolist() == np.zeros((FAN_IN, FAN_OUT)).tolist()
    assert draw("ones", shape=(3,)).tolist() == [1.0, 1.0, 1.0]
    assert draw("constant", np.float32, shape=(2,), val=0.5).tolist() == [0.5, 0.5]
    mean = draw("normal", mean=3.0, std=0.1).mean()
    assert_allclose(mean, 3.0, atol=0.002)
    assert draw("uniform").min() >= 0


def test_trunc_normal_far_from_its_mean():
    values = draw("trunc_normal", mean=1.0, std=1.0, a=3.0, b=9.0)
    assert 3.0 <= values.min() < 3.01
    assert 4.5 < values.max() <= 9.0


@pytest.mark.parametrize("name", ["kaiming_normal", "he_uniform", "lecun_normal", "xavier_uniform"])
@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0), (1, 1)])
def test_takes_empty_and_tiny_shapes(name, shape):
    assert draw(name, shape=shape).shape == shape


def test_matches_torch_bounds():
    torch = pytest.importorskip("torch")
    weight = torch.empty(FAN_OUT, FAN_IN, dtype=torch.float64)  # PyTorch's is the transpose
    for name in ("kaiming_uniform", "xavier_uniform", "kaiming_normal", "xavier_normal"):
        getattr(torch.nn.init, name + "_")(weight)
        assert_allclose(draw(name).std(), weight.std().item(), rtol=0.02)


def test_get():
    assert initializers.get("he_normal") is initializers.he_normal
    own = functools.partial(initializers.constant, val=0.1)
    assert initializers.get(own) is own


@pytest.mark.parametrize("name", ["get", "He_normal", "", "Array", "math", "__all__"])
def test_get_refuses_unknown_names(name):
    with pytest.raises(ValueError, match="initializer must be callable or one of constant"):
        initializers.get(name)


@pytest.mark.parametrize(
    "name",
    [
        *("kaiming_uniform", "kaiming_normal", "xavier_uniform", "xavier_normal"),
        *("he_uniform", "he_normal", "glorot_uniform", "glorot_normal"),
        *("lecun_uniform", "lecun_normal", "orthogonal"),
    ],
)
@pytest.mark.parametrize("shape", [(), (3,), (3, 4, 5)])
def test_refuses_shapes_without_fans(name, shape):
    with pytest.raises(ValueError, match=rf"^{name}: shape must be \(fan_in, fan_out\), got"):
        draw(name, shape=shape)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("uniform", {"a": 2.0, "b": 1.0}, "a must be <= b"),
        ("uniform", {"a": math.nan}, "a must be <= b"),
        ("normal", {"std": -1.0}, "std must be >= 0"),
        ("trunc_normal", {"std": 0.0}, "std must be > 0"),
        ("trunc_normal", {"a": 7.0, "b": 9.0}, "must reach into the distribution"),
        ("trunc_normal", {"a": 1.0, "b": -1.0}, "must reach into the distribution"),
        ("kaiming_uniform", {"mode": "fan"}, "mode must be 'fan_in' or 'fan_out', got 'fan'"),
    ],
)
def test_refuses_wrong_arguments(name, arguments, message):
    with pytest.raises(ValueError, match=f"^{name}: .*{message}"):
        draw(name, **arguments)
