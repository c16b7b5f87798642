"""The page, clicked through in a headless Chromium, and what its server must refuse.

SGMG_SCREENSHOT names a file for a picture of the page; SGMG_PATIENCE is the seconds to wait;
SGMG_CHECKPOINT names the network of the genuine videos, which else is a tiny one.
"""

import json
import os
import shutil
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sgmg.inference.app import build_page, segment_upload
from sgmg.inference.command import masks_of
from sgmg.inference.predictor import Predictor
from sgmg.inference.video_io import open_frames
from tests.debian import MissingError, install
from tests.sgmg.inference.test_video_io import write_sound, write_video
from tests.sgmg.tiny import EXPRESSIONS, tiny_model

GENUINE = ["cutie_example", "sam2_bedroom", "sam2_gallery_01_dog", "sam2_gallery_05_default_juggle"]
PATIENCE = 1000 * int(os.environ.get("SGMG_PATIENCE", "60"))  # milliseconds


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor(tiny_model(), short_side=144, window=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good video, a bad one, a long one; `pick` holds what may be picked."""
    folder = tmp_path_factory.mktemp("videos")
    write_video(folder / "good.mp4", (64, 96))
    write_video(folder / "long.mp4", frames=30)
    write_sound(folder / "sound.mp4")
    (folder / "pick").mkdir()
    shutil.copy(folder / "good.mp4", folder / "pick/example.mp4")
    return folder


@pytest.fixture(scope="module")
def address(predictor: Predictor, folder: Path) -> Iterator[str]:
    pytest.importorskip("gradio", reason="no Gradio: install the extra `app`")
    page = build_page(predictor, folder / "pick", 20)
    page.launch(server_name="127.0.0.1", prevent_thread_lock=True, quiet=True, max_file_size="1mb")
    yield page.local_url
    page.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="no Playwright")
    try:
        install({"chromium": "chromium"})
    except MissingError as error:
        pytest.skip(f"no Chromium: {error}")
    with playwright.sync_playwright() as play:
        path = shutil.which("chromium")
        browser = play.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


def test_a_visitor_segments_a_video(address: str, browser: Any, folder: Path) -> None:
    page = browser.new_page(viewport={"width": 1280, "height": 1000})
    page.set_default_timeout(PATIENCE)
    page.goto(address)
    page.locator("#segment").click()
    page.get_by_text("no video: upload one, or pick one").wait_for()
    for name, said in (("sound.mp4", "sound.mp4 holds no video"), ("long.mp4", "at most 20")):
        page.locator("#upload input[type=file]").set_input_files(folder / name)
        page.locator("#upload").get_by_text(name.partition(".")[0]).first.wait_for()
        page.locator("#segment").click()
        page.get_by_text(said).first.wait_for()
        assert page.get_by_text(tempfile.gettempdir()).count() == 0
        page.locator("#upload").get_by_label("Clear").first.click()
    page.locator("#upload input[type=file]").set_input_files(folder / "good.mp4")
    page.locator("#upload").get_by_text("good").first.wait_for()
    page.locator("#texts textarea").fill("\n".join(EXPRESSIONS[:2]))
    page.locator("#segment").click()
    page.locator("#files").get_by_text("masks").first.wait_for()
    shown = page.locator("#image img")
    shown.wait_for()
    first = shown.get_attribute("src")
    page.locator("#frame input[type=number]").fill("7")
    page.locator("#frame input[type=number]").press("Enter")
    page.wait_for_function(
        "src => document.querySelector('#image img').getAttribute('src') != src", arg=first
    )
    page.get_by_text(EXPRESSIONS[0]).first.wait_for()
    with page.expect_download() as download:
        page.locator("#files a[download]").first.click()
    assert Path(download.value.path()).stat().st_size > 500
    if place := os.environ.get("SGMG_SCREENSHOT"):
        page.wait_for_timeout(1500)
        page.screenshot(path=place, full_page=True)
    page.close()


@pytest.mark.skipif("SGMG_LONG" not in os.environ, reason="a minute each: set SGMG_LONG=1")
@pytest.mark.parametrize("name", GENUINE)
def test_a_genuine_video_is_segmented(
    name: str, shared: Path, predictor: Predictor, request: pytest.FixtureRequest
) -> None:
    if checkpoint := os.environ.get("SGMG_CHECKPOINT"):
        predictor = Predictor.load(checkpoint, "cpu", short_side=144, window=16, continuity=0.3)
    video, told = shared / f"realdata/own_video/{name}.mp4", []
    frames, overlay, texts, scores = segment_upload(
        predictor, video, "a person\nthe one on the left", 900, told.append
    )
    request.addfinalizer(lambda: shutil.rmtree(overlay.parent))
    count = sum(1 for _ in frames)
    assert len(scores) == len(told) == count == sum(1 for _ in open_frames(overlay))
    assert all(len(row) == len(texts) == 2 and 0 <= min(row) <= max(row) <= 1 for row in scores)
    with zipfile.ZipFile(overlay.with_name("masks.zip")) as masks:
        assert sum(it.endswith(".png") for it in masks.namelist()) == 2 * count
    codes = json.loads((masks_of(overlay) / "masks.json").read_text())
    assert codes["frames"][-1]["segmentations"][0]["size"] == [*next(iter(frames)).shape[:2]]


def post(address: str, path: str, body: bytes, kind: str) -> str:
    request = urllib.request.Request(f"{address}{path}", body, {"Content-Type": kind})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return answer.read().decode()


def upload(address: str, name: str, content: bytes) -> str:
    """Path at which the server keeps an upload."""
    mark = b"--frontier"
    head = f'\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'.encode()
    body = mark + head + content + b"\r\n" + mark + b"--\r\n"
    kind = "multipart/form-data; boundary=frontier"
    return json.loads(post(address, "gradio_api/upload", body, kind))[0]


def segment_path(address: str, path: str) -> str:
    """What the server's events say to a request that names a file."""
    data = {"data": [{"path": path, "meta": {"_type": "gradio.FileData"}}, None, "a dog"]}
    called = post(address, "gradio_api/call/segment", json.dumps(data).encode(), "application/json")
    event = json.loads(called)["event_id"]
    with urllib.request.urlopen(f"{address}gradio_api/call/segment/{event}", timeout=60) as answer:
        return answer.read().decode()


@pytest.mark.parametrize(
    "name", ["../../../evil.mp4", "..\\..\\evil.mp4", "/etc/evil.mp4", "%2e%2e%2fevil.mp4", "..mp4"]
)
def test_uploads_stay_in_their_folder(address: str, name: str) -> None:
    kept = Path(upload(address, name, b"no video")).resolve()
    assert kept.is_relative_to(Path(tempfile.gettempdir()).resolve() / "gradio")
    assert not list(Path(tempfile.gettempdir()).glob("*evil*"))


def test_requests_reach_no_other_file(address: str, folder: Path, tmp_path: Path) -> None:
    secret = tmp_path.parent.parent / "secret.mp4"
    shutil.copy(folder / "good.mp4", secret)
    for path in (str(secret), "/etc/passwd", "../../etc/passwd"):
        assert "event: error" in segment_path(address, path)
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"{address}gradio_api/file={path}", timeout=30)
        assert refused.value.code in {403, 404}
    secret.unlink()
    with pytest.raises(urllib.error.HTTPError) as refused:
        upload(address, "big.mp4", bytes(2_000_000))
    assert refused.value.code == 413


def test_only_this_computer_is_served_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    from sgmg.inference import app

    told: dict[str, Any] = {}

    class Page:
        def launch(self, **settings: Any) -> None:
            told.update(settings)

    monkeypatch.setattr(app.Predictor, "load", lambda *_, **__: None)
    monkeypatch.setattr(app, "build_page", lambda *_: Page())
    app.app()
    assert told["server_name"] == "127.0.0.1"
    assert told["share"] is False
    assert told["max_file_size"] == "200mb"


def test_a_refused_upload_leaves_nothing(predictor: Predictor, folder: Path) -> None:
    before = set(Path(tempfile.gettempdir()).glob("sgmg-*"))
    for name, lines, said in (
        ("sound.mp4", "a dog", "holds no video"),
        ("long.mp4", "a dog", "at most 20"),
        ("good.mp4", " \n", "no expressions"),
        ("good.mp4", "\n".join(map(str, range(15))), "15 expressions: at most 14"),
    ):
        with pytest.raises(ValueError, match=said):
            segment_upload(predictor, folder / name, lines, 20, print)
    assert set(Path(tempfile.gettempdir()).glob("sgmg-*")) == before
