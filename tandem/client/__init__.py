"""The SDK for submitters.

async with TandemClient("http://localhost:8080", key="tdm_…") as client:
    video = await client.upload(Path("clip.mp4"))
    job = await client.submit(transcode(video.id))
    async for update in client.watch(job.id):
        print(update.state, update.percent)
    await client.download_folder(job.id, Path("out"))
"""

from tandem.client.client import TandemClient
from tandem.client.inference import Inference
from tandem.client.requests import batch_inference, transcode
from tandem.client.updates import JobUpdate

__all__ = ["Inference", "JobUpdate", "TandemClient", "batch_inference", "transcode"]
