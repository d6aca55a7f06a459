"""Handlers of toy problems against those of hypnettorch: samples, densities and what is drawn."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import hnetfast.data.special.donuts as hnetfast_donuts
import hnetfast.data.special.gaussian_mixture_data as hnetfast_gaussian
import hnetfast.data.special.gmm_data as hnetfast_gmm
import hnetfast.data.special.regression1d_bimodal_data as hnetfast_bimodal
import hnetfast.data.special.regression1d_data as hnetfast_regression
from tests.compat.data_comparison import (
    IGNORE_ORACLE_WARNINGS,
    assert_same,
    assert_same_handler,
    both,
    oracle,
)

pytestmark = IGNORE_ORACLE_WARNINGS

DONUTS = hnetfast_donuts, oracle("special.donuts")
GAUSSIAN = hnetfast_gaussian, oracle("special.gaussian_mixture_data")
GMM = hnetfast_gmm, oracle("special.gmm_data")
REGRESSION = hnetfast_regression, oracle("special.regression1d_data")
BIMODAL = hnetfast_bimodal, oracle("special.regression1d_bimodal_data")

NUMBERS = st.floats(-5, 5, width=32)
SEEDS = st.one_of(st.none(), st.integers(0, 9))
SIZES = st.integers(0, 5)
COVARIANCES = [np.array([[1, 0.3], [0.3, 0.5]]), np.array([[2, 0], [0, 1]]), 0.1**2 * np.eye(2)]
MAPS = [np.sin, lambda x: x**2 + 1, lambda x: np.floor(x).astype(int), lambda x: x.astype(np.float32)]


def pair(modules, name, **arguments):
    """The same object of both libraries, made from the same state of all generators."""
    return both(*(lambda m=module: getattr(m, name)(**arguments) for module in modules))


def assert_same_toy(ours, theirs):
    assert set(ours._data) == set(theirs._data)
    assert_same_handler(ours, theirs, batch_sizes=(3,), modes=("inference",))


# Samples


@given(
    st.lists(st.tuples(NUMBERS, NUMBERS, st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=4),
    st.integers(1, 5),
    st.integers(1, 5),
    st.booleans(),
    SEEDS,
)
def test_donuts(shapes, num_train, num_test, use_one_hot, rseed):
    ours, theirs = pair(
        DONUTS,
        "Donuts",
        centers=[shape[:2] for shape in shapes],
        radii=[(inner, inner + width) for _, _, inner, width in shapes],
        num_train=num_train,
        num_test=num_test,
        use_one_hot=use_one_hot,
        rseed=rseed,
    )
    theirs._data["is_one_hot"] = use_one_hot  # both are set to something else
    theirs._data["out_shape"] = [len(shapes) if use_one_hot else 1]
    assert_same_toy(ours, theirs)


def test_annulus():
    for arguments in ({}, {"num": 5}):
        points = both(*(lambda m=m: m.Donuts.sample_annulus(0.5, 1, 2, 3, **arguments) for m in DONUTS))
        assert_same(*points)
    points = [m.Donuts.sample_annulus(0, 1, 2, 3, num=4, rand=np.random.RandomState(1)) for m in DONUTS]
    assert_same(*points)


def test_constants_of_gaussian_mixtures():
    for kind in ("DEFAULT", "METZ", "CHE"):
        for name in ("MEANS", "VARIANCES", "ANGLES"):
            if (kind, name) != ("DEFAULT", "ANGLES"):
                assert_same(*(getattr(module, f"{kind}_{name}") for module in GAUSSIAN), f"{kind}_{name}")


@given(
    st.tuples(NUMBERS, NUMBERS),
    st.sampled_from(COVARIANCES),
    st.integers(1, 5),
    st.integers(1, 5),
    st.sampled_from([None, lambda x: x[:, :1] * 2, lambda x: x.sum(axis=1, keepdims=True)]),
    SEEDS,
)
def test_gaussian_data(mean, cov, num_train, num_test, map_function, rseed):
    arguments = {"cov": cov, "num_train": num_train, "num_test": num_test}
    arguments |= {"map_function": map_function, "rseed": rseed}
    ours, theirs = pair(GAUSSIAN, "GaussianData", mean=np.array(mean), **arguments)
    assert_same_toy(ours, theirs)
    assert_same([ours.mean, ours.cov], [theirs.mean, theirs.cov])
    assert_same([ours._mean, ours._cov], [theirs._mean, theirs._cov])
    assert_same(ours._get_function_vals(4), theirs._get_function_vals(grid_size=4))
    x = ours.get_test_inputs()
    assert_same(ours._map(x), theirs._map(x))


def test_defaults_of_gaussian_data():
    assert_same_toy(*pair(GAUSSIAN, "GaussianData"))
    for arguments in ({}, {"rseed": 3}, {"map_functions": [None, lambda x: x[:, :1]] + [None] * 23}):
        for ours, theirs in zip(*pair(GAUSSIAN, "get_gmm_tasks", num_test=2, **arguments), strict=True):
            assert_same(ours._data["in_data"], theirs._data["in_data"])
            assert_same(ours._data["out_data"], theirs._data["out_data"])


def mixtures(number=3, num_train=9, covs=COVARIANCES, **options):
    made = []
    for (gaussian, gmm), i in zip(zip(GAUSSIAN, GMM, strict=True), range(2), strict=True):
        means = [GAUSSIAN[i].CHE_MEANS[k % 6] * 0.5 for k in range(number)]
        spread = [covs[k % len(covs)] for k in range(number)]
        tasks = gaussian.get_gmm_tasks(means, spread, num_train=num_train, num_test=4, rseed=3)
        made.append(gmm.GMMData(tasks, **options))
    return made


@given(
    st.integers(1, 4),
    st.integers(1, 5),
    st.sampled_from([(False, False), (True, False), (True, True)]),
    st.booleans(),
)
def test_gaussian_mixtures(number, num_train, kind, weighted):
    weights = np.arange(1.0, number + 1)
    ours, theirs = mixtures(
        number,
        num_train,
        classification=kind[0],
        use_one_hot=kind[1],
        mixing_coefficients=list(weights / weights.sum()) if weighted else None,
    )
    assert_same_toy(ours, theirs)
    assert_same([ours.num_modes, ours.means], [theirs.num_modes, theirs.means])
    assert_same([ours._means, ours._covs], [theirs._means, theirs._covs])
    assert_same(list(ours._mixing_coefficients), list(theirs._mixing_coefficients))
    x = theirs.get_test_inputs() + 0.1
    for arguments in ({}, {"eps": 0.1}, {"normalize": True}, {"normalize": True, "eps": 0.1}):
        assert_same(*(h._compute_responsibilities(x, **arguments) for h in (ours, theirs)))
    assert_same(ours.estimate_mode_coverage(x), theirs.estimate_mode_coverage(x))
    given_ones = np.eye(len(x), number)
    assert_same(*(h.estimate_mode_coverage(x, responsibilities=given_ones) for h in (ours, theirs)))
    for arguments in (
        {"grid_size": 3},
        {"grid_size": (2, 3), "x1_range": (0, 1)},
        {"grid_size": (3, 2), "x2_range": (-1, 2.5)},
    ):
        assert_same(ours.get_input_mesh(**arguments), theirs.get_input_mesh(**arguments))


@pytest.fixture
def mended_histogram(monkeypatch):
    """hypnettorch passes a number of bins that numpy refuses, and wants counts for densities."""
    # differs: `GMMData.estimate_distance(density_estimation="hist")`
    histogram = np.histogram2d

    def mended(*arguments, bins, **options):
        return histogram(*arguments, bins=int(bins), density=True)

    monkeypatch.setattr(np, "histogram2d", mended)


@pytest.mark.parametrize("kind", ["hist", "gaussian"])
def test_distance_of_samples_from_a_mixture(kind, mended_histogram):
    ours, theirs = mixtures(mixing_coefficients=[0.2, 0.3, 0.5])
    random = np.random.RandomState(1)
    for number in (1, 2, 20, 40):
        fake = random.normal(size=(number, 2)) * 2
        densities = random.uniform(size=(number, 3))
        for arguments in ({}, {"eps": 0.05}, {"component_densities": densities}):
            distances = both(
                *(
                    lambda h=h: h.estimate_distance(fake, density_estimation=kind, **arguments)
                    for h in (ours, theirs)
                )
            )
            np.testing.assert_allclose(*distances, rtol=1e-12)


INTERVALS = st.tuples(st.integers(-9, 9), st.integers(1, 5)).map(lambda x: (x[0], x[0] + x[1]))
STDS = st.sampled_from([0, 0.0, 0.5, lambda x: np.abs(x), lambda x: 0.3])
TRAIN_INTERVALS = st.one_of(INTERVALS, INTERVALS.map(list), st.lists(INTERVALS, min_size=1, max_size=4))
VALIDATION = st.one_of(
    st.just({}), st.tuples(INTERVALS, SIZES).map(lambda v: {"val_inter": v[0], "num_val": v[1]})
)


@given(
    TRAIN_INTERVALS,
    INTERVALS,
    VALIDATION,
    SIZES,
    SIZES,
    st.sampled_from(MAPS[:2]),
    STDS,
    st.booleans(),
    SEEDS,
)
def test_regression(train, test, validation, num_train, num_test, map_function, std, perturb, rseed):
    arguments = {"train_inter": train, "num_train": num_train, "test_inter": test, "num_test": num_test}
    arguments |= {"map_function": map_function, "std": std, "perturb_test_val": perturb, "rseed": rseed}
    try:
        ours, theirs = pair(REGRESSION, "ToyRegression", **arguments, **validation)
    except ValueError as error:  # differs: `ToyRegression` with several intervals
        if "negative dimensions" not in str(error):
            raise
        ours = REGRESSION[0].ToyRegression(**arguments, **validation)
        assert ours.num_train_samples == len(ours.get_train_inputs()) == num_train
        return
    assert_same_toy(ours, theirs)
    for name in ("_train_inter", "_test_inter", "_val_inter", "train_x_range", "test_x_range", "val_x_range"):
        assert_same(getattr(ours, name), getattr(theirs, name), name)
    assert ours._map is theirs._map
    for arguments in ({}, {"num_samples": 3, "x_range": (0.5, 1)}):
        assert_same(ours._get_function_vals(**arguments), theirs._get_function_vals(**arguments))


@given(st.lists(st.integers(1, 20), min_size=1, max_size=7), st.integers(0, 30))
def test_samples_of_several_intervals(lengths, num_train):
    intervals = [(30 * i, 30 * i + length) for i, length in enumerate(lengths)]
    arguments = {"train_inter": intervals, "num_train": num_train, "rseed": 1, "num_test": 1}
    try:
        theirs = REGRESSION[1].ToyRegression(**arguments)
    except ValueError:  # it takes a sample away from an interval that has none
        theirs = None
    ours = REGRESSION[0].ToyRegression(**arguments)
    assert ours.num_train_samples == num_train
    if theirs is not None:
        assert_same(ours._data["in_data"], theirs._data["in_data"])


@pytest.mark.parametrize("map_function", MAPS)
def test_types_of_outputs(map_function):
    for std in (0, 0.5):
        if std == 0 or map_function is not MAPS[2]:  # differs: `ToyRegression` and `BimodalToyRegression` add
            ours, theirs = pair(REGRESSION, "ToyRegression", map_function=map_function, std=std)
            assert_same(ours._data["out_data"], theirs._data["out_data"])


def test_random_functions():
    """Functions are called in the same order between the other draws."""

    def values(x):
        return x + np.random.normal(size=x.shape)

    def std(x):
        return np.random.uniform(size=x.shape)

    arguments = {"val_inter": (0, 1), "num_val": 3, "map_function": values, "perturb_test_val": True}
    for modules, name, more in (
        (REGRESSION, "ToyRegression", {"std": std}),
        (BIMODAL, "BimodalToyRegression", {}),
    ):
        assert_same_toy(*pair(modules, name, **arguments, **more))


@pytest.mark.parametrize("name", ["ToyRegression", "BimodalToyRegression"])
def test_noise_on_the_identity(name):
    """Outputs are hypnettorch's; it adds the noise to the inputs as well."""
    # differs: `ToyRegression` and `BimodalToyRegression` add
    modules, arguments = (REGRESSION, {"std": 0.5}) if name == "ToyRegression" else (BIMODAL, {})
    ours, theirs = pair(modules, name, **arguments)
    assert_same(ours.get_train_outputs(), theirs.get_train_outputs())
    assert_same(theirs.get_train_inputs(), theirs.get_train_outputs())
    noiseless, _ = pair(REGRESSION, "ToyRegression")
    if name == "ToyRegression":
        assert_same(ours.get_train_inputs(), noiseless.get_train_inputs())
    assert np.abs(ours.get_train_inputs()).max() <= 10


