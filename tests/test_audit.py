"""The audit's CSV, its page, and the way of a person's decisions back into the labels."""

import csv
import io
import json
import re
import shlex
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hydra import compose, initialize_config_dir

from src.analysis.audit.apply import apply_audit
from src.analysis.audit.lists import (
    Audit,
    agreement,
    agreement_csv,
    audit_csv,
    audit_page,
    judged_labels,
)
from src.analysis.audit.suspects import Suspect
from src.config import CONF, build
from src.datamodules.folders import FolderDataModule
from src.datamodules.records import Record
from src.datamodules.table import TableDataModule
from src.errors import InputError
from src.labels import LabelSpace
from src.models.backbones import fill_defaults
from tests.made import FAST, make_folders, make_table, run_script

COMMON = {
    "preprocess": {"image_size": 16, "mean": [0.5] * 3, "std": [0.5] * 3},
    "splits": {"train": 0.7, "val": 0.15, "test": 0.15},
    "healthy": ["Intact", "None"],
}


def of_folders(root, task="dual_head", **options) -> FolderDataModule:
    return FolderDataModule(root=str(root), task=task, **{**COMMON, **options})


def of_table(root, task="multilabel", csv=None, **options) -> TableDataModule:
    images = root / "images" if (root / "images").is_dir() else root
    csv = str(csv or root / "image_data.csv")
    return TableDataModule(csv=csv, images=str(images), task=task, **{**COMMON, **options})


def audited(linked, multilabel, *suspects) -> bytes:
    """The audit's CSV with suspects as `(ID, add, remove)`, or with a list's name before it."""
    position = {record.id: i for i, record in enumerate(linked.records)}
    lists = {}
    for *name, id_, add, remove in suspects:
        suspect = Suspect(position[id_], tuple(add), tuple(remove), 0.9, 0.5)
        lists.setdefault(name[0] if name else "missing_label", []).append(suspect)
    labels, nearest = judged_labels(linked.records, multilabel), np.full((len(position), 3), -1)
    return audit_csv(Audit(Path("photos"), linked, labels, lists, {}, nearest))


def decided(content: bytes, *decisions: str) -> pd.DataFrame:
    frame = pd.read_csv(io.BytesIO(content), dtype=str, keep_default_na=False, encoding="utf-8-sig")
    frame["decision"] = [*decisions, *[""] * (len(frame) - len(decisions))]
    return frame


class Round:
    """One way round: read the labels, audit, decide, apply, read the new table."""

    def __init__(self, home, old, make=None):
        self.home, self.old, self.make = home, old, make
        self.linked = old.collect()

    def apply(self, suspects, decisions, change=lambda frame: frame, **saving):
        content = audited(self.linked, self.old.multilabel, *suspects)
        path = self.home / "audit.csv"
        change(decided(content, *decisions)).to_csv(path, index=False, **{"encoding": "utf-8", **saving})
        return apply_audit(self.old, self.linked, path, self.home / "new")

    def labels(self) -> dict:
        """The labels of the new table as training reads them, by ID."""
        self.again = self.make(self.home / "new" / "image_data.csv").collect()
        return {r.id: {k: set(v) for k, v in r.labels.items()} for r in self.again.records}

    def meant(self, changes) -> dict:
        """The old labels with those of some photos changed; None leaves one out."""
        found = {r.id: {k: set(v) for k, v in r.labels.items()} for r in self.linked.records}
        return {id_: labels for id_, labels in {**found, **changes}.items() if labels is not None}

    def rows(self, name="image_data.csv") -> list[dict]:
        frame = pd.read_csv(
            self.home / "new" / name, dtype=str, keep_default_na=False, sep=None, engine="python"
        )
        return frame.to_dict("records")


TABLE = """ID,component,defect,asset,note
a1,Bolt;Bracket,Leaks,A,
a1,component,Drummy,A,"first, ""quoted""\"
a2,Bracket,Intact,A,NA
"a,3",Bolt,nan,B,y
"a,3",nan,Leaks,C,007
ä 4;b,Größe,Drummy,C,

a5,Bolt,Leaks,D,
a6,nan,defect,D,unlabelled
lost,Bolt,Leaks,E,no such photo
a7,Bracket,Drummy,,
a8,Größe,None,F,
"""


