"""The service against its own OpenAPI, and its page in a browser."""

import shutil
import threading
import time
from collections import Counter

import pytest
import schemathesis
import uvicorn
from hypothesis import HealthCheck, given, settings

from src.serving.app import create_app
from src.serving.start import bind
from tests.test_service import settings_of


@pytest.fixture(scope="module")
def address(tmp_path_factory, run):
    listening = bind("127.0.0.1", 0)
    app = create_app(settings_of(tmp_path_factory.mktemp("service"), run))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    server.should_exit = True
    thread.join()


def test_every_call_does_what_its_description_says(address, photos, thorough):
    content = sorted(photos.rglob("*.jpg"))[0].read_bytes()
    quiet = settings(
        max_examples=200 if thorough else 8, deadline=None, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    counts = Counter()
    for found in schemathesis.openapi.from_url(f"{address}/openapi.json").get_all_operations():

        @quiet
        @given(case=found.ok().as_strategy())
        def holds(case):
            if isinstance(case.body, dict) and "file" in case.body:
                case.body["file"] = content  # what is no photo is refused, as it should be
            elif isinstance(case.body, dict) and "files" in case.body:
                case.body["files"] = [content]
            counts[case.call_and_validate().status_code] += 1

        holds()
    print(f"{sum(counts.values())} calls of schemathesis: {dict(counts)}")


@pytest.mark.parametrize("width", [1280, 390])
def test_an_inspector_works_with_the_page(address, photos, width):
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium on this machine")
    from playwright.sync_api import expect, sync_playwright

    faults = []
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": 850})
        page.on("pageerror", lambda fault: faults.append(fault))
        page.goto(address)
        page.locator("#files").set_input_files(sorted(photos.rglob("*.jpg"))[:4])
        expect(page.locator("#status")).to_contain_text("4 of 4 photos taken")
        expect(page.locator(".photo")).to_have_count(4)
        expect(page.locator(".said").first).not_to_contain_text("waiting")
        page.locator("[name=reviewer]").fill("A. Person")
        page.locator(".photo").first.click()
        first = page.locator("#title").text_content()
        page.keyboard.press("Enter")
        expect(page.locator("#title")).not_to_have_text(first)
        page.locator("#choice input:not(:checked)").first.check()
        page.keyboard.press("s")
        expect(page.locator(".photo.decided")).to_have_count(2)
        page.keyboard.press("Escape")
        page.locator("[name=reviewed]").select_option("false")
        expect(page.locator(".photo")).to_have_count(2)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.on("dialog", lambda dialog: dialog.accept())
        page.locator("[name=reviewed]").select_option("")
        for left in range(3, -1, -1):
            page.locator(".photo").first.click()
            page.locator("#remove").click()
            expect(page.locator(".photo")).to_have_count(left)
        browser.close()
    assert faults == []
