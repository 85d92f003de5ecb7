"""Hugging Face's Trainer and TRL's with one line: they clip, remember, and log."""

from __future__ import annotations

import json
import math

import pytest
import torch

import gradclip
import gradclip.transformers
from gradclip import ClipGradByGlobalNorm, ClipGradByNorm, UClip
from gradclip.telemetry import Telemetry
from gradclip.torch.late import LateClippers
from trainers import small
from trainers.transformers_train import KILLED_AFTER, STEPS, Regression, train, trainer

LOGGED = {*small.LOGGED} - {"grad_norm"}
"""What it adds; the Trainer has a norm of its own."""
MODES = {"plain": {}, "accumulated": {"gradient_accumulation_steps": 2}, "bf16": {"bf16": True}}


class Interrupted(Exception):
    """What a user does who stops a training."""


def interrupt():
    raise Interrupted


def alike(folder):
    through, resumed = (torch.load(folder / f"{what}.pt", weights_only=True) for what in ("through", "resume"))
    for name, weight in through["weights"].items():
        assert torch.equal(weight, resumed["weights"][name]), name
    assert through["memory"] == resumed["memory"]
    assert through["memory"]["clippers"]["all"]["step"] == STEPS


def test_a_training_that_was_killed_and_resumed_ends_bit_for_bit_as_one_that_went_through(tmp_path):
    small.child("transformers_train.py", tmp_path, "begin", killed=True)
    small.child("transformers_train.py", tmp_path, "resume")
    train(tmp_path, "through")
    alike(tmp_path)


@pytest.mark.parametrize("mode", MODES)
def test_a_training_that_was_interrupted_and_resumed_ends_as_one_that_went_through(mode, tmp_path):
    with pytest.raises(Interrupted):
        train(tmp_path, "begin", interrupt, **MODES[mode])
    resumed = train(tmp_path, "resume", **MODES[mode])
    through = train(tmp_path, "through", **MODES[mode])
    alike(tmp_path)
    logs = [[log for log in made.state.log_history if "loss" in log] for made in (through, resumed)]
    kept = [[{k: v for k, v in log.items() if k != "clip/rate"} for log in of_one[KILLED_AFTER:]] for of_one in logs]
    assert kept[0] == kept[1]


def test_a_memory_that_is_not_taken_up_is_seen(monkeypatch, tmp_path):
    monkeypatch.setattr(LateClippers, "load_state_dict", lambda self, state: None)
    with pytest.raises(AssertionError, match=r"net\.0"):
        test_a_training_that_was_interrupted_and_resumed_ends_as_one_that_went_through("plain", tmp_path)


def test_it_clips_as_a_loop_of_ones_own_does(tmp_path):
    net, clipper = Regression(), gradclip.torch.Clipper(small.RULE)
    made = trainer(tmp_path, gradclip.transformers.Clip(small.RULE), model=net)
    twin, batches = Regression(), []
    seen = net.register_forward_pre_hook(lambda m, args, kwargs: batches.append(kwargs), with_kwargs=True)
    made.train()
    seen.remove()
    optimizer = torch.optim.AdamW(twin.parameters(), lr=0.01, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: (STEPS - step) / STEPS)
    for batch in batches:
        optimizer.zero_grad()
        twin(**batch)["loss"].backward()
        clipper.clip_(twin)
        optimizer.step()
        schedule.step()
    assert clipper.step == STEPS
    for one, two in zip(net.parameters(), twin.parameters(), strict=True):
        assert torch.allclose(one, two, rtol=0, atol=1e-6)  # AdamW of the Trainer has other kernels


def test_the_log_history_and_the_bar_have_norm_threshold_and_share(tmp_path):
    made = trainer(tmp_path, gradclip.transformers.Clip(ClipGradByGlobalNorm(0.5), layers=2), logging_steps=4)
    made.train()
    logs = [log for log in made.state.log_history if "loss" in log]
    assert len(logs) == STEPS // 4
    for log in logs:
        assert log.keys() >= LOGGED
        assert log["grad_norm_clipped"] <= 0.5 * (1 + 1e-6)
        assert log["grad_norm"] >= log["grad_norm_clipped"]
        assert sum(name.startswith("grad_norm/net.") for name in log) == 2
    assert not LOGGED & made.state.log_history[-1].keys(), "the summary at the end is of no step"


