"""Units: UCUM codes, and the names people write instead.

A UCUM code is a product of units with exponents: `mg/dL`, `10*3/uL`, `mL/min/{1.73_m2}`, `mm[Hg]`. We know the units
met in clinics (metric ones take prefixes, square brackets belong to the name, curly brackets are remarks) and the
grammar; nothing is converted here, so a full parser with all 300 units would only be a dependency (ucumvert brings lark
and pint). A code that is well formed but holds a unit we do not know is worth a look, not a refusal.

References:
    Schadow, McDonald. The Unified Code for Units of Measure, ucum.org.
"""

import re
from difflib import get_close_matches

__all__ = ["check_unit", "guess_unit", "ucum", "unit_in"]

_PREFIXES = ("", "Y", "Z", "E", "P", "T", "G", "M", "k", "h", "da", "d", "c", "m", "u", "n", "p", "f", "a", "z", "y")
_METRIC = frozenset(
    str.split(r"""
    A B B[SPL] B[V] B[W] Bd Bq By Cel Ci F G Gy H Hz J K L Mx N Np Ohm P Pa R REM S St Sv T U V W Wb [Cal] [IU]
    [arb'U] [iU] [m/s2/Hz^0.5] ar bar bit cal cal_[15] cd dyn eV eq g g% kat l lm lx m m[H2O] m[Hg] mho mol osm pc
    rad s sr st t u
    """)
)
_OTHER = frozenset(
    str.split(r"""
    % ' '' 10* 10^ [ACR_us] [APL'U] [AU] [Amb'a'1'U] [BAU] [Btu] [CAE'U] [CCID_50] [CFU] [Cal] [Ch] [D'ag'U]
    [EID_50] [ELU] [EU] [FEU] [FFU] [GPL'U] [HPF] [HP] [LPF] [Lf] [Ly] [MET] [MPL'U] [PFU] [PNU] [S] [TCID_50]
    [USP'U] [acr_us] [anti'Xa'U] [arb'U] [bdsk'U] [beth'U] [bu_us] [c] [car_m] [cft_i] [cin_i] [cml_i] [cup_us]
    [degF] [degR] [degRe] [diop] [drp] [dye'U] [e] [foz_us] [ft_i] [ft_us] [fth_i] [gal_us] [gr] [hnsf'U] [hp'_X]
    [in_i] [in_us] [k] [ka'U] [kn_i] [knk'U] [lb_av] [lbf_av] [lcwt_av] [mclg'U] [mesh_i] [mi_i] [oz_av] [pH] [pi]
    [ppb] [ppm] [ppth] [psi] [pt_us] [qt_us] [sft_i] [sin_i] [smgy'U] [smoot] [stone_av] [syd_i] [tbs_us] [todd'U]
    [tsp_us] [tuberculin'U] [twp] [wood'U] [yd_i] a a_j a_t atm d deg gon h min mo mo_j mo_s u wk
    """)
)
_ATOM = re.compile(r"(10[*^])([+-]?\d+)?|((?:[^\[\]{}()./\d+\-]|\[[^\[\]]*\])+)([+-]?\d+)?|(\d+)")
_REMARK = re.compile(r"\{[!-z|~]*\}")

