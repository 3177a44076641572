"""One run of a playbook: its lease, plan, report, release commands and source."""
