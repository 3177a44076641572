# Everything a developer calls. Each target makes the machine ready first; that costs a second where it is.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
PYTHON ?= python3
export PYTHON
# Not another Ansible's configuration, collections or roles.
export ANSIBLE_CONFIG := $(CURDIR)/ansible.cfg
export PATH := $(CURDIR)/.venv/bin:$(PATH)

DEMO := --scenario=demo --inventory=inventories/local/demo.yml

.PHONY: help setup lock lint test-fast test sanity test-all soak soak-long demo demo-hosts demo-destroy new-env wheelhouse bench bench-delivery report-restarts report-delivery report-failover report-noon report-tested screenshots docs clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z_%-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' Makefile

setup: ## install what is missing: Debian packages, .venv, a Docker engine, the test hosts' image
	@scripts/setup.sh

lock: ## pin the newest allowed versions of all requirements: ours, the hosts' and the examples'
	@scripts/lock.sh

lint: setup ## every static check
	@scripts/check.sh lint

test-fast: setup ## lint and the tests without hosts, except the slow ones of both
	@scripts/check.sh fast

test: setup ## test-fast, then the slow tests, ansible-lint, and a deploy of the demo's fleet on bare hosts
	@scripts/check.sh fast slow,molecule:default,slow-lint

sanity: setup ## ansible-test sanity on the collection as it is built
	@scripts/check.sh sanity

# Only a soak runs these.
SOAK_ONLY := arm64
SCENARIOS := $(filter-out $(SOAK_ONLY),$(patsubst molecule/%/molecule.yml,%,$(wildcard molecule/*/molecule.yml)))
# All run two at a time. restarts and delivery measure times, so they come last, one after the other, beside observe,
# which mostly waits for alerts: by itself, each of them leaves more than half of two processors unused.
WAITING := observe restarts delivery
# Those that take longest come first, so that none of them runs by itself at the end. noon and failover load all
# processors, so each of them begins beside a scenario that mostly waits. The emulated machine of cgroup2 uses one.
LONGEST := noon change failover cgroup2 moves fleets database_fleets
PAIRED := $(LONGEST) $(filter-out $(WAITING) $(LONGEST),$(SCENARIOS))
# together: the parts of these scenarios, for check.sh
together = $(subst $(SPACE),$(COMMA),$(strip $(1:%=molecule:%)))
COMMA := ,
SPACE := $(subst x,,x x)

test-all: setup ## every test and scenario, even if one fails; writes docs/tested.md
	@scripts/check.sh --keep-going fast long sanity $(call together,$(PAIRED)),slow,slow-lint \
		$(call together,$(WAITING)) tested

test-%: setup ## one Molecule scenario: test-default, test-change, test-fleets, test-cgroup2 (installs qemu) …
	@scripts/check.sh molecule:$*

soak: soak-long soak-restarts soak-delivery soak-failover soak-noon soak-arm64 ## each case of docs/restarts.md, delivery-proof.md, redis.md and deploys.md separately and often, and a host with arm64; takes hours

soak-long: setup ## the tests marked long, with more and longer faults
	@CELERY_FLEET_SOAK=1 scripts/check.sh long

soak-%: setup ## one of them: soak-restarts, soak-delivery, soak-failover, soak-noon, soak-arm64
	@CELERY_FLEET_SOAK=1 scripts/check.sh molecule:$*

demo-hosts: setup ## make the demo's hosts, or start them again
	@ansible-inventory --inventory inventories/local/hosts.yml --list \
		| python -c "import json, sys; print(*json.load(sys.stdin)['_meta']['hostvars'])" \
		| xargs python -m scripts.hosts create $(DEMO)

demo: demo-hosts ## FlexiPrice on four hosts of this machine; run it again at any time. PROMETHEUS=1 has Prometheus watch it
	@scripts/demo.sh

demo-%: demo-hosts ## another example on the same hosts: demo-aiecommerce, demo-flash_promos, demo-marketplace_ops, demo-processing
	@scripts/demo.sh $*

demo-destroy: setup ## remove the demo's hosts, and the secrets and certificates of all examples
	@python -m scripts.hosts destroy $(DEMO)
	@rm -rf $(foreach name,local aiecommerce flash_promos marketplace_ops processing,$(addprefix inventories/$(name)/,.secrets pki demo.yml)) inventories/local/monitoring inventories/local/prometheus.yml

# Only names are passed on. The values come through the environment, so that no shell interprets them.
new-env: setup ## create an environment: NAME=… HOSTS=a,b APP=… MODULE=… SOURCE=…; HELP=1 lists all options
	@PYTHONPATH=collections python -m ansible_collections.celery_fleet.core.plugins.plugin_utils.new_env \
		$(foreach name,$(.VARIABLES),$(if $(filter command,$(origin $(name))),'$(name)'))

wheelhouse: setup ## fill celery_release_wheelhouse of an inventory: INVENTORY=inventories/production
	@ansible-playbook --inventory "$${INVENTORY:?is missing, as in INVENTORY=inventories/production}" playbooks/wheelhouse.yml

bench: setup ## time runs of site.yml, on hosts of its own; the demo must be running
	@python -m scripts.bench

bench-delivery: setup ## compare the cost of the atomic fetch with stock Celery, on separate Redis servers
	@python -m scripts.bench_delivery

report-restarts: setup ## docs/restarts.md, from the last soak-restarts
	@python -m scripts.restarts.report

report-tested: setup ## docs/tested.md, from the last run of each part
	@scripts/check.sh tested

report-delivery: setup ## docs/delivery-proof.md, from the last soak-delivery
	@python -m scripts.restarts.delivery_report

report-failover: setup ## the table in docs/redis.md, from the last soak-failover
	@python -m scripts.restarts.failover_report

report-noon: setup ## docs/deploys.md, from the last soak-noon
	@python -m scripts.restarts.noon_report

screenshots: setup ## the pictures of Flower and Prometheus in docs/pictures, from the hosts of the scenario observe
	@scripts/check.sh molecule:observe
	@install -m 0644 $(addprefix .state/results/pictures/,$(notdir $(wildcard docs/pictures/*.png))) docs/pictures/

docs: setup ## write the generated pages and build all pages as a site in .state/docs/html
	@python scripts/reference.py
	@python scripts/picture.py
	@python -m scripts.on_a_host
	@python -m sphinx --fail-on-warning --keep-going --quiet --conf-dir docs --doctree-dir .state/docs/doctrees . .state/docs/html
	@echo "The pages: .state/docs/html/index.html"

clean: ## remove files that tools and tests have left in this directory; hosts stay
	@rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .ansible .cache
	@find . -path ./.venv -prune -o -name __pycache__ -type d -exec rm -rf {} +
