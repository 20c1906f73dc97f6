"""The words of DuckDB's SQL that matter to Treadle.

The lists are held against the installed engine by the tests: `duckdb_keywords()` and `duckdb_functions()`.
"""

from __future__ import annotations

KEYWORDS = frozenset(
    """
    all analyse analyze and any array as asc asymmetric both case cast check collate column constraint create default
    deferrable desc describe distinct do else end except false fetch for foreign from group having in initially
    intersect into lambda lateral leading limit not null offset on only or order pivot pivot_longer pivot_wider placing
    primary qualify references returning select show some summarize symmetric table then to trailing true union unique
    unpivot using variadic when where window with

    anti asof at authorization binary by collation concurrently cross freeze full glob ilike inner is isnull join left
    like natural notnull outer overlaps positional right semi similar tablesample unpack verbose
    """.upper().split()
)
"""Words that name no column, table or alias unless quoted, after AS or after a dot: their case means nothing."""

VOLATILE_FUNCTIONS = frozenset(
    [
        "ago",
        "current_catalog",
        "current_connection_id",
        "current_database",
        "current_date",
        "current_localtime",
        "current_localtimestamp",
        "current_query",
        "current_query_id",
        "current_role",
        "current_schema",
        "current_schemas",
        "current_setting",
        "current_time",
        "current_timestamp",
        "current_transaction_id",
        "current_user",
        "currval",
        "gen_random_uuid",
        "get_block_size",
        "get_current_time",
        "get_current_timestamp",
        "getenv",
        "getvariable",
        "in_search_path",
        "inet_client_addr",
        "inet_client_port",
        "inet_server_addr",
        "inet_server_port",
        "localtime",
        "localtimestamp",
        "nextval",
        "now",
        "pg_backend_pid",
        "pg_conf_load_time",
        "pg_my_temp_schema",
        "pg_postmaster_start_time",
        "pg_sleep",
        "random",
        "session_user",
        "setseed",
        "setval",
        "sleep_ms",
        "stats",
        "today",
        "transaction_timestamp",
        "txid_current",
        "user",
        "uuid",
        "uuidv4",
        "uuidv7",
        "vector_type",
        "version",
        "write_log",
    ]
)
"""Functions whose result depends on more than their arguments."""

VOLATILE_WORDS = frozenset(
    [
        "current_catalog",
        "current_date",
        "current_role",
        "current_schema",
        "current_time",
        "current_timestamp",
        "current_user",
        "localtime",
        "localtimestamp",
        "session_user",
    ]
)
"""Those that are called without parentheses."""

TABLE_FUNCTIONS = frozenset(
    [
        "generate_series",
        "icu_calendar_names",
        "json_each",
        "json_tree",
        "range",
        "repeat",
        "repeat_row",
        "unnest",
    ]
)
"""Table functions that read nothing but their arguments."""

READERS = frozenset(
    [
        "arrow_scan",
        "arrow_scan_dumb",
        "delta_scan",
        "duckdb_logs",
        "excel_scan",
        "glob",
        "iceberg_metadata",
        "iceberg_scan",
        "iceberg_snapshots",
        "json_execute_serialized_sql",
        "mysql_query",
        "mysql_scan",
        "pandas_scan",
        "parquet_bloom_probe",
        "parquet_file_metadata",
        "parquet_full_metadata",
        "parquet_kv_metadata",
        "parquet_metadata",
        "parquet_scan",
        "parquet_schema",
        "postgres_query",
        "postgres_scan",
        "postgres_scan_pushdown",
        "python_arrow_scan",
        "python_map_function",
        "query",
        "query_table",
        "read_blob",
        "read_csv",
        "read_csv_auto",
        "read_duckdb",
        "read_json",
        "read_json_auto",
        "read_json_objects",
        "read_json_objects_auto",
        "read_ndjson",
        "read_ndjson_auto",
        "read_ndjson_objects",
        "read_parquet",
        "read_single_csv_file",
        "read_single_json_file",
        "read_single_parquet_file",
        "read_text",
        "read_xlsx",
        "seq_scan",
        "sniff_csv",
        "sqlite_query",
        "sqlite_scan",
        "st_read",
        "st_read_meta",
    ]
)
"""Functions that read files, other databases, or SQL hidden in a text."""
