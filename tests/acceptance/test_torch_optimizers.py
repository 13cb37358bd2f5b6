"""The inputs of PyTorch's own tests of optimizers, next to PyTorch's optimizers.

Parameters within 1e-6, states within 1e-5: a variance of gradients loses digits in either.
"""

import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch")
pytest.importorskip("expecttest", reason="PyTorch's tests need expecttest")

import fastnn.torch as ft  # noqa: E402

NAMES = ["Adagrad", "Adam", "AdamW", "RMSprop", "SGD"]


def info(name):
    from torch.testing._internal.common_optimizers import optim_db

    return next(info for info in optim_db if info.optim_cls is getattr(torch.optim, name))


def train(optimizer_class, options, dtype):
    """Parameters after a few steps on a quadratic, one without a gradient now and then."""
    generator = torch.Generator().manual_seed(0)
    params = [
        torch.nn.Parameter(torch.randn(shape, generator=generator, dtype=dtype))
        for shape in ((10, 5), (10,), (), (0, 3))
    ]
    x = torch.randn(5, generator=generator, dtype=dtype)
    optimizer = optimizer_class(params, **options)
    for i in range(7):
        optimizer.zero_grad()
        (params[0].mv(x) + params[1] * params[2]).square().sum().backward()
        if i % 3 == 2:
            params[1].grad = None
        optimizer.step()
    return params, optimizer.state_dict()["state"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_inputs_of_the_optimizer_database(name, dtype, record_property):
    passed = 0
    for given in info(name).optim_inputs_func("cpu", dtype):
        options = {"lr": 1e-2} | given.kwargs
        results = [train(getattr(m, name), options, dtype) for m in (ft.optim, torch.optim)]
        for actual, expected, close in zip(*results, (1e-6, 1e-5), strict=True):
            torch.testing.assert_close(
                actual, expected, rtol=close, atol=close, msg=lambda m, given=given: f"{m}\n{given}"
            )
        passed += 1
    record_property("passed", passed)
    assert passed > 3


@pytest.mark.parametrize("name", NAMES)
def test_error_inputs_of_the_optimizer_database(name, record_property):
    from torch.testing._internal.common_optimizers import OptimizerErrorEnum

    checked = 0
    for error in info(name).optim_error_inputs_func("cpu", torch.float32):
        given = error.optimizer_error_input
        params = given.params if given.params is not None else [torch.nn.Parameter(torch.ones(2))]
        assert error.error_on == OptimizerErrorEnum.CONSTRUCTION_ERROR
        expect = pytest.warns if issubclass(error.error_type, Warning) else pytest.raises
        with expect(error.error_type, match=error.error_regex):
            getattr(ft.optim, name)(params, **given.kwargs)
        checked += 1
    record_property("passed", checked)
    assert checked > 3
