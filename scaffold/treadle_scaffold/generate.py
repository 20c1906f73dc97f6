"""The files of a project about a table: each guess stands where it can be changed, with a word on why it was made."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

from treadle_scaffold.guess import Design
from treadle_scaffold.parts import Parts
from treadle_scaffold.template import read_template

_WORDS = {"true", "false", "null"}
_PLAIN = re.compile(r"[A-Za-z][\w./-]*( [\w./-]+)*|\d+[dhms]", re.ASCII)
_METRICS = {
    "binary": ["roc_auc", "average_precision", "brier"],
    "multiclass": ["accuracy", "log_loss"],
    "regression": ["rmse", "mae", "r2"],
}
_MAX_HISTORY = 3
_SMALL_ROWS = 5_000
_STANDARD_ERRORS = 3


def generate(design: Design, parts: Parts, *, name: str) -> dict[str, bytes | Path]:
    """Return path -> content of a project's files; the data file stands as its path.

    Args:
        name: the project's name.
    """
    names = _Names(design)
    suffix = "".join(design.profile.file.suffixes[-1:]).lower()
    data = f"data/{design.table}{suffix}"
    files: dict[str, str] = {
        "treadle.yml": f'name: {name}\nversion: "0.1.0"\n',
        f"features/{design.table}.sql": _rows_sql(design, names),
        f"features/{design.table}.yml": _features_yml(design, names, data),
        f"models/{design.table}.yml": _models_yml(design, names),
        f"pipelines/{names.pipeline}.yml": _pipeline_yml(design, parts, names),
        f"tests/{names.trees}_predict_every_row_once.sql": _once_sql(names),
        f"tests/{names.linear}_tells_rows_apart.sql": _apart_sql(names),
        "README.md": _readme(design, names, name, data),
    }
    if names.history:
        files[f"features/{names.history}.sql"] = _history_sql(design, names)
    fixed = {
        path: content for path, content in read_template("minimal", {"project_name": name}).items() if path in _FIXED
    }
    fixed[".github/workflows/treadle.yml"] = read_template("flights", {})[".github/workflows/treadle.yml"]
    return {**{path: text.encode() for path, text in files.items()}, **fixed, data: design.profile.file}


_FIXED = {".gitignore", "pyproject.toml"}


class _Names:
    """What the project calls its parts; sources, features, datasets and models share one space."""

    def __init__(self, design: Design) -> None:
        used = {design.table.lower()}
        self.sql = design.profile.quote

        def take(wanted: str) -> str:
            found, n = wanted, 2
            while found.lower() in used:
                found, n = f"{wanted}_{n}", n + 1
            used.add(found.lower())
            return found

        label = design.names[design.label.column]
        self.source = take(f"raw_{design.table}")
        self.dataset = take(f"{design.table}_{label}")
        self.pipeline = label
        self.trees = take("trees")
        self.linear = take("ridge" if design.label.task == "regression" else "logistic")
        has_history = design.entity is not None and design.time is not None
        self.entity = design.names[design.entity] if design.entity is not None else ""
        self.history = take(f"{self.entity.removesuffix('_id')}_history") if has_history else ""


def _rows_sql(design: Design, names: _Names) -> str:
    label = design.label
    columns = [(design.key_expression, design.key_name)]
    columns += [(names.sql(name), design.names[name]) for name in (design.entity,) if name and name != design.key]
    if design.time is not None:
        columns.append((f"{names.sql(design.time)}::timestamp", design.names[design.time]))
    for name in design.inputs:
        quoted = names.sql(name)
        bounded = f"case when isfinite({quoted}) then {quoted} end" if design.column(name).infinite else quoted
        columns.append((bounded, design.names[name]))
    columns.append((label.expression, design.names[label.column]))
    lines = [f"-- One row for each row of {design.profile.file.name}."]
    if design.key is None:
        lines.append(
            "-- No column tells its rows apart, so they are numbered: put a key of your own here when there is one."
        )
    if label.note:
        lines.append(f"-- {design.names[label.column]}: {label.note}.")
    lines += [f"-- Left out, {name}: {reason}." for name, reason in design.left_out.items()]
    selected = [_select(names, expression, name) for expression, name in columns]
    return "\n".join(lines) + "\nselect\n" + ",\n".join(selected) + f"\nfrom {{{{ ref('{names.source}') }}}}\n"


def _select(names: _Names, expression: str, name: str) -> str:
    quoted = names.sql(name)
    return f"    {quoted}" if expression == quoted else f"    {expression} as {quoted}"


def _history_sql(design: Design, names: _Names) -> str:
    time, entity = names.sql(design.names[design.time or ""]), names.sql(names.entity)
    numbers = [design.names[name] for name in design.inputs if design.column(name).kind in ("integer", "number")]
    numbers = numbers[:_MAX_HISTORY]
    window = _window(design)
    sums = "".join(
        f",\n        sum({names.sql(name)}) as {names.sql(f'sum_{name}')},"
        f"\n        count({names.sql(name)}) as {names.sql(f'n_{name}')}"
        for name in numbers
    )
    means = "".join(
        f",\n    sum({names.sql(f'sum_{name}')}) over recent / nullif(sum({names.sql(f'n_{name}')}) over recent, 0)"
        f" as {names.sql(f'mean_{name}_{window}')}"
        for name in numbers
    )
    return f"""-- What came before of the same {names.entity}: a row's own inputs count, its label does not.
{{{{ config(entity='{names.entity}', event_time='{design.names[design.time or ""]}') }}}}
with moments as (
    select
        {entity},
        {time},
        count(*) as n{sums}
    from {{{{ ref('{design.table}') }}}}
    where {entity} is not null and {time} is not null
    group by {entity}, {time}
)

