"""The linear decoder against NumPy's least squares."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from messages import says

from pipeline.core.errors import ParamsError
from pipeline.core.section import parse_section
from pipeline.core.sources import FeatureShape, ImageSize
from pipeline.models.common.linear import Linear


def _linear(channels: int, kernel: int | None, ratio: int = 2) -> Linear:
    return Linear(FeatureShape(channels, 5, 4), ImageSize(5 * ratio, 4 * ratio), Linear.Options(kernel=kernel))


@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_a_least_squares_solution_loads_one_to_one(kernel: int) -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(9, 4, 5, 4, generator=generator)
    images = torch.rand(9, 3, 10, 8, generator=generator)
    rows = F.unfold(features, kernel, padding=kernel // 2).transpose(1, 2).reshape(9 * 20, -1).double().numpy()
    design = np.hstack([rows, np.ones((len(rows), 1))])
    blocks = F.pixel_unshuffle(images, 2).flatten(2).transpose(1, 2).reshape(9 * 20, -1).double().numpy()
    solution = np.linalg.lstsq(design, blocks, rcond=None)[0]  # (4·k·k + 1, 12)

    decoder = _linear(4, kernel)
    decoder.load_solution(torch.from_numpy(solution[:-1]), torch.from_numpy(solution[-1]))
    predicted = F.pixel_unshuffle(decoder.synthesize(features), 2).flatten(2).transpose(1, 2).reshape(9 * 20, -1)
    np.testing.assert_allclose(predicted.detach().numpy(), design @ solution, rtol=0, atol=1e-5)


def test_it_is_affine() -> None:
    decoder, (x, y) = _linear(6, 3), torch.randn(2, 1, 6, 5, 4, generator=torch.Generator().manual_seed(0))
    middle = decoder.synthesize((x + y) / 2)
    torch.testing.assert_close(middle, (decoder.synthesize(x) + decoder.synthesize(y)) / 2)


def test_the_output_is_clamped() -> None:
    decoder = _linear(1, 1)
    decoder.load_solution(torch.full((1, 12), 10.0), torch.zeros(12))
    image = decoder(torch.tensor([-1.0, 0.05, 1.0, 2.0]).expand(1, 1, 5, 4))
    torch.testing.assert_close(image[0, 0, 0], torch.tensor([0, 0, 0.5, 0.5, 1, 1, 1, 1]))


@pytest.mark.parametrize(("channels", "expected"), [(64, 3), (256, 3), (257, 1), (768, 1)])
def test_the_kernel_chosen_by_itself_shrinks_for_wide_features(channels: int, expected: int) -> None:
    assert _linear(channels, None).output.kernel_size == (expected, expected)


def test_an_even_kernel_is_refused() -> None:
    with pytest.raises(ParamsError) as caught:
        parse_section(Linear.Options, {"kernel": 4}, "decoders.linear")
    says(caught.value, "decoders.linear.kernel = 4", "must be odd")
