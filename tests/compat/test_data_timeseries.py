"""Made sequences against hypnettorch: the copy task, permuted ones, random recurrent teachers."""

import contextlib
import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hnetfast.data.timeseries import copy_data, permuted_copy, rnd_rec_teacher
from hnetfast.mnets.simple_rnn import SimpleRNN
from tests.compat.data_comparison import (
    IGNORE_ORACLE_WARNINGS,
    assert_same,
    assert_same_handler,
    both,
    oracle,
)

pytestmark = IGNORE_ORACLE_WARNINGS

their_copy_data = oracle("timeseries.copy_data")
their_permuted_copy = oracle("timeseries.permuted_copy")
their_teacher = oracle("timeseries.rnd_rec_teacher")


def quietly(function, *args, **kwargs):
    """Result of a function whose printed output is thrown away."""
    with contextlib.redirect_stdout(io.StringIO()):
        return function(*args, **kwargs)


def assert_same_entries(ours, theirs):
    """Same contents of ``_data`` and same lengths of all samples."""
    assert set(ours._data) == set(theirs._data)
    for key, value in theirs._data.items():
        assert_same(ours._data[key], value, key)
    ids = np.arange(len(theirs._data["in_data"]))
    for name in ("get_in_seq_lengths", "get_out_seq_lengths"):
        assert_same(getattr(ours, name)(ids), getattr(theirs, name)(ids), name)
    assert (ours.max_num_ts_in, ours.max_num_ts_out) == (theirs.max_num_ts_in, theirs.max_num_ts_out)


def assert_same_copy_task(ours, theirs):
    ids = np.arange(len(theirs._data["in_seq_lengths"]))[::-1]
    assert_same(ours.get_out_pattern_bounds(ids), theirs.get_out_pattern_bounds(ids))
    assert_same(ours.get_zeroed_ts(ids), theirs.get_zeroed_ts(ids))
    assert_same(ours.permutation, theirs.permutation)
    assert_same(ours.permutation_, theirs.permutation_)
    reversible = theirs.permutation is None or theirs._data["min_input_len"] == theirs._data["max_input_len"]
    assert_same_handler(ours, theirs, batch_sizes=(2,), modes=("train",), tensors=reversible)
    assert_same_entries(ours, theirs)


@st.composite
def copy_arguments(draw):
    """Arguments of the copy task that hypnettorch accepts."""
    shortest = draw(st.integers(1, 5))
    arguments = {
        "min_input_len": shortest,
        "max_input_len": shortest + draw(st.sampled_from([0, 0, 1, 3])),
        "seq_width": draw(st.integers(1, 4)),
        "num_train": draw(st.integers(1, 5)),
        "num_test": draw(st.integers(1, 3)),
        "num_val": draw(st.sampled_from([None, 1, 2])),
    }
    for name in ("rseed", "rseed_permute", "rseed_scatter"):
        arguments[name] = draw(st.sampled_from([None, None, 5]))
    padding = draw(st.sampled_from(["none", "zeros", "random_pad", "pad_after_stop", "scatter_pattern"]))
    if padding != "none":
        few = padding in ("pad_after_stop", "scatter_pattern")
        arguments["pat_len"] = draw(st.integers(1, shortest if few else arguments["max_input_len"]))
        if padding != "zeros":
            arguments[padding] = True
    manipulations = ["none", "out_width", "revert_output_seq"]
    if arguments["max_input_len"] == shortest:
        manipulations += ["permute_width", "permute_time", "both", "pairwise_permute"] * 2
    manipulation = draw(st.sampled_from(manipulations))
    if manipulation in ("both", "permute_width"):
        arguments["permute_width"] = True
    elif draw(st.booleans()):
        arguments["out_width"] = draw(st.integers(1, arguments["seq_width"]))
    if manipulation in ("both", "permute_time", "pairwise_permute"):
        arguments["permute_time"] = True
    if manipulation in ("pairwise_permute", "revert_output_seq"):
        arguments[manipulation] = True
    if draw(st.booleans()):
        arguments |= {"permute_xor": True, "permute_xor_iter": draw(st.integers(1, 3))}
        arguments["permute_xor_separate"] = manipulation != "revert_output_seq" and draw(st.booleans())
    return arguments


