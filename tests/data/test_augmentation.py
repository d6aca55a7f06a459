"""Augmentation of whole batches: random numbers, what is refused, devices."""

import numpy as np
import pytest
import torch

from hnetfast.data import _augmentation
from hnetfast.data._augmentation import augment_images, image_bytes
from hnetfast.utils.torch_utils import CutoutTransform

transforms = pytest.importorskip("torchvision.transforms")


def pipeline():
    """CIFAR's, with everything that is random."""
    return transforms.Compose(
        [
            transforms.ToPILImage("RGB"),
            transforms.RandomHorizontalFlip(),
            transforms.RandomCrop(32, padding=4),
            transforms.ToTensor(),
            transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
            CutoutTransform(2, 16),
        ]
    )


def images(number, seed=0):
    return np.random.RandomState(seed).rand(number, 32 * 32 * 3)


def one_by_one(kinds, number):
    drawn = [
        torch.rand(1).item() if kind is None else torch.randint(kind, (1,)).item()
        for _ in range(number)
        for kind in kinds
    ]
    return [drawn[i :: len(kinds)] for i in range(len(kinds))]


@pytest.mark.parametrize("kinds", [[None], [9, 9], [None, 9, 9], [9, 1, None, 2**20 + 1], []])
def test_random_numbers_are_those_of_single_calls(kinds):
    assert _augmentation._words_are_known()  # not so after an update of torch: then draws are slow, no more
    for seed, number in enumerate([0, 1, 2, 3, 15, 16, 17, 257]):
        torch.manual_seed(seed)
        at_once, state = _augmentation._draw(kinds, number), torch.get_rng_state()
        torch.manual_seed(seed)
        assert [list(column) for column in at_once] == one_by_one(kinds, number)
        assert torch.equal(state, torch.get_rng_state())


def test_without_knowledge_of_the_generator(monkeypatch):
    monkeypatch.setattr(_augmentation, "_words_are_known", lambda: False)
    torch.manual_seed(1)
    np.random.seed(0)
    found = augment_images(images(5), "cpu", pipeline())
    torch.manual_seed(1)
    np.random.seed(0)
    monkeypatch.undo()
    expected = augment_images(images(5), "cpu", pipeline())
    assert torch.equal(found, expected)


def test_no_step_is_called_with_a_single_image(monkeypatch):
    def refuse(*arguments):
        raise AssertionError("called")

    for kind in (transforms.ToPILImage, transforms.ToTensor, CutoutTransform):
        monkeypatch.setattr(kind, "__call__", refuse)
    assert augment_images(images(3), "cpu", pipeline()).shape == (3, 3072)


def test_pipelines_may_change_between_batches():
    transform = pipeline()
    augment_images(images(2), "cpu", transform)
    del transform.transforms[1:3], transform.transforms[-1]
    found = augment_images(images(2), "cpu", transform)
    by_hand = transforms.Normalize(transform.transforms[-1].mean, transform.transforms[-1].std)(
        torch.from_numpy(image_bytes(images(2), 3072)).view(2, 32, 32, 3).permute(0, 3, 1, 2) / 255
    )
    assert torch.equal(found.view(2, 32, 32, 3).permute(0, 3, 1, 2), by_hand)


def test_steps_on_the_device_of_the_result(device):
    program = _augmentation._compile(pipeline(), (32, 32, 3))
    pixels = image_bytes(images(9), 3072)
    torch.manual_seed(0)
    np.random.seed(0)
    expected = program.run(pixels, torch.device("cpu"))
    torch.manual_seed(0)
    np.random.seed(0)
    places, holes = program._draw_places(9), program._draw_holes(9)
    constants = [np.tile([s.mean, s.std], 1024) for s in program.steps[:1]]
    tensors = (torch.from_numpy(array).to(device) for array in (pixels, places, *holes, *constants))
    found = program._run_on_device(*tensors)
    assert found.device.type == device.type
    assert torch.equal(found.cpu(), expected)


@pytest.mark.gpu
def test_augmentation_on_a_gpu():
    results = []
    for device in ("cpu", "cuda"):
        torch.manual_seed(0)
        np.random.seed(0)
        results.append(augment_images(images(9), device, pipeline()).cpu())
    assert torch.equal(*results)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -0.01, 1.01, 300])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_numbers_outside_0_to_1_are_refused_before_anything_is_drawn(wrong, dtype):
    x = images(40).astype(dtype)
    x[39, 5] = wrong
    states = torch.get_rng_state(), np.random.get_state()[1]
    with pytest.raises(ValueError, match=r"x: expected numbers from 0 to 1, got (nan|inf|-0\.01|1\.0|300)"):
        augment_images(x, "cpu", pipeline())
    assert torch.equal(states[0], torch.get_rng_state())
    assert np.array_equal(states[1], np.random.get_state()[1])


def test_other_arrays_are_refused():
    with pytest.raises(ValueError, match=r"expected images \[B, 3072\], got an array \[3, 32, 32, 3\]"):
        augment_images(images(3).reshape(3, 32, 32, 3), "cpu", pipeline())
    with pytest.raises(ValueError, match=r"expected images \[B, 48\], got an array \[3, 3072\]"):
        augment_images(images(3), "cpu", pipeline(), [4, 4, 3])
    with pytest.raises(TypeError, match="x: expected numbers"):
        augment_images(np.full((1, 3072), "a"), "cpu", pipeline())


def test_rounding_errors_around_0_and_1_are_taken():
    x = np.array([[-1e-9, 1 + 1e-9, 0.0, 1.0]])
    assert image_bytes(x, 4).tolist() == [[0, 255, 0, 255]]
    assert image_bytes(x.tolist(), 4).tolist() == [[0, 255, 0, 255]]


@pytest.mark.parametrize("transform", [pipeline(), lambda image: torch.zeros(3, 32, 32)])
def test_no_images(transform):
    assert augment_images(np.empty((0, 3072)), "cpu", transform).shape == (0, 3072)


def test_results_are_the_callers():
    x = images(3)
    copy = x.copy()
    transform = transforms.Compose([transforms.ToPILImage(), transforms.ToTensor()])
    augment_images(x, "cpu", transform).zero_()
    assert np.array_equal(x, copy)
    assert augment_images(x, "cpu", transform).any()
