"""inspect: the content and origin of feature stores."""

from pathlib import Path

import typer

from pipeline.core.tables import text_table
from pipeline.stores.base import FeatureStore
from pipeline.stores.opening import find_stores, open_store
from stages.tables import size


def inspect(path: Path) -> None:
    stores = [open_store(place) for place in find_stores(path)]
    header = [
        "layer",
        "shape",
        "rows",
        "type",
        "codec",
        "shards",
        "size",
        "mean",
        "std",
        "rounding",
        "worst channel",
        "fingerprint",
    ]
    for name in sorted({store.source.backbone for store in stores}):
        layers = [store for store in stores if store.source.backbone == name]
        typer.echo("\n".join(_origin(layers[0])))
        typer.echo(text_table(header, [_line(store, size(store.bytes)) for store in layers]) + "\n")


def _origin(store: FeatureStore) -> list[str]:
    facts = store.manifest.facts
    network = facts["backbone"]
    weights = network["weights"]
    libraries = ", ".join(f"{name} {version}" for name, version in facts["libraries"].items())
    how = ", ".join(f"{key} {value}" for key, value in network.get("refined", {}).items())  # of a first stage's images
    return [
        f"{store.path.parent}: {network['name']} ({network['library']} {network['model']})",
        f"  weights     {weights['kind']}, {weights['detail']}, SHA-256 {weights['sha256']}",
        f"  input       {facts['input']}",
        f"  data        {facts['data']}",
        f"  computed    {facts['precision']} on {facts['device']}, batches of {facts['batch_size']}, {libraries}",
        *([f"  refined     {how}"] if how else []),
    ]


def _line(store: FeatureStore, size: str) -> list[str]:
    layout, shares = store.layout, (store.manifest.rounding_share, store.manifest.worst_rounding)
    return [
        str(store.source),
        str(store.shape),
        f"{store.rows:,}",
        store.dtype,
        f"{layout.format}/{layout.compression}",
        f"{layout.shards} of {layout.shard_rows}",
        size,
        f"{store.mean.mean():.4g}",
        f"{store.std.mean():.4g}",
        *("unknown" if share is None else f"{share:.2g}" for share in shares),
        store.fingerprint[:12],
    ]