@given(copy_arguments())
def test_copy_task(arguments):
    ours, theirs = both(
        lambda: copy_data.CopyTask(**arguments), lambda: their_copy_data.CopyTask(**arguments), seed=1
    )
    assert_same_copy_task(ours, theirs)


@pytest.mark.parametrize("length", [4, (3, 5)])
@pytest.mark.parametrize("padding", ["zeros", "random_pad", "pad_after_stop", "scatter_pattern"])
def test_targets_of_any_outputs(length, padding):
    """Also of outputs that are no bits, so that every number tells where it comes from."""
    shortest, longest = (length, length) if isinstance(length, int) else length
    arguments = {"min_input_len": shortest, "max_input_len": longest, "seq_width": 3, "pat_len": 2}
    if padding != "zeros":
        arguments[padding] = True
    variants = [{}]
    if shortest == longest:
        variants += [{"permute_time": True, "permute_width": True}, {"revert_output_seq": True}]
        variants += [
            {
                "permute_time": True,
                "permute_xor": True,
                "permute_xor_iter": 3,
                "permute_xor_separate": separate,
            }
            for separate in (False, True)
        ]
    for variant in variants:
        handlers = [
            module.CopyTask(**arguments, **variant, rseed=0, rseed_permute=1, rseed_scatter=2)
            for module in (copy_data, their_copy_data)
        ]
        outputs = np.arange(1.0, 1 + 2 * handlers[1]._data["out_data"].shape[1]).reshape(2, -1)
        outputs[0, 3 * 2 : 3 * 3] = outputs[1, 3 * 3 : 3 * 4] = -1
        assert_same(*(handler.output_to_torch_tensor(outputs, "cpu") for handler in handlers))


@pytest.mark.parametrize(
    ("time", "width", "options"),
    [
        *((time, width, {}) for time in (True, False) for width in (True, False)),
        *((time, False, {"pairwise_permute": True}) for time in (True, False)),
        *((time, width, {"revert_output_seq": True}) for time in (True, False) for width in (True, False)),
    ],
)
def test_permutations(time, width, options):
    for length, bits in ((0, 2), (1, 2), (5, 3)):
        results = [
            module.CopyTask.create_permutation_matrix(
                time, width, length, bits, np.random.RandomState(1), **options
            )
            for module in (copy_data, their_copy_data)
        ]
        assert_same(*results)


def test_protected_members_of_the_copy_task():
    handlers = [module.CopyTask(2, 4, seq_width=2, rseed=3) for module in (copy_data, their_copy_data)]
    assert_same(*(handler._generate_trial_samples(5) for handler in handlers))
    names = {name for name in vars(handlers[1]) if name.startswith("_perm") or "pad" in name}
    for name in {*names, "_rseed_permute", "_pairwise_permute", "_revert_output_seq"}:
        assert getattr(handlers[0], name) == getattr(handlers[1], name), name
    for outputs, predictions in ((None, None), (1, None), (1, 1)):
        assert handlers[0]._plot_config(1, outputs, predictions) == handlers[1]._plot_config(
            1, outputs, predictions
        )


