"""The parts that `scripts/hosts.py` (containers) and `scripts/vm.py` (emulated machines) share."""
