"""The service against its own OpenAPI, and its page in a browser."""

import hashlib
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import contextmanager

import httpx
import pytest
import schemathesis
import uvicorn
from hypothesis import HealthCheck, given, settings

from src.labels import LabelSpace
from src.serving import access
from src.serving.app import create_app
from src.serving.start import bind
from tests.made import REPOSITORY
from tests.test_service import sent, settings_of, settled


@contextmanager
def served(app):
    """Serve an application in a thread; give its address."""
    listening = bind("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        while not server.started:
            time.sleep(0.02)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def address(tmp_path_factory, run):
    with served(create_app(settings_of(tmp_path_factory.mktemp("service"), run))) as found:
        yield found


def test_every_call_does_what_its_description_says(profile, tmp_path, run, photos, thorough):
    content = sorted(photos.rglob("*.jpg"))[0].read_bytes()
    quiet = settings(
        max_examples=200 if thorough else 8, deadline=None, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    counts = Counter()
    with served(create_app(settings_of(tmp_path, run))) as address:
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
    print(f"{sum(counts.values())} calls of schemathesis, {profile}: {dict(counts)}")


@contextmanager
def opened(address, width=1280):
    """Give the page in a browser, and Playwright's `expect`; no error of its script may come up."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium on this machine")
    from playwright.sync_api import expect, sync_playwright

    faults = []
    expect.set_options(timeout=30_000)  # the machine may be busy
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": 850})
        page.on("pageerror", lambda fault: faults.append(fault))
        page.on("dialog", lambda dialog: dialog.accept())
        page.goto(address)
        yield page, expect
        browser.close()
    assert faults == []


@pytest.mark.parametrize("width", [1280, 390])
def test_an_inspector_works_with_the_page(address, photos, width):
    with opened(address, width) as (page, expect):
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
        page.locator("[name=reviewed]").select_option("")
        for left in range(3, -1, -1):
            page.locator(".photo").first.click()
            page.locator("#remove").click()
            expect(page.locator(".photo")).to_have_count(left)


def test_the_calls_can_be_read_and_tried_without_the_internet(address):
    paths = httpx.get(f"{address}/openapi.json").json()["paths"]
    outside, said = [], []
    with opened(address) as (page, expect):
        page.on("console", lambda message: said.append(message.text))  # what the policy forbids, too
        page.route(
            lambda url: not url.startswith((f"{address}/", "data:")),
            lambda route: (outside.append(route.request.url), route.abort()),
        )
        answer = page.goto(f"{address}/docs")
        assert answer.headers["content-security-policy"] == access.PAGE_POLICY
        expect(page.locator(".opblock")).to_have_count(sum(len(calls) for calls in paths.values()))
        health = page.locator(".opblock", has=page.locator("[data-path='/health']"))
        health.locator(".opblock-summary-control").click()
        health.get_by_text("Try it out").click()
        health.get_by_text("Execute").click()
        expect(health.locator(".live-responses-table .response .response-col_status")).to_have_text("200")
    assert outside == said == []


def decided(client):
    """Return `{id: decision}` of all photos, the newest first."""
    rows = client.get("/api/images?limit=200").json()["data"]
    return {row["id"]: row["review"] and row["review"]["decision"] for row in rows}


def test_the_page_puts_decisions_where_they_belong(tmp_path, run, photos):
    app = create_app(settings_of(tmp_path, run))
    with served(app) as address, httpx.Client(base_url=address) as client:
        for path in sorted(photos.rglob("*.jpg"))[:7]:
            image = client.post("/api/upload", files=sent(path)).json()["id"]
            settled(client, client.post(f"/api/predict?id={image}").json()["data"]["task_id"])
        ids = list(decided(client))
        with opened(address) as (page, expect):
            page.locator(".photo").first.click()
            page.locator("#choice input:not(:checked)").first.check()
            page.keyboard.down("Enter")  # the choice is saved, and the key held down does no more
            for _ in range(3):
                page.keyboard.down("Enter")
            page.keyboard.up("Enter")
            expect(page.locator(".photo.decided")).to_have_count(1)

            held = []  # decisions on their way
            page.route(
                "**/api/images/*",
                lambda route: held.append(route) if route.request.method == "PATCH" else route.continue_(),
            )
            page.locator("#comment").fill("a draft")
            page.locator("#title").click()
            page.keyboard.press("j")
            page.keyboard.press("Enter")
            page.keyboard.press("j")
            page.keyboard.press("Enter")  # while the other one is being sent
            page.wait_for_timeout(200)
            (route,) = held
            route.continue_()
            expect(page.locator(".photo.decided")).to_have_count(2)
            expect(page.locator(f"[data-id='{ids[2]}']")).to_contain_class("decided")
            for _ in range(2):
                page.keyboard.press("k")
            expect(page.locator("#comment")).to_have_value("a draft")
        assert list(decided(client).values()) == ["corrected", None, "confirmed", None, None, None, None]


def test_the_page_keeps_decisions_of_another_models_labels(tmp_path, run, photos):
    app = create_app(settings_of(tmp_path, run))
    predictor = app.state.service.engine.model.predictor
    with served(app) as address, httpx.Client(base_url=address) as client:
        image = client.post("/api/upload", files=sent(sorted(photos.rglob("*.jpg"))[0])).json()["id"]
        labels = {"component": ["Grout Hole"], "defect": ["Leaks"]}
        client.patch(f"/api/images/{image}", json={"decision": "correct", "labels": labels})
        predictor.labels, predictor.task = LabelSpace({"weather": ["rain"]}), "multilabel"
        with opened(address) as (page, expect):
            page.locator(".photo").first.click()
            expect(page.locator("#older")).to_contain_text("Decided as Grout Hole, Leaks")
            page.keyboard.press("s")
            expect(page.locator("#told")).to_contain_text("Choose labels")
        assert client.get(f"/api/images/{image}").json()["data"]["review"]["labels"] == labels


def test_the_page_skips_no_photo_and_forgets_late_answers(tmp_path, run, make_photo):
    app = create_app(settings_of(tmp_path, run, workers=0))
    with (
        served(app) as address,
        httpx.Client(base_url=address) as client,
        opened(address) as (page, expect),
    ):
        for seed in range(49):
            client.post("/api/upload", files=sent(make_photo(tmp_path / f"p{seed:02d}.jpg", seed)))
        page.locator("[name=reviewed]").select_option("false")
        expect(page.locator(".photo")).to_have_count(48)
        body = {"decision": "correct", "labels": {"component": ["Grout Hole"], "defect": ["Leaks"]}}
        for image in list(decided(client))[:48]:  # by somebody else
            client.patch(f"/api/images/{image}", json=body)
        page.locator("#next").click()
        expect(page.locator(".photo .name")).to_have_text(["p00.jpg"])
        page.locator("[name=reviewed]").select_option("")
        page.locator("#next").click()
        expect(page.locator(".photo")).to_have_count(1)
        page.locator(".photo").click()
        page.locator("#remove").click()
        expect(page.locator(".photo")).to_have_count(48)  # a page back

        late = []
        page.route(
            "**/api/images?*",
            lambda route: late.append(route) if route.request.url.endswith("text=p") else route.continue_(),
        )
        page.locator("[name=text]").press_sequentially("p07")
        expect(page.locator(".photo .name")).to_have_text(["p07.jpg"])
        (route,) = late
        route.continue_()
        page.wait_for_timeout(300)
        expect(page.locator(".photo .name")).to_have_text(["p07.jpg"])


def test_the_page_offers_to_predict_again_and_waits_where_the_rate_asks_it_to(tmp_path, run, photos):
    app = create_app(settings_of(tmp_path, run, rate=60))
    with served(app) as address, httpx.Client(base_url=address) as client:
        client.post("/api/upload", files=sent(sorted(photos.rglob("*.jpg"))[0]))
        while client.get("/api/images").status_code != 429:
            pass
        with opened(address) as (page, expect):
            expect(page.locator(".said")).to_have_text("not predicted")
            page.locator(".photo").click()
            page.locator("#again").click()
            expect(page.locator("#facts")).to_contain_text("predicted by model")
            expect(page.locator("#confirm")).to_be_enabled()


def test_a_body_that_stands_still_is_closed(address, monkeypatch):
    monkeypatch.setattr(access, "PATIENCE", 0.3)
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as slow:
        head = "POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 900\r\n"
        slow.sendall(f"{head}Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n".encode())
        answer = b"".join(iter(lambda: slow.recv(4096), b""))  # until the service closes
    assert answer.startswith(b"HTTP/1.1 408") and b"nothing more of the body" in answer


def test_the_example_of_a_client(tmp_path, run, photos):
    path, keys = sorted(photos.rglob("*.jpg"))[0], [hashlib.sha256(b"open sesame").hexdigest()]
    ends = []
    with served(create_app(settings_of(tmp_path, run, api_keys=keys))) as address:
        for service, key in ((address, "open sesame"), (address, "wrong"), ("http://127.0.0.1:9", "")):
            command = [sys.executable, REPOSITORY / "examples" / "client.py", path, service]
            environment = os.environ | {"CORBEL_API_KEY": key}
            ends.append(subprocess.run(command, env=environment, capture_output=True, text=True))
    assert [done.returncode for done in ends] == [0, 1, 1] and "photo 1: " in ends[0].stdout
    assert all(done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 for done in ends[1:])
