"""Facts of drafts from files whose headers and words are not English."""

import numpy as np
import polars as pl
import pytest

from cohortloom.formats import read
from cohortloom.schema.column import Category, Code, Flag, Number
from cohortloom.schema.infer import infer_schema

GERMAN = {
    "p": ("Patienten", "Patientennummer", "Geschlecht", "Geburtsdatum", "Raucher", "Sterbedatum"),
    "c": ("Fälle", "Fallnummer", "Entlassung", "Aufnahme", "Verweildauer (Tage)", "Erlös [€]"),
    "l": ("Labor", "Auftragsnummer", "Abnahmezeitpunkt", "Parameter", "Wert", "Einheit"),
    "d": ("Diagnosen", "ICD-10-GM", "OPS"),
    "words": ("ja", "nein", "männlich", "weiblich"),
}
SPANISH = {
    "p": ("Pacientes", "id_paciente", "sexo", "fecha_nacimiento", "fumador", "fecha_defuncion"),
    "c": ("Episodios", "episodio_id", "fecha_alta", "fecha_ingreso", "estancia (días)", "coste [€]"),
    "l": ("Laboratorio", "peticion", "fecha_extraccion", "prueba", "resultado", "unidades"),
    "d": ("Diagnósticos", "codigo_icd_10", "codigo_ops"),
    "words": ("sí", "no", "hombre", "mujer"),
}


def date(t: np.datetime64, how: str) -> str:
    return t.astype("datetime64[s]").item().strftime(how)


def export(folder, w: dict[str, tuple[str, ...]], n: int = 80) -> None:
    """Patients with one or two stays, three tests and one or two codes each: semicolons, decimal commas, days first."""
    draw = np.random.default_rng(0)
    yes, no, man, woman = w["words"]
    rows = {k: [] for k in "pcld"}
    for i in range(n):
        born = np.datetime64("1940-01-01") + int(draw.integers(0, 20_000))
        begin = np.datetime64("2020-01-01T08:00") + int(draw.integers(0, 500_000))
        for j in range(1 + i % 2):
            case = 5000 + 2 * i + j
            end = begin + int(draw.integers(600, 20_000))
            days = (end.astype("datetime64[D]") - begin.astype("datetime64[D]")).astype(int)
            money = f"{draw.gamma(2, 900):.2f}".replace(".", ",")
            rows["c"].append((case, i, date(end, "%d.%m.%Y %H:%M"), date(begin, "%d.%m.%Y %H:%M"), days, money))
            for k, (test, mean, unit) in enumerate((("Krea", 1, "mg/dl"), ("Hb", 13, "g/dl"), ("K", 4, "mmol/l"))):
                value = f"{draw.normal(mean, mean / 9):.1f}".replace(".", ",")
                rows["l"].append((i, case, f"L{case}-{k}", date(begin, "%d.%m.%Y %H:%M"), test, value, unit))
            for code in ("E11.0", "J18.9")[: 1 + i % 2]:
                rows["d"].append((i, case, code, ("1-632.0", "5-511.11", "8-837.00", "9-261")[(i + j) % 4]))
            last, begin = end, end + int(draw.integers(9000, 90_000))
        dead = date(last, "%d.%m.%Y") if i % 8 == 0 else ""
        rows["p"].append((i, man if i % 2 else woman, date(born, "%d.%m.%Y"), yes if draw.random() < 0.4 else no, dead))
    who, case = w["p"][1], w["c"][1]
    heads = {
        "p": w["p"][1:],
        "c": (case, who, *w["c"][2:]),
        "l": (who, case, *w["l"][1:]),
        "d": (who, case, *w["d"][1:]),
    }
    for k, table in rows.items():
        text = "\n".join(";".join(map(str, row)) for row in (heads[k], *table))
        (folder / f"{w[k][0]}.csv").write_text(text + "\n", encoding="cp1252")


@pytest.mark.parametrize("words", [GERMAN, SPANISH], ids=["german", "spanish"])
def test_a_hospital_export_is_drafted_in_its_own_words(tmp_path, words):
    export(tmp_path, words)
    schema = infer_schema(tmp_path, name="x").schema
    by = {str(t.source.file).removesuffix(".csv"): t for t in schema.tables.values()}  # type: ignore[union-attr]
    patients, cases, labs, codes = (by[words[k][0]] for k in "pcld")
    assert [t.role for t in (patients, cases, labs, codes)] == ["static", "visit", "event", "event"]
    sex, born, smoker, died = patients.columns.values()
    assert isinstance(sex, Category) and sex.quasi_identifier and born.quasi_identifier and isinstance(smoker, Flag)
    assert died.sensitive and died.quasi_identifier and schema.subgroups
    assert cases.source is not None and cases.source.when is not None and cases.source.when.column == words["c"][3]
    assert [c.unit for c in cases.columns.values() if isinstance(c, Number)] == ["d", "{EUR}"]
    assert labs.is_long and {i.unit for i in labs.code_column().items.values()} == {"mg/dL", "g/dL", "mmol/L"}
    assert [c.kind for c in labs.columns.values()].count("identifier") == 1
    assert all(isinstance(c, (Code, Category)) for c in codes.columns.values())
    cohort = read(tmp_path, format="tabular", schema=schema)
    smokes = next(name for name, column in patients.columns.items() if isinstance(column, Flag))
    frame = cohort.tables[next(name for name, table in schema.tables.items() if table is patients)]
    assert cohort.n_subjects == 80 and set(frame[smokes]) == {True, False}
    said = set(
        pl.concat(
            [cohort.tables[n].select(pl.col(pl.String)).unpivot() for n, t in schema.tables.items() if t is codes]
        )["value"]
    )
    assert {"E11.0", "1-632.0", "8-837.00"} <= said
