"""The API: what it answers to pages and other clients."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

from django.db import OperationalError
from django.test import TransactionTestCase, override_settings
from kombu.exceptions import OperationalError as BrokerError

from backend_django import views
from backend_django.models import Operation, ProcessingRequest
from backend_django.tasks import process_data_task

URL = "/api/v1/requests"
GOOD = {"operation": "summary", "data": {"rows": [{"name": "a", "value": 1}]}}


# Not TestCase: there nothing is ever committed, and so nothing sent.
class Requests(TransactionTestCase):
    def setUp(self) -> None:
        Operation.objects.create(name="summary")
        self.send = self.enterContext(mock.patch.object(process_data_task, "apply_async"))

    def post(self, body: Any, **options: Any) -> Any:
        content = body if isinstance(body, str) else json.dumps(body)
        return self.client.post(URL, content, **{"content_type": "application/json", **options})

    def test_the_id_is_answered_at_once_and_the_rest_is_asked_for(self) -> None:
        stored: list[str] = []
        self.send.side_effect = lambda args, **_: stored.append(
            ProcessingRequest.objects.get(pk=args[0]).status
        )
        answer = self.post(GOOD)
        self.assertEqual(answer.status_code, 202)
        number = answer.json()["id"]
        self.assertEqual(
            answer.json(),
            {"id": number, "status": "pending", "status_url": f"{URL}/{number}/status"},
        )
        # One message, with only the key, after the row was there.
        self.assertEqual((self.send.call_args.args, stored), (((number,),), ["pending"]))
        status = self.client.get(answer.json()["status_url"])
        self.assertEqual(status["Cache-Control"], "no-store")
        self.assertEqual(
            (status.json()["status"], status.json()["celery_task_id"]), ("pending", "")
        )
        self.assertEqual(self.client.get(f"{URL}/{number}/result").status_code, 409)

        process_data_task.apply((number,), task_id="one")
        status = self.client.get(f"{URL}/{number}/status").json()
        self.assertEqual((status["status"], status["celery_task_id"]), ("completed", "one"))
        result = self.client.get(status["result_url"]).json()
        self.assertEqual(result["data"]["count"], 1)
        output = self.client.get(result["output_url"])
        self.assertEqual(output.content.decode().splitlines()[1], "count,1")
        self.assertIn('filename="summary.csv"', output["Content-Disposition"])
        self.assertEqual([each["id"] for each in self.client.get(URL).json()["requests"]], [number])

    def test_a_failed_one_says_why(self) -> None:
        number = self.post({"operation": "summary", "data": {}}).json()["id"]
        process_data_task.apply((number,), task_id="one")
        status = self.client.get(f"{URL}/{number}/status").json()
        self.assertEqual(status["status"], "failed")
        self.assertIn("data.rows must be", status["error_message"])
        self.assertEqual(self.client.get(f"{URL}/{number}/output").status_code, 409)

    def test_where_no_worker_can_be_told_the_request_has_failed(self) -> None:
        for error in (BrokerError("away"), RuntimeError("results away")):
            with self.subTest(error), self.assertLogs(views.log, "WARNING"):
                self.send.side_effect = error
                answer = self.post(GOOD)
                self.assertEqual(answer.status_code, 503)
                found = ProcessingRequest.objects.get(pk=answer.json()["id"])
                self.assertEqual(found.status, "failed")
                self.assertIn("was not sent", found.error_message)
                # If the message had been sent anyway, it would still be done.
                process_data_task.apply((found.pk,), task_id="late")
                found.refresh_from_db()
                self.assertEqual((found.status, found.error_message), ("completed", ""))

    def test_what_a_caller_does_wrong(self) -> None:
        for body, status in (
            ("{", 400),
            ("[]", 400),
            ('{"operation": "summary", "data": {"rows": NaN}}', 400),
            ('{"operation": "summary", "data": {"rows": 1e999}}', 400),
            ('{"operation": "summary", "data": {"rows": "\\u0000"}}', 400),
            ('{"operation": "summary", "data": {"\\ud800": 1}}', 400),
            ('{"operation": "summary", "data": ' + '{"a":' * 5000 + "1" + "}" * 5001, 400),
            ({"operation": "summary"}, 422),
            ({"operation": 1, "data": {}}, 422),
            ({"operation": "guess", "data": {}}, 422),
            ({**GOOD, "status": "completed"}, 422),
        ):
            with self.subTest(body=str(body)[:60]):
                answer = self.post(body)
                self.assertEqual(answer.status_code, status)
                self.assertTrue(answer.json()["detail"])
        self.assertEqual(self.post("{}", content_type="text/plain").status_code, 415)
        self.assertEqual(self.client.delete(URL).status_code, 405)
        self.assertEqual(self.client.get(f"{URL}/4711/status").status_code, 404)
        with override_settings(DATA_UPLOAD_MAX_MEMORY_SIZE=10):
            self.assertEqual(self.post(GOOD).status_code, 413)
        self.assertFalse(ProcessingRequest.objects.exists())
        self.send.assert_not_called()

    def test_a_database_that_is_away(self) -> None:
        with (
            mock.patch.object(Operation.objects, "order_by", side_effect=OperationalError("x")),
            self.assertLogs(views.log, "WARNING"),
        ):
            answer = self.client.get("/api/v1/operations")
        self.assertEqual(answer.status_code, 503)

    def test_the_page_is_that_of_this_place(self) -> None:
        directory = Path(self.enterContext(tempfile.TemporaryDirectory()))
        with override_settings(FRONTEND_ROOT=directory):
            self.assertEqual(self.client.get("/").status_code, 503)
            (directory / "index.html").write_text("<p>here")
            answer = self.client.get("/")
        self.assertEqual((answer.content, answer["Cache-Control"]), (b"<p>here", "no-cache"))

    def test_small_answers(self) -> None:
        self.assertEqual(self.client.get("/health").json(), {"status": "ok"})
        known = self.client.get("/api/v1/operations").json()["operations"]
        self.assertEqual([each["name"] for each in known], ["summary"])
