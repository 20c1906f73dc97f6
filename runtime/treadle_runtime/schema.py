"""The tables of `.treadle/state.db`, and how those of an older Treadle become them."""

from __future__ import annotations

SCHEMA = """
CREATE TABLE versions (
  fingerprint TEXT PRIMARY KEY, step TEXT NOT NULL, kind TEXT NOT NULL, components TEXT NOT NULL,
  rows INTEGER NOT NULL, bytes INTEGER NOT NULL, seconds REAL NOT NULL, run_id TEXT, created_at TEXT NOT NULL,
  summary TEXT NOT NULL, reproducible INTEGER NOT NULL
) STRICT;
CREATE TABLE environments (
  env TEXT NOT NULL, step TEXT NOT NULL, fingerprint TEXT NOT NULL, PRIMARY KEY (env, step)
) STRICT, WITHOUT ROWID;
CREATE TABLE runs (
  number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, env TEXT NOT NULL, command TEXT NOT NULL, as_of TEXT,
  started_at TEXT NOT NULL, finished_at TEXT, status TEXT NOT NULL
) STRICT;
CREATE TABLE run_steps (
  run_id TEXT NOT NULL REFERENCES runs (id) ON DELETE CASCADE, step TEXT NOT NULL, fingerprint TEXT,
  status TEXT NOT NULL, seconds REAL NOT NULL, message TEXT NOT NULL, PRIMARY KEY (run_id, step)
) STRICT;
CREATE TABLE publications (
  id INTEGER PRIMARY KEY, env TEXT NOT NULL, run_id TEXT NOT NULL REFERENCES runs (id), at TEXT NOT NULL,
  changes TEXT NOT NULL
) STRICT;
CREATE TABLE source_parts (
  path TEXT PRIMARY KEY, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, ctime_ns INTEGER NOT NULL,
  inode INTEGER NOT NULL, digest TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE model_versions (
  pipeline TEXT NOT NULL, number INTEGER NOT NULL, model TEXT NOT NULL,
  choose TEXT NOT NULL, twin TEXT NOT NULL, shipped TEXT NOT NULL, validate TEXT NOT NULL,
  evaluate TEXT NOT NULL, split TEXT NOT NULL, dataset TEXT NOT NULL, champion_input INTEGER,
  metrics TEXT NOT NULL, passed INTEGER NOT NULL, created_at TEXT NOT NULL,
  run_id TEXT NOT NULL REFERENCES runs (id),
  PRIMARY KEY (pipeline, number), UNIQUE (pipeline, validate, shipped)
) STRICT;
CREATE TABLE aliases (
  env TEXT NOT NULL, pipeline TEXT NOT NULL, alias TEXT NOT NULL, number INTEGER NOT NULL,
  PRIMARY KEY (env, pipeline, alias),
  FOREIGN KEY (pipeline, number) REFERENCES model_versions (pipeline, number)
) STRICT, WITHOUT ROWID;
CREATE TABLE alias_history (
  id INTEGER PRIMARY KEY, env TEXT NOT NULL, pipeline TEXT NOT NULL, alias TEXT NOT NULL,
  old INTEGER, new INTEGER NOT NULL, forced INTEGER NOT NULL, at TEXT NOT NULL
) STRICT;
"""

SCHEMA_2 = """
ALTER TABLE versions ADD COLUMN passed INTEGER;
ALTER TABLE versions ADD COLUMN texts BLOB;
CREATE TABLE inlined_identities (
  fingerprint TEXT PRIMARY KEY, step TEXT NOT NULL, components TEXT NOT NULL, run_id TEXT, created_at TEXT NOT NULL,
  texts BLOB
) STRICT, WITHOUT ROWID;
CREATE TABLE inlined (
  fingerprint TEXT PRIMARY KEY, step TEXT NOT NULL, kind TEXT, sql TEXT
) STRICT, WITHOUT ROWID;
INSERT OR IGNORE INTO inlined
  SELECT fingerprint, step, NULL, NULL FROM environments WHERE fingerprint NOT IN (SELECT fingerprint FROM versions);
CREATE TABLE publications_2 (
  id INTEGER PRIMARY KEY, env TEXT NOT NULL, run_id TEXT REFERENCES runs (id) ON DELETE SET NULL,
  command TEXT NOT NULL, at TEXT NOT NULL, changes TEXT NOT NULL, candidates TEXT, restores INTEGER
) STRICT;
INSERT INTO publications_2 (id, env, run_id, command, at, changes)
  SELECT p.id, p.env, p.run_id, r.command, p.at, p.changes FROM publications AS p JOIN runs AS r ON r.id = p.run_id;
DROP TABLE publications;
ALTER TABLE publications_2 RENAME TO publications;
CREATE INDEX publications_env ON publications (env, id);
"""
"""What is published has its text beside it where it is a view or a source in place, which the store does not hold;
a publication need not come from a run."""

SCHEMA_3 = """
ALTER TABLE runs ADD COLUMN options TEXT NOT NULL DEFAULT '{}';
ALTER TABLE run_steps ADD COLUMN attempts INTEGER NOT NULL DEFAULT 1;
CREATE TABLE freshness (
  fingerprint TEXT NOT NULL, column_name TEXT NOT NULL, newest_us INTEGER, PRIMARY KEY (fingerprint, column_name)
) STRICT, WITHOUT ROWID;
"""

MIGRATIONS: tuple[str, ...] = (SCHEMA, SCHEMA_2, SCHEMA_3)
"""In the order in which they are applied; never edited once released."""