@given(
    INTERVALS,
    VALIDATION,
    SIZES,
    st.sampled_from(MAPS[:2]),
    st.fixed_dictionaries(
        {
            "alpha1": st.sampled_from([0, 0.2, 0.5, 1]),
            "dist1": st.sampled_from([0, 2, 3.5]),
            "dist2": st.sampled_from([None, 0, -1.5]),
            "std1": st.sampled_from([0, 1]),
            "std2": st.sampled_from([None, 0, 0.25]),
            "perturb_test_val": st.booleans(),
            "rseed": SEEDS,
        }
    ),
)
def test_bimodal_regression(train, validation, num_train, map_function, noise):
    arguments = {"train_inter": train, "num_train": num_train, "num_test": 4, "map_function": map_function}
    ours, theirs = pair(BIMODAL, "BimodalToyRegression", **arguments, **noise, **validation)
    assert_same_toy(ours, theirs)
    for name in (
        "_train_inter",
        "_test_inter",
        "_val_inter",
        "_alpha1",
        "_dist1",
        "_dist2",
        "_std1",
        "_std2",
    ):
        assert_same(getattr(ours, name), getattr(theirs, name), name)
    assert_same(ours._get_function_vals(), theirs._get_function_vals())


def subclass(module):
    """A regression of another kind, written as the bimodal one is."""

    class Steps(module.ToyRegression):
        def __init__(self, num_val=0, inter=(-1, 2)):
            super().__init__()
            self._map = lambda x: np.floor(x)
            x = np.linspace(*inter, 6).reshape(-1, 1)
            self._data["in_data"] = x
            self._data["out_data"] = self._map(x) + np.random.normal(size=x.shape)
            self._data["train_inds"] = np.arange(3)
            self._data["test_inds"] = np.arange(3, 6 - num_val)
            if num_val:
                self._data["val_inds"] = np.arange(6 - num_val, 6)
                self._val_inter = (-4, 0)
            self._train_inter = inter
            self._test_inter = [0, 1]

        def get_identifier(self):
            return "steps"

    class Wide(Steps):
        def _get_function_vals(self, num_samples=100, x_range=None):
            x, y = super()._get_function_vals(num_samples=5, x_range=x_range)
            return x * 2, y

    return {"Steps": Steps, "Wide": Wide}


