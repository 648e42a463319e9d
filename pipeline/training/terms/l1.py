"""Mean absolute error."""

import torch.nn.functional as F

from pipeline.training.losses import TERMS

TERMS.register("l1")(lambda: F.l1_loss)
