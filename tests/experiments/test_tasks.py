"""The tasks, a few steps of each: they are what their papers describe, seeded, and their claims can be read off."""

import math

import numpy as np
import pytest
import torch

from gradclip import ClipGradByGlobalNorm
from gradclip.experiments import Comparison, Contender, Metric, Trained, TrainingOutcome
from gradclip.experiments.tasks import (
    actor_critic,
    amp_digits,
    bad_batches,
    bias,
    char_lm,
    digits,
    gan,
    gpt,
    heavy_tails,
    l0l1,
    label_noise,
    lstm,
    outliers,
    ppo,
    resnet,
    temporal_order,
)
from gradclip.experiments.tasks.descent import descend, thinned
from gradclip.experiments.tasks.task import task_called
from gradclip.experiments.tasks.titles import SIZED, TASKS, TITLES, UNSEEN
from gradclip.experiments.training.char_rnn import BATCH, WINDOW
from gradclip.rules.text import rule_from_text

NONE, GLOBAL = rule_from_text("none"), ClipGradByGlobalNorm(1.0)
SHORT = {
    "temporal-order": lambda rule, seed: temporal_order.train(rule, seed, steps=2, length=10),
    "char-lm": lambda rule, seed: char_lm.train(rule, seed, steps=2),
    "bad-batches": lambda rule, seed: bad_batches.train(rule, seed, steps=2),
    "digits": lambda rule, seed: digits.train(rule, seed, rates=(0.1,), epochs=1),
    "heavy-tails": lambda rule, seed: heavy_tails.train(rule, seed, steps=40),
    "l0l1": lambda rule, seed: l0l1.train(rule, seed, steps=200, step_sizes=(0.3,)),
    "bias": lambda rule, seed: bias.train(rule, seed, steps=40),
    "amp-digits": lambda rule, seed: amp_digits.train(rule, seed, steps=3),
    "label-noise": lambda rule, seed: label_noise.train(rule, seed, steps=2),
    "actor-critic": lambda rule, seed: actor_critic.train(rule, seed, steps=4),
    "outliers": lambda rule, seed: outliers.train(rule, seed, steps=40),
    "gan": lambda rule, seed: gan.train(rule, seed, steps=4),
    "gpt": lambda rule, seed: gpt.train(rule, seed, steps=2, units=12, layers=2),
    "lstm": lambda rule, seed: lstm.train(rule, seed, steps=2),
    "ppo": lambda rule, seed: ppo.train(rule, seed, steps=4),
    "resnet": lambda rule, seed: resnet.train(rule, seed, steps=2),
}


@pytest.mark.parametrize("name", TITLES)
def test_a_task_is_complete_and_its_rules_exist(name: str) -> None:
    task = task_called(name)
    assert task.name == name
    assert task.rules[0] == "none"
    assert all(rule_from_text(text) is not None for text in task.rules)
    for claim in task.claims:
        assert {claim.better, claim.than} <= set(task.rules)
        assert "arXiv:" in claim.source


@pytest.mark.parametrize("name", TITLES)
def test_a_seed_decides_everything_and_another_one_changes_it(name: str) -> None:
    first, again, other = (repr(SHORT[name](GLOBAL, seed)) for seed in (0, 0, 1))
    assert first == again != other


@pytest.mark.parametrize("name", [name for name in TITLES if name != "l0l1"])
def test_all_rules_start_from_the_same_numbers(name: str) -> None:
    without, clipped = (SHORT[name](rule, 0) for rule in (NONE, ClipGradByGlobalNorm(1e9)))
    assert without == clipped
    assert without.clipped == 0.0


def test_the_tasks_with_a_claim_and_those_without_are_apart() -> None:
    assert len(TITLES) == len(TASKS) + len(UNSEEN) + len(SIZED)
    assert all(task_called(name).claims for name in TASKS)
    assert not any(task_called(name).claims for name in (*UNSEEN, *SIZED))


def test_a_task_that_does_not_exist_is_refused_by_name() -> None:
    with pytest.raises(KeyError, match="no task 'mnist': there are temporal-order"):
        task_called("mnist")


