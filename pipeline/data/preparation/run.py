"""prepare: photographs of a data set → checked, resized uint8 images, splits and views in `data/prepared`."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import PIL

from pipeline.core import code
from pipeline.core.errors import DataError
from pipeline.core.files import can_rename, existing
from pipeline.core.locks import locked
from pipeline.core.params import Params, PrepareParams
from pipeline.core.progress import counted
from pipeline.core.section import parse_section
from pipeline.data.preparation.dataset import DATASETS, Dataset, Photograph
from pipeline.data.preparation.shards import Outcome, Shard, write_file, write_shards
from pipeline.data.preparation.splitting import Good, image_table, split_counts
from pipeline.data.preparation.views import DUPLICATE, ImageRow, images_csv, view_table, views_csv
from pipeline.stores.prepared import FORMAT, IMAGES, MANIFEST, SPLITS, VIEWS, checksum

__all__ = ["prepare"]

_PIXEL_RULES = ("resize", "interpolation", "size", "non_rgb", "colour_profile", "smallest_edge")


def prepare(params: Params, output: Path, work: Path, workers: int | None = None) -> None:
    """Write the chosen data set to `output`, replacing it; unfinished work stays in `work` and is resumed.

    Two runs write the same bytes. `workers` is the number of decoding threads, by default one for each core.

    Raises:
        DataError: the data set or its files are missing, bad files (all listed) with `on_bad_image: stop`,
            a split without images, no room on the disk, `work` and `output` on different file systems.
        LockedError: another process prepares the same photographs in `work`.
    """
    schema = DATASETS.get(params.dataset)
    dataset = schema(parse_section(schema.Options, params.dataset_options, f"datasets.{params.dataset}"), params.seed)
    photographs = dataset.photographs()
    _check_splits(split_counts(photographs, dataset.fractions(), params.seed), dataset)
    unfinished = work / "prepare" / _work_key(params, dataset)
    _check_same_file_system(work, output)
    with locked(unfinished, f"preparing {params.dataset}"):
        _check_room(photographs, params.prepare, unfinished / "prepared")
        shards = write_shards(photographs, params.prepare, unfinished / "prepared", workers or _cores())
        outcomes = [outcome for shard in shards for outcome in shard.outcomes]
        good, bad = _sort_out(photographs, outcomes, params.prepare)
        images, duplicates = image_table(good, dataset.fractions(), params.seed)
        _check_splits(Counter(image.split for image in images), dataset)
        tables = {IMAGES: images_csv(images), VIEWS: views_csv(view_table(images, params.prepare, params.seed))}
        manifest = _manifest(params, dataset, shards, images, tables) | {
            "skipped": bad,
            "duplicates": duplicates,
            "duplicates_share": "the decoded RGB pixels at full size",
        }
        _finish(unfinished, output, tables, manifest)


def _cores() -> int:
    """Number of cores that this process may use; systems other than Linux report all cores."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _work_key(params: Params, dataset: Dataset) -> str:
    """A digest of everything that determines the pixels, except the files, which each shard records for itself.

    It includes the root, because under another root files of the same name, size and time may differ in content.
    """
    rules = params.prepare.model_dump(include=set(_PIXEL_RULES))
    options = dataset.options.model_dump(mode="json")
    if "root" in options:
        options["root"] = str(Path(options["root"]).expanduser().resolve())
    source = code.digest(write_shards.__module__, chosen={code.DATASETS: params.dataset})
    facts = [FORMAT, params.dataset, options, rules, PIL.__version__, source]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def _check_same_file_system(work: Path, output: Path) -> None:
    if not can_rename(work, output):
        raise DataError(
            f"{work} and {output} are on different file systems, but the prepared photographs must be moved between "
            f"them in one step; pass --work a directory on the file system of {output}"
        )


def _check_room(photographs: Sequence[Photograph], rules: PrepareParams, prepared: Path) -> None:
    images = sum(len(photograph.image_ids) for photograph in photographs)
    written = sum(file.stat().st_size for file in prepared.glob("*/*.npy"))
    needed = images * rules.size**2 * 3 - written
    free = shutil.disk_usage(existing(prepared)).free
    if needed > free:
        raise DataError(
            f"preparing {counted(images, 'image')} of {rules.size}×{rules.size} needs {needed / 1e9:.2f} GB more in "
            f"{prepared}, where {free / 1e9:.2f} GB are free; free some space, lower prepare.size or take a subset"
        )


