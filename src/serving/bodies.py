"""Bodies of answers and requests; the originals' shapes where they had one."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Origin(BaseModel):
    """The model that answered, its preprocessing, and the photo."""

    model_id: str = Field(examples=["5f0c1f0c9a3b7e21"])
    preprocessing: str = Field(examples=["9b1d2c3e4f506172"])
    sha256: str = Field(examples=["e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"])


class Predicted(Origin):
    """The prediction of one photo; with `detail=true` the labels and probabilities, too."""

    prediction: str = Field(examples=["Circular Connection_Drummy_0.85"])
    raw: dict[str, Any] | None = None
    request_id: str | None = None
    confidence_scores: dict[str, float] | None = None
    response_time_sec: float | None = None
    timestamp: str | None = None


class PredictedDefect(Origin):
    """The prediction of one photo with the probability of each label."""

    prediction: str
    probabilities: dict[str, float]


class BatchItem(BaseModel):
    """The result, or the error, of one file of a batch."""

    filename: str
    prediction: str | None = None
    confidence: float | None = None
    labels: dict[str, list[str]] | None = None
    sha256: str | None = None
    error: str | None = None


class Batch(BaseModel):
    """The results of a batch, in the order of its files."""

    model_id: str
    preprocessing: str
    results: list[BatchItem]


class Review(BaseModel):
    """An inspector's decision on a photo."""

    decision: Literal["confirmed", "corrected"]
    labels: dict[str, list[str]]
    comment: str
    reviewer: str
    at: float


class Image(BaseModel):
    """A stored photo; its bytes are at `/api/images/{id}/file`."""

    id: int
    filename: str
    sha256: str
    width: int
    height: int
    ground_truth: str | None = None
    created_at: float
    predictions: dict[str, float] | None = Field(None, description="probabilities, the highest first")
    prediction: str | None = None
    labels: dict[str, list[str]] | None = None
    confidence: float | None = None
    model_id: str | None = None
    preprocessing: str | None = None
    predicted_at: float | None = None
    review: Review | None = None


class Images(BaseModel):
    """A page of photos."""

    data: list[Image]
    total: int
    offset: int
    limit: int


class OneImage(BaseModel):
    """One photo."""

    data: Image


class Task(BaseModel):
    """A job that was taken."""

    task_id: str
    status: str


class TaskTaken(BaseModel):
    """The answer to a job."""

    data: Task
    message: str = "Task received"


class TaskState(BaseModel):
    """A job and its result."""

    task_id: str
    task_status: Literal["PENDING", "STARTED", "SUCCESS", "FAILURE", "DEAD"]
    task_result: dict[str, Any] | None = None
    error: str | None = None


class Decision(BaseModel):
    """An inspector's decision: to confirm the prediction, or to correct it."""

    model_config = ConfigDict(extra="forbid")

    decision: Literal["confirm", "correct"]
    labels: dict[str, list[str]] | None = Field(None, description="of each kind; needed to correct")
    comment: str = Field("", max_length=2000)
    reviewer: str = Field("", max_length=200)


class Activate(BaseModel):
    """The run to serve from now on."""

    model_config = ConfigDict(extra="forbid")

    run: str = Field(examples=["outputs/dual_head/2026-01-31_12-00-00"], max_length=1000)
    force: bool = Field(False, description="although it does not know labels of reviews")


class Problem(BaseModel):
    """An error as RFC 9457 has it."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    code: str
    request_id: str


def files(*types: str) -> dict[int | str, dict[str, Any]]:
    """Return the entry of OpenAPI for an answer that is a file of one of some media types."""
    return {200: {"description": "the file", "content": {name: {} for name in types}}}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the entries of OpenAPI for answers with an error."""
    content = {"application/problem+json": {"schema": Problem.model_json_schema()}}
    entry = {"description": "an error, as RFC 9457 has it", "content": content}
    return dict.fromkeys(statuses, entry)
