"""Studies: many experiments from one file in `studies/`, run through DVC's queue, summed up in one place."""