@pytest.fixture
def table(tmp_path, make_tree):
    names = ["a1", "a2", "a,3", "ä 4;b", "a5", "a6", "a7", "a8"]
    root = make_tree(tmp_path / "set" / "images", *(f"{name}.png" for name in names)).parent
    (root / "image_data.csv").write_text(TABLE, encoding="utf-8")
    return root


@pytest.fixture
def around(tmp_path, table):
    def make(path=None):
        return of_table(table, csv=path, group="asset")

    return Round(tmp_path, make(), make)


def small(tmp_path, make_tree, text: str, encoding="utf-8", names=("1", "2", "3"), **options) -> Round:
    """A round of a small table."""
    root = make_tree(tmp_path / "set" / "images", *(f"{name}.png" for name in names)).parent
    (root / "image_data.csv").write_bytes(text.encode(options.get("encoding", encoding)))

    def make(path=None):
        return of_table(root, csv=path, **(options if path is None else {**options, "encoding": None}))

    return Round(tmp_path, make(), make)


def test_a_table_goes_round_and_comes_back_as_decided(around):
    summary = around.apply(
        [
            ("a1", ["Corrosion"], []),
            ("ä 4;b", ["Leaks"], []),
            ("a5", [], ["Leaks"]),
            ("a2", ["Leaks"], []),
            ("a7", [], ["Drummy"]),
            ("a8", ["Drummy"], []),
            ("wrong_label", "a,3", ["Drummy"], ["Leaks"]),
        ],
        ["set Bolt; leaks", " KEEP", "accept", "accept", "exclude", "", "Accept "],
        lambda frame: frame.assign(comment=[""] * 6 + ["seen; on site"]),
    )
    changes = {
        "a1": {"component": {"Bolt"}, "defect": {"Leaks"}},
        "a,3": {"component": {"Bolt"}, "defect": {"Drummy"}},
        "a5": {"component": {"Bolt"}, "defect": set()},
        "a2": {"component": {"Bracket"}, "defect": {"Leaks"}},
        "a7": None,
    }
    assert around.labels() == around.meant(changes)
    # photos of one group stay in it: the row of the second asset joins both
    assert {r.id: r.group for r in around.linked.records if r.id != "a7"} == {
        r.id: r.group for r in around.again.records
    }
    assert [list(row.values()) for row in around.rows()] == [
        ["a1", "Bolt", "Leaks", "A", ""],
        ["a1", "", "", "A", 'first, "quoted"'],
        ["a2", "Bracket", "Leaks", "A", "NA"],
        ["a,3", "Bolt", "Drummy", "B", "y"],
        ["a,3", "", "", "C", "007"],
        ["ä 4;b", "Größe", "Drummy", "C", ""],
        ["a5", "Bolt", "Intact", "D", ""],  # it lost its last defect, and the table says so of others
        ["a6", "nan", "defect", "D", "unlabelled"],
        ["lost", "Bolt", "Leaks", "E", "no such photo"],
        ["a8", "Größe", "None", "F", ""],
    ]
    assert (summary["changed"], summary["left_out"], summary["confirmed"]) == (4, 1, 1)
    assert (summary["rows_decided"], summary["rows_undecided"]) == (6, 1)
    assert summary["labels"]["Leaks"] == {"before": 3, "after": 2}
    assert json.loads((around.home / "new" / "summary.json").read_text(encoding="utf-8")) == summary
    told = [list(row.values()) for row in around.rows("changes.csv")]
    assert told[0] == ["a1", "a1.png", "Bolt;Bracket;Leaks;Drummy", "Bolt;Leaks", "2", "missing_label",
                       "set Bolt; leaks", ""]  # fmt: skip
    assert told[4][2:4] == ["Bracket;Drummy", ""] and len(told) == 6
    assert told[5][3:] == ["Bolt;Drummy", "8", "wrong_label", "Accept", "seen; on site"]


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        (
            'ID;component;defect;\r\n1; Größe ;" x;nan ";a\r\n\r\n"2";Tür;y;\r\n3;Tür;x;"two\r\nlines"',
            "cp1252",
        ),
        ("ID\tcomponent\tdefect\t\n1\tGröße\tx\ta,b\n2\tTür\ty\t\n3\tTür\tx;x\t\n", "utf-8-sig"),
        ("ID,component,defect,\r1,Größe,x,NA\r2,Tür,y,007\r3,Tür,x,1e5\r", "utf-16"),
        ('ID|component|defect|\n1|Größe|x|" in"\n2|Tür|y|"one\rtwo"\n3|Tür|x|None\n', "utf-8"),
    ],
)
def test_no_other_cell_changes_whatever_the_encoding_and_delimiter(tmp_path, make_tree, text, encoding):
    around = small(tmp_path, make_tree, text, encoding)
    old = text.replace("; Größe", ";Größe")  # blanks after a delimiter are no part of a cell
    around.apply([("2", ["x"], ["y"])], ["accept"])
    assert around.labels()["2"] == {"component": {"Tür"}, "defect": {"x"}}
    delimiter = text[2]
    new = (tmp_path / "new" / "image_data.csv").read_bytes().decode("utf-8")
    read = [list(csv.reader(io.StringIO(part, newline=""), delimiter=delimiter)) for part in (old, new)]
    wanted = [[cell if cell != "y" else "x" for cell in row] for row in read[0] if row]
    assert read[1] == wanted