select
    {entity},
    {time},
    (sum(n) over recent)::bigint as rows_{window}{means}
from moments
window recent as (
    partition by {entity} order by {time}
    range between interval {int(window[:-1])} {"days" if window.endswith("d") else "hours"} preceding and current row
)
"""


def _window(design: Design) -> str:
    time = design.profile.quote(design.time or "")
    span = design.profile.query(f"select epoch(max({time})::timestamp) - epoch(min({time})::timestamp) from rows")[0][0]
    seconds = float(str(span or 0))
    fitting = [text for text, size in (("28d", 2_419_200), ("7d", 604_800), ("1d", 86_400)) if seconds >= 3 * size]
    return fitting[0] if fitting else "1h"


def _features_yml(design: Design, names: _Names, data: str) -> str:
    lines = ["sources:", f"  - name: {yaml(names.source)}", f"    path: {yaml(data)}", ""]
    if design.entity is not None:
        lines += ["entities:", f"  - name: {yaml(names.entity)}", ""]
    lines += ["features:", f"  - name: {yaml(design.table)}", "    columns:"]
    lines += [f"      - {{name: {yaml(name)}, tests: [{', '.join(tests)}]}}" for name, tests in _tests(design).items()]
    if names.history:
        lines += [f"  - name: {yaml(names.history)}", "    columns:"]
        lines.append(f"      - {{name: {yaml(names.entity)}, tests: [not_null]}}")
    return "\n".join(lines) + "\n"


def _tests(design: Design) -> dict[str, list[str]]:
    """Return column of the rows -> tests that hold on the file."""
    found = {design.key_name: ["not_null", "unique"]}
    for name in (design.entity, design.time, *design.inputs):
        if name is None or name == design.key:
            continue
        column = design.column(name)
        if column.filled == design.profile.rows and not column.infinite:
            found[design.names[name]] = ["not_null"]
    tests = ["not_null"] if _is_labelled(design) else []
    if design.label.task != "regression":
        tests.append(f"{{accepted_values: {{values: [{', '.join(_values(design))}]}}}}")
    if tests:
        found[design.names[design.label.column]] = tests
    return found


def _is_labelled(design: Design) -> bool:
    return design.column(design.label.column).filled == design.profile.rows and "case" not in design.label.expression


def _values(design: Design) -> list[str]:
    """Return the classes as YAML: SQL's literals are those of YAML but for text."""
    return [
        json.dumps(text[1:-1].replace("''", "'")) if text.startswith("'") else text for text in design.label.classes
    ]


def _models_yml(design: Design, names: _Names) -> str:
    label = design.names[design.label.column]
    lines = [
        "datasets:",
        f"  - name: {yaml(names.dataset)}",
        f"    rows: {yaml(design.table)}",
        f"    key: {yaml(design.key_name)}",
    ]
    if design.time is not None:
        lines.append(
            f"    at: {yaml(names.sql(design.names[design.time]))}   # the moment of prediction: nothing later is seen"
        )
        lines.append(
            "    # If labels become known later than that, say when, and rows train only once their label was known:"
        )
        lines.append(f"    # label: {{column: {label}, known_at: COLUMN}}")
    lines.append(f"    label: {yaml(label)}")
    lines.append("    columns:")
    lines += [f"      - {yaml(design.names[name])}" for name in design.inputs]
    if design.entity is not None and not names.history:
        lines.append(f"    keep: [{yaml(names.entity)}]")
    if names.history:
        lines.append(f"    features: [{yaml(names.history)}]")
    lines += ["", "models:"]
    linear = "ridge" if design.label.task == "regression" else "logistic_regression"
    for name, trainer in ((names.trees, "hist_gradient_boosting"), (names.linear, linear)):
        lines += [f"  - name: {yaml(name)}", f"    dataset: {yaml(names.dataset)}", f"    task: {design.label.task}"]
        lines.append(f"    trainer: sklearn.{trainer}")
        if name == names.trees and design.profile.rows < _SMALL_ROWS:
            lines.append("    params: {learning_rate: 0.05, max_leaf_nodes: 7}   # few rows: small trees")
        lines.append("")
    return "\n".join(lines[:-1]) + "\n"


