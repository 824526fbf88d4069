"""Segments and flat batches: no seams, nothing padded, nobody's visits in another's likelihood."""

import numpy as np
import pytest
import torch

from cohortloom.codec import Codec
from cohortloom.codec.tensors import Layout
from cohortloom.generators.cells import cells_of, raw_values
from cohortloom.generators.columnar_encoding import Alphabet
from cohortloom.generators.temporal_vae_data import Courses, Frame, Past, persistence_of, shapes_of
from cohortloom.nets.visit_vae import Latents, Net, Segments, VisitVAE
from cohortloom.rng import Rng
from cohortloom.testing.checks import small_cohort
from cohortloom.training import drawing_from


@pytest.fixture(scope="module")
def encoded():
    cohort = small_cohort(60, seed=1)
    codec = Codec.fit(cohort, Layout(static=True, sequence=True, scale="raw"))
    return codec.encode(cohort, rng=Rng(0))


@pytest.fixture(scope="module")
def frame(encoded):
    return Frame.of(Alphabet.fit(encoded), encoded)


@pytest.fixture(scope="module")
def net(encoded, frame):
    courses = Courses.of(frame, encoded)
    sizes = Net(3, 2, 4, 16, 2, 3, 0.0, "normal")
    with drawing_from(Rng(2).torch):
        made = VisitVAE(
            shapes_of(frame, courses), {"later": persistence_of(courses), "gap": [0.4]},
            *frame.scale.widths(frame.n_ends), 10, sizes,
        )  # fmt: skip
        for p in made.parameters():
            torch.nn.init.normal_(p, std=0.2)
    return made.eval()


def test_segments_have_no_seams_and_keep_to_their_patient():
    length = torch.tensor([9, 0, 1, 4])
    owner = torch.repeat_interleave(torch.arange(4), length)
    position = torch.cat([torch.arange(int(n)) for n in length])
    found = Segments.of(length, owner, position, 4)
    assert found.owner.tolist() == [0, 0, 0, 2, 3] and found.first.tolist() == [True, False, False, True, True]
    assert (found.owner[found.of_visit] == owner).all()
    assert (found.owner[found.left] == owner).all() and (found.owner[found.right] == owner).all()
    w = torch.tensor([[0.0], [4.0], [8.0], [50.0], [90.0]])
    at = torch.lerp(w[found.left], w[found.right], found.part).squeeze(1)
    assert at[:9].diff().abs().max() <= 1.0 + 1e-6  # a straight line rises by one a visit
    assert at[9] == 50 and (at[10:] == 90).all()


def test_a_patient_has_the_same_likelihood_alone_and_in_a_batch(encoded, frame, net):
    courses, n = Courses.of(frame, encoded), encoded.n_subjects
    z = torch.randn(n, 3, generator=Rng(3).torch)
    every = courses.batch(torch.arange(n), None)
    segments = net.segments(every)
    w = torch.randn(len(segments.owner), 2, generator=Rng(4).torch)
    with torch.no_grad():
        together = net.log_likelihood(every, Latents(z, w))
        for k in (0, 7, int(courses.length.argmax()), int(courses.length.argmin())):
            alone = net.log_likelihood(
                courses.batch(torch.tensor([k]), None), Latents(z[k : k + 1], w[segments.owner == k])
            )
            assert alone.item() == pytest.approx(together[k].item(), abs=1e-3)


def test_what_a_visit_knows_is_the_same_in_training_and_in_drawing(encoded, frame):
    courses, seq = Courses.of(frame, encoded), encoded.sequence
    batch = courses.batch(torch.arange(encoded.n_subjects), None)
    coders = frame.alphabet.columns
    cells = cells_of(coders, raw_values(seq), seq.subject)
    time, base = seq.time / frame.scale.usual, np.zeros(cells.value.shape, np.float32)
    alive = np.flatnonzero(seq.length > 0)
    past, checked = Past(coders, len(alive)), 0
    for t in range(int(seq.length.max())):
        stay = seq.length[alive] > t
        past.keep(stay)
        alive = alive[stay]
        rows = seq.starts[alive] + t
        if t:
            found = past.before(time[rows])
            for name in ("token", "score", "has", "absent", "due", "since", "mean", "count"):
                assert torch.allclose(
                    getattr(found, name).double(), getattr(batch.before, name)[rows].double(), atol=1e-5
                ), name
            checked += len(rows)
        past.update(type(cells)(*(part[rows] for part in vars(cells).values())), time[rows], base[rows])
    assert checked > 50


def test_slow_latents_are_a_stationary_autoregression(net):
    with torch.no_grad():
        w = net.draw_slow(torch.full((3000,), 20), Rng(5).torch).view(3000, 5, 2)
        a = torch.sigmoid(net.slow)
    assert w.var(0).numpy() == pytest.approx(np.ones((5, 2)), abs=0.12)
    found = (w[:, 1:] * w[:, :-1]).mean((0, 1))
    assert found.numpy() == pytest.approx(a.numpy(), abs=0.04)
