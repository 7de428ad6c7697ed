"""Predict a photo by a running service: `python examples/client.py photo.jpg [http://127.0.0.1:8000]`."""

import sys
import time
from pathlib import Path

import httpx


def main(photo: Path, service: str = "http://127.0.0.1:8000") -> None:
    """Print the prediction at once, then keep the photo and wait for its task."""
    with httpx.Client(base_url=service, timeout=60) as client:
        with open(photo, "rb") as file:
            answer = client.post("/predict", files={"file": (photo.name, file)})
        if answer.is_error:
            sys.exit(f"error: {answer.json()['detail']}")
        print(answer.json()["prediction"])
        with open(photo, "rb") as file:
            image = client.post("/api/upload", files={"file": (photo.name, file)}).raise_for_status().json()
        task = client.post("/api/predict", params={"id": image["id"]}).raise_for_status().json()["data"]
        while True:
            state = client.get(f"/api/tasks/{task['task_id']}").raise_for_status().json()
            if state["task_status"] not in ("PENDING", "STARTED"):
                break
            time.sleep(0.2)
        result = state["task_result"]
        print(f"photo {image['id']}: {result['prediction'] if result else state['error']}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
