"""Encoders of transformers: tiny ones of every usual type, with random weights."""

import copy

import pytest
import torch
from fake_hub import OF_TYPE, config, write_model
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    AutoConfig,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
)

from {{ cookiecutter.__package_name }}.engine import UserError
from {{ cookiecutter.__package_name }}.engine.fast.step_versions import (
    StepVersions,
)
from {{ cookiecutter.__package_name }}.engine.text import encoder_config
from {{ cookiecutter.__package_name }}.engine.text.encoders import (
    Encoder,
    check_max_length,
    load_encoder,
    load_weights,
)
from {{ cookiecutter.__package_name }}.engine.text.lora import add_lora, merged

CLASSES, TOKENS, LENGTH = 3, 100, 16
Inputs = tuple[Tensor, Tensor, Tensor]


def encoder(kind: str, objective: encoder_config.Objective = "classes") -> Encoder:
    """Return a tiny encoder without dropout, whose weights are as large as after training."""
    outputs = TOKENS if objective == "masked" else CLASSES
    settings = config(kind, num_labels=CLASSES)
    made = Encoder(settings, outputs, objective).eval()
    for weight in made.parameters():
        nn.init.normal_(weight, std=0.2)
    return made


def texts(made: Encoder) -> Inputs:
    """Return four pairs of several lengths: tokens, segments and mask."""
    lengths = torch.tensor([LENGTH, 9, 5, 12])
    mask = torch.arange(LENGTH) < lengths[:, None]
    tokens = torch.randint(5, TOKENS, mask.shape, dtype=torch.int32)
    tokens = tokens.masked_fill(~mask, made.model.config.pad_token_id)
    return tokens, ((torch.arange(LENGTH) >= 4) & mask).to(torch.uint8), mask


