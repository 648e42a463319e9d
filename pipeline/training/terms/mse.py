"""Mean squared error."""

import torch.nn.functional as F

from pipeline.training.losses import TERMS

TERMS.register("mse")(lambda: F.mse_loss)
