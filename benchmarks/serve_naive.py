"""A service as a plain script writes it: an async handler, a full decode, eager torch."""

import io
import os
import sys

import torch
import uvicorn
from fastapi import FastAPI, File, UploadFile
from PIL import Image
from torchvision import transforms

from benchmarks.predict import eager
from src.models.checkpoint import load_model

app = FastAPI()
model = load_model(os.environ["CORBEL_BENCH_CHECKPOINT"])
forward, names = eager(model), model.labels.names
size = model.hparams["preprocess"]["image_size"]
resize = transforms.Compose([transforms.Resize((size, size)), transforms.ToTensor()])
PHOTO = File()


@app.get("/health")
async def health() -> dict[str, str]:
    """Whether the process answers."""
    return {"status": "UP"}


@app.post("/predict")
async def predict(file: UploadFile = PHOTO) -> dict[str, str]:
    """Predict one photo."""
    image = resize(Image.open(io.BytesIO(await file.read())).convert("RGB"))
    with torch.no_grad():
        scores = forward((image[None] - model.mean) / model.std)[0]
    chosen = [name for name, p, t in zip(names, scores, model.thresholds, strict=True) if p >= t]
    return {"prediction": "_".join(["+".join(chosen), f"{scores.max():.2f}"])}


if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]), log_level="error")
