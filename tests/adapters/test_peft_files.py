"""Files of PEFT: written for it and read from it."""

import json

import pytest
import torch
from torch import nn

from hnetfast.adapters import IA3, LoRA, Modulation, load_peft, save_peft
from hnetfast.mnets import from_module
from tests.adapters.networks import convolutions, make, random_sets, transformer, unflattened
from tests.adapters.test_merging import ScaledEmbedding
from tests.documentation import run_page

pytest.importorskip("safetensors")
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning:transformers")


@pytest.fixture
def transformers():
    return pytest.importorskip("transformers")


@pytest.fixture
def peft():
    return pytest.importorskip("peft")


def llama(transformers, **options):
    config = transformers.LlamaConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        **options,
    )
    return transformers.AutoModelForCausalLM.from_config(config).requires_grad_(False).eval()


def gpt2(transformers):
    config = transformers.GPT2Config(vocab_size=50, n_positions=16, n_embd=16, n_layer=2, n_head=4)
    return transformers.AutoModelForCausalLM.from_config(config).requires_grad_(False).eval()


CASES = {
    "queries and values": (llama, LoRA(4, 8, ["*.q_proj", "*.v_proj"])),
    "all linear": (llama, LoRA(4, 8, ["*_proj"], rslora=True)),
    "one layer": (llama, LoRA(2, 3, ["model.layers.1.self_attn.?_proj"], dropout=0.1)),
    "two ranks": (llama, [LoRA(4, 8, ["*.q_proj", "*.k_proj"]), LoRA(2, 3, ["*.down_proj"])]),
    "embeddings": (llama, LoRA(4, 8, ["*.embed_tokens", "*.q_proj"])),
    "head": (llama, LoRA(4, 8, ["lm_head"])),
    "Conv1D": (gpt2, LoRA(4, 8, ["*.c_attn"])),
    "all Conv1D": (gpt2, LoRA(4, 8, ["*.c_attn", "*.c_proj", "*.c_fc"])),
    "IA3": (llama, IA3(["*.k_proj", "*.v_proj"], feedforward="*.down_proj")),
    "IA3 of Conv1D": (gpt2, IA3(["*.c_attn"], feedforward="*.mlp.c_proj")),
}


@pytest.fixture(params=list(CASES))
def pretrained(request, transformers, peft):
    make_base, adapters = CASES[request.param]
    base = make_base(transformers)
    return base, from_module(base, adapters=adapters)


TOKENS = torch.arange(21).reshape(3, 7)


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:.*fan_in_fan_out")
def test_peft_computes_the_same(pretrained, peft, tmp_path):
    base, target = pretrained
    weights = unflattened(target, random_sets(target, 1)[0])
    expected = target(TOKENS, weights=weights).logits
    assert not torch.allclose(expected, base(TOKENS).logits, atol=1e-3)
    save_peft(target, weights, tmp_path / "made" / "adapter")
    model = peft.PeftModel.from_pretrained(base, tmp_path / "made" / "adapter").eval()
    found = model(TOKENS).logits
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    for loaded, saved in zip(load_peft(target, tmp_path / "made" / "adapter"), weights, strict=True):
        torch.testing.assert_close(loaded, saved)


@pytest.mark.filterwarnings("ignore:.*fan_in_fan_out", "ignore:.*save_embedding_layers")
def test_an_adapter_trained_by_peft_is_read(pretrained, peft, tmp_path):
    base, target = pretrained
    save_peft(target, unflattened(target, random_sets(target, 1)[0]), tmp_path / "pattern")
    config = peft.PeftConfig.from_pretrained(tmp_path / "pattern")
    config.inference_mode = False
    if config.peft_type == "LORA":
        config.lora_alpha, config.lora_dropout = 5, 0.0  # another scale
    model = peft.get_peft_model(base, config)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    for _ in range(2):
        optimizer.zero_grad()
        model(TOKENS, labels=TOKENS).loss.backward()
        optimizer.step()
    model.save_pretrained(tmp_path / "trained")
    with torch.no_grad():
        expected = model.eval()(TOKENS).logits
        found = target.eval()(TOKENS, weights=load_peft(target, tmp_path / "trained")).logits
        assert not torch.allclose(found, target(TOKENS).logits, atol=1e-4)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_a_convolution_computes_the_same_in_peft(peft, tmp_path):
    x = torch.randn(2, 3, 9, 9)
    for adapters in (LoRA(2, 4, ["0", "3"]), IA3(["0"], feedforward=["3"])):
        base = convolutions().float()
        target = from_module(base, adapters=adapters)
        weights = unflattened(target, random_sets(target, 1)[0])
        save_peft(target, weights, tmp_path)
        expected = target(x, weights=weights)
        model = peft.PeftModel.from_pretrained(base, tmp_path).eval()
        torch.testing.assert_close(model(x), expected)


