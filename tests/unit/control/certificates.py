"""The name by which tests of the host side import `tests.support.certificates`; to go when they have the new one."""

from tests.support.certificates import Authority as Authority
