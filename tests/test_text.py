"""Texts from the CSV to the report: the baseline and a transformer, through the scripts."""

import csv
import re
import shutil
import socket
from html import unescape
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from src.files import read_json
from src.inference.predictor import Predictor
from tests.made import run_script, trained

SIGNS = {"Rust": ("rust on", "brown stains on", "corroded"), "Leaks": ("water drips from", "leak at", "wet"),
         "Intact": ("no damage at", "nothing wrong with", "good")}  # fmt: skip
PARTS = {"Bracket": ("bracket", "mounting plate"), "Joint": ("joint", "flange")}
QUICK = ("callbacks.figures=null", "trainer.accelerator=cpu", "data.group=asset", "data.csv=notes.csv")
BASELINE = ("model=text_tfidf", *QUICK)
TRANSFORMER = ("model=text_transformer", "text.model=../encoder", *QUICK, "trainer.max_epochs=2")
BOTH = pytest.mark.parametrize("name", ["baseline", "full"])


def write(path: Path, rows: list[tuple], encoding: str = "utf-8") -> Path:
    with path.open("w", newline="", encoding=encoding) as file:
        csv.writer(file).writerows(rows)
    return path


def notes(path: Path, task: str = "multiclass", count: int = 90) -> Path:
    """Write notes of three per asset, some with a wrong label."""
    rng, rows = np.random.default_rng(3), []
    for i in range(count):
        part, defect = rng.choice([*PARTS]), rng.choice([*SIGNS])
        text = f"{rng.choice(SIGNS[defect])} the {rng.choice(PARTS[part])}, point {i}"
        said = defect if rng.random() > 0.15 else rng.choice([*SIGNS])
        labels = {"multiclass": (said,), "dual_head": (part, said), "multilabel": (f"{part};{said}",)}[task]
        rows.append((f"N{i:03}", text, *labels, f"A{i // 3}"))
    names = ("component", "defect") if task == "dual_head" else ("label",)
    return write(path, [("ID", "note", *names, "asset"), *rows])


def made_encoder(folder: Path) -> Path:
    """Save a tiny BERT with its tokenizer, as Hugging Face's libraries do."""
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    words = " ".join(word for names in (SIGNS | PARTS).values() for word in names).split()
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *dict.fromkeys([*words, "the", "point", ","])]
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, "[UNK]"))
    core.normalizer, core.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.BertPreTokenizer()
    core.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=core, **special).save_pretrained(folder)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    torch.manual_seed(0)
    config = transformers.BertConfig(vocab_size=len(vocabulary), max_position_embeddings=64, **sizes)
    transformers.BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("texts")


@pytest.fixture(scope="module")
def runs(home):
    """Return a function that trains a run once and returns its folder."""
    found: dict[str, Path] = {}
    plans = {
        "baseline": ("multiclass", BASELINE),
        "multilabel": ("multilabel", (*BASELINE, "task=multilabel")),
        "dual_head": ("dual_head", (*BASELINE, "task=dual_head")),
        "frozen": ("multiclass", (*TRANSFORMER, "finetune=frozen", "text.length=8")),
        "full": ("multiclass", (*TRANSFORMER, "text.length=64", "model.lr=0.01")),
    }

    def get(name: str) -> Path:
        if name not in found:
            task, words = plans[name]
            if task == "multiclass" and name != "baseline" and not (home / "encoder").is_dir():
                made_encoder(home / "encoder")
            (home / name).mkdir(exist_ok=True)
            notes(home / name / "notes.csv", task)
            found[name] = trained(home / name, *words)
        return found[name]

    return get


def refused(monkeypatch, capsys, script: str, *words: str) -> str:
    """Return the one line with which a script refuses its input."""
    assert run_script(monkeypatch, script, *words) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]


def prose(page: Path) -> str:
    """Return what a page says, without styles, pictures and the configuration."""
    text = re.sub(r"(?s)<(style|script).*?</\1>|<details.*?</details>", "", page.read_text(encoding="utf-8"))
    return unescape(re.sub(r"<[^>]*>", "", text))


@pytest.mark.parametrize("name", ["baseline", "multilabel", "dual_head", "frozen", "full"])
def test_a_run_and_its_predictions_are_those_of_predict(runs, name, tmp_path, monkeypatch):
    run = runs(name)
    monkeypatch.chdir(tmp_path)
    given = f"texts={run / 'test_metadata.csv'}"
    assert run_script(monkeypatch, "predict", f"ckpt={run}", given, "output=p.csv") == 0
    assert Path("p.csv").read_bytes() == (run / "predictions.csv").read_bytes()
    assert run.parent.name == "text"
    groups = [set(pd.read_csv(run / f"{split}_metadata.csv")["group"]) for split in ("train", "val", "test")]
    assert groups[0].isdisjoint(groups[1] | groups[2]) and groups[1].isdisjoint(groups[2])
    torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    words = prose(run / "report.html") + (run / "model_card.md").read_text(encoding="utf-8")
    assert "photo" not in words.lower().replace("photo_", "") and "texts=NOTES.csv" in words
    assert "image size" not in words and "resiz" not in words
    assert (run / "evaluation" / "words.csv").is_file() == (name not in ("frozen", "full"))


