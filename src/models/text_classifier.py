"""Classifiers of texts: a baseline on TF-IDF; what it shares with a transformer."""

import json
import logging
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_array, hstack
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from src.errors import InputError
from src.models.base import Classifier
from src.models.classifiers import SigmoidHeads, SoftmaxHeads

log = logging.getLogger(__name__)
MAX_ITERATIONS = 1000
# hyperparameters of `Classifier` that a text model leaves alone, unless it takes them itself
FIXED = {
    "head": "linear", "loss": None, "freeze_backbone": True, "train_bn": True, "lr": 1e-3,
    "backbone_lr_factor": 1.0, "layer_decay": 1.0, "optimizer": "adamw", "weight_decay": 0.0,
    "schedule": "constant", "label_smoothing": 0.0, "mixup": 0.0, "cutmix": 0.0,
}  # fmt: skip


class TextClassifier(Classifier):
    """A classifier of texts: `{"text": [B strings], ...}` in place of photos.

    Args:
        given: all arguments of the function that builds it, `text_tfidf` or `text_transformer`.

    Attributes:
        truncated: how many texts were longer than the model takes since this was set to 0.
    """

    reads = "text"
    truncated = 0

    def __init__(self, **given: Any):
        self.given = {**given, "labels": {kind: list(names) for kind, names in given["labels"].items()}}
        super().__init__(FIXED | self.given)

    def learn_vocabulary(self, texts: Sequence[str]) -> None:
        """Fix what depends on the training texts before the first step."""

    @abstractmethod
    def features(self, texts: Sequence[str]) -> Tensor:
        """Return the features `[B, F]` of texts, on the model's device."""

    def features_of(self, batch: Mapping[str, Any]) -> Tensor:
        """Return the features `[B, F]` of a batch: those computed before the fit, else of its texts."""
        return batch["features"] if "features" in batch else self.features(batch["text"])

    def forward(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Return logits `{kind: [B, labels of the kind]}` of texts."""
        return self.classify(self.features(texts))

    @torch.inference_mode()
    def telling(self, text: str, label: str, most: int = 5) -> list[tuple[str, float]]:
        """Return the words of a text that its probability of a label rests on, the weightiest first.

        The number beside a word is by how much the probability is higher than without it (Li et al., 2016,
        Understanding neural networks through representation erasure). Of a long text the beginning counts.
        """
        text = text[:LETTERS]
        words = list(dict.fromkeys(text.split()[:WORDS]))
        without = [" ".join(other for other in text.split() if other != word) for word in words]
        column = self.labels.position(label)
        scores = [self.probabilities(self(part))[:, column] for part in _parts([text, *without], 32)]
        scores = torch.cat(scores).cpu().numpy()
        drops = dict(zip(words, (scores[0] - scores[1:]).tolist(), strict=True))
        return sorted(drops.items(), key=lambda pair: -abs(pair[1]))[:most]


WORDS, LETTERS = 64, 10_000  # of a text: the most different words, and letters, that `telling` looks at


def _parts(items: Sequence[str], size: int) -> list[Sequence[str]]:
    return [items[i : i + size] for i in range(0, len(items), size)]


class TfidfClassifier(TextClassifier):
    """Logistic regression on TF-IDF of words and parts of words; scikit-learn fits both.

    The vocabulary (JSON in UTF-8, uint8 `[bytes]`), the inverse document frequencies (float32 `[F]`) and the
    coefficients (the heads' weights) are tensors of the checkpoint.
    """

    kind = "text_tfidf"

    def __init__(self, **given: Any):
        super().__init__(**given)
        words, letters, min_texts, C = (given[name] for name in ("words", "letters", "min_texts", "C"))
        if not given["freeze_backbone"]:
            raise InputError("model=text_tfidf has no backbone that could learn: finetune=frozen")
        if words < 1 or min_texts < 1 or not C > 0:
            raise InputError(f"model.words={words}, min_texts={min_texts}, C={C:g}: each has to be above 0")
        if letters is not None and (len(letters) != 2 or not 1 <= letters[0] <= letters[1]):
            raise InputError(f"model.letters={letters}: needs two numbers, the shortest and the longest")
        self.add_backbone(nn.Identity())
        self.vectorizers: list[TfidfVectorizer] = []
        self.register_buffer("vocabulary", torch.zeros(0, dtype=torch.uint8))
        self.register_buffer("idf", torch.zeros(0))

    def _vectorizers(self) -> list[TfidfVectorizer]:
        """Return the two ways to cut texts, not fitted yet."""
        words, letters = self.hparams["words"], self.hparams["letters"]
        common = {"sublinear_tf": True, "dtype": np.float32}
        found = [TfidfVectorizer(ngram_range=(1, words), token_pattern=r"(?u)\b\w+\b", **common)]
        if letters is not None:
            found.append(TfidfVectorizer(analyzer="char_wb", ngram_range=tuple(letters), **common))
        return found

    def learn_vocabulary(self, texts: Sequence[str]) -> None:
        """Choose the n-grams and their weights from the training texts."""
        terms, idf = [], []
        for vectorizer in self._vectorizers():
            vectorizer.min_df = self.hparams["min_texts"]
            try:
                vectorizer.fit(texts)
            except ValueError as error:  # no n-gram is left
                log.debug("No vocabulary: %s", error)
                terms.append([])
                continue
            terms.append(vectorizer.get_feature_names_out().tolist())
            idf.append(vectorizer.idf_)
        if not idf:
            cure = "model.min_texts=1, or more texts"
            raise InputError(f"no word or part of a word is in {self.hparams['min_texts']} texts: {cure}")
        content = json.dumps(terms, ensure_ascii=False).encode()
        self.vocabulary = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        self.idf = torch.from_numpy(np.concatenate(idf).astype(np.float32))
        self._use_vocabulary()

    def _use_vocabulary(self) -> None:
        """Make the vectorizers and the heads that the buffers describe."""
        first, self.vectorizers = 0, []
        parts = json.loads(self.vocabulary.cpu().numpy().tobytes())
        for vectorizer, terms in zip(self._vectorizers(), parts, strict=True):
            if terms:
                vectorizer.set_params(vocabulary=terms)
                vectorizer.idf_ = self.idf[first : first + len(terms)].cpu().numpy()
                self.vectorizers.append(vectorizer)
            first += len(terms)
        self.add_heads(len(self.idf))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the sizes of the vocabulary and of the heads from the checkpoint."""
        super().on_load_checkpoint(checkpoint)
        state = checkpoint["state_dict"]
        if not torch.equal(state["vocabulary"].cpu(), self.vocabulary.cpu()):
            self.vocabulary, self.idf = state["vocabulary"].clone(), state["idf"].clone()
            self._use_vocabulary()

    def matrix(self, texts: Sequence[str]) -> csr_array:
        """Return the features of texts, sparse float32 `[B, F]`."""
        return csr_array(hstack([vectorizer.transform(texts) for vectorizer in self.vectorizers]))

    def features(self, texts: Sequence[str]) -> Tensor:
        """Return the features `[B, F]` of texts, dense."""
        return torch.from_numpy(self.matrix(texts).toarray()).to(self.idf.device)

    def fit_heads(self, matrix: csr_array, targets: np.ndarray) -> None:
        """Fit the heads.

        Args:
            matrix: features, sparse `[N, F]`.
            targets: multi-hot `[N, labels]` for `multilabel`; else class indices `[N, kinds]`, below 0 where
                a text has no label of that kind.
        """
        column = 0
        for k, (kind, names) in enumerate(self.labels.kinds.items()):
            head, given = self.get_submodule(f"head_{kind}"), self.hparams["class_weights"] or {}
            weights = given.get(kind) or [1.0] * len(names)
            if self.task == "multilabel":
                rows = [
                    self._fitted(matrix, targets[:, column + i] > 0, {True: weight})
                    for i, weight in enumerate(weights)
                ]
            else:
                known = targets[:, k] >= 0
                rows = self._softmax_rows(matrix[known], targets[known, k], weights)
            column += len(names)
            head.weight.data.copy_(torch.from_numpy(np.stack([row for row, _ in rows])))
            head.bias.data.copy_(torch.tensor([bias for _, bias in rows]))

    def _fitted(
        self, matrix: csr_array, positive: np.ndarray, weights: Mapping[bool, float]
    ) -> tuple[np.ndarray, float]:
        """Return weights `[F]` and bias of one label; its base rate where all texts carry it, or none."""
        if positive.all() or not positive.any():
            return np.zeros(matrix.shape[1], np.float32), np.log(
                (positive.sum() + 0.5) / (~positive).sum().clip(0.5)
            )
        found = self._regression(weights).fit(matrix, positive)
        return found.coef_[0].astype(np.float32), float(found.intercept_[0])

    def _softmax_rows(
        self, matrix: csr_array, classes: np.ndarray, weights: Sequence[float]
    ) -> list[tuple[np.ndarray, float]]:
        """Return weights `[F]` and bias of each class of a kind; a class without texts is as good as none."""
        rows = [(np.zeros(matrix.shape[1], np.float32), -RARE) for _ in weights]
        present = np.unique(classes)
        if not len(present):
            return [(row, 0.0) for row, _ in rows]
        if len(present) == 1:
            rows[present[0]] = (rows[present[0]][0], 0.0)
            return rows
        found = self._regression({int(i): weights[i] for i in present}).fit(matrix, classes)
        coefficients, biases = found.coef_, found.intercept_
        if len(present) == 2:  # one row, of the second class against the first
            coefficients = np.concatenate([np.zeros_like(coefficients), coefficients])
            biases = np.array([0.0, biases[0]])
        for i, row, bias in zip(present, coefficients, biases, strict=True):
            rows[i] = row.astype(np.float32), float(bias)
        return rows

    def _regression(self, weights: Mapping) -> LogisticRegression:
        return LogisticRegression(C=self.hparams["C"], max_iter=MAX_ITERATIONS, class_weight=dict(weights))

    def on_train_start(self) -> None:
        """Fit the heads; the epoch that follows measures them."""
        data = self.trainer.datamodule
        self.fit_heads(data.features["train"][0].values, data.targets("train").numpy())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return an optimizer that changes nothing: Lightning counts its steps."""
        return torch.optim.SGD(self.parameters(), lr=0.0)

    def telling_words(self, most: int = 20) -> list[tuple[str, str, float]]:
        """Return `(label, n-gram, weight)` of the largest weights of each label."""
        terms = [term for part in json.loads(self.vocabulary.cpu().numpy().tobytes()) for term in part]
        found = []
        for kind, names in self.labels.kinds.items():
            weights = self.get_submodule(f"head_{kind}").weight.detach()
            if len(names) == 2 and self.task != "multilabel":
                weights = weights - weights.mean(0)
            for name, row in zip(names, weights.cpu().numpy(), strict=True):
                best = np.argsort(-row, kind="stable")[:most]
                found += [(name, terms[i].strip(), float(row[i])) for i in best]
        return found


RARE = 20.0  # logit below the others of a class without texts


class TfidfHeads(SoftmaxHeads, TfidfClassifier):
    """The baseline for `dual_head` and `multiclass`."""


class TfidfLabels(SigmoidHeads, TfidfClassifier):
    """The baseline for `multilabel`."""


def text_tfidf(
    task: str,
    labels: Mapping[str, list[str]],
    class_weights: Mapping[str, list[float]] | None = None,
    words: int = 2,
    letters: list[int] | None = None,
    min_texts: int = 2,
    C: float = 3.0,
    freeze_backbone: bool = True,
    seed: int = 42,
) -> TfidfClassifier:
    """Return the baseline for a task.

    Args:
        task: `dual_head`, `multiclass` or `multilabel`.
        labels: `{kind: [labels]}`.
        class_weights: `{kind: [weights]}` of the loss, or null.
        words: n-grams of up to so many words.
        letters: shortest and longest n-gram of letters within words; null: none.
        min_texts: an n-gram in fewer training texts is left out.
        C: inverse strength of the L2 penalty.
        freeze_backbone: true, there is no backbone that could learn.
        seed: of the run.
    """
    given = locals()
    return (TfidfLabels if task == "multilabel" else TfidfHeads)(**given)