SUBCLASSES = [subclass(module) for module in REGRESSION]


@pytest.mark.parametrize("name", ["Steps", "Wide"])
def test_a_subclass_of_regression(name, drawn):
    for num_val in (0, 2):
        ours, theirs = both(*(lambda k=kinds[name]: k(num_val=num_val) for kinds in SUBCLASSES))
        assert_same_toy(ours, theirs)
        assert_same([ours.train_x_range, ours.val_x_range], [theirs.train_x_range, theirs.val_x_range])
        assert_same(ours._get_function_vals(), theirs._get_function_vals())
        assert_same_figure(drawn, (ours, theirs), lambda h: h.plot_dataset())
        assert_same_figure(drawn, (ours, theirs), lambda h: h.plot_datasets([h]))


# Figures


@pytest.fixture
def drawn(monkeypatch):
    """A function that calls one which draws, and describes the figure that pyplot has then."""
    from matplotlib import axis, cm
    from matplotlib import pyplot as plt

    shown = []
    colorbar = plt.colorbar
    monkeypatch.setattr(plt, "show", lambda: shown.append(True))
    # differs: `GMMData.plot_samples`
    monkeypatch.setattr(cm, "get_cmap", plt.get_cmap, raising=False)
    monkeypatch.setattr(axis.Tick, "label", property(lambda tick: tick.label1), raising=False)
    monkeypatch.setattr(plt, "colorbar", lambda mappable: colorbar(mappable, ax=plt.gca()))

    def describe(draw):
        shown.clear()
        plt.close("all")
        interactive = plt.isinteractive()
        result = draw()
        figure = plt.gcf()
        found = {
            "shown": len(shown),
            "interactive": plt.isinteractive(),
            "size": figure.get_size_inches().tolist(),
            "returned": result if result is None else result is figure,
            "axes": [_describe_axes(axes) for axes in figure.axes],
        }
        plt.interactive(interactive)
        plt.close("all")
        return found

    return describe


