"""fastnn.sklearn: scikit-learn's perceptrons step for step, and what they don't have."""

import pickle
import warnings

import numpy as np
import pytest
from readme import example

pytest.importorskip("sklearn", "1.7", reason="scikit-learn 1.7 is not installed")

from scipy.optimize import check_grad
from scipy.sparse import csr_array
from sklearn import neural_network as theirs
from sklearn.base import clone
from sklearn.datasets import load_digits, make_multilabel_classification, make_regression
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler

from fastnn import BatchNorm, DeviceError, Linear, ReLU, Sequential, show_config
from fastnn import sklearn as ours
from fastnn._mlp import Design, Network
from fastnn.optimizers import SGD

pytestmark = pytest.mark.filterwarnings(
    "error", "ignore::sklearn.exceptions.ConvergenceWarning", "default::ResourceWarning"
)
TOLERANCE = {np.float32: 1e-5, np.float64: 1e-12}

X, Y = load_digits(return_X_y=True)
X, Y = X[:450] / 16, Y[:450]
WEIGHTS = np.random.default_rng(0).uniform(0, 2, len(X))


def assert_same(a, b, tolerance):
    """Both estimators are at the same point of the same path."""
    assert (a.n_iter_, a.t_, a.out_activation_) == (b.n_iter_, b.t_, b.out_activation_)
    for one, other in zip(a.coefs_ + a.intercepts_, b.coefs_ + b.intercepts_, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance)
    np.testing.assert_allclose(a.loss_, b.loss_, rtol=tolerance)
    for curve in ("loss_curve_", "validation_scores_"):
        if getattr(b, curve, None) is not None:
            np.testing.assert_allclose(getattr(a, curve), getattr(b, curve), rtol=tolerance)


def both(name, **options):
    options = {"hidden_layer_sizes": (20, 10), "max_iter": 4, "random_state": 0} | options
    return getattr(ours, name)(**options), getattr(theirs, name)(**options)


# ---- step for step ------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"alpha": 0, "activation": "logistic", "shuffle": False},
        {"alpha": 2.0, "activation": "tanh", "batch_size": 37, "epsilon": 0.1},
        {"activation": "identity", "hidden_layer_sizes": (), "beta_1": 0.5, "beta_2": 0.9},
        {"solver": "sgd", "learning_rate_init": 0.1, "alpha": 1.0},
        {"solver": "sgd", "learning_rate_init": 0.1, "nesterovs_momentum": False},
        {"solver": "sgd", "learning_rate_init": 0.1, "momentum": 0},
        {"solver": "sgd", "learning_rate": "invscaling", "learning_rate_init": 1, "power_t": 0.2},
        {
            **{"solver": "sgd", "learning_rate": "adaptive", "learning_rate_init": 0.05},
            **{"tol": 1, "n_iter_no_change": 1, "max_iter": 12},
        },
        {"solver": "lbfgs", "alpha": 0.1},
        {"early_stopping": True, "tol": 0.05, "n_iter_no_change": 2, "max_iter": 30},
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_classifier_follows_scikit_learn(options, dtype):
    a, b = both("MLPClassifier", **options)
    a.fit(X.astype(dtype), Y)
    b.fit(X.astype(dtype), Y)
    many = 10 if a.n_iter_ > 5 else 1  # rounding grows
    assert_same(a, b, many * TOLERANCE[dtype])
    assert all(array.dtype == dtype for array in a.coefs_ + a.intercepts_)
    np.testing.assert_allclose(
        a.predict_proba(X), b.predict_proba(X), atol=many * 10 * TOLERANCE[dtype]
    )
    assert (a.predict(X) == b.predict(X)).all()


@pytest.mark.parametrize(
    ("solver", "outputs"),  # several outputs and lbfgs: below
    [("adam", 1), ("adam", 3), ("sgd", 1), ("sgd", 3), ("lbfgs", 1)],
)
def test_regressor_follows_scikit_learn(solver, outputs):
    x, y = make_regression(200, 8, n_targets=outputs, random_state=0)
    a, b = both("MLPRegressor", solver=solver, learning_rate_init=1e-4)
    assert_same(a.fit(x, y), b.fit(x, y), 1e-11)
    np.testing.assert_allclose(a.predict(x), b.predict(x), rtol=1e-10)


@pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs"])
@pytest.mark.parametrize("early_stopping", [False, True])
def test_sample_weights_follow_scikit_learn(solver, early_stopping):
    a, b = both("MLPClassifier", solver=solver, alpha=0.5, early_stopping=early_stopping)
    assert_same(
        a.fit(X, Y, sample_weight=WEIGHTS),
        b.fit(X, Y, sample_weight=WEIGHTS),
        TOLERANCE[np.float64],
    )


def test_a_batch_of_weight_zero_changes_nothing():
    options = {"batch_size": 200, "shuffle": False, "random_state": 0}
    part = ours.MLPClassifier(**options).partial_fit(X[:200], Y[:200], classes=np.arange(10))
    weight = np.repeat([1.0, 0.0], [200, len(X) - 200])
    whole = ours.MLPClassifier(**options).partial_fit(X, Y, weight, classes=np.arange(10))
    assert (part.coefs_[0] == whole.coefs_[0]).all()


def test_multilabel_and_binary_follow_scikit_learn():
    x, y = make_multilabel_classification(200, random_state=0)
    for targets in (y, y[:, 0], np.where(y[:, 0], "yes", "no")):
        a, b = both("MLPClassifier", batch_size=64)
        assert_same(a.fit(x, targets), b.fit(x, targets), TOLERANCE[np.float64])
        assert (a.predict(x) == b.predict(x)).all()


@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_partial_fit_follows_scikit_learn_with_and_without_weights_and_pickled(solver):
    a, b = both("MLPClassifier", solver=solver, learning_rate="invscaling", learning_rate_init=0.05)
    for part in range(6):
        rows = slice(part * 60, part * 60 + 60)
        weight = WEIGHTS[rows] if part % 2 else None
        for estimator in (a, b):
            estimator.partial_fit(X[rows], Y[rows], sample_weight=weight, classes=np.arange(10))
        assert_same(a, b, TOLERANCE[np.float64])
        a = pickle.loads(pickle.dumps(a))


def test_warm_start_follows_scikit_learn():
    a, b = both("MLPClassifier", warm_start=True, solver="sgd")
    for estimator in (a, b):
        estimator.fit(X, Y).set_params(learning_rate_init=0.01).fit(X, Y)
    assert_same(a, b, TOLERANCE[np.float64])


def test_weights_set_by_hand_are_trained_on():
    a, b = both("MLPClassifier", warm_start=True)
    for estimator in (a.fit(X, Y), b.fit(X, Y)):
        estimator.coefs_[0] = np.full_like(estimator.coefs_[0], 0.01)
        estimator.partial_fit(X, Y)
    assert_same(a, b, TOLERANCE[np.float64])


def test_sparse_samples_are_as_dense_ones():
    dense = ours.MLPClassifier(max_iter=2, random_state=0).fit(X, Y)
    sparse = clone(dense).fit(csr_array(X), Y)
    assert_same(sparse, dense, 0)
    assert (sparse.predict_proba(csr_array(X)) == dense.predict_proba(X)).all()


