"""Studies: many experiments from one file in `studies/`, run through DVC's queue, summarised in one folder."""