def _describe_axes(axes):
    from matplotlib.colors import to_rgba

    legend = axes.get_legend()
    for found in axes.collections:
        found.update_scalarmappable()  # only now they get the colours of their values
    label = (axes.xaxis.label, axes.yaxis.label, axes.title)
    return {
        "position": np.round(axes.get_position().bounds, 6).tolist(),
        "text": [(text.get_text(), text.get_fontsize()) for text in label],
        "limits": np.round([axes.get_xlim(), axes.get_ylim()], 9).tolist(),
        "ticks": [axes.get_xticks().tolist(), axes.get_yticks().tolist()],
        "tick size": [tick.label1.get_fontsize() for tick in axes.xaxis.get_major_ticks()[:1]],
        "legend": legend and ([text.get_text() for text in legend.get_texts()], legend._loc),
        "lines": [
            (
                np.asarray(line.get_xydata()).tolist(),
                line.get_label(),
                to_rgba(line.get_color()),
                line.get_linestyle(),
                line.get_linewidth(),
            )
            for line in axes.lines
        ],
        "collections": [
            (
                type(found).__name__,
                found.get_label(),
                np.asarray(found.get_offsets()).tolist(),
                found.get_facecolor().tolist(),
                found.get_edgecolor().tolist(),
                np.asarray(getattr(found, "get_sizes", list)()).tolist(),
                np.asarray(getattr(found, "levels", [])).tolist(),
                [path.vertices.tolist() for path in found.get_paths()],
            )
            for found in axes.collections
        ],
        "patches": [
            (
                patch.get_center().tolist(),
                round(patch.get_width(), 12),
                round(patch.get_height(), 12),
                round(patch.get_angle() % 180, 9),
                patch.get_facecolor(),
                patch.get_edgecolor(),
            )
            for patch in axes.patches
        ],
    }


