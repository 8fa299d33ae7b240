"""Tables of the store. Times ending in `_utc_s` are POSIX seconds of this machine; paths are relative."""

from __future__ import annotations

VERSION = 1

#: Events whose pictures or clip retention may take.
MEDIA = "coalesce(snapshot, heatmap, normal, clip, preview) IS NOT NULL AND held = 0 AND status != 'open'"

# Retention looks twice a minute for what is old, and whoever stores an event waits for it: tables that hold a year, or a score
# a second, have an index by age (`*_age`).

SCHEMA = f"""
CREATE TABLE IF NOT EXISTS events (
  id TEXT PRIMARY KEY,
  camera TEXT NOT NULL,
  model TEXT NOT NULL,
  recipe TEXT NOT NULL,
  state TEXT NOT NULL,
  announced INTEGER NOT NULL,
  certified INTEGER NOT NULL,
  doubt TEXT NOT NULL,
  start_utc_s REAL NOT NULL,
  start_pts_s REAL NOT NULL,
  peak_utc_s REAL NOT NULL,
  peak_pts_s REAL NOT NULL,
  end_utc_s REAL,
  end_pts_s REAL,
  score REAL NOT NULL,
  threshold REAL NOT NULL,
  continued INTEGER NOT NULL,
  box TEXT,
  frame_size TEXT,
  snapshot TEXT,
  heatmap TEXT,
  normal TEXT,
  explanation TEXT NOT NULL,
  clip TEXT,
  clip_state TEXT NOT NULL,
  preview TEXT,
  clip_start_utc_s REAL,
  clip_end_utc_s REAL,
  held INTEGER NOT NULL,
  status TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS events_time ON events (camera, start_utc_s);
CREATE INDEX IF NOT EXISTS events_clips ON events (id) WHERE clip_state = 'pending';
CREATE INDEX IF NOT EXISTS events_open ON events (id) WHERE status = 'open';
CREATE INDEX IF NOT EXISTS events_age ON events (start_utc_s);
CREATE INDEX IF NOT EXISTS events_media ON events (start_utc_s) WHERE {MEDIA};

CREATE TABLE IF NOT EXISTS verdicts (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  event_id TEXT NOT NULL REFERENCES events (id) ON DELETE CASCADE,
  verdict TEXT NOT NULL,
  who TEXT NOT NULL,
  note TEXT NOT NULL,
  model TEXT NOT NULL,
  utc_s REAL NOT NULL
);
CREATE INDEX IF NOT EXISTS verdicts_event ON verdicts (event_id);

CREATE TABLE IF NOT EXISTS misses (
  id TEXT PRIMARY KEY,
  camera TEXT NOT NULL,
  start_utc_s REAL NOT NULL,
  end_utc_s REAL NOT NULL,
  label TEXT NOT NULL,
  who TEXT NOT NULL,
  model TEXT NOT NULL,
  utc_s REAL NOT NULL,
  clip TEXT,
  clip_state TEXT NOT NULL,
  preview TEXT,
  clip_start_utc_s REAL,
  clip_end_utc_s REAL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS misses_time ON misses (camera, start_utc_s);

CREATE TABLE IF NOT EXISTS segments (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  camera TEXT NOT NULL,
  path TEXT NOT NULL UNIQUE,
  start_utc_s REAL NOT NULL,
  end_utc_s REAL NOT NULL,
  start_pts_s REAL NOT NULL,
  bytes INTEGER NOT NULL,
  codec TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS segments_time ON segments (camera, start_utc_s);
CREATE INDEX IF NOT EXISTS segments_age ON segments (end_utc_s);

CREATE TABLE IF NOT EXISTS scores (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  camera TEXT NOT NULL,
  start_utc_s REAL NOT NULL,
  end_utc_s REAL NOT NULL,
  best BLOB NOT NULL,
  points BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS scores_time ON scores (camera, start_utc_s);
CREATE INDEX IF NOT EXISTS scores_age ON scores (end_utc_s);

CREATE TABLE IF NOT EXISTS health (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  camera TEXT NOT NULL,
  kind TEXT NOT NULL,
  utc_s REAL NOT NULL,
  end_utc_s REAL,
  detail TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS health_time ON health (utc_s);
CREATE INDEX IF NOT EXISTS health_age ON health (end_utc_s);

CREATE TABLE IF NOT EXISTS gaps (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  camera TEXT NOT NULL,
  start_utc_s REAL NOT NULL,
  end_utc_s REAL NOT NULL,
  reason TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS gaps_time ON gaps (camera, start_utc_s);
CREATE INDEX IF NOT EXISTS gaps_age ON gaps (end_utc_s);

CREATE TABLE IF NOT EXISTS states (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  camera TEXT NOT NULL,
  state TEXT NOT NULL,
  who TEXT NOT NULL,
  since_utc_s REAL NOT NULL
);
CREATE INDEX IF NOT EXISTS states_camera ON states (camera, id);

CREATE TABLE IF NOT EXISTS models (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  camera TEXT NOT NULL,
  model TEXT NOT NULL,
  recipe TEXT NOT NULL,
  since_utc_s REAL NOT NULL
);
CREATE INDEX IF NOT EXISTS models_camera ON models (camera, since_utc_s);

CREATE TABLE IF NOT EXISTS masks (camera TEXT PRIMARY KEY, black TEXT NOT NULL) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS media_masks (
  item_id TEXT NOT NULL,
  kind TEXT NOT NULL,
  mark TEXT NOT NULL,
  PRIMARY KEY (item_id, kind)
) WITHOUT ROWID;
CREATE TRIGGER IF NOT EXISTS events_masks AFTER DELETE ON events
BEGIN DELETE FROM media_masks WHERE item_id = OLD.id; END;
CREATE TRIGGER IF NOT EXISTS misses_masks AFTER DELETE ON misses
BEGIN DELETE FROM media_masks WHERE item_id = OLD.id; END;

CREATE TABLE IF NOT EXISTS erased (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  camera TEXT NOT NULL,
  start_utc_s REAL NOT NULL,
  end_utc_s REAL NOT NULL,
  made_utc_s REAL NOT NULL
);
CREATE INDEX IF NOT EXISTS erased_camera ON erased (camera);

CREATE TABLE IF NOT EXISTS doomed_files (path TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""