@BOTH
def test_errors_name_the_words_they_rest_on(runs, name):
    run = runs(name)
    told = pd.read_csv(run / "evaluation" / "telling_words.csv", dtype=str, keep_default_na=False)
    assert list(told.columns) == ["ID", "true", "predicted", "confidence", "words"] and len(told)
    model, texts = Predictor.load(run), pd.read_csv(run / "test_metadata.csv").set_index("ID")["text"]
    page = (run / "report.html").read_text(encoding="utf-8")
    for row in told.to_dict("records"):
        text = texts[row["ID"]]
        whole = model.predict(text)["probs"][row["predicted"]]
        for word, drop in (part.rsplit(":", 1) for part in filter(None, row["words"].split(";"))):
            without = " ".join(other for other in text.split() if other != word)
            assert whole - model.predict(without)["probs"][row["predicted"]] == pytest.approx(
                float(drop), abs=0.006
            )
            assert f">{word}</mark>" in page


@BOTH
def test_a_loaded_model_needs_neither_network_nor_encoder(runs, name, home, monkeypatch):
    run = runs(name)
    (home / "encoder").is_dir() and shutil.move(home / "encoder", home / "away")
    monkeypatch.setattr(socket.socket, "connect", None)
    try:
        found = Predictor.load(run).predict(["rust on the bracket", "water drips from the joint"])
    finally:
        (home / "away").is_dir() and shutil.move(home / "away", home / "encoder")
    assert all(set(one) == {"label", "score", "probs"} and set(one["probs"]) == {*SIGNS} for one in found)
    assert found[0]["score"] == max(found[0]["probs"].values())
    if name == "baseline":
        assert [one["label"] for one in found] == ["Rust", "Leaks"]


@BOTH
def test_evaluation_of_a_run_and_of_other_texts(runs, name, tmp_path, monkeypatch, capsys):
    run, read = runs(name), "evaluation.json"
    monkeypatch.chdir(tmp_path)
    assert run_script(monkeypatch, "evaluate", f"ckpt={run}", "output=own", "explain=2") == 0
    assert Path("own/suspected_noisy_labels.csv").is_file()
    assert read_json(Path("own") / read)["figures"] == read_json(run / "evaluation" / read)["figures"]
    assert "photo" not in (said := capsys.readouterr().out) and "texts" in said
    mine, of_run = (pd.read_csv(f / "telling_words.csv") for f in (Path("own"), run / "evaluation"))
    pd.testing.assert_frame_equal(mine, of_run[: len(mine)])
    rows = [("text", "label"), ("brown stains on a joint", "Rust"), ("all good here", "Intact")]
    write(Path("new.csv"), rows)
    words = (f"ckpt={run}", "data=text", "data.csv=new.csv", "output=.")
    assert run_script(monkeypatch, "evaluate", *words) == 0 and "2 texts" in capsys.readouterr().out
    learned = pd.read_csv(run / "train_metadata.csv")["text"][0]
    write(Path("new.csv"), [*rows, (learned, "Rust")])
    assert "1 of 3 texts were in" in refused(monkeypatch, capsys, "evaluate", *words)
    write(Path("new.csv"), [("text", "label"), ("odd", "Bent")])
    assert "labels that the model lacks: 'Bent'" in refused(monkeypatch, capsys, "evaluate", *words)
    for data in ("data.root=.", "data=table"):
        said = refused(monkeypatch, capsys, "evaluate", f"ckpt={run}", data)
        assert "a model of texts" in said


