"""Which release a deploy and a way back choose, and what the record says afterwards."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.celery_fleet.core.plugins.module_utils.release import note
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run import (
    host_scripts,
    release_history,
    release_record,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run.release_history import (
    ChoiceError,
    Hosts,
    to_deploy,
    to_go_back,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run.release_record import (
    BACK,
    DEPLOYED,
    REFUSED,
)

OF_ONE, OF_TWO = "1" * 64, "2" * 64
OLD, NOW, NEW = "a" * 12, "b" * 12, "c" * 12
GIT = {"git": "https://ana:secret@git.example.com/shop.git", "version": "main"}


def host(*kept: str, current: str = NOW, pins: str = NOW, **one_way: list[str]) -> dict[str, Any]:
    notes = {
        name: {"built": float(number), "one_way": one_way.get(name, []), "tasks": [f"of.{name}"]}
        for number, name in enumerate(kept)
    }
    return {"kept": notes, "current": current, "pins": {"worker-mail": pins, "beat": pins}}


def hosts(*answers: dict[str, Any]) -> Hosts:
    return Hosts({f"h{number}": answer for number, answer in enumerate(answers, 1)})


BOTH = hosts(host(OLD, NOW), host(OLD, NOW))
RECORD = {
    "format": 1,
    "current": NOW,
    "hold": None,
    "history": [
        {"release": OLD, "result": DEPLOYED},
        {"release": NEW, "result": REFUSED},
        {"release": NOW, "result": DEPLOYED},
    ],
}


# -- a deploy -------------------------------------------------------------------------------------------------------


def test_the_inventory_s_source_lifts_a_hold() -> None:
    choice = to_deploy("", GIT, RECORD, BOTH, "a fix")
    assert (choice.kept, choice.source, choice.current, choice.holds) == ("", GIT, NOW, False)
    assert choice.what == "main of https://***@git.example.com/shop.git"
    record = release_record.held(RECORD, NOW, "the deploy has not ended")
    after = release_record.recorded(record, NEW, choice.as_dict(), DEPLOYED)
    assert (after["current"], after["hold"]) == (NEW, None)
    assert after["history"][-1]["why"] == "a fix"
    assert after["history"][:-1] == RECORD["history"]


def test_another_version_is_held_because_the_inventory_does_not_name_it() -> None:
    choice = to_deploy("v2", GIT, RECORD, BOTH)
    assert choice.source == {**GIT, "version": "v2"}
    assert choice.holds
    after = release_record.recorded(RECORD, NEW, choice.as_dict(), DEPLOYED)
    assert after["hold"]["release"] == NEW
    assert after["hold"]["why"] == "deployed as v2 of https://***@git.example.com/shop.git"
    assert not to_deploy("main", GIT, RECORD, BOTH).holds


@pytest.mark.parametrize(
    ("source", "asked", "expected"),
    [
        ({"pip": "shop[web]==1.2", "extras": []}, "1.3", {"pip": "shop[web]==1.3", "extras": []}),
        ({"archive": "s-1.zip", "sha256": OF_ONE}, "s-2.zip", {"archive": "s-2.zip", "sha256": ""}),
        (
            {"archive": "https://x/s-1.zip", "sha256": OF_ONE},
            f"https://x/s-2.zip#sha256={OF_TWO}",
            {"archive": "https://x/s-2.zip", "sha256": OF_TWO},
        ),
    ],
)
def test_a_version_of_each_kind_of_source(
    source: dict[str, Any], asked: str, expected: dict[str, Any]
) -> None:
    assert to_deploy(asked, source, RECORD, BOTH).source == expected


@pytest.mark.parametrize("digest", ["", "#sha256=", "#sha256=abc"])
def test_an_archive_of_a_server_has_a_hash(digest: str) -> None:
    asked = f"https://x/s-2.zip{digest}"
    with pytest.raises(ChoiceError, match="could send a different archive"):
        to_deploy(asked, {"archive": "https://x/s-1.zip", "sha256": OF_ONE}, RECORD, BOTH)


def test_a_directory_has_no_versions() -> None:
    with pytest.raises(ChoiceError, match=r"the directory \.\./shop, which has no versions"):
        to_deploy("v2", {"path": "../shop"}, RECORD, BOTH)
    with pytest.raises(ChoiceError, match="no host keeps this release"):
        to_deploy(NEW, {"path": "../shop"}, RECORD, BOTH)


def test_a_kept_release_is_deployed_as_it_is_if_all_hosts_have_it() -> None:
    choice = to_deploy(OLD, {"path": "../shop"}, RECORD, BOTH)
    assert (choice.kept, choice.holds) == (OLD, True)
    with pytest.raises(ChoiceError, match=f"release {OLD} is not kept on h2") as error:
        to_deploy(OLD, GIT, RECORD, hosts(host(OLD, NOW), host(NOW)))
    assert f"All hosts keep {NOW}." in str(error.value)


def test_without_a_record_the_hosts_say_what_serves() -> None:
    assert to_deploy("", GIT, {}, BOTH).current == NOW
    assert to_deploy("", GIT, {}, hosts(host(current="", pins=""))).current == ""


# -- the way back ---------------------------------------------------------------------------------------------------


def test_by_default_it_leads_to_what_served_before() -> None:
    choice = to_go_back("", RECORD, BOTH, accepted=False, why="it is slow")
    assert (choice.kept, choice.holds, choice.current) == (OLD, True, NOW)
    after = release_record.recorded(RECORD, OLD, choice.as_dict(), BACK)
    assert (after["hold"]["release"], after["hold"]["why"]) == (OLD, "it is slow")
    assert after["current"] == OLD


def test_going_back_twice_does_not_lead_to_what_was_left() -> None:
    history = [*RECORD["history"], {"release": OLD, "result": BACK}]
    record = release_record.held(RECORD, OLD, "it is slow", unfinished=False)
    back = hosts(*[host(OLD, NOW, current=OLD, pins=OLD)] * 2)
    # In between, a deploy may have been refused and have gone back to the same release.
    refused = [{"release": NEW, "result": REFUSED}, {"release": OLD, "result": BACK}]
    for more in ([], refused):
        after = {**record, "current": OLD, "history": [*history, *more]}
        with pytest.raises(ChoiceError) as error:
            to_go_back("", after, back, accepted=False)
        said = f"the fleet has already gone back to release {OLD}, from {NOW}. Nothing was changed."
        assert str(error.value).startswith(said)
        assert to_go_back(NOW, after, back, accepted=False).kept == NOW
        # Another host was away and still has what was left.
        late = hosts(host(OLD, NOW, current=OLD, pins=OLD), host(OLD, NOW))
        assert to_go_back("", after, late, accepted=False).kept == OLD


def test_after_a_refused_deploy_it_leads_to_what_served_before_the_current_one() -> None:
    refused = [{"release": NEW, "result": REFUSED}, {"release": NOW, "result": BACK}]
    record = {**RECORD, "history": [*RECORD["history"], *refused]}
    assert to_go_back("", record, BOTH, accepted=False).kept == OLD


def test_it_skips_what_was_refused_or_pruned() -> None:
    with pytest.raises(ChoiceError, match="no earlier release is recorded that all hosts keep"):
        to_go_back("", RECORD, hosts(host(NOW), host(OLD, NOW)), accepted=False)
    with pytest.raises(ChoiceError, match="no earlier release is recorded"):
        to_go_back("", {}, BOTH, accepted=False)


def test_a_pruned_release_is_refused_with_what_is_kept() -> None:
    with pytest.raises(ChoiceError) as error:
        to_go_back(NEW, RECORD, BOTH, accepted=False)
    assert str(error.value).startswith(f"release {NEW} is not kept on h1, h2. Nothing was changed.")
    assert f"All hosts keep {NOW}, {OLD}." in str(error.value)


def test_the_release_that_runs_is_no_way_back() -> None:
    with pytest.raises(ChoiceError, match="is the one that runs"):
        to_go_back(NOW, RECORD, BOTH, accepted=False)
    # A killed deploy has moved one of its workers.
    moved = hosts(host(OLD, NOW), host(OLD, NOW, NEW, pins=NEW))
    assert to_go_back(NOW, RECORD, moved, accepted=False).kept == NOW


def test_a_one_way_migration_is_not_crossed_unless_accepted() -> None:
    crossed = hosts(host(OLD, NOW, **{OLD: ["0001"], NOW: ["0001", "0007_drop"]}))
    with pytest.raises(ChoiceError, match=r"one-way migrations .* does not know: 0007_drop"):
        to_go_back(OLD, RECORD, crossed, accepted=False)
    assert to_go_back(OLD, RECORD, crossed, accepted=True).kept == OLD
    back = hosts(host(OLD, NOW, **{OLD: ["0001", "0007_drop"], NOW: ["0001"]}))
    assert to_go_back(OLD, RECORD, back, accepted=False).kept == OLD


def test_a_rollback_that_was_killed_before_the_record_is_finished_by_the_same_command() -> None:
    moved = hosts(*[host(OLD, NOW, current=OLD, pins=OLD)] * 2)
    for asked in ("", OLD):
        choice = to_go_back(asked, RECORD, moved, accepted=False)
        assert (choice.kept, choice.current) == (OLD, NOW)
    # A deploy begins with what serves, and goes back to it if it is refused.
    assert to_deploy("v3", GIT, RECORD, moved).current == OLD


@pytest.mark.parametrize("link", [NOW, NEW])
def test_a_deploy_that_did_not_finish_leads_back_to_what_serves(link: str) -> None:
    """The record still names it, so the release before it is not the last one that served."""
    for pins in (NOW, NEW):
        moved = hosts(host(OLD, NOW, NEW, pins=pins), host(OLD, NOW, NEW, current=link, pins=NEW))
        choice = to_go_back("", RECORD, moved, accepted=False)
        assert (choice.kept, choice.current) == (NOW, NOW)
    # Its commands may have run.
    notes: dict[str, list[str]] = {NEW: ["0007_drop"]}
    crossed = hosts(host(OLD, NOW, NEW, pins=NEW, **notes), host(OLD, NOW, NEW))
    with pytest.raises(ChoiceError, match=r"does not know: 0007_drop"):
        to_go_back("", RECORD, crossed, accepted=False)
    # A rollback that was killed is finished.
    moved = hosts(host(OLD, NOW, pins=OLD), host(OLD, NOW))
    assert to_go_back("", RECORD, moved, accepted=False).kept == OLD


@pytest.mark.parametrize("moved", [{"pins": NEW}, {"pins": NEW, "current": NEW}])
def test_a_deploy_of_what_served_earlier_leads_back_too(moved: dict[str, str]) -> None:
    history = [{"release": name, "result": DEPLOYED} for name in (NEW, OLD, NOW)]
    record = release_record.held({**RECORD, "history": history}, NOW, "the deploy")
    kept = (OLD, NOW, NEW)
    for killed in (hosts(host(*kept), host(*kept, **moved)), hosts(*[host(*kept, **moved)] * 2)):
        assert to_go_back("", record, killed, accepted=False).kept == NOW
    # site.yml has gone back, or nothing has moved. The release before that did not serve when the deploy began.
    with pytest.raises(ChoiceError, match=f"release {NOW} is the one that runs"):
        to_go_back("", record, hosts(host(*kept)), accepted=False)
    assert to_go_back(OLD, record, hosts(host(*kept)), accepted=False).kept == OLD
    # A deploy that succeeded holds what it was told to deploy. A host that was down then is no deploy.
    choice = to_deploy("v2", GIT, record, hosts(host(*kept))).as_dict()
    record = release_record.recorded(record, NEW, choice, DEPLOYED)
    late = hosts(host(*kept, pins=NEW, current=NEW), host(*kept))
    assert to_go_back("", record, late, accepted=False).kept == NOW


def test_a_way_back_that_did_not_finish_is_continued() -> None:
    history = [{"release": name, "result": DEPLOYED} for name in (NEW, OLD, NOW)]
    record = release_record.held({**RECORD, "history": history}, NEW, "it is slow")
    kept = (OLD, NOW, NEW)
    for pins in (NOW, NEW):
        killed = hosts(host(*kept, pins=NEW), host(*kept, pins=pins, current=pins))
        assert to_go_back("", record, killed, accepted=False).kept == NEW


def test_a_host_without_a_release_is_no_deploy_that_did_not_finish() -> None:
    new = {**host(OLD, NOW, current=""), "pins": {}}
    assert to_go_back("", RECORD, hosts(host(OLD, NOW), new), accepted=False).kept == OLD


@pytest.mark.parametrize(
    "damage",
    [
        {"current": "../../x"},
        {"hold": {"release": OLD, "by": "ana", "at": 9e9, "why": "in the future"}},
        {"hold": {"release": OLD, "by": "ana", "at": 1e300, "why": ""}},
        {"hold": {"release": "/etc", "by": "ana", "at": 1, "why": ""}},
        {"hold": {"release": OLD}},
        {"history": ["x"]},
        {"history": 7},
    ],
)
def test_a_damaged_or_forged_copy_of_the_record_is_not_used(damage: dict[str, Any]) -> None:
    entry = {"release": OLD, "by": "ana", "at": 5, "why": ""}
    record = {"format": 1, "current": OLD, "hold": None, "history": [entry]}
    assert release_record.is_sound(record)
    assert not release_record.is_sound({**record, **damage})
    assert not release_record.is_sound(None)


def test_a_deploy_needs_a_way_back() -> None:
    built = hosts(host(NOW, NEW, **{NEW: ["0007_drop"]}))
    with pytest.raises(ChoiceError, match="accept_one_way=true"):
        release_history.require_way_back(NEW, NOW, built, accepted=False)
    release_history.require_way_back(NEW, NOW, built, accepted=True)
    release_history.require_way_back(NEW, "", built, accepted=False)
    # The older release again: it would meet the database of the newer one.
    with pytest.raises(ChoiceError, match=f"{NEW} lists one-way migrations that release {NOW}"):
        release_history.require_way_back(NOW, NEW, built, accepted=False)
    joined = hosts(host(NOW, NEW), host(NEW, current="", pins=""))
    with pytest.raises(ChoiceError, match=f"release {NOW} serves, but is not kept on h2. "):
        release_history.require_way_back(NEW, NOW, joined, accepted=False)
    release_history.require_way_back(NEW, NOW, joined, accepted=True)
    # It is deployed again, and built there by this deploy.
    release_history.require_way_back(NOW, NOW, joined, accepted=False)


# -- the record -----------------------------------------------------------------------------------------------------


def test_a_refused_deploy_leaves_what_served_and_says_why() -> None:
    choice = to_deploy("v2", GIT, RECORD, BOTH).as_dict()
    canary = {"node": "mail@h1", "figures": [], "refusals": ["50 % failed"], "tasks": 20}
    after = release_record.recorded(RECORD, NEW, choice, REFUSED, canary, "h1: it is refused")
    assert (after["current"], after["hold"]) == (NOW, None)
    assert after["history"][-1] | {"by": "", "at": 0} == {
        "release": NEW, "what": "v2 of https://***@git.example.com/shop.git", "by": "", "at": 0,
        "result": REFUSED, "why": "h1: it is refused", "canary": canary,
    }  # fmt: skip
    back = release_history.after_refusal(NEW, choice, {"hold": {"tasks": ["shop.x"]}})
    assert back.tasks == ["shop.x"]
    assert (back.kept, back.holds) == (NOW, True)
    after = release_record.recorded(after, NOW, back.as_dict(), BACK)
    assert after["hold"]["why"] == f"release {NEW} was refused"


def test_a_run_of_site_changes_no_hold() -> None:
    record = release_record.held(RECORD, NOW, "it is slow")
    after = release_record.recorded(record, NOW, None, DEPLOYED)
    assert after["hold"] == record["hold"]


def test_the_history_is_bounded() -> None:
    record: dict[str, Any] = {}
    for number in range(60):
        record = release_record.recorded(record, f"{number:012x}", None, DEPLOYED)
    assert len(record["history"]) == release_record.KEPT
    assert record["history"][-1]["release"] == f"{59:012x}"


def test_the_plan_names_a_hold() -> None:
    assert release_record.note(None) == []
    assert release_record.note({}) == []
    hold = release_record.held({}, OLD, "it is slow")["hold"]
    (words,) = release_record.note(hold)
    assert words.startswith(f"release {OLD} is held by ")
    assert (
        ": it is slow. site.yml keeps it; to deploy celery_app_source: ansible-playbook " in words
    )


# -- on the host ----------------------------------------------------------------------------------------------------


def test_the_releases_of_a_host(tmp_path: Path) -> None:
    for name in (OLD, NOW, NEW):
        (tmp_path / "releases" / name).mkdir(parents=True)
    for name, one_way in ((OLD, []), (NOW, ["0007"])):
        document = {"id": name, "built": 7, "one_way": one_way, "tasks": ["shop.x"]}
        (tmp_path / "releases" / name / note.NOTE).write_text(json.dumps(document))
    (tmp_path / "releases" / NEW / note.NOTE).write_text("half")
    (tmp_path / "pins").mkdir()
    (tmp_path / "pins/beat").symlink_to(f"../releases/{NOW}")
    # Flower's are not the application's.
    (tmp_path / "pins/flower").symlink_to(f"../flower/releases/{NEW}")
    (tmp_path / "current").symlink_to(f"releases/{NOW}")
    assert look(tmp_path) == {
        "kept": {
            OLD: {"built": 7.0, "one_way": [], "tasks": ["shop.x"]},
            NOW: {"built": 7.0, "one_way": ["0007"], "tasks": ["shop.x"]},
        },
        "pins": {"beat": NOW},
        "current": NOW,
    }
    assert look(tmp_path / "bare") == {"kept": {}, "pins": {}, "current": ""}


def look(root: Path) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-S", "-I", "-c", host_scripts.script("releases")],
        input=json.dumps({"root": str(root)}),
        capture_output=True,
        text=True,
        check=True,
        timeout=20,
    )
    return dict(host_scripts.answer({"rc": 0, "stdout": done.stdout}))


def test_one_way_migrations_of_a_source(tmp_path: Path) -> None:
    path = tmp_path / note.ONE_WAY
    assert note.one_way(str(tmp_path)) == []
    path.write_text("# drops a column\nshop.0007_drop  # since July\n\nshop.0009\n")
    assert note.one_way(str(tmp_path)) == ["shop.0007_drop", "shop.0009"]
    path.unlink()
    (tmp_path / "secret").write_text("password")
    path.symlink_to(tmp_path / "secret")
    assert note.one_way(str(tmp_path)) == []
