"""Handlers of toy problems: what is mended, errors, files, and that no two of them share anything."""

import copy
import pickle

import numpy as np
import pytest

from hnetfast.data.special import gaussian_mixture_data
from hnetfast.data.special.donuts import Donuts
from hnetfast.data.special.gaussian_mixture_data import CHE_MEANS, CHE_VARIANCES, GaussianData, get_gmm_tasks
from hnetfast.data.special.gmm_data import GMMData
from hnetfast.data.special.regression1d_bimodal_data import BimodalToyRegression
from hnetfast.data.special.regression1d_data import ToyRegression

COV = np.array([[1, 0.3], [0.3, 0.5]])


def mixture(**options):
    tasks = get_gmm_tasks(CHE_MEANS[:3], CHE_VARIANCES[:3], num_train=4, num_test=3, rseed=1)
    return GMMData(tasks, **options)


HANDLERS = {
    "donuts": lambda: Donuts(num_train=3, num_test=2),
    "gaussian": lambda: GaussianData(num_train=3, num_test=2),
    "mixture": mixture,
    "classes": lambda: mixture(classification=True, use_one_hot=True),
    "regression": lambda: ToyRegression(num_train=3, num_test=2, std=0.5, val_inter=(0, 1), num_val=2),
    "bimodal": lambda: BimodalToyRegression(num_train=3, num_test=2),
}


@pytest.fixture(params=HANDLERS)
def handler(request):
    return HANDLERS[request.param]()


def test_copies_of_a_handler(handler):
    for other in (copy.deepcopy(handler), pickle.loads(pickle.dumps(handler))):
        np.testing.assert_array_equal(other.get_train_inputs(), handler.get_train_inputs())
        other._data["in_data"][:] = 7
        assert not (handler._data["in_data"] == 7).any()
        if hasattr(other, "_map"):
            assert other._map(handler.get_test_inputs()).shape == (2, 1)


def test_results_are_the_callers(handler):
    before = copy.deepcopy(dict(handler._data))
    for part in ("train", "test"):
        for kind in ("inputs", "outputs"):
            getattr(handler, f"get_{part}_{kind}")()[:] = 7
        for array in getattr(handler, f"next_{part}_batch")(2):
            array[:] = 7
    for key, value in before.items():
        np.testing.assert_array_equal(handler._data[key], value)


def test_a_handler_that_changes_changes_no_other():
    first = GaussianData(num_train=2, num_test=2)
    first.mean[:] = 9
    first.cov[:] = 9
    np.testing.assert_array_equal(GaussianData(num_train=2, num_test=2).mean, [0, 0])
    np.testing.assert_array_equal(GaussianData(num_train=2, num_test=2).cov, 0.05**2 * np.eye(2))

    task = get_gmm_tasks(num_train=1, num_test=1)[0]
    task.mean[:] = 9
    task.cov[:] = 9
    np.testing.assert_array_equal(gaussian_mixture_data.DEFAULT_MEANS[0], [-4, -4])
    np.testing.assert_array_equal(gaussian_mixture_data.DEFAULT_VARIANCES[0], 0.05**2 * np.eye(2))

    for kind in (ToyRegression, BimodalToyRegression):
        first = kind()
        first.test_x_range[0] = 5
        assert list(kind().test_x_range) == [-10, 10] and list(kind().train_x_range) == [-10, 10]

    mean, cov = np.zeros(2), COV.copy()
    task = GaussianData(mean, cov)
    mean[0], cov[0, 0] = 7, 7
    np.testing.assert_array_equal(task.mean, [0, 0])
    np.testing.assert_array_equal(task.cov, COV)
    coefficients = [0.5, 0.5]
    both = GMMData([task, task], mixing_coefficients=coefficients)
    coefficients[0] = 3
    assert both._mixing_coefficients == [0.5, 0.5]
    both._means[0][:] = 5
    np.testing.assert_array_equal(task.mean, [0, 0])
    np.testing.assert_array_equal(both._means[1], [0, 0])


