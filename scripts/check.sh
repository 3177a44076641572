#!/usr/bin/env bash
# Run checks and print how long each took.
#
# usage: check.sh [--keep-going] PART...
#   --keep-going    run the other parts even if one fails
#   lint            every static check; quick-lint: all but ansible-lint, slow-lint: that, and mypy for the tests
#   fast            quick-lint and the tests without hosts, in parallel, except the slow ones
#   slow            these slow ones
#   long            the rest, which takes minutes: real workers of every pool, killed, frozen and cut off, and fleets
#                   of each minor of Celery (their virtualenvs come from PyPI, once)
#   sanity          Ansible's own checks of the collection as it is built
#   molecule:NAME   one Molecule scenario
#   tested          docs/tested.md, from the last run of each part
#   PART,PART,…     several, two at a time; each prints its output when it has ended
# Called by the Makefile, which puts .venv/bin on PATH. The last lines of a failed run name each failed test.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/lib.sh

# A process for each core, which gets the tests one by one: some take a hundred times as long as others.
PARALLEL=(--numprocesses=auto --dist=worksteal)
# Slow and long tests mostly wait: for workers to start, or for a Redis that is away for seconds. So run more of them on
# each core: with three, long tests left half of the time of two cores unused.
declare -A ON_EACH_CORE=([slow]=3 [long]=6)

# Seconds after which a test on hosts, with its fixtures, counts as hanging. tests/conftest.py limits the others.
LIMIT=3600

# Renders of inventories, which the parts of this run share.
if [[ ! ${CELERY_FLEET_RENDERS:-} ]]; then
  RENDERS=$(mktemp -d)
  export CELERY_FLEET_RENDERS=$RENDERS
fi

REPORT=()
# Parts with failed tests, and the directory of their records, from which scripts/failures.py lists the failures.
FAILED=()
FAILURES=$PWD/$STATE_DIR/failures
trap 'rm -rf "${RENDERS:-}"; report' EXIT