@pytest.mark.parametrize("options", [{}, {"equalize_size": True}, {"mask_predictions": True}])
def test_figures_of_the_copy_task(options):
    from matplotlib import pyplot as plt

    drawn = []
    for module in (copy_data, their_copy_data):
        handler = module.CopyTask(2, 4, seq_width=3, out_width=2, pat_len=2, rseed=3)
        ids = handler.get_train_ids()[4:7]
        for number in (1, 2, 3):
            images = {"outputs": handler.get_train_outputs()[4:7], "predictions": None}
            images["predictions"] = images["outputs"] + 0.5
            images = dict(list(images.items())[: number - 1])
            handler.plot_samples(
                "copies", handler.get_train_inputs()[4:7], show=False, sample_ids=ids, **images, **options
            )
            axes = plt.gcf().axes
            drawn.append(
                [
                    (ax.get_ylabel(), ax.get_position().bounds, *(np.array(i.get_array()) for i in ax.images))
                    for ax in axes
                ]
            )
            plt.close()
    for ours, theirs in zip(drawn[:3], drawn[3:], strict=True):
        assert [our[0] for our in ours] == [their[0] for their in theirs]
        np.testing.assert_allclose([our[1] for our in ours], [their[1] for their in theirs])
        for our, their in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(our[2], their[2])


@st.composite
def teacher_arguments(draw):
    """Arguments of random recurrent teachers that hypnettorch accepts, but for a sigmoid."""
    arguments = {
        "num_train": draw(st.integers(1, 6)),
        "num_test": draw(st.integers(1, 3)),
        "num_val": draw(st.sampled_from([None, 0, 2])),
        "n_in": draw(st.integers(1, 6)),
        "n_out": draw(st.integers(1, 4)),
        "sigma": draw(st.sampled_from(["tanh", "linear"])),
        "no_extra_fc": draw(st.booleans()),
        "n_ts_in": draw(st.integers(1, 4)),
        "rseed": draw(st.sampled_from([None, 3])),
        "input_range": draw(st.sampled_from([(-1, 1), [0.5, 2]])),
    }
    n_in, n_out, steps = arguments["n_in"], arguments["n_out"], arguments["n_ts_in"]
    random = np.random.RandomState(0)
    for name, shape in (("mat_A", (n_in, n_in)), ("mat_B", (n_in, n_in)), ("mat_C", (n_out, n_in))):
        if draw(st.sampled_from([False, False, True])):
            arguments[name] = random.normal(size=shape)
    if draw(st.booleans()):
        total = sum(arguments[f"num_{part}"] or 0 for part in ("train", "test", "val"))
        arguments["inputs"] = random.randint(-3, 3, size=(steps, total, n_in)).astype(
            draw(st.sampled_from([int, np.float32, float]))
        )
    kind = draw(st.sampled_from(["orthogonal", "random"]))
    if kind == "orthogonal":
        arguments["orth_A"] = True
    else:
        arguments["rank_A"] = draw(st.sampled_from([-1, 1, n_in]))
        arguments["max_sv_A"] = draw(st.sampled_from([-1.0, 0.7, 1]))
    if draw(st.booleans()):
        arguments["n_ts_out"] = steps
    return arguments


@given(teacher_arguments())
def test_random_recurrent_teachers(arguments):
    ours, theirs = both(
        lambda: rnd_rec_teacher.RndRecTeacher(**arguments),
        lambda: quietly(their_teacher.RndRecTeacher, **arguments),
        seed=1,
    )
    for name in ("mat_A", "mat_B", "mat_C"):
        assert_same(getattr(ours, name), getattr(theirs, name), name)
    assert_same_handler(ours, theirs, batch_sizes=(2,), modes=("train",))
    # differs: `RndRecTeacher` takes `n_ts_out`
    theirs._data["out_seq_lengths"] = theirs._data["in_seq_lengths"]
    assert_same_entries(ours, theirs)


def test_the_ideal_student():
    handlers = [
        [
            quietly(
                module.RndRecTeacher, num_train=5, num_test=3, n_in=3, n_out=n_out, n_ts_in=4, rseed=n_out
            )
            for n_out in (2, 1)
        ]
        for module in (rnd_rec_teacher, their_teacher)
    ]
    networks = [
        kind(n_in=3, rnn_layers=(8,), fc_layers=(4,), verbose=False)
        for kind in (SimpleRNN, their_teacher.SimpleRNN)
    ]
    rnd_rec_teacher.RndRecTeacher.construct_ideal_student(networks[0], handlers[0])
    their_teacher.RndRecTeacher.construct_ideal_student(networks[1], handlers[1])
    for our, their in zip(networks[0].internal_params, networks[1].internal_params, strict=True):
        assert_same(our.detach(), their.detach())