def assert_same_figure(drawn, modules, draw):
    """Draw with each of two handlers or modules."""
    assert_same_drawing(drawn(lambda: draw(modules[0])), drawn(lambda: draw(modules[1])), "figure")


def assert_same_drawing(ours, theirs, what):
    if isinstance(theirs, dict):
        for key, value in theirs.items():
            assert_same_drawing(ours[key], value, f"{what}, {key}")
    elif isinstance(theirs, (list, tuple)):
        assert len(ours) == len(theirs), what
        for i, value in enumerate(theirs):
            assert_same_drawing(ours[i], value, f"{what}, {i}")
    else:
        assert ours == theirs, what


def test_figures_of_donuts(drawn):
    handlers = pair(DONUTS, "Donuts", num_train=3, num_test=2)
    assert_same_figure(drawn, handlers, lambda h: h.plot_dataset("title", figsize=(5, 4)))
    handlers = pair(
        DONUTS, "Donuts", num_train=3, num_test=2, use_one_hot=False, centers=[(0, 0)], radii=[(1, 2)]
    )
    assert_same_figure(drawn, handlers, lambda h: h.plot_dataset("title"))


def test_figures_of_regression(drawn):
    arguments = {"map_function": np.sin, "num_train": 4, "num_test": 5, "std": 0.1}
    for more in ({}, {"val_inter": (-20, 3), "num_val": 2}):
        handlers = pair(REGRESSION, "ToyRegression", **arguments, **more)
        for show in (True, False):
            assert_same_figure(drawn, handlers, lambda h, show=show: h.plot_dataset(show=show))
    x, y = handlers[1].get_test_inputs(), handlers[1].get_test_outputs()
    for options in ({}, {"label": "net", "show_train": False}, {"show_test": False}):
        assert_same_figure(drawn, handlers, lambda h, o=options: h.plot_predictions((x, y + 1), **o))
    for options in (
        {"outputs": y},
        {"predictions": y, "show": False, "interactive": True},
        {"outputs": y, "predictions": y + 1, "figsize": (3, 4), "num_samples_per_row": 2},
    ):
        assert_same_figure(drawn, handlers, lambda h, o=options: h.plot_samples("title", x, **o))


@pytest.mark.parametrize("number", [1, 3, 9])
@pytest.mark.parametrize("publication_style", [False, True])
def test_figures_of_several_regressions(drawn, number, publication_style):
    several = [
        pair(
            REGRESSION,
            "ToyRegression",
            map_function=[np.sin, np.cos, np.tanh][i % 3],
            train_inter=(i, i + 1),
            num_test=3,
        )
        for i in range(number)
    ]
    handlers = list(zip(*several, strict=True))
    x = [h.get_test_inputs() for h in handlers[1]]
    for options in (
        {},
        {"inputs": x, "predictions": x, "labels": [f"task {i}" for i in range(number)], "figsize": (5, 4)},
        {"fun_xranges": [(i, 2 * i + 1) for i in range(number)], "show": False},
    ):
        assert_same_figure(
            drawn,
            handlers,
            lambda hs, o=options: hs[0].plot_datasets(hs, publication_style=publication_style, **o),
        )


