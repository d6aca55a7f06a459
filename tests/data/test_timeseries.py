"""Made sequences: what they refuse, and what hypnettorch gets wrong."""

import copy
import pickle

import numpy as np
import pytest
import torch

from hnetfast.data.timeseries.copy_data import CopyTask
from hnetfast.data.timeseries.permuted_copy import PermutedCopy, PermutedCopyList
from hnetfast.data.timeseries.rnd_rec_teacher import RndRecTeacher
from hnetfast.mnets.simple_rnn import SimpleRNN

SIZES = {"num_train": 4, "num_test": 2}
TEACHER = {**SIZES, "n_in": 3, "n_out": 2, "n_ts_in": 4}
BACKWARDS = np.arange(6)[::-1]


def test_a_copy_task():
    task = CopyTask(2, 2, seq_width=1, num_train=1, num_test=0, num_val=0, rseed=3)
    first, second = task.get_train_inputs()[0, [0, 2]]
    assert (first, second) == tuple(np.random.RandomState(3).rand(5)[:2] > 0.5)
    assert task.get_train_inputs()[0].tolist() == [first, 0, second, 0, 0, 1, 0, 0, 0, 0]
    assert task.get_train_outputs()[0].tolist() == [0, 0, -1, first, second]
    targets = task.output_to_torch_tensor(task.get_train_outputs(), "cpu")
    assert targets.flatten().tolist() == [0, 0, 0, first, second]
    assert task.num_test_samples == task.num_val_samples == 0
    assert task.get_in_seq_lengths([0]).dtype == task.get_zeroed_ts([0]).dtype == np.int64


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ({"min_input_len": -1}, "min_input_len.*-1"),
        ({"min_input_len": 2.5}, "min_input_len.*got 2.5"),
        ({"max_input_len": 2}, "max_input_len.*at least 3.*got 2"),
        ({"seq_width": 0}, "seq_width.*got 0"),
        ({"out_width": 8}, "out_width.*, 8.*got 8"),
        ({"out_width": 0}, "out_width.*got 0"),
        ({"num_train": -1}, "num_train.*-1"),
        ({"num_val": 1.5}, "num_val.*1.5"),
        ({"pat_len": 4}, "pat_len.*, 4.*got 4"),
        ({"pat_len": -2}, "pat_len.*-2"),
        ({"scatter_pattern": True}, "scatter_pattern.*pat_len"),
        ({"pad_after_stop": True}, "pad_after_stop.*pat_len"),
        ({"max_input_len": 5, "pat_len": 4, "scatter_pattern": True}, "pat_len.*min_input_len=3.*got 4"),
        ({"max_input_len": 5, "pat_len": 4, "pad_after_stop": True}, "pat_len.*min_input_len=3.*got 4"),
        ({"pat_len": 2, "pad_after_stop": True, "scatter_pattern": True}, "pad_after_stop.*scatter_pattern"),
        ({"pat_len": 2, "pad_after_stop": True, "random_pad": True}, "pad_after_stop.*random_pad"),
        ({"revert_output_seq": True, "permute_time": True}, "revert_output_seq.*permute"),
        ({"out_width": 2, "permute_width": True}, "permute_width.*seq_width=7.*out_width=2"),
        ({"pairwise_permute": True, "permute_width": True}, "pairwise_permute.*permute_width"),
        ({"max_input_len": 4, "permute_time": True}, "permute_time.*min_input_len=3, max_input_len=4"),
        ({"permute_time": True, "permute_xor": True, "permute_xor_iter": 0}, "permute_xor_iter.*got 0"),
        ({"rseed": -1}, "rseed.*-1"),
        ({"rseed": "a"}, "rseed.*'a'"),
        ({"permute_time": True, "rseed_permute": 1.5}, "rseed_permute.*1.5"),
        ({"pat_len": 2, "scatter_pattern": True, "rseed_scatter": 2**32}, "rseed_scatter.*4294967296"),
    ],
)
def test_arguments_of_the_copy_task_that_are_refused(arguments, names):
    state = np.random.get_state()[1].copy()
    with pytest.raises(ValueError, match=names):
        CopyTask(**{"min_input_len": 3, "max_input_len": 3, **SIZES, **arguments})
    np.testing.assert_array_equal(np.random.get_state()[1], state)


