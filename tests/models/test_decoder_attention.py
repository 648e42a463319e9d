"""The attention decoder: the same numbers as a naive softmax, in memory linear in the tokens."""

import pytest
import torch
from messages import says
from shipped import build_decoder
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.core.errors import ShapeError
from pipeline.core.sources import FeatureShape, ImageSize
from pipeline.models.parts.tokens import TransformerBlock, sincos_positions


def _naive(block: TransformerBlock, tokens: torch.Tensor) -> torch.Tensor:
    """Multi-head attention written out, one head after the other."""
    query, key, value = block.qkv(tokens).chunk(3, dim=-1)
    heads = []
    for q, k, v in zip(*(x.chunk(block.heads, dim=-1) for x in (query, key, value)), strict=True):
        scores = q @ k.transpose(1, 2) / q.shape[-1] ** 0.5  # (B, N, N)
        heads.append(torch.softmax(scores, dim=-1) @ v)
    return block.project(torch.cat(heads, dim=-1))


def test_attention_equals_a_naive_softmax() -> None:
    torch.manual_seed(0)
    block, tokens = TransformerBlock(32, heads=4, mlp_ratio=2), 3 * torch.randn(2, 19, 32)
    torch.testing.assert_close(block.attend(tokens), _naive(block, tokens), rtol=1e-4, atol=1e-5)


class _LargestTensor(TorchDispatchMode):
    """Remembers the largest tensor that any operation returns."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return result


def test_no_tensor_is_larger_than_the_mlps_whatever_the_number_of_tokens() -> None:
    block, tokens = TransformerBlock(16, heads=2, mlp_ratio=4), torch.randn(1, 3136, 16)
    with _LargestTensor() as ours:
        block(tokens).sum().backward()
    assert ours.elements <= 4 * tokens.numel()
    with _LargestTensor() as naive, torch.no_grad():
        _naive(block, tokens)
    assert naive.elements == 3136**2  # the measure does see the scores of a naive softmax


def _decode(options: dict[str, object], features: torch.Tensor) -> torch.Tensor:
    torch.manual_seed(0)
    decoder = build_decoder("attention", options, FeatureShape(*features.shape[1:]), ImageSize(8, 8))
    return decoder.eval().mixer(features).flatten(2).transpose(1, 2)


def test_without_positions_the_tokens_are_a_set() -> None:
    features, order = torch.randn(1, 16, 4, 4), torch.randperm(16, generator=torch.Generator().manual_seed(0))
    shuffled = features.flatten(2)[..., order].unflatten(2, (4, 4))
    torch.testing.assert_close(_decode({}, shuffled), _decode({}, features)[:, order], rtol=1e-4, atol=1e-5)


def test_sincos_positions_tell_positions_apart_without_parameters() -> None:
    shape, image = FeatureShape(16, 4, 4), ImageSize(8, 8)
    plain = build_decoder("attention", {}, shape, image)
    placed = build_decoder("attention", {"positions": "sincos"}, shape, image)
    assert [p.shape for p in placed.parameters()] == [p.shape for p in plain.parameters()]
    constant = torch.ones(1, 16, 4, 4)
    tokens = placed.mixer.positions + constant.flatten(2).transpose(1, 2)
    assert torch.cdist(tokens[0], tokens[0]).add(torch.eye(16)).min() > 0.1
    placed.load_state_dict(plain.state_dict())
    assert not torch.allclose(placed.eval()(constant), plain.eval()(constant))


def test_sincos_positions_are_the_formula() -> None:
    code = sincos_positions(8, 3, 5).unflatten(0, (3, 5))
    row, column = torch.tensor(2.0), torch.tensor(4.0)
    waves = [row, row / 100, column, column / 100]
    expected = [f(w) for pair in (waves[:2], waves[2:]) for f in (torch.sin, torch.cos) for w in pair]
    torch.testing.assert_close(code[2, 4], torch.stack(expected))


def test_wide_features_are_projected_first() -> None:
    decoder = build_decoder("attention", {"max_width": 32}, FeatureShape(96, 4, 4), ImageSize(8, 8))
    assert decoder.mixer.stem.weight.shape == (32, 96, 1, 1)
    assert decoder(torch.randn(1, 96, 4, 4)).shape == (1, 3, 8, 8)


@pytest.mark.parametrize(
    ("channels", "options", "parts"),
    [
        (20, {}, "8 parts of decoders.attention.heads"),
        (18, {"heads": 2, "positions": "sincos"}, "4 parts of the sincos code"),
    ],
)
def test_channels_that_do_not_divide_are_refused(channels: int, options: dict[str, object], parts: str) -> None:
    with pytest.raises(ShapeError) as caught:
        build_decoder("attention", options, FeatureShape(channels, 4, 4), ImageSize(8, 8))
    says(caught.value, f"{channels} channels do not divide into the {parts}", "decoders.attention.heads", "max_width")
