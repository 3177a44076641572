#!/usr/bin/env bash
# Deploy an example application onto the demo's existing hosts; it ends with the fleet's own report.
#
# usage: demo.sh [INVENTORY]   (below inventories/; by default local, which is FlexiPrice)
# Several examples can be on these hosts.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/lib.sh

name=${1:-local}
inventory=inventories/$name
database=examples/postgresql.yml
[[ $name != local ]] || database=examples/flexiprice/database.yml
[[ -f $inventory/hosts.yml && -f $inventory/group_vars/all/database.yml ]] ||
  die "there is no example $name: run make demo, or make demo-NAME with a name from 'make help'"
# Copy it again, because it is written each time that the hosts are created.
[[ $name == local ]] || install -m 0600 inventories/local/demo.yml "$inventory/demo.yml"

report=$STATE_DIR/demo/report-$name.txt
rm -f "$report"
say "the example's database ($database)"
ansible-playbook --inventory "$inventory" "$database"
say "the fleet (site.yml)"
ansible-playbook --inventory "$inventory" site.yml -e "verify_report=$report"
say "done"
printf '\n'
cat "$report"
