#!/usr/bin/env bash
# Run Ansible's own checks, `ansible-test sanity`, on the built collection. This takes a minute of processor time, and
# another one to create its virtualenvs, for which it needs a package index.
#
# usage: sanity.sh [OPTION...]    options of `ansible-test sanity`, such as --test compile; without any, all tests but four
#
# Left out are:
#   pylint             its settings can't be changed. They are for Python 3.8 and refuse names such as `_`. Ruff and mypy
#                      check the same code.
#   import             imports the plugins without the libraries that ansible-core needs.
#   ansible-doc        does the same; tests/contract/test_documentation.py runs it instead.
#   no-smart-quotes    our messages put such quotes around texts of other programs.
# tests/sanity/ignore-2.19.txt lists what else does not apply, with reasons.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/lib.sh

PLACE=$PWD/$STATE_DIR/sanity
COLLECTION=$PLACE/ansible_collections/celery_fleet/core
# The Pythons of the hosts (Debian 12 and 13) and of the control side.
VERSIONS=(3.11 3.12 3.13)

rm -rf "$PLACE"
mkdir -p "$COLLECTION/tests"
quietly "$PLACE/build.log" ansible-galaxy collection build --output-path "$PLACE" .
tar --extract --gzip --file "$PLACE"/celery_fleet-core-*.tar.gz --directory "$COLLECTION"
# The artefact has no tests, but ansible-test needs these files.
cp -r tests/config.yml tests/sanity "$COLLECTION/tests/"

# ansible-test keeps its virtualenvs there. It fails if their path is long.
export HOME=$CACHE_DIR/sanity
package=$(python -c 'import ansible_test; print(*ansible_test.__path__)')
pip=$(sed -n "s/^ *pip='\([0-9.]*\)',$/\1/p" "$package/_internal/python_requirements.py")
mkdir -p "$HOME/.ansible/test/cache"
cp scripts/get_pip.py "$HOME/.ansible/test/cache/get_pip_${pip//./_}.py"

targets=()
for version in "${VERSIONS[@]}"; do
  if "python$version" -c '' 2>/dev/null; then
    targets+=(--target-python "$version")
  else
    say "no Python $version here: checks that depend on its version are left out"
  fi
done

cd "$COLLECTION"
# It asks git for the names of files, and the checkout ignores these.
git init --quiet .
git add --all
options=("$@")
if ((${#options[@]} == 0)); then
  for test in pylint import ansible-doc no-smart-quotes; do
    options+=(--skip-test "$test")
  done
fi
# These variables are for a checkout.
unset ANSIBLE_CONFIG ANSIBLE_COLLECTIONS_PATH
exec ansible-test sanity --color no --controller origin:python=default "${targets[@]}" "${options[@]}"
