# shellcheck shell=bash disable=SC2034 # what is set here is used by those who source it
# Functions that the other scripts share. Source it from the root of the checkout.

SCRIPT_STARTED=$SECONDS
CACHE_DIR="${XDG_CACHE_HOME:-$HOME/.cache}/celery-fleet"
STATE_DIR=.state

# say TEXT: print a line of progress, with the seconds since the script started.
say() {
  printf '[%3ds] %s\n' "$((SECONDS - SCRIPT_STARTED))" "$*" >&2
}

# die TEXT: end a script that can't continue, with this line.
die() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

# quietly LOG COMMAND...: run COMMAND with its output in LOG; show the end of LOG if it fails.
quietly() {
  local log=$1
  shift
  mkdir -p "$(dirname "$log")"
  # It may be of a run by another user.
  rm -f "$log"
  if ! "$@" >"$log" 2>&1; then
    tail -n 30 "$log" >&2
    die "'$1' failed; its whole output is in $log"
  fi
}
