"""Priors: what is believed about a cohort before any record was seen.

A schema says what a cell may hold; a prior says what it usually holds and what moves it. `Prior` belongs to one column
(or, inside a code column, to one code); `Simulation` holds what belongs to no column: who is followed how long, the
course of the illness, treatments, visits. Nothing here is needed: `simulate` fills every gap with a documented default.

The law of a numeric column at time t of patient i, on its scale (linear, log, or logit between the bounds):

    x_i(t) = typical + sum of effects + sd * (sqrt(between) b_i + sqrt(within) u_i(t) + sqrt(noise) e_i(t))

b_i is the patient's own level, u_i an Ornstein-Uhlenbeck process with autocorrelation exp(-dt / memory), e_i white
measurement noise; all standard normal, and between + within + noise = 1. Flags, ordinals and categories use the same
three parts as a latent number and cut it, so that effects are log-odds. Effects name their source:

    "age" [years from the typical age]   "years" [since the start]   "frailty" [standard normal]   "state" (by name)
    "treatment.NAME" (on or off)         "table.column"              "self" (own z-score, missingness only)

A number as effect is a slope per unit of (source - its typical value), or of log(source / typical) where the source is
on the log scale; for a flag it counts when true, for an ordinal per step from its median level. A table of numbers is a
shift by level.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

__all__ = ["CodePrior", "Course", "Effects", "FollowUp", "Prior", "Rows", "Simulation", "Sojourn", "State", "Stream",
           "Treatment"]  # fmt: skip

Effects = dict[str, float | dict[str, float]]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]

#: What a column may take from the simulated life instead of having a law of its own.
Takes = Literal[
    "age",  # at the start, in tables of visits and events then; years, or the column's unit (whole ones in a count)
    "birth",  # moment of birth
    "start",  # start of follow-up
    "end",  # end of follow-up: death, other terminal event, or censoring
    "during",  # a moment within follow-up; where the column may be empty, for half of the patients
    "death",  # moment of death within follow-up, else missing
    "died",  # did the patient die within follow-up?
    "status",  # how follow-up ended: "death", a terminal state's name, or "censored"
    "follow_up",  # length of follow-up, in the unit of the simulation
    "state",  # state of illness (at the start for a static, at the visit otherwise)
    "visit_kind",  # name of the visit stream
    "visit_number",  # 1, 2, ... within the patient
    "visit_end",  # end of the visit
    "visit_length",  # length of the visit, in the unit of the simulation
    "died_here",  # did the patient die in this visit?
    "row_end",  # moment after the row's own time (an order's stop), by `typical` and `sd`
    "dose",  # dose of the treatment the row's code belongs to
]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Prior(_Strict):
    """Law of one column.

    Fields that do not apply to the column's kind are refused by the schema's check.
    """

    takes: Takes | None = None
    levels: dict[str, str] = Field(
        default_factory=dict, description="With takes: simulated word ('censored', a state, a stream) -> our level."
    )
    typical: float | None = Field(None, description="Median of a number, mean of a count, in the column's unit.")
    sd: Annotated[float, Field(ge=0)] | None = Field(None, description="Standard deviation on the scale.")
    scale: Literal["linear", "log", "logit"] | None = None
    chance: Share | None = Field(None, description="Probability of a flag, or that a code is recorded at a visit.")
    weights: dict[str, float] = Field(default_factory=dict, description="Level or code -> relative frequency.")
    effects: Effects = Field(default_factory=dict)
    level_effects: dict[str, Effects] = Field(default_factory=dict, description="Category: level -> effects.")
    between: Share | None = Field(None, description="Share of the variance that lies between patients.")
    noise: Share | None = Field(None, description="Share of the variance that is measurement noise.")
    memory: Positive | None = Field(None, description="Time constant of the process, in the simulation's unit.")
    round_to: Positive | None = Field(None, description="Values are read off in steps of this.")
    at_most: dict[str, float] = Field(
        default_factory=dict, description="Column -> distance: never above its recorded value plus this (diastolic)."
    )
    missing: Share | None = Field(None, description="Probability that the cell is empty, at zero effects.")
    missing_effects: Effects = Field(default_factory=dict, description="Log-odds of being empty.")

    @model_validator(mode="after")
    def _shares(self) -> "Prior":
        if (self.between or 0) + (self.noise or 0) > 1 + 1e-9:
            raise ValueError("between and noise are shares of one variance; together at most 1")
        if any(w < 0 for w in self.weights.values()) or (self.weights and sum(self.weights.values()) <= 0):
            raise ValueError("weights must not be negative and must not all be 0")
        return self


class CodePrior(Prior):
    """One code of a code column: when it is recorded, and the law of the value beside it."""

    chronic: bool = Field(False, description="Once present it stays; `chance` is its prevalence at the start.")
    incidence: float = Field(0.0, ge=0, description="Chronic: new cases per patient-year.")
    recorded: Share = Field(1.0, description="Chronic: chance that a present code is written at a visit.")
    presence_effects: Effects = Field(default_factory=dict, description="Log-odds of chance (or log of incidence).")
    only: dict[str, tuple[str, ...]] = Field(
        default_factory=dict, description="table.column of a static -> levels outside which the code never occurs."
    )
    treatment: str | None = Field(None, description="Recorded while this treatment is on.")


class ColumnPrior(Prior):
    """Law of a column; code columns may give one for each code."""

    codes: dict[str, CodePrior] = Field(default_factory=dict, description="Code columns: code -> law.")


class Sojourn(_Strict):
    """Law of a length of time, by its mean [the simulation's unit].

    weibull and gamma: shape 1 is the exponential law. lognormal: shape is the sd of the log.
    """

    mean: Positive
    law: Literal["exponential", "weibull", "gamma", "lognormal", "fixed"] = "exponential"
    shape: Positive = 1.0


class State(_Strict):
    """One state of the illness. A state without `stay` is never left."""

    start: float = Field(0.0, ge=0, description="Relative frequency at the start of follow-up.")
    start_effects: Effects = Field(default_factory=dict, description="Log of that frequency.")
    stay: Sojourn | None = None
    stay_effects: Effects = Field(default_factory=dict, description="Log of the sojourn time.")
    moves: dict[str, float] = Field(default_factory=dict, description="Next state -> relative frequency.")
    move_effects: dict[str, Effects] = Field(default_factory=dict, description="Next state -> log of that frequency.")
    death_rate: float = Field(0.0, ge=0, description="Deaths per patient-year in this state, at zero effects.")
    terminal: bool = Field(False, description="Entering it ends follow-up (transplant).")

    @model_validator(mode="after")
    def _leads_on(self) -> "State":
        if (self.stay is None) != (not self.moves):
            raise ValueError("a state that is left needs both stay and moves; one that is not has neither")
        return self


class Course(_Strict):
    """Semi-Markov course of the illness, with death as a competing risk in every state."""

    states: dict[str, State] = Field(min_length=1)
    death_effects: Effects = Field(default_factory=dict, description="Log hazard ratios of death, in every state.")

    @model_validator(mode="after")
    def _closed(self) -> "Course":
        for name, state in self.states.items():
            unknown = [s for s in (*state.moves, *state.move_effects) if s not in self.states]
            if unknown:
                raise ValueError(f"state {name} moves to {', '.join(unknown)}, which is not a state of the course")
            if name in state.moves:
                raise ValueError(f"state {name} moves to itself; lengthen its stay instead")
        if not any(s.start for s in self.states.values()):
            raise ValueError("no state has a start above 0; where do patients begin?")
        return self


class FollowUp(_Strict):
    """Who is followed from when to when."""

    opens: str | None = Field(None, description="First date of enrolment (ISO; clock timestamp).")
    closes: str | None = Field(None, description="Last date of enrolment.")
    ends: str | None = Field(None, description="Date at which all records end.")
    length: Sojourn | None = Field(None, description="Planned length; absent: until `ends`, or 4 years.")
    dropout: float = Field(0.0, ge=0, description="Patients lost per patient-year.")


class Stream(_Strict):
    """One kind of visit: a renewal process in operational time.

    Gaps are gamma with mean `every` and shape `regularity` (1: Poisson; 20: almost a calendar) while the rate ratio
    exp(effects) is 1; at other times the clock runs faster or slower.
    """

    every: Positive | None = Field(None, description="Mean gap [unit of the simulation]; absent: only on entry etc.")
    regularity: Positive = 1.0
    effects: Effects = Field(default_factory=dict, description="Log rate ratios (statics, age, state).")
    frailty: float = Field(0.0, ge=0, description="Sd of the log rate between patients; the mean rate is kept.")
    at_start: Share = Field(0.0, description="Chance of a visit at the start of follow-up.")
    on_entry: dict[str, Share] = Field(default_factory=dict, description="State -> chance of a visit on entering it.")
    at_death: Share = Field(0.0, description="Chance that death comes in a visit of this kind.")
    repeat: Share = Field(0.0, description="Chance that a visit is entered twice at the same time.")
    stay: Sojourn | None = Field(None, description="Length of the visit.")
    stay_effects: Effects = Field(default_factory=dict, description="Log of that length.")
    draws_every: Positive | None = Field(None, description="Within a visit: gap between moments of measurement.")
    hours: tuple[float, float] | None = Field(None, description="Hours of the day, weekdays only (clock timestamp).")
    limit: int | None = Field(None, ge=0, description="Most visits of one patient.")


class Treatment(_Strict):
    """A drug that is on or off; decided at each moment for the time up to the next.

    `start` and `stop` are chances per visit at zero effects; effects are log-odds. `avoid_above`/`avoid_below` name a
    measured variable and a limit beyond which the drug is stopped and not started.
    """

    initial: Share = Field(0.0, description="Chance to be on it before the first visit.")
    initial_effects: Effects = Field(default_factory=dict)
    start: Share = 0.1
    start_effects: Effects = Field(default_factory=dict)
    stop: Share = 0.05
    stop_effects: Effects = Field(default_factory=dict)
    doses: tuple[Positive, ...] = Field((), description="Steps of titration, lowest first.")
    step_up: Share = Field(0.3, description="Chance per visit to go one step up; an avoided value steps back or stops.")
    avoid_above: dict[str, float] = Field(default_factory=dict)
    avoid_below: dict[str, float] = Field(default_factory=dict)


class Rows(_Strict):
    """How many rows an event table gets; of a static table, by `chance` and `effects`, who has one."""

    at: Literal["visit", "moment", "patient"] = Field(
        "visit", description="Per visit, per moment of measurement within a visit, or once per patient."
    )
    chance: Share | None = Field(None, description="Chance that a panel is taken at all.")
    effects: Effects = Field(default_factory=dict, description="Log-odds of chance, or log of count.")
    count: Positive | None = Field(
        None,
        description="Mean number of rows (Poisson) where one occasion may give many; of samples where codes have laws.",
    )
    delay: float = Field(0.0, ge=0, description="Rows come up to this long after the occasion.")
    batch: bool = Field(True, description="Long tables: one time for all codes of an occasion (a blood sample).")
    outside: Share = Field(0.0, description="Chance that a row is not linked to the visit.")


class Simulation(_Strict):
    """What `simulate` needs beyond the columns. All times are in `unit`, all rates per year."""

    unit: Literal["s", "min", "h", "d", "wk", "mo", "a"] = "d"
    resolution: Literal["s", "min", "h", "d"] | None = Field(None, description="Times are rounded to this.")
    age: Prior = Prior(typical=60, sd=15)
    age_range: tuple[float, float] = (18.0, 100.0)
    no_visit: Share = Field(0.0, description="Share of patients known by their statics alone.")
    follow_up: FollowUp = FollowUp()
    course: Course | None = None
    treatments: dict[str, Treatment] = Field(default_factory=dict)
    visits: dict[str, Stream] = Field(default_factory=dict)
    rows: dict[str, Rows] = Field(default_factory=dict, description="Event or static table -> its rows.")
    correlations: tuple[tuple[str, str, Annotated[float, Field(ge=-1, le=1)]], ...] = Field(
        (), description='Pairs such as ["visits.systolic", "visits.diastolic", 0.6], of "table.column", "table.CODE", '
        '"age" or "frailty": correlation of the latent normals (own levels, and processes).'
    )  # fmt: skip