def test_callbacks_that_come_before_it_log_the_numbers_where_it_is_put_first(tmp_path):
    from transformers import TrainerCallback

    class Board(TrainerCallback):
        logged: list[dict[str, float]] = []  # noqa: RUF012

        def on_log(self, args, state, control, logs, **of_trainer):
            self.logged.append(dict(logs))

    made, clip = trainer(tmp_path, board := Board()), gradclip.transformers.Clip(small.RULE)
    clip.add_to(made)
    made.train()
    assert all(log.keys() >= LOGGED for log in board.logged if "loss" in log)


@pytest.mark.parametrize("steps", [1, 2])
def test_events_have_the_loss_of_all_batches_of_the_step(steps, tmp_path):
    seen = []
    clip = gradclip.transformers.Clip(small.RULE, telemetry=Telemetry(seen.append))
    made = trainer(tmp_path, clip, gradient_accumulation_steps=steps)
    made.train()
    losses = [log["loss"] for log in made.state.log_history if "loss" in log]
    assert [event.loss for event in seen] == pytest.approx(losses, rel=1e-4)  # the Trainer rounds them


def test_a_second_training_goes_on_with_the_memory_and_the_hooks_are_gone_in_between(tmp_path):
    clip = gradclip.transformers.Clip(small.RULE)
    made = trainer(tmp_path, clip)
    made.train()
    assert not any(clipper.attached for clipper in clip.clippers.values())
    made.train()
    assert clip.last.step == 2 * STEPS - 1


def test_another_model_begins_anew(tmp_path):
    sums, clip = [], gradclip.transformers.Clip(small.LEARNT)
    for _ in range(2):
        made = trainer(tmp_path, clip)
        made.train()
        sums.append([p.detach().clone() for p in made.model.parameters()])
    assert all(map(torch.equal, *sums))


def test_a_checkpoint_that_was_written_without_it_is_gone_on_from(tmp_path):
    trainer(tmp_path / "saved", max_steps=5).train()
    made = trainer(tmp_path / "saved", clip := gradclip.transformers.Clip(small.RULE), max_steps=10)
    with pytest.warns(gradclip.GradclipWarning, match="begins anew"):
        made.train(resume_from_checkpoint=True)
    assert clip.last.step == 4
    saved = json.loads((tmp_path / "saved" / "checkpoint-10" / "trainer_state.json").read_text())
    assert saved["stateful_callbacks"]["Clip"]["attributes"]["memory"]["clippers"]["all"]["step"] == 5


@pytest.mark.parametrize("value", [1.0, None])
def test_its_own_max_grad_norm_beside_it_is_refused(value, tmp_path):
    options = {} if value is None else {"max_grad_norm": value}
    made = trainer(tmp_path, gradclip.transformers.Clip(small.RULE), **{"max_grad_norm": 1.0} | options)
    with pytest.raises(ValueError, match=r"write max_grad_norm=0"):
        made.train()


def test_a_checkpoint_of_another_rule_is_refused(tmp_path):
    trainer(tmp_path, gradclip.transformers.Clip(small.RULE)).train()
    with pytest.raises(ValueError, match="this state belongs to the rule"):
        trainer(tmp_path, gradclip.transformers.Clip(ClipGradByNorm(1.0)), max_steps=20).train(
            resume_from_checkpoint=True
        )


def test_several_of_them_are_refused(tmp_path):
    clip = gradclip.transformers.Clip(small.RULE)
    with pytest.raises(ValueError, match="several callbacks Clip"):
        trainer(tmp_path, clip, gradclip.transformers.Clip(small.RULE)).train()
    made = trainer(tmp_path, clip)
    with pytest.raises(ValueError, match="has a Clip already"):
        clip.add_to(made)
    with pytest.raises(TypeError, match="takes the Trainer"):
        clip.add_to(None)


