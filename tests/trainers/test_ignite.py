"""Ignite with one line: it clips, its Checkpoint has the memory, and the engine's metrics have the numbers."""

from __future__ import annotations

import pytest
import torch
from ignite.engine import Engine, Events, create_supervised_trainer

import gradclip
from gradclip import ClipGradByGlobalNorm
from gradclip.ignite import Clip
from trainers import small


def data():
    return torch.utils.data.DataLoader(small.batches(), batch_size=4)


def same(a, b):
    return all(torch.equal(a[key], b[key]) for key in b)


def test_a_run_that_was_killed_goes_on_bit_for_bit_from_ignites_checkpoint(tmp_path):
    small.child("ignite_run.py", tmp_path, "begin", killed=True)
    for what in ("resume", "through", "forgetful"):
        small.child("ignite_run.py", tmp_path, what)
    resumed, through, forgetful = (torch.load(tmp_path / f"{what}.pt") for what in ("resume", "through", "forgetful"))
    assert resumed["memory"] == through["memory"]
    assert same(resumed["weights"], through["weights"])
    # the oracle sees a memory that was not taken up
    assert forgetful["memory"] != through["memory"]
    assert not same(forgetful["weights"], through["weights"])


def trainer_of(model, optimizer):
    return create_supervised_trainer(model, optimizer, torch.nn.functional.mse_loss)


def test_it_clips_as_a_loop_of_ones_own_does():
    model = small.model()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    trainer = trainer_of(model, optimizer)
    clip = Clip(small.LEARNT).attach(trainer, optimizer, model=model)
    trainer.run(data(), max_epochs=2)
    alone = small.model()
    optimizer = torch.optim.Adam(alone.parameters(), 0.01)
    clipper = gradclip.attach(optimizer, small.LEARNT, model=alone)
    for x, y in [*data(), *data()]:
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(alone(x), y).backward()
        optimizer.step()
    assert same(model.state_dict(), alone.state_dict())
    assert clip.state_dict()["clippers"]["0"] == {**clipper.state_dict(), "left_out": 0}


def test_the_memory_may_be_loaded_before_the_optimizer_is_there():
    first = small.model()
    optimizer = torch.optim.Adam(first.parameters(), 0.01)
    clip = Clip(small.LEARNT).attach(trainer_of(first, optimizer), optimizer, model=first)
    trainer_of(first, optimizer).run(data(), max_epochs=1)
    later = Clip(small.LEARNT)
    later.load_state_dict(clip.state_dict())
    optimizer = torch.optim.Adam(small.model().parameters(), 0.01)
    later.attach(trainer_of(first, optimizer), optimizer, model=first)
    assert later.clippers["0"].step == 8


def test_the_metrics_of_the_engine_have_the_numbers_of_each_step():
    model = small.model()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    trainer, seen = trainer_of(model, optimizer), []
    Clip(ClipGradByGlobalNorm(0.5), layers=2).attach(trainer, optimizer, model=model)
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda engine: seen.append(dict(engine.state.metrics)))
    trainer.run(data(), max_epochs=5)
    assert set(seen[-1]) >= set(small.LOGGED)
    assert seen[-1]["grad_norm"] > seen[-1]["grad_norm_clipped"] == pytest.approx(0.5, rel=1e-6)
    named = [{name for name in row if name.startswith("grad_norm/")} for row in seen]
    assert all(len(names) == 2 for names in named)
    assert len(set(map(frozenset, named))) > 1, "the largest of a step are not always those of the first"


def test_the_numbers_of_an_optimizer_that_stands_still_stay():
    model = small.model()
    optimizers = {name: torch.optim.SGD(part.parameters(), 0.01) for name, part in zip("ab", model[::2], strict=True)}

    def step(engine, batch):
        for name, optimizer in optimizers.items():
            if name == "a" or engine.state.iteration == 1:
                optimizer.zero_grad()
                torch.nn.functional.mse_loss(model(batch[0]), batch[1]).backward()
                optimizer.step()

    trainer = Engine(step)
    Clip(ClipGradByGlobalNorm(0.5), layers=1).attach(trainer, optimizers, model=model)
    trainer.run(data(), max_epochs=1)
    named = [name for name in trainer.state.metrics if "/grad_norm/" in name]
    assert sorted(name[0] for name in named) == ["a", "b"]
    assert {"a/grad_norm", "b/grad_norm"} <= trainer.state.metrics.keys()


@pytest.mark.parametrize("together", [False, True])
def test_several_optimizers_by_name(together):
    model = small.model()
    first, _, last = model
    optimizers = {"first": torch.optim.SGD(first.parameters(), 0.01), "last": torch.optim.SGD(last.parameters(), 0.01)}

    def update(engine, batch):
        x, y = batch
        model.zero_grad()
        torch.nn.functional.mse_loss(model(x), y).backward()
        for optimizer in optimizers.values():
            optimizer.step()

    trainer = Engine(update)
    clip = Clip(ClipGradByGlobalNorm(0.5), together=together).attach(trainer, optimizers, model=model)
    trainer.run(data(), max_epochs=1)
    expected = set(small.LOGGED) if together else {f"{name}/{key}" for name in optimizers for key in set(small.LOGGED)}
    assert set(trainer.state.metrics) == expected
    assert list(clip.clippers) == (["all"] if together else ["first", "last"])


def test_attaching_twice_is_attaching_once_and_detached_it_clips_no_more():
    model = small.model()
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    trainer = trainer_of(model, optimizer)
    clip = Clip(ClipGradByGlobalNorm(0.5)).attach(trainer, optimizer).attach(trainer, optimizer)
    trainer.run(data(), max_epochs=1)
    assert clip.clippers["0"].step == 8
    clip.detach()
    trainer.run(data(), max_epochs=2)
    assert clip.clippers["0"].step == 8


def test_what_is_no_trainer_or_optimizer_is_refused():
    optimizer = torch.optim.SGD(small.model().parameters(), 0.01)
    with pytest.raises(TypeError, match=r"attach\(trainer, optimizer\), got"):
        Clip(ClipGradByGlobalNorm(0.5)).attach(optimizer)
    with pytest.raises(TypeError, match="needs the optimizer"):
        Clip(ClipGradByGlobalNorm(0.5)).attach(Engine(lambda engine, batch: None))
