"""gradclip in PaddlePaddle: classes for `grad_clip=` of an optimizer, the explicit `Clipper`, and the drop-ins."""

from gradclip.errors import needing

with needing("gradclip.paddle", "paddle", "paddle"):
    from gradclip.paddle.clip import Clip, ClipGradByGlobalNorm, ClipGradByNorm, ClipGradByValue
    from gradclip.paddle.clipper import Clipper
    from gradclip.paddle.functional import clip_grad_norm_, clip_grad_value_

__all__ = [
    "Clip",
    "ClipGradByGlobalNorm",
    "ClipGradByNorm",
    "ClipGradByValue",
    "Clipper",
    "clip_grad_norm_",
    "clip_grad_value_",
]