report() {
  ((${#REPORT[@]})) || return 0
  printf '\n%-24s %8s  %s\n' part seconds result
  printf '%s\n' "${REPORT[@]}"
  ((${#FAILED[@]})) || return 0
  printf '\n'
  python -m scripts.failures "${FAILED[@]}"
}

# timed NAME COMMAND...: run COMMAND, record its time, also as seconds in TOOK; return its exit status.
timed() {
  local name=$1 from=${EPOCHREALTIME/./} status=0 took
  shift
  "$@" || status=$?
  took=$(((${EPOCHREALTIME/./} - from) / 100000))
  TOOK=$((took / 10)).$((took % 10))
  REPORT+=("$(printf '%-24s %6d.%d  %s' "$name" $((took / 10)) $((took % 10)) \
    "$( ((status)) && printf 'FAILED (%d)' "$status" || printf ok)")")
  return "$status"
}

# fresh PART: remove the results of an earlier run.
fresh() {
  mkdir -p "$FAILURES"
  rm -f "$FAILURES/$1".{xml,log}
}

# tested PART NAME COMMAND...: run COMMAND, and record its result for docs/tested.md.
tested() {
  local part=$1 status=0
  shift
  fresh "$part"
  timed "$@" || status=$?
  ((status == 0)) || FAILED+=("$part")
  # A run with more faults than usual is another part: it must not replace the usual one's row.
  python -m scripts.tested record "${CELERY_FLEET_SOAK:+soak-}$part" "$FAILURES/$part.xml" "$TOOK" "$status" || status=1
  return "$((status != 0))"
}

# tests PART NAME MARKERS: run the tests without hosts that have these markers. Some containers set the variable that
# is unset here; with it pytest would compile all tests each time. Slow and long tests are in a third of the files, so
# no process reads the others. A mark in a conftest.py is for the tests of its directory.
tests() {
  local processes=("${PARALLEL[@]}") files=()
  if [[ $1 != fast ]]; then
    processes=(--numprocesses=$(($(nproc) * ON_EACH_CORE[$1])) --dist=worksteal)
    mapfile -t files < <(grep -rlE 'mark\.(slow|long|soak)\b' --include='*.py' tests | sed 's|/conftest\.py$||')
  fi
  tested "$1" "$2" env --unset=PYTHONDONTWRITEBYTECODE pytest "${processes[@]}" -m "$3" \
    --override-ini=junit_family=xunit1 --junit-xml="$FAILURES/$1.xml" "${files[@]}"
}

# scenario NAME: run a Molecule scenario. Its pytest and its playbooks get their options from the environment.
scenario() {
  tested "$1" "molecule:$1" env ANSIBLE_LOG_PATH="$FAILURES/$1.log" \
    PYTEST_ADDOPTS="--override-ini=junit_family=xunit1 --junit-xml='$FAILURES/$1.xml' --timeout=$LIMIT ${PYTEST_ADDOPTS:-}" \
    molecule test --scenario-name "$1"
}

# two_at_a_time PART...: slow tests and tests on hosts mostly wait, so one part leaves time for another. Parts that
# measure times must run on their own.
two_at_a_time() {
  local each name pid status failed=0
  local -A names=()
  for each in "$@" ''; do
    while ((${#names[@]} >= 2 || ${#names[@]} && ${#each} == 0)); do
      status=0
      wait -n -p pid || status=$?
      cat "$FAILURES/${names[$pid]}.out"
      if ((status)); then
        failed=1
        FAILED+=("${names[$pid]}")
      fi
      unset "names[$pid]"
    done
    [[ $each ]] || continue
    mkdir -p "$FAILURES"
    say "starting: $each"
    name=${each#molecule:}
    "${BASH_SOURCE[0]}" "$each" >"$FAILURES/$name.out" 2>&1 &
    names[$!]=$name
  done
  return "$failed"
}

# Each check runs even if another fails, so that one run shows everything to fix.
quick_lint() {
  local failed=0 shells
  mapfile -t shells < <(git ls-files --cached --others --exclude-standard '*.sh' .ci/run)
  timed 'ruff check' ruff check --quiet . || failed=1
  timed 'ruff format' ruff format --quiet --check . || failed=1
  timed mypy mypy || failed=1
  timed yamllint yamllint --strict . || failed=1
  timed codespell codespell || failed=1
  timed shellcheck shellcheck --external-sources "${shells[@]}" || failed=1
  return "$failed"
}

# These take a minute of processor time: Ansible reads every playbook, and mypy all tests with all that they import.
slow_lint() {
  local failed=0
  timed ansible-lint ansible-lint --offline --nocolor -q || failed=1
  timed 'mypy, tests' mypy --config-file tests/mypy.ini || failed=1
  return "$failed"
}

lint() {
  local failed=0
  quick_lint || failed=1
  slow_lint || failed=1
  return "$failed"
}

# The checks run beside the tests, which show their progress meanwhile.
fast() {
  local log=$STATE_DIR/lint.log lint_pid failed=0
  mkdir -p "$STATE_DIR"
  "${BASH_SOURCE[0]}" quick-lint >"$log" 2>&1 &
  lint_pid=$!
  tests fast 'tests without hosts' 'not slow and not long' || failed=1
  wait "$lint_pid" || failed=1
  cat "$log"
  return "$failed"
}

part() {
  local parts
  case $1 in
    *,*)
      IFS=, read -ra parts <<<"$1"
      timed "${#parts[@]} parts, two at a time" two_at_a_time "${parts[@]}"
      ;;
    lint) lint ;;
    quick-lint) quick_lint ;;
    slow-lint) slow_lint ;;
    fast) timed 'fast, altogether' fast ;;
    slow) tests slow 'slow tests without hosts' 'slow and not long' ;;
    long) tests long 'long tests without hosts' long ;;
    sanity) tested sanity 'ansible-test sanity' scripts/sanity.sh ;;
    molecule:*) scenario "${1#molecule:}" ;;
    tested) python -m scripts.tested page ;;
    *) die "unknown part '$1'" ;;
  esac
}

KEEP_GOING=
if [[ ${1:-} == --keep-going ]]; then
  KEEP_GOING=yes
  shift
fi
(($#)) || die "usage: check.sh [--keep-going] lint | quick-lint | slow-lint | fast | slow | long | sanity | molecule:NAME | tested | PART,PART,… ..."
failed=0
for each in "$@"; do
  part "$each" && continue
  failed=1
  [[ $KEEP_GOING ]] || break
done
((failed == 0))
