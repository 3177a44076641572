"""Which test hosts the script makes, and with which Debian."""

from __future__ import annotations

import pytest

from scripts import hosts


def test_a_host_has_its_own_suite_or_the_default() -> None:
    found = hosts.named(["redis1=trixie", "worker1", "worker2=bookworm"])
    assert found == {"redis1": "trixie", "worker1": hosts.SUITE, "worker2": "bookworm"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a=../x"], "'../x', of the host a, is not a Debian suite"),
        (["a=trixie", "a"], "the host a is named twice"),
    ],
)
def test_nonsense_arguments_are_refused(words: list[str], message: str) -> None:
    with pytest.raises(hosts.HostsError, match=message):
        hosts.named(words)


def test_the_image_of_make_setup_is_not_made_implicitly(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    monkeypatch.setattr(hosts, "ROOT", tmp_path_factory.mktemp("checkout"))
    with pytest.raises(hosts.HostsError, match="run 'make setup'"):
        hosts.image_of(hosts.SUITE)


def test_the_image_of_another_suite_is_made_when_needed(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("checkout")
    monkeypatch.setattr(hosts, "ROOT", root)
    (root / ".state").mkdir()
    (root / "scripts").mkdir()
    script = root / "scripts/image.sh"
    script.write_text(f'#!/bin/sh\necho "of $1" >{root}/.state/image-$1\n')
    script.chmod(0o755)
    assert hosts.image_of("trixie") == "of trixie"
    script.write_text("#!/bin/sh\nexit 1\n")
    with pytest.raises(hosts.HostsError, match="the image of Debian trixie could not be built"):
        hosts.image_of("trixie")
