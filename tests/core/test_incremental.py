"""What of an incremental feature is counted, and which configurations are none; the texts stand in fixtures/broken."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from treadle.errors import ProjectError
from treadle.fingerprint import identify

if TYPE_CHECKING:
    from conftest import Compile

SOURCE = (
    "sources:\n  - {name: orders, path: data/orders.csv, event_time: ts}\n  - {name: rates, path: data/rates.csv}\n"
)
CONFIG = "materialized='incremental', event_time='ts', interval='1d'"
SELECT = "select ts from {{ ref('orders') }}"


def feature(config: str = CONFIG, select: str = SELECT) -> str:
    return f"{{{{ config({config}) }}}}\n{select}\n"


def test_intervals_are_counted_for_incremental_features_alone(compile_files: Compile) -> None:
    files = {"features/a.sql": feature(), "features/b.sql": feature("event_time='ts'"), "features/s.yml": SOURCE}
    graph = compile_files(files)
    keys = {"interval": "1d", "lookback": "0d", "begin": None, "on_schema_change": "rebuild"}
    assert {key: graph["a"].config[key] for key in keys} == keys
    assert not keys.keys() & graph["b"].config.keys()
    assert graph["orders"].config["event_time"] == "ts"
    assert "event_time" not in graph["rates"].config


@pytest.mark.parametrize(
    "more",
    ["interval='1h'", "lookback='1d'", "begin='2024-01-01'", "on_schema_change='append'", "materialized='table'"],
)
def test_each_key_makes_another_feature(compile_files: Compile, more: str) -> None:
    key = more.partition("=")[0]
    kept = [part for part in CONFIG.split(", ") if not part.startswith(key)]
    if key == "materialized":
        kept = [part for part in kept if not part.startswith("interval")]
    graphs = [
        compile_files({"features/a.sql": feature(config), "features/s.yml": SOURCE})
        for config in (CONFIG, ", ".join([*kept, more]))
    ]
    one, other = (identify(graph["a"], {"orders": "0"}).fingerprint for graph in graphs)
    assert one != other


def test_defaults_said_are_the_defaults(compile_files: Compile) -> None:
    said = f"{CONFIG}, lookback='0d', on_schema_change='rebuild'"
    graphs = [compile_files({"features/a.sql": feature(config), "features/s.yml": SOURCE}) for config in (CONFIG, said)]
    assert graphs[0]["a"].config == graphs[1]["a"].config


def test_keys_of_a_folder_concern_its_incremental_features(compile_files: Compile) -> None:
    files = {
        "treadle.yml": "name: flights\ndefaults:\n  features/daily: {materialized: incremental, interval: 1d, lookback: 2d}\n",
        "features/daily/a.sql": feature("event_time='ts'"),
        "features/daily/b.sql": feature("materialized='view'"),
        "features/s.yml": SOURCE,
    }
    graph = compile_files(files)
    assert graph["a"].config["lookback"] == "2d"
    assert graph["b"].is_inline


def test_own_key_of_a_table_is_a_mistake_in_yaml_too(compile_files: Compile) -> None:
    files = {"features/a.sql": SELECT, "features/s.yml": SOURCE + "features:\n  - {name: a, interval: 1d}\n"}
    with pytest.raises(ProjectError, match=r'TR411\]: feature "a" has interval and is not incremental'):
        compile_files(files)


def test_time_is_found_through_views_and_not_through_tables(compile_files: Compile) -> None:
    def through(config: str) -> dict[str, str]:
        return {
            "features/a.sql": feature(select="select ts from {{ ref('v') }}"),
            "features/v.sql": feature(config),
            "features/s.yml": SOURCE,
        }

    compile_files(through("materialized='view'"))
    compile_files(through("event_time='ts'"))
    with pytest.raises(ProjectError, match="reads no table with an event_time"):
        compile_files(through("materialized='table'"))


def test_view_of_an_untimed_table_brings_no_time(compile_files: Compile) -> None:
    files = {
        "features/a.sql": feature(select="select ts from {{ ref('v') }}"),
        "features/v.sql": feature("materialized='view', event_time='ts'", "select ts from {{ ref('rates') }}"),
        "features/s.yml": SOURCE,
    }
    with pytest.raises(ProjectError, match="it reads v; event_time tells which rows an interval needs"):
        compile_files(files)


@pytest.mark.parametrize(
    ("begin", "interval"),
    [("2024-01-01", "1d"), ("2024-01-01T06:00", "6h"), ("2023-12-28", "1w"), ("2024-01-01T02:00+02:00", "1d")],
)
def test_begin_at_the_start_of_an_interval_is_taken(compile_files: Compile, begin: str, interval: str) -> None:
    config = f"materialized='incremental', event_time='ts', interval='{interval}', begin='{begin}'"
    assert compile_files({"features/a.sql": feature(config), "features/s.yml": SOURCE})["a"].config["begin"] == begin


def test_static_feature_on_a_timed_source_is_refused(compile_files: Compile) -> None:
    files = {"features/a.sql": feature("static=true"), "features/s.yml": SOURCE}
    with pytest.raises(ProjectError, match=r'it stands on "orders", whose rows are true from their ts on'):
        compile_files(files)