class NamesInNames(nn.Module):
    """Modules whose names are the ends of others'."""

    def __init__(self):
        super().__init__()
        self.proj, self.k_proj = nn.Linear(6, 6), nn.Linear(6, 6)
        self.inner = nn.ModuleDict({"proj": nn.Linear(6, 6), "tanh": nn.Tanh()})

    def forward(self, x):
        return self.inner["tanh"](self.inner["proj"](self.k_proj(self.proj(x))))


@pytest.mark.filterwarnings("error:Found missing")
@pytest.mark.parametrize(
    "adapters",
    [
        LoRA(2, 4, "proj"),
        [LoRA(2, 4, "proj"), LoRA(3, 5, "inner.proj"), LoRA(3, 5, "k_proj")],
        IA3("k_proj", feedforward="proj"),
        IA3(["proj", "k_proj"], feedforward="inner.proj"),
        IA3("proj"),
    ],
)
def test_names_that_are_ends_of_others(peft, adapters, tmp_path):
    base, x = NamesInNames().requires_grad_(False), torch.randn(3, 6)
    target = from_module(base, adapters=adapters)
    weights = unflattened(target, random_sets(target, 1)[0])
    save_peft(target, weights, tmp_path)
    expected = target(x, weights=weights)
    model = peft.PeftModel.from_pretrained(base, tmp_path).eval()
    torch.testing.assert_close(model(x), expected)


def test_an_embedding_with_a_scale_computes_the_same_in_peft(peft, tmp_path):
    base = nn.Sequential(ScaledEmbedding(7, 6, torch.tensor(3.0)), nn.Tanh()).requires_grad_(False)
    target, x = from_module(base, adapters=LoRA(2, 4, "0")), torch.randint(7, (3, 5))
    weights = unflattened(target, random_sets(target, 1)[0])
    save_peft(target, weights, tmp_path)
    expected = target(x, weights=weights)
    torch.testing.assert_close(peft.PeftModel.from_pretrained(base, tmp_path).eval()(x), expected)


def test_initial_values_are_those_of_peft(transformers, peft):
    base = llama(transformers)
    target = from_module(base, adapters=LoRA(4, 8, ["*.q_proj", "*.embed_tokens"]))
    model = peft.get_peft_model(base, peft.LoraConfig(r=4, target_modules=["q_proj", "embed_tokens"]))
    theirs = dict(model.named_parameters())
    for name, value in zip(target.generated_names, target.initial_weights, strict=True):
        name = f"base_model.model.{name}.default"
        other = theirs[name if "embedding" in name else f"{name}.weight"]
        assert other.shape == value.shape
        torch.testing.assert_close(other.std().item(), value.std().item(), rtol=0.3, atol=0)


def test_ragged_batches_of_a_language_model(transformers):
    base = llama(transformers, attn_implementation="eager").double()
    target = from_module(base, adapters=LoRA(4, 8, ["*_proj"]))
    sets, counts = random_sets(target, 3), [1, 0, 2]
    mask = torch.ones_like(TOKENS)
    mask[0, 4:] = 0
    found = target.forward_batched(TOKENS, sets, rows=counts, attention_mask=mask).logits
    single = [
        target(x, unflattened(target, w), attention_mask=m).logits
        for x, m, w in zip(TOKENS.split(counts), mask.split(counts), sets, strict=True)
        if len(x)
    ]
    torch.testing.assert_close(found, torch.cat(single))
    factors = torch.randn_like(found)
    expected = torch.autograd.grad((torch.cat(single) * factors).sum(), sets)
    torch.testing.assert_close(torch.autograd.grad((found * factors).sum(), sets), expected)
    shared = target.forward_batched({"input_ids": TOKENS, "attention_mask": mask}, sets, use_cache=False)
    single = [target(TOKENS, unflattened(target, w), attention_mask=mask).logits for w in sets]
    torch.testing.assert_close(shared.logits, torch.stack(single))
    meta = target.param_shapes_meta[target.hyper_shapes_learned_ref[-1]]
    assert (meta["depth"], meta["module_kind"], meta["stack"]) == (1, "mlp.down_proj", "model.layers")