def test_the_new_table_is_read_with_the_options_of_the_old_one(tmp_path, make_tree):
    text = "Foto;Teil;Schaden\na\\1;Größe, klein;x+y\n2;Größe, klein;\n2;Tür;x\n3;Tür;y\n"
    columns = {"component": "Teil", "defect": "Schaden"}
    options = {"id": "Foto", "columns": columns, "separator": "+", "delimiter": ";", "encoding": "cp1252"}
    around = small(tmp_path, make_tree, text, names=("a/1", "2", "3"), **options)
    around.apply([("2", ["y"], []), ("a\\1", ["Tür"], ["x"])], ["accept", "accept"])
    parts = {"component": {"Größe, klein", "Tür"}}
    changes = {"2": {**parts, "defect": {"x", "y"}}, "a\\1": {**parts, "defect": {"y"}}}
    assert around.labels() == around.meant(changes)


def test_a_table_with_a_column_per_label_is_refused(tmp_path, make_tree):
    around = small(tmp_path, make_tree, "ID,Crack,Leak\n1,1,0\n2,0,1\n3,1,1\n")
    with pytest.raises(InputError, match="apply= cannot change a table with one column per label"):
        around.apply([("1", ["Leak"], [])], ["accept"])


def test_folders_become_a_table_with_the_same_ids_groups_and_labels(tmp_path):
    root = make_folders(tmp_path / "photos, alle; ü", each=2)
    (root / "Grout Hole_Leaks").rename(root / "Grout Hole, groß_Leaks")
    group = r"^(A\d+)_"

    def make(path):
        return of_table(root, "dual_head", csv=path, group=group)

    around = Round(tmp_path, of_folders(root, group=group), make)
    one, two, three, four = [r.id for r in around.linked.records if "Grout" in r.id][:4]
    around.apply(
        [(one, ["Corrosion-Heavy"], ["Leaks"]), (two, ["Radial Joint"], []), (three, [], ["Grout Hole"]),
         (four, [], [])],
        ["set Grout Hole;Corrosion-Heavy", "keep", "accept", "exclude"],
    )  # fmt: skip
    (given,) = next(r.labels["defect"] for r in around.linked.records if r.id == three)
    changes = {
        one: {"component": {"Grout Hole"}, "defect": {"Corrosion-Heavy"}},
        three: {"component": set(), "defect": {given}},
        four: None,
    }
    assert around.labels() == around.meant(changes)
    groups = {r.id: r.group for r in around.linked.records if r.id != four}
    assert {r.id: r.group for r in around.again.records} == groups


