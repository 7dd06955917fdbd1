"""What video segmentation gets beside the network: frames, and the masks of some."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ibot.data.annotated.frames import Video, VideoFrames, open_videos
from ibot.eval.context import Context, OpenedData
from ibot.words import counted

if TYPE_CHECKING:
    from ibot.eval.request import Request


@dataclass(frozen=True, slots=True, kw_only=True)
class VideosContext(Context):
    """The network, its means, and videos."""

    frames: VideoFrames
    videos: tuple[Video, ...] = ()
    """Those that are judged; none: all."""

    @classmethod
    def open_data(cls, request: Request) -> OpenedData:
        """The videos that `request` names. Raises DataError."""
        frames = open_videos(
            request.data,
            request.images,
            request.labels,
            exif_orientation=request.exif_orientation,
            max_pixels=request.max_pixels,
        )
        return OpenedData({"frames": frames}, list(frames.notes))

    def fingerprints(self) -> dict[str, str]:
        """That of frames and masks."""
        return {"the frames": self.frames.fingerprint()}

    def num_images(self) -> tuple[int, int]:
        """Frames count as validation images."""
        return 0, sum(len(video.numbers) for video in self._judged)

    @property
    def _judged(self) -> tuple[Video, ...]:
        return self.videos or self.frames.videos

    def about_data(self) -> dict[str, Any]:
        """Root and fingerprint."""
        _, frames = self.num_images()
        return {
            "root": str(self.frames.root),
            "frames": self.frames.fingerprint(),
            "summary": f"{counted(frames, 'frame')} of {counted(len(self._judged), 'video')}",
        }

    def about_view(self) -> dict[str, Any]:
        """Frames keep their aspect: there is no square view."""
        return {"exif_orientation": self.exif_orientation}
