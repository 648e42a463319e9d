"""Any module of a network as a layer: its output is captured during the pass and read as a feature map."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from pipeline.backbones.base import Network
from pipeline.core.errors import ParamsError
from pipeline.core.sources import ImageSize


def module_paths(network: Network) -> tuple[str, ...]:
    """The path of every module except the removed head: `features.7`, `blocks.3.attn`."""
    heads = {key.rpartition(".")[0] for key in network.head_keys}
    return tuple(path for path, _ in network.model.named_modules(remove_duplicate=False) if path and path not in heads)


@contextmanager
def caught(model: nn.Module, paths: Sequence[str]) -> Iterator[dict[str, list[Any]]]:
    """Inside the block, collect the outputs of the modules at `paths`, one for each call.

    Tensors are copied, because a later module, such as an in-place activation, may overwrite them.
    """
    outputs: dict[str, list[Any]] = {path: [] for path in paths}

    def keep(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            outputs[path].append(output.clone() if isinstance(output, Tensor) else output)

        return hook

    handles = [model.get_submodule(path).register_forward_hook(keep(path)) for path in paths]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def read(name: str, path: str, calls: Sequence[Any], images: Tensor, model: nn.Module) -> Tensor:
    """The output of the module at `path` for `images` (B, 3, H, W), as a map (B, C, h, w) with the image's proportions.

    Tokens (B, N, C), without the leading ones that the model declares, are arranged on their grid row by row. A vector
    (B, C) becomes a map of 1×1.

    Args:
        calls: the outputs that `caught` collected.

    Raises:
        ParamsError: the module did not run exactly once, or returned something else.
    """
    if len(calls) != 1:
        times = "does not run" if not calls else f"runs {len(calls)} times"
        raise _refused(name, path, f"{times} in one pass, and a layer runs once")
    (output,) = calls
    if not isinstance(output, Tensor):
        raise _refused(name, path, f"returns a {type(output).__name__}, not a tensor")
    size = ImageSize(*images.shape[-2:])
    ours = output.is_floating_point() and output.ndim > 1 and len(output) == len(images)
    if ours and output.ndim == 2:
        return output[:, :, None, None]
    if ours and output.ndim == 4 and _proportional(output.shape[2], output.shape[3], size):
        return output
    if ours and output.ndim == 3:
        tokens = output[:, int(getattr(model, "num_prefix_tokens", 0)) :]
        height = round((tokens.shape[1] * size.height / size.width) ** 0.5)
        if height and tokens.shape[1] % height == 0 and _proportional(height, tokens.shape[1] // height, size):
            return tokens.transpose(1, 2).unflatten(2, (height, tokens.shape[1] // height))
    shape = "×".join(map(str, output.shape))
    raise _refused(
        name, path, f"returns {shape} for {len(images)} images of {size}, which is no map, grid of tokens or vector"
    )


def _refused(name: str, path: str, why: str) -> ParamsError:
    return ParamsError(f"params.yaml: backbones.{name}.layers: the module '{path}' {why}; choose another layer")


def _proportional(height: int, width: int, image: ImageSize) -> bool:
    """Whether height × width has the image's proportions, up to rounding to whole numbers."""
    return abs(height * image.width - width * image.height) < max(image.height, image.width)
