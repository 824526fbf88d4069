"""The training loop: fits, keeps the best, stops early, rolls back, resumes to the bit, touches nothing global."""

import math
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from cohortloom.errors import FileFormatError, TrainingError
from cohortloom.rng import Rng
from cohortloom.training import Objective, Phase, Training, drawing_from, hold_out, train

N = 400


def line(stream=1):
    """y = 3 x - 1 + noise of sd 0.1, so the mean squared error can't fall below 0.01."""
    draw = Rng(stream).numpy
    x = draw.normal(size=(N, 1))
    return torch.tensor(x).float(), torch.tensor(3 * x - 1 + 0.1 * draw.normal(size=(N, 1))).float()


def problem(training, *, loss=None, held_out=True, dropout=0.0):
    x, y = line()
    with drawing_from(Rng(5).torch):
        net = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 1))

    def error(index, stream):
        return ((net(x[index]) - y[index]) ** 2).mean()

    kept, aside = hold_out(N, training.validation if held_out else 0.0, Rng(2))
    return net, [Phase("fit", net, kept, [Objective("error", net.parameters(), loss or error)], aside)]


def fitted(training, *, rng=7, dropout=0.0, **how):
    net, phases = problem(training, dropout=dropout)
    history = train(net, phases, training, Rng(rng), **how)
    return net, history


def bits(net):
    return {name: value.numpy().tobytes() for name, value in net.state_dict().items()}


def test_the_noise_floor_is_reached_and_the_best_average_kept():
    training = Training(steps=600, learning_rate=2e-2)
    net, history = fitted(training)
    x, y = line()
    assert ((net(x) - y) ** 2).mean().item() == pytest.approx(0.01, rel=0.4)
    scores = [r["validation"] for r in history.of("evaluation")]
    end = history.of("end")[0]
    assert end["best"] == min(scores)
    aside = hold_out(N, training.validation, Rng(2))[1]
    assert ((net(x[aside]) - y[aside]) ** 2).mean().item() == pytest.approx(end["best"], rel=1e-5)


def test_first_steps_equal_those_of_plain_adamw():
    """An oracle: full batches, one objective, plain torch beside it."""
    training = Training(steps=5, batch_size=N, weight_decay=0.1, warm_up=0, final_rate=0.5, clip=0.0, ema=0.0,
                        validation=0.0)  # fmt: skip
    net, phases = problem(training)
    x, y = line()
    with drawing_from(Rng(5).torch):
        other = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Dropout(0.0), nn.Linear(8, 1))
    matrices, vectors = ([p for p in other.parameters() if (p.dim() > 1) == is_matrix] for is_matrix in (True, False))
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    adam = torch.optim.AdamW(groups, betas=(0.9, 0.95))
    for k in range(5):
        for group in adam.param_groups:
            group["lr"] = 3e-3 * (0.5 + 0.25 * (1 + math.cos(math.pi * k / 5)))
        adam.zero_grad()
        ((other(x) - y) ** 2).mean().backward()
        adam.step()
    train(net, phases, training, Rng(7))
    for mine, theirs in zip(net.parameters(), other.parameters()):
        assert torch.allclose(mine, theirs, atol=1e-6)


def test_gradients_that_are_views_are_taken_as_they_are():
    """The gradient of a sum is one number spread over all weights; each weight must move by the same step."""
    training = Training(steps=20, validation=0.0, weight_decay=0.0, warm_up=0)
    net = nn.Linear(64, 64)
    before = net.weight.detach().clone()
    objective = Objective("sum", [net.weight], lambda index, stream: net.weight.sum() / 4096)
    train(net, [Phase("sum", net, np.arange(10), [objective])], training, Rng(0))
    moved = (net.weight - before).detach()
    assert moved.max() < 0 and torch.allclose(moved, moved.mean().expand_as(moved), atol=1e-5)


def test_the_gradient_is_clipped_to_its_norm():
    seen = []

    class Watched(torch.optim.AdamW):
        def step(self, closure=None):
            seen.append(math.sqrt(sum(float((p.grad**2).sum()) for g in self.param_groups for p in g["params"])))
            return super().step(closure)

    training = Training(steps=3, clip=0.01)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim, "AdamW", Watched)
        fitted(training)
    assert all(norm == pytest.approx(0.01, rel=1e-3) for norm in seen)


