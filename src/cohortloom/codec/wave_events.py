"""Events of records without a rhythm (EEG): sharp waves and bursts, found without labels.

Of a record, turned to its two strongest axes, the background spectrum P is the median over time of short spectra, so
that events hardly raise it. All is weighed by 1/P from 1 Hz on (a matched filter in noise of that spectrum).

    sharp waves   peaks of the record filtered by bumps of three widths; their whitened windows' leading singular
                  vectors give up to four shapes, so size, polarity and form of each are its coordinates. The record is
                  filtered by these in turn: the score is the size of the projection
    bursts        peaks over time, frequency (4 to 40 Hz) and span (.5 to 2 s) of the power under a Hann window: size,
                  span, frequency, phase

Where both tell of the same moment, that stays which tells more.

What noise does by chance is told by the same records with their cosines at random signs: the same spectrum to the last
digit, and of a Gaussian record another draw of the same law. A score counts from where these have at most a tenth as
many peaks; without twenty peaks above, or with a median so near to it that they are the tail of what waxes and wanes,
there are no events of that kind. A record with five sharp waves or more by its
own copies counts them from there on: discharges three times a second are the background of their own record. Nothing
is looked for in the last quarter of a second at either end, where a record and its mirror image meet at an angle.

References:
    Allen et al. (2012). FINDCHIRP. Phys Rev D 85:122006 (matched filters, spectra from medians over time). Theiler et
    al. (1992). Testing for nonlinearity in time series: the method of surrogate data. Physica D 58:77. Benjamini,
    Hochberg (1995). Controlling the false discovery rate. J R Stat Soc B 57:289.
"""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.fft import dct, idct

__all__ = ["N_BURST", "EventLaw", "Events"]

#: Most axes that are looked at and most shapes of a sharp wave, marks of a burst (size, span, frequency, phase).
MOST_AXES, MOST_SHAPES, N_BURST = 2, 4, 4
#: Records are looked at from here on [Hz], in short spectra of so many seconds, if they are so long [s].
SLOWEST, SHORT, SHORTEST = 1.0, 1.0, 3.0
#: Widths of bumps [s], span of a sharp wave before and behind its peak [s], and between two of them [s].
WIDTHS, BEFORE, AFTER, APART = (0.02, 0.04, 0.08), 0.2, 0.3, 0.2
#: Nothing is looked for so near to an end [s]; fewest sharp waves of a record with a threshold of its own; least score
#: and least power of a burst.
MARGIN, OWN, LEAST, LEAST_BURST = 0.25, 5, 3.0, 4.0
#: Spans of bursts [s] and their frequencies [Hz].
SPANS, BAND = (0.5, 1.0, 2.0), (4.0, 40.0)
#: Share of events that may be chance, fewest of a kind, copies with random signs, records that are learned from.
CHANCE, FEWEST, COPIES, MOST_RECORDS = 0.1, 20, 4, 512
#: The median score of a kind of event lies so many times above the least that counts.
STANDS_OUT = 1.25
_ROUNDS, _CHUNK = 3, 64


@dataclass(frozen=True)
class Events:
    """Events of records, padded to the record with most, in the order of time.

    Args:
        place: Peak of a sharp wave, middle of a burst [samples].
        burst: Which are bursts.
        marks: Of a sharp wave its coordinates along the shapes; of a burst size, span [s], frequency [Hz], phase.
        count: Events of each record.
    """

    place: Float[np.ndarray, "record event"]
    burst: Bool[np.ndarray, "record event"]
    marks: Float[np.ndarray, "record event mark"]
    count: Int[np.ndarray, "record"]

    @property
    def real(self) -> Bool[np.ndarray, "record event"]:
        return np.arange(self.place.shape[1]) < self.count[:, None]

    def take(self, rows: np.ndarray) -> "Events":
        return Events(self.place[rows], self.burst[rows], self.marks[rows], self.count[rows])

    @classmethod
    def of(cls, n: int, row: np.ndarray, place: np.ndarray, burst: np.ndarray, marks: np.ndarray) -> "Events":
        """Events of n records from a list of all."""
        order = np.lexsort((place, row))
        row, count = row[order], np.bincount(row, minlength=n)
        column = np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)
        width = max(int(count.max(initial=0)), 1)
        found = cls(np.zeros((n, width)), np.zeros((n, width), bool), np.zeros((n, width, marks.shape[1])), count)
        found.place[row, column], found.burst[row, column] = place[order], burst[order]
        found.marks[row, column] = marks[order]
        return found