PERMUTATIONS = [np.random.RandomState(i).permutation(8) for i in range(4)]


@pytest.mark.parametrize(
    ("input_len", "arguments"),
    [
        (4, {}),
        (4, {"permutation": PERMUTATIONS[0]}),
        (4, {"permutation": PERMUTATIONS[0], "permute_xor": True, "permute_xor_iter": 2}),
        (4, {"permutation": PERMUTATIONS, "permute_xor": True, "permute_xor_separate": True}),
        (
            4,
            {
                "permutation": PERMUTATIONS,
                "permute_xor": True,
                "permute_xor_separate": True,
                "permute_xor_iter": 3,
            },
        ),
        (6, {"permutation": PERMUTATIONS[1], "pat_len": 4, "random_pad": True, "rseed": 2}),
        (8, {"permutation": PERMUTATIONS[1], "out_width": 1, "task_id": 2}),
        (
            6,
            {
                "permutation": PERMUTATIONS[1],
                "pat_len": 4,
                "scatter_pattern": True,
                "scatter_steps": np.array([5, 0, 2, 3]),
                "rseed_scatter": 4,
            },
        ),
    ],
)
def test_permuted_copy(input_len, arguments):
    options = {"seq_width": 2, "num_train": 4, "num_test": 3, "num_val": 2, **arguments}
    ours, theirs = both(
        lambda: permuted_copy.PermutedCopy(input_len, **options),
        lambda: quietly(their_permuted_copy.PermutedCopy, input_len, **options),
    )
    assert_same_copy_task(ours, theirs)
    assert_same(ours._permutation, theirs._permutation)


@pytest.mark.parametrize("scattered", [False, True])
def test_lists_of_permuted_copies(scattered):
    """Whatever is done with their elements; hypnettorch's can't be sliced if their time steps differ."""
    # differs: Slices of `PermutedCopyList`
    steps = [np.array(steps) for steps in ([0, 1, 2, 5], [1, 2, 4, 5], [0, 1, 2, 3])]
    options = {"scatter_pattern": True, "scatter_steps_list": steps, "pat_len": 4} if scattered else {}
    options |= {"seq_width": 2, "num_train": 5, "num_test": 3, "num_val": 2}

    def run(module):
        tasks = module.PermutedCopyList([*PERMUTATIONS[:2], None], 6 if scattered else 4, **options)
        found = [len(tasks)]
        for _ in range(2):
            for task in (tasks[0], tasks[-1], tasks[1], *tasks):
                targets = task.output_to_torch_tensor(task.get_test_outputs(), "cpu")
                found += [task.permutation, task._data["scatter_steps"], targets]
                found += [task.next_train_batch(3), task.next_test_batch(2), task.next_val_batch(1)]
        if not scattered:
            tasks[0]  # differs: Slices of `PermutedCopyList`
            found += [len(tasks[1:]), tasks[1:][1].permutation]
        return found

    assert_same(*both(lambda: quietly(run, permuted_copy), lambda: quietly(run, their_permuted_copy)))


def test_members_of_lists_of_permuted_copies():
    lists = [
        quietly(module.PermutedCopyList, PERMUTATIONS, 4, seq_width=2, show_perm_change_msg=False)
        for module in (permuted_copy, their_permuted_copy)
    ]
    for tasks in lists:
        _ = tasks[2]
    for name in ("_permutations", "_scatter_steps", "_show_perm_change_msg", "_active_perm"):
        assert_same(getattr(lists[0], name), getattr(lists[1], name))
    for name in ("_batch_gens_train", "_batch_gens_test", "_batch_gens_val"):
        assert getattr(lists[0], name) == getattr(lists[1], name)
    assert lists[0]._data is lists[0][0] and lists[1]._data is lists[1][0]
