"""Predict a photo by a running service: `python examples/client.py photo.jpg [http://127.0.0.1:8000]`.

Where the service has keys, one stands in the environment variable CORBEL_API_KEY.
"""

import os
import sys
import time
from pathlib import Path

import httpx


def main(photo: Path, service: str = "http://127.0.0.1:8000") -> None:
    """Print the prediction at once, then keep the photo and wait for its task."""
    content = photo.read_bytes()
    headers = {"X-API-Key": os.environ.get("CORBEL_API_KEY", "")}
    with httpx.Client(
        base_url=service, headers=headers, timeout=60, event_hooks={"response": [check]}
    ) as client:
        answer = client.post("/predict", files={"file": (photo.name, content)})
        print(answer.json()["prediction"])
        image = client.post("/api/upload", files={"file": (photo.name, content)}).json()
        task = client.post("/api/predict", params={"id": image["id"]}).json()["data"]
        while True:
            state = client.get(f"/api/tasks/{task['task_id']}").json()
            if state["task_status"] not in ("PENDING", "STARTED"):
                break
            time.sleep(0.2)
        result = state["task_result"]
        print(f"photo {image['id']}: {result['prediction'] if result else state['error']}")


def check(answer: httpx.Response) -> None:
    """End with the service's own sentence where it refuses a request."""
    if answer.is_error:
        answer.read()
        is_problem = "json" in answer.headers.get("content-type", "")
        sys.exit(f"error: {answer.json()['detail'] if is_problem else answer.reason_phrase}")


if __name__ == "__main__":
    if not 2 <= len(sys.argv) <= 3:
        sys.exit("error: name a photo: python examples/client.py photo.jpg [http://127.0.0.1:8000]")
    try:
        main(Path(sys.argv[1]), *sys.argv[2:])
    except (OSError, httpx.HTTPError, httpx.InvalidURL) as error:
        sys.exit(f"error: {error}")
