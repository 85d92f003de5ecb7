"""gradclip in PaddlePaddle: classes for `grad_clip=` of an optimizer, the explicit `Clipper`, and the drop-ins."""

from gradclip.errors import needing

with needing("gradclip.paddle", "paddle", "paddle"):
    from gradclip.paddle.clip import Clip, ClipGradByGlobalNorm, ClipGradByNorm, ClipGradByValue
    from gradclip.paddle.clipper import Clipper
    from gradclip.paddle.functional import clip_grad_norm_, clip_grad_value_
    from gradclip.paddle.model_callback import ModelCallback

__all__ = [
    "Clip",
    "ClipGradByGlobalNorm",
    "ClipGradByNorm",
    "ClipGradByValue",
    "Clipper",
    "ModelCallback",
    "clip_grad_norm_",
    "clip_grad_value_",
]