def _pipeline_yml(design: Design, parts: Parts, names: _Names) -> str:
    split = ", ".join(
        f"{key}: {yaml(value) if isinstance(value, str) else value}" for key, value in parts.config.items()
    )
    gate, reason = _gate(design, parts)
    counts = ", ".join(f"{name} {rows:,}" for name, rows in parts.rows.items())
    return f"""pipelines:
  - name: {yaml(names.pipeline)}
    models: [{yaml(names.trees)}, {yaml(names.linear)}]
    # rows: {counts}{_seed_note(parts)}
    split: {{{split}}}
    evaluate: {{metrics: [{", ".join(_METRICS[design.label.task])}]}}
    gates:
      # {reason}
      - {gate}
"""


def _seed_note(parts: Parts) -> str:
    return "; the first seed that puts every class into every part" if "seed" in parts.config else ""


def _gate(design: Design, parts: Parts) -> tuple[str, str]:
    """Return a gate against the best free baseline, less what chance may do to so few test rows, and the reason."""
    n = max(parts.rows["test"], 1)
    if design.label.task == "regression":
        error = max(0.01, 1 / math.sqrt(2 * n))  # of a standard deviation, relative
        gate = f"rmse <= baseline.rmse * {1 + _STANDARD_ERRORS * error:.2f}"
    elif design.label.task == "binary":
        few, many = sorted(parts.classes.values())
        error = math.sqrt((few + many + 1) / (12 * few * many))  # of the AUC of a model that knows nothing
        gate = f"roc_auc >= baseline.roc_auc - {_to_slack(error)}"
    else:
        gate = f"accuracy >= baseline.accuracy - {_to_slack(math.sqrt(0.25 / n))}"
    return gate, f"as good as the best free baseline, less {_STANDARD_ERRORS} standard errors on {n:,} test rows"


def _to_slack(error: float) -> str:
    return f"{min(0.4, max(0.01, _STANDARD_ERRORS * error)):.2f}"


def _once_sql(names: _Names) -> str:
    return f"""-- Rows that a test returns are failures.
select "key", count(*) as predictions
from {{{{ ref('{names.trees}') }}}}
group by "key"
having count(*) > 1 or count(prediction) < count(*)
"""


def _apart_sql(names: _Names) -> str:
    return f"""-- A model that says the same of every row has learnt nothing.
select count(distinct prediction) as different
from {{{{ ref('{names.linear}') }}}}
having count(distinct prediction) < 2
"""


def _readme(design: Design, names: _Names, name: str, data: str) -> str:
    label = design.names[design.label.column]
    left = "".join(f"- `{column}`: {reason}\n" for column, reason in design.left_out.items())
    left = f"\nNo inputs, for now:\n\n{left}" if left else ""
    commands = {
        "treadle build": "features, tests, models; a second time nothing is left to do",
        f"treadle show {names.dataset} --row 1": "one training row",
        f"treadle show {names.pipeline}": "the model: metrics beside what costs nothing",
        "treadle new feature NAME": "the next piece",
    }
    width = max(map(len, commands))
    shown = "\n".join(f"    {command:<{width}}  # {what}" for command, what in commands.items())
    return f"""# {name}

Predicts `{label}` ({design.label.task}) for each row of `{data}`, from {len(design.inputs)} of its columns.

{shown}

Everything here was guessed from the file. Look first at `models/{design.table}.yml` (is an input known only after the
fact?) and at `pipelines/{names.pipeline}.yml`: its gate is a floor, set it to what you need.
{left}"""


def yaml(text: str) -> str:
    """Return text as a YAML scalar: plain where it is plain words, a path or a duration, else quoted."""
    is_plain = _PLAIN.fullmatch(text) is not None and text.lower() not in _WORDS
    return text if is_plain else json.dumps(text, ensure_ascii=False)
