#!/usr/bin/env bash
# Write the lock files again (ours, Flower's, the command's and the examples'): exact versions and hashes for every
# platform, without the address from which this machine gets its packages.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/lib.sh

tools=$(mktemp -d)
trap 'rm -rf "$tools"' EXIT
"${PYTHON:-python3}" -m venv "$tools"
say "installing uv, the only tool that can lock for all platforms at once"
quietly "$STATE_DIR/pip.log" "$tools/bin/python" -m pip install --disable-pip-version-check uv
for needs in requirements/dev roles/flower/files/requirements roles/celery_cli/files/requirements \
  examples/flexiprice/backend/requirements examples/aiecommerce/requirements examples/flash_promos/requirements \
  examples/flash_promos/requirements-celery55 \
  examples/marketplace_ops/requirements examples/processing/requirements \
  molecule/restarts/application/requirements; do
  say "resolving $needs.in"
  "$tools/bin/uv" pip compile --quiet --no-config --universal --python-version 3.11 --generate-hashes \
    --no-emit-index-url --no-emit-find-links --emit-build-options --custom-compile-command 'make lock' \
    --upgrade --output-file "$needs.txt" "$needs.in"
done