def test_encodings_of_donuts():
    for use_one_hot in (False, True):
        handler = Donuts([(0, 0)] * 3, [(1, 2)] * 3, num_train=2, num_test=1, use_one_hot=use_one_hot)
        assert handler.is_one_hot is use_one_hot and handler.out_shape == [3 if use_one_hot else 1]
        np.testing.assert_array_equal(handler.get_train_outputs(use_one_hot=False)[:, 0], [0, 0, 1, 1, 2, 2])
        np.testing.assert_array_equal(handler.get_test_outputs(use_one_hot=True), np.eye(3))


def test_noise_leaves_inputs_alone():
    plain = ToyRegression(num_train=5, rseed=1, perturb_test_val=True)
    noisy = ToyRegression(num_train=5, rseed=1, perturb_test_val=True, std=0.5)
    np.testing.assert_array_equal(noisy._data["in_data"], plain._data["in_data"])
    assert not np.equal(noisy._data["out_data"], noisy._data["in_data"]).any()

    def inplace(x):
        x *= 2
        return x

    np.testing.assert_array_equal(
        ToyRegression(num_train=5, rseed=1, map_function=inplace)._data["in_data"], plain._data["in_data"]
    )
    integers = ToyRegression(map_function=lambda x: x.astype(int), std=0.5, rseed=1)
    assert integers._data["out_data"].dtype == np.float64


def test_bimodal_regression_on_several_intervals():
    handler = BimodalToyRegression(train_inter=[(5, 6), (-3, -1)], num_train=9)
    assert handler.train_x_range == (-3, 6)
    x = handler.get_train_inputs()[:, 0]
    assert (((x > 5) & (x < 6)).sum(), ((x > -3) & (x < -1)).sum()) == (3, 6)


def test_no_training_samples():
    for handler in (ToyRegression(num_train=0), GaussianData(num_train=0), Donuts(num_train=0)):
        assert handler.num_train_samples == 0 and handler.get_train_inputs().shape[0] == 0
        assert handler.num_test_samples > 0
        with pytest.raises(ValueError, match="no samples"):
            handler.next_train_batch(1)


def test_distance_by_a_histogram():
    """By hand: 2 x 2 cells, three with one sample and the fourth with none."""
    handler = GMMData([GaussianData(np.zeros(2), np.eye(2), num_train=4, num_test=1, rseed=1)])
    fake = np.array([[0, 0], [0, 2], [2.0, 2.0]])
    real = handler.get_train_inputs()[np.random.RandomState(42).permutation(4)[:3]]
    cells = np.array([[1, 1], [0, 1]]) / 3  # cells of area 1
    eps = 1e-5

    def model(x):
        inside = ((x >= 0) & (x <= 2)).all(axis=1)
        i, j = np.clip(np.floor(x), 0, 1).astype(int).T
        return np.log(np.maximum(np.where(inside, cells[i, j], 0), eps))

    def truth(x):
        return np.log(np.exp(-np.sum(x**2, axis=1) / 2) / (2 * np.pi))

    expected = np.mean(model(fake) - truth(fake)) + np.mean(truth(real) - model(real))
    np.testing.assert_allclose(handler.estimate_distance(fake, eps=eps), expected)


def test_uncertainty_of_points_far_away_is_drawn_as_zero():
    from matplotlib import pyplot as plt

    handler = mixture()
    mesh = handler.get_input_mesh((-500, 500), (-500, 500), 3)
    with pytest.warns(UserWarning, match="NaN"):
        handler.plot_uncertainty_map(input_mesh=mesh, show=False)
    plt.close("all")


def test_values_of_a_mesh_in_any_shape():
    from matplotlib import pyplot as plt

    handler = mixture()
    mesh = handler.get_input_mesh(grid_size=(3, 2))
    drawn = []
    for shape in (6, (6, 1), (2, 3)):
        values = (np.arange(6) % 3).reshape(shape)
        handler.plot_uncertainty_map(input_mesh=mesh, uncertainties=values, show=False)
        drawn.append([path.vertices for path in plt.gca().collections[0].get_paths()])
        handler.plot_optimal_classification(input_mesh=mesh, mesh_modes=values, show=False)
        drawn[-1].append(plt.gca().collections[0].get_facecolor())
    for other in drawn[1:]:
        for ours, first in zip(other, drawn[0], strict=True):
            np.testing.assert_array_equal(ours, first)
    plt.close("all")