def test_figures_of_gaussian_data(drawn):
    arguments = {"mean": np.array([1, 2.5]), "cov": COVARIANCES[0], "num_train": 4, "num_test": 3}
    handlers = pair(GAUSSIAN, "GaussianData", **arguments)
    for show in (True, False):
        assert_same_figure(drawn, handlers, lambda h, show=show: h.plot_dataset(show=show))
    x, y = handlers[1].get_test_inputs(), handlers[1].get_test_outputs()
    for options in ({}, {"label": "net", "show_train": False, "show_test": False}):
        assert_same_figure(drawn, handlers, lambda h, o=options: h.plot_predictions((x, y[:, 0] + 0.1), **o))
    for options in (
        {"outputs": y},
        {"predictions": y, "show": False, "interactive": True},
        {"outputs": y, "predictions": y + 1, "figsize": (3, 4)},
    ):
        assert_same_figure(drawn, handlers, lambda h, o=options: h.plot_samples("title", x, **o))


def test_figures_of_several_gaussian_data(drawn):
    several = zip(
        pair(GAUSSIAN, "GaussianData", cov=COVARIANCES[0], num_train=4, num_test=3),
        pair(GAUSSIAN, "GaussianData", mean=np.array([1.5, 3]), map_function=lambda x: x[:, :1] / 9),
        strict=True,
    )
    handlers = list(several)
    x, y = ([getattr(h, f"get_test_{part}puts")() for h in handlers[1]] for part in ("in", "out"))
    options = {"inputs": x, "predictions": y, "labels": ["a", "b"], "figsize": (4, 4), "show": False}
    assert_same_figure(drawn, handlers, lambda hs: hs[0].plot_datasets(hs, **options))


@pytest.mark.parametrize("number", [3, 9])
def test_figures_of_mixtures(drawn, number):
    handlers = mixtures(number, classification=True)
    x, y = handlers[1].get_test_inputs(), handlers[1].get_test_outputs()
    for options in (
        {},
        {"outputs": y},
        {"predictions": y, "show": False, "interactive": True},
        {"outputs": y, "predictions": y[::-1], "figsize": (3, 4)},
    ):
        assert_same_figure(drawn, handlers, lambda h, o=options: h.plot_samples("title", x, **o))
    assert_same_figure(drawn, handlers, lambda h: h.plot_real_fake("title", x, x + 1, figsize=(3, 4)))
    handlers = mixtures(number)
    y = handlers[1].get_test_outputs()
    for options in ({"outputs": y}, {"outputs": y, "predictions": y[::-1] * 2}):
        assert_same_figure(drawn, handlers, lambda h, o=options: h.plot_samples("title", x, **o))


@pytest.mark.parametrize("number", [3, 9])
def test_maps_of_mixtures(drawn, number):
    handlers = mixtures(number, covs=COVARIANCES[:2])
    mesh = handlers[1].get_input_mesh(grid_size=(6, 5), x1_range=(-3, 4))
    x, modes = handlers[1].get_test_inputs(), np.repeat(np.arange(number), 4)
    samples = {"sample_inputs": x, "sample_label": "test"}
    for options in (
        {},
        {"use_generative_uncertainty": True, "show": False, **samples},
        {"use_ent_joint_uncertainty": True, "sample_inputs": x, "sample_modes": modes},
        {"norm_eps": 0.01, "sketch_components": True},
        {"norm_eps": 0.01, "use_ent_joint_uncertainty": True, **samples, "sample_modes": modes[:, None]},
        {"uncertainties": np.arange(30.0)[:, None], "title": "numbers", "figsize": (4, 3)},
    ):
        assert_same_figure(drawn, handlers, lambda h, o=options: h.plot_uncertainty_map(input_mesh=mesh, **o))
    for options in (
        {},
        {"mesh_modes": np.arange(30)[:, None] % number, "title": "modes", "figsize": (4, 3), **samples},
        {"sample_modes": modes, "sketch_components": True, "show": False, **samples},
    ):
        assert_same_figure(
            drawn, handlers, lambda h, o=options: h.plot_optimal_classification(input_mesh=mesh, **o)
        )


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_a_map_far_from_all_samples(drawn):
    handlers = mixtures()
    mesh = handlers[1].get_input_mesh(x1_range=(-500, 500), x2_range=(-500, 500), grid_size=3)
    for options in ({}, {"norm_eps": 1e-3}, {"use_ent_joint_uncertainty": True}):
        assert_same_figure(drawn, handlers, lambda h, o=options: h.plot_uncertainty_map(input_mesh=mesh, **o))


def test_sketch_of_components(drawn):
    for label in (None, "means"):
        assert_same_figure(drawn, mixtures(2), lambda h, label=label: h._draw_components(label=label))