@pytest.mark.parametrize("objective", ["classes", "masked"])
@pytest.mark.parametrize("kind", list(OF_TYPE))
def test_padding_changes_nothing(kind, objective):
    made = encoder(kind, objective)
    tokens, segments, mask = texts(made)
    outputs = made(tokens, segments, mask)
    assert outputs.shape[-1] == made.outputs
    for row, length in enumerate(mask.sum(1).tolist()):
        alone = made(*(each[row : row + 1, :length] for each in (tokens, segments, mask)))
        padded = outputs[row, :length] if objective == "masked" else outputs[row]
        torch.testing.assert_close(padded, alone[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("objective", ["classes", "masked"])
@pytest.mark.parametrize("kind", list(OF_TYPE))
def test_random_weights_are_distributed_as_those_of_transformers(kind, objective):
    large = {"vocab_size": 4000, "dim" if kind == "distilbert" else "hidden_size": 256}
    auto = AutoModelForMaskedLM if objective == "masked" else AutoModelForSequenceClassification
    torch.manual_seed(1)
    ours = Encoder(config(kind, **large), 4000 if objective == "masked" else 2, objective).model
    theirs = auto.from_config(config(kind, **large), dtype=torch.float32).state_dict()
    assert list(ours.state_dict()) == list(theirs)
    for name, weight in ours.state_dict().items():
        expected = theirs[name].float()
        assert float(weight.float().mean()) == pytest.approx(float(expected.mean()), abs=0.01), name
        spread = float(weight.float().std(correction=0))
        assert spread == pytest.approx(float(expected.std(correction=0)), rel=0.25), name


@pytest.mark.parametrize("kind", list(OF_TYPE))
def test_outputs_are_those_of_transformers_with_a_mask_of_its_own(kind):
    made = encoder(kind)
    tokens, segments, mask = texts(made)
    theirs = {"input_ids": tokens.long(), "attention_mask": mask.long()}
    if kind in ("bert", "electra"):
        theirs["token_type_ids"] = segments.long()
    expected = made.model(**theirs).logits
    torch.testing.assert_close(made(tokens, segments, mask), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", list(OF_TYPE))
def test_segments_matter_only_to_a_network_that_knows_them(kind):
    made = encoder(kind)
    tokens, segments, mask = texts(made)
    alike = torch.equal(made(tokens, segments, mask), made(tokens, segments * 0, mask))
    assert alike == (kind not in ("bert", "electra"))
    assert made(tokens, None, mask).shape == (4, CLASSES)


@pytest.mark.parametrize("kind", list(OF_TYPE))
def test_an_encoder_is_one_graph_forward_and_backward(kind):
    made = encoder(kind)
    inputs = texts(made)
    expected = made(*inputs)
    torch._dynamo.reset()
    compiled = torch.compile(copy.deepcopy(made), backend="aot_eager", fullgraph=True)
    outputs = compiled(*inputs)
    torch.testing.assert_close(outputs, expected)
    expected.square().sum().backward()
    outputs.square().sum().backward()
    for own, theirs in zip(made.parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(own.grad, theirs.grad, atol=1e-4, rtol=1e-4)


class Waits(TorchDispatchMode):
    """Counts what would make the host wait for a GPU: values that leave their tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.found = list[str]()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default):
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", list(OF_TYPE))
def test_an_encoder_that_is_not_compiled_waits_for_no_value(kind):
    made = encoder(kind).train()
    tokens, segments, _ = texts(made)
    with Waits() as waits:
        made(tokens, segments, torch.ones(tokens.shape, dtype=torch.bool)).sum().backward()
        assert not waits.found
        if kind == "bert":  # as transformers' own mask does, which is why it gets another
            made.model(input_ids=tokens.long(), attention_mask=torch.ones_like(tokens))
            assert waits.found


class Moves(TorchDispatchMode):
    """Collects the operations that copy a tensor between host and GPU, which a graph can't have."""

    def __init__(self) -> None:
        super().__init__()
        self.found = list[str]()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default):
            copied = args[-1] if func is torch.ops.aten.copy_.default else args[0]
            if copied.device.type != result.device.type:
                self.found.append(str(func))
        return result


@pytest.mark.parametrize("kind", list(OF_TYPE))
def test_an_encoder_on_a_gpu_copies_nothing_from_or_to_the_host(kind):
    with FakeTensorMode():  # which knows the devices of tensors without having them
        with torch.device("cuda"):
            made = Encoder(config(kind), CLASSES, "classes")
            tokens = torch.zeros(4, LENGTH, dtype=torch.int32)
            segments, mask = tokens.to(torch.uint8), tokens == 0
        with Moves() as moves:
            outputs = made(tokens, segments, mask)
            assert outputs.device.type == "cuda"
            assert bool(moves.found) == (kind == "deberta-v2")  # a constant, if not compiled
            moves.found.clear()
            tokens.cpu()
            assert moves.found


def test_roberta_counts_positions_from_the_padding_on():
    made = encoder("roberta")
    assert made.positions == OF_TYPE["roberta"]["max_position_embeddings"] - 2
    rows = torch.full((1, made.positions), 7)
    assert made(rows, None, rows > 0).isfinite().all()
    with pytest.raises(UserError, match=r"A row has 39 tokens, and .* has 38 positions"):
        made(torch.full((1, 39), 7), None, torch.ones(1, 39, dtype=torch.bool))
    with pytest.raises(UserError, match=r"data.max_length is 64, .* Set --data.max_length 32"):
        check_max_length(nn.Sequential(made), 64)
    check_max_length(nn.Sequential(made), 38)


@pytest.mark.parametrize(("kind", "attention"), [("bert", "sdpa"), ("deberta-v2", "eager")])
def test_attention_is_torchs_own_where_transformers_has_it(kind, attention):
    assert encoder(kind).model.config._attn_implementation == attention


def test_a_model_type_gets_its_defaults_and_the_vocabulary_of_the_data(monkeypatch):
    made = load_encoder("bert", 2, 300, padding_id=3, dropout=0.0)
    defaults = AutoConfig.for_model("bert")
    own = made.model.config
    assert (own.vocab_size, own.pad_token_id, own.num_labels) == (300, 3, 2)
    assert own.num_hidden_layers == defaults.num_hidden_layers == 12
    assert not any(part.p for part in made.modules() if isinstance(part, nn.Dropout))
    assert load_weights(made, "bert") == (
        "no weights, as bert is a model type of transformers: they are random"
    )


def test_an_encoder_for_numbers_has_one_output(tmp_path):
    write_model(tmp_path)
    made = load_encoder(str(tmp_path), 1, TOKENS, "numbers")
    tokens = torch.full((2, 8), 7)
    assert made(tokens, None, tokens > 0).shape == (2, 1)


def test_masked_tokens_are_only_those_of_the_tokenizer(tmp_path):
    write_model(tmp_path, head="masked")
    made = load_encoder(str(tmp_path), 96, 96, "masked")  # 4 rows only round the embedding up
    tokens = torch.full((2, 8), 7)
    assert made(tokens, None, tokens > 0).shape == (2, 8, 96)
    line = load_weights(made, str(tmp_path), ("classes", "of", "the data"))
    assert line.startswith(f"weights of {tmp_path}, sha256 ") and ";" not in line
    theirs = AutoModelForMaskedLM.from_pretrained(tmp_path).eval()
    expected = theirs(tokens).logits[..., :96]
    torch.testing.assert_close(made.eval()(tokens, None, tokens > 0), expected)


@pytest.mark.parametrize(
    ("vocab_size", "padding", "message"),
    [
        (101, 0, "has 101 tokens, and the weights of .* have 100"),
        (60, 0, "has 60 tokens, and the weights of .* have 100"),
        (100, 1, "has the id 1 for padding, and the weights of .* have 0"),
    ],
)
def test_a_tokenizer_that_does_not_fit_the_weights_is_named(vocab_size, padding, message, tmp_path):
    write_model(tmp_path)
    with pytest.raises(UserError, match=rf"^data.tokenizer does not fit .*{message}.*--data.tok"):
        load_encoder(str(tmp_path), 2, vocab_size, padding_id=padding)
    untrained = load_encoder(str(tmp_path), 2, vocab_size, padding_id=padding, pretrained=False)
    settings = untrained.model.config
    assert (settings.vocab_size, settings.pad_token_id) == (vocab_size, padding)


def test_rows_that_only_round_the_embedding_up_are_kept(tmp_path):
    write_model(tmp_path)  # of 100 tokens
    for pretrained in (True, False):  # false: from a run's checkpoint, which has them too
        made = load_encoder(str(tmp_path), 2, 95, pretrained=pretrained)
        assert made.model.config.vocab_size == 100


class Tiny(nn.Module):
    """A network that is none of transformers: an embedding, blocks and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(TOKENS, 8)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8)) for _ in range(2)
        )
        self.head = nn.Linear(8, CLASSES)

    def forward(self, tokens: Tensor, segments: Tensor | None, mask: Tensor) -> Tensor:
        values = self.embedding(tokens)
        for block in self.blocks:
            values = values + block(values)
        return self.head(values.mean(1))


@pytest.mark.parametrize("kind", [*OF_TYPE, "tiny"])
def test_lora_starts_as_nothing_and_merges_into_plain_layers(kind):
    made = Tiny() if kind == "tiny" else encoder(kind)
    names = list(made.state_dict())
    inputs = texts(made if kind != "tiny" else encoder("bert"))
    before = made(*inputs)
    assert add_lora(made, 4, 8.0) is made
    assert torch.equal(made(*inputs), before)
    for name, weight in made.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weight)
    learned, plain = made(*inputs), merged(made)
    assert (learned - before).abs().max() > 1e-2
    torch.testing.assert_close(plain(*inputs), learned, atol=1e-5, rtol=1e-5)
    assert list(plain.state_dict()) == names != list(made.state_dict())


@pytest.mark.parametrize("kind", [*OF_TYPE, "tiny"])
def test_lora_trains_the_products_and_the_head_alone(kind):
    made = Tiny() if kind == "tiny" else encoder(kind)
    add_lora(made, 4, 8.0)
    trained = {name for name, weight in made.named_parameters() if weight.requires_grad}
    products = {name for name in trained if ".lora_A." in name or ".lora_B." in name}
    linear = [part for part in merged(made).modules() if isinstance(part, nn.Linear)]
    assert len(products) >= len(linear)  # two for each layer but those of the head
    assert not any("embedding" in name for name in trained)
    heads = "classifier.weight", "classifier.out_proj.weight", "head.weight"
    assert any(name.endswith(heads) for name in trained)


def test_lora_is_loaded_with_the_same_pretrained_weights(tmp_path):
    write_model(tmp_path)
    plain, other = (load_encoder(str(tmp_path), 2, TOKENS) for _ in range(2))
    add_lora(other, 4, 8.0)
    assert load_weights(plain, str(tmp_path)) == load_weights(other, str(tmp_path))
    assert all(
        torch.equal(value, merged(other).state_dict()[key])
        for key, value in plain.state_dict().items()
    )


def test_an_encoder_with_lora_is_one_graph_too():
    made = add_lora(encoder("bert"), 4, 8.0)
    inputs = texts(made)
    torch._dynamo.reset()
    compiled = torch.compile(made, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(*inputs), made(*inputs))
    compiled(*inputs).sum().backward()
    learning = [weight for weight in made.parameters() if weight.requires_grad]
    assert all(weight.grad is not None for weight in learning)


def test_lora_without_blocks_or_rank_is_refused():
    with pytest.raises(UserError, match="has no linear layer inside"):
        add_lora(nn.Sequential(nn.Linear(2, 2)), 4, 8.0)
    with pytest.raises(UserError, match="lora_rank is -1; expected at least 1"):
        add_lora(Tiny(), -1, 8.0)


def test_gradients_of_compiled_embeddings_are_torchs_own():
    made, gradients, graphs = encoder("bert"), [], []
    inputs = texts(made)

    def backend(graph, example):
        from functorch.compile import make_boxed_func
        from torch._dynamo.backends.common import aot_autograd
        from torch._inductor.decomposition import select_decomp_table

        def keep(compiled, _):
            graphs.append(compiled.code)
            return make_boxed_func(compiled.forward)

        return aot_autograd(fw_compiler=keep, decompositions=select_decomp_table())(graph, example)

    for network in (made, torch.compile(made, backend=backend, dynamic=False)):
        network.zero_grad()
        network(*inputs).square().sum().backward()
        gradients.append({name: weight.grad.clone() for name, weight in made.named_parameters()})
    plain, compiled = gradients
    assert len(graphs) == 2 and graphs[1].count("text_engine.gradient") == 3
    assert "index_put" not in graphs[1]
    torch.testing.assert_close(compiled, plain)


@pytest.mark.parametrize("kind", list(OF_TYPE))
def test_a_step_of_an_encoder_has_a_version_for_each_of_its_settings(kind):
    """torch.compile does not follow its code, with which a training would begin later."""
    torch.compiler.reset()  # it keeps the versions of all kinds
    made = encoder(kind)
    tokens, segments, mask = texts(made)
    versions = StepVersions(lambda task, batch: (task[0](*batch).sum(), {}, batch[0]))
    task = nn.ModuleList([made])

    def ask() -> int | None:
        return versions.of(task, (tokens, segments, mask))

    found = [ask(), ask()]
    first = next(module for module in made.modules() if isinstance(module, nn.Dropout))
    first.p = 0.5
    found.append(ask())
    made.train()
    found += [ask(), versions.of(task, (tokens[:2], segments[:2], mask[:2]))]
    assert not versions.problem and found == [0, 0, 1, 2, 3]
    assert list(versions.installed.networks) == [made]