def test_a_photo_that_loses_its_labels_is_written_as_healthy_or_empty_or_refused(tmp_path, make_tree):
    around = small(tmp_path, make_tree, "ID,component,defect\n1,Wall,Leak\n2,Wall,Intact\n3,Deck,Crack\n")
    for decision in ("set Wall;Intact", "accept"):
        around.apply([("1", [], ["Leak"])], [decision])
        assert around.labels() == around.meant({"1": {"component": {"Wall"}, "defect": set()}})
        assert around.rows()[0]["defect"] == "Intact"
    around = small(tmp_path, make_tree, "ID,label\n1,Leak\n2,Drummy\n3,Leak;Drummy\n")
    around.apply([("1", [], ["Leak"])], ["accept"])
    assert around.labels() == around.meant({"1": {"label": set()}})
    without = Round(tmp_path, of_table(tmp_path / "set", healthy=[]))
    with pytest.raises(InputError, match="row 2: 1 would have no label at all"):
        without.apply([("1", [], ["Leak"])], ["accept"])


def test_labels_that_a_spreadsheet_would_run_go_round(tmp_path, make_tree):
    text = "ID,label\n-1,=SUM(A1)\n@2,'=x\n3,+y\n"
    around = small(tmp_path, make_tree, text, names=("-1", "@2", "3"))
    content = audited(around.linked, True, ("@2", ["+y"], [])).decode("utf-8-sig")
    assert "'@2,'@2.png,''=x,add +y" in content
    around.apply([("-1", ["+y"], []), ("@2", ["=SUM(A1)"], ["'=x"])], ["accept", "accept"])
    changes = {"-1": {"label": {"=SUM(A1)", "+y"}}, "@2": {"label": {"=SUM(A1)"}}}
    assert around.labels() == around.meant(changes)


def test_a_folder_whose_name_a_table_would_not_read_as_a_label(tmp_path, make_tree):
    paths = ["Wall_Defect/1.png", "Wall_Intact/2.png", "Deck_Defect/3.png", "Deck_Intact/4.png"]
    root = make_tree(tmp_path / "photos", *paths)
    suspects = [("Wall_Defect/1", ["Intact"], ["Defect"])]
    words = r"cannot say the labels of 1 photos: Deck_Defect/3\.png .*data.defects"
    with pytest.raises(InputError, match=words):
        Round(tmp_path, of_folders(root)).apply(suspects, ["accept"])
    assert not (tmp_path / "new").exists()
    known = {"components": ["Wall", "Deck"], "defects": ["Defect"]}
    make = lambda path: of_table(root, "dual_head", csv=path, **known)  # noqa: E731
    around = Round(tmp_path, of_folders(root, **known), make)
    around.apply(suspects, ["accept"])
    assert around.labels() == around.meant({"Wall_Defect/1": {"component": {"Wall"}, "defect": {"Intact"}}})


def mangled(frame: pd.DataFrame) -> pd.DataFrame:
    """Sort, delete rows and columns, add some, read 007 as a number, as spreadsheets and their users do."""
    frame = frame.sort_values("path", ascending=False).drop(columns=["rank", "nearest", "comment"])
    frame.insert(0, "seen by", "Jürgen; Ana")
    frame["ID"] = [str(int(cell)) for cell in frame["ID"]]
    frame["given_component"] = [cell.replace("01", "1") for cell in frame["given_component"]]
    return frame[frame["ID"] != "9"]


@pytest.mark.parametrize("saving", [{"sep": ";", "encoding": "cp1252"}, {"sep": "\t", "encoding": "utf-16"}])
def test_a_file_saved_by_a_spreadsheet_is_read(tmp_path, make_tree, saving):
    text = "ID,component,defect\n007,01,Leak\n08,02,Größe\n9,02,Leak;Größe\n"
    around = small(tmp_path, make_tree, text, names=("007", "08", "9"))
    suspects = [("007", ["Größe"], ["Leak"]), ("08", ["01"], ["02"]), ("9", [], ["Leak"])]
    around.apply(suspects, ["accept", " set 01;Größe ", "keep"], mangled, **saving)
    changed = {"component": {"01"}, "defect": {"Größe"}}
    assert around.labels() == around.meant({"007": changed, "08": changed})


