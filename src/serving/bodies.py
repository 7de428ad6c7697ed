"""Bodies of answers and requests; the originals' shapes where they had one."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

Labels = dict[str, list[str]]
Text = Annotated[str, Field(pattern=r"^[^\x00]*$")]  # what databases and tables can hold
Status = Literal["PENDING", "STARTED", "SUCCESS", "FAILURE", "DEAD"]


class Origin(BaseModel):
    """The model that answered, and its preprocessing."""

    model_id: str = Field(examples=["5f0c1f0c9a3b7e21"])
    preprocessing: str = Field(examples=["9b1d2c3e4f506172"])


class Predicted(Origin):
    """The prediction of one photo; with `detail=true` all that there is to say of it."""

    sha256: str = Field(examples=["e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"])
    prediction: str = Field(examples=["Circular Connection_Drummy_0.85"])
    probabilities: dict[str, float] | None = Field(None, description="of /predict_defect_image")
    raw: dict[str, Any] | None = None
    look_at: dict[str, float] | None = Field(None, description="labels for a person to look at")
    request_id: str | None = None
    confidence_scores: dict[str, float] | None = None
    response_time_sec: float | None = None
    timestamp: str | None = None


class TextToPredict(BaseModel):
    """A text, and the run of texts that predicts it: null for the newest one."""

    text: str = Field(max_length=100_000, examples=["hollow sound at the grout hole"])
    run_id: str | None = Field(None, examples=["2026-01-31_09-30-00-tfidf"])
    model: str | None = Field(None, examples=["text_tfidf"])


class PredictedText(BaseModel):
    """The prediction of one text."""

    label: str | None = Field(examples=["Drummy"], description="several are joined by + and _; null: none")
    score: float | None
    probs: dict[str, float]
    run_id: str
    model: str
    model_id: str


class BatchItem(BaseModel):
    """The result, or the error, of one file of a batch."""

    filename: str
    prediction: str | None = None
    confidence: float | None = None
    labels: Labels | None = None
    look_at: dict[str, float] | None = None
    sha256: str | None = None
    error: str | None = None


class Batch(Origin):
    """The results of a batch, in the order of its files."""

    results: list[BatchItem]


class Review(BaseModel):
    """An inspector's decision on a photo."""

    decision: Literal["confirmed", "corrected"]
    labels: Labels
    comment: str
    reviewer: str
    at: float


class ImageBody(BaseModel):
    """A stored photo; its bytes are at `/api/images/{id}/file`."""

    id: int
    filename: str
    sha256: str
    width: int
    height: int
    ground_truth: str | None
    created_at: float
    predictions: dict[str, float] | None = Field(description="probabilities, the highest first")
    prediction: str | None
    labels: Labels | None
    confidence: float | None
    look_at: dict[str, float] | None = Field(description="labels for a person to look at")
    model_id: str | None
    preprocessing: str | None
    predicted_at: float | None
    status: Status | None = Field(description="of the latest task; null: nobody asked for a prediction")
    review: Review | None


class Wanted(BaseModel):
    """Photos to list."""

    offset: int = Field(0, ge=0, le=2**31 - 1)
    after: int | None = Field(None, ge=1, le=2**31 - 1, description="the last photo of the page before")
    limit: int = Field(50, ge=1, le=200)
    label: Text | None = Field(None, max_length=200, description="as decided, else as predicted")
    reviewed: bool | None = Field(None, description="whether somebody has decided")
    text: Text | None = Field(None, max_length=200, description="a part of the file name")
    order: Literal["newest", "unsure"] = Field("newest", description="unsure: the least confident first")


class Images(BaseModel):
    """A page of photos."""

    data: list[ImageBody]
    total: int
    offset: int
    limit: int


class TaskTaken(BaseModel):
    """The answer to a job."""

    data: dict[Literal["task_id", "status"], str]
    message: str = "Task received"


class TaskState(BaseModel):
    """A job and its result."""

    task_id: str
    task_status: Status
    task_result: dict[str, Any] | None
    error: str | None


class Decision(BaseModel, extra="forbid"):
    """An inspector's decision: to confirm the prediction, or to correct it."""

    decision: Literal["confirm", "correct"]
    labels: Labels | None = Field(None, description="of each kind; to confirm: those shown")
    comment: Text = Field("", max_length=2000)
    reviewer: Text = Field("", max_length=200)


class Activate(BaseModel, extra="forbid"):
    """The run to serve from now on."""

    run: str = Field(examples=["dual_head/2026-01-31_12-00-00"], max_length=1000)
    force: bool = Field(False, description="although it does not know labels of reviews")