def test_outputs_that_can_not_become_targets():
    task = CopyTask(2, 4, revert_output_seq=True, **SIZES)
    with pytest.raises(ValueError, match=r"revert_output_seq.*min_input_len=2.*max_input_len=4"):
        task.output_to_torch_tensor(task.get_train_outputs(), "cpu")
    task = CopyTask(3, 3, seq_width=2, pat_len=2, scatter_pattern=True, rseed_scatter=0, **SIZES)
    outputs = task.get_train_outputs()
    with pytest.raises(ValueError, match="stop bit"):
        task.output_to_torch_tensor(abs(outputs), "cpu")
    with pytest.raises(ValueError, match=r"stop bit.*\[4, 4, 2\]"):
        task.output_to_torch_tensor(outputs[:, :8], "cpu")
    assert task.output_to_torch_tensor(outputs[:0], "cpu").shape == (6, 0, 2)
    with pytest.raises(ValueError, match="sample_ids"):
        task.plot_samples(
            "masked", outputs, outputs=outputs, predictions=outputs, mask_predictions=True, show=False
        )
    with pytest.raises(IndexError, match=r"sample_ids.*6"):
        task.get_zeroed_ts([6])


def test_padding_after_the_stop_bit_and_a_permutation():
    task = CopyTask(6, 6, pat_len=2, pad_after_stop=True, permute_time=True, **SIZES)
    with pytest.warns(UserWarning, match="pad_after_stop"):
        targets = task.output_to_torch_tensor(task.get_train_outputs(), "cpu")
    assert not targets.any()


def test_reversed_outputs_combined_by_exclusive_or():
    options = {"permute_xor": True, "permute_xor_iter": 2, "rseed": 1, **SIZES}
    once = CopyTask(3, 3, revert_output_seq=True, **options)
    outputs = once.get_train_outputs()
    separate = CopyTask(3, 3, revert_output_seq=True, permute_xor_separate=True, **options)
    assert torch.equal(
        once.output_to_torch_tensor(outputs, "cpu"), separate.output_to_torch_tensor(outputs, "cpu")
    )


def test_samples_of_a_subclass():
    class Ones(CopyTask):
        def _generate_trial_samples(self, n_samples):
            inputs, outputs, lengths, zeroed = super()._generate_trial_samples(n_samples)
            return np.ones_like(inputs), outputs, lengths, zeroed

    task = Ones(2, 3, **SIZES)
    assert (task.get_train_inputs() == 1).all()
    assert (task.get_test_outputs() != 1).any()


@pytest.mark.parametrize("seed", [None, 4])
def test_handlers_are_copied_and_pickled(seed):
    tasks = [CopyTask(3, 3, rseed=seed, **SIZES), PermutedCopy(3, rseed=seed, **SIZES)]
    for task in [*tasks, RndRecTeacher(**TEACHER, rseed=seed)]:
        for twin in (copy.deepcopy(task), pickle.loads(pickle.dumps(task))):
            task.get_train_inputs()[:] = 7
            task._data["in_data"][:] = 5
            assert (twin.get_train_inputs() != task.get_train_inputs()).any()
            assert str(twin) == str(task)


def test_parts_for_a_data_loader():
    for task in (CopyTask(2, 3, seq_width=2, **SIZES), RndRecTeacher(**TEACHER)):
        inputs = task.input_to_torch_tensor(task.get_train_inputs(), "cpu")
        outputs = task.output_to_torch_tensor(task.get_train_outputs(), "cpu")
        for i, (x, y) in enumerate(task.torch_dataset("train")):
            assert torch.equal(x, inputs[:, i]) and torch.equal(y, outputs[:, i])


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ({"permutation": np.arange(5)}, r"permutation.*\[5\]"),
        ({"permutation": np.zeros(6, dtype=int)}, "permutation"),
        ({"permutation": np.arange(6) / 2}, "permutation.*float64"),
        (
            {
                "permutation": [BACKWARDS],
                "permute_xor": True,
                "permute_xor_separate": True,
                "permute_xor_iter": 2,
            },
            "permutation.*permute_xor_iter=2",
        ),
        ({"permutation": BACKWARDS, "permute_xor": True, "permute_xor_separate": True}, "permutation.*list"),
        ({"scatter_steps": [0, 1]}, "scatter_steps.*scatter_pattern"),
        (
            {"scatter_steps": [0, 3], "scatter_pattern": True, "pat_len": 2},
            r"scatter_steps.*0 to 2.*\[0, 3\]",
        ),
        ({"scatter_steps": [0], "scatter_pattern": True, "pat_len": 2}, r"scatter_steps.*pat_len=2.*\[0\]"),
        ({"permute_time": True}, "permute_time"),
        ({"revert_output_seq": True}, "revert_output_seq"),
    ],
)
def test_arguments_of_permuted_copies_that_are_refused(arguments, names):
    with pytest.raises(ValueError, match=names):
        PermutedCopy(3, seq_width=2, **SIZES, **arguments)