def test_the_first_symbol_is_in_the_second_tenth_and_the_other_in_the_sixth() -> None:
    sequences, orders = temporal_order.sequences(500, 50, torch.Generator().manual_seed(0))
    symbols = sequences.argmax(2)
    places = (symbols < 2).nonzero()[:, 1].view(500, 2)
    assert set(places[:, 0].tolist()) == set(range(5, 10))
    assert set(places[:, 1].tolist()) == set(range(25, 30))
    first, second = (symbols.gather(1, places[:, i : i + 1]).squeeze(1) for i in (0, 1))
    assert orders.equal(first + 2 * second)
    assert orders.unique().tolist() == [0, 1, 2, 3]


def test_recurrent_weights_are_sparse_and_have_the_radius_of_the_paper() -> None:
    weights = temporal_order.recurrent_weights(torch.Generator().manual_seed(0))
    assert (weights != 0).sum(dim=1).tolist() == [15] * 50
    assert float(torch.linalg.eigvals(weights).abs().max()) == pytest.approx(0.95, rel=1e-4)


def test_students_t_has_heavier_tails_than_a_normal() -> None:
    random = torch.Generator().manual_seed(0)
    draws = heavy_tails.student(1.5, (100_000,), random).abs()
    # Quantiles of |t| with 1.5 degrees of freedom, from its distribution function; 1e5 draws are right to 1 % and 2 %.
    assert draws.quantile(0.5).item() == pytest.approx(0.8726, rel=0.02)
    assert draws.quantile(0.9).item() == pytest.approx(3.7052, rel=0.04)
    assert draws.max().item() > 100


def test_clipping_at_two_settles_where_algebra_says() -> None:
    outcome = bias.train(ClipGradByGlobalNorm(2.0), 0, steps=2000)
    # From 2 to -7/9 with e^(-0.0045 n): 0.03 are left at step 1000. The mean of 1000 clipped draws of deviation 0.66,
    # over the slope 0.9, is right to 0.023.
    assert outcome.metric == pytest.approx(7 / 9, abs=0.1)


def test_without_clipping_a_wide_step_never_arrives_and_with_it_it_does() -> None:
    without, clipped = (l0l1.train(rule, 0, steps=300, step_sizes=(0.3,)) for rule in (NONE, GLOBAL))
    assert without.metric == math.inf
    assert without.diverged is not None
    # A step of at most 0.3 at a time from 10.5 and from 8, each within 10 %: 27 to 38 and 20 to 29 steps, and the rest.
    assert 47 <= clipped.metric <= 80


def test_a_bad_batch_is_a_real_one_out_of_order_or_repeated() -> None:
    window = np.arange(BATCH * (WINDOW + 1)).reshape(BATCH, WINDOW + 1)
    random = np.random.default_rng(0)
    odd, even = bad_batches.EVERY, 2 * bad_batches.EVERY
    inputs, targets = bad_batches.bad_batch(window[:, :-1], window[:, 1:], odd, random)
    assert np.array_equal(inputs, window[:, :-1])
    assert sorted(targets.ravel().tolist()) == sorted(window[:, 1:].ravel().tolist())
    assert not np.array_equal(targets, window[:, 1:])
    inputs, targets = bad_batches.bad_batch(window[:, :-1], window[:, 1:], even, random)
    assert all(len(set(row)) == 1 for row in inputs.tolist())
    assert np.array_equal(targets, np.roll(inputs, 1, axis=0))


def test_bad_batches_come_after_a_quiet_time() -> None:
    bad = [step for step in range(1, bad_batches.STEPS + 1) if bad_batches.is_bad(step)]
    assert bad[0] > bad_batches.QUIET
    assert {step % bad_batches.EVERY for step in bad} == {0}


