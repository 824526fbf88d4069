"""Ways to spoil a good cohort of the clinic, each with the score that must see it.

Every fault takes a cohort and a numpy generator and returns the spoiled cohort. Faults change one thing and leave the
rest as it is, so that a score that sees one has seen that thing."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import polars as pl

from cohortloom.cohort import Cohort

FAULTS: dict[str, tuple[Callable, str]] = {}
VALUES = ["creatinine", "weight", "pressure", "state", "edema"]


def fault(key: str):
    """Register a fault with the key of the score that must fail."""

    def register(make: Callable) -> Callable:
        FAULTS[make.__name__] = (make, key)
        return make

    return register


def put(cohort: Cohort, **tables: pl.DataFrame) -> Cohort:
    return Cohort.build(cohort.schema, {**cohort.tables, **tables}, origin=replace(cohort.origin, kind="synthetic"))


def visits(cohort: Cohort, *exprs: pl.Expr) -> Cohort:
    return put(cohort, visits=cohort.tables["visits"].with_columns(*exprs))


def permuted(frame: pl.DataFrame, columns: list[str], draw: np.random.Generator) -> pl.DataFrame:
    order = draw.permutation(frame.height)
    return frame.with_columns(frame[c].gather(order) for c in columns)


def retimed(cohort: Cohort, days: pl.Expr) -> Cohort:
    """Visits (and the events at them) at new times; `days` is in days since the patient's first visit."""
    first = pl.col("time").min().over("subject_id")
    ticks = (days * 86_400e6).cast(pl.Int64).cast(pl.Duration("us"))
    frame = cohort.tables["visits"].with_columns(_first=first).with_columns(_new=pl.col("_first") + ticks)
    moved = frame.select("visit_id", "_new")
    events = cohort.tables["events"].join(moved, on="visit_id", how="left", maintain_order="left")
    return put(
        cohort,
        visits=frame.with_columns(time=pl.col("_new")).drop("_first", "_new"),
        events=events.with_columns(time=pl.col("_new")).drop("_new"),
    )


DAYS = (pl.col("time") - pl.col("time").min().over("subject_id")).dt.total_days()
GAP = pl.col("time").diff().over("subject_id").dt.total_days()


@fault("temporal.within_autocorrelation")
def visits_shuffled_within_patients(cohort, draw):
    frame = cohort.tables["visits"].with_columns(_u=pl.Series(draw.random(cohort.tables["visits"].height)))
    return put(cohort, visits=frame.with_columns(pl.col(c).sort_by("_u").over("subject_id") for c in VALUES).drop("_u"))


@fault("association.temporal_temporal_worst")
def a_column_shuffled_between_patients(cohort, draw):
    return put(cohort, visits=permuted(cohort.tables["visits"], ["creatinine"], draw))


@fault("temporal.gaps_worst")
def time_stretched(cohort, draw):
    return retimed(cohort, DAYS * 1.4)


@fault("marginal.values_worst")
def tail_dropped(cohort, draw):
    x = cohort.tables["visits"]["creatinine"]
    low = x.filter(x <= x.quantile(0.85)).drop_nulls()
    new = low.gather(draw.integers(0, low.len(), x.len()))
    keep = pl.col("creatinine").is_null() | (pl.col("creatinine") <= x.quantile(0.85))
    return visits(cohort, pl.when(keep).then("creatinine").otherwise(new).alias("creatinine"))


@fault("missingness.rates_worst")
def mean_imputed(cohort, draw):
    return visits(cohort, pl.col("creatinine").fill_null(pl.col("creatinine").mean()))


@fault("copies.patients")
def five_percent_copied(cohort, draw, train):
    from cohortloom.cohort.resample import relabel

    n = cohort.n_subjects // 20
    plan = pl.DataFrame(
        {"subject_id": train.subjects.head(n), "new_id": np.arange(10**6, 10**6 + n)},
        schema_overrides={"new_id": pl.Int64},
    )
    copied = relabel(train, plan)
    kept = cohort.select(cohort.subjects.tail(cohort.n_subjects - n))
    shift = 10**6
    tables = {}
    for name, frame in copied.tables.items():
        if "visit_id" in frame.columns:
            frame = frame.with_columns(pl.col("visit_id") + shift)
        tables[name] = pl.concat([kept.tables[name], frame])
    return put(cohort, **tables)


@fault("copies.near")
def five_percent_copied_and_moved_a_little(cohort, draw, train):
    mixed = five_percent_copied(cohort, draw, train)
    rows = mixed.tables["visits"]
    moved = [(pl.col(c) * pl.Series(1 + 0.01 * draw.standard_normal(rows.height))).alias(c) for c in VALUES[:3]]
    return put(mixed, visits=rows.with_columns(moved))


@fault("marginal.rare_levels")
def rare_category_lost(cohort, draw):
    patients = cohort.tables["patients"].with_columns(pl.col("site").replace({"rare": "a"}))
    return put(cohort, patients=patients)


