import base64
import hashlib
import io
import json
import os
import re
import shlex
import shutil
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from PIL import Image

from src.analysis import drawing, figures
from src.analysis.evaluation.mistakes import compared
from src.analysis.explore import photo_figures
from src.analysis.pages import thumbnail
from src.analysis.report.run_report import write_report
from src.errors import InputError
from src.runs import read_run
from tests.made import FAST, make_folders, run_script

EVIL = "<script>alert('x')</script>"
HEADS = {"component": ["Bolt", EVIL], "defect": ["Crack", "Intact", "None"]}
LABELS = {"component": ["Bolt", "Beam: upper", EVIL], "defect": ["Crack", "Rust", "Spalling"]}


class Page(HTMLParser):
    """Reads a page: every tag that opens closes, in order; gathers text and attributes."""

    def __init__(self, source: str):
        super().__init__()
        self.open, self.tags, self.attributes, self.words = [], [], [], []
        self.feed(source)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *attr) for attr in attrs]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.words.append(data.strip())

    @property
    def text(self):
        return " ".join(word for word in self.words if word)


def photo(path, size=(60, 40), colour=(200, 30, 30)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def write_run(path, metrics, tables, classes, config="data:\n  root: somewhere/Bridge <North>\n"):
    path.mkdir(parents=True)
    (path / "metrics.json").write_text(json.dumps(metrics))
    (path / "classes.json").write_text(json.dumps(classes))
    for name, rows in tables.items():
        pd.DataFrame(rows).to_csv(path / f"{name}.csv", index=False)
    (path / ".hydra").mkdir()
    (path / ".hydra" / "config.yaml").write_text(config)
    history = pd.DataFrame({"epoch": [0, 1], "train_loss": [1.0, 0.5], "val_loss": [1.1, 0.7]})
    history.to_csv(path / "history.csv", index=False)
    photo(path / "loss_curve.png")


def scores(labels, **more):
    one = {"f1": 0.5, "precision": 0.25, "recall": 0.75, "ap": 0.125, "support": 9, "threshold": 0.35}
    return {"f1_macro": 0.678, "per_class": {label: dict(one) for label in labels}, **more}


FACTS = {
    "seed": 42, "epochs": 3, "best_epoch": 1, "num_params": 11186772, "data_hash": "abc123",
    "durations": {"fit": 754.2, "test": 3.5}, "versions": {"torch": "2.15.0"},
}  # fmt: skip


@pytest.fixture
def heads(tmp_path):
    """Four test photos in dual_head: one right, two wrong, one that is wrong where nobody labelled it."""
    rows = [
        ("a", "a.png", "g1", "Bolt", "Crack"),
        ("b", "b.png", "g2", "Bolt", "Intact"),
        ("c" + EVIL, "gone.png", "g3", EVIL, "None"),
        ("d", "d.png", "g4", "", "Crack"),
        ("e", "e.png", "g5", "Bolt", "Crack"),
    ]
    split = pd.DataFrame(rows, columns=["ID", "path", "group", *HEADS])
    said = [
        ("a", "Bolt", "0.9900", "Crack", "0.9800", "a.png", "ok", ""),  # right
        ("b", EVIL, "0.6000", "Crack", "0.7100", "b.png", "ok", ""),  # both wrong, 0.71
        ("c" + EVIL, EVIL, "0.9900", "Intact", "0.9500", "gone.png", "ok", ""),  # defect wrong, 0.95
        ("d", "Bolt", "0.9999", "Crack", "0.5000", "d.png", "ok", ""),  # component not labelled: right
        ("e", "", "", "", "", "e.png", "error", "truncated"),
    ]
    confident = [name for kind in HEADS for name in (kind, f"{kind}_confidence")]
    columns = ["ID", *confident, "path", "status", "error"]
    kinds = {kind: {"accuracy": 0.9, **scores(labels)} for kind, labels in HEADS.items()}
    metrics = {"test": {"exact_match": 0.5, "f1_macro": 0.678, "loss": None, **kinds}, "val": {}}
    tables = {
        "predictions": pd.DataFrame(said, columns=columns),
        "train_metadata": split[:1].assign(ID="t"),
        "test_metadata": split,
    }
    run = tmp_path / "outputs" / "dual_head" / "2025-03-14_09-26-53"
    write_run(run, {**metrics, "run": {**FACTS, "task": "dual_head"}}, tables, HEADS)
    photo(tmp_path / "photos" / "b.png")
    return run, tmp_path / "photos"


@pytest.fixture
def multilabel(tmp_path):
    """Four test photos: right, two wrong labels, three wrong labels, one wrong label."""
    rows = [
        ("p1", "p1.png", "g1", "Bolt", "Crack"),
        ("p2", "p2.png", "g2", "Bolt", "Rust"),
        ("p3", "p3.png", "g3", "Bolt;Beam: upper", ""),
        ("p4", "p4.png", "g4", EVIL, ""),
        ("p5", "p5.png", "g5", "Bolt", ""),
    ]
    said = [
        ("p1", "Bolt", "Crack", "Bolt:0.9", "Crack:0.8"),
        ("p2", "Bolt;Beam: upper", "", "Bolt:0.9;Beam: upper:0.6100", ""),  # 2 wrong, at most 0.61
        ("p3", "", "Rust", "", "Rust:0.7"),  # 3 wrong
        ("p4", EVIL, "Crack", f"{EVIL}:0.9", "Crack:0.99"),  # 1 wrong
        ("p5", "Beam: upper", "", "Beam: upper:0.95", ""),  # 2 wrong, 0.95
    ]
    columns = ["ID", "components", "defects", "components_confidence", "defects_confidence"]
    said = pd.DataFrame(said, columns=columns)
    names = [label for labels in LABELS.values() for label in labels]
    test = scores(names, map=0.77, exact_match=0.2, **{"f1_macro_at_0.5": 0.6})
    test["per_class"]["Spalling"] = {"f1": None, "ap": None, "support": 0, "threshold": 0.5}
    tables = {
        "predictions": said.assign(path=said["ID"] + ".png", status="ok"),
        "train_metadata": [
            {"ID": i, "path": "x", "group": f"g{i}", "component": "Bolt"} for i in range(2, 8)
        ],
        "val_metadata": [{"ID": "v", "path": "v.png", "group": "gv", "component": "Bolt", "defect": "Rust"}],
        "test_metadata": pd.DataFrame(rows, columns=["ID", "path", "group", *LABELS]),
    }
    val = scores(names, map=0.8, f1_macro=0.7)
    run = tmp_path / "outputs" / "multilabel" / "2025-03-14_09-26-53"
    write_run(run, {"val": val, "test": test, "run": {**FACTS, "task": "multilabel"}}, tables, LABELS)
    for name in ("p2", "p3", "p5"):
        photo(tmp_path / "photos" / f"{name}.png", (900, 600))
    return run, tmp_path / "photos"


@pytest.fixture(params=["heads", "multilabel"])
def either(request):
    return request.getfixturevalue(request.param)


def read(path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


def test_report_is_well_formed_self_contained_and_escaped(either):
    run, photos = either
    path = write_report(run, photos)
    source = path.read_text(encoding="utf-8")
    page = Page(source)
    assert not re.search(r"<link|https?://|url\(|@import", source)
    (script,) = re.findall(r"<script>(.*?)</script>", source, re.S)  # ours alone: the policy knows its digest
    assert (
        base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() in source.partition("<style")[0]
    )
    said = EVIL, "Bridge <North>", "2025-03-14 09:26", "0.678", "test macro F1", "fit 0:12:34", "11,186,772"
    assert all(words in page.text for words in said)
    assert write_report(run, photos).read_text(encoding="utf-8") == source
    assert [p.name for p in run.iterdir() if p.name.startswith(".")] == [".hydra"]  # no half-written file


NAME = "<img src=x onerror=alert(1)>"
QUOTED = """Bolt "A" <b> & 'B'"""


@pytest.mark.parametrize("script", ["train", "explore", "audit"])
def test_names_of_photos_and_labels_are_text_on_every_page(script, tmp_path, monkeypatch):
    root = make_folders(tmp_path / f"photos {NAME}", each=4)
    (root / "Radial Joint_Leaks").rename(root / f"{QUOTED}_Leaks")
    for i, path in enumerate(sorted(root.glob("*/*.jpg"))):
        path.rename(path.with_name(f"{NAME}{i}.jpg"))
        if i % 5 == 0:  # looked at by the audit and by the exploration
            photo(path.with_name(f"{NAME}{i}.jpg"), (48, 36))
    monkeypatch.chdir(tmp_path)
    options = {"train": (*FAST, "trainer.max_epochs=1"), "audit": (*FAST[:2], *FAST[4:7], "folds=2")}
    assert run_script(monkeypatch, script, f"data.root='{root}'", *options.get(script, ())) == 0
    (path,) = tmp_path.glob("outputs/**/*.html")
    source = path.read_text(encoding="utf-8")
    page = Page(source)
    sources = [value for _, name, value in page.attributes if name == "src"]
    assert sources and all(value.startswith("data:image/") for value in sources)
    assert page.tags.count("script") == (script == "train") and not [
        name for _, name, _ in page.attributes if name.startswith("on")
    ]
    assert NAME in page.text and QUOTED in page.text and "<img src=x" not in source
    assert any(NAME in value for _, name, value in page.attributes if name == "alt")


def test_heads_rank_the_surest_mistake_first(heads):
    run, photos = heads
    mistakes, count = compared(read_run(run))
    assert count == 4  # the unreadable photo is not compared
    assert [(m.photo, m.wrong, m.confidence) for m in mistakes] == [("c" + EVIL, 1, 0.95), ("b", 2, 0.71)]
    text = read(write_report(run, photos)).text
    assert "2 of 4 test photos have a wrong label" in text
    assert text.index("cannot be read now") < text.index("defect: true Intact")  # gone.png comes before b.png
    assert "e e.png truncated" in text  # listed as unreadable
    assert "defect: true None" in text  # a label of that name is a label, not a missing value


def test_multilabel_ranks_by_wrong_labels_then_confidence(multilabel):
    mistakes, count = compared(read_run(multilabel[0]))
    assert count == 5
    assert [m.photo for m in mistakes] == ["p3", "p5", "p2", "p4"]
    assert [m.wrong for m in mistakes] == [3, 2, 2, 1]
    text = read(write_report(*multilabel)).text.replace("\u00a0", " ")
    assert "component: true Bolt (missed) , Beam: upper (missed) defect: said Rust 0.70 ✗" in text
    assert mistakes[2].predicted["component"] == {"Bolt": 0.9, "Beam: upper": 0.61}  # a colon within a label


def test_a_missed_label_counts_with_its_probability(multilabel):
    path = multilabel[0] / "predictions.csv"
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    table["p:Rust"] = ["0.5", "0.01", "0.7", "0.1", "0.1"]  # p2 misses Rust, and surely so
    table.to_csv(path, index=False)
    mistakes, _ = compared(read_run(path.parent))
    assert [m.photo for m in mistakes] == ["p3", "p2", "p5", "p4"]
    assert mistakes[1].confidence == pytest.approx(0.99)


def test_labels_without_photos_and_crossing_groups_are_said(multilabel):
    text = read(write_report(*multilabel)).text
    assert "no test photo: Spalling." in text
    assert "Fewer than 5 test photos, so the scores say little: Bolt (4), Beam: upper (1)" in text
    assert "Groups in several splits, so the scores are too good: g2, g3, g4, g5." in text
    assert "macro F1 with every threshold at 0.5" in text and "-0.022" in text  # test minus validation


def test_the_certificate_shows_what_crosses_and_the_closest_pair(multilabel, tmp_path):
    run, root = multilabel[0], tmp_path / "pictures"
    photo(root / "a.jpg")
    certificate = {
        "hash": "0123456789abcdef", "given": True, "asked": {"train": 0.7, "val": 0.2, "test": 0.1},
        "photos": {"train": 7, "val": 2, "test": 1}, "groups": {"train": 4, "val": 1, "test": 1},
        "labels": [{"label": "Leaks", "kind": "defect", "train": 3, "val": 1, "test": 0, "groups": 2}],
        "deviation": {"mean": 0.0125, "worst": 0.1, "worst_label": "Leaks", "worst_split": "test"},
        "pair_deviation": None,
        "crossing": {"groups": 2, "identical_photos": 1, "near_duplicate_pairs": 3, "examples": {}},
        "near_duplicates": {
            "max_distance": 4, "pairs": 9, "without_contrast": 5, "groups_of_the_user": 8, "groups_joined": 6,
        },
        "closest": {
            "distance": 6,
            "photos": [{"path": "a.jpg", "split": "train"}, {"path": "gone.jpg", "split": "test"}],
        },
        "not_evaluable": {"Leaks": "no photo in test: 2 group(s) carry it"},
    }  # fmt: skip
    (run / "split_certificate.json").write_text(json.dumps(certificate))
    text = read(write_report(run, root)).text
    for said in (
        "0123456789abcdef", "of 8, joined to 6", "of 9 pairs", "5 photos without contrast",
        "1.25 points from", "at worst 10.00 (Leaks in test)", "differ in 6 of 64 bits",
        "cannot be read now", "75.0% (3)", "2 group(s) carry it",
    ):  # fmt: skip
        assert said in text, said


def test_thumbnails_are_small_and_stay_within_the_root(multilabel, tmp_path):
    _, photos = multilabel
    content, reason = thumbnail(photos, "p2.png")
    assert reason == "" and content[:2] == b"\xff\xd8"
    assert max(Image.open(io.BytesIO(content)).size) == 220
    photo(tmp_path / "secret.png")
    for path in ("../secret.png", str(tmp_path / "secret.png"), ""):
        assert thumbnail(photos, path)[0] is None
    (photos / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nrubbish")
    assert thumbnail(photos, "broken.png")[0] is None
    assert thumbnail(None, "p2.png") == (None, "the photos are not at hand")


def test_multiclass_reads_its_own_columns_and_finds_its_photos(tmp_path):
    said = [("a", "Crack", "0.6"), ("b", "Crack", "0.9"), ("c", "Intact", "0.99")]
    tables = {
        "predictions": [
            {"ID": i, "label": x, "confidence": p, "path": f"{i}.png", "status": "ok"} for i, x, p in said
        ],
        "test_metadata": [{"ID": i, "path": f"{i}.png", "group": i, "label": "Intact"} for i in "abc"],
    }
    metrics = {"test": {"label": {"accuracy": 0.333, **scores(["Crack", "Intact"])}}, "run": {}}
    write_run(tmp_path / "run", metrics, tables, {"label": ["Crack", "Intact"]}, config="{}")
    photo(tmp_path / "bridges" / "photos" / "b.png")
    (tmp_path / "run" / ".hydra" / "data_root.txt").write_text(f"{tmp_path / 'bridges' / 'photos'}\n")
    assert [m.photo for m in compared(read_run(tmp_path / "run"))[0]] == ["b", "a"]
    page = read(write_report(tmp_path / "run"))  # the photos are where the run noted them down
    assert "said Crack 0.90 ✗ true Intact" in page.text.replace("\u00a0", " ")
    assert "test accuracy" in page.text and "bridges/photos" in page.words
    sources = [value for _, name, value in page.attributes if name == "src"]
    assert sum(value.startswith("data:image/jpeg") for value in sources) == 1


def write_tables(run, **tables):
    """Write CSVs into a made run: of its evaluation, but for the thresholds."""
    (run / "evaluation").mkdir(exist_ok=True)
    for name, rows in tables.items():
        folder = run if name == "thresholds" else run / "evaluation"
        pd.DataFrame(rows).to_csv(folder / f"{name}.csv", index=False)


def test_decisions_are_shown_with_what_they_rest_on(multilabel):
    """Thresholds, promises, calibration, errors; of a label with too few photos, how many it has."""
    run, photos = multilabel
    rows = [("Bolt", 0.35, 0.31, 0.42, "ok"), (EVIL, 0.5, None, None, "no_evidence")]
    thresholds = pd.DataFrame(rows, columns=["label", "threshold", "low", "high", "state"])
    ends = {"ap": 0.61, "ap_low": 0.52, "ap_high": 0.73, "auc": 0.81, "f1_low": 0.42, "f1_high": 0.62}
    shares = [("all", 0.31, 0.02, False), ("Bolt", 0.12, 0.111111, True), (EVIL, 0.0, 0.5, False)]
    workload = pd.DataFrame(shares, columns=["label", "reviewed", "missed", "promise"])
    held = {"component": [f"Bolt;{EVIL}"] * 7 + ["Bolt"] * 12 + [""], "defect": [""] * 20}
    fitted = ("all", 0.0311, 0.0122, 0.0413, 0.0314, ""), (EVIL, 0.1, 0.1, 0.2, 0.2, "4 positives")
    columns = ["label", *(f"{name}_{stage}" for name in ("ece", "brier") for stage in ("before", "after"))]
    write_tables(
        run,
        thresholds=thresholds,
        per_label=[{"label": "Bolt", "kind": "component", **ends}],
        workload=pd.concat([workload.assign(miss=0.01, missed=0.9), workload.assign(miss=0.05)]),
        held_out=held,
        calibration=pd.DataFrame(fitted, columns=[*columns, "unfitted"]),
        misclassified_samples=[
            {"file": "p3.png", "true_label": "", "predicted_label": "Rust", "confidence": 0.77}
        ],
    )
    text = read(write_report(run, photos)).text
    for said in (
        "0.35 0.31\u20130.42", "0.35 no evidence", "0.52\u20130.73", "0.81",
        "at most 5% missed 1 of 9, reviewed 12%",
        "no promise needs 19 photos, has 7", f"(19 are needed): {EVIL} (7).", "31.0% of the test photos",
        "0.031 0.012 0.0413 0.0314", f"{EVIL} not fitted: 4 positives", "Bolt Beam: upper 2",
        "p3.png \u2013 Rust 0.77",
    ):  # fmt: skip
        assert said in text, said
    card = (run / "model_card.md").read_text(encoding="utf-8")
    for said in (
        "test macro F1: **0.678**",
        "| Bolt | 9 | 0.25 | 0.75 | 0.50 (0.42\u20130.62) | 0.35 (0.31\u20130.42) |",
        " | 11.1%, 12.0% |",
        "| &lt;script&gt;alert('x')&lt;/script&gt; | 9 |", "0.35 no evidence | no promise |",
        "missed, 31.0% of the test",
        "Groups in several splits", "| training | 6 |", "Hash of photos and labels: `abc123`.",
        "python scripts/predict.py ckpt=",
    ):  # fmt: skip
        assert said in card, said
    assert "<script" not in card


def test_a_heads_promise_is_of_its_kind(heads):
    run, _ = heads
    shares = {
        "label": ["all", "Bolt", "Crack"],
        "reviewed": 0.1,
        "missed": 0.2,
        "promise": [False, False, True],
    }
    pairs = [{"kind": "defect", "true_label": "Crack", "predicted_label": "None", "photos": 3, "share": 0.75}]
    held = {"component": ["Bolt"] * 6 + [""] * 20, "defect": ["Crack"] * 26}
    write_tables(run, workload=pd.DataFrame(shares).assign(miss=0.05), held_out=held, confused_pairs=pairs)
    page = read(write_report(run))
    assert (
        "for all photos of a kind together, but not for those" in page.text and "component (6)." in page.text
    )
    assert "promise" not in page.words and "Crack None 3 75.0%" in page.text


def test_the_run_before_is_the_newest_earlier_one_on_the_same_photos(heads):
    run, _ = heads
    assert "Since the run before" not in read(write_report(run)).words
    older = {}
    for day, data in ((11, "abc123"), (12, "abc123"), (13, "other")):
        older[day] = shutil.copytree(run, run.with_name(f"2025-03-{day}_09-26-53"))
        (older[day] / "checkpoints").mkdir()
        (older[day] / "checkpoints" / "best.ckpt").touch()
        metrics = json.loads((run / "metrics.json").read_text())
        metrics["run"]["data_hash"] = data
        (older[day] / "metrics.json").write_text(json.dumps(metrics))
        os.utime(older[day] / "metrics.json", (day, day))
    (older[12] / ".hydra" / "config.yaml").write_text("data: {root: elsewhere}\nmodel: {lr: 0.1}\n")
    table = pd.read_csv(older[12] / "predictions.csv", keep_default_na=False)
    table.loc[1, "component"] = "Bolt"  # right, and wrong in the later run
    table.to_csv(older[12] / "predictions.csv", index=False)
    text = read(write_report(run)).text
    assert "Against 2025-03-12 09:26" in text and "model.lr 0.1 \u2013" in text
    assert "data.root elsewhere somewhere/Bridge <North>" in text
    assert "Of the decisions on the same 4 test photos, 1 changed" in text
    assert re.search(r"component: accuracy 1\.000 0\.667 -0\.333 -\d\.\d+ to \+0\.000", text)
    test = pd.read_csv(older[12] / "test_metadata.csv")
    test[:3].to_csv(older[12] / "test_metadata.csv", index=False)
    text = read(write_report(run)).text
    assert "the test splits differ: 0 of 3" in text and "test macro F1 0.678 0.678" in text
    (older[12] / "predictions.csv").unlink()  # broken: the one before it, with the same settings
    assert "Against 2025-03-11" in (text := read(write_report(run)).text) and "No setting has changed" in text


def test_sections_vanish_with_their_files(heads, tmp_path):
    run, _ = heads
    titles = ["What was trained on what", "The split", "Scores", "Each label", "Figures", "Worst errors"]
    page = read(write_report(run))
    assert all(title in page.words for title in titles)
    assert "the photos are not at hand" in page.text
    for name in ("loss_curve.png", "test_metadata.csv", "train_metadata.csv", "classes.json", "history.csv"):
        (run / name).unlink()
    (run / ".hydra" / "config.yaml").unlink()
    page = read(write_report(run))
    shown = [title for title in titles if title in page.words]
    assert shown == ["What was trained on what", "Scores"]
    assert "img" not in page.tags and "Photos that could not be read" in page.words
    (tmp_path / "metrics.json").write_text('{"run": {"task": "multiclass"}}')
    (tmp_path / "predictions.csv").write_text("ID,label,confidence,path,status,error\n")
    page = read(write_report(tmp_path))
    assert "multiclass" in page.text and "Scores" not in page.words


@pytest.mark.parametrize("name", ["metrics.json", "predictions.csv"])
def test_missing_and_broken_files_are_named(heads, name):
    run, _ = heads
    (run / name).write_text("{" if name.endswith("json") else "")
    with pytest.raises(InputError, match=name):
        write_report(run)
    (run / name).unlink()
    with pytest.raises(InputError, match=rf"{name} is missing"):
        write_report(run)
    with pytest.raises(InputError, match="no such folder"):
        write_report(run / "nowhere")


def test_predict_command_survives_odd_folder_names(tmp_path):
    run = tmp_path / "it's, a=run"
    write_run(
        run, {"val": {}, "run": {}}, {"predictions": [{"ID": "a", "label": "x", "confidence": "0.5"}]}, {}
    )
    text = read(write_report(run)).text
    command = re.search(r"python scripts/predict.py (.*) images=", text)[1]
    override = OverridesParser.create().parse_overrides(shlex.split(command))[0]
    assert override.key_or_group == "ckpt" and str(override.value()) == str(run.resolve())


def texts(axes):
    return [text.get_text() for text in axes.texts]


def ticks(axes, side):
    return [label.get_text() for label in getattr(axes, f"get_{side}ticklabels")()]


def test_confusion_and_outcomes_show_counts_and_shares():
    matrices = {"component": np.array([[8, 2], [0, 5]]), "defect": np.zeros((3, 3), int)}
    figure = figures.confusion_matrix_figure(matrices, {"component": ["A", "B $x$"], "defect": list("cde")})
    first, second = figure.axes
    assert texts(first) == ["8", "2", "·", "5"]
    assert ticks(first, "y") == ["A  (10)", "B $x$  (5)"] and ticks(first, "x") == ["A", "B $x$"]
    assert first.get_title(loc="left") == "component: 86.7% right"
    shown = np.asarray(first.images[0].get_array())
    assert [*shown[0, 0], *shown[1, 1]] == pytest.approx([*figures.BLUES(0.8), *figures.BLUES(1.0)])
    assert second.get_title(loc="left") == "defect: no photos"
    axes = figures.label_outcomes_figure({"A": (3, 1, 4, 12), "B": (0, 0, 0, 20)}).axes[0]
    assert texts(axes) == ["3", "1", "4", "12", "·", "·", "·", "20"]
    assert ticks(axes, "y") == ["A  (4)", "B  (0)"]
    assert np.asarray(axes.images[0].get_array())[0, 0] == pytest.approx(figures.BLUES(0.75))


def test_calibration_and_workload_are_drawn_from_their_tables(tmp_path):
    rows = [("before", "all", 0.2, 0.1), ("before", "all", 0.9, 0.6), ("after", "all", 0.6, 0.55)]
    points = pd.DataFrame([*rows, ("after", "Bolt", 0.5, 0.5)], columns=["stage", "label", "score", "share"])
    (axes,) = figures.reliability_figure(points, ["all"]).axes
    lines = {line.get_label(): line.get_xydata().tolist() for line in axes.lines}
    assert lines["before calibration"] == [[0.2, 0.1], [0.9, 0.6]]
    assert lines["after calibration"] == [[0.6, 0.55]]
    shares = {"miss": [0.01, 0.05, 0.1], "reviewed": [0.4, 0.4, 0.2], "missed": [0.0, 0.0, 0.05]}
    figure = figures.workload_figure(pd.DataFrame(shares).assign(promise=[False, True, True]))
    assert sorted(texts(figure.axes[0])) == ["1% to 5%", "10%"]
    drawing.save(
        figures.workload_figure(pd.DataFrame({name: [] for name in (*shares, "promise")})), tmp_path / "a"
    )


def test_loss_curve_marks_the_best_epoch_and_leaves_out_columns_that_were_not_logged():
    columns = {"train_loss": [3, 2, 1], "val_loss": [3, 1, 2], "val_f1": [0.1, None, 0.4], "train_f1": np.nan}
    history = pd.DataFrame({"epoch": [0, 1, 2], **columns})
    left, right = figures.loss_curve_figure(history, 1).axes
    lines = {line.get_label(): line for line in left.lines}
    assert list(lines["val"].get_ydata()) == [3, 1, 2]
    assert list(lines["best epoch (1)"].get_xdata()) == [1, 1]
    assert [line.get_label() for line in right.lines] == ["val F1", "best epoch (1)"]
    assert list(right.lines[0].get_xdata()) == [0, 2]
    empty = figures.loss_curve_figure(pd.DataFrame(columns=["epoch", "val_loss"]), 1)
    assert texts(empty.axes[0]) == ["nothing logged"]
    for lowest, scale in ((0.9, "log"), (0, "linear")):
        far = pd.DataFrame({"epoch": [1, 2, 3], "train_loss": [3, 1, lowest], "val_loss": [67, 1.2, 1.1]})
        assert figures.loss_curve_figure(far, 1).axes[0].get_yscale() == scale


def test_saved_pictures_are_the_same_bytes_without_metadata(tmp_path):
    for name in ("one", "two"):
        figure = figures.confusion_matrix_figure({"k": np.eye(2, dtype=int)}, {"k": ["A $\\frac$", "B"]})
        drawing.save(figure, tmp_path / f"{name}.png")
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    with Image.open(tmp_path / "one.png") as picture:
        assert not {"Software", "Creation Time", "date"} & set(picture.info)


def figures_of(names) -> dict:
    """Every figure that has a row or a column for each label."""
    rng = np.random.default_rng(0)
    n = len(names)
    matrix = np.diag(rng.integers(1, 90, n)) + (rng.random((n, n)) < 3 / n)
    splits = {split: rng.integers(1, 90, n) for split in ("train", "val", "test")}
    counts = pd.DataFrame({"kind": "defect", **splits}, index=pd.Index(names, dtype=object))
    rows = {name: {"f1": float(rng.random()), "support": i % 9} for i, name in enumerate(names)}
    return {
        "confusion": figures.confusion_matrix_figure({"defect": matrix}, {"defect": names}),
        "outcomes": figures.label_outcomes_figure({name: (5, i, 2, 90) for i, name in enumerate(names)}),
        "distribution": figures.class_distribution_figure(counts),
        "f1": figures.label_f1_figure(rows),
        "counts": photo_figures.counts_figure({"defect": {name: 9 for name in names}}, 25),
        "brightness": photo_figures.brightness_figure({"defect": {name: [9, 30] for name in names}}),
    }


@pytest.mark.parametrize("count", [2, 3000])
def test_figures_of_many_labels_are_bounded_and_say_so(tmp_path, count):
    for name, figure in figures_of([f"Label {i:04d}" for i in range(count)]).items():
        title = figure.axes[0].get_title(loc="left")
        assert ("3,000" in title or "2,666 labels" in title) == (count == 3000), (name, title)
        assert max(figure.get_size_inches()) * drawing.DPI < 2500, name
        assert all(len(axes.texts) <= 40 * 40 for axes in figure.axes)
    drawing.save(figure, tmp_path / "brightness.png")
    assert (tmp_path / "brightness.png").stat().st_size < 300_000


def test_the_most_confused_of_many_labels_are_drawn():
    matrix = np.diag(np.full(200, 7))
    matrix[150, 3], matrix[20, 199] = 5, 9
    axes = figures.confusion_matrix_figure({"k": matrix}, {"k": [f"L{i}" for i in range(200)]}).axes[0]
    assert {"L3", "L20", "L150", "L199"} <= set(ticks(axes, "x")) and len(ticks(axes, "x")) == 40
    assert "L150  (12)" in ticks(axes, "y") and {"5", "9"} <= set(texts(axes))
    assert axes.get_title(loc="left") == "k: 99.0% right; the 40 most confused of 200 labels"


ODD = ("$x_1^2$", "a\\b_c^d", "tab\there", "half \ud83d", "Größe", "Ρωγμή", "Трещина", "L" * 200)
SCRIPTS = ("裂缝", "شرخ", "दरार", "🔥" + "\ufe0f", "𞤀")


@pytest.fixture
def bundled(monkeypatch):
    """A machine with no other fonts than matplotlib's own, where no label was drawn yet."""
    entries = [entry for entry in drawing.fontManager.ttflist if "mpl-data" in entry.fname]
    monkeypatch.setattr(drawing.fontManager, "ttflist", entries)
    for cached in (drawing._family, drawing._warn):
        cached.cache_clear()


def test_letters_that_no_font_draws_are_named(tmp_path, caplog, bundled, recwarn):
    drawn = figures_of([*ODD, *SCRIPTS])
    for name in ("confusion", "f1", "distribution"):
        drawing.save(drawn[name], tmp_path / f"{name}.png")
    assert "no installed font draws '裂缝': install one that does" in caplog.text
    assert not [warning for warning in recwarn if "Glyph" in str(warning.message)]
    assert {drawing.short(name) for name in ODD} > {"$x_1^2$", "tab here", "L" * 31 + "…"}


def test_a_font_that_has_the_letters_is_used(bundled):
    figure = figures.label_f1_figure({name: {"f1": 0.5, "support": 9} for name in ("Plain", "\U0001d49c")})
    drawing.fit_letters(figure)
    plain, script = figure.axes[0].get_yticklabels()
    assert plain.get_fontfamily() == ["sans-serif"]
    assert script.get_fontfamily() == ["sans-serif", "STIXGeneral"]
