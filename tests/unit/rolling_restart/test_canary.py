"""How a canary is judged by the figures of its tasks and its memory."""

from __future__ import annotations

from bisect import bisect_left
from typing import Any

import pytest
from ansible_collections.celery_fleet.core.plugins.plugin_utils.restart.canary import (
    CanaryLimits,
    Count,
    Figures,
    Observation,
    Verdict,
    figures,
    limits,
)

from celery_fleet.worker import task_counts

MIB = 2**20
LIMITS = CanaryLimits(seconds=60, min_tasks=20)


BOUNDS = (0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)


def seen(counts: dict[str, Count] | None, size: int = 80 * MIB, processes: int = 2) -> Figures:
    return Figures(counts, size * processes, processes, bounds=BOUNDS)


def ran(failed: int = 0, **times: int) -> Count:
    """So many successes of each run time, in milliseconds: `ran(ms50=95, ms20000=1)`."""
    buckets = [0] * (len(BOUNDS) + 1)
    seconds = 0.0
    for name, number in times.items():
        each = int(name.removeprefix("ms")) / 1000
        buckets[bisect_left(BOUNDS, each)] += number
        seconds += number * each
    return Count(sum(times.values()), failed, seconds, tuple(buckets))


def pays(succeeded: int, failed: int = 0, each: float = 0.1) -> dict[str, Count]:
    return {"pay": ran(failed, **{f"ms{1000 * each:.0f}": succeeded})}


