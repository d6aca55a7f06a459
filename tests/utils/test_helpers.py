"""What the helpers refuse, and figures."""

import subprocess
import sys

import pytest
import torch

from hnetfast.utils import init_utils, misc, torch_utils


def test_fans_need_two_dimensions():
    with pytest.raises(ValueError, match=r"\[3\]"):
        init_utils.calc_fan_in_and_out([3])
    with pytest.raises(ValueError, match="2 dimensions"):
        init_utils.xavier_fan_in_(torch.empty(3))
    with pytest.raises(ValueError, match="2 dimensions"):
        torch_utils.init_params(torch.empty(3))


def test_optimizer_groups_are_checked():
    params = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    with pytest.raises(ValueError, match="2 params, got 1"):
        torch_utils.get_optimizer(params, 0.1, pgroup_ids=[0])
    with pytest.raises(IndexError, match=r"lr: 3 parameter groups.*got 2"):
        torch_utils.get_optimizer(params, [0.1, 0.2], pgroup_ids=[0, 2])


@pytest.mark.parametrize("parse", [misc.str_to_ints, misc.str_to_floats])
def test_lists_of_numbers(parse):
    assert parse(5) == [5]
    for text in ("1,,2", "a", " "):
        with pytest.raises(ValueError, match="str_arg"):
            parse(text)
    for value in (None, [1, 2]):
        with pytest.raises(TypeError, match="str_arg"):
            parse(value)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match=r"'relu'.*'foo'"):
        misc.str_to_act("foo")
    with pytest.raises(ValueError, match=r"'Set2'.*'foo'"):
        misc.get_colorbrewer2_colors("foo")
    misc.get_colorbrewer2_colors().clear()
    assert len(misc.get_colorbrewer2_colors()) == 8


def test_deprecated_initialiser_says_so():
    with pytest.warns(DeprecationWarning, match="torch_utils"):
        misc.init_params(torch.empty(2, 3))


def test_matplotlib_is_configured():
    matplotlib = pytest.importorskip("matplotlib")
    with matplotlib.rc_context():
        misc.configure_matplotlib_params(fig_size=[1, 2], font_size=11)
        assert matplotlib.rcParams["figure.figsize"] == [1, 2]
        assert matplotlib.rcParams["legend.fontsize"] == 11
        assert not matplotlib.rcParams["axes.spines.top"]
        assert "helvet" in matplotlib.rcParams["text.latex.preamble"]


def test_figures_get_a_new_canvas(monkeypatch):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    plt.close("all")  # those of other tests
    shown = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(plt.get_fignums()))
    figure = plt.figure()
    canvas = figure.canvas
    misc.repair_canvas_and_show_fig(figure)
    assert shown and figure.canvas is not canvas
    assert plt.get_fignums() == []


def test_matplotlib_is_not_imported_needlessly():
    code = "import hnetfast.utils.misc, hnetfast.mnets, sys; assert 'matplotlib' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
