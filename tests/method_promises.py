"""What every fine-tuning method promises, one function per promise.

Each takes a method and a case (a tiny model with a batch) and raises AssertionError if the promise is broken.
`contract/test_methods.py` holds every method to all of them; `contract/test_planted_bugs.py` shows that each can fail.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import tiny_models
from tunesmith import registry
from tunesmith.checkpoint import adapter, trained
from tunesmith.errors import NotMergeable
from tunesmith.method import Method
from tunesmith.model import surgery
from tunesmith.model.batch import Batch
from tunesmith.model.forward import PackedForward, PaddedForward


@dataclass(frozen=True)
class Case:
    """A tiny model and a batch of token ids, three rows of nine."""

    architecture: str
    task: tiny_models.Task

    def model(self) -> nn.Module:
        """A fresh copy of the base model."""
        return tiny_models.build(self.architecture, self.task)

    def batch(self) -> dict[str, Tensor]:
        """Inputs with labels."""
        generator = torch.Generator().manual_seed(1)
        ids = torch.randint(8, tiny_models.VOCABULARY_SIZE, (3, 9), generator=generator)
        labels = torch.tensor([0, 2, 1]) if self.task == "classification" else ids
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}

    def logits(self, model: nn.Module) -> Tensor:
        """What the model answers to the batch."""
        with torch.no_grad():
            return model(**self.batch()).logits

    def train(self, model: nn.Module, num_steps: int = 3, learning_rate: float = 1e-2) -> list[float]:
        """Take some steps with what is trainable; the loss before each step."""
        optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=learning_rate)
        losses = []
        for _ in range(num_steps):
            optimizer.zero_grad()
            loss = model(**self.batch()).loss
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses


Promise = Callable[[Method, Case], None]


def starts_as_the_base_model(method: Method, case: Case) -> None:
    """Right after `attach` the model computes bitwise what it did, exactly if the class says so."""
    model = case.model()
    method.attach(model)
    assert torch.equal(case.logits(model), case.logits(case.model())) == method.starts_as_identity


def exactly_the_trainable_tensors_move(method: Method, case: Case) -> None:
    """Every trainable tensor learns; nothing else changes, buffers included."""
    model = case.model()
    method.attach(model)
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    before = {name: p.detach().clone() for name, p in _tensors(model).items()}
    assert trainable, "nothing learns"
    case.train(model)  # several steps: LoRA's `a` moves only once `b` is not zero
    moved = {name for name, p in _tensors(model).items() if not torch.equal(p, before[name])}
    assert moved == trainable, f"did not move: {sorted(trainable - moved)}; moved though frozen: {sorted(moved - trainable)}"


def base_weights_learn_only_if_the_class_says_so(method: Method, case: Case) -> None:
    """Only a new head may learn beside what the method adds, or some weights, or all."""
    model = case.model()
    base = {name for name, _ in model.named_parameters()}
    method.attach(model)
    shared = {name for name, p in model.named_parameters() if p.requires_grad} & base
    assert (shared == base) == method.trains_all_weights
    if not method.trains_base_weights:
        assert [name for name in shared if name.startswith(f"{model.base_model_prefix}.")] == []


def learns(method: Method, case: Case) -> None:
    """Twenty steps bring the loss down."""
    model = case.model()
    method.attach(model)
    losses = case.train(model, num_steps=20)
    assert losses[-1] < losses[0] - 0.01, losses


def detach_restores_the_base_model(method: Method, case: Case) -> None:
    """After `detach` every tensor, and so every output, is bitwise what it was; heads that were trained in place stay."""
    if method.trains_base_weights:
        return
    base, model = case.model(), case.model()
    method.attach(model)
    heads = {name for name, p in model.named_parameters() if p.requires_grad} & set(base.state_dict())
    case.train(model)
    surgery.detach(model)
    assert model.state_dict().keys() == base.state_dict().keys()
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, base.state_dict()[name])}
    assert changed == heads
    model.load_state_dict({**model.state_dict(), **{name: base.state_dict()[name] for name in heads}})
    assert torch.equal(case.logits(model), case.logits(base))
    assert all(p.requires_grad for p in model.parameters()), "what was frozen must thaw"
    assert [type(m) for m in model.modules()] == [type(m) for m in base.modules()]


def a_copy_is_independent(method: Method, case: Case) -> None:
    """Reference models, averages and snapshots are copies: training or detaching one leaves the other as it is."""
    model = case.model()
    method.attach(model)
    case.train(model)
    tuned = case.logits(model)
    snapshot = copy.deepcopy(model)
    case.train(snapshot)
    assert torch.equal(case.logits(model), tuned)
    assert not torch.equal(case.logits(snapshot), tuned)
    if not method.trains_base_weights:
        surgery.detach(snapshot)
        assert torch.equal(case.logits(model), tuned)
        assert snapshot.state_dict().keys() == case.model().state_dict().keys()


def merge_keeps_the_function_or_says_why_not(method: Method, case: Case) -> None:
    """The merged model has the base model's modules and the tuned model's outputs."""
    base, model = case.model(), case.model()
    method.attach(model)
    case.train(model)
    tuned = case.logits(model)
    assert (tuned - case.logits(base)).abs().max() > 1e-2, "an untrained method would prove nothing"
    if not method.mergeable:
        with pytest.raises(NotMergeable, match=method.name):
            method.merge(model)
        return
    method.merge(model)
    assert model.state_dict().keys() == base.state_dict().keys()
    # Weights of about one, rounded to float32 once more by the merge, in sums of a few hundred terms.
    torch.testing.assert_close(case.logits(model), tuned, rtol=1e-4, atol=1e-4)


def cached_decoding_equals_the_plain_forward(method: Method, case: Case) -> None:
    """Tokens generated one at a time, with a cache and without, have the logits of the whole sequence at once."""
    if case.task == "classification":
        return
    model = case.model()
    method.attach(model)
    case.train(model)
    prompt = case.batch()["input_ids"][:2, :5]
    settings = {**_GENERATION, "input_ids": prompt, "attention_mask": torch.ones_like(prompt), "max_new_tokens": 8}
    out = model.generate(**settings)
    uncached = model.generate(**settings, use_cache=False)
    assert torch.equal(uncached.sequences, out.sequences)
    torch.testing.assert_close(torch.stack(uncached.logits, 1), torch.stack(out.logits, 1), rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        if case.task == "seq2seq":
            plain = model(input_ids=prompt, decoder_input_ids=out.sequences[:, :-1]).logits
        else:
            plain = model(input_ids=out.sequences[:, :-1]).logits[:, prompt.shape[1] - 1 :]
    torch.testing.assert_close(torch.stack(out.logits, 1), plain, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(out.logits[0], out.logits[-1]), "a constant output would prove nothing"


def padding_changes_no_answer(method: Method, case: Case) -> None:
    """A row that is padded to be generated with longer ones gets the answer that it gets alone.

    A decoder's rows are padded on the left, where they must end together; what an encoder reads is padded on the right.
    """
    if case.task == "classification":
        return
    model = case.model()
    method.attach(model)
    case.train(model)
    own = slice(2, None) if case.task == "causal" else slice(None, -2)
    ids = case.batch()["input_ids"][:2, :6]
    mask = torch.zeros_like(ids)
    mask[0, own], mask[1] = 1, 1
    settings = {**_GENERATION, "max_new_tokens": 5}
    alone = model.generate(input_ids=ids[:1, own], attention_mask=mask[:1, own], **settings)
    together = model.generate(input_ids=ids, attention_mask=mask, **settings)
    torch.testing.assert_close(torch.stack(together.logits, 1)[:1], torch.stack(alone.logits, 1), rtol=1e-4, atol=1e-4)


def packed_rows_answer_like_single_ones(method: Method, case: Case) -> None:
    """Rows of several lengths in one stream have the losses and gradients that they have each on its own."""
    if case.task == "seq2seq":
        return
    model = case.model()
    method.attach(model)
    case.train(model)
    batch = _stream(case)
    losses, gradients = [], []
    for kind in (PackedForward, PaddedForward):
        forward = kind(model)
        losses.append(forward.target_losses(batch))
        model.zero_grad()
        with forward.scope(batch):
            forward.loss(batch).backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
    torch.testing.assert_close(*losses, rtol=1e-4, atol=1e-4)
    for name, gradient in gradients[0].items():
        expected = gradients[1][name]
        assert (gradient is None) == (expected is None), name
        if gradient is not None:
            size = max(1.0, expected.abs().max().item())
            torch.testing.assert_close(gradient / size, expected / size, rtol=1e-4, atol=1e-4, msg=name)


def recomputed_activations_give_the_same_gradients(method: Method, case: Case) -> None:
    """Activation checkpointing, which runs every layer twice, changes nothing, packed or padded."""
    found: list[tuple[int, dict[str, Tensor]]] = []
    for recompute in (False, True):
        model = case.model()
        torch.manual_seed(0)
        method.attach(model)
        case.train(model.eval())
        if recompute:
            model.activation_checkpointing_enable({"use_reentrant": False})
        _without_dropout(model.train())
        calls = _count_calls(model)
        gradients = {f"padded {name}": gradient for name, gradient in _padded_gradients(model, case).items()}
        if case.task != "seq2seq":
            gradients |= {f"packed {name}": gradient for name, gradient in _packed_gradients(model, case).items()}
        found.append((calls[0], gradients))
    (once, expected), (twice, gradients) = found
    assert twice > once, "nothing was recomputed, which would prove nothing"
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-4, msg=name)


def what_is_saved_is_loaded(method: Method, case: Case) -> None:
    """The files hold all that was learnt: a fresh model with them answers bitwise alike, by a method with the same settings."""
    model = case.model()
    method.attach(model)
    case.train(model)
    again = case.model()
    with tempfile.TemporaryDirectory() as folder:
        if method.name in registry.names("tunesmith.methods"):
            adapter.save(model, method, Path(folder) / "adapter", base_model="base")
            assert adapter.load(again, Path(folder) / "adapter").name == method.name
        else:  # not in the package: one that is being written
            method.attach(again)
            trained.fill(again, trained.trainable(model), "memory")
    assert torch.equal(case.logits(again.eval()), case.logits(model))


def attaches_without_weights(method: Method, case: Case) -> None:
    """On the `meta` device the same tensors of the same shapes are trainable, so a plan counts what a run trains."""
    model = case.model()
    method.attach(model)
    planned = tiny_models.on_meta(case.architecture, case.task)
    method.attach(planned)
    assert all(p.is_meta for p in planned.parameters())
    assert _trainable_shapes(planned) == _trainable_shapes(model)


PROMISES: tuple[Promise, ...] = (
    starts_as_the_base_model,
    exactly_the_trainable_tensors_move,
    base_weights_learn_only_if_the_class_says_so,
    learns,
    detach_restores_the_base_model,
    a_copy_is_independent,
    merge_keeps_the_function_or_says_why_not,
    cached_decoding_equals_the_plain_forward,
    padding_changes_no_answer,
    packed_rows_answer_like_single_ones,
    recomputed_activations_give_the_same_gradients,
    what_is_saved_is_loaded,
    attaches_without_weights,
)


_GENERATION = {"do_sample": False, "pad_token_id": 0, "eos_token_id": None, "output_logits": True}
_GENERATION |= {"return_dict_in_generate": True}


def _stream(case: Case) -> Batch:
    """Three rows of different lengths; every next token, or a class per row, is predicted."""
    lengths = [9, 4, 6]
    ids = torch.randint(8, tiny_models.VOCABULARY_SIZE, (sum(lengths),), generator=torch.Generator().manual_seed(2))
    if case.task == "classification":
        return Batch(input_ids=ids, lengths=lengths, targets=torch.tensor([0, 2, 1]))
    ends = torch.cumsum(torch.tensor(lengths), 0) - 1
    positions = torch.tensor([i for i in range(len(ids)) if i not in ends.tolist()])
    return Batch(input_ids=ids, lengths=lengths, positions=positions, targets=ids[positions + 1])


def _padded_gradients(model: nn.Module, case: Case) -> dict[str, Tensor]:
    model.zero_grad()
    model(**case.batch(), **({} if case.task == "classification" else {"use_cache": False})).loss.backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def _packed_gradients(model: nn.Module, case: Case) -> dict[str, Tensor]:
    model.zero_grad()
    batch, forward = _stream(case), PackedForward(model)
    with forward.scope(batch):
        forward.loss(batch).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def _count_calls(model: nn.Module) -> list[int]:
    """A number, in a list, that grows with every call of a module that calls no other."""
    calls = [0]

    def count(*_: object) -> None:
        calls[0] += 1

    for module in model.modules():
        if not list(module.children()):
            module.register_forward_hook(count)
    return calls


def _without_dropout(model: nn.Module) -> None:
    """In training mode, which checkpointing needs, but with nothing drawn at random."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).items():
            if "dropout" in name and isinstance(value, float):
                setattr(module, name, 0.0)


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _trainable_shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: p.shape for name, p in model.named_parameters() if p.requires_grad}
