"""scikit-learn's conformance checks, and its own tests of its perceptrons, on fastnn's."""

import pytest

pytest.importorskip("sklearn", reason="scikit-learn is not installed")

from sklearn import neural_network
from sklearn.utils.estimator_checks import parametrize_with_checks

from fastnn.sklearn import MLPClassifier, MLPRegressor

NORMALISED = "samples of weight 0 count in the statistics of batch norm"
DESELECTED = {
    "test_gradient": "calls a private function of scikit-learn's own L-BFGS; see test_sklearn.py",
    "test_mlp_vs_poisson_glm_equivalent": "there is no loss='poisson'",
}


def expected_failed_checks(estimator):
    checks = [f"check_sample_weight_equivalence_on_{kind}_data" for kind in ("dense", "sparse")]
    return dict.fromkeys(checks, NORMALISED) if estimator.batch_norm else {}


@parametrize_with_checks(
    [
        MLPClassifier(),
        MLPRegressor(),
        MLPClassifier(batch_norm=True),
        MLPRegressor(batch_norm=True),
    ],
    expected_failed_checks=expected_failed_checks,
)
def test_conforms(estimator, check):
    check(estimator)


def their_tests():
    """Those of scikit-learn's module, imported while its names mean our estimators."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neural_network, "MLPClassifier", MLPClassifier)
        patch.setattr(neural_network, "MLPRegressor", MLPRegressor)
        from sklearn.neural_network.tests import test_mlp
    assert test_mlp.MLPClassifier is MLPClassifier
    tests = {name: test for name, test in vars(test_mlp).items() if name.startswith("test_")}
    assert tests.keys() >= DESELECTED.keys()
    return {name: test for name, test in tests.items() if name not in DESELECTED}


globals().update(their_tests())
