#!/usr/bin/env bash
# Deploy the example application onto the demo's hosts, which stand already; ends with the fleet's own report.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/lib.sh

report=$STATE_DIR/demo/report.txt
rm -f "$report"
say "the example's database (examples/flexiprice/database.yml)"
ansible-playbook examples/flexiprice/database.yml
say "the fleet (site.yml)"
ansible-playbook site.yml -e "verify_report=$report"
say "done"
printf '\n'
cat "$report"