def test_ctrl_c_keeps_what_was_learnt(monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    estimator = ours.MLPClassifier(max_iter=3, random_state=0, early_stopping=True)
    monkeypatch.setattr(ours._Perceptron, "_reason", interrupted)
    estimator.set_params(tol=10.0, n_iter_no_change=1)
    with pytest.warns(UserWarning, match="interrupted"):
        estimator.fit(X, Y)
    assert estimator.predict(X).shape == Y.shape


# ---- in scikit-learn ----------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_grid_search_on_two_workers_is_as_on_one(backend):
    import joblib

    pipeline = make_pipeline(MinMaxScaler(), ours.MLPClassifier(max_iter=20, random_state=0))
    grid = {"mlpclassifier__alpha": [1e-4, 1.0], "mlpclassifier__batch_norm": [False, True]}
    scores = []
    for jobs in (1, 2):
        with joblib.parallel_config(backend), warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            search = GridSearchCV(pipeline, grid, cv=2, n_jobs=jobs, error_score="raise").fit(X, Y)
        scores.append(search.cv_results_["mean_test_score"])
    assert (scores[0] == scores[1]).all()
    assert scores[0].max() > 0.5


def test_readme_example_runs(capsys):
    exec(example("scikit-learn"), {})
    assert float(capsys.readouterr().out) > 0.9


# ---- beyond scikit-learn ------------------------------------------------------------------------


@pytest.mark.parametrize("output", ["softmax", "logistic", "identity"])
@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_gradient_is_that_of_the_value(output, batch_norm, weighted):
    rng = np.random.default_rng(1)
    design = Design(
        [6, 5, 4, 3], "tanh", output, SGD(1.0), 0.3, 1, np.dtype("float64"), batch_norm, "cpu"
    )
    network = Network(design)
    x = rng.standard_normal((11, 6))
    y = rng.integers(0, 3, 11) if output == "softmax" else rng.uniform(0, 1, (11, 3))
    weight = rng.uniform(0, 2, 11) if weighted else None
    theta = rng.standard_normal(network.parameters.size)
    error = check_grad(
        lambda t: network.loss_and_grad(t, x, y, weight)[0],
        lambda t: network.loss_and_grad(t, x, y, weight)[1],
        theta,
    )
    assert error < 1e-5


@pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs"])
def test_batch_norm_learns(solver):
    estimator = ours.MLPClassifier(
        (16, 8),
        batch_norm=True,
        solver=solver,
        learning_rate_init=0.05,
        max_iter=30,
        random_state=0,
    )
    estimator.fit(X[:401], Y[:401])  # 401: the last batch would be of one sample
    assert estimator.score(X, Y) > 0.9
    assert [len(norm["running_mean"]) for norm in estimator.batch_norms_] == [16, 8]
    again = pickle.loads(pickle.dumps(estimator))
    assert (again.predict_proba(X) == estimator.predict_proba(X)).all()


def test_batch_norm_predicts_as_the_layers_do():
    estimator = ours.MLPRegressor(
        hidden_layer_sizes=(16, 8), batch_norm=True, max_iter=5, early_stopping=True
    ).fit(X, Y)
    layers = []
    for coef, intercept in zip(estimator.coefs_, estimator.intercepts_, strict=True):
        layers += [Linear(*coef.shape)]
        layers[-1].weight, layers[-1].bias = coef, intercept
        for state in estimator.batch_norms_[len(layers) // 3 :][:1]:
            layers += [BatchNorm(len(intercept)), ReLU()]
            layers[-2].load_state_dict(state)
    y, _ = Sequential(*layers).forward(X)
    np.testing.assert_allclose(estimator.predict(X), y.ravel(), rtol=1e-12)


def test_lbfgs_leaves_the_statistics_of_all_samples():
    estimator = ours.MLPClassifier(
        (7,), batch_norm=True, solver="lbfgs", max_iter=20, random_state=0
    ).fit(X, Y)
    hidden = X @ estimator.coefs_[0] + estimator.intercepts_[0]
    norm = estimator.batch_norms_[0]
    np.testing.assert_allclose(norm["running_mean"], hidden.mean(0), rtol=1e-10)
    np.testing.assert_allclose(norm["running_var"], hidden.var(0, ddof=1), rtol=1e-10)


def test_lbfgs_learns_several_outputs():
    x, y = make_regression(200, 8, n_targets=3, random_state=0)
    y /= y.std()
    estimator = ours.MLPRegressor(solver="lbfgs", max_iter=300, random_state=0).fit(x, y)
    assert estimator.score(x, y) > 0.99
    pred = estimator.predict(x)
    penalty = estimator.alpha / 2 * sum((w**2).sum() for w in estimator.coefs_) / len(x)
    np.testing.assert_allclose(estimator.loss_, ((pred - y) ** 2).sum() / 400 + penalty, rtol=1e-10)


def test_refusals():
    with pytest.raises(ValueError, match="'loss' parameter"):
        ours.MLPRegressor(loss="poisson").fit(X, Y)
    with pytest.raises(ValueError, match="device must be"):
        ours.MLPClassifier(device="tpu").fit(X, Y)
    with pytest.raises(ValueError, match="at least 2 samples"):
        ours.MLPRegressor(batch_norm=True).fit(X[:1], Y[:1])
    with pytest.raises(ValueError, match="alpha=0"):
        ours.MLPClassifier(device="cuda").fit(X, Y, WEIGHTS)
    with pytest.raises(ValueError, match="momentum=0"):
        ours.MLPClassifier(device="cuda", solver="sgd", learning_rate="adaptive").fit(X, Y)
    if not show_config("dicts")["cuda"]["available"]:
        with pytest.raises(DeviceError):
            ours.MLPClassifier(device="cuda").fit(X, Y)