DOUBTS = [
    ("a1", ["Intact"], []),
    ("wrong_label", "a1", ["Corrosion"], ["Leaks"]),
    ("wrong_label", "a5", [], ["Leaks"]),
]


@pytest.mark.parametrize(
    ("decisions", "change", "words"),
    [
        (["acept"], None, "row 2 'acept': did you mean 'accept'"),
        (["keep", "exlude", "kep"], None, "row 3 'exlude', row 4 'kep': did you mean 'exclude'"),
        (["set"], None, "row 2: 'set' names no label"),
        (["set Bolt;Leak"], None, "row 2: unknown label 'Leak': did you mean 'Leaks'"),
        (["set Bolt, Leaks"], None, "unknown label 'Bolt, Leaks'.*separated by ';'"),
        (["set Intact;Leaks"], None, "row 2: a1 would be Intact; Leaks, which is nothing"),
        (["exclude", "set Bolt"], None, "a1: row 2 says 'exclude' .* and row 3 says 'set Bolt' .*both"),
        (["set Bolt;Leaks", "accept"], None, "unknown label 'Corrosion'"),
        (["", "", ""], None, "no row has a decision"),
        (["keep"], lambda frame: frame.assign(path="x/" + frame["path"]), "row 2 x/a1.png .no such photo"),
        (["keep"], lambda frame: frame.drop(columns=["given_defect"]), "no column given_defect"),
        (["keep"], lambda frame: frame.assign(DECISION=""), "no column decision, or several"),
        (["keep"], lambda frame: frame.assign(suggestion="Leaks?"), "the suggestion 'Leaks\\?' has been"),
    ],
)  # fmt: skip
def test_decisions_that_cannot_be_followed_name_their_rows(around, decisions, change, words):
    with pytest.raises(InputError, match=words) as refused:
        around.apply(DOUBTS, decisions, change or (lambda frame: frame))
    assert "\n" not in str(refused.value)
    assert not (around.home / "new").exists()


@pytest.mark.parametrize(
    ("first", "decisions", "labels"),
    [
        (("Größe", ""), ("accept", "accept"), "Bolt Bracket Größe Drummy"),
        (("Größe", ""), ("accept", "keep"), "Bolt Bracket Größe Leaks Drummy"),
        (("Größe", ""), ("set Bolt;Leaks", "set leaks; bolt"), "Bolt Leaks"),
        (("Größe", ""), ("keep", "exclude"), None),
        (("Größe", ""), ("set Bolt;Leaks", "accept"), "refused"),
        (("Größe", "Leaks"), ("accept", "keep"), "refused"),
    ],
)
def test_two_rows_of_a_photo_combine_or_are_refused(around, first, decisions, labels):
    """The first row adds and removes the labels in `first`, the second removes Leaks."""
    suspects = [("a1", *([name] if name else [] for name in first)), ("wrong_label", "a1", [], ["Leaks"])]
    if labels == "refused":
        with pytest.raises(InputError, match=r"a1: row 2 says .* and row 3 says .*both cannot hold"):
            around.apply(suspects, decisions)
        return
    around.apply(suspects, decisions)
    found = around.labels().get("a1")
    assert (found and set().union(*found.values())) == (labels and set(labels.split()))


def test_labels_that_a_head_cannot_have_are_refused(tmp_path):
    around = Round(tmp_path, of_folders(make_folders(tmp_path / "photos", each=2)))
    id_ = "Grout Hole_Leaks/A100_0"
    doubts = [(id_, ["Intact"], ["Leaks"]), ("wrong_label", id_, ["Corrosion-Heavy"], ["Leaks"])]
    with pytest.raises(InputError, match=r"row 2 and 3: .*several labels of kind defect"):
        around.apply(doubts, ["accept", "accept"])
    with pytest.raises(InputError, match="every photo is left out"):
        around.apply([(r.id, [], []) for r in around.linked.records], ["exclude"] * 18)


