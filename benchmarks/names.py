"""What the limits, and PyTorch's own ways, are called in every table."""

READ, WRITE, READ_WRITE = "one read", "one read and write", "a read, then a read and write"
READ_BOTH = "one read of gradients and weights"
READ_BOTH_WRITE = "a read of both, then a read and write of the gradients"

TORCH, FOREACH = "torch's clip_grad_norm_", "torch's clip_grad_value_, foreach"
STEP, TORCH_STEP = "the step alone", "torch's clip, and step"
