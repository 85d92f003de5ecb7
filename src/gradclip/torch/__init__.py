"""gradclip in PyTorch: `attach` to an optimizer, clip by hand with `Clipper.clip_`, or replace PyTorch's functions."""

from gradclip.errors import needing

with needing("gradclip.torch", "torch", "torch"):
    from gradclip.torch.attached import attach
    from gradclip.torch.clipper import Clipper
    from gradclip.torch.functional import clip_grad_norm_, clip_grad_value_, clip_grads_with_norm_, get_total_norm
    from gradclip.torch.hook import AttachedClipper
    from gradclip.torch.verify import verify_norm

__all__ = [
    "AttachedClipper",
    "Clipper",
    "attach",
    "clip_grad_norm_",
    "clip_grad_value_",
    "clip_grads_with_norm_",
    "get_total_norm",
    "verify_norm",
]