def test_photos_that_changed_since_the_audit_are_refused(around, table):
    suspects = [*DOUBTS, ("a2", ["Leaks"], []), ("a7", ["Leaks"], [])]
    content = decided(audited(around.linked, True, *suspects), "", "keep", "exclude", "", "accept")
    content.to_csv(around.home / "audit.csv", index=False)
    text = (table / "image_data.csv").read_text(encoding="utf-8")
    (table / "image_data.csv").write_text(text.replace("a5,Bolt,Leaks", "a5,Bolt,Drummy"), encoding="utf-8")
    (table / "images" / "a2.png").unlink()
    (table / "images" / "a7.png").write_bytes((table / "images" / "a1.png").read_bytes())
    new = of_table(table, group="asset")
    words = (
        "3 rows decide on photos that have changed since the audit: row 3 a2.png (no such photo), "
        "row 4 a7.png (another file), row 6 a5.png (defect from 'Leaks' to 'Drummy'); audit again"
    )
    with pytest.raises(InputError, match=re.escape(words)):
        apply_audit(new, new.collect(), around.home / "audit.csv", around.home / "new")


@pytest.mark.parametrize(
    ("rows", "one_per_kind", "found"),
    [
        (["A|x+y"], False, {}),  # one row
        (["A|", "|x+y"], False, {}),  # a row per kind
        (["A|x", "B|x+y"], False, {"A": "0 0 1", "B": "0 0 1", "x": "0 0 1", "y": "0 0 1"}),
        (["A|x+y", "A|x", "A|"], False, {"A": "1 0 0", "x": "1 0 0", "y": "0 1 0"}),
        (["A|ok", "A|x"], False, {"A": "1 0 0", "x": "0 1 0"}),  # nothing wrong, and something
        (["A|x", "A|y"], True, {"A": "1 0 0", "x": "0 1 0", "y": "0 1 0"}),
    ],
)
def test_agreement_counts_opinions_and_not_lists(rows, one_per_kind, found):
    """On one photo whose rows are `component|defect`, labels joined by +."""
    labels = LabelSpace({"component": ("A", "B"), "defect": ("x", "y", "z")})
    cells = [dict(zip(labels.kinds, row.split("|"), strict=True)) for row in rows]
    rows = [{kind: cell.split("+") if cell else [] for kind, cell in row.items()} for row in cells]
    table = agreement([Record("1", "1.png", {})], {"1.png": rows}, labels, ["ok"], one_per_kind)
    counts = table.set_index("label")[["in_all_rows", "in_some_rows", "cannot_tell"]]
    assert {row[0]: " ".join(map(str, row[1:])) for row in counts.itertuples() if any(row[1:])} == found


def test_agreement_is_written_with_the_photos_that_differ():
    labels = LabelSpace({"label": ("x", "y")})
    records = [Record("p,1", "1", {}), Record("2", "2", {}), Record("3", "3", {})]
    rows = {"1": ["xy", "x"], "2": ["y", "y"], "3": ["x"]}
    annotations = {path: [{"label": list(cell)} for cell in cells] for path, cells in rows.items()}
    rows = agreement_csv(agreement(records, annotations, labels, (), False)).decode("utf-8-sig").splitlines()
    assert rows[1:] == ["label,x,2,1,0,2,2,1.0000,0,", 'label,y,2,1,1,3,1,0.5000,0,"p,1"']


