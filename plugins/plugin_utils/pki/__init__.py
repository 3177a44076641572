"""Certificates on the control node: what a host should have, what is wrong with the files, how authorities change.

It reads the files that the inventory names and calls openssl. The role `pki` issues certificates and writes files.
"""
