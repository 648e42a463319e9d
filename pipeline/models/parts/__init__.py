"""Parts shared by several decoders: convolution blocks, transformers on a grid, the Haar transform."""