@pytest.mark.parametrize("damage", [{}, {"attributes": None}, {"attributes": {"memory": 3}}])
def test_a_damaged_memory_is_told(damage, tmp_path):
    trainer(tmp_path, gradclip.transformers.Clip(small.RULE)).train()
    path = tmp_path / f"checkpoint-{STEPS}" / "trainer_state.json"
    state = json.loads(path.read_text())
    state["stateful_callbacks"]["Clip"] = damage
    path.write_text(json.dumps(state))
    with pytest.raises(ValueError, match=r"trainer_state.json has of Clip is damaged"):
        trainer(tmp_path, gradclip.transformers.Clip(small.RULE), max_steps=20).train(resume_from_checkpoint=True)


def test_what_json_cannot_hold_is_refused():
    clip = gradclip.transformers.Clip(small.RULE)
    with pytest.raises(ValueError, match="that is a tensor for each parameter"):
        clip.rule = UClip(ClipGradByNorm(1.0))
    with pytest.raises(TypeError, match="no option 'together'"):
        gradclip.transformers.Clip(small.RULE, together=True)
    with pytest.raises(ValueError, match="carried to the next step: that is a tensor for each parameter"):
        gradclip.transformers.Clip(UClip(ClipGradByNorm(1.0)))


def test_callbacks_that_the_trainer_makes_anew_are_refused_in_words(tmp_path):
    trainer(tmp_path, gradclip.transformers.Clip(small.RULE)).train()
    made = trainer(
        tmp_path, gradclip.transformers.Clip(small.RULE), max_steps=20, restore_callback_states_from_checkpoint=True
    )
    with pytest.raises(TypeError, match="leave it out, Clip takes its memory"):
        made.train(resume_from_checkpoint=True)


def test_a_skipped_step_is_logged_and_too_many_end_the_training(tmp_path):
    net = Regression()
    with torch.no_grad():
        net.net[0].weight.fill_(math.nan)
    clip = gradclip.transformers.Clip(small.RULE, on_nonfinite="skip", max_consecutive_skips=2)
    with pytest.raises(gradclip.TooManySkips):
        trainer(tmp_path, clip, model=net).train()


@pytest.mark.parametrize("way", ["ddp", "fsdp"])
def test_in_two_processes_it_clips_by_the_norm_of_all_and_resumes(way, tmp_path):
    assert "as one that went through" in small.child("transformers_processes.py", way, tmp_path, processes=2)


def tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "<unk>", "<eos>", *"abcdefgh"]
    made = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", unk_token="<unk>", eos_token="<eos>")


def llama():
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=11,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=64,
            pad_token_id=0,
            eos_token_id=2,
            bos_token_id=2,
        )
    )


OF_TRL = {
    "use_cpu": True,
    "bf16": False,
    "report_to": [],
    "max_grad_norm": 0.0,
    "logging_steps": 1,
    "disable_tqdm": True,
    "max_steps": 3,
}


def test_the_trainer_of_trl_for_fine_tuning_takes_it(tmp_path):
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    clip = gradclip.transformers.Clip(ClipGradByGlobalNorm(0.1))
    made = SFTTrainer(
        llama(),
        SFTConfig(str(tmp_path), gradient_accumulation_steps=2, per_device_train_batch_size=2, **OF_TRL),
        train_dataset=Dataset.from_dict({"text": ["a b c d", "b c d e f", "c d", "h g f e"] * 3}),
        processing_class=tokenizer(),
        callbacks=[clip],
    )
    made.train()
    seen = [log for log in made.state.log_history if "loss" in log]
    assert len(seen) == 3
    assert all(log.keys() >= LOGGED and log["clip/scale"] < 1 for log in seen)
    assert float(clip.last.loss) == pytest.approx(seen[-1]["loss"], rel=1e-2)  # of batches; TRL's is of tokens


def test_the_trainer_of_trl_for_policies_takes_it(tmp_path):
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    clip = gradclip.transformers.Clip(small.RULE)
    made = GRPOTrainer(
        llama(),
        reward_funcs=lambda completions, **beside: [float(text.count("a")) for text in completions],
        args=GRPOConfig(
            str(tmp_path), num_generations=2, per_device_train_batch_size=4, max_completion_length=4, **OF_TRL
        ),
        train_dataset=Dataset.from_dict({"prompt": ["a b", "c d", "e f", "g h"]}),
        processing_class=tokenizer(),
        callbacks=[clip],
    )
    made.train()
    assert clip.last.step == 2
    assert all(log.keys() >= LOGGED for log in made.state.log_history if "loss" in log)