def test_gradient_checkpointing_is_refused(transformers):
    base = llama(transformers).train()
    base.gradient_checkpointing_enable()
    target = from_module(base, adapters=LoRA(4, 8, ["*_proj"]))
    with pytest.raises(ValueError, match=r"gradient checkpointing of .* would recompute"):
        target.forward_batched(TOKENS, random_sets(target, 3), rows=[1, 1, 1])
    with torch.no_grad():
        target(TOKENS, target.initial_weights)


def test_code_of_the_guide(transformers):
    names = run_page("docs/adapters.md")
    target, tokens, one = names["target"], names["tokens"], names["one"]
    expected = target(tokens, weights=one).logits
    torch.testing.assert_close(names["plain"](tokens).logits, expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(names["loaded"], [tensor.detach() for tensor in one])
    entry = target.param_shapes_meta[target.hyper_shapes_learned_ref[0]]
    line = " ".join(str(entry[key]) for key in ("module_name", "adapter_kind", "depth", "module_kind"))
    assert names["ensemble"].logits.shape == (3, 6, 9, 100)
    assert line == "model.layers.0.self_attn.q_proj lora_A 0 self_attn.q_proj"
    base = torch.stack([names["base"](tokens).logits] * 3)
    torch.testing.assert_close(target.forward_batched(tokens, names["weights"], use_cache=False).logits, base)


def saved(tmp_path, adapters, base=None):
    target = from_module(base or transformer(), adapters=adapters)
    save_peft(target, target.initial_weights, tmp_path)
    return target


def test_files_are_there_as_a_whole(tmp_path):
    target = saved(tmp_path, LoRA(2, 4, "*.out"))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    before = (tmp_path / "adapter_model.safetensors").read_bytes()
    with pytest.raises(ValueError, match="weights: expected"):
        save_peft(target, target.initial_weights[1:], tmp_path)
    assert (tmp_path / "adapter_model.safetensors").read_bytes() == before
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["target_modules"] == ["out"] and config["r"] == 2


@pytest.mark.parametrize(
    ("adapters", "message"),
    [
        (LoRA(3, 4, "*.out"), "folder: expected the rank 3 at 'layers.0.out', got 2"),
        (LoRA(2, 4, ["*.out", "head"]), "the adapter has no 'base_model.model.head.lora_A.weight'"),
        (
            LoRA(2, 4, "layers.1.out"),
            "expected an adapter of the target's modules alone, got 'base_model.model.layers.0",
        ),
        (IA3("*.out"), "folder: expected an adapter of PEFT's type IA3, got 'LORA'"),
        (Modulation("*.out"), "load_peft: expected adapters that are all LoRA or .*got Modulation"),
        ([LoRA(2, 4, "*.out"), IA3("*.out")], "expected adapters that are all LoRA or .*got IA3, LoRA"),
    ],
)
def test_a_file_that_does_not_fit(tmp_path, adapters, message):
    saved(tmp_path, LoRA(2, 4, "*.out"))
    target = from_module(transformer(), adapters=adapters)
    with pytest.raises(ValueError, match=message):
        load_peft(target, tmp_path)


def test_an_adapter_of_another_base(tmp_path):
    saved(tmp_path, LoRA(2, 4, "0"), nn.Sequential(nn.Linear(4, 5)).requires_grad_(False))
    target = from_module(nn.Sequential(nn.Linear(3, 5)).requires_grad_(False), adapters=LoRA(2, 4, "0"))
    with pytest.raises(
        ValueError, match=r"with the shape \[2, 3\] of 'base_model.model.0.lora_A.weight', got \[2, 4\]"
    ):
        load_peft(target, tmp_path)
    with pytest.raises(FileNotFoundError):
        load_peft(target, tmp_path / "nowhere")


def test_what_peft_does_not_have(tmp_path):
    _, target, _, _ = make("bottleneck")
    with pytest.raises(NotImplementedError, match="save_peft: expected adapters that are all"):
        save_peft(target, target.initial_weights, tmp_path)
    assert list(tmp_path.iterdir()) == []
    base = nn.Sequential(nn.Conv2d(3, 4, 3, dilation=2)).requires_grad_(False)
    with pytest.raises(NotImplementedError, match="PEFT's LoRA has no dilation, the one at '0' has"):
        saved(tmp_path, LoRA(2, 4, "0"), base)


def test_scales_in_low_precision_keep_their_digits(tmp_path):
    target = from_module(nn.Sequential(nn.Linear(4, 5)).requires_grad_(False), adapters=IA3("0")).bfloat16()
    weights = [torch.linspace(-0.02, 0.02, 5).bfloat16()]
    save_peft(target, weights, tmp_path)
    (found,) = load_peft(target, tmp_path)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, weights[0], rtol=2**-8, atol=1e-7)


