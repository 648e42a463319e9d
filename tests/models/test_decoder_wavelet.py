"""What is specific to the wavelet decoder: the image is an inverse Haar transform."""

import numpy as np
import pytest
import pywt
import torch
from messages import says
from shipped import build_decoder

from pipeline.core.errors import ShapeError
from pipeline.core.sources import FeatureShape, ImageSize
from pipeline.models.decoders.wavelet import BandFusion


def test_the_image_before_the_sigmoid_has_the_predicted_coefficients() -> None:
    torch.manual_seed(0)
    decoder = build_decoder("wavelet", {}, FeatureShape(12, 3, 5), ImageSize(12, 20)).eval()
    predicted = []
    decoder.output.register_forward_hook(lambda module, inputs, output: predicted.append(output))
    with torch.no_grad():
        image = decoder.synthesize(torch.randn(2, 12, 3, 5))
    approximation, details = pywt.dwt2(image.double().numpy(), "haar")
    bands = predicted[0].unflatten(1, (4, 3)).unbind(1)
    for ours, theirs in zip(bands, (approximation, *details), strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=0, atol=1e-6)


def test_equal_scores_leave_the_bands_as_they_are() -> None:
    fusion = BandFusion(3).eval()
    seen = []
    fusion.mix.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    torch.nn.init.zeros_(fusion.score.weight)
    torch.nn.init.zeros_(fusion.score.bias)
    bands = torch.randn(2, 12, 4, 4)
    fusion(bands)
    torch.testing.assert_close(seen[0], bands)


def test_a_band_that_wins_everywhere_silences_the_others() -> None:
    fusion = BandFusion(3).eval()
    seen = []
    fusion.mix.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    torch.nn.init.zeros_(fusion.score.weight)
    with torch.no_grad():
        fusion.score.bias.copy_(torch.tensor([0.0, 0.0, 50.0, 0.0]))
    fusion(torch.ones(1, 12, 2, 2))
    torch.testing.assert_close(seen[0][0, :, 0, 0], torch.tensor([0.0] * 6 + [4.0] * 3 + [0.0] * 3))


def test_features_as_fine_as_the_image_are_refused() -> None:
    with pytest.raises(ShapeError) as caught:
        build_decoder("wavelet", {}, FeatureShape(64, 224, 224), ImageSize(224, 224))
    says(caught.value, "64×224×224", "224×224 image", "choose decoder residual or linear")