def judged(
    new: dict[str, Count] | None,
    old: dict[str, Count] | None = None,
    *,
    before: dict[str, Count] | None = None,
    sizes: tuple[int, ...] = (80 * MIB, 80 * MIB, 80 * MIB),
    limits: CanaryLimits = LIMITS,
) -> Verdict:
    """Judge a canary that is looked at three times; `old` ran beside it."""
    one = Observation(limits, seen(before if before is not None else pays(1000)))
    start: dict[str, Count] = {}
    for at, size in zip((0, 30, 60), sizes, strict=True):
        half = (
            {}
            if new is None
            else {
                n: Count(
                    c.succeeded // 2,
                    c.failed // 2,
                    c.seconds / 2,
                    tuple(number // 2 for number in c.buckets),
                )
                for n, c in new.items()
            }
        )
        counts = None if new is None else (start, half, new)[at // 30]
        one.add(
            at, seen(counts, size), None if old is None else seen((start, start, old)[at // 30])
        )
    return one.verdict()


def test_a_release_like_the_old_one_passes_with_its_figures() -> None:
    verdict = judged(pays(99, 1), pays(98, 2))
    assert verdict.refusals == ()
    assert verdict.tasks == 100
    assert verdict.figures == (
        "1.0 % of 100 tasks failed (beside it 2.0 % of 100)",
        "a task took 100 ms on average (beside it 100 ms), and half of them about 50 ms (beside it 50 ms)",
        "80 MiB for each process (before 80 MiB)",
        "memory grew by 0 KiB with each task (beside it 0 KiB)",
    )


def test_failures_of_both_releases_are_not_the_new_one_s_fault() -> None:
    assert judged(pays(50, 50), pays(52, 48)).refusals == ()


def test_more_failures_are_refused() -> None:
    (refusal,) = judged(pays(50, 50), pays(100)).refusals
    assert refusal == (
        "50.0 % of 100 tasks failed (beside it 0.0 % of 100); celery_canary_max_failures allows 5 more"
    )


def test_one_failure_is_none_of_a_release() -> None:
    assert judged(pays(19, 1), pays(20)).refusals == ()


def test_without_traffic_beside_it_the_past_counts() -> None:
    (refusal,) = judged(pays(15, 10), pays(2)).refusals
    assert "(before 0.0 % of 1000)" in refusal
    assert judged(pays(15, 10), pays(2), before=pays(60, 40)).refusals == ()


def test_a_first_release_is_compared_with_nothing() -> None:
    assert "(b" not in judged(pays(100, 1), before={}).figures[0]
    (refusal,) = judged(pays(50, 50), before={}).refusals
    assert refusal.startswith("50.0 % of 100 tasks failed; ")


def test_slower_tasks_are_refused_if_it_matters() -> None:
    (refusal,) = judged(pays(100, each=0.5), pays(100, each=0.1)).refusals
    assert refusal.startswith("a task took 500 ms on average (beside it 100 ms), ")
    assert judged(pays(100, each=0.009), pays(100, each=0.001)).refusals == ()


def test_another_mix_of_tasks_is_not_slower() -> None:
    old = {"quick": ran(ms100=90), "slow": ran(ms10000=10)}
    new = {"quick": ran(ms100=10), "slow": ran(ms10000=90), "fresh": ran(ms100000=5)}
    verdict = judged(new, old)
    assert verdict.refusals == ()
    assert verdict.figures[1].startswith("a task took 9.01 s on average (beside it 9.01 s), ")


def test_a_few_long_tasks_are_chance() -> None:
    """Of these tasks one in a hundred takes 20 s; that the canary got two of them is not its fault."""
    old = ran(ms50=950, ms3000=40, ms20000=10)
    assert judged({"pay": ran(ms50=28, ms20000=2)}, {"pay": old}).refusals == ()


def test_short_tasks_that_are_slower_show_beside_long_ones() -> None:
    old = ran(ms50=285, ms3000=12, ms20000=3)
    (refusal,) = judged({"pay": ran(ms550=29, ms3000=2)}, {"pay": old}).refusals
    assert refusal.startswith(
        "a task took 708 ms on average (beside it 368 ms), and half of them about 767 ms "
    )


def test_a_failure_rate_that_is_usual_is_chance_with_few_tasks() -> None:
    assert judged(pays(17, 3), pays(95, 5)).refusals == ()
    assert judged(pays(170, 30), pays(950, 50)).refusals != ()


def test_tasks_that_only_one_release_has_can_t_be_compared() -> None:
    verdict = judged({"fresh": ran(ms10000=50)}, pays(100))
    assert verdict.refusals == ()
    assert verdict.figures[1].startswith("run time could not be compared")


def test_larger_processes_are_refused() -> None:
    (refusal,) = judged(pays(100), pays(100), sizes=(160 * MIB,) * 3).refusals
    assert (
        refusal
        == "160 MiB for each process (before 80 MiB); celery_canary_max_memory allows 1.5 times"
    )


def test_a_leak_is_refused_by_its_second_half() -> None:
    (refusal,) = judged(pays(100), pays(100), sizes=(40 * MIB, 70 * MIB, 100 * MIB)).refusals
    assert refusal.startswith("memory grew by 1229 KiB with each task (beside it 0 KiB)")
    # The first tasks import what they need.
    assert judged(pays(100), pays(100), sizes=(40 * MIB, 80 * MIB, 80 * MIB)).refusals == ()


def test_what_could_not_be_judged_is_said_and_refused() -> None:
    (refusal,) = judged(pays(3)).refusals
    assert refusal.startswith(
        "failures and run time could not be judged: 3 tasks ended in 60 s, and 20 are needed. "
    )
    assert "celery_canary_seconds" in refusal
    assert judged(pays(3), limits=CanaryLimits(min_tasks=0)).refusals == ()
    assert judged({}, limits=CanaryLimits(min_tasks=0)).refusals == ()
    (refusal,) = judged(None).refusals
    assert "set celery_app_metrics to true" in refusal


@pytest.mark.parametrize(
    ("counts", "failing"),
    [(pays(10, 10), True), (pays(10, 5), False), (pays(20), False), (pays(100, 2), False)],
)
def test_the_observation_ends_early_once_the_failures_are_certain(
    counts: dict[str, Count], failing: bool
) -> None:
    one = Observation(LIMITS, seen(pays(1000)))
    assert not one.failing()
    one.add(0, seen({}), None)
    one.add(10, seen(counts), None)
    assert one.failing() is failing
    assert one.tasks == sum(each.succeeded + each.failed for each in counts.values())


def test_counts_of_an_earlier_canary_are_not_this_one_s() -> None:
    one = Observation(LIMITS, seen(pays(1000)))
    one.add(0, seen(pays(10, 90)), None)
    one.add(60, seen(pays(110, 90)), None)
    assert one.verdict().refusals == ()
    assert one.tasks == 100


def test_a_release_without_a_task_that_runs_is_refused_at_once() -> None:
    one = Observation(LIMITS, seen(pays(1000)))
    old = [{"pay": Count(5), "mail": Count(5)}, {"pay": Count(5), "mail": Count(6)}]
    for number, counts in enumerate(old):
        assert not one.failing()
        one.add(10 * number, Figures({}, 1, 1, frozenset({"pay"})), seen(counts))
    assert one.failing()
    (refusal,) = one.verdict().refusals
    assert refusal.startswith("the release has no task mail, which ran beside it. ")
    # One that nothing sends any more may go.
    one.add(20, Figures({}, 1, 1, frozenset({"mail"})), seen(old[1]))
    assert "has no task" not in one.verdict().refusals[0]


def test_a_release_without_any_task_is_refused_for_it() -> None:
    one = Observation(LIMITS, seen(pays(1000)))
    for number in (0, 1):
        one.add(10 * number, Figures({}, 1, 1, frozenset()), seen({"pay": Count(number)}))
    assert one.failing()
    assert one.verdict().refusals[0].startswith("the release has no task pay, ")


@pytest.mark.parametrize("name", ["celery.chunks", task_counts.OTHER])
def test_no_release_lacks_celery_s_own_tasks_and_those_that_are_counted_together(name: str) -> None:
    """Its note leaves them out."""
    one = Observation(LIMITS, seen(pays(1000)))
    for number in (0, 1):
        new = Figures({}, 1, 1, frozenset({"pay"}))
        one.add(10 * number, new, seen({name: Count(number)}))
    assert not one.failing()
    assert "has no task" not in one.verdict().refusals[0]


def test_figures_from_the_host() -> None:
    assert figures(None) == Figures()
    assert figures({"counts": None, "memory": 10, "processes": 1}) == Figures(None, 10, 1)
    raw = {"counts": {"pay": [1, 2, 0.5, [1, 0]]}, "bounds": [0.1], "memory": 10, "processes": 4}
    assert figures(raw) == Figures({"pay": Count(1, 2, 0.5, (1, 0))}, 10, 4, bounds=(0.1,))
    assert figures(raw).size == 2.5


GIVEN: dict[str, Any] = {
    "seconds": "30", "min_tasks": 5, "max_failures": 1, "max_slowdown": 3, "max_memory": 2,
    "max_growth": 100, "worker": "mail",
}  # fmt: skip


def test_limits_of_a_role() -> None:
    assert limits(GIVEN) == CanaryLimits(30, 5, 1, 3, 2, 100)
    assert limits({}) is None
    assert limits({**GIVEN, "seconds": 0}) is None