def _sort_out(
    photographs: Sequence[Photograph], outcomes: Sequence[Outcome], rules: PrepareParams
) -> tuple[list[Good], list[dict[str, str]]]:
    pairs = list(zip(photographs, outcomes, strict=True))
    bad = [{"file": photograph.file, "reason": outcome.reason} for photograph, outcome in pairs if outcome.reason]
    if bad and rules.on_bad_image == "stop":
        raise DataError(_bad_files(bad, len(pairs), rules))
    return [
        Good(photograph, outcome.sha256, outcome.mode, outcome.content)
        for photograph, outcome in pairs
        if not outcome.reason
    ], bad


def _bad_files(bad: Sequence[dict[str, str]], total: int, rules: PrepareParams) -> str:
    lines = "".join(f"\n  {entry['file']}: {entry['reason']}" for entry in bad)
    convert = ""
    if rules.non_rgb == "refuse" and any("not 8-bit RGB" in entry["reason"] for entry in bad):
        convert = ", set prepare.non_rgb: convert to turn the non-RGB ones into RGB,"
    return (
        f"{len(bad)} of {counted(total, 'photograph')} cannot be used; repair or remove them{convert} or set "
        f"prepare.on_bad_image: skip to leave them out and record them:{lines}"
    )


def _check_splits(counts: Counter[str], dataset: Dataset) -> None:
    empty = [split for split in SPLITS if not counts[split]]
    if empty:
        found = ", ".join(f"{counts[split]} {split}" for split in SPLITS)
        raise DataError(
            f"{dataset.name} gives no images for {' and '.join(empty)} ({found}); every split needs at least one: "
            f"add photographs or change the fractions or folders in datasets.{dataset.name}"
        )


def _manifest(
    params: Params, dataset: Dataset, shards: Sequence[Shard], images: Sequence[ImageRow], tables: dict[str, bytes]
) -> dict[str, Any]:
    """The content of manifest.json, without times and absolute paths: the same photographs give the same bytes."""
    pixels = [{"images": shard.images, "bytes": shard.bytes, "crc32c": shard.crc32c} for shard in shards]
    sums = {name: checksum(table) for name, table in tables.items()}
    rules = params.prepare
    content = hashlib.sha256(json.dumps([FORMAT, rules.size, rules.crop, pixels]).encode())
    for table in tables.values():
        content.update(table)
    counts = Counter(image.split for image in images)
    return {
        "format": FORMAT,
        "fingerprint": content.hexdigest(),
        "dataset": dataset.name,
        "licence": dataset.licence,
        "options": {key: value for key, value in dataset.options.model_dump(mode="json").items() if key != "root"},
        "seed": params.seed,
        "size": rules.size,
        "crop": rules.crop,
        "prepare": rules.model_dump(mode="json"),
        "images": {name: counts[name] for name in (*SPLITS, DUPLICATE)},
        "photographs": len({image.sha256 for image in images if image.split != DUPLICATE}),
        "expected_photographs": dataset.expected,
        "modes": dict(sorted(Counter(image.mode for image in images).items())),
        "pillow": PIL.__version__,
        "tables": sums,
        "shards": pixels,
    }


def _finish(unfinished: Path, output: Path, tables: dict[str, bytes], manifest: dict[str, Any]) -> None:
    """Write the tables, then the manifest, then rename everything into place at once."""
    prepared = unfinished / "prepared"
    for name, table in tables.items():
        write_file(prepared / name, partial(Path.write_bytes, data=table))
    text = json.dumps(manifest, indent=1, ensure_ascii=False) + "\n"
    write_file(prepared / MANIFEST, partial(Path.write_bytes, data=text.encode()))
    replaced = unfinished / "replaced"
    shutil.rmtree(replaced, ignore_errors=True)  # left by a run that was killed here
    output.parent.mkdir(parents=True, exist_ok=True)
    if output.exists():
        os.rename(output, replaced)
    os.rename(prepared, output)
    shutil.rmtree(unfinished, ignore_errors=True)  # a second run may be opening its lock there now
