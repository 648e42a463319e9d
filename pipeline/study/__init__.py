"""Studies: many experiments from one file in `studies/`, run through DVC's queue, summed up in one place."""

from pipeline.study.grid import Configuration, Study, load_study

__all__ = ["Configuration", "Study", "load_study"]
