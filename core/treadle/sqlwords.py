"""The words of DuckDB's SQL that matter to Treadle.

The lists are held against the installed engine by the tests: `duckdb_keywords()` and `duckdb_functions()`.
"""

from __future__ import annotations


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


KEYWORDS = _words(
    """
    ALL ANALYSE ANALYZE AND ANY ARRAY AS ASC ASYMMETRIC BOTH CASE CAST CHECK COLLATE COLUMN
    CONSTRAINT CREATE DEFAULT DEFERRABLE DESC DESCRIBE DISTINCT DO ELSE END EXCEPT FALSE FETCH FOR
    FOREIGN FROM GROUP HAVING IN INITIALLY INTERSECT INTO LAMBDA LATERAL LEADING LIMIT NOT NULL
    OFFSET ON ONLY OR ORDER PIVOT PIVOT_LONGER PIVOT_WIDER PLACING PRIMARY QUALIFY REFERENCES
    RETURNING SELECT SHOW SOME SUMMARIZE SYMMETRIC TABLE THEN TO TRAILING TRUE UNION UNIQUE UNPIVOT
    USING VARIADIC WHEN WHERE WINDOW WITH

    ANTI ASOF AT AUTHORIZATION BY COLLATION CONCURRENTLY CROSS FREEZE FULL GLOB ILIKE INNER
    IS ISNULL JOIN LEFT LIKE NATURAL NOTNULL OUTER OVERLAPS POSITIONAL RIGHT SEMI SIMILAR
    TABLESAMPLE UNPACK VERBOSE
    """
)
"""Words that name nothing unless they are quoted or stand after AS or a dot: their case means nothing."""

VOLATILE_FUNCTIONS = _words(
    """
    ago current_catalog current_connection_id current_database current_date current_localtime
    current_localtimestamp current_query current_query_id current_role current_schema
    current_schemas current_setting current_time current_timestamp current_transaction_id
    current_user currval gen_random_uuid get_block_size get_current_time get_current_timestamp
    getenv getvariable in_search_path inet_client_addr inet_client_port inet_server_addr
    inet_server_port localtime localtimestamp nextval now pg_backend_pid pg_conf_load_time
    pg_my_temp_schema pg_postmaster_start_time pg_sleep random session_user setseed setval sleep_ms
    stats today transaction_timestamp txid_current user uuid uuidv4 uuidv7 vector_type version
    write_log
    """
)
"""Functions whose result depends on more than their arguments."""

VOLATILE_WORDS = _words(
    """
    current_catalog current_date current_role current_schema current_time current_timestamp
    current_user localtime localtimestamp session_user
    """
)
"""Those that are called without parentheses."""

TABLE_FUNCTIONS = _words(
    """
    generate_series icu_calendar_names json_each json_tree range repeat repeat_row unnest
    """
)
"""Table functions that read nothing but their arguments."""

READERS = _words(
    """
    arrow_scan arrow_scan_dumb delta_scan duckdb_logs excel_scan glob iceberg_metadata iceberg_scan
    iceberg_snapshots json_execute_serialized_sql mysql_query mysql_scan pandas_scan
    parquet_bloom_probe parquet_file_metadata parquet_full_metadata parquet_kv_metadata
    parquet_metadata parquet_scan parquet_schema postgres_query postgres_scan postgres_scan_pushdown
    python_arrow_scan python_map_function query query_table read_blob read_csv read_csv_auto
    read_duckdb read_json read_json_auto read_json_objects read_json_objects_auto read_ndjson
    read_ndjson_auto read_ndjson_objects read_parquet read_single_csv_file read_single_json_file
    read_single_parquet_file read_text read_xlsx seq_scan sniff_csv sqlite_query sqlite_scan st_read
    st_read_meta
    """
)
"""Functions that read files, other databases, or SQL hidden in a text."""

STATEMENTS = _words(
    """
    ALTER ANALYZE ATTACH BEGIN CALL CHECKPOINT COMMENT COMMIT COPY CREATE DEALLOCATE DELETE DESC
    DESCRIBE DETACH DROP EXECUTE EXPLAIN EXPORT IMPORT INSERT INSTALL LOAD MERGE PRAGMA PREPARE
    REINDEX RESET ROLLBACK SET SHOW SUMMARIZE TRUNCATE UPDATE UPSERT USE VACUUM
    """
)
"""Words that start a statement that is no query."""
