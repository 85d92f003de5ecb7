"""What trains: `framework` (what an experiment needs of one; `in_torch`, `in_paddle` and `in_jax` have it), `loop` (the
one loop), `training_run` (what it leaves behind), then the experiments: `exploding_net`, `char_rnn` and `direction`.
"""