#: What people write -> UCUM, lower case without blanks.
_NAMES = {
    "bpm": "/min", "beats/min": "/min", "beatsperminute": "/min", "insp/min": "/min", "breaths/min": "/min",
    "mmhg": "mm[Hg]", "cmh2o": "cm[H2O]", "cmh20": "cm[H2O]", "torr": "mm[Hg]", "celsius": "Cel", "°c": "Cel",
    "degc": "Cel", "c": "Cel", "fahrenheit": "[degF]", "°f": "[degF]", "degf": "[degF]", "f": "[degF]", "years": "a",
    "year": "a", "yr": "a", "yrs": "a", "y": "a", "months": "mo", "month": "mo", "weeks": "wk", "week": "wk",
    "days": "d", "day": "d", "hours": "h", "hour": "h", "hr": "h", "hrs": "h", "minutes": "min", "minute": "min",
    "mins": "min", "seconds": "s", "second": "s", "sec": "s", "secs": "s", "percent": "%", "inch": "[in_i]",
    "inches": "[in_i]", "in": "[in_i]", "lb": "[lb_av]", "lbs": "[lb_av]", "pounds": "[lb_av]", "kilogram": "kg",
    "kgs": "kg", "gm": "g", "grams": "g", "gram": "g", "gm/dl": "g/dL", "mcg": "ug", "µg": "ug",
    "mcg/kg/min": "ug/kg/min", "mcg/ml": "ug/mL", "mcg/dl": "ug/dL", "mcg/l": "ug/L", "cc": "mL", "ml": "mL",
    "ml/hour": "mL/h", "ml/hr": "mL/h", "ml/min": "mL/min", "cc/hr": "mL/h", "liters": "L", "litre": "L",
    "lpm": "L/min", "l/min": "L/min", "meq/l": "meq/L", "mmol/l": "mmol/L", "umol/l": "umol/L", "µmol/l": "umol/L",
    "nmol/l": "nmol/L", "mg/dl": "mg/dL", "g/dl": "g/dL", "g/l": "g/L", "mg/l": "mg/L", "ng/ml": "ng/mL",
    "pg/ml": "pg/mL", "ug/ml": "ug/mL", "ng/dl": "ng/dL", "ug/dl": "ug/dL", "ug/l": "ug/L", "iu/l": "[iU]/L",
    "u/l": "U/L", "u/ml": "U/mL", "iu/ml": "[iU]/mL", "miu/l": "m[iU]/L", "uiu/ml": "u[iU]/mL", "units": "U",
    "unit": "U", "iu": "[iU]", "units/hour": "U/h", "k/ul": "10*3/uL", "k/mcl": "10*3/uL", "m/ul": "10*6/uL",
    "#/ul": "/uL", "10^3/ul": "10*3/uL", "x10e3/ul": "10*3/uL", "10^9/l": "10*9/L", "10^12/l": "10*12/L",
    "mosm/kg": "mosm/kg", "mosm/l": "mosm/L", "mm/hr": "mm/h", "#/hpf": "/[HPF]", "mg/g": "mg/g", "kg/m2": "kg/m2",
    "kg/m^2": "kg/m2", "kg/m²": "kg/m2", "m2": "m2", "m²": "m2", "ml/min/1.73m2": "mL/min/{1.73_m2}", "none": "1",
    "ratio": "1", "unk": "1", "n/a": "1", "": "1", "no_unit": "1", "score": "{score}", "units/l": "U/L",
    "mmol/mol": "mmol/mol", "hz": "Hz", "db": "dB", "ph": "[pH]", "microvolt": "uV", "µv": "uV", "millivolt": "mV",
    "meq": "meq", "mmhg/s": "mm[Hg]/s", "ms": "ms", "msec": "ms", "dyne.sec.cm-5": "dyn.s/cm5", "l": "L",
    "degrees": "deg", "tage": "d", "tag": "d", "stunden": "h", "std": "h", "minuten": "min", "sekunden": "s",
    "wochen": "wk", "monate": "mo", "jahre": "a", "días": "d", "dias": "d", "horas": "h", "minutos": "min",
    "semanas": "wk", "meses": "mo", "años": "a", "jours": "d", "heures": "h", "semaines": "wk", "mois": "mo",
    "ans": "a", "€": "{EUR}", "eur": "{EUR}", "$": "{USD}", "usd": "{USD}", "£": "{GBP}", "gbp": "{GBP}",
}  # fmt: skip