FIGURES = {
    "donuts": lambda h, x, y, **o: h.plot_dataset("title", **o),
    "samples of donuts": lambda h, x, y, **o: h.plot_samples("title", x, y, y[::-1], **o),
    "gaussian": lambda h, x, y, **o: h.plot_samples("title", x, y, **o),
    "mixture": lambda h, x, y, **o: h.plot_samples("title", x, y, y, **o),
    "classes": lambda h, x, y, **o: h.plot_samples("title", x, y, y[:, ::-1], **o),
    "real and fake": lambda h, x, y, **o: h.plot_real_fake("title", x, x, **o),
    "regression": lambda h, x, y, **o: h.plot_samples("title", x, y, **o),
    "regressions": lambda h, x, y, **o: h.plot_datasets([h], [x], [y], publication_style=True, **o),
}
KINDS = {"samples of donuts": "donuts", "real and fake": "mixture", "regressions": "regression"}


@pytest.mark.parametrize("name", FIGURES)
def test_files_of_figures(name, tmp_path, monkeypatch):
    from matplotlib import pyplot as plt

    shown = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(True))
    handler = HANDLERS[KINDS.get(name, name)]()
    x, y = handler.get_test_inputs(), handler.get_test_outputs()
    path = tmp_path / "figure.png"
    FIGURES[name](handler, x, y, show=False, filename=str(path), figsize=(3, 2))
    assert path.read_bytes()[1:4] == b"PNG" and [p.name for p in tmp_path.iterdir()] == ["figure.png"]
    assert not shown
    plt.close("all")


def test_one_sample_in_its_axes():
    from matplotlib import pyplot as plt

    for make in HANDLERS.values():
        handler, figure = make(), plt.figure()
        inner_grid = figure.add_gridspec(1, 1)
        x, y = handler.get_test_inputs()[:1], handler.get_test_outputs()[:1]
        handler._plot_sample(figure, inner_grid, 1, 0, x, outputs=y, predictions=y)
        assert figure.axes[0].collections
        plt.close(figure)


def test_donuts_of_more_than_two_classes_have_different_colors():
    from matplotlib import pyplot as plt

    handler = Donuts([(0, 0)] * 3, [(1, 2)] * 3, num_train=1, num_test=1)
    handler.plot_dataset("title", show=False)
    assert len(np.unique(plt.gca().collections[0].get_facecolor(), axis=0)) == 3
    plt.close("all")


def not_finite(x):
    return np.full((len(x), 1), np.nan)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"train_inter": [3, 1]}, "train_inter.*start < end"),
        ({"train_inter": [1, 1]}, "train_inter"),
        ({"train_inter": []}, "train_inter"),
        ({"train_inter": [(0, 1), (2, 2)]}, "train_inter"),
        ({"train_inter": 5}, "train_inter"),
        ({"test_inter": [0, np.inf]}, "test_inter"),
        ({"test_inter": [1, 0]}, "test_inter"),
        ({"val_inter": [1, 0], "num_val": 3}, "val_inter"),
        ({"val_inter": [0, 1]}, "val_inter, num_val: expected both"),
        ({"num_val": 3}, "val_inter, num_val: expected both"),
        ({"num_train": -1}, "num_train"),
        ({"num_test": 2.5}, "num_test"),
        ({"rseed": -1}, "rseed"),
        ({"map_function": not_finite}, "map_function.*finite"),
        ({"map_function": lambda x: 1 / (x * 0)}, "map_function.*finite"),
        ({"map_function": lambda x: x[:, 0]}, r"map_function.*\[20, 1\].*\[20\]"),
        ({"map_function": lambda x: np.hstack([x, x])}, r"map_function.*\[20, 2\]"),
        ({"map_function": lambda x: x.astype(str)}, "map_function.*numbers"),
        ({"map_function": 3}, "map_function.*a function"),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero")