def test_drawn_steps_of_a_permuted_copy():
    task = PermutedCopy(4, pat_len=2, scatter_pattern=True, rseed_scatter=1, **SIZES)
    assert len(task._data["scatter_steps"]) == 2
    assert task.output_to_torch_tensor(task.get_train_outputs(), "cpu").shape == (7, 4, 7)


def test_lists_of_permuted_copies(capsys):
    options = {"seq_width": 2, "pat_len": 3, "scatter_pattern": True, **SIZES}
    options["scatter_steps_list"] = [np.array([0, 1, 2]), np.array([3, 2, 1])]
    tasks = PermutedCopyList([BACKWARDS, None], 4, independent=True, **options)
    first, second = tasks
    assert first.permutation is BACKWARDS and second.permutation is None
    assert second._data["scatter_steps"].tolist() == [3, 2, 1]
    assert first._data["scatter_steps"].tolist() == [0, 1, 2]
    assert tasks[1:][0] is second
    assert first._data.lazily("in_data") is second._data.lazily("in_data")
    assert capsys.readouterr().out == ""
    shared = PermutedCopyList([BACKWARDS, None], 4, **options)
    assert shared[0] is shared[1:][0] and shared[0].permutation is BACKWARDS
    assert shared[1:][0]._data["scatter_steps"].tolist() == [3, 2, 1]
    assert "PermutedCopyList" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("permutations", "arguments", "names"),
    [
        (3, {}, "permutations.*3"),
        ([BACKWARDS, np.arange(3)], {}, r"permutation.*\[3\]"),
        ([BACKWARDS], {"scatter_steps_list": []}, "scatter_steps_list.*1 tasks.*0"),
        ([None], {"scatter_steps_list": [[0, 1]]}, "scatter_pattern"),
    ],
)
def test_lists_that_are_refused(permutations, arguments, names):
    with pytest.raises(ValueError, match=names):
        PermutedCopyList(permutations, 3, seq_width=2, **SIZES, **arguments)


def test_a_teacher_with_a_sigmoid():
    teacher = RndRecTeacher(**TEACHER, sigma="sigmoid", rseed=0)
    inputs = torch.tensor(teacher.get_train_inputs()).unflatten(1, (4, 3))
    state, outputs = torch.zeros(4, 3), []
    for i in range(4):
        state = torch.sigmoid(state.double() @ torch.tensor(teacher.mat_A).T + inputs[:, i])
        outputs.append(torch.sigmoid(state @ torch.tensor(teacher.mat_B).T) @ torch.tensor(teacher.mat_C).T)
    np.testing.assert_allclose(teacher.get_train_outputs(), torch.cat(outputs, 1), rtol=1e-12)
    far = RndRecTeacher(**TEACHER, sigma="sigmoid", input_range=(-1e6, 1e6))
    assert np.isfinite(far.get_train_outputs()).all()


def test_outputs_that_are_longer_than_inputs():
    short, long = (RndRecTeacher(**TEACHER, rseed=0, n_ts_out=steps) for steps in (-1, 6))
    assert (short.max_num_ts_in, short.max_num_ts_out) == (4, 4)
    assert (long.max_num_ts_in, long.max_num_ts_out) == (6, 6)
    assert (short.get_out_seq_lengths([0]), long.get_out_seq_lengths([0])) == (4, 6)
    assert long.get_in_seq_lengths([0]) == 4
    assert not long.get_train_inputs()[:, 4 * 3 :].any()
    np.testing.assert_array_equal(long.get_train_outputs()[:, : 4 * 2], short.get_train_outputs())
    assert long.get_train_outputs()[:, 4 * 2 :].all()


