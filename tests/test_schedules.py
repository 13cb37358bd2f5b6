import json
import math

import numpy as np
import pytest

import fastnn as fnn
from fastnn.schedules import (
    Constant,
    Cosine,
    Exponential,
    InverseSquareRoot,
    Schedule,
    Step,
    Warmup,
)

EXAMPLES = {
    "constant": (Constant(), lambda t: 1.0),
    "step": (Step(3, gamma=0.5), lambda t: 0.5 ** (t // 3)),
    "step-default": (Step(4), lambda t: 0.1 ** (t // 4)),
    "exponential": (Exponential(0.9), lambda t: 0.9**t),
    "cosine": (Cosine(8), lambda t: math.cos(math.pi / 2 * min(t, 8) / 8) ** 2),
    "cosine-final": (Cosine(8, 0.2), lambda t: 0.2 + 0.8 * math.cos(math.pi * min(t, 8) / 16) ** 2),
    "cosine-one": (Cosine(1), lambda t: float(t == 0)),
    "inverse-root": (InverseSquareRoot(5), lambda t: math.sqrt(5 / (5 + t))),
    "warmup": (Warmup(4), lambda t: min(t / 4, 1.0)),
    "warmup-start": (Warmup(4, start=0.5), lambda t: 0.5 + min(t, 4) / 8),
    "warmup-cosine": (
        Warmup(2, Cosine(6)),
        lambda t: t / 2 if t < 2 else math.cos(math.pi / 2 * min(t - 2, 6) / 6) ** 2,
    ),
    "warmup-nested": (
        Warmup(2, Warmup(2, Step(3, 0.5), start=0.5)),
        lambda t: [0.0, 0.25, 0.5, 0.75][t] if t < 4 else 0.5 ** ((t - 4) // 3),
    ),
}


@pytest.mark.parametrize(("schedule", "formula"), EXAMPLES.values(), ids=EXAMPLES)
def test_is_its_formula(schedule, formula):
    expected = [formula(t) for t in range(20)]
    np.testing.assert_allclose([schedule(t) for t in range(20)], expected, rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize(("schedule", "formula"), EXAMPLES.values(), ids=EXAMPLES)
def test_values_are_those_of_single_calls_wherever_they_start(schedule, formula):
    for start, n in ((0, 20), (7, 5), (3, 1), (2, 0), (10**6, 3)):
        values = schedule.values(start, n)
        assert values.dtype == np.float64
        assert values.shape == (n,)
        assert values.tolist() == [schedule(t) for t in range(start, start + n)]
    assert type(schedule(3)) is float


@pytest.mark.parametrize(("schedule", "formula"), EXAMPLES.values(), ids=EXAMPLES)
def test_survives_json(schedule, formula):
    config = json.loads(json.dumps(fnn.to_config(schedule)))
    assert fnn.from_config(config) == schedule


def torch_rates(make, n=20):
    """Rates that a scheduler of PyTorch gives to the first n updates of a rate of 1."""
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    scheduler = make(torch.optim.lr_scheduler, optimizer)
    rates = []
    for _ in range(n):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize(
    ("schedule", "make"),
    [
        (Step(3, 0.5), lambda s, o: s.StepLR(o, 3, 0.5)),
        (Exponential(0.9), lambda s, o: s.ExponentialLR(o, 0.9)),
        (Cosine(20, 0.1), lambda s, o: s.CosineAnnealingLR(o, 20, 0.1)),
        (Warmup(5, start=0.25), lambda s, o: s.LinearLR(o, 0.25, total_iters=5)),
        (
            Warmup(5, Cosine(15), start=0.25),
            lambda s, o: s.SequentialLR(
                o, [s.LinearLR(o, 0.25, total_iters=5), s.CosineAnnealingLR(o, 15)], [5]
            ),
        ),
    ],
    ids=["step", "exponential", "cosine", "warmup", "warmup-cosine"],
)
def test_matches_torch(schedule, make):
    expected = torch_rates(make)
    assert len(set(expected)) > 3
    np.testing.assert_allclose(schedule.values(0, 20), expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Step(0), "Step: every must be an integer >= 1, got 0"),
        (lambda: Step(2.0), "Step: every must be an integer >= 1, got 2.0"),
        (lambda: Step(True), "Step: every must be an integer >= 1, got True"),
        (lambda: Step(2, gamma=0.0), "Step: gamma must be finite and > 0, got 0.0"),
        (lambda: Exponential(-0.5), "Exponential: gamma must be finite and > 0"),
        (lambda: Exponential(math.nan), "Exponential: gamma must be finite and > 0, got nan"),
        (lambda: Exponential(math.inf), "Exponential: gamma must be finite and > 0, got inf"),
        (lambda: Cosine(0), "Cosine: steps must be an integer >= 1, got 0"),
        (lambda: Cosine(-5), "Cosine: steps must be an integer >= 1, got -5"),
        (lambda: Cosine(5, final=-0.1), "Cosine: final must be finite and >= 0, got -0.1"),
        (lambda: InverseSquareRoot(0), "InverseSquareRoot: timescale must be an integer >= 1"),
        (lambda: Warmup(0), "Warmup: steps must be an integer >= 1, got 0"),
        (lambda: Warmup(5, start=math.nan), "Warmup: start must be finite and >= 0, got nan"),
    ],
)
def test_refuses(make, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        make()


def test_warmup_needs_a_schedule():
    with pytest.raises(TypeError, match="then must be a schedule, got float"):
        Warmup(5, 0.5)


def test_is_frozen():
    with pytest.raises(AttributeError):
        Step(3).every = 4


def test_warmup_leads_into_a_schedule_of_ones_own():
    class Half(Schedule):
        def __call__(self, t):
            return 0.5

    assert Warmup(2, Half()).values(0, 4).tolist() == [0.0, 0.25, 0.5, 0.5]
    with pytest.raises(NotImplementedError, match="must define __call__"):
        Schedule()(0)