def test_standardised_weights_have_mean_zero_and_the_variance_of_their_fan_in() -> None:
    layer = digits.Convolution(4, 3)
    with torch.no_grad():
        layer.weight.mul_(5).add_(2)
        layer.bias.zero_()
        impulse = torch.zeros(4, 4, 3, 3)
        impulse[range(4), range(4), 1, 1] = 1  # the response to an impulse in a channel is its kernel, turned round
        kernels = layer(impulse).permute(1, 0, 2, 3).reshape(3, -1)
    assert kernels.mean(dim=1).tolist() == pytest.approx([0.0] * 3, abs=1e-6)
    assert kernels.square().sum(dim=1).tolist() == pytest.approx([1.0] * 3, rel=0.05)  # 35 / 36, of the unbiased one


def test_a_branch_that_starts_at_zero_lets_the_input_through() -> None:
    x = torch.randn(2, digits.CHANNELS, 8, 8)
    assert digits.Block()(x).equal(x)


def test_training_and_test_images_are_different_ones() -> None:
    images, classes, tests, answers = digits.digits()
    assert (len(images), len(classes)) == (1200, 1200)
    assert len(tests) == len(answers) == 597
    assert images.shape[1:] == (1, 8, 8)


def test_a_descent_ends_at_the_first_loss_that_is_not_finite() -> None:
    weight = torch.nn.Parameter(torch.tensor([10.0]))
    run = descend(torch.optim.SGD([weight], 1.0), NONE, lambda step: (weight**4).sum(), 50)
    assert run.broke_at == len(run.losses) < 50
    assert run.diverged == f"step {run.broke_at}"
    assert not math.isfinite(run.losses[-1])


def test_a_descent_counts_clipped_and_skipped_steps() -> None:
    weight = torch.nn.Parameter(torch.tensor([0.0]))
    slopes = [0.5, 3.0, 3.0, 0.5]
    run = descend(torch.optim.SGD([weight], 0.1), GLOBAL, lambda step: slopes[step - 1] * weight.sum(), 4)
    assert run.clipped == 0.5
    assert weight.item() == pytest.approx(-0.1 * (0.5 + 1 + 1 + 0.5))


def test_a_curve_is_thinned_to_means_at_the_ends_of_equal_stretches() -> None:
    assert thinned([1.0, 3.0, 5.0, 7.0, 9.0], points=3) == ((2, 2.0), (4, 6.0), (5, 9.0))
    assert thinned([1.0, 3.0], points=2, of=8) == ((2, 2.0),)


@pytest.mark.parametrize(
    ("clipped", "words"),
    [
        ([1.0] * 5, "reproduced: global:1 beat none on 5 of 5 seeds"),
        ([1.0] * 4 + [3.0], "not reproduced, within noise: global:1 beat none on 4 of 5 seeds"),
        ([3.0] * 5, "not reproduced, it is the other way round: global:1 beat none on 0 of 5 seeds"),
        ([1.0] * 4, "not decided, too few seeds: global:1 beat none on 4 of 4 seeds"),
    ],
)
def test_a_claim_is_answered_by_its_runs(clipped: list[float], words: str) -> None:
    (claim,) = task_called("heavy-tails").claims
    claim = type(claim)(claim.words, claim.source, better="global:1", than="none")
    runs = {"none": [2.0] * len(clipped), "global:1": clipped}
    contenders = tuple(
        Contender(text, text, tuple(Trained(seed, TrainingOutcome(value), 0.0) for seed, value in enumerate(values)))
        for text, values in runs.items()
    )
    comparison = Comparison("made up", Metric(), contenders, {})
    assert claim.result(comparison) == words
    assert claim.reproduced(comparison) == words.startswith("reproduced")


def test_the_gpt_has_ten_million_parameters_and_sees_no_later_character() -> None:
    net = gpt.GPT(symbols=90)
    assert 10e6 < sum(parameter.numel() for parameter in net.parameters()) < 11e6
    characters = torch.arange(2 * WINDOW).view(2, WINDOW) % 90
    changed = characters.clone()
    changed[:, 40:] = 7
    with torch.no_grad():
        before, after = net(characters), net(changed)
    # float32, logits of about 1: what was not changed is the same but for the order of sums
    assert torch.allclose(before[:, :40], after[:, :40], atol=1e-5)
    assert not torch.allclose(before[:, 40:], after[:, 40:], atol=1e-2)


