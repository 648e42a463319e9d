"""Feature inversion: how much of a photograph survives in a layer, and which decoder gets it back."""
