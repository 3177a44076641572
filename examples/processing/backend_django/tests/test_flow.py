"""pending → processing → completed, or failed; in this process, as Celery runs it."""

from __future__ import annotations

import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest import mock

from celery.exceptions import SoftTimeLimitExceeded
from django.db import OperationalError
from django.test import TestCase, override_settings
from django.utils import timezone

from backend_django import processing
from backend_django.models import Operation, ProcessingRequest, ProcessingResult
from backend_django.tasks import cleanup_old_requests, process_data_task

ROWS = [{"name": "north", "value": 12.5}, {"name": " south  east ", "value": 7}]
Status = ProcessingRequest.Status


class Flow(TestCase):
    def setUp(self) -> None:
        self.directory = Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.enterContext(override_settings(PROCESSING_WORK_DIR=str(self.directory)))
        self.operation = Operation.objects.create(name="ranking")

    def request(self, data: Any = None, **fields: Any) -> ProcessingRequest:
        return ProcessingRequest.objects.create(
            operation=self.operation, input_data={"rows": ROWS} if data is None else data, **fields
        )

    def run_task(self, request: ProcessingRequest, task_id: str = "one") -> Any:
        done = process_data_task.apply((request.pk,), task_id=task_id)
        request.refresh_from_db()
        return done

    def left(self) -> list[str]:
        return sorted(path.name for path in self.directory.iterdir())

    def test_a_request_is_completed(self) -> None:
        request = self.request()
        seen: list[Any] = []
        real = processing.execute_business_logic

        def look(validated: processing.Validated, directory: Path) -> processing.Outcome:
            now = ProcessingRequest.objects.get(pk=request.pk)
            seen.append((now.status, now.celery_task_id, (directory / "input.csv").read_text()))
            return real(validated, directory)

        with mock.patch.object(processing, "execute_business_logic", look):
            done = self.run_task(request)
        self.assertEqual(done.get(), {"request": request.pk, "status": "completed"})
        self.assertEqual(seen, [("processing", "one", "north,12.5\nsouth east,7.0\n")])
        self.assertEqual((request.status, request.celery_task_id), ("completed", "one"))
        self.assertLessEqual(request.started_at, request.finished_at)
        result = request.result
        self.assertEqual(result.data, {"count": 2, "first": "north", "last": "south east"})
        self.assertEqual(result.output_name, "ranking.csv")
        self.assertEqual(
            bytes(result.output), b"place,name,value\r\n1,north,12.5\r\n2,south east,7.0\r\n"
        )
        self.assertEqual(self.left(), [])

    def test_one_that_fails_says_why_and_leaves_no_files(self) -> None:
        request = self.request({"rows": [{"name": "north", "value": "many"}]})
        done = self.run_task(request)
        self.assertEqual(done.state, "FAILURE")
        self.assertIsInstance(done.result, processing.InvalidInput)
        self.assertEqual(request.status, "failed")
        self.assertEqual(request.error_message, "row 1 (north) has no number as its value")
        self.assertIsNotNone(request.finished_at)
        self.assertFalse(ProcessingResult.objects.exists())
        self.assertEqual(self.left(), [])

    def test_whatever_phase_fails_nothing_is_left(self) -> None:
        for phase in ("execute_business_logic", "save_result"):
            with self.subTest(phase):
                request = self.request()
                with mock.patch.object(processing, phase, side_effect=OSError("disk\0full")):
                    done = self.run_task(request)
                self.assertEqual(done.state, "FAILURE")
                self.assertEqual((request.status, request.error_message), ("failed", "disk�full"))
                self.assertEqual(self.left(), [])

    def test_one_that_takes_too_long_is_told_so(self) -> None:
        request = self.request()
        with mock.patch.object(processing.time, "sleep", side_effect=SoftTimeLimitExceeded):
            self.assertEqual(self.run_task(request).state, "FAILURE")
        self.assertEqual(request.error_message, "it took longer than a task may")
        self.assertEqual(self.left(), [])

    def test_a_completed_one_that_is_delivered_again_is_left_alone(self) -> None:
        request = self.request()
        self.run_task(request)
        before = ProcessingRequest.objects.values().get(pk=request.pk)
        with mock.patch.object(processing, "execute_business_logic") as work:
            self.assertTrue(self.run_task(request).get()["left"])
            self.assertTrue(self.run_task(request, "two").get()["left"])
        work.assert_not_called()
        self.assertEqual(ProcessingRequest.objects.values().get(pk=request.pk), before)

    def test_one_whose_worker_was_lost_is_done_again(self) -> None:
        request = self.request(status=Status.PROCESSING, celery_task_id="one")
        ProcessingResult.objects.create(request=request, data={}, output_name="x", output=b"half")
        self.assertEqual(self.run_task(request).state, "SUCCESS")
        self.assertEqual(request.status, "completed")
        self.assertEqual(ProcessingResult.objects.get().output_name, "ranking.csv")

    def test_a_second_task_does_not_disturb_the_first(self) -> None:
        request = self.request(status=Status.PROCESSING, celery_task_id="one")
        self.assertTrue(self.run_task(request, "two").get()["left"])
        self.assertEqual((request.status, request.celery_task_id), ("processing", "one"))

    def test_a_failed_one_is_taken_up_by_a_new_task_alone(self) -> None:
        request = self.request(status=Status.FAILED, celery_task_id="one", error_message="x")
        self.assertTrue(self.run_task(request, "one").get()["left"])
        self.assertEqual(request.error_message, "x")
        self.run_task(request, "two")
        self.assertEqual((request.status, request.error_message), ("completed", ""))

    def test_who_lost_a_request_meanwhile_does_not_end_it(self) -> None:
        request = self.request()

        def take_away(*_: Any) -> None:
            ProcessingRequest.objects.update(celery_task_id="two")

        with mock.patch.object(processing, "save_result", take_away):
            self.run_task(request)
        self.assertEqual((request.status, request.celery_task_id), ("processing", "two"))

    def test_a_database_that_is_away_is_no_failure_yet(self) -> None:
        request = self.request()
        outcomes = [OperationalError("gone"), mock.DEFAULT]
        real = processing.save_result
        with mock.patch.object(processing, "save_result", side_effect=outcomes, wraps=real):
            done = self.run_task(request)
        self.assertEqual(done.state, "SUCCESS")
        self.assertEqual((request.status, request.celery_task_id), ("completed", "one"))
        self.assertEqual(self.left(), [])

    def test_a_database_that_stays_away_is_one_in_the_end(self) -> None:
        request = self.request()
        with mock.patch.object(
            processing, "save_result", side_effect=OperationalError("gone")
        ) as save:
            done = self.run_task(request)
        self.assertEqual((done.state, save.call_count), ("FAILURE", 7))
        self.assertEqual((request.status, request.error_message), ("failed", "gone"))

    def test_a_request_that_is_not_there_fails_the_task(self) -> None:
        self.assertEqual(process_data_task.apply((4711,)).state, "FAILURE")

    def test_inputs_that_are_refused(self) -> None:
        row = {"name": "a", "value": 1}
        for data, said in (
            ({}, "data.rows must be"),
            ({"rows": []}, "data.rows must be"),
            ({"rows": {}}, "data.rows must be"),
            ({"rows": [row], "column": 1}, "data has column"),
            ({"rows": ["a"]}, "row 1 must be an object"),
            ({"rows": [row, {"value": 1}]}, "row 2 has no name"),
            ({"rows": [{"name": " ", "value": 1}]}, "row 1 has no name"),
            ({"rows": [{"name": "a", "value": True}]}, "row 1 (a) has no number"),
            ({"rows": [{"name": "a", "value": 10**400}]}, "row 1 (a) has no number"),
            ({"rows": [row], "wait": -1}, "data.wait must be"),
            ({"rows": [row], "wait": "1"}, "data.wait must be"),
            ({"rows": [row] * (processing.MAX_ROWS + 1)}, "100001 rows"),
            ([], "data must be an object"),
        ):
            with self.subTest(said=said):
                request = self.request(data)
                with self.assertRaises(processing.InvalidInput) as caught:
                    processing.validate_input(request, self.directory)
                self.assertIn(said, str(caught.exception))

    def test_an_operation_that_nobody_has_written(self) -> None:
        self.operation = Operation.objects.create(name="guess")
        request = self.request()
        self.run_task(request)
        self.assertIn("no code for the operation guess", request.error_message)

    def test_a_summary_of_the_largest_numbers(self) -> None:
        self.operation = Operation.objects.create(name="summary", decimals=1)
        request = self.request({"rows": [{"name": "a", "value": 1.5e308}] * 3})
        self.run_task(request)
        self.assertEqual(request.error_message, "")
        # PostgreSQL gives it back as a whole number.
        self.assertEqual(float(request.result.data["mean"]), 1.5e308)

    def test_an_errors_text_is_bounded_and_never_empty(self) -> None:
        self.assertEqual(processing.error_text(ValueError()), "ValueError")
        self.assertEqual(len(processing.error_text(ValueError("x" * 9999))), 2000)