#: Words of column names -> unit that is usual for them; the first match counts. Guesses, for drafts only.
_USUAL = (
    (r"(^|_)(z|z_?score|sds)$|^(h|l|w|b)?az$|^w(h|l)z$", "1"), (r"(^|_)(pct|p?c(en)?t(ile|l)?|perc(en)?t(ile)?)$", "%"),
    (r"_kg$", "kg"), (r"_cm$", "cm"), (r"_mm$", "mm"), (r"(weight|dose|wt)_g$", "g"), (r"weight_lbs?$", "[lb_av]"),
    (r"height_in(ches)?$", "[in_i]"),
    (r"(^|_)(sys|dias|mean|ni|art)*_?(sbp|dbp|map|bp|abp|nimap)($|_)|blood_pressure|(sys|dias)_?abp", "mm[Hg]"),
    (r"^(hr|pulse|heart_?rate)($|_)|respiratory_?rate|resp_?rate|^rr$", "/min"),
    (r"^temp(erature)?($|_)", "Cel"), (r"^(sao2|spo2|o2sat)$|saturation", "%"),
    (r"(^|_)age_?(in_)?(mo|mos|mths?|months?)($|_)", "mo"), (r"(^|_)age_?(in_)?(d|days?)($|_)", "d"),
    (r"(^|_)age_?(in_)?(wk|wks|weeks?)($|_)", "wk"), (r"^age(_|$)|_age$", "a"),
    (r"^height($|_)", "cm"), (r"^weight($|_)", "kg"), (r"^bmi$", "kg/m2"), (r"^(pao2|paco2|pco2|po2)$", "mm[Hg]"),
    (r"^ph$", "[pH]"), (r"^(na|sodium|k|potassium|chloride|cl|hco3|bicarbonate|lactate|mg_serum)$", "mmol/L"),
    (r"^(mg|magnesium)$", "mmol/L"), (r"^(glucose|gl|bun|creatinine|chol|cholesterol|bili|bilirubin|trig)", "mg/dL"),
    (r"^(albumin|hemoglobin|hgb|hb)$", "g/dL"), (r"^(wbc|plt|platelets?)$", "10*3/uL"), (r"^(hct|hematocrit)$", "%"),
    (r"^(alt|ast|alp|alk_phos|ldh|ck|ggt)$", "U/L"), (r"^urine($|_)", "mL"), (r"^(protime|pt|ptt|aptt)$", "s"),
    (r"^troponin", "ug/L"), (r"hba1c|^a1c$", "%"),
    (r"^(saps|sofa|gcs|apache|oasis)|(^|_)score$", "{score}"), (r"^survival$", "d"),
    (r"^ferritin$", "ng/mL"), (r"^crp$", "mg/L"),
    (r"(^|_)(tacrolimus|ciclosporin|cyclosporin|sirolimus|everolimus)_(trough|level|c0)", "ng/mL"),
    (r"(^|_)e?gfr($|_)", "mL/min/{1.73_m2}"), (r"^apgar", "{score}"), (r"_ph$", "[pH]"), (r"_(pct|percent)$", "%"),
    (r"(^|_)(6|six)_?mw[td]($|_)", "m"), (r"^alter($|_)|^edad($|_)", "a"), (r"(^|_)(gewicht|peso)$", "kg"),
    (r"ischa?emi[ac]?(_time)?_h$", "h"),
    (r"(^|_)per_day$", "/d"), (r"(^|_)per_week$", "/wk"), (r"(^|_)per_min(ute)?$", "/min"),
    (r"pack_?years", "{pack}.a"),
    (r"(^|_)days?($|_)|^(futime|los)$|^time_in_hospital$|^length_of_stay$", "d"),
    (r"(^|_)(hours?|hrs)($|_24)", "h"),
    (r"(^|_)(minutes?|mins)$", "min"), (r"(^|_)years?$", "a"), (r"(^|_)months?$", "mo"),
    (r"_(wk|weeks?)$", "wk"), (r"_mg$", "mg"), (r"_ml$", "mL"), (r"^(dry|birth|body|pre|post)_?weight$", "kg"),
)  # fmt: skip


