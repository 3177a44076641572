"""The old name of `tests.support.certificates`, for tests of the host side; remove it when they use the new one."""

from tests.support.certificates import Authority as Authority