@fault("association.static_temporal_worst")
def sexes_swapped(cohort, draw):
    return put(cohort, patients=cohort.tables["patients"].with_columns(pl.col("sex").replace({"F": "M", "M": "F"})))


@fault("association.static_temporal")
def statics_of_another_patient(cohort, draw):
    return put(cohort, patients=permuted(cohort.tables["patients"], ["sex", "age", "diabetes", "site"], draw))


@fault("temporal.changes_worst")
def series_smoothed(cohort, draw):
    return visits(cohort, pl.col("weight").rolling_mean(3, min_samples=1).over("subject_id").round(1))


@fault("temporal.variogram_worst")
def white_noise_added(cohort, draw):
    return visits(cohort, (pl.col("pressure") + pl.Series(np.round(draw.normal(0, 8, cohort.tables["visits"].height)))))


@fault("temporal.repeats_worst")
def value_frozen(cohort, draw):
    return visits(cohort, pl.col("weight").first().over("subject_id"))


@fault("temporal.repeats_worst")
def repeats_lost(cohort, draw):
    noise = pl.Series(draw.choice([-0.01, 0.01], cohort.tables["visits"].height))
    return visits(cohort, (pl.col("creatinine") + noise * pl.lit(1.0)).round(3))


@fault("temporal.gaps_worst")
def gaps_shifted(cohort, draw):
    row = pl.int_range(pl.len()).over("subject_id")
    return retimed(cohort, DAYS + 25 * row)


@fault("temporal.gap_depends")
def gaps_of_another_patient(cohort, draw):
    frame = cohort.tables["visits"].with_columns(_g=GAP)
    gap = frame["_g"].drop_nulls()
    new = gap.gather(draw.integers(0, gap.len(), frame.height))
    fresh = cohort.tables["visits"].with_columns(_new=new)
    fresh = fresh.with_columns(_new=pl.when(pl.int_range(pl.len()).over("subject_id") == 0).then(0).otherwise("_new"))
    return retimed(put_raw(cohort, fresh), pl.col("_new").cum_sum().over("subject_id"))


def put_raw(cohort, frame):
    """The cohort with a helper column in its visits."""
    return Cohort(cohort.schema, {**cohort.tables, "visits": frame}, origin=cohort.origin)


@fault("copies.twins")
def collapsed_to_ten_patients(cohort, draw):
    from cohortloom.cohort.resample import bootstrap
    from cohortloom.rng import Rng

    return bootstrap(cohort.select(cohort.subjects.head(10)), cohort.n_subjects, Rng(int(draw.integers(1000))))


@fault("temporal.counts_worst")
def lengths_clipped(cohort, draw):
    frame = cohort.tables["visits"].filter(pl.int_range(pl.len()).over("subject_id") < 6)
    events = cohort.tables["events"].join(frame.select("visit_id"), on="visit_id", how="semi")
    return put(cohort, visits=frame, events=events)


@fault("temporal.transitions_worst")
def transition_broken(cohort, draw):
    # a patient in a bad state is stable at the next visit
    last = pl.col("state").shift(1).over("subject_id")
    return visits(cohort, pl.when(last == "bad").then(pl.lit("stable")).otherwise("state").alias("state"))


@fault("missingness.informative_worst")
def missing_at_random(cohort, draw):
    frame = cohort.tables["visits"]
    x = frame["creatinine"]
    filled = x.fill_null(strategy="forward").fill_null(strategy="backward")
    mask = pl.Series(draw.random(frame.height) < x.null_count() / frame.height)
    return visits(cohort, pl.when(mask).then(None).otherwise(filled).alias("creatinine"))


@fault("missingness.together")
def missing_apart(cohort, draw):
    frame = cohort.tables["visits"]
    x = frame["pressure"]
    filled = x.fill_null(strategy="forward").fill_null(strategy="backward")
    mask = pl.Series(draw.random(frame.height) < x.null_count() / frame.height)
    return visits(cohort, pl.when(mask).then(None).otherwise(filled).alias("pressure"))


@fault("missingness.runs_worst")
def missing_in_long_runs(cohort, draw):
    share = cohort.tables["visits"]["pressure"].null_count() / cohort.tables["visits"].height
    who = cohort.subjects.sample(fraction=share, seed=int(draw.integers(1000)))
    filled = pl.col("pressure").forward_fill().backward_fill()
    mask = pl.col("subject_id").is_in(who.implode())
    return visits(cohort, pl.when(mask).then(None).otherwise(filled).alias("pressure"))


@fault("marginal.by_visit_worst")
def first_visit_shifted(cohort, draw):
    first = pl.int_range(pl.len()).over("subject_id") == 0
    return visits(cohort, pl.when(first).then(pl.col("pressure") + 12).otherwise("pressure").alias("pressure"))


@fault("marginal.by_time_worst")
def late_values_drift(cohort, draw):
    return visits(cohort, pl.when(DAYS > 365).then(pl.col("pressure") - 12).otherwise("pressure").alias("pressure"))


@fault("association.static_static_worst")
def age_of_another_patient(cohort, draw):
    return put(cohort, patients=permuted(cohort.tables["patients"], ["age"], draw))


