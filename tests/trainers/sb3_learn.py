"""A training of Stable-Baselines3 in a process of its own: `sb3_learn.py FOLDER WHAT NAME`.

WHAT is begin, resume, through or forgetful, and NAME that of an algorithm.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

import gymnasium
import numpy as np
import torch
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback

import gradclip.stable_baselines3
from trainers import small

EPISODE, ROLLOUTS, KILLED_AT = 16, 8, 5
"""A rollout is an episode, so that it begins with the environment as it is after a reset."""

OFF_POLICY = {"train_freq": EPISODE, "gradient_steps": 4, "learning_starts": EPISODE, "buffer_size": 512}
ALGORITHMS = {
    "PPO": (PPO, {"n_steps": EPISODE, "batch_size": 8, "n_epochs": 2, "max_grad_norm": float("inf")}),
    "A2C": (A2C, {"n_steps": EPISODE, "max_grad_norm": float("inf")}),
    "DQN": (DQN, {**OFF_POLICY, "max_grad_norm": float("inf")}),
    "SAC": (SAC, OFF_POLICY),
    "TD3": (TD3, OFF_POLICY),
    "DDPG": (DDPG, OFF_POLICY),
}


class Drift(gymnasium.Env):
    """A point that is to be held at 0; one reward in seven is a hundred times too large."""

    observation_space = gymnasium.spaces.Box(-10.0, 10.0, (3,), np.float32)

    def __init__(self, discrete: bool) -> None:
        box = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.action_space = gymnasium.spaces.Discrete(3) if discrete else box
        self._at, self._steps = np.ones(3, np.float32), 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._at, self._steps = np.ones(3, np.float32), 0
        return self._at, {}

    def step(self, action):
        push = float(np.asarray(action).ravel()[0])
        self._at = np.clip(0.9 * np.roll(self._at, 1) + np.float32(0.1 * push), -10.0, 10.0).astype(np.float32)
        self._steps += 1
        reward = -float(np.square(self._at).sum()) * (100.0 if self._steps % 7 == 0 else 1.0)
        return self._at, reward, self._steps == EPISODE, False, {}


class Saves(CheckpointCallback):
    """Saves between training and the next rollout, and beside it what Stable-Baselines3 does not: random numbers.

    Its own moment is within a rollout, of which a loaded model knows nothing.
    """

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        super()._on_step()
        states = {"torch": torch.get_rng_state(), "numpy": np.random.get_state(), "python": random.getstate()}
        torch.save(states, Path(self.save_path) / f"random_{self.num_timesteps}.pt")


class Dies(BaseCallback):
    def _on_step(self) -> bool:
        if self.num_timesteps == KILLED_AT * EPISODE + 3:
            small.die()
        return True


def made(name: str) -> object:
    kind, options = ALGORITHMS[name]
    return kind("MlpPolicy", Drift(discrete=kind is DQN), seed=0, device="cpu", **options)


def loaded(folder: Path, name: str) -> tuple[object, int]:
    """The model of the last checkpoint, with the random numbers of then."""
    steps = max(int(path.stem.rpartition("_")[2]) for path in folder.glob("random_*.pt"))
    kind, _ = ALGORITHMS[name]
    model = kind.load(folder / f"rl_model_{steps}_steps.zip", env=Drift(discrete=kind is DQN), device="cpu")
    if name not in ("PPO", "A2C"):
        model.load_replay_buffer(folder / f"rl_model_replay_buffer_{steps}_steps.pkl")
    states = torch.load(folder / f"random_{steps}.pt", weights_only=False)
    torch.set_rng_state(states["torch"])
    np.random.set_state(states["numpy"])
    random.setstate(states["python"])
    return model, steps


def learn(folder: Path, what: str, name: str) -> None:
    saved = folder / name
    done = 0
    if what in ("begin", "through"):
        model = made(name)
    else:
        model, done = loaded(saved, name)
    if what == "forgetful":
        del model.clip_memory
    clip = gradclip.stable_baselines3.Clip(small.LEARNT)
    saves = Saves(1, str(saved), save_replay_buffer=True)
    callbacks = [clip, *([saves, Dies()] if what == "begin" else [])]
    model.learn(ROLLOUTS * EPISODE - done, callback=callbacks, reset_num_timesteps=done == 0)
    weights = {f"{part}/{key}": value for part, state in model.get_parameters().items() for key, value in state.items()}
    tensors = {key: value for key, value in weights.items() if isinstance(value, torch.Tensor)}
    torch.save({"weights": tensors, "memory": clip.state_dict()}, folder / f"{what}-{name}.pt")


if __name__ == "__main__":
    learn(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