def test_the_page_and_the_csv_show_every_suspect_and_what_to_compare_it_with(tmp_path):
    root = make_folders(tmp_path / "photos", each=2)
    linked = of_folders(root).collect()
    linked.records[3] = replace(linked.records[3], id="<b>&")
    linked = replace(linked, groups=np.arange(18) // 4)
    suspects = {
        "missing_label": [Suspect(i, ("Leaks",), (), 0.9, 0.9) for i in (3, 5, 7)],
        "wrong_label": [Suspect(0, ("Intact",), ("Corrosion-Heavy",), 0.81234, 0.8)],
        "unseen_pair": [],
        "near_duplicates": [Suspect(1, ("Leaks",), (), 0.7, 0.0, 2)],
    }
    unjudged, nearest = (
        {"Radial Joint": "4 photos carry it"},
        [[(i + 4) % 18, (i + 6) % 18, -1] for i in range(18)],
    )
    labels = judged_labels(linked.records, False)
    audit = Audit(root, linked, labels, suspects, unjudged, np.array(nearest), notes=["Seen before."])
    text = audit_page(audit, [], 60, "python scripts/audit.py apply='a b.csv'").decode()
    for words in (
        "remove Corrosion-Heavy; add Intact", "probability 0.90", "Seen before.", "None found",
        "2 of 3 other photos of its group carry Leaks", "&lt;b&gt;&amp;",
        "Cannot be judged: Radial Joint (4 photos carry it)",
    ):  # fmt: skip
        assert words in text, words
    assert text.count("data:image/jpeg") == 4 * 3 + 2 and "<b>&" not in text and "<script" not in text
    assert not re.search(r'(src|href)="(?!data:)', text)
    assert "1 here and 2 more in audit.csv" in audit_page(audit, [], 1, "").decode()

    content = audit_csv(audit)
    assert content.startswith(b"\xef\xbb\xbf")
    rows = decided(content).to_dict("records")
    names = [f"{r.id} ({', '.join(n for v in r.labels.values() for n in v)})" for r in linked.records]
    assert [row["ID"] for row in rows] == [linked.records[i].id for i in (3, 5, 7, 0, 1)]
    assert (rows[3]["given_defect"], rows[3]["probability"]) == ("Corrosion-Heavy", "0.8123")
    assert rows[3]["suggestion"] == "remove Corrosion-Heavy; add Intact"
    assert rows[3]["nearest"] == f"{names[4]} | {names[6]}" and rows[4]["other"] == names[2]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_table(tmp_path_factory.mktemp("data") / "set, one", each=4)


def script(monkeypatch, home, *arguments):
    """Call the audit on a small backbone; its own options come last."""
    monkeypatch.chdir(home)
    return run_script(monkeypatch, "audit", *FAST[:2], *FAST[4:7], "device=cpu", *arguments)


def train_command(said: str, monkeypatch) -> TableDataModule:
    """What the printed command would train on."""
    (line,) = [line for line in said.splitlines() if line.startswith("train ")]
    word, python, name, *overrides = shlex.split(line)
    assert (word, python, name) == ("train", "python", "scripts/train.py")
    monkeypatch.setattr(sys, "argv", ["train.py", *overrides])
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", [*overrides, "output_dir=somewhere"])
    fill_defaults(cfg)
    return build(cfg.data)


def test_the_script_lists_suspects_and_takes_the_answers_back(tmp_path, data, monkeypatch, capsys):
    text = (data / "image_data.csv").read_text(encoding="utf-8")
    text = text.replace("00001,component,Leaks", "00001,component,Intact").replace("Radial Joint", "Räder")
    (data / "image_data.csv").write_text(text, encoding="cp1252")
    source = ("model=multilabel", f"data.root='{data}'", "data.group=asset", "data.encoding=cp1252")
    assert script(monkeypatch, tmp_path, *source, "output=a", "folds=3", "seed=1") == 0
    said = capsys.readouterr()
    assert "random weights" in said.err and "A label may be missing (missing_label)" in said.out
    assert "apply=a/audit.csv" in said.out and "model.backbone" not in said.out
    first = (tmp_path / "a" / "audit.html").read_bytes(), (tmp_path / "a" / "audit.csv").read_bytes()
    assert script(monkeypatch, tmp_path, *source, "output=b", "folds=3", "seed=1") == 0
    assert (tmp_path / "b" / "audit.csv").read_bytes() == first[1]
    (row,) = decided(first[1]).to_dict("records")
    assert (row["path"], row["suggestion"]) == ("00001.jpg", "add Leaks")
    linked = of_table(data, group="asset").collect()
    content = audited(linked, True, ("00001", ["Leaks"], []), ("00002", [], []), ("01000", [], []))
    frame = decided(content, "accept", "exclude", "set Grout Hole;Leaks")
    frame.to_csv(tmp_path / "a" / "audit.csv", index=False, sep=";")
    capsys.readouterr()
    assert script(monkeypatch, tmp_path, *source, "apply=a/audit.csv", "output='new, too'") == 0
    said = capsys.readouterr().out
    assert "2 photos changed, 1 left out, 0 confirmed; 0 rows without a decision" in said
    new = train_command(said, monkeypatch)
    found = {r.id: set().union(*r.labels.values()) for r in new.collect().records}
    meant = {r.id: set().union(*r.labels.values()) for r in linked.records if r.id != "00002"}
    assert found == {**meant, "00001": {"Channel Bracket", "Leaks"}, "01000": {"Grout Hole", "Leaks"}}
    assert (new.group, str(new.images)) == ("asset", str(data / "images"))


def test_folders_split_already_are_trained_on_as_before(tmp_path, make_tree, monkeypatch, capsys):
    names = ["Wall_Leak", "Wall_Crack", "Deck_Leak", "Deck_Crack"]
    paths = [f"{split}/{name}/{i}.png" for split in ("train", "val") for name in names for i in range(3)]
    root = make_tree(tmp_path / "photos", *paths)
    content = audited(of_folders(root).collect(), False, ("train/Wall_Leak/0", ["Crack"], ["Leak"]))
    decided(content, "accept").to_csv(tmp_path / "audit.csv", index=False)
    source = (f"data.root={root}", "data.splits={train: 0.8, val: 0.2, test: 0}", "data.separator=_")
    assert script(monkeypatch, tmp_path, *source, "apply=audit.csv", "output=new") == 0
    new = train_command(capsys.readouterr().out, monkeypatch)
    new.setup()
    found = {split: {r.id for r in records} for split, records in new.splits.items()}
    assert found["val"] == {path[:-4] for path in paths if path.startswith("val")} and not found["test"]
    assert {r.id: r.labels["defect"] for r in new.splits["train"]}["train/Wall_Leak/0"] == ("Crack",)


def test_features_that_have_seen_the_labels_are_named(run, photos, tmp_path, monkeypatch, capsys):
    assert script(monkeypatch, tmp_path, f"data.root={photos}", f"ckpt={run}", "folds=2", "output=a") == 0
    said = capsys.readouterr().err
    lines = (run / "train_metadata.csv").read_text(encoding="utf-8").splitlines()
    assert f"was trained on {len(lines) - 1} of these 36 photos with their labels" in said
    assert "was trained on" in (tmp_path / "a" / "audit.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["folds=1"], "folds=1: needs a number from 2 to"),
        (["output='{data}/images/new'"], "lies in the photos' folder"),
        (["output=taken"], "it holds audit.csv already"),
        (["apply='{data}/image_data.csv'"], "not an audit of these photos"),
        (["apply=taken/audit.csv", "output='{data}'"], "it holds image_data.csv already"),
        (["model.init_from=x.ckpt"], "name the checkpoint with ckpt="),
        (["model=multiclass", "data=table", "data.columns={{label: one}}"], "only one label, 'same'"),
    ],
)
def test_bad_input_is_one_line(tmp_path, data, monkeypatch, capsys, arguments, words):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "audit.csv").write_text("mine\n")
    rows = (data / "image_data.csv").read_bytes().decode("cp1252").splitlines()
    one = [f"{row},{'one' if i == 0 else 'same'}" for i, row in enumerate(rows)]
    (tmp_path / "one.csv").write_text("\n".join(one), encoding="utf-8")
    root = ["model=multilabel", f"data.csv={tmp_path / 'one.csv'}", f"data.images='{data / 'images'}'"]
    arguments = [argument.format(data=data) for argument in arguments]
    before = sorted(path for path in data.rglob("*"))
    assert script(monkeypatch, tmp_path, *root, *arguments) == 2
    said = capsys.readouterr().err
    lines = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and words in lines[0], said
    assert sorted(path for path in data.rglob("*")) == before
    assert (tmp_path / "taken" / "audit.csv").read_text() == "mine\n"
