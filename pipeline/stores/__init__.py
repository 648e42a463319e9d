"""What stages leave on disk and others read by rows: prepared photographs, and the features of one layer of one
backbone with their manifest. Formats of feature stores are one file each in `formats`. May import core.
"""