def test_the_baseline_against_a_transformer(runs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    given = f"runs=[{runs('baseline')},{runs('full')}]"
    assert run_script(monkeypatch, "compare", given, "output=.") == 0
    assert "test texts" in capsys.readouterr().out
    changed = pd.read_csv("flipped.csv")
    assert list(pd.read_csv("comparison.csv")["metric"][:2]) == ["accuracy", "exact_match"]
    assert set(changed["path"]) <= set(pd.read_csv(runs("full") / "test_metadata.csv")["ID"])


def test_photos_and_texts_are_not_mistaken_for_one_another(runs, run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    table, texts = notes(Path("notes.csv")), f"ckpt={runs('baseline')}"
    some = run / "confusion_matrix.png"
    cases = {
        ("predict", texts, f"images={some}", "output=p.csv"): "a model of texts",
        ("predict", f"ckpt={run}", f"texts={table}", "output=p.csv"): "a model of photos",
        ("predict", texts, f"texts={table}", "output=p.csv", "tta=true"): "tta=true mirrors photos",
        ("predict", texts, f"texts={table}", "output=p.csv", "compile=true"): "compile=",
        ("evaluate", f"ckpt={run}", "data=text", f"data.csv={table}"): "a model of photos",
        ("train", "data=text", f"data.csv={table}"): "model=text_tfidf",
        ("train", "model=text_tfidf", "data=folders"): "data=text",
        ("export", texts): "only models of photos alone",
        ("explore", "data=text", f"data.csv={table}"): "explore.py looks at photos",
        ("audit", *BASELINE): "audit.py looks at photos",
        ("pipeline", *BASELINE): "pipeline.py looks at photos",
        ("compare_backbones", *BASELINE, "backbones=[resnet18]"): "looks at photos",
        ("find_lr", *BASELINE): "no learning rate",
    }
    for words, said in cases.items():
        assert said in refused(monkeypatch, capsys, *words), words
    assert len([*Path("outputs/text").iterdir()]) == 1 == len([*Path("outputs/audit").iterdir()])


@pytest.mark.parametrize(
    "rows, said",
    [
        ([("ID", "label"), ("1", "Rust"), ("2", "Leaks")], "no column 'text'"),
        ([("text", "label"), *((f"rust {i}", "Rust") for i in range(9))], "only one label, 'Rust'"),
        ([("text", "label"), ("", "Rust"), (" ", "Leaks")], "no text carries a label"),
        ([("text", "label"), *((chr(0x4E00 + i), "AB"[i % 2]) for i in range(30))], "model.min_texts=1"),
    ],
)
def test_tables_that_nothing_can_be_learned_from(rows, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write(Path("notes.csv"), rows)
    words = [word for word in BASELINE if "group" not in word]
    assert said in refused(monkeypatch, capsys, "train", *words)


def test_empty_same_and_contradicting_texts_are_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rows = list(csv.reader(notes(Path("notes.csv"), count=60).open(encoding="utf-8")))
    rows += [("N900", "", "Rust", "A900"), ("N901", "late note", "", "A901")]
    rows += [("N902", "same words", "Rust", "A902"), ("N903", "same words", "Leaks", "A903")]
    rows += [("N904", "first half", "Rust", "A904"), ("N904", "second half", "Rust", "A904")]
    write(Path("notes.csv"), rows)
    run = trained(tmp_path, *BASELINE)
    found = {one["key"] if "key" in one else one["name"]: one for one in _findings(run)}
    assert "photo" not in (run / "train.log").read_text(encoding="utf-8")
    given = [(f"N{i:03}", ("train", "train", "val")[i % 3]) for i in range(0, 57, 2)]
    write(Path("split.csv"), [("ID", "split"), *given, ("gone", "test")])
    words = (*BASELINE, "data.split_file=split.csv", "data.group='ID:^(N0[0-3])'")
    assert run_script(monkeypatch, "train", *words) == 0
    said = capsys.readouterr().err
    assert "1 rows of the split file have no text now: gone" in said and "photo" not in said
    assert {"texts_empty", "texts_unlabelled", "texts_same", "texts_contradict", "texts_joined"} <= set(found)
    assert "N902 = N903" in prose(run / "report.html")
    tables = [pd.read_csv(run / f"{split}_metadata.csv") for split in ("train", "val", "test")]
    assert sum({"N902", "N903"} <= set(table["ID"]) for table in tables) == 1  # copies stay together
    texts = pd.concat(tables).set_index("ID")["text"]
    assert texts["N904"] == "first half / second half" and "N900" not in texts


def _findings(run: Path) -> list[dict]:
    return read_json(run / "split_certificate.json")["findings"]


ODD = ["ru\x07st on the \u200fbracket", "صدأ على الدعامة", "💧💧 leak at the joint 🔧", "<b>rust</b>",
       "word " * 200_000, "x" * 1_000_000]  # fmt: skip


@BOTH
def test_odd_texts_are_predicted(runs, name, tmp_path, monkeypatch, capsys):
    run = runs(name)
    monkeypatch.chdir(tmp_path)
    write(Path("odd.csv"), [("ID", "text"), *enumerate(ODD), ("empty", " \t")])
    words = (f"ckpt={run}", "texts=odd.csv", "output=p.csv")
    assert run_script(monkeypatch, "predict", *words) == 1
    found = pd.read_csv("p.csv", dtype=str, keep_default_na=False).set_index("ID")
    assert list(found["status"]) == ["ok"] * len(ODD) + ["error"] and found["error"]["empty"] == "no text"
    assert found["text"]["0"] == "ru st on the \u200fbracket" and len(found["text"]["5"]) == 1_000_000
    assert len(Predictor.load(run).backend.model.telling(ODD[4], "Rust")) <= 5
    cut_off = "1 texts are longer than 64 tokens" in capsys.readouterr().err
    assert cut_off == (name == "full")


def test_encodings_are_detected(runs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rows = [("ID", "text"), ("1", "rust on the façade, ½ plate"), ("2", "leak at the joint")]
    found = []
    for encoding in ("utf-8", "cp1252", "utf-16"):
        write(Path("new.csv"), rows, encoding)
        words = (f"ckpt={runs('baseline')}", "texts=new.csv", f"output={encoding}.csv")
        assert run_script(monkeypatch, "predict", *words) == 0
        found.append(Path(f"{encoding}.csv").read_bytes())
    assert found[0] == found[1] == found[2]
    Path("new.csv").write_bytes(b"\x81\x8d\xff\x00text")
    assert "not text" in refused(monkeypatch, capsys, "predict", *words)


def test_without_a_network_one_line_names_what_there_is(tmp_path, monkeypatch, capsys):
    pytest.importorskip("transformers")
    monkeypatch.chdir(tmp_path)
    notes(Path("notes.csv"))
    monkeypatch.setattr("src.models.transformer.getproxies", dict)
    monkeypatch.setattr(socket, "create_connection", _unreachable)
    words = ("model=text_transformer", "text.model=nobody/none", *QUICK)
    said = refused(monkeypatch, capsys, "train", *words)
    assert "text.model=minilm" in said and "model=text_tfidf" in said


def _unreachable(*_: object, **__: object) -> None:
    raise OSError("no route to host")


def test_cut_off_texts_are_counted_and_bounded(runs, home, monkeypatch, capsys):
    run = runs("frozen")
    assert re.search(
        r"training texts are cut off after text.length=8 tokens", (run / "train.log").read_text()
    )
    monkeypatch.chdir(home / "frozen")
    assert "this encoder reads 2 to 64" in refused(
        monkeypatch, capsys, "train", *TRANSFORMER, "text.length=99"
    )


@pytest.mark.parametrize("name", ["frozen", "full"])
def test_a_run_goes_on_without_its_encoder(name, home, runs, tmp_path, monkeypatch):
    run = runs(name)
    kept = tmp_path / "outputs" / "text" / run.name
    shutil.copytree(run, kept)
    monkeypatch.chdir(home / name)
    before = (kept / "predictions.csv").read_bytes()
    shutil.move(home / "encoder", home / "away")
    try:
        assert run_script(monkeypatch, "train", f"resume={kept}") == 0
        assert (kept / "predictions.csv").read_bytes() == before
        assert run_script(monkeypatch, "train", f"resume={kept}", "trainer.max_epochs=3") == 0
    finally:
        shutil.move(home / "away", home / "encoder")
    assert len(pd.read_csv(kept / "history.csv")) == 3


def test_a_sweep_has_a_board(home, runs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(runs("full").parents[2])
    words = ("-m", *BASELINE, "model.C=1,3", f"hydra.sweep.dir={tmp_path / 'sweep'}")
    assert run_script(monkeypatch, "train", *words) == 0
    board = pd.read_csv(tmp_path / "sweep" / "leaderboard.csv")
    assert list(board["status"]) == ["done", "done"]
    words = (*TRANSFORMER[:-1], "text.length=64", "steps=12", "data.batch_size=8")
    assert run_script(monkeypatch, "find_lr", *words) == 0
    assert "Loading weights" not in capsys.readouterr().err


def test_a_kind_that_lies_in_one_fold(home, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    rows = [
        (f"N{i}", f"the {rng.choice([*PARTS])}, point {i}", rng.choice([*PARTS]), "", f"S{i // 4}")
        for i in range(120)
    ]
    rows[0], rows[1] = (*rows[0][:3], "Rust", "S0"), (*rows[1][:3], "Leaks", "S0")
    write(tmp_path / "notes.csv", [("ID", "note", "component", "defect", "asset"), *rows])
    assert (
        run_script(monkeypatch, "train", *BASELINE, "task=dual_head", "data.splits={train: 0.9, val: 0.1}")
        == 0
    )


def test_texts_are_read_as_the_run_reads_them(home, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    rows = list(csv.reader(notes(tmp_path / "one.csv").open(encoding="utf-8")))
    both = [(row[0], "seen", *row[1:]) for row in rows[1:]]
    write(tmp_path / "notes.csv", [("ID", "note", "description", "label", "asset"), *both])
    run = trained(tmp_path, *BASELINE, "data.text=description")
    given = (f"ckpt={run}", "texts=notes.csv", "output=p.csv")
    assert run_script(monkeypatch, "predict", *given) == 0
    with open("p.csv", newline="", encoding="utf-8") as file:
        assert [row["text"] for row in csv.DictReader(file)] == [row[1] for row in rows[1:]]
