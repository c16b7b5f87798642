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

import numpy as np
import pytest

from sgmg.inference.app import build_page, segment_upload
from sgmg.inference.predictor import Predictor
from sgmg.inference.video_io import open_frames
from tests.debian import MissingError, install
from tests.sgmg.inference.videos import NUM_FRAMES, write_sound, write_video
from tests.sgmg.tiny import EXPRESSIONS, tiny_model

GENUINE = ["cutie_example", "sam2_bedroom", "sam2_gallery_01_dog", "sam2_gallery_05_default_juggle"]
TIMEOUT_MS = 1000 * int(os.environ.get("SGMG_PATIENCE", "60"))


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor(tiny_model(), short_side=144, window=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good video, a bad one, a long one; `pick` holds what may be picked."""
    folder = tmp_path_factory.mktemp("videos")
    write_video(folder / "good.mp4", (64, 96))
    write_video(folder / "long.mp4", num_frames=30)
    write_sound(folder / "sound.mp4")
    (folder / "pick").mkdir()
    shutil.copy(folder / "good.mp4", folder / "pick/example.mp4")
    return folder


@pytest.fixture(scope="module")
def address(predictor: Predictor, folder: Path) -> Iterator[str]:
    pytest.importorskip("gradio", reason="no Gradio: install the extra `app`")
    page = build_page(predictor, folder / "pick", 20)
    page.launch(server_name="127.0.0.1", prevent_thread_lock=True, quiet=True, max_file_size="1mb")
    assert page.local_url is not None
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
    page.set_default_timeout(TIMEOUT_MS)
    page.goto(address)
    page.locator("#segment").click()
    page.get_by_text("no video: upload one, or pick one").wait_for()
    refusals = (("sound.mp4", "sound.mp4 holds no video"), ("long.mp4", "at most 20"))
    for name, message in refusals:
        page.locator("#upload input[type=file]").set_input_files(folder / name)
        page.locator("#upload").get_by_text(name.partition(".")[0]).first.wait_for()
        page.locator("#segment").click()
        page.get_by_text(message).first.wait_for()
        assert page.get_by_text(tempfile.gettempdir()).count() == 0
        page.locator("#upload").get_by_label("Clear").first.click()
    page.locator("#upload input[type=file]").set_input_files(folder / "good.mp4")
    page.locator("#upload").get_by_text("good").first.wait_for()
    page.locator("#expressions textarea").fill("\n".join(EXPRESSIONS[:2]))
    page.locator("#segment").click()
    page.locator("#files").get_by_text("masks").first.wait_for()
    image = page.locator("#image img")
    image.wait_for()
    first_source = image.get_attribute("src")
    page.locator("#frame input[type=number]").fill("7")
    page.locator("#frame input[type=number]").press("Enter")
    page.wait_for_function(
        "src => document.querySelector('#image img').getAttribute('src') != src", arg=first_source
    )
    page.get_by_text(EXPRESSIONS[0]).first.wait_for()
    with page.expect_download() as download:
        page.locator("#files a[download]").first.click()
    assert Path(download.value.path()).stat().st_size > 500
    screenshot = os.environ.get("SGMG_SCREENSHOT")
    if screenshot:
        page.wait_for_timeout(1500)  # the plot moves until then
        page.screenshot(path=screenshot, full_page=True)
    page.close()


@pytest.mark.skipif("SGMG_LONG" not in os.environ, reason="a minute each: set SGMG_LONG=1")
@pytest.mark.parametrize("name", GENUINE)
def test_a_genuine_video_is_segmented(
    name: str, shared: Path, predictor: Predictor, request: pytest.FixtureRequest
) -> None:
    checkpoint = os.environ.get("SGMG_CHECKPOINT")
    if checkpoint:
        predictor = Predictor.load(checkpoint, "cpu", short_side=144, window=16, continuity=0.3)
    path = shared / f"realdata/own_video/{name}.mp4"
    steps: list[tuple[int, int]] = []
    result = segment_upload(predictor, path, "a person\nthe one on the left", 900, steps.append)
    request.addfinalizer(result.delete)
    num_frames = sum(1 for _ in result.frames)
    scores = result.video.scores
    assert len(scores) == len(steps) == num_frames
    assert num_frames == sum(1 for _ in open_frames(result.video.overlay))
    for row in scores:
        assert len(row) == len(result.expressions) == 2
        assert 0 <= min(row) <= max(row) <= 1
    with zipfile.ZipFile(result.archive) as archive:
        assert sum(file.endswith(".png") for file in archive.namelist()) == 2 * num_frames
    document = json.loads((result.video.masks / "masks.json").read_text())
    size = [*next(iter(result.frames)).shape[:2]]
    assert document["frames"][-1]["segmentations"][0]["size"] == size


def test_a_result_shows_its_frames_until_it_is_deleted(predictor: Predictor, folder: Path) -> None:
    steps: list[tuple[int, int]] = []
    lines = f"{EXPRESSIONS[0]}\n\n  {EXPRESSIONS[1]} \n{EXPRESSIONS[0]}\n"
    result = segment_upload(predictor, folder / "good.mp4", lines, 20, steps.append)
    assert result.expressions == list(EXPRESSIONS[:2])
    assert steps == [(index + 1, NUM_FRAMES) for index in range(NUM_FRAMES)]
    assert np.shape(result.video.scores) == (NUM_FRAMES, 2)
    first, last = result.overlay_frame(0), result.overlay_frame(NUM_FRAMES - 1)
    assert first.shape == last.shape == (64, 96, 3)
    assert not np.array_equal(first, last)
    assert result.video.overlay.is_relative_to(result.folder)
    assert result.archive.is_relative_to(result.folder)
    result.delete()
    assert not result.folder.exists()


def post(address: str, path: str, body: bytes, content_type: str) -> str:
    """What the server answers."""
    headers = {"Content-Type": content_type}
    request = urllib.request.Request(f"{address}{path}", body, headers)
    with urllib.request.urlopen(request, timeout=30) as response:
        return response.read().decode()


def upload(address: str, name: str, content: bytes) -> str:
    """Path at which the server keeps an upload."""
    boundary = b"--frontier"
    head = f'\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'.encode()
    body = boundary + head + content + b"\r\n" + boundary + b"--\r\n"
    content_type = "multipart/form-data; boundary=frontier"
    return json.loads(post(address, "gradio_api/upload", body, content_type))[0]


def segment_path(address: str, path: str) -> str:
    """What the server's events say to a request that names a file."""
    data = {"data": [{"path": path, "meta": {"_type": "gradio.FileData"}}, None, "a dog"]}
    body = json.dumps(data).encode()
    call = post(address, "gradio_api/call/segment", body, "application/json")
    event = json.loads(call)["event_id"]
    url = f"{address}gradio_api/call/segment/{event}"
    with urllib.request.urlopen(url, timeout=60) as response:
        return response.read().decode()


@pytest.mark.parametrize(
    "name", ["../../../evil.mp4", "..\\..\\evil.mp4", "/etc/evil.mp4", "%2e%2e%2fevil.mp4", "..mp4"]
)
def test_uploads_stay_in_their_folder(address: str, name: str) -> None:
    stored = Path(upload(address, name, b"no video")).resolve()
    assert stored.is_relative_to(Path(tempfile.gettempdir()).resolve() / "gradio")
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

    launch_settings: dict[str, object] = {}

    class Page:
        def launch(self, **settings: object) -> None:
            launch_settings.update(settings)

    monkeypatch.setattr(Predictor, "load", lambda *_, **__: None)
    monkeypatch.setattr(app, "build_page", lambda *_: Page())
    app.app()
    assert launch_settings["server_name"] == "127.0.0.1"
    assert launch_settings["share"] is False
    assert launch_settings["max_file_size"] == "200mb"


def test_a_refused_upload_leaves_nothing(predictor: Predictor, folder: Path) -> None:
    before = set(Path(tempfile.gettempdir()).glob("sgmg-*"))
    refusals = (
        ("sound.mp4", "a dog", "holds no video"),
        ("long.mp4", "a dog", "at most 20"),
        ("good.mp4", " \n", "no expressions"),
        ("good.mp4", "\n".join(map(str, range(15))), "15 expressions: at most 14"),
    )
    for name, lines, message in refusals:
        with pytest.raises(ValueError, match=message):
            segment_upload(predictor, folder / name, lines, 20, print)
    assert set(Path(tempfile.gettempdir()).glob("sgmg-*")) == before