def test_bad_arguments_of_regression(arguments, match):
    for kind in (ToyRegression, BimodalToyRegression):
        with pytest.raises(ValueError, match=match):
            kind(**arguments)


@pytest.mark.parametrize(
    "std", [-1, np.nan, None, lambda x: x, lambda x: x * np.nan, lambda x: x[:, 0] ** 2, lambda x: [1, 2]]
)
def test_bad_noise(std):
    with pytest.raises(ValueError, match="std"):
        ToyRegression(std=std)
    if not callable(std) and std is not None:
        for name in ("std1", "std2"):
            with pytest.raises(ValueError, match=name):
                BimodalToyRegression(**{name: std})
    for arguments in ({"alpha1": 1.5}, {"alpha1": np.nan}, {"dist1": np.inf}, {"dist2": np.nan}):
        with pytest.raises(ValueError, match=next(iter(arguments))):
            BimodalToyRegression(**arguments)


def test_errors_come_before_anything_is_drawn():
    state = np.random.get_state()[1].copy()
    for make in (
        lambda: BimodalToyRegression(alpha1=2),
        lambda: ToyRegression(num_test=-1),
        lambda: GaussianData(num_test=-1),
        lambda: Donuts(radii=((1, 2), (4, 3)), rseed=None),
    ):
        with pytest.raises(ValueError, match="expected"):
            make()
    np.testing.assert_array_equal(np.random.get_state()[1], state)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"mean": np.zeros(3)}, "mean"),
        ({"mean": np.zeros((1, 2))}, "mean"),
        ({"mean": [0, np.nan]}, "mean"),
        ({"mean": "ab"}, "mean"),
        ({"cov": np.eye(3)}, "cov"),
        ({"cov": np.ones(2)}, "cov"),
        ({"cov": np.ones((2, 2))}, "cov.*positive"),
        ({"cov": np.zeros((2, 2))}, "cov.*positive"),
        ({"cov": [[1, 2], [2, 1]]}, "cov.*positive"),
        ({"cov": [[-1, 0], [0, -1]]}, "cov.*positive"),
        ({"cov": [[1, 0.5], [0.1, 1]]}, "cov.*symmetric"),
        ({"map_function": not_finite}, "map_function"),
        ({"map_function": lambda x: x[:, 0]}, "map_function"),
        ({"map_function": lambda x: x}, "map_function"),
    ],
)
def test_bad_arguments_of_gaussian_data(arguments, match):
    with pytest.raises(ValueError, match=match):
        GaussianData(**arguments)


def test_bad_lists_of_gaussian_data():
    for name in ("covs", "map_functions"):
        with pytest.raises(ValueError, match=name):
            get_gmm_tasks(**{name: [None]})


@pytest.mark.parametrize(
    ("centers", "radii", "match"),
    [
        ([(0, 0)], [(1, 2), (3, 4)], "radii"),
        ([(0, 0, 0)], [(1, 2)], "centers"),
        ([], [], "centers"),
        ([(0, np.nan)], [(1, 2)], "centers"),
        ([(0, 0)], [(2, 1)], "radii"),
        ([(0, 0)], [(-1, 1)], "radii"),
    ],
)
def test_bad_donuts(centers, radii, match):
    with pytest.raises(ValueError, match=match):
        Donuts(centers, radii)


@pytest.mark.parametrize(
    "coefficients",
    [[0.5, 0.2, 0.2], [0.5, 0.5], [-0.5, 0.5, 1], [np.nan, 0.5, 0.5], [[1 / 3] * 3], [0.5] * 3],
)
def test_bad_mixing_coefficients(coefficients):
    with pytest.raises(ValueError, match="mixing_coefficients"):
        mixture(mixing_coefficients=coefficients)


