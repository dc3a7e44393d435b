"""The page in a real browser, and what it refuses. Without a browser or gradio only the parts that need none run."""

from __future__ import annotations

import io
import json
import os
import shutil
import time
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

import pytest
from PIL import Image

PROJECT = Path(__file__).resolve().parents[2]
SCENE = PROJECT / "examples" / "scenes" / "0.png"
PATIENCE = 600_000
"""Milliseconds; only a page that hangs needs them."""
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytest.importorskip("gradio", reason="gradio is in the extra web")
from scripts.web import WebOptions, parse  # noqa: E402
from scripts.web.forms import Form  # noqa: E402
from scripts.web.runs import watch  # noqa: E402
from vision.config import sentences  # noqa: E402
from vision.job import Event  # noqa: E402


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("web")


@pytest.fixture(scope="module")
def address(folder):
    os.environ |= {"GRADIO_TEMP_DIR": str(folder / "uploads"), "GRADIO_ANALYTICS_ENABLED": "False"}
    from scripts.web.page import serve

    with serve(WebOptions(folder=folder, port=0, device="cpu", max_files=3, max_megabytes=1)) as url:
        yield url


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is in the extra dev")
    if CHROMIUM is None:
        pytest.skip("there is no chromium here; Debian's package chromium is enough")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield started
        started.close()


@pytest.fixture
def page(browser, address):
    visit = browser.new_context(accept_downloads=True)
    opened = visit.new_page()
    opened.set_default_timeout(PATIENCE)
    opened.outside = []
    opened.on(
        "request",
        lambda request: request.url.startswith(("data:", "blob:", address)) or opened.outside.append(request.url),
    )
    opened.goto(address)
    yield opened
    assert opened.outside == []
    visit.close()


def picture(path: Path, size=(16, 12), color=(90, 120, 60)) -> Path:
    Image.new("RGB", size, color).save(path)
    return path


def told(page, name: str, words: str) -> None:
    page.locator(f"#{name}-told", has_text=words).wait_for()


def fill(panel, **values: int) -> None:
    for name, value in values.items():
        panel.locator(f".field-{name} :is(input, textarea)").first.fill(str(value))


def downloaded(page, name: str) -> zipfile.ZipFile:
    with page.expect_download() as waiting:
        page.locator(f"#{name}-zip a").first.click()
    return zipfile.ZipFile(io.BytesIO(Path(waiting.value.path()).read_bytes()))


@pytest.mark.slow
def test_restoring_in_the_browser(page, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_text("no picture")
    good = [picture(tmp_path / "leaf.png"), picture(tmp_path / "sky.png", (12, 20), (90, 140, 220))]
    page.locator("#restore-files input[type=file]").set_input_files([*good, bad])
    page.locator("#restore-run").click()
    told(page, "restore", "Done.")
    assert "bad.png" in page.locator("#restore-told").inner_text()
    decided = page.locator("#restore-why textarea").input_value()
    assert "leaf.png" in decided and "it is small" in decided and "enlarge" in decided
    with downloaded(page, "restore") as results:
        assert Image.open(io.BytesIO(results.read("leaf.png"))).size == (64, 48)
        assert json.loads(results.read("run.json"))["problems"]
    assert page.locator("#restore-slider img").count() >= 2
    page.set_viewport_size({"width": 390, "height": 844})  # of a phone
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    shown = page.locator("#restore-slider img").first.get_attribute("src")
    page.locator("#restore-all button img").nth(1).click()
    page.wait_for_function("was => document.querySelector('#restore-slider img')?.src !== was", arg=shown)


@pytest.mark.slow
def test_too_many_files_are_refused_and_a_stopped_run_leaves_the_page_usable(page, tmp_path):
    many = [picture(tmp_path / f"{number}.png") for number in range(4)]
    page.locator("#restore-files input[type=file]").set_input_files(many)
    page.locator("#restore-run").click()
    page.get_by_text("At most 3 files at once, got 4.").first.wait_for()
    page.reload()
    page.locator("#restore-files input[type=file]").set_input_files([picture(tmp_path / "large.png", (900, 900))])
    page.locator("#restore-run").click()
    told(page, "restore", "%")
    page.locator("#restore-stop").click()
    told(page, "restore", "Stopped.")
    page.reload()
    page.locator("#restore-files input[type=file]").set_input_files([many[0]])
    page.locator("#restore-run").click()
    told(page, "restore", "Done.")


@pytest.mark.slow
def test_two_visitors_at_once(browser, address, tmp_path):
    visits = []
    for number, size in enumerate([(16, 12), (12, 20)]):
        visit = browser.new_context().new_page()
        visit.set_default_timeout(PATIENCE)
        visit.goto(address)
        visit.locator("#restore-files input[type=file]").set_input_files([picture(tmp_path / f"{number}.png", size)])
        visits.append((visit, size))
    for visit, _ in visits:
        visit.locator("#restore-run").click()
    for visit, size in visits:
        told(visit, "restore", "Done.")
        with downloaded(visit, "restore") as results:
            (name,) = [name for name in results.namelist() if name.endswith(".png")]
            assert Image.open(io.BytesIO(results.read(name))).size == (4 * size[0], 4 * size[1])
        visit.context.close()


@pytest.mark.slow
def test_editing_in_the_browser(page):
    page.get_by_role("tab", name="Edit").click()
    page.get_by_role("button", name="Options").nth(0).wait_for()
    panel = page.get_by_role("tabpanel").filter(has=page.locator("#edit-run"))
    panel.get_by_role("button", name="Options").click()
    fill(panel, frames=2, steps=2)
    canvas = panel.locator("#edit-canvas canvas").first
    canvas.wait_for()
    page.wait_for_timeout(5000)  # the canvas takes strokes a while after it is there
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.4, box["y"] + box["height"] * 0.5)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + box["height"] * 0.5, steps=5)
    page.mouse.up()
    page.wait_for_timeout(5000)  # and draws them a while after that
    panel.locator("#edit-run").click()
    told(page, "edit", "Done.")
    with downloaded(page, "edit") as results:
        names = results.namelist()
        frames = [name for name in names if "frame_" in name and name.endswith(".png")]
        mask = Image.open(io.BytesIO(results.read(next(name for name in names if name.endswith("mask.png")))))
        assert len(frames) == 3 and mask.getextrema() == (0, 255)
    panel.locator("#edit-frame img").wait_for()
    assert panel.locator("#edit-strip button img").count() >= 3
    panel.locator("#edit-strip button img").first.click()
    page.wait_for_function("() => document.querySelector('#edit-at input[type=number]').value === '0'")