@fault("temporal.patient_mean_worst")
def patients_all_alike(cohort, draw):
    # every patient's weight varies about the mean of all: same values overall to first order, no difference of people
    x = pl.col("weight")
    return visits(cohort, (x.mean() + (x - x.mean().over("subject_id")) * 3).round(1).alias("weight"))


@fault("temporal.sojourn")
def states_held_too_long(cohort, draw):
    row = pl.int_range(pl.len()).over("subject_id")
    held = pl.when(row % 2 == 0).then("state").otherwise(None).forward_fill().over("subject_id")
    return visits(cohort, held.alias("state"))


@fault("temporal.trends_worst")
def trend_removed(cohort, draw):
    # creatinine rises slowly in most patients; here it falls
    row = pl.int_range(pl.len()).over("subject_id")
    return visits(cohort, (pl.col("creatinine") * (1 - 0.05 * row).clip(0.3)).round(2))


@fault("codes.unexplained_worst")
def codes_of_another_visit(cohort, draw):
    return put(cohort, events=permuted(cohort.tables["events"], ["code", "value"], draw))


@fault("codes.perplexity_worst")
def visits_take_the_codes_of_strangers(cohort, draw):
    # whole baskets change places: each code and each pair at a visit stays as common, what follows what is lost
    visit = cohort.tables["events"]["visit_id"].unique().sort()
    table = pl.DataFrame({"visit_id": visit, "_to": visit.gather(draw.permutation(visit.len()))})
    home = cohort.tables["visits"].select(_to="visit_id", _who="subject_id", _when="time")
    frame = cohort.tables["events"].join(table, on="visit_id", how="inner", maintain_order="left")
    frame = frame.join(home, on="_to", how="left", maintain_order="left")
    moved = frame.with_columns(visit_id=pl.col("_to"), subject_id=pl.col("_who"), time=pl.col("_when"))
    return put(cohort, events=moved.drop("_to", "_who", "_when"))


@fault("marginal.calendar_worst")
def visits_on_mondays_only(cohort, draw):
    back = pl.duration(days=pl.col("time").dt.weekday() - 1)
    frame = cohort.tables["visits"].with_columns(time=pl.col("time") - back)
    events = cohort.tables["events"].with_columns(time=pl.col("time") - back)
    return put(cohort, visits=frame, events=events)


@fault("marginal.calendar_worst")
def a_registry_two_years_later(cohort, draw):
    later = pl.col("time") + pl.duration(days=730)
    return put(cohort, **{k: cohort.tables[k].with_columns(time=later) for k in ("visits", "events")})


@fault("codes.prevalence_worst")
def code_lost(cohort, draw):
    return put(cohort, events=cohort.tables["events"].filter(pl.col("code") != "insulin"))


@fault("codes.per_visit")
def half_the_codes_dropped(cohort, draw):
    frame = cohort.tables["events"]
    return put(cohort, events=frame.filter(pl.Series(draw.random(frame.height) < 0.6)))


@fault("temporal.first_events_worst")
def order_of_findings_reversed(cohort, draw):
    # edema is seen only after the first diuretic, although it is what the diuretic is for
    frame = (
        cohort.tables["events"].filter(pl.col("code") == "diuretic").group_by("subject_id").agg(_f=pl.col("time").min())
    )
    joined = cohort.tables["visits"].join(frame, on="subject_id", how="left", maintain_order="left")
    return put(cohort, visits=joined.with_columns(edema=pl.col("edema") & (pl.col("time") > pl.col("_f"))).drop("_f"))


@fault("marginal.values_worst")
def values_of_two_codes_swapped(cohort, draw):
    code = pl.col("code").replace({"potassium": "bnp", "bnp": "potassium"})
    return put(cohort, events=cohort.tables["events"].with_columns(code))


@fault("association.patient_means_worst")
def insulin_for_those_without_diabetes(cohort, draw):
    # each patient's drugs are another patient's
    ids = cohort.tables["events"]["subject_id"].unique().sort()
    table = pl.DataFrame({"subject_id": ids, "_to": ids.gather(draw.permutation(ids.len()))})
    frame = cohort.tables["events"].join(table, on="subject_id", how="left", maintain_order="left")
    frame = frame.with_columns(subject_id=pl.col("_to"), visit_id=pl.lit(None, dtype=pl.Int64)).drop("_to")
    return put(cohort, events=frame)


@fault("temporal.cross_lag_worst")
def pressure_forgets_the_rest(cohort, draw):
    return put(cohort, visits=permuted(cohort.tables["visits"], ["pressure"], draw))


@fault("detection.visits")
def rounded_to_fives(cohort, draw):
    return visits(cohort, ((pl.col("weight") / 5).round() * 5).alias("weight"))


@fault("detection.patients")
def one_column_smoothed_a_little(cohort, draw):
    mean = pl.col("weight").mean().over("subject_id")
    return visits(cohort, (mean + 0.5 * (pl.col("weight") - mean)).round(1).alias("weight"))