def test_bad_data_sets_of_a_mixture():
    with pytest.raises(ValueError, match="at least one"):
        GMMData([])
    with pytest.raises(TypeError, match="GaussianData"):
        GMMData([ToyRegression()])
    other = GaussianData()
    other._data["in_shape"], other._mean = [3], np.zeros(3)
    with pytest.raises(ValueError, match="same dimensions"):
        GMMData([GaussianData(), other])
    with pytest.raises(ValueError, match="use_one_hot"):
        mixture(use_one_hot=True)


def test_bad_arguments_of_a_mixture():
    handler = mixture()
    x = handler.get_test_inputs()
    mesh = handler.get_input_mesh(grid_size=2)
    for function, match in (
        (lambda: handler.estimate_mode_coverage(x[:, :1]), "fake"),
        (lambda: handler.estimate_mode_coverage(x * np.nan), "fake"),
        (lambda: handler.estimate_mode_coverage(x, x), "responsibilities"),
        (lambda: handler.estimate_distance(x[:0]), "fake"),
        (lambda: handler.estimate_distance(x, x), "component_densities"),
        (lambda: handler.estimate_distance(x, density_estimation="kde"), "density_estimation"),
        (lambda: handler.get_input_mesh(x1_range=(1, 0)), "x1_range"),
        (lambda: handler.get_input_mesh(grid_size=0), "grid_size"),
        (lambda: handler.get_input_mesh(grid_size=(1, 2, 3)), "grid_size"),
        (lambda: handler.plot_uncertainty_map(input_mesh=mesh[:2]), "input_mesh"),
        (lambda: handler.plot_uncertainty_map(input_mesh=mesh, uncertainties=np.ones(3)), "uncertainties"),
        (
            lambda: handler.plot_uncertainty_map(
                use_generative_uncertainty=True, use_ent_joint_uncertainty=True, input_mesh=mesh
            ),
            "got both",
        ),
        (
            lambda: handler.plot_uncertainty_map(
                uncertainties=np.ones(4), use_generative_uncertainty=True, input_mesh=mesh
            ),
            "uncertainties",
        ),
        (lambda: handler.plot_uncertainty_map(input_mesh=mesh, sample_inputs=x[:, :1]), "sample_inputs"),
        (
            lambda: handler.plot_uncertainty_map(
                input_mesh=mesh, sample_inputs=x, sample_modes=np.full(len(x), 3)
            ),
            "sample_modes",
        ),
        (lambda: handler.plot_optimal_classification(input_mesh=mesh, mesh_modes=[0, 1, 2, 5]), "mesh_modes"),
    ):
        with pytest.raises(ValueError, match=match):
            function()


def test_bad_arguments_of_figures():
    from matplotlib import pyplot as plt

    for handler in (ToyRegression(), GaussianData()):
        x, y = handler.get_test_inputs(), handler.get_test_outputs()
        for function, match in (
            (lambda h=handler, x=x: h.plot_samples("title", x), "outputs, predictions"),
            (lambda h=handler, x=x: h.plot_datasets([h], inputs=[x]), "no predictions"),
            (lambda h=handler, y=y: h.plot_datasets([h], predictions=[y]), "no inputs"),
            (lambda h=handler, x=x: h.plot_datasets([h], inputs=[x, x], predictions=[x, x]), "inputs"),
            (lambda h=handler: h.plot_datasets([h], labels=["a", "b"]), "labels"),
            (lambda h=handler: h.plot_datasets([]), "data_handlers"),
        ):
            with pytest.raises(ValueError, match=match):
                function()
    with pytest.raises(ValueError, match="fun_xranges"):
        ToyRegression.plot_datasets([ToyRegression()], fun_xranges=[])
    assert not plt.get_fignums()


def test_shares_that_are_almost_halves_are_rounded_as_in_hypnettorch():
    # 15 / 44 * 22 is less than 7.5, 15 * 22 / 44 is not.
    intervals = [(100 * i, 100 * i + length) for i, length in enumerate([1, 8, 15, 20])]
    x = ToyRegression(train_inter=intervals, num_train=22, rseed=1).get_train_inputs()
    assert np.bincount((x[:, 0] // 100).astype(int)).tolist() == [1, 4, 7, 10]
