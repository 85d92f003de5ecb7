"""Experiments: training tasks that show what clipping does, small enough for two cores and a minute.

Gradients that explode, and the clipping of their norm as the cure, are from R. Pascanu, T. Mikolov, Y. Bengio 2013,
"On the difficulty of training recurrent neural networks", arXiv:1211.5063.

Read in this order: `run` (what a training run leaves behind), `framework` (what an experiment needs of one; `in_torch`,
`in_paddle` and `in_jax` have it), `training` (the one loop), `seed`, `char_rnn` and `direction` (the experiments),
`demo` (all of them, their verdict and the sentence), `table` and `picture`.

`compare` trains the same thing under several rules: one of the `tasks`, each with a published claim, or a user's own
function. Then read `outcome`, `comparison`, `sign_test` (what counts as a difference) and `compare`.

`profiles` runs every method on the same streams of norms, without any training; `profile_picture` draws them.
"""

from gradclip.experiments.compare import compare
from gradclip.experiments.comparison import Comparison, Contender
from gradclip.experiments.outcome import Metric, Outcome, Trained

__all__ = ["Comparison", "Contender", "Metric", "Outcome", "Trained", "compare"]
