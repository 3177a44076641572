#!/usr/bin/env bash
# Deploy an example application onto the demo's hosts, which stand already; ends with the fleet's own report.
#
# usage: demo.sh [INVENTORY]   (below inventories/; by default local, which is FlexiPrice)
# The examples can stand side by side there.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/lib.sh

name=${1:-local}
inventory=inventories/$name
database=examples/postgresql.yml
[[ $name != local ]] || database=examples/flexiprice/database.yml
[[ -f $inventory/hosts.yml && -f $inventory/group_vars/all/database.yml ]] ||
  die "there is no example $name: say make demo, or make demo-NAME with a name of 'make help'"
# How the hosts are reached is written anew whenever they are made.
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