@dataclass(frozen=True)
class EventLaw:
    """How events are found in records, and records made of events.

    Args:
        fs: Sampling frequency [Hz].
        axes: Strongest axes of the channels, in columns.
        shapes: Shapes of sharp waves along the axes, largest value 1 over all; none: there are no sharp waves.
        sharp, burst: Scores from which on an event counts; infinite for a kind that there is not.
    """

    fs: float
    axes: Float[np.ndarray, "channel axis"]
    shapes: Float[np.ndarray, "shape axis point"] = field(default_factory=lambda: np.zeros((0, 1, 1)))
    sharp: float = np.inf
    burst: float = np.inf

    @classmethod
    def fit(
        cls, x: Float[np.ndarray, "record channel sample"], fs: float, axes: np.ndarray, draw: np.random.Generator
    ) -> "EventLaw | None":
        """Shapes and thresholds from training records; None if they show no event beyond chance.

        Args:
            x: Scaled samples, 0 where unobserved.
            fs: Sampling frequency [Hz].
            axes: Principal axes of the channels in columns.
            draw: Of which records are looked at, and of random signs.
        """
        if x.shape[2] < SHORTEST * fs or fs < 4 * SLOWEST:
            return None
        some = np.sort(draw.permutation(len(x))[:MOST_RECORDS])
        law = cls(fs, np.asarray(axes, dtype=np.float64)[:, :MOST_AXES])
        y = law._along(x[some])
        copies = [_signed(y, draw) for _ in range(COPIES)]
        law = law._with_sharp(y, copies)
        looking = replace(law, burst=LEAST_BURST)
        powers = [looking._both(v, draw)[3] for v in (y, *copies)]
        law = replace(law, burst=_limit(powers))
        if not _stands_out(powers[0], law.burst, STANDS_OUT**2):
            law = replace(law, burst=np.inf)
        return law if min(law.sharp, law.burst) < np.inf else None

    @property
    def n_marks(self) -> int:
        return max(len(self.shapes), N_BURST)

    def found(
        self, x: Float[np.ndarray, "record channel sample"], draw: np.random.Generator, *,
        lit: Bool[np.ndarray, "record sample"] | None = None, cut: float | None = None,
    ) -> Events:  # fmt: skip
        """Events of records.

        Args:
            x: Scaled samples, 0 where unobserved.
            draw: Of random signs.
            lit: Where an event counts; None: everywhere.
            cut: Only frequencies below are looked at [Hz].
        """
        parts = [self.found_along(self._along(x[k : k + _CHUNK]), draw, cut) for k in range(0, len(x), _CHUNK)]
        listed = [(np.nonzero(p.real), p) for p in parts]
        row = np.concatenate([at[0] + k * _CHUNK for k, (at, _) in enumerate(listed)])
        place, burst, marks = (
            np.concatenate([getattr(p, name)[at] for at, p in listed]) for name in ("place", "burst", "marks")
        )
        if lit is not None:
            good = lit[row, np.rint(place).astype(int)]
            row, place, burst, marks = row[good], place[good], burst[good], marks[good]
        return Events.of(len(x), row, place, burst, marks)

    def to_json(self) -> dict[str, Any]:
        values = {"fs": self.fs, "axes": self.axes.tolist(), "shapes": self.shapes.tolist()}
        return values | {k: None if v == np.inf else v for k, v in (("sharp", self.sharp), ("burst", self.burst))}

    @classmethod
    def from_json(cls, state: dict[str, Any]) -> "EventLaw":
        sharp, burst = (np.inf if state[k] is None else state[k] for k in ("sharp", "burst"))
        axes = np.array(state["axes"], dtype=float)
        shapes = np.array(state["shapes"], dtype=float) if state["shapes"] else np.zeros((0, axes.shape[1], 1))
        return cls(state["fs"], axes, shapes, sharp, burst)

    def train(self, events: Events, n: int, start: np.ndarray | None = None) -> np.ndarray:
        """Sum of the events [record channel sample]; `start`: where in its record each piece of n samples begins."""
        return (self.axes @ self._train(events, n, start)).astype(np.float32)

    def bumps(self, events: Events, n: int, start: np.ndarray | None = None) -> np.ndarray:
        """A bump at each sharp wave and the window of each burst [record 2 sample]."""
        out = np.zeros((len(events.count), 2, n))
        row, place, burst, marks = _listed(events, start)
        at = np.arange(n)
        for k in np.flatnonzero(~burst):
            out[row[k], 0] += np.exp(-0.5 * ((at - place[k]) / max(1.2, 0.02 * self.fs)) ** 2)
        for k in np.flatnonzero(burst):
            out[row[k], 1] += _hann(at - place[k], marks[k, 1] * self.fs)
        return np.minimum(out, 1.0).astype(np.float32)

    # -- parts -------------------------------------------------------------------------------------------------------

    @property
    def _before(self) -> int:
        return round(BEFORE * self.fs)

    def _along(self, x: np.ndarray) -> np.ndarray:
        return self.axes.T @ np.asarray(x, dtype=np.float64)

    def _train(self, events: Events, n: int, start: np.ndarray | None = None) -> np.ndarray:
        row, place, burst, marks = _listed(events, start)
        reach = 2 * round(max(SPANS) * self.fs)
        out = np.zeros((len(events.count), self.axes.shape[1], n + 2 * reach))
        if (~burst).any():
            k, axes, points = self.shapes.shape
            wave = np.einsum("ek,kap->eap", marks[~burst, :k], self.shapes)
            at = np.rint(place[~burst]).astype(int)[:, None] - self._before + np.arange(points) + reach
            inside = (at >= 0) & (at < out.shape[2])
            at = np.clip(at, 0, out.shape[2] - 1)
            for axis in range(axes):
                np.add.at(out, (row[~burst][:, None], axis, at), wave[:, axis] * inside)
        if burst.any():
            size, span, rate, phase = marks[burst, :N_BURST].T[..., None]
            away = np.arange(-reach // 2, reach // 2 + 1) + np.rint(place[burst])[:, None] - place[burst][:, None]
            wave = size * _hann(away, span * self.fs) * np.cos(2 * np.pi * rate * away / self.fs + phase)
            at = np.rint(place[burst]).astype(int)[:, None] + np.arange(-reach // 2, reach // 2 + 1) + reach
            inside = (at >= 0) & (at < out.shape[2])
            np.add.at(out, (row[burst][:, None], 0, np.clip(at, 0, out.shape[2] - 1)), wave * inside)
        return out[..., reach : reach + n]

    def found_along(
        self, y: Float[np.ndarray, "record axis sample"], draw: np.random.Generator, cut: float | None = None
    ) -> Events:
        """Events of records along the axes."""
        row, at, bursts, _ = self._both(y, draw, cut)
        marks = np.zeros((0, self.n_marks))
        if len(row):
            left = y - self._train(Events.of(len(y), *bursts), y.shape[2])
            root = _root(y, self.fs, cut)
            own = self._coordinates(left, root, row, at)[1] >= LEAST  # beside a large one, its echo has a score too
            row, at = row[own], at[own]
            marks = _padded(self._coordinates(left, root, row, at)[0], self.n_marks)
        kind = np.zeros(len(row), bool)
        both = zip((row, at.astype(float), kind, marks), bursts)
        return Events.of(len(y), *(np.concatenate(parts) for parts in both))

    def _both(
        self, y: np.ndarray, draw: np.random.Generator, cut: float | None = None
    ) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, ...], np.ndarray]:
        """(record, sample) of sharp waves; (record, middle, kind, marks) of bursts, and their scores.

        Where both tell of the same moment, that stays which tells more.
        """
        root = _root(y, self.fs, cut)
        row, at, score = np.zeros(0, int), np.zeros(0, int), np.zeros(0)
        if self.sharp < np.inf:
            row, at, score = self._sharp_at(y, root, draw)
        own, middle, marks, power = _bursts(y, root, self.fs, self.burst)
        inside = (own[:, None] == row) & (np.abs(middle[:, None] - at) < 0.5 * self.fs * marks[:, 1:2])
        wins = 2 * power > (inside * np.square(score)).sum(axis=1)
        stays = ~inside[wins].any(axis=0)
        kind, marks = np.ones(int(wins.sum()), bool), _padded(marks[wins], self.n_marks)
        return row[stays], at[stays], (own[wins], middle[wins], kind, marks), power[wins]

    def _sharp_at(self, y: np.ndarray, root: np.ndarray, draw: np.random.Generator) -> tuple[np.ndarray, ...]:
        """(record, sample, score) of sharp waves."""
        row, at, score = self._peaks(self._score(y, root))
        of, _, by_chance = (
            np.concatenate(v)
            for v in zip(*(self._peaks(self._score(v, root)) for v in (_signed(y, draw) for _ in range(COPIES))))
        )
        limit = np.full(len(y), self.sharp)
        for r in range(len(y)):
            limit[r] = min(self.sharp, _limit([score[row == r], by_chance[of == r]], COPIES, OWN))
        good = score >= limit[row]
        return row[good], at[good], score[good]

    def _peaks(self, score: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return _peaks(score, LEAST, round(APART * self.fs), round(MARGIN * self.fs))

    def _with_sharp(self, y: np.ndarray, copies: list[np.ndarray]) -> "EventLaw":
        roots = [_root(v, self.fs) for v in (y, *copies)]
        law, scores = self, [_bump_score(v, r, self.fs) for v, r in zip((y, *copies), roots)]
        limit, score = _limit([self._peaks(s)[2] for s in scores]), scores[0]
        for _ in range(_ROUNDS):
            if limit == np.inf:
                return self
            row, at, own = self._peaks(score)
            row, at = row[own >= limit], at[own >= limit]
            law = replace(law, shapes=self._shapes_of(y, roots[0], row, at))
            scores = [law._score(v, r) for v, r in zip((y, *copies), roots)]
            limit, score = _limit([self._peaks(s)[2] for s in scores]), scores[0]
        found = self._peaks(score)[2]
        return replace(law, sharp=limit) if limit < np.inf and _stands_out(found, limit, STANDS_OUT) else self

    def _shapes_of(self, y: np.ndarray, root: np.ndarray, row: np.ndarray, at: np.ndarray) -> np.ndarray:
        """Leading shapes of windows around some places: singular vectors of whitened ones, regressed on the windows."""
        wide = self._before, round(AFTER * self.fs) + 1
        span = np.arange(-wide[0], wide[1])
        inside = (at >= wide[0]) & (at < y.shape[2] - wide[1])
        row, at = row[inside], at[inside]
        white = _weighed(y, root)
        flat, own = (
            v[row[:, None], :, at[:, None] + span].reshape(len(row), -1) for v in (white, _weighed(y, root > 0))
        )
        k = int(np.clip(len(row) // FEWEST, 1, MOST_SHAPES))
        size = np.linalg.norm(own, axis=1, keepdims=True)
        u = np.linalg.svd(flat / np.linalg.norm(flat, axis=1, keepdims=True), full_matrices=False)[0][:, :k]
        shapes = np.linalg.lstsq(u, own / np.maximum(size, 1e-9), rcond=None)[0]
        shapes = shapes.reshape(k, len(span), -1).swapaxes(1, 2)
        taper = (
            np.sin(np.pi / 2 * np.minimum(1, np.minimum(span + wide[0] + 1, wide[1] - span) / (0.06 * self.fs))) ** 2
        )
        shapes = shapes * taper
        return shapes / np.abs(shapes).max(axis=(1, 2), keepdims=True)

    def _filters(self, root: np.ndarray, n: int) -> np.ndarray:
        """Whitened shapes of each record [record shape axis 2n], cyclic in twice a record's samples."""
        points = self.shapes.shape[2]
        wide = np.zeros((*self.shapes.shape[:2], 2 * n))
        wide[..., :points] = self.shapes
        wide = np.roll(wide, -self._before, axis=2)
        full = np.concatenate([root, np.zeros_like(root[..., :1])], axis=2)
        return np.fft.irfft(np.fft.rfft(wide)[None] * full[:, None], n=2 * n)

    def _score(self, y: np.ndarray, root: np.ndarray) -> Float[np.ndarray, "record sample"]:
        """Root of the squared size of the projection on the whitened shapes, at each sample."""
        out = np.zeros((len(y), y.shape[2]))
        for rows in np.array_split(np.arange(len(y)), -(-len(y) // _CHUNK)):
            out[rows] = np.sqrt(np.maximum(np.einsum("rkn,rkn->rn", *self._projection(y[rows], root[rows])), 0))
        return out

    def _projection(self, y: np.ndarray, root: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Products of the whitened record with the whitened shapes, and coordinates, at each sample."""
        n = y.shape[2]
        shapes = self._filters(root, n)
        white = _weighed(y, root)
        with_them = np.fft.rfft(np.concatenate([white, white[..., ::-1]], axis=2))
        turned = np.einsum("rkaf,raf->rkf", np.fft.rfft(shapes).conj(), with_them, optimize=True)
        product = np.fft.irfft(turned, n=2 * n)[..., :n]
        gram = np.einsum("rkan,rlan->rkl", shapes, shapes, optimize=True)
        gram = gram + 1e-3 * np.einsum("rkk->r", gram)[:, None, None] * np.eye(gram.shape[1]) / gram.shape[1]
        return product, np.linalg.solve(gram + 1e-12 * np.eye(gram.shape[1]), product)

    def _coordinates(
        self, y: np.ndarray, root: np.ndarray, row: np.ndarray, at: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Coordinates of the sharp waves at some places, of all of a record together (they may overlap), and sizes.

        The size is that of the whitened wave, as a score is.
        """
        n, k = y.shape[2], len(self.shapes)
        out, size = np.zeros((len(row), k)), np.zeros(len(row))
        for r in np.unique(row):
            shapes, white = self._filters(root[r : r + 1], n)[0], _weighed(y[r : r + 1], root[r : r + 1])[0]
            own = np.flatnonzero(row == r)
            columns = np.stack([np.roll(shapes, t, axis=2)[..., :n] for t in at[own]]).reshape(len(own) * k, -1)
            gram = columns @ columns.T
            gram += 1e-3 * np.trace(gram) / len(gram) * np.eye(len(gram)) + 1e-12 * np.eye(len(gram))
            out[own] = np.linalg.solve(gram, columns @ white.reshape(-1)).reshape(-1, k)
            size[own] = np.linalg.norm((out[own] @ shapes.reshape(k, -1)).reshape(len(own), -1), axis=1)
        return out, size


def _listed(events: Events, start: np.ndarray | None) -> tuple[np.ndarray, ...]:
    row, column = np.nonzero(events.real)
    place = events.place[row, column] - (0 if start is None else np.asarray(start)[row])
    return row, place, events.burst[row, column], events.marks[row, column]


def _padded(marks: np.ndarray, n: int) -> np.ndarray:
    return np.pad(marks, ((0, 0), (0, n - marks.shape[1])))


def _hann(away: np.ndarray, span: Any) -> np.ndarray:
    return np.where(np.abs(away) < span / 2, np.cos(np.pi * away / span) ** 2, 0.0)


def _signed(y: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """Records with their cosines at random signs, the same along all axes."""
    signs = draw.choice([-1.0, 1.0], (len(y), 1, y.shape[2]))
    return np.asarray(idct(np.asarray(dct(y, norm="ortho")) * signs, norm="ortho"))


def _root(y: np.ndarray, fs: float, cut: float | None = None) -> Float[np.ndarray, "record axis rate"]:
    """One over the root of the background's power at each cosine; 0 below the slowest and above the cut."""
    n = y.shape[2]
    size = min(round(SHORT * fs), n)
    window = np.hanning(size + 2)[1:-1]
    frames = np.lib.stride_tricks.sliding_window_view(y, size, axis=2)[:, :, :: max(size // 4, 1)]
    frames = frames - frames.mean(axis=3, keepdims=True)
    power = np.median(np.square(np.abs(np.fft.rfft(frames * window))), axis=2) / np.log(2) / np.square(window).sum()
    rate, known = np.arange(n) * fs / (2 * n), np.fft.rfftfreq(size, 1 / fs)
    use = (known >= SLOWEST) & (known < fs / 2)
    log = np.log(np.maximum(power[..., use], 1e-9))
    place = np.interp(np.log(np.maximum(rate, 1e-3)), np.log(known[use]), np.arange(use.sum()))
    low = place.astype(int)
    high, part = np.minimum(low + 1, use.sum() - 1), place - low
    root = np.exp(-0.5 * (log[..., low] * (1 - part) + log[..., high] * part))
    return root * ((rate >= SLOWEST) & (rate < (cut or fs)))


def _weighed(y: np.ndarray, root: np.ndarray) -> np.ndarray:
    """Records with their cosines weighed."""
    return np.asarray(idct(np.asarray(dct(y, norm="ortho")) * root, norm="ortho"))


def _bump_score(y: np.ndarray, root: np.ndarray, fs: float) -> Float[np.ndarray, "record sample"]:
    """Largest size over axes and widths of the match with a bump, in standard deviations of the background."""
    n, best = y.shape[2], np.zeros((len(y), y.shape[2]))
    rate, cosines = np.arange(n) * fs / (2 * n), dct(y, norm="ortho")
    for width in WIDTHS:
        bump = np.exp(-0.5 * np.square(2 * np.pi * rate * max(width, 0.6 / fs)))
        size = np.sqrt(np.square(bump * root).mean(axis=2, keepdims=True))
        match = idct(cosines * bump * np.square(root), norm="ortho") / np.maximum(size, 1e-12)
        best = np.maximum(best, np.abs(match).max(axis=1))
    return best


def _peaks(score: np.ndarray, limit: float, apart: int, margin: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(record, sample, score) of the largest scores within `apart` samples on both sides, off the ends."""
    from scipy.ndimage import maximum_filter1d  # heavy

    top = (score >= limit) & (score == maximum_filter1d(score, 2 * max(apart, 1) + 1, axis=1, mode="nearest"))
    top[:, :margin] = top[:, top.shape[1] - margin :] = False
    row, at = np.nonzero(top)
    return row, at, score[row, at]


def _limit(scores: list[np.ndarray], copies: int = COPIES, fewest: int = FEWEST) -> float:
    """Least score from which on at most a tenth is chance: the first is what is, the others that of all copies."""
    real, chance = np.sort(scores[0]), np.sort(np.concatenate(scores[1:]))
    above = len(real) - np.arange(len(real))
    by_chance = (len(chance) - np.searchsorted(chance, real) + 1) / copies
    good = np.flatnonzero((by_chance <= CHANCE * above) & (above >= fewest))
    return float(real[good[0]]) if len(good) else np.inf


def _stands_out(scores: np.ndarray, limit: float, times: float) -> bool:
    """Do scores that count have a law of their own, and are not just a tail that ends late?"""
    return bool((scores >= limit).any() and np.median(scores[scores >= limit]) > times * limit)


def _bursts(
    y: np.ndarray, root: np.ndarray, fs: float, limit: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(record, middle, marks, score) of bursts along the first axis, no two of which overlap in time and frequency."""
    n = y.shape[2]
    white = _weighed(y[:, :1], root[:, :1])[:, 0]
    found: list[tuple[np.ndarray, ...]] = []
    rates = []
    for span in SPANS:
        if 2 * span * fs > n:
            continue
        half = round(span * fs / 2)
        window = _hann(np.arange(-half, half + 1), span * fs)
        hop = max(half // 4, 1)
        frames = np.lib.stride_tricks.sliding_window_view(white, 2 * half + 1, axis=1)[:, ::hop]
        grid = np.arange(BAND[0], min(BAND[1], 0.4 * fs), 0.5 / span)
        rates.append(len(grid))
        turn = np.exp(-2j * np.pi * grid[:, None] * np.arange(-half, half + 1) / fs) * window
        power = np.square(np.abs(frames @ turn.T)) / np.square(window).sum()  # mean 1 of noise
        r, t, f = np.nonzero(power >= limit)
        found.append((r, t * hop + half, np.full(len(r), span), grid[f], power[r, t, f]))
    if not found:
        return np.zeros(0, int), np.zeros(0), np.zeros((0, N_BURST)), np.zeros(0)
    row, at, span, rate, score = (np.concatenate(v) for v in zip(*found))
    order = np.lexsort((-score, row))
    kept: list[int] = []
    first = 0
    for k in order:
        if kept and row[kept[-1]] != row[k]:
            first = len(kept)
        own = np.array(kept[first:], dtype=int)
        near = np.abs(at[own] - at[k]) < 0.4 * (span[own] + span[k]) * fs
        if not (near & (np.abs(rate[own] - rate[k]) < 1.5 / span[own] + 1.5 / span[k])).any():
            kept.append(int(k))
    row, at, span, rate, score = (v[kept] for v in (row, at, span, rate, score))
    marks = np.zeros((len(row), N_BURST))
    for k in range(len(row)):
        half = round(span[k] * fs / 2)
        away = np.arange(-half, half + 1)
        window = _hann(away, span[k] * fs)
        part = y[row[k], 0, np.clip(at[k] + away, 0, n - 1)]
        fit = 2 * (part * window * np.exp(-2j * np.pi * rate[k] * away / fs)).sum() / np.square(window).sum()
        marks[k] = abs(fit), span[k], rate[k], np.angle(fit)
    return row, at.astype(float), marks, score