def test_matrices_of_teachers():
    assert np.linalg.matrix_rank(RndRecTeacher(**TEACHER, rank_A=2).mat_A) == 2
    orthogonal = RndRecTeacher(**TEACHER, orth_A=True).mat_A
    np.testing.assert_allclose(orthogonal @ orthogonal.T, np.eye(3), atol=1e-12)
    bounded = RndRecTeacher(**TEACHER, max_sv_A=0.3).mat_A
    np.testing.assert_allclose(np.linalg.norm(bounded, 2), 0.3)
    given = np.eye(3)
    teacher = RndRecTeacher(**TEACHER, mat_A=given)
    given[:] = 0
    assert (teacher.mat_A == np.eye(3)).all()


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ({"num_test": -1}, "num_test.*-1"),
        ({"n_in": 0}, "n_in.*got 0"),
        ({"n_out": 0}, "n_out.*got 0"),
        ({"sigma": "relu"}, "sigma.*'linear'.*'relu'"),
        ({"mat_A": np.eye(2)}, r"mat_A.*\[3, 3\].*\[2, 2\]"),
        ({"mat_B": np.full((3, 3), np.nan)}, "mat_B.*finite"),
        ({"mat_C": np.eye(3)}, r"mat_C.*\[2, 3\].*\[3, 3\]"),
        ({"orth_A": True, "rank_A": 2}, "orth_A.*rank_A=2"),
        ({"orth_A": True, "max_sv_A": 2.0}, r"orth_A.*max_sv_A=2\.0"),
        ({"rank_A": 4}, "rank_A.*, 4.*got 4"),
        ({"max_sv_A": 0}, "max_sv_A.*0"),
        ({"inputs": np.zeros((6, 4, 3))}, r"inputs.*\[4, 6, 3\].*\[6, 4, 3\]"),
        ({"inputs": np.full((4, 6, 3), np.inf)}, "inputs.*finite"),
        ({"inputs": np.full((4, 6, 3), "a")}, "inputs.*numbers"),
        ({"input_range": (1,)}, r"input_range.*\(1,\)"),
        ({"input_range": (0, np.nan)}, "input_range.*finite"),
        ({"n_ts_in": 0}, "n_ts_in.*got 0"),
        ({"n_ts_out": 3}, "n_ts_out.*at least 4.*3"),
        ({"rseed": -2}, "rseed.*-2"),
    ],
)
def test_arguments_of_teachers_that_are_refused(arguments, names):
    state = np.random.get_state()[1].copy()
    with pytest.raises(ValueError, match=names):
        RndRecTeacher(**{**TEACHER, **arguments})
    np.testing.assert_array_equal(np.random.get_state()[1], state)


def test_the_ideal_student_of_all_teachers():
    teachers = [RndRecTeacher(**{**TEACHER, "n_out": n_out}, rseed=n_out) for n_out in (2, 1)]
    network = SimpleRNN(n_in=3, rnn_layers=(7,), fc_layers=(4,), verbose=False)
    RndRecTeacher.construct_ideal_student(network, teachers)
    for teacher, outputs in zip(teachers, (slice(2), slice(2, 3)), strict=True):
        inputs = teacher.input_to_torch_tensor(teacher.get_test_inputs(), "cpu")
        targets = teacher.output_to_torch_tensor(teacher.get_test_outputs(), "cpu")
        torch.testing.assert_close(network(inputs)[..., outputs], targets)


@pytest.mark.parametrize(
    ("network", "teachers", "names"),
    [
        ({}, [], "dhandlers.*none"),
        ({}, [{"no_extra_fc": True}], "dhandlers.*no_extra_fc"),
        ({}, [{}, {"n_in": 2}], r"dhandlers.*n_in.*\[3, 2\]"),
        ({}, [{}, {}, {}], "net.*at least 9"),
        ({"fc_layers": (3,)}, [{}, {}], "net.*at least 4"),
        ({"fc_layers": (8, 4)}, [{}], "net"),
        ({"use_bias": False}, [{}], "net.*biases"),
        ({"no_weights": True}, [{}], "net"),
    ],
)
def test_students_that_are_refused(network, teachers, names):
    teachers = [RndRecTeacher(**{**TEACHER, **options}) for options in teachers]
    options = {"n_in": 3, "rnn_layers": (8,), "fc_layers": (6,), "verbose": False, **network}
    student = SimpleRNN(**options)
    before = copy.deepcopy(student.state_dict())
    with pytest.raises(ValueError, match=names):
        RndRecTeacher.construct_ideal_student(student, teachers)
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())
