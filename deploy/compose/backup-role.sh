#!/usr/bin/env bash
# A role that may read everything and change nothing, and something to back up.
set -euo pipefail
psql -v ON_ERROR_STOP=1 -v password="$BACKUP_PASSWORD" -U "$POSTGRES_USER" -d "$POSTGRES_DB" <<'SQL'
CREATE ROLE backup LOGIN PASSWORD :'password' BYPASSRLS;
GRANT pg_read_all_data TO backup;
CREATE TABLE contacts (id bigserial PRIMARY KEY, name text NOT NULL, email text);
INSERT INTO contacts (name, email) SELECT 'Contact ' || n, 'c' || n || '@example.org'
  FROM generate_series(1, 1000) n;
SQL
