"""Batch normalisation and context modulation beyond what hypnettorch can do or check."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from hnetfast.utils.batchnorm_layer import BatchNormLayer
from hnetfast.utils.context_mod_layer import ContextModLayer


class TestBatchNormLayer:
    def test_frozen_statistics_only_scale(self):
        layer, x = BatchNormLayer(3, track_running_stats=False, frozen_stats=True), torch.randn(5, 3)
        for training in (True, False):
            torch.testing.assert_close(layer.train(training)(x), x / (1 + 1e-5) ** 0.5)
        assert layer.get_stats()[0].abs().max() == 0

    def test_learnable_statistics(self):
        layer = BatchNormLayer(3, track_running_stats=False, learnable_stats=True)
        plain = torch.nn.BatchNorm1d(3)
        assert layer.num_stats == 1
        assert [name for name, _ in layer.named_parameters()] == ["scale", "bias", "mean_0", "var_0"]
        assert len(layer.weights) == 2
        for _ in range(3):
            x = torch.randn(5, 3)
            torch.testing.assert_close(layer(x), plain(x))
        torch.testing.assert_close(layer.mean_0.detach(), plain.running_mean)
        torch.testing.assert_close(layer.var_0.detach(), plain.running_var)
        layer.eval(), plain.eval()
        x = torch.randn(5, 3)
        torch.testing.assert_close(layer(x), plain(x), rtol=1e-5, atol=1e-6)
        layer(x).square().sum().backward()
        assert layer.mean_0.grad.abs().min() > 0 and layer.var_0.grad.abs().min() > 0

    def test_learnable_statistics_of_images(self):
        layer, x = BatchNormLayer(3, track_running_stats=False, learnable_stats=True), torch.randn(2, 3, 4, 4)
        layer(x)
        layer.eval()
        expected = F.batch_norm(x, layer.mean_0.detach(), layer.var_0.detach(), layer.scale, layer.bias)
        torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-6)

    def test_hyper_shapes(self):
        assert BatchNormLayer(3).hyper_shapes is None
        assert BatchNormLayer(3, affine=False).hyper_shapes == [[3], [3]]

    def test_counter_survives_copies_and_checkpoints(self):
        layer = BatchNormLayer(3)
        layer.checkpoint_stats()
        assert copy.deepcopy(layer).num_stats == 2
        other = BatchNormLayer(3)
        other.load_state_dict(layer.state_dict(), strict=False)
        assert other.num_stats == 1 and int(other._num_stats) == 1
        other.checkpoint_stats()
        other.load_state_dict(layer.state_dict(), strict=True)
        assert other.num_stats == 2

    @pytest.mark.parametrize("stats_id", [1, np.int64(1), torch.tensor(1)])
    def test_statistics_are_selected_by_any_integer(self, stats_id):
        layer, x = BatchNormLayer(3), torch.randn(5, 3)
        layer(x)
        layer.checkpoint_stats()
        layer(x * 2, stats_id=stats_id)
        assert layer.get_stats(stats_id)[0] is layer.mean_1
        layer.eval()
        assert not torch.allclose(layer(x, stats_id=stats_id), layer(x, stats_id=0))

    @pytest.mark.parametrize(
        ("kwargs", "error", "message"),
        [
            ({"num_features": -1}, ValueError, "num_features.*-1"),
            ({"num_features": 2.5}, TypeError, r"num_features.*2\.5"),
            ({"momentum": None}, NotImplementedError, "momentum"),
            ({"frozen_stats": True}, ValueError, "frozen_stats.*track_running_stats"),
            ({"learnable_stats": True}, ValueError, "learnable_stats.*track_running_stats"),
            (
                {"frozen_stats": True, "learnable_stats": True, "track_running_stats": False},
                ValueError,
                "exclude",
            ),
        ],
    )
    def test_bad_construction_is_refused(self, kwargs, error, message):
        with pytest.raises(error, match=message):
            BatchNormLayer(**{"num_features": 3} | kwargs)

    @pytest.mark.parametrize(
        ("build", "call", "error", "message"),
        [
            ({}, {"running_mean": torch.ones(3)}, ValueError, "both or none"),
            ({}, {"stats_id": 1}, ValueError, r"\[0, 1\), got 1"),
            ({}, {"stats_id": -1}, ValueError, "got -1"),
            ({}, {"stats_id": 0.5}, TypeError, r"0\.5"),
            ({"affine": False}, {}, ValueError, "weight, bias"),
            ({"affine": False}, {"weight": torch.ones(3)}, ValueError, "weight, bias"),
        ],
    )
    def test_bad_call_is_refused_and_changes_nothing(self, build, call, error, message):
        layer = BatchNormLayer(3, **build)
        with pytest.raises(error, match=message):
            layer(torch.randn(5, 3), **call)
        assert layer.get_stats()[0].abs().max() == 0

    def test_several_sets_must_be_chosen_from(self):
        layer = BatchNormLayer(3)
        layer.checkpoint_stats()
        with pytest.raises(ValueError, match=r"\[0, 2\), got None"):
            layer(torch.randn(5, 3))
        with pytest.raises(ValueError, match="does not track"):
            BatchNormLayer(3, track_running_stats=False).checkpoint_stats()


class TestContextModLayer:
    @pytest.mark.parametrize("bs_dim", [0, 1])
    def test_one_set_a_sample_lines_up_with_the_batch_dimension(self, bs_dim):
        layer, x = ContextModLayer(4), torch.randn(5, 5, 4)
        gain, shift = torch.randn(5, 4), torch.randn(5, 4)
        output = layer(x, weights=[gain, shift], bs_dim=bs_dim)
        for i in range(5):
            expected = x.select(bs_dim, i) * gain[i] + shift[i]
            torch.testing.assert_close(output.select(bs_dim, i), expected)

    def test_one_set_a_sample_of_feature_maps(self):
        x, gain, shift = torch.randn(4, 3, 2, 2), torch.randn(4, 3, 1, 1), torch.randn(4, 3, 1, 1)
        for num_features in ((3, 1, 1), (1, 3, 1, 1)):
            output = ContextModLayer(num_features)(x, weights=[gain, shift])
            torch.testing.assert_close(output, x * gain + shift)

    @pytest.mark.parametrize("part", ["no_gains", "no_shifts"])
    def test_checkpoints_of_half_a_layer(self, part):
        layer, x = ContextModLayer(3, **{part: True}), torch.randn(5, 3)
        layer.normal_init()
        before = layer(x)
        layer.checkpoint_weights()
        torch.testing.assert_close(layer(x), x)
        torch.testing.assert_close(layer(x, ckpt_id=0), before)
        twin = copy.deepcopy(layer)
        twin.load_state_dict(layer.state_dict(), strict=True)
        assert twin.num_ckpts == 1

    @pytest.mark.parametrize(
        ("kwargs", "error", "message"),
        [
            ({"no_gains": True, "no_shifts": True}, ValueError, "both"),
            ({"apply_gain_offset": True, "apply_gain_softplus": True}, ValueError, "exclude"),
            ({"num_features": -1}, ValueError, "-1"),
            ({"num_features": (3, 1.5)}, TypeError, r"1\.5"),
            ({"num_features": "a"}, TypeError, "'a'"),
        ],
    )
    def test_bad_construction_is_refused(self, kwargs, error, message):
        with pytest.raises(error, match=message):
            ContextModLayer(**{"num_features": 3} | kwargs)

    @pytest.mark.parametrize(
        ("build", "call", "error", "message"),
        [
            ({"no_weights": True}, {}, ValueError, "no_weights"),
            ({}, {"weights": []}, ValueError, "2 tensors.*got 0"),
            ({}, {"weights": [torch.ones(3)] * 3}, ValueError, "got 3"),
            ({}, {"weights": [torch.ones(3), None]}, TypeError, r"\[1\].*NoneType"),
            ({}, {"weights": [torch.ones(4), torch.ones(3)]}, ValueError, r"\[0\] \(gain\).*\[3\].*\[4\]"),
            ({}, {"weights": [torch.ones(3), torch.ones(2, 3)]}, ValueError, r"5 samples.*\[2, 3\]"),
            ({}, {"ckpt_id": 1}, ValueError, r"\[0, 1\), got 1"),
            ({}, {"ckpt_id": -1}, ValueError, "got -1"),
            ({}, {"ckpt_id": "a"}, TypeError, "'a'"),
        ],
    )
    def test_bad_call_is_refused(self, build, call, error, message):
        with pytest.raises(error, match=message):
            ContextModLayer(3, **build)(torch.randn(5, 3), **call)

    def test_without_weights_there_is_nothing_to_initialise(self):
        layer = ContextModLayer(3, no_weights=True)
        for call in (layer.normal_init, layer.uniform_init, layer.sparse_init, layer.checkpoint_weights):
            with pytest.raises(ValueError, match="without weights"):
                call()
        with pytest.raises(AttributeError, match="without weights"):
            layer.get_weights()
        with pytest.raises(ValueError, match=r"sparsity.*1\.5"):
            ContextModLayer(3).sparse_init(1.5)


@pytest.mark.parametrize("build", [BatchNormLayer, ContextModLayer])
def test_a_checkpoint_taken_earlier_stays_as_it_was(build):
    layer = build(3)
    add = layer.checkpoint_stats if build is BatchNormLayer else layer.checkpoint_weights
    before = layer.state_dict()
    counters = {name: int(value) for name, value in before.items() if name.startswith("_num")}
    add()
    layer.load_state_dict(before, strict=False, assign=True)
    add()
    assert {name: int(before[name]) for name in counters} == counters
    assert layer.get_stats(2) if build is BatchNormLayer else layer.get_weights(1)


@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_names_inputs_of_another_dtype(training):
    layer = BatchNormLayer(3).train(training)
    gain = torch.ones(3, dtype=torch.float64)
    with pytest.raises(TypeError, match=r"inputs: expected torch.float32, .* statistics, got torch.float64"):
        layer(torch.rand(4, 3, dtype=torch.float64), weight=gain, bias=gain)
    assert not layer.mean_0.any()
    half = layer(torch.rand(4, 3).bfloat16())
    assert half.dtype == torch.bfloat16