def ucum(name: str) -> str | None:
    """UCUM code of a unit as people write it ("mmHg" -> "mm[Hg]"); None if we know none."""
    text = name.strip()
    found = _NAMES.get(re.sub(r"\s+", "", text).lower())
    if found is not None:
        return found
    return text if text and check_unit(text) is None else None


def unit_in(name: str) -> str | None:
    """The unit a name ends in: Hb [g/dl], CRP (mg/L), ldl_mmol_l; None if there is none we know."""
    found = re.search(r"[\[(]\s*([^\[\]()]+?)\s*[\])]\s*$", name)
    if found and (unit := ucum(found[1])) not in (None, "1"):
        return unit
    found = re.search(r"(?i)_(mmol|umol|nmol|pmol|mg|g|ug|mcg|ng|pg|u|iu|meq|ml)_(l|dl|ml|min|h|kg|g)$", name)
    return ucum(f"{found[1]}/{found[2]}") if found else None


def guess_unit(column: str) -> str | None:
    """Usual unit of a column with this name (snake case); None if the name says nothing."""
    return next((unit for pattern, unit in _USUAL if re.search(pattern, column.lower())), None)


def check_unit(code: str) -> tuple[str, str, str] | None:
    """What is wrong with a UCUM code.

    Returns:
        None if nothing is; else (problem code, what, fix). Code "bad-unit": no UCUM at all (blanks, open brackets);
        "unknown-unit": well formed, but with a unit we do not know, or a name in place of its code.
    """
    known = _NAMES.get(re.sub(r"\s+", "", code).lower())
    hint = f' Write "{known}".' if known and known != code else ""
    if code == "1":
        return None
    if not code or re.search(r"\s", re.sub(r"\{[^{}]*\}", "", code)) or not _balanced(code):
        return "bad-unit", f'unit "{code}" is not a UCUM code', (hint or ' A number without a unit has "1".').strip()
    bare = _REMARK.sub("", code)
    if re.search(r"[{}]", bare):
        return "bad-unit", f'unit "{code}": a remark in curly brackets holds a blank or an umlaut', "Use underscores."
    if bare == "" or bare == "/":
        return None
    shape = re.sub(r"\[[^\]]*\]", "x", bare)
    if re.search(r"[./]{2}|[./]$|^\.", shape.replace("x.", "y.")) and not re.search(r"\{", code):
        return "bad-unit", f'unit "{code}" has an operator without a unit beside it', hint.strip()
    unknown = [atom for part in _parts(bare) if (atom := _unknown(part))]
    if not unknown:
        return None
    if not hint:
        near = get_close_matches(unknown[0], sorted(_METRIC | _OTHER), n=1, cutoff=0.5)
        hint = f' Did you mean "{near[0]}"?' if near else " A remark that is no unit stands in curly brackets: {score}."
    return "unknown-unit", f'unit "{code}": "{unknown[0]}" is not a unit we know', hint.strip()


def _balanced(code: str) -> bool:
    depth: list[str] = []
    for sign in code:
        if sign in "[{(":
            depth.append({"[": "]", "{": "}", "(": ")"}[sign])
        elif sign in "]})" and (not depth or depth.pop() != sign):
            return False
    return not depth


def _parts(bare: str) -> list[str]:
    """The factors of a code; operators inside square brackets belong to a name."""
    return [p for p in re.split(r"[./()](?![^\[]*\])", bare) if p]


def _unknown(part: str) -> str | None:
    """The name in a factor that we do not know; None if all is well."""
    match = _ATOM.fullmatch(part)
    if not match:
        return part
    if match.group(1) or match.group(5):
        return None
    name = match.group(3)
    if name in _OTHER or any(name[len(p) :] in _METRIC for p in _PREFIXES if name.startswith(p)):
        return None
    return name
