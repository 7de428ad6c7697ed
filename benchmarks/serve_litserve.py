"""The same engine and decoder as the service, behind LitServe."""

import os
import sys

import litserve
from fastapi import Request

from src.inference.predictor import Prediction, Predictor


class Api(litserve.LitAPI):
    """One photo a request, as the service answers it."""

    def setup(self, device: str) -> None:
        """Load the exported model."""
        self.predictor = Predictor.load(os.environ["CORBEL_BENCH_ONNX"], batch_size=1, num_workers=0)

    def decode_request(self, request: Request) -> bytes:
        """Return the photo's content."""
        return request["file"].file.read()

    def predict(self, content: bytes) -> Prediction:
        """Predict it."""
        return self.predictor.predict(content)

    def encode_response(self, found: Prediction) -> dict[str, str]:
        """Return the answer's body."""
        return {"prediction": found.text}


if __name__ == "__main__":
    workers = os.cpu_count() or 1
    server = litserve.LitServer(Api(), accelerator="cpu", workers_per_device=workers, timeout=120)
    server.run(port=int(sys.argv[1]), host="127.0.0.1", generate_client_file=False, log_level="error")
