"""Values with awkward characters, in each kind of file."""

from __future__ import annotations

import html
import json
import re
import tempfile
from pathlib import Path
from unittest import TestCase

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from backend_django import frontend

AWKWARD = "a|b&c\\1/d'e\"f`g${h}</script><i>\n\r\t é 𝄞 \u2028 %20;--*/ (x) \\"
NAME = "VITE_APP_API_ROOT"
MARK = f"{NAME}_PLACEHOLDER"
VALUES = {"VITE_APP_STATIC_ROOT": "/s&t|a", NAME: AWKWARD}


class Escapes(TestCase):
    def test_javascript_reads_it_back_within_any_quotes(self) -> None:
        written = frontend.for_javascript(AWKWARD)
        # What ends a string of any kind, a script, or a line, is not in it; what is left is as JSON has it.
        self.assertNotRegex(written, r"""['"`$<>\n\r\u2028]""")
        self.assertEqual(json.loads(f'"{written}"'), AWKWARD)

    def test_html_reads_it_back_with_or_without_quotes(self) -> None:
        written = frontend.for_html(AWKWARD)
        self.assertNotRegex(written, r"""['"`<>\s=]""")
        self.assertEqual(html.unescape(written).replace("\r", ""), AWKWARD.replace("\r", ""))

    def test_css_reads_it_back(self) -> None:
        written = frontend.for_css(AWKWARD)
        self.assertNotRegex(written, r"""['"()\s;]""")
        read = re.sub(r"\\([0-9a-f]{6})", lambda found: chr(int(found[1], 16)), written)
        self.assertEqual(read, AWKWARD)

    def test_an_ordinary_address_stays_readable(self) -> None:
        for way in (frontend.for_javascript, frontend.for_html):
            self.assertEqual(way("https://a.example/b-c_d?e#f"), "https://a.example/b-c_d?e#f")


class Inject(TestCase):
    def setUp(self) -> None:
        root = Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.build, self.target = root / "dist", root / "there/frontend"
        (self.build / "assets").mkdir(parents=True)
        self.write("index.html", f'<a href="{MARK}/x">{MARK}</a><script>x = "{MARK}"</script>')
        self.write("assets/a.js", f'const A = "{MARK}", B = `{MARK}`;')
        (self.build / "logo.png").write_bytes(b"\x89PNG\xff\x00")

    def write(self, name: str, text: str) -> None:
        (self.build / name).write_text(text)

    def read(self, name: str) -> str:
        return (self.target / name).read_text()

    def test_the_copy_has_the_values_and_the_build_its_placeholders(self) -> None:
        before = {p: p.read_bytes() for p in self.build.rglob("*") if p.is_file()}
        self.assertTrue(frontend.inject(self.build, self.target, VALUES))
        self.assertEqual({p: p.read_bytes() for p in before}, before)
        js, page = frontend.for_javascript(AWKWARD), frontend.for_html(AWKWARD)
        self.assertEqual(self.read("assets/a.js"), f'const A = "{js}", B = `{js}`;')
        self.assertEqual(
            self.read("index.html"), f'<a href="{page}/x">{page}</a><script>x = "{js}"</script>'
        )
        self.assertEqual((self.target / "logo.png").read_bytes(), b"\x89PNG\xff\x00")
        self.assertEqual(frontend.unfinished(self.target, VALUES), [])
        self.assertEqual([p.name for p in self.target.parent.iterdir()], ["frontend"])

    def test_again_changes_nothing_and_mends_what_was_changed(self) -> None:
        frontend.inject(self.build, self.target, VALUES)
        before = (self.target / "index.html").stat()
        self.assertFalse(frontend.inject(self.build, self.target, VALUES))
        after = (self.target / "index.html").stat()
        self.assertEqual((after.st_ino, after.st_ctime_ns), (before.st_ino, before.st_ctime_ns))
        (self.target / "index.html").write_text(MARK)
        (self.target / "old.js").touch()
        (self.target.parent / ".frontend-killed").mkdir()
        self.assertTrue(frontend.inject(self.build, self.target, VALUES))
        self.assertEqual(frontend.unfinished(self.target, VALUES), [])
        self.assertFalse((self.target / "old.js").exists())
        self.assertEqual([p.name for p in self.target.parent.iterdir()], ["frontend"])

    def test_what_can_not_be_given_a_value_is_refused_whole(self) -> None:
        for name, content, said in (
            ("a.bin", MARK.encode(), "how its kind of file writes a value is not known"),
            ("a.js", b"\xff" + MARK.encode(), "is no text"),
            ("a.js.gz", b"", "is compressed"),
        ):
            with self.subTest(name):
                path = self.build / name
                path.write_bytes(content)
                with self.assertRaisesRegex(frontend.FrontendError, said):
                    frontend.inject(self.build, self.target, VALUES)
                self.assertFalse(self.target.exists())
                path.unlink()

    def test_a_value_with_a_placeholder_in_it(self) -> None:
        with self.assertRaisesRegex(frontend.FrontendError, f"{NAME} has a placeholder in it"):
            frontend.inject(self.build, self.target, {NAME: f"x{MARK}"})

    def test_no_build(self) -> None:
        with self.assertRaisesRegex(frontend.FrontendError, "build the front-end first"):
            frontend.inject(self.build / "assets", self.target, VALUES)

    def test_who_serves_refuses_what_is_not_finished(self) -> None:
        with self.assertRaisesRegex(ImproperlyConfigured, "there is no front-end in"):
            frontend.refuse_unfinished(self.target, VALUES)
        frontend.inject(self.build, self.target, VALUES)
        frontend.refuse_unfinished(self.target, VALUES)
        (self.target / "assets/late.js").write_text(f"x = '{MARK}'")
        with self.assertRaisesRegex(ImproperlyConfigured, rf"late\.js \({MARK}\).*inject_frontend"):
            frontend.refuse_unfinished(self.target, VALUES)

    def test_the_delivered_build(self) -> None:
        names = {name for _, name in _marks(settings.FRONTEND_BUILD)}
        self.assertEqual(names, set(settings.FRONTEND_VALUES))
        frontend.inject(settings.FRONTEND_BUILD, self.target, settings.FRONTEND_VALUES)
        page = self.read("index.html")
        # Each file that the page names is there.
        for address in re.findall(r'(?:href|src)="/static/frontend/([^"]+)"', page):
            self.assertTrue((self.target / address).is_file(), address)
        self.assertIn('API_ROOT = "/api/v1"', next(self.target.glob("assets/*.js")).read_text())


def _marks(directory: Path) -> list[tuple[Path, str]]:
    return [
        (path, name)
        for path in directory.rglob("*")
        if path.is_file()
        for name in re.findall(r"(VITE_\w+)_PLACEHOLDER", path.read_text())
    ]
