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

# It stays until the next `make demo` without PROMETHEUS, so that runs of other playbooks keep what it says.
prometheus=inventories/local/prometheus.yml
if [[ $name == local && ${PROMETHEUS:-} ]]; then
  install -m 0644 examples/prometheus.yml "$prometheus"
elif [[ $name == local ]]; then
  rm -f "$prometheus"
fi

report=$STATE_DIR/demo/report-$name.txt
rm -f "$report"
say "the example's database ($database)"
ansible-playbook --inventory "$inventory" "$database"
say "the fleet (site.yml)"
ansible-playbook --inventory "$inventory" site.yml -e "verify_report=$report"
if [[ $name == local && -f $prometheus ]]; then
  say "what watches it (celery_fleet.core.prometheus)"
  ansible-playbook --inventory "$inventory" celery_fleet.core.prometheus
fi
say "done"
printf '\n'
cat "$report"
if [[ $name == local && -f $prometheus ]]; then
  address=$(ansible-inventory --inventory "$inventory" --host control1 \
    | python -c 'import json, sys; print(json.load(sys.stdin)["ansible_host"])')
  cat <<END

Prometheus and Alertmanager listen on control1 only. This opens a tunnel to them:

    ssh -N -L 9090:127.0.0.1:9090 -L 9093:127.0.0.1:9093 -i .state/demo/id_ed25519 \\
      -o UserKnownHostsFile=.state/demo/known_hosts admin@$address

While it runs, Prometheus is at http://127.0.0.1:9090. Debian's Alertmanager has no pages; on control1, this shows its alerts:

    amtool --alertmanager.url=http://127.0.0.1:9093 alert
END
fi