class CleanUp(TestCase):
    def test_what_ended_long_ago_goes_and_what_is_lost_ends(self) -> None:
        now = timezone.now()
        operation = Operation.objects.create(name="summary")

        def made(status: str, **days: float) -> int:
            times = {name: now - timedelta(days=n) for name, n in days.items()}
            return ProcessingRequest.objects.create(
                operation=operation, input_data={}, status=status, **times
            ).pk

        old = [
            made(Status.COMPLETED, created_at=40, finished_at=31),
            made(Status.FAILED, created_at=40, finished_at=31),
        ]
        lost = [
            made(Status.PROCESSING, created_at=40, started_at=1.1),
            made(Status.PENDING, created_at=1.1),
        ]
        stay = {
            made(Status.COMPLETED, created_at=40, finished_at=29): "completed",
            made(Status.PROCESSING, created_at=40, started_at=0.9): "processing",
            made(Status.PENDING, created_at=0.9): "pending",
        }
        ProcessingResult.objects.create(request_id=old[0], data={}, output_name="x", output=b"")
        self.assertEqual(cleanup_old_requests.apply().get(), {"lost": 2, "deleted": 2})
        found = dict(ProcessingRequest.objects.values_list("pk", "status"))
        self.assertEqual(found, stay | dict.fromkeys(lost, "failed"))
        self.assertEqual(
            set(
                ProcessingRequest.objects.filter(pk__in=lost).values_list(
                    "error_message", flat=True
                )
            ),
            {"its task was lost: no sign of it for 24 hours"},
        )
        self.assertFalse(ProcessingResult.objects.exists())
        self.assertEqual(cleanup_old_requests.apply().get(), {"lost": 0, "deleted": 0})
