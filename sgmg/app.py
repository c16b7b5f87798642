"""`python -m sgmg app`: a web page that segments what expressions name in one's own video."""

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sgmg.predict import DEMO, check_expressions, masks_of, segment
from sgmg.predictor import Predictor
from sgmg.video import Frames, Pixels, frame_at, open_frames

MOST_TEXTS = 16
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
    continuity: float = 0.3,
    short_side: int = 360,
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
        continuity: how much a window holds on to the object of the one before; 0 as published.
        short_side: frames are resized to this short side, in pixels.
        device: where the network runs.
    """
    predictor = Predictor.load(
        checkpoint, device=device, window=window, continuity=continuity, short_side=short_side
    )
    page = build_page(Session(predictor, videos, most_frames))
    page.launch(server_name=host, server_port=port, max_file_size=f"{upload_mb}mb", share=False)


@dataclass(frozen=True)
class Result:
    """What a visitor made.

    Args:
        overlay: Its file; the folder around it holds the result and nothing else.
        scores: Of each expression, one list a frame.
        frames: Of the video.
    """

    overlay: Path
    scores: list[list[float]]
    frames: Frames

    def picture(self, number: int) -> Pixels:
        """Overlay [H, W, 3] of a frame."""
        if self.frames.still:
            return next(iter(open_frames(self.overlay)))
        return frame_at(self.overlay, number, self.frames.rate)

    def forget(self) -> None:
        """Delete the files."""
        shutil.rmtree(self.overlay.parent, ignore_errors=True)


@dataclass(frozen=True)
class Session:
    """What the page does, without the page.

    Args:
        predictor: With a window.
        videos: Folder of videos to pick from.
        most_frames: Longer videos are refused.
    """

    predictor: Predictor
    videos: Path | None
    most_frames: int

    def choices(self) -> list[str]:
        """Names of the videos to pick from.

        Raises:
            ValueError: Their folder does not exist.
        """
        if self.videos is None:
            return []
        if not self.videos.is_dir():
            raise ValueError(f"--videos {self.videos}: no such folder")
        return sorted(it.name for it in self.videos.iterdir() if it.is_file())

    def run(
        self, upload: str | None, picked: str | None, texts: list[str], progress: Any
    ) -> Result:
        """Segment an upload, or else what was picked; `progress` is called with (done, all).

        Raises:
            ValueError: It cannot be; the message is for the visitor.
        """
        check_expressions(texts)
        if len(texts) > MOST_TEXTS:
            raise ValueError(f"{len(texts)} expressions: at most {MOST_TEXTS} at a time")
        if upload is None and (self.videos is None or picked not in self.choices()):
            raise ValueError("no video: upload one, or pick one")
        frames = open_frames(upload or f"{self.videos}/{picked}")
        total, most = frames.count or self.most_frames, self.most_frames
        if frames.count > most:
            raise ValueError(
                f"{frames.path.name} has {total} frames, at most {most} can be: cut it"
            )
        folder = Path(tempfile.mkdtemp(prefix="sgmg-"))
        out = folder / ("overlay.png" if frames.still else "overlay.mp4")
        try:
            scores = segment(
                *(self.predictor, frames, texts, out),
                progress=lambda number: progress((number + 1, total)),
                most_frames=most,
            )
        except BaseException:
            shutil.rmtree(folder)
            raise
        shutil.make_archive(str(folder / "masks"), "zip", masks_of(out))
        return Result(out, scores, frames)


def build_page(session: Session) -> Any:
    """Lay out the page: a `gradio.Blocks`, not yet served.

    Raises:
        ValueError: Gradio is not installed, or there is no folder to pick from.
    """
    try:
        import gradio as gr
        import pandas as pd
    except ImportError:
        raise ValueError("the page needs Gradio: pip install 'sgmg-on-shards[app]'") from None
    choices = session.choices()

    def run(
        upload: str | None,
        picked: str | None,
        lines: str,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 (how Gradio finds it)
    ) -> list[Any]:
        texts = [line.strip() for line in lines.splitlines() if line.strip()]
        try:
            result = session.run(upload, picked, texts, progress)
        except (ValueError, OSError) as error:
            raise gr.Error(str(error), duration=None) from None
        plot = pd.DataFrame(result.scores, columns=texts).rename_axis("frame").reset_index()
        plot = plot.melt("frame", var_name="expression", value_name="score")
        slider = gr.Slider(0, max(len(result.scores) - 1, 1), 0, step=1, interactive=True)
        files = [str(result.overlay), str(result.overlay.with_name("masks.zip"))]
        return [result, result.picture(0), slider, plot, files]

    def show(result: Result | None, number: int) -> Pixels | None:
        return result.picture(int(number)) if result else None

    with gr.Blocks(title="SgMg", analytics_enabled=False, delete_cache=(HOUR, HOUR)) as page:
        result = gr.State(
            None, time_to_live=HOUR, delete_callback=lambda it: it.forget() if it else None
        )
        gr.Markdown(ABOUT)
        with gr.Row():
            with gr.Column():
                upload = gr.File(label="Video or image", type="filepath", elem_id="upload")
                picked = gr.Dropdown(
                    choices, label="or pick one", visible=bool(choices), value=None
                )
                texts = gr.Textbox(EXAMPLE, lines=3, label="Expressions", elem_id="texts")
                button = gr.Button("Segment", variant="primary", elem_id="segment")
                files = gr.File(label="Overlay and masks", file_count="multiple", elem_id="files")
            with gr.Column(scale=2):
                image = gr.Image(show_label=False, elem_id="image")
                slider = gr.Slider(0, 1, 0, step=1, label="Frame", elem_id="frame")
                plot = gr.LinePlot(
                    x="frame", y="score", color="expression", y_lim=[0, 1], elem_id="scores"
                )
        button.click(
            run, [upload, picked, texts], [result, image, slider, plot, files], api_name="segment"
        )
        slider.change(show, [result, slider], image, show_progress="hidden")
    return page