def edit_config(folder, **changes):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_scales_by_expressions(tmp_path):
    target = saved(tmp_path, LoRA(2, 4, "*.out"))
    before = load_peft(target, tmp_path)
    edit_config(tmp_path, alpha_pattern={"layers.[1-3].out": 12, "out": 8})  # the first that matches
    for i, (value, own) in enumerate(zip(load_peft(target, tmp_path), before, strict=True)):
        torch.testing.assert_close(value, own * (1, 2, 1, 3)[i])
    edit_config(tmp_path, alpha_pattern={}, lora_alpha=0)
    assert not load_peft(target, tmp_path)[1].any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lora_alpha": "many"}, "folder: expected lora_alpha to be a number"),
        ({"alpha_pattern": ["out"]}, "alpha_pattern to have some for expressions"),
        ({"alpha_pattern": {"(": 4}}, "alpha_pattern to have some for expressions"),
        (
            {"init_lora_weights": "pissa_niter_4"},
            "with init_lora_weights='pissa_niter_4', which PEFT adds to",
        ),
        ({"alora_invocation_tokens": [3]}, "expected an adapter without alora_invocation_tokens, got .3."),
        ({"use_dora": True}, "expected an adapter without use_dora, got True"),
    ],
)
def test_configurations_that_mean_something_else(tmp_path, changes, message):
    target = saved(tmp_path, LoRA(2, 4, "*.out"))
    edit_config(tmp_path, **changes)
    with pytest.raises(ValueError, match=message):
        load_peft(target, tmp_path)


def test_damaged_files(tmp_path):
    import safetensors.torch

    target = saved(tmp_path, LoRA(2, 4, "*.out"))
    weights, config = tmp_path / "adapter_model.safetensors", tmp_path / "adapter_config.json"
    whole, text = weights.read_bytes(), config.read_text()
    tensors = safetensors.torch.load(whole)
    key = min(tensors)
    for change, message in (
        (lambda t: t.flatten(), r"with the shape \[2, 6\] of .*, got \[12\]"),
        (lambda t: t.sum(), r"with the shape \[2, 6\] of .*, got \[\]"),
        (lambda t: t.long(), r"numbers of floating point in .*, got torch\.int64"),
    ):
        weights.write_bytes(safetensors.torch.save(tensors | {key: change(tensors[key])}))
        with pytest.raises(ValueError, match=message):
            load_peft(target, tmp_path)
    for size in (0, 5, len(whole) - 1):
        weights.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"folder: adapter_model\.safetensors is damaged"):
            load_peft(target, tmp_path)
    for damaged in (text[:50], "", "[" * 100_000):
        config.write_text(damaged)
        with pytest.raises(ValueError, match=r"folder: adapter_config\.json is damaged"):
            load_peft(target, tmp_path)
    config.write_text(f"[{text}]")
    with pytest.raises(ValueError, match="expected an adapter of PEFT's type LORA, got 'list'"):
        load_peft(target, tmp_path)
