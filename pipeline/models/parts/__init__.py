"""Parts that several decoders are made of: convolution blocks, transformers on a grid, the Haar transform."""
