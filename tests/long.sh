#!/usr/bin/env bash
# The proofs that take longer than a change may: tests/long.sh NAME. Without a name, lists them.
# A proof is an ignored test (or several) of the integration binary, named long_NAME….
set -euo pipefail
cd "$(dirname "$0")/.."

# name | what it proves
readonly PROOFS='
property | any schema, any rows: backup, restore, equal; 10,000 cases
hostile  | every byte flipped, every length cut, every object deleted or swapped: never silently wrong
drill    | PostgreSQL of 1 GB: RTO against pg_restore -j2, and the disk that a drill takes
kill     | the real binary killed at many moments; the next run needs no person
shadow   | 2,000 histories of 30 snapshots, each restored equal to its day
simulation | whole life cycles under faults, many seeds
undelete | 1,000 accidents on generated schemas, undone, compared row by row
sqlite   | 3,000 random files, and a cell of 256 MiB in little memory
bank     | MariaDB, PostgreSQL: 50 backups under 8 writers, each at one instant
connection | PostgreSQL: 200 dropped connections, nothing stitched
cells    | MariaDB: cells of 200 MiB, and one of 100 MiB in 192 MiB of memory
bytea    | PostgreSQL: a cell of 200 MiB, in 192 MiB of memory
s3       | 200 snapshots on a real S3 server, with the requests of every verb
million  | an index of two million chunks and the plan of a prune in little memory
planted  | every planted bug is caught by the test that is named beside it
records  | what find, history, undelete and diff cost after 60 snapshots, on an S3 server; 250 MB, or ROWVAULT_REACH_SCALE times 1 GB
rollback | killed at every step of a rollback and of its undoing: PostgreSQL, MariaDB
schedule | every zone through 2024 to 2035, and the daemon's board through a year, against a walk through every minute
daemon   | 500 backups of one daemon in flat memory
proof    | PostgreSQL: 1,000 histories read by proof, each step equal to a full reading
ten      | 10,000 tables, PostgreSQL and MariaDB
'

list() {
  sed -n 's/^\([a-z_]*\) *| /  \1\t/p' <<<"$PROOFS" | expand -t 14
}

if [ $# -ne 1 ]; then
  echo "usage: tests/long.sh NAME, where NAME is one of"
  list
  exit 2
fi
if ! grep -q "^$1 *|" <<<"$PROOFS"; then
  echo "there is no long proof named '$1'; there are"
  list
  exit 2
fi
if [ "$1" = planted ]; then
  exec cargo test --features planted --test planted -- --nocapture
fi
log=$(mktemp)
trap 'rm -f "$log"' EXIT
cargo test --release --test it -- --ignored "long_$1" --nocapture 2>&1 | tee "$log"
if grep -q '^running 0 tests' "$log"; then
  echo "no test is named long_$1…: nothing was proven"
  exit 1
fi
