"""`python -m sgmg app`: a web page that segments what expressions name in one's own video."""

import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from sgmg.inference.command import DEMO, check_expressions, masks_of, segment
from sgmg.inference.predictor import Predictor
from sgmg.inference.video_io import Frames, frame_at, open_frames
from sgmg.masks.overlay import PALETTE

ABOUT = "# What do you see?\nA video, an expression a line: the masks of what they name."
EXAMPLE = "the person\nthe animal on the left"
HOUR = 3600  # seconds a result is kept


def app(
    checkpoint: str = str(DEMO),
    videos: Path | None = None,
    host: str = "127.0.0.1",
    port: int = 7860,
    upload_mb: int = 200,
    most_frames: int = 900,
    window: int = 16,
    device: str = "cuda" if torch.cuda.is_available() else "cpu",
) -> None:
    """Serve the web page.

    Args:
        checkpoint: model folder, run folder of train.py, or Hugging Face repository.
        videos: folder of videos that visitors may pick from.
        host: address to listen on; the default can be reached from this computer only.
        port: port to listen on.
        upload_mb: largest upload, in megabytes.
        most_frames: longest video, in frames.
        window: frames looked at together; memory grows with it.
        device: where the network runs.
    """
    predictor = Predictor.load(checkpoint, device, window=window, continuity=0.3)
    page = build_page(predictor, videos, most_frames)
    page.launch(server_name=host, server_port=port, max_file_size=f"{upload_mb}mb", share=False)


def segment_upload(
    predictor: Predictor, path: Path, lines: str, most_frames: int, progress: Callable[..., Any]
) -> tuple[Frames, Path, list[str], list[list[float]]]:
    """Segment a file into a folder of its own.

    Args:
        predictor: With a window.
        path: The file.
        lines: An expression each.
        most_frames: Longer videos are refused.
        progress: Called with ``(done, all)``.

    Returns:
        The frames, the overlay's file, the expressions, and their scores, one list a frame.

    Raises:
        ValueError: It cannot be; the message is for the visitor.
    """
    texts = list(dict.fromkeys(line.strip() for line in lines.splitlines() if line.strip()))
    check_expressions(texts)
    if len(texts) > len(PALETTE):
        raise ValueError(f"{len(texts)} expressions: at most {len(PALETTE)} at a time")
    frames = open_frames(path)
    if frames.count > most_frames:
        raise ValueError(f"{path.name} has {frames.count} frames, at most {most_frames}: cut it")

    def tell(number: int) -> None:
        progress((number + 1, frames.count or most_frames))

    folder = Path(tempfile.mkdtemp(prefix="sgmg-"))
    try:
        overlay, scores = segment(
            predictor, frames, texts, folder / "overlay.mp4", progress=tell, most_frames=most_frames
        )
        shutil.make_archive(str(folder / "masks"), "zip", masks_of(overlay))
    except BaseException:
        shutil.rmtree(folder)
        raise
    return frames, overlay, texts, scores


def build_page(predictor: Predictor, videos: Path | None, most_frames: int) -> Any:
    """Lay out the page: a `gradio.Blocks`, not yet served.

    Raises:
        ValueError: Gradio is not installed, or there is no folder to pick from.
    """
    try:
        import gradio as gr
        import pandas as pd
    except ImportError:
        raise ValueError("the page needs Gradio: pip install 'sgmg-on-shards[app]'") from None
    if videos and not videos.is_dir():
        raise ValueError(f"--videos {videos}: no such folder")
    choices = {it.name: it for it in sorted(videos.iterdir()) if it.is_file()} if videos else {}
    progress = gr.Progress()

    def run(upload: str | None, picked: str | None, lines: str, progress: Any = progress) -> Any:
        path = Path(upload) if upload else choices.get(picked or "")
        try:
            if path is None:
                raise ValueError("no video: upload one, or pick one")
            made = segment_upload(predictor, path, lines, most_frames, progress)
        except (ValueError, OSError) as error:
            where = f"{path and path.parent}/"  # that the server keeps it there is not said
            raise gr.Error(str(error).replace(where, ""), duration=None) from None
        frames, overlay, texts, scores = made
        plot = pd.DataFrame(scores, columns=texts).rename_axis("frame").reset_index()
        plot = plot.melt("frame", var_name="expression", value_name="score")
        colours = {t: f"rgb{colour}" for t, colour in zip(texts, PALETTE, strict=False)}
        plot = gr.LinePlot(plot, color_map=colours)
        show = partial(frame_at, overlay, rate=frames.rate)
        slider = gr.Slider(0, max(len(scores) - 1, 1), 0, step=1)
        return show, show(0), slider, plot, [str(overlay), str(overlay.with_name("masks.zip"))]

    def forget(show: Any) -> None:
        if show:
            shutil.rmtree(show.args[0].parent, ignore_errors=True)

    with gr.Blocks(title="SgMg", analytics_enabled=False, delete_cache=(HOUR, HOUR)) as page:
        show = gr.State(None, time_to_live=HOUR, delete_callback=forget)
        gr.Markdown(ABOUT)
        with gr.Row():
            with gr.Column():
                upload = gr.File(label="Video or image", elem_id="upload")
                picked = gr.Dropdown([*choices], value=None, label="or pick", visible=bool(choices))
                texts = gr.Textbox(EXAMPLE, lines=3, label="Expressions", elem_id="texts")
                button = gr.Button("Segment", variant="primary", elem_id="segment")
                files = gr.File(label="Overlay and masks", file_count="multiple", elem_id="files")
            with gr.Column(scale=2):
                image = gr.Image(show_label=False, elem_id="image")
                slider = gr.Slider(0, 1, 0, step=1, label="Frame", elem_id="frame")
                plot = gr.LinePlot(x="frame", y="score", color="expression", y_lim=[0, 1])
        outputs = [show, image, slider, plot, files]
        button.click(run, [upload, picked, texts], outputs, api_name="segment")
        slider.change(lambda show, t: show and show(int(t)), [show, slider], image)
    return page
