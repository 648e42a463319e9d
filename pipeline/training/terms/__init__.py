"""Loss terms: one file each; the file's name is the term's name in params.yaml."""