@pytest.mark.slow
def test_rebuilding_in_the_browser(page):
    page.get_by_role("tab", name="Rebuild").click()
    panel = page.get_by_role("tabpanel").filter(has=page.locator("#rebuild-run"))
    panel.get_by_role("button", name="Options").click()
    fill(
        panel,
        volume_steps=80,
        geometry_steps=1,
        texture_steps=1,
        grid_size=32,
        view_size=48,
        texture_size=64,
        max_faces=300,
    )
    panel.locator("#rebuild-run").click()
    told(page, "rebuild", "Done.")
    with downloaded(page, "rebuild") as results:
        assert {"vase.glb", "contact.png", "turntable.gif"} <= set(results.namelist())


@pytest.mark.slow
def test_judging_and_answering_in_the_browser(page):
    page.get_by_role("tab", name="Judge").click()
    page.locator("#judge-picture input[type=file]").set_input_files(SCENE)
    page.locator("#judge-answers textarea").fill("a red object on white\na blue object on white")
    page.locator("#judge-run").click()
    told(page, "judge", "Done.")
    assert page.locator("#judge-reasons textarea").input_value()
    votes = page.locator("#judge-votes textarea").input_value()
    assert votes.count("a red object on white") >= 3 and votes.count("<think>") >= 2  # both orders, and the winner
    page.get_by_role("tab", name="Answer").click()
    page.locator("#answer-picture input[type=file]").set_input_files(SCENE)
    page.locator("#answer-choices textarea").fill("red\ngreen\nblue\nyellow")
    page.locator("#answer-run").click()
    told(page, "answer", "Done.")
    assert page.locator("#answer-final textarea").input_value().startswith("A. red")


def status(url: str, data: bytes | None = None, **headers: str) -> int:
    request = urllib.request.Request(url, data, {name.replace("_", "-"): value for name, value in headers.items()})
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            return reply.status
    except urllib.error.HTTPError as error:
        return error.code


def test_foreign_hosts_origins_and_paths_are_refused(address, folder):
    assert status(address) == 200
    assert status(address, Host="evil.example") == 403
    assert status(address + "config", Origin="http://evil.example") == 403
    secret = folder / "secret.txt"
    secret.write_text("mine")
    for path in ("/etc/passwd", str(secret), f"{folder}/results/../secret.txt", "../../etc/passwd"):
        assert status(f"{address}gradio_api/file={path}") in (403, 404), path


def test_large_uploads_are_refused(address):
    line = b"------x"
    head = b'\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
    body = line + head + bytes(2 * 1024**2) + b"\r\n" + line + b"--\r\n"
    kind = "multipart/form-data; boundary=----x"
    assert status(address + "gradio_api/upload", body, Content_Type=kind) == 413


def test_listening_for_others_needs_a_token(capsys):
    with pytest.raises(SystemExit):
        parse(["--host", "0.0.0.0"])
    assert "give a --token" in capsys.readouterr().err
    assert parse(["--host", "0.0.0.0", "--token", "x"]).token == "x"


def test_a_token_is_asked_for(folder):
    from scripts.web.page import serve

    with serve(WebOptions(folder=folder, port=0, token="secret")) as url:
        assert status(url + "config") == 401


def test_forms_show_every_plain_option_with_its_sentence_and_read_it_back():
    from restoration import ITEROptions

    form = Form(ITEROptions)
    assert sentences(ITEROptions)["seed"].startswith("Of the sampling")
    assert form.read([component.value for component in form.inputs]) == ITEROptions()
    typed = ["0.5" if name == "fidelity" else component.value for name, component in form.components.items()]
    assert form.read(typed) == ITEROptions(fidelity=0.5)
    with pytest.raises(ValueError, match="fidelity must be a number, got 'much'"):
        form.read(["much" if word == "0.5" else word for word in typed])
    with pytest.raises(ValueError, match="fidelity"):
        form.read([3 if name == "fidelity" else component.value for name, component in form.components.items()])


def test_jobs_are_watched_stopped_and_their_errors_told():
    def count(show):
        for number in range(1000):
            show(Event("progress", "counting", number, 1000))
            time.sleep(0.01)
        return "end"

    def fail(show):
        raise ValueError("It is broken.")

    states = watch(count, 60)
    assert next(states).text in ("beginning", "counting")
    states.close()
    *_, last = watch(count, 0.05)
    assert last.over and last.value is None and "the longest that this page allows" in last.error
    *_, last = watch(fail, 60)
    assert last.error == "It is broken."
    *_, last = watch(lambda show: 3, 60)
    assert last.value == 3 and last.error is None
