"""Preflight of Celery Fleet: what is wrong with an inventory, and with hosts, before anything is changed.

It runs on the control side only. `check.check` is a pure function from a `model.Model` to problems;
`render` and `specs` fill the model from Ansible's variables; `report` makes the text a person reads.
"""
