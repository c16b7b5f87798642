"""`python -m sgmg app`: a web page that segments what expressions name in one's own video."""

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import torch
import tyro

from sgmg.inference.command import DEMO, check_expressions
from sgmg.inference.predictor import Predictor
from sgmg.inference.segment_video import SegmentedVideo, segment_video
from sgmg.inference.video_io import Frames, Pixels, frame_at, open_frames
from sgmg.masks.overlay import PALETTE

if TYPE_CHECKING:
    import gradio

ABOUT = "# What do you see?\nA video, an expression a line: the masks of what they name."
EXAMPLE = "the person\nthe animal on the left"
RESULT_LIFETIME_S = 3600
CONTINUITY = 0.3  # as the command `predict` has it by default


def app(
    checkpoint: str = str(DEMO),
    videos: Path | None = None,
    host: str = "127.0.0.1",
    port: int = 7860,
    upload_mb: int = 200,
    max_frames: Annotated[int, tyro.conf.arg(name="most-frames")] = 900,
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
        max_frames: longest video, in frames.
        window: frames looked at together; memory grows with it.
        device: where the network runs.
    """
    predictor = Predictor.load(checkpoint, device, window=window, continuity=CONTINUITY)
    page = build_page(predictor, videos, max_frames)
    page.launch(server_name=host, server_port=port, max_file_size=f"{upload_mb}mb", share=False)


@dataclass(frozen=True)
class PageResult:
    """A segmented video that a visitor looks at; all its files lie in one temporary folder.

    Attributes:
        folder: The temporary folder.
        frames: The visitor's video.
        expressions: E expressions.
        video: Overlay, masks and scores.
        archive: Zip of the masks.
    """

    folder: Path
    frames: Frames
    expressions: list[str]
    video: SegmentedVideo
    archive: Path

    def overlay_frame(self, index: int) -> Pixels:
        """A frame of the overlay, RGB [H, W, 3]."""
        return frame_at(self.video.overlay, index, self.frames.rate)

    def delete(self) -> None:
        """Remove all files."""
        shutil.rmtree(self.folder, ignore_errors=True)


def segment_upload(
    predictor: Predictor,
    path: Path,
    lines: str,
    max_frames: int,
    progress: Callable[[tuple[int, int]], object],
) -> PageResult:
    """Segment a file into a temporary folder.

    Args:
        predictor: With a window.
        path: Video or image of the visitor.
        lines: An expression a line.
        max_frames: Longer videos are refused.
        progress: Called with the numbers of frames done and to do.

    Raises:
        ValueError: The video or an expression cannot be used; the message is for the visitor.
    """
    stripped_lines = [line.strip() for line in lines.splitlines()]
    # An expression that stands there twice is answered once; a dict keeps the order.
    expressions = list(dict.fromkeys(line for line in stripped_lines if line))
    check_expressions(expressions)
    if len(expressions) > len(PALETTE):
        raise ValueError(f"{len(expressions)} expressions: at most {len(PALETTE)} at a time")
    frames = open_frames(path)
    if frames.num_frames > max_frames:
        raise ValueError(
            f"{path.name} has {frames.num_frames} frames, at most {max_frames}: cut it"
        )

    def report_frame(index: int) -> None:
        progress((index + 1, frames.num_frames or max_frames))

    folder = Path(tempfile.mkdtemp(prefix="sgmg-"))
    try:
        video = segment_video(
            predictor,
            frames,
            expressions,
            folder / "overlay.mp4",
            progress=report_frame,
            max_frames=max_frames,
        )
        archive = shutil.make_archive(str(folder / "masks"), "zip", video.masks)
    except BaseException:  # also if the server is stopped meanwhile
        shutil.rmtree(folder)
        raise
    return PageResult(folder, frames, expressions, video, Path(archive))


def build_page(predictor: Predictor, videos: Path | None, max_frames: int) -> "gradio.Blocks":
    """Lay out the page, which is not yet served.

    Raises:
        ValueError: Gradio is not installed, or there is no folder to pick from.
    """
    try:
        import gradio as gr
    except ImportError:
        raise ValueError("the page needs Gradio: pip install 'sgmg-on-shards[app]'") from None
    choices = _files_by_name(videos)
    progress_bar = gr.Progress()

    # Gradio 6.31 fills in a progress bar where a parameter has one as its default.
    def on_segment(
        upload: str | None,
        choice: str | None,
        lines: str,
        progress: gr.Progress = progress_bar,
    ) -> tuple[PageResult, Pixels, gr.Slider, gr.LinePlot, list[str]]:
        path = Path(upload) if upload else choices.get(choice or "")
        if path is None:
            raise gr.Error("no video: upload one, or pick one", duration=None)
        try:
            result = segment_upload(predictor, path, lines, max_frames, progress)
        except (ValueError, OSError) as error:
            # Where the server keeps uploads is none of the visitor's business.
            message = str(error).replace(f"{path.parent}/", "")
            raise gr.Error(message, duration=None) from None
        last_index = len(result.video.scores) - 1
        return (
            result,
            result.overlay_frame(0),
            gr.Slider(0, max(last_index, 1), 0, step=1),
            _score_plot(result),
            [str(result.video.overlay), str(result.archive)],
        )

    def on_frame(result: PageResult | None, index: float) -> Pixels | None:
        return result.overlay_frame(int(index)) if result else None

    def on_expiry(result: PageResult | None) -> None:
        if result:
            result.delete()

    cache_times_s = (RESULT_LIFETIME_S, RESULT_LIFETIME_S)  # between cleanings, of a file
    with gr.Blocks(title="SgMg", analytics_enabled=False, delete_cache=cache_times_s) as page:
        result = gr.State(None, time_to_live=RESULT_LIFETIME_S, delete_callback=on_expiry)
        gr.Markdown(ABOUT)
        with gr.Row():
            with gr.Column():
                upload = gr.File(label="Video or image", elem_id="upload")
                choice = gr.Dropdown([*choices], value=None, label="or pick", visible=bool(choices))
                lines = gr.Textbox(EXAMPLE, lines=3, label="Expressions", elem_id="expressions")
                button = gr.Button("Segment", variant="primary", elem_id="segment")
                files = gr.File(label="Overlay and masks", file_count="multiple", elem_id="files")
            with gr.Column(scale=2):
                image = gr.Image(show_label=False, elem_id="image")
                slider = gr.Slider(0, 1, 0, step=1, label="Frame", elem_id="frame")
                plot = gr.LinePlot(x="frame", y="score", color="expression", y_lim=[0, 1])
        outputs = [result, image, slider, plot, files]
        button.click(on_segment, [upload, choice, lines], outputs, api_name="segment")
        slider.change(on_frame, [result, slider], image)
    return page


def _files_by_name(folder: Path | None) -> dict[str, Path]:
    """Files that visitors may pick from, by the name they see.

    Raises:
        ValueError: There is no such folder.
    """
    if folder is None:
        return {}
    if not folder.is_dir():
        raise ValueError(f"--videos {folder}: no such folder")
    return {path.name: path for path in sorted(folder.iterdir()) if path.is_file()}


def _score_plot(result: PageResult) -> "gradio.LinePlot":
    """Scores over the frames, a line an expression in the colour of its masks."""
    # Here, as only the page needs them: both come with the extra `app`.
    import gradio as gr
    import pandas as pd

    table = pd.DataFrame(result.video.scores, columns=result.expressions)
    table = table.rename_axis("frame").reset_index()
    # From a column an expression to a row a frame and expression, as the plot wants it.
    rows = table.melt("frame", var_name="expression", value_name="score")
    colours = {}
    for expression, colour in zip(result.expressions, PALETTE, strict=False):
        colours[expression] = f"rgb{colour}"
    return gr.LinePlot(rows, color_map=colours)
