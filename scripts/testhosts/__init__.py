"""What `scripts/hosts.py` (containers) and `scripts/vm.py` (emulated machines) make test hosts with."""