def test_every_epoch_deals_every_item_once():
    dealt = []
    training = Training(batch_size=64, epochs=2, validation=0.0)

    def loss(index, stream):
        dealt.append(index.numpy())
        return (net[0].weight ** 2).sum()

    net, phases = problem(training, loss=loss, held_out=False)
    train(net, phases, training, Rng(0))
    assert len(dealt) == 2 * math.ceil(N / 64)
    for epoch in (dealt[: len(dealt) // 2], dealt[len(dealt) // 2 :]):
        assert sorted(np.concatenate(epoch)) == list(range(N))
    assert max(map(len, dealt)) - min(map(len, dealt)) <= 1


def test_a_phase_that_gets_no_better_ends_early():
    training = Training(steps=1000, evaluate_every=10, patience=3)

    def loss(index, stream):  # learns nothing: the loss does not depend on the weights
        return 0 * net[0].weight.sum() + 1.0

    net, phases = problem(training, loss=loss)
    history = train(net, phases, training, Rng(0))
    assert history.of("end")[0] | {"best": 1.0} == history.of("end")[0]
    assert history.of("end")[0]["step"] == 40 and history.of("end")[0]["why"] == "patience"


def test_a_diverged_step_goes_back_and_halves_the_rate():
    training = Training(steps=60, evaluate_every=10)
    calls = []

    def loss(index, stream):
        calls.append(1)
        value = ((net(x[index]) - y[index]) ** 2).mean()
        return value * math.nan if len(calls) == 25 + 1 else value  # a validation batch counts as a call too

    x, y = line()
    net, phases = problem(training, loss=loss)
    history = train(net, phases, training, Rng(0))
    (back,) = history.of("rollback")
    assert back["scale"] == 0.5 and back["step"] // 10 * 10 < 30
    assert all(torch.isfinite(p).all() for p in net.parameters())
    rates = [r["rate"] for r in history.of("evaluation")]
    plain = [r["rate"] for r in fitted(training)[1].of("evaluation")]
    assert rates[-1] == pytest.approx(plain[-1] / 2)


def test_lasting_divergence_is_an_error_that_says_what_to_do():
    training = Training(steps=50, retries=2)

    def loss(index, stream):
        return net[0].weight.sum() * math.inf

    net, phases = problem(training, loss=loss)
    before = torch.get_rng_state()
    with pytest.raises(TrainingError, match=r"diverged 3 times \(.*not finite, last at step \d+\).*learning_rate"):
        train(net, phases, training, Rng(0))
    assert torch.equal(before, torch.get_rng_state())


def test_objectives_move_only_their_own_parameters_at_their_own_pace():
    training = Training(steps=12, validation=0.0, weight_decay=0.0)
    net = nn.ModuleDict({"critic": nn.Linear(2, 1), "maker": nn.Linear(1, 2)})
    turns = {"critic": 0, "maker": 0}
    start = {name: [p.detach().clone() for p in part.parameters()] for name, part in net.items()}

    def critic(index, stream):
        turns["critic"] += 1
        return net["critic"](net["maker"](torch.ones(len(index), 1))).mean()

    def maker(index, stream):
        turns["maker"] += 1
        assert all(torch.equal(a, b) for a, b in zip(start["maker"], net["maker"].parameters())) or turns["maker"] > 1
        return -critic(index, stream)

    phase = Phase("joint", net, np.arange(50), [
        Objective("critic", net["critic"].parameters(), critic, repeats=3, learning_rate=1e-3),
        Objective("maker", net["maker"].parameters(), maker, touches_real=False, every=2, betas=(0.0, 0.9)),
    ])  # fmt: skip
    history = train(net, [phase], training, Rng(0))
    assert turns["maker"] == 6 and turns["critic"] == 3 * 12 + 6
    assert set(history.of("evaluation")[0]["loss"]) == {"critic", "maker"}


def test_same_seed_same_bits_other_seed_other_bits():
    training = Training(steps=30)
    assert bits(fitted(training, dropout=0.3)[0]) == bits(fitted(training, dropout=0.3)[0])
    assert bits(fitted(training, dropout=0.3)[0]) != bits(fitted(training, rng=8, dropout=0.3)[0])


def test_global_stream_and_threads_are_put_back():
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    fitted(Training(steps=5), dropout=0.5)
    assert torch.equal(state, torch.get_rng_state()) and threads == torch.get_num_threads()


def test_progress_and_checkpoints_do_not_change_the_result(tmp_path):
    training = Training(steps=40, checkpoint_seconds=0.0)
    told = []
    net, _ = fitted(training, progress=lambda *a: told.append(a), checkpoint=tmp_path / "state")
    assert bits(net) == bits(fitted(training)[0])
    done, total, note = told[0]
    assert 0 < done <= total and "loss" in note and "rate" in note and "left" in note


def test_checkpoints_of_a_short_run_come_early_and_seldom(monkeypatch, tmp_path):
    """Asked each half second: after 2 s, then each time the run has lasted half as long again, at most 30 s apart."""
    from cohortloom.training import loop

    clock, written = [0.0], []
    monkeypatch.setattr(loop.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(loop, "write_checkpoint", lambda *_: written.append(clock[0]))
    net = torch.nn.Linear(1, 1)
    run = loop._Run(net, [], Training(), Rng(0), None, None, tmp_path / "state", "one", began=0.0, written=0.0)
    for tick in range(400):
        clock[0] = tick / 2
        run.write("phase", loop.Snapshot({}, {}), least=30.0)
    gaps = np.diff([0.0, *written])
    assert written[0] == 2.0 and len([t for t in written if t <= 60]) <= 8
    assert all(gap <= max(2.0, min(30.0, t / 2 + 0.5)) for gap, t in zip(gaps, written)) and gaps.max() == 30.0


def test_a_minutes_budget_ends_the_run():
    _, history = fitted(Training(steps=10**7, patience=0), minutes=0.01)
    assert history.of("end")[0]["why"] == "time"


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    training = Training(steps=20, checkpoint_seconds=0.0)
    fitted(training, checkpoint=tmp_path / "state", fingerprint="one")
    with pytest.raises(FileFormatError, match="other settings"):
        fitted(training, checkpoint=tmp_path / "state", resume=True, fingerprint="other")
    (tmp_path / "state").write_bytes(b"\x80\x04 not a checkpoint")
    with pytest.raises(FileFormatError, match="not a checkpoint"):
        fitted(training, checkpoint=tmp_path / "state", resume=True, fingerprint="one")


KILLED = """
import os, signal, sys
from cohortloom.generators import create
from cohortloom.testing.checks import small_cohort
from cohortloom.training import loop
name, checkpoint, turn = sys.argv[1], sys.argv[2], int(sys.argv[3])
update, count = loop._PhaseRun._update, [0]
def dying(self, *args):
    count[0] += 1
    if count[0] == turn:
        os.kill(os.getpid(), signal.SIGKILL)
    return update(self, *args)
loop._PhaseRun._update = dying
training = {"steps": 30, "evaluate_every": 5, "checkpoint_seconds": 0.0}
create(name, training=training).fit(small_cohort(60), seed=3, checkpoint=checkpoint)
"""


@pytest.mark.parametrize("name, turn", [("temporal-vae", 18), ("columnar-ar", 47)])
def test_a_run_killed_in_a_step_and_resumed_ends_with_the_same_bits(name, turn, tmp_path):
    from cohortloom.generators import create
    from cohortloom.testing.checks import small_cohort
    from cohortloom.training import loop
    from cohortloom.training.checkpoint import read_checkpoint

    file = tmp_path / "checkpoint"
    done = subprocess.run([sys.executable, "-c", KILLED, name, str(file), str(turn)], capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    facts = read_checkpoint(file)[1]
    assert 0 < facts["state"]["step"] < 30
    training = {"steps": 30, "evaluate_every": 5, "checkpoint_seconds": 0.0}
    models, counts, update = [], [0, 0], loop._PhaseRun._update
    with pytest.MonkeyPatch.context() as patch:
        for run, how in enumerate(({"checkpoint": file, "resume": True}, {})):

            def counted(self, *args, run=run):
                counts[run] += 1
                return update(self, *args)

            patch.setattr(loop._PhaseRun, "_update", counted)
            models.append(create(name, training=training).fit(small_cohort(60), seed=3, **how))
    resumed, whole = models
    assert 0 < counts[0] <= counts[1] - turn // 5 * 5 + 5
    assert bits(resumed.net_) == bits(whole.net_)
    assert resumed.history_ == whole.history_


def test_rates_follow_the_data_size():
    small, large = Training().resolved(100), Training().resolved(100_000)
    assert (small.batch_size, large.batch_size) == (32, 256)
    assert small.steps == 300 * 4 and large.steps == 20 * 391
    assert small.evaluate_every == 4 and large.evaluate_every == 391
    fixed = replace(small, steps=100, warm_up=50, final_rate=0.1)
    assert fixed.rate(0, 0.0) == pytest.approx(0.1) and fixed.rate(50, 0.5) == pytest.approx(0.55)
    assert fixed.rate(99, 1.0) == pytest.approx(0.1)


def test_folds_hold_out_other_patients_and_never_lose_one():
    seen = set()
    for fold in range(4):
        kept, aside = hold_out(100, 0.15, Rng(0), fold=fold)
        assert len(aside) == 15 and sorted([*kept, *aside]) == list(range(100))
        assert not seen & set(aside)
        seen |= set(aside)
    kept, aside = hold_out(9, 0.15, Rng(0))
    assert len(kept) == 9 and len(aside) == 0


def test_a_phase_that_is_judged_from_its_start_leaves_nothing_worse_behind():
    net, phases = problem(Training(steps=20, validation=0.15))
    x, y = line()
    upwards = lambda index, stream: -((net(x[index]) - y[index]) ** 2).mean()  # noqa: E731
    score = lambda index, stream: ((net(x[index]) - y[index]) ** 2).mean()  # noqa: E731
    worse = [Objective("upwards", net.parameters(), upwards)]
    before = bits(net)
    phase = replace(phases[0], objectives=worse, score=score, judge_start=True)
    history = train(net, [phase], Training(steps=20, learning_rate=1e-2, evaluate_every=5), Rng(7))
    assert history.of("evaluation")[0]["step"] == 0 and history.of("end")[0]["best_step"] == 0
    assert bits(net) == before


def test_a_lenient_phase_that_keeps_failing_ends_with_its_best_state_and_says_why():
    net, phases = problem(Training(validation=0.15))
    seen = [0]

    def score(index, stream):
        seen[0] += 1
        return torch.tensor(1.0 / seen[0] if seen[0] < 3 else math.inf)

    training = Training(steps=40, evaluate_every=5, retries=2)
    phase = replace(phases[0], score=score, lenient=True, if_infinite="all alike")
    history = train(net, [phase], training, Rng(7))
    assert [r["why"] for r in history.of("rollback")] == ["all alike"] * 3
    assert (history.of("end")[0]["why"], history.of("end")[0]["best"]) == ("all alike", 0.5)
    seen[0] = 0
    net, phases = problem(training)
    with pytest.raises(TrainingError, match="all alike"):
        train(net, [replace(phases[0], score=score, if_infinite="all alike")], training, Rng(7))


def test_overfitting_is_no_divergence_and_ends_the_phase_with_its_best_weights():
    net, phases = problem(Training(validation=0.15))
    seen = [0]

    def score(index, stream):
        seen[0] += 1
        return torch.tensor(1.0 if seen[0] < 3 else 50.0)

    training = Training(steps=400, learning_rate=1e-2, evaluate_every=5)
    history = train(net, [replace(phases[0], score=score)], training, Rng(7))
    end = history.of("end")[0]
    assert not history.of("rollback") and end["step"] < 400
    assert end["why"] == "validation loss ran away while the training loss fell" and end["best"] == 1.0
    net, phases = problem(training, loss=lambda index, stream: net[0].weight.sum() * 0 + len(drawn.append(1) or drawn))
    seen[0], drawn = 0, []
    with pytest.raises(TrainingError, match="ran away"):  # here the training loss grows as well
        train(net, [replace(phases[0], score=score)], training, Rng(7))
