"""Comparison of data handlers with those of hypnettorch, in one process."""

import random

import numpy as np
import pytest
import torch

from hnetfast._comparison import import_hypnettorch

pytest.importorskip("hypnettorch")

PARTS = ("train", "test", "val")
IGNORE_ORACLE_WARNINGS = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning", "ignore::SyntaxWarning"
)


def oracle(module):
    """hypnettorch's module of a name below ``data``, e.g. ``"special.donuts"``."""
    return import_hypnettorch(f"data.{module}")


def seeded(function, seed):
    """What a function returns after all generators were seeded."""
    np.random.seed(seed)
    # torch.manual_seed notes where it was called from, three times, for devices that there may be later.
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_available():
        torch.cuda.manual_seed_all(seed)
    random.seed(seed)
    return function()


def both(ours, theirs, seed=0):
    """Results of two functions from the same state of all generators, which they must leave in the same."""
    ours, state = seeded(ours, seed), generator_states()
    theirs = seeded(theirs, seed)
    assert_same(state, generator_states(), "state of the random generators")
    return ours, theirs


def generator_states():
    kind, keys, *rest = np.random.get_state()
    _, more_keys, next_normal = random.getstate()
    return [kind, keys, *rest, torch.get_rng_state(), np.array(more_keys), next_normal]


def assert_same(ours, theirs, what=""):
    """Same types, dtypes, shapes and values, bit for bit."""
    if isinstance(theirs, np.ndarray):
        assert isinstance(ours, np.ndarray), what
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape), what
        if theirs.dtype.kind == "U":  # names: in a subclass of arrays with its own idea of equality
            assert type(ours) is type(theirs) and ours.tolist() == theirs.tolist(), what
        else:
            np.testing.assert_array_equal(ours, theirs, err_msg=what)
    elif isinstance(theirs, torch.Tensor):
        assert (ours.dtype, ours.shape, ours.device) == (theirs.dtype, theirs.shape, theirs.device), what
        assert torch.equal(ours, theirs), what
    elif isinstance(theirs, (list, tuple)):
        assert isinstance(ours, type(theirs)) and len(ours) == len(theirs), what
        for i, (our, their) in enumerate(zip(ours, theirs, strict=True)):
            assert_same(our, their, f"{what}[{i}]")
    else:
        assert ours == theirs, what


def assert_same_handler(
    ours, theirs, *, batch_sizes=(1, 3), modes=("train", "inference"), tensors=True, encodings=None
):
    """Same properties, parts, encodings, IDs, batches of several epochs, iterators, tensors in all modes."""
    names = ["classification", "sequence", "num_classes", "is_one_hot", "in_shape", "out_shape"]
    names += [f"num_{part}_samples" for part in PARTS] + ["shuffle_test_samples", "shuffle_val_samples"]
    for name in names:
        our, their = getattr(ours, name), getattr(theirs, name)
        assert our == their and list(np.shape(our)) == list(np.shape(their)), name
    assert str(ours) == str(theirs)
    assert ours.get_identifier() == theirs.get_identifier()
    assert ours.is_image_dataset() == theirs.is_image_dataset()
    if encodings is None:
        encodings = (None, False, True) if theirs.classification else (None,)
    for part in PARTS:
        for name in (f"get_{part}_inputs", f"get_{part}_ids"):
            assert_same(getattr(ours, name)(), getattr(theirs, name)(), name)
        for use_one_hot in encodings:
            name = f"get_{part}_outputs"
            arguments = {"use_one_hot": use_one_hot}
            assert_same(getattr(ours, name)(**arguments), getattr(theirs, name)(**arguments), name)
        if getattr(theirs, f"num_{part}_samples") == 0:
            continue
        ids = getattr(theirs, f"get_{part}_ids")()[:3][::-1]
        name = f"{part}_ids_to_indices"
        assert_same(getattr(ours, name)(ids), getattr(theirs, name)(ids), name)
        for size in batch_sizes:
            batches = both(
                lambda part=part, size=size: _batches(ours, part, size, encodings),
                lambda part=part, size=size: _batches(theirs, part, size, encodings),
                seed=size,
            )
            assert_same(*batches, f"batches of {size} of {part}")
        if tensors:
            for mode in modes:
                for plain in (False, True):
                    converted = both(
                        lambda part=part, mode=mode, plain=plain: _tensors(ours, part, mode, plain),
                        lambda part=part, mode=mode, plain=plain: _tensors(theirs, part, mode, plain),
                    )
                    assert_same(*converted, f"tensors of {part} in mode {mode}")


def _batches(handler, part, size, encodings):
    handler.reset_batch_generator()
    next_batch, iterate = getattr(handler, f"next_{part}_batch"), getattr(handler, f"{part}_iterator")
    found = []
    for use_one_hot in encodings:
        found += [next_batch(size, use_one_hot=use_one_hot, return_ids=True) for _ in range(3)]
    found += list(iterate(max(size, getattr(handler, f"num_{part}_samples") // 2)))
    found += list(
        iterate(max(size, getattr(handler, f"num_{part}_samples") // 2 + 1), return_remainder=False)
    )
    return [*found, next_batch(size)]


def _tensors(handler, part, mode, plain):
    handler.reset_batch_generator()
    inputs, outputs, ids = getattr(handler, f"next_{part}_batch")(4, return_ids=True)
    options = {"mode": mode, "force_no_preprocessing": plain, "sample_ids": ids}
    return [
        handler.input_to_torch_tensor(inputs, "cpu", **options),
        handler.output_to_torch_tensor(outputs, "cpu", **options),
    ]
