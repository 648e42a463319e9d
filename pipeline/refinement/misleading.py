"""When nearer features mean worse images."""

from __future__ import annotations

VALIDATION_IMAGES = 8  # refined beforehand, to see whether nearer features mean nearer images


def misleading(
    refiner: str, psnr: tuple[float, float], feature_error: tuple[float, float], images: int, advice: str
) -> str | None:
    """A sentence when PSNR falls although the features come nearer; each a mean over images, before and after."""
    if psnr[1] >= psnr[0] or feature_error[1] >= feature_error[0]:
        return None
    return (
        f"refining by {refiner} lowers PSNR from {psnr[0]:.2f} to {psnr[1]:.2f} dB on {images} validation images "
        f"while the feature error falls from {feature_error[0]:.3g} to {feature_error[1]:.3g}: {advice}"
    )
