"""Images as generated functions of coordinates: data, models, and the command as a user runs it."""

import json
import re
from dataclasses import replace

import pytest
import torch

from hnetfast.examples import _pages
from hnetfast.examples.image_fields import _data, _models, _speed, _training, report, run

pytest.importorskip("sklearn")

SMALL = _models.Settings(
    code_size=4, encoder=(16,), hnet=(8,), field=(8, 8), omega=5.0, steps=30, batch_size=8, pixels=16
)


def images(name="digits"):
    """A few of them."""
    found = _data.LOADERS[name]()
    return replace(found, train=found.train[:64], held_out=found.held_out[:12])


def model(settings=SMALL):
    torch.manual_seed(0)
    return _models.GeneratedFields(8, 1, settings)


def test_digits():
    digits = _data.load_digits()
    assert len(digits.train) + len(digits.held_out) == 1797
    assert (digits.size, digits.channels) == (8, 1)
    assert digits.train.shape[1:] == (64, 1)
    assert (digits.train.min(), digits.train.max()) == (0, 1)


def test_photographs():
    pytest.importorskip("PIL")
    from sklearn.datasets import load_sample_images

    patches = _data.load_photographs()
    assert patches.train.shape[1:] == (256, 3)
    assert patches.train.dtype == torch.float32 and patches.train.max() <= 1
    photograph = torch.tensor(load_sample_images().images[0]).float() / 255
    # The second of a row is half a patch further; those held out begin at the column 512.
    assert torch.equal(patches.train[1].view(16, 16, 3), photograph[:16, 8:24])
    assert torch.equal(patches.held_out[1].view(16, 16, 3), photograph[:16, 528:544])


def test_coordinates_are_centres_of_pixels():
    found = _data.pixel_coordinates(2)
    assert found.tolist() == [[-0.5, -0.5], [-0.5, 0.5], [0.5, -0.5], [0.5, 0.5]]
    assert _data.pixel_coordinates(32).mean().item() == pytest.approx(0, abs=1e-6)


def test_signal_to_noise_ratio():
    half = torch.full((2, 4, 1), 0.5)
    half[1] = 1.7  # as 1
    assert _training.psnr(half, torch.ones(2, 4, 1)).tolist() == pytest.approx([6.0206, 120], rel=1e-4)


def test_principal_components():
    torch.manual_seed(0)
    train = torch.rand(10, 6, 2)
    mean = _models.reconstruct_by_components(train, train[:3], 0)
    torch.testing.assert_close(mean, train.mean(0).expand(3, 6, 2))
    torch.testing.assert_close(_models.reconstruct_by_components(train, train, 9), train)


def test_generated_networks_are_those_of_single_images():
    fields, some = model(), images().train[:3]
    coordinates = _data.pixel_coordinates(5)
    found = fields(some, coordinates)
    assert found.shape == (3, 25, 1)
    for image, values in zip(some.split(1), found, strict=True):
        weights = fields.hnet(fields.encoder(image))
        torch.testing.assert_close(0.5 + fields.field(coordinates, weights=weights), values)


def test_the_three_ways_of_a_step_agree():
    fields, some = model().double(), images().train[:4].double()
    gradients = {}
    for name, step in _speed.steps(fields, some, _data.pixel_coordinates(8).double()).items():
        loss = step()
        gradients[name] = [loss, *(param.grad for param in fields.parameters())]
    first, *others = gradients.values()
    assert len(others) == 2
    for other in others:
        torch.testing.assert_close(other, first)


def test_models_of_about_the_same_size():
    sizes = {
        name: sum(param.numel() for param in network.parameters())
        for name, network in run.make_models(images(), run.SETTINGS["digits"]).items()
    }
    assert sizes["code as input, same size"] == pytest.approx(sizes[run.GENERATED], rel=0.01)
    assert sizes["code as input, same widths"] < sizes[run.GENERATED] / 4
    # One hidden layer has no square in the number of parameters.
    assert _models.width_for(5 * 7 + 1, 3, 1, 1) == 7


def test_training_is_the_seed_s():
    some = images()
    errors = []
    for seed in (0, 0, 1):
        fields = model()
        curve = _training.train(fields, some, replace(SMALL, steps=100), seed, 16)
        assert [step for step, _ in curve] == list(range(10, 101, 10))
        assert curve[-1][1] < 0.8 * curve[0][1]
        errors.append(curve)
    assert errors[0] == errors[1] != errors[2]


def test_a_loss_that_is_not_finite():
    fields = model()
    with torch.no_grad():
        fields.encoder[1].weight.fill_(float("nan"))
    with pytest.raises(ValueError, match="the loss is nan after 3 steps"):
        _training.train(fields, images(), SMALL, 0, 16)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A folder with the results of two seeds."""
    folder = tmp_path_factory.mktemp("image_fields")
    kept = {name: getattr(run, name) for name in ("LOADERS", "SETTINGS")}
    run.LOADERS, run.SETTINGS = {"digits": images}, {"digits": replace(SMALL, steps=20)}
    try:
        for seed in (0, 1):
            pictures = [] if seed == 0 else ["--no_pictures"]
            assert run.main([f"--seed={seed}", f"--out_dir={folder}", "--quick", *pictures]) == 0
    finally:
        for name, value in kept.items():
            setattr(run, name, value)
    return folder


def test_what_a_run_writes(stored):
    assert {path.name for path in stored.iterdir()} == {
        "digits_seed0.json",
        "digits_seed0.png",
        "digits_seed1.json",
    }
    assert (stored / "digits_seed0.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    result = json.loads((stored / "digits_seed0.json").read_text())
    assert result["settings"]["code_size"] == 4
    assert all(ms > 0 for ms in result["step"].values())
    assert re.search(
        r"digits, a step with 8 images: all at once .* one image at a time", run.format_step(result)
    )


def test_table_of_stored_runs(stored, tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text(f"# Fields\n\n{_pages.START}\n{_pages.END}\n")
    assert report.main([str(stored), f"--page={page}"]) == 0
    rows = [line.split(" | ") for line in page.read_text().splitlines() if line.startswith("| ")][1:]
    assert [row[1] for row in rows] == [
        "mean image",
        "principal components",
        "code as input, same widths",
        "code as input, same size",
        run.GENERATED,
    ]
    assert all(row[5] == "2" for row in rows)
    assert report.main([str(stored)]) == 0
    assert run.GENERATED in capsys.readouterr().out


def test_folders_without_results(stored, tmp_path, capsys):
    assert report.main([str(tmp_path)]) == 1
    assert "expected results of runs (*.json), found none" in capsys.readouterr().err
    (tmp_path / "other.json").write_text("{}")
    assert report.main([str(tmp_path)]) == 1
    assert "expected the results of a run" in capsys.readouterr().err
    (tmp_path / "other.json").write_text("{")
    assert report.main([str(tmp_path)]) == 1
    assert "expected JSON" in capsys.readouterr().err
    first, second = report.load_results(stored)
    second["settings"]["steps"] = 7
    with pytest.raises(ValueError, match="runs on digits with the same settings"):
        report.format_table([first, second])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seed=-1"], "argument --seed: expected an integer of at least 0, got '-1'"),
        (["--threads=0"], "argument --threads: expected an integer of at least 1, got '0'"),
        (["--dataset=faces"], "argument --dataset: invalid choice: 'faces'"),
    ],
)
def test_bad_options_are_explained(arguments, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        run.main(arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_a_folder_that_cannot_be_written(capsys):
    assert run.main(["--out_dir=/dev/null/fields"]) == 1
    assert "error: " in capsys.readouterr().err
