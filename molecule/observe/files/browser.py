"""Open pages in headless Chromium and print what each one shows, as JSON. It needs Debian's Chromium and Selenium.

    python3 browser.py '[{"url": "https://…", "wait": "text", "without": "text", "picture": "/tmp/a.png"}]'

A page counts as shown once it contains `wait` and no longer `without`, or after 40 s. A login is part of the URL.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time

from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By

#: Seconds that a page may take. It asks the server for what it shows.
PATIENCE = 40

ARGUMENTS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
    *("--ignore-certificate-errors", "--no-first-run", "--disable-sync", "--window-size=1280,900"),
    *("--disable-background-networking", "--disable-component-update", "--disable-quic"),
)


def text_of(browser: webdriver.Chrome) -> str:
    return browser.find_element(By.TAG_NAME, "body").text


def main(pages: list[dict[str, str]]) -> None:
    options = Options()
    for argument in (*ARGUMENTS, f"--user-data-dir={tempfile.mkdtemp()}"):
        options.add_argument(argument)
    browser = webdriver.Chrome(service=Service("/usr/bin/chromedriver"), options=options)
    browser.set_page_load_timeout(60)
    shown = []
    try:
        for page in pages:
            browser.get(page["url"])
            until = time.monotonic() + PATIENCE
            while time.monotonic() < until:
                text = text_of(browser)
                without = page.get("without")
                if page["wait"] in text and not (without and without in text):
                    break
                time.sleep(0.5)
            if "picture" in page:
                # Drawings end a moment after their data has come.
                time.sleep(2)
                browser.save_screenshot(page["picture"])
            shown.append({"title": browser.title, "text": text_of(browser)})
    finally:
        browser.quit()
    json.dump(shown, sys.stdout)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
