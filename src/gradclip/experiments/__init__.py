"""Experiments: training tasks that show what clipping does, small enough for two cores and a minute.

Gradients that explode, and the clipping of their norm as the cure, are from R. Pascanu, T. Mikolov, Y. Bengio 2013,
"On the difficulty of training recurrent neural networks", arXiv:1211.5063.

`training` has what trains, `showing` the tables, progress and pictures, `tasks` what rules are compared on, most
of them with a published claim. `demo` runs the three experiments of `gradclip demo` and puts the outcome into a
sentence.

`compare` trains the same thing under several rules, one of the tasks or a user's own function: then read `outcome`,
`comparison`, `sign_test` (what counts as a difference), `paired_difference` (how large it is, and when it is none) and
`holm` (of how many).
"""

from gradclip.experiments.compare import ComparisonStopped, compare
from gradclip.experiments.comparison import Comparison, Contender
from gradclip.experiments.outcome import Metric, Trained, TrainingOutcome

__all__ = ["Comparison", "ComparisonStopped", "Contender", "Metric", "Trained", "TrainingOutcome", "compare"]