def test_the_rate_of_the_gpt_rises_in_a_line_and_falls_along_a_cosine() -> None:
    shares = [gpt.share_of_rate(step, 2100) for step in (1, 50, 100, 1100, 2100)]
    assert shares == pytest.approx([0.01, 0.5, 1.0, 0.55, 0.1])


def test_advantages_are_the_sums_that_gae_writes_down() -> None:
    random = np.random.default_rng(0)
    expected, then = random.standard_normal((2, 6, 3))
    down = random.random((6, 3)) < 0.3
    over = down | (random.random((6, 3)) < 0.3)
    assert down.any()
    assert (over & ~down).any()
    found = ppo.advantages_of(expected, then, down, over)
    for t, cart in np.ndindex(found.shape):
        total, weight = 0.0, 1.0
        for later in range(t, 6):
            after = 0.0 if down[later, cart] else then[later, cart]
            total += weight * (1 + 0.99 * after - expected[later, cart])
            weight *= 0.99 * 0.95
            if over[later, cart]:
                break
        assert found[t, cart] == pytest.approx(total)


def test_a_push_that_was_worth_it_is_asked_for_no_more_once_its_chance_has_grown(monkeypatch) -> None:
    monkeypatch.setattr(ppo, "OF_ENTROPY", 0.0)
    net = ppo.PolicyAndCritic()
    torch.nn.init.zeros_(net.actor[-1].weight)
    _, expected = net(torch.zeros(2, 4))
    # A chance of 1/2 now, and of 1/4 when the pushes were met; advantages of 1 and -1 have a deviation of sqrt(2).
    met = ppo.Met(
        torch.zeros(2, 4), torch.ones(2), torch.full((2,), math.log(1 / 4)), torch.tensor([1.0, -1.0]), expected
    )
    ppo.ppo_loss(net, met._replace(returns=expected.detach())).backward()
    # The first is above the bound: only the second pulls, by 1/sqrt(2) times the slope 1 of its ratio, over two.
    assert net.actor[-1].bias.grad.item() == pytest.approx(0.5 / math.sqrt(2), rel=1e-5)


def test_the_streams_of_the_lstm_are_the_text_in_its_order() -> None:
    rows = lstm.streams(torch.arange(125), 3)
    assert rows[:, 0].tolist() == [0, 41, 82]
    read = list(lstm.windows(rows))
    assert [window.shape[1] for window in read] == [21, 21]
    assert torch.cat([window[:, 1:] for window in read], 1).equal(rows[:, 1:])
    assert torch.cat([window[:, :-1] for window in read], 1).equal(rows[:, :-1])


def test_a_stream_read_in_parts_is_what_it_is_at_once() -> None:
    net = lstm.LSTM(30)
    text = torch.arange(41)[None] % 30
    with torch.no_grad():
        whole, _ = lstm.nats(net, text, None)
        first, state = lstm.nats(net, text[:, :21], None)
        second, _ = lstm.nats(net, text[:, 20:], state)
    # float32, losses of about 3
    assert torch.allclose(torch.cat((first, second), 1), whole, atol=1e-5)
    assert lstm.perplexity(net, text[0]) == pytest.approx(math.exp(whole.mean().item()), rel=1e-5)


def test_the_residual_net_has_the_layers_and_parameters_of_the_paper() -> None:
    net = resnet.net()
    # 2 x 3 x 3 convolutions, the first one and the readout; the ones beside the stream are not counted
    layers = [m for m in net.modules() if isinstance(m, torch.nn.Linear) or getattr(m, "kernel_size", 0) == (3, 3)]
    assert len(layers) == 20
    assert sum(parameter.numel() for parameter in net.parameters()) // 1000 == 272
    assert net(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


def test_images_are_moved_each_by_itself_and_by_a_pixel_at_most() -> None:
    images = torch.zeros(300, 1, 8, 8)
    images[:, 0, 4, 3] = 1.0
    seen = resnet.moved(images, torch.Generator().manual_seed(0))[:, 0].nonzero()
    assert seen[:, 0].tolist() == list(range(300))
    assert {(row, column) for _, row, column in seen.tolist()} == {(r, c) for r in (3, 4, 5) for c in (2, 3, 4)}
