"""The part of `check` that asks the libraries of networks, and so loads them."""

from pipeline.backbones.backbone import check_backbone, feature_shapes, published_weights
from pipeline.core.errors import ParamsError, ShapeError, WeightsError
from pipeline.core.params import Params
from pipeline.core.sources import FeatureShape, ImageSize, Source


def source_shapes(params: Params) -> dict[Source, FeatureShape]:
    """Check the networks of sources and perceptual distances against their libraries; shapes need no weights.

    Returns: the shape of each chosen source.

    Raises:
        ParamsError, ShapeError: as `check_backbone`. WeightsError: weights of a network are missing.
    """
    crop, found = ImageSize(params.prepare.crop, params.prepare.crop), {}
    for key, distance in params.distances.items():
        entry = params.backbone_params(distance.backbone)
        check_backbone(distance.backbone, entry, crop)
        try:
            feature_shapes(distance.backbone, entry, distance.layers, crop)
        except ParamsError as error:
            listed = f"backbones.{distance.backbone}.layers"
            raise ParamsError(str(error).replace(listed, f"perceptual.{key}.layers")) from None
    for source in params.sources:
        entry = params.backbone_params(source.backbone)
        check_backbone(source.backbone, entry, crop)
        found[source] = feature_shapes(source.backbone, entry, (source.layer,), crop)[source.layer]
    return found


def check_networks(params: Params) -> dict[Source, FeatureShape]:
    """Check every network of params.yaml, chosen or not, with its library: model, layers, weights tag, crop size.

    Returns: the shapes of all layers of those that can be used.

    Raises:
        ParamsError: all problems found, a line each.
    """
    found: dict[Source, FeatureShape] = {}
    crop = ImageSize(params.prepare.crop, params.prepare.crop)
    chosen = {source.backbone for source in params.sources} | {each.backbone for each in params.distances.values()}
    problems: list[str] = []
    for name, entry in params.backbones.items():
        try:
            shapes = check_backbone(name, entry, crop)
        except (ShapeError, WeightsError) as error:  # irrelevant if the experiment does not use the network
            problems += [str(error)] if name in chosen else []
        except ParamsError as error:
            problems.append(str(error))
        else:
            found |= {Source(name, layer): shape for layer, shape in shapes.items()}
    if problems:
        raise ParamsError("\n".join(problems))
    return found


def missing_weights(params: Params) -> list[str]:
    """A note for each chosen network whose published weights are not here yet; only `extract` needs them.

    No error: `extract` downloads them where there is network, and features may come from a remote.
    """
    notes = []
    for name in sorted({source.backbone for source in params.sources}):
        if params.backbone_params(name).kind != "imagenet":
            continue
        published = published_weights(name, params.backbone_params(name))
        if not published.file.present():
            notes.append(
                f"note: {published.file.name}, the weights of {published.label}, is not in {published.file.folder}; "
                f"extract will download it. Without network here, run `python -m stages weights {name} --to DIR` on a "
                f"machine that has it, bring DIR and run `python -m stages weights {name} --from DIR`"
            )
    return notes
