"""Tables that a spreadsheet, a tool or another machine has changed."""

import json
import logging
import re

import pytest

from src.datamodules.groups import assign_groups
from src.datamodules.records import PhotoIndex, Record, Source
from src.datamodules.split_file import split_by_file
from src.datamodules.table import TableDataModule
from src.errors import InputError
from src.inference.batches import find_images
from tests.made import told

COMMON = {"preprocess": {}, "splits": {}, "healthy": ["Intact", "None"]}


@pytest.fixture
def read(tmp_path, caplog):
    """Return a function that writes a table and names of photos, and reads them; it decodes no photo."""
    caplog.set_level(logging.INFO)

    def read_(text, *photos, task="multilabel", **options):
        for name in photos or ("a.jpg", "b.jpg", "c.jpg"):
            (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "images" / name).touch()
        path = tmp_path / "t.csv"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return TableDataModule(csv=str(path), task=task, **COMMON | options).read()

    return read_


def paths(source):
    return {r.path: [name for names in r.labels.values() for name in names] for r in source.records}


@pytest.mark.parametrize(
    ("id_", "photo", "words"),
    [
        ("123", "00123.jpg", "lost their leading zeros, as 123 for 00123.jpg; format the column as text"),
        ("123.0", "s/00123.jpg", "lost their leading zeros, as 123.0 for 00123.jpg"),
        ("12.0", "12.jpg", "became decimal numbers, as 12.0 for 12.jpg"),
        ('"12,0"', "12.jpg", "became decimal numbers"),
        ("2.02305E+13", "20230512345678.jpg", "became numbers with an exponent, as 2.02305E+13; format"),
    ],
)
def test_damaged_ids_are_named(read, id_, photo, words):
    with pytest.raises(InputError, match=r"none of the 1 IDs .*1 IDs \(2 rows\) .*") as caught:
        read(f"ID,label\n{id_},x\n{id_},y\n", photo, "other.jpg")
    assert words in str(caught.value) and "\n" not in str(caught.value)
    source = read(f"ID,label\na,x\n{id_},x\n{id_},y\n", photo, "a.jpg")
    assert list(paths(source)) == ["a.jpg"] and words.split(",")[0] in told(source)


def test_ids_that_are_only_unknown_have_no_cause(read):
    source = read("ID,label\na,x\n77,y\nz-9,y\n", "a.jpg", "0123.jpg", "2-1.jpg", "20230512345678.jpg")
    assert [f.name for f in source.findings] == ["ids_missing"]


def test_of_an_id_and_a_file_the_one_with_an_extension_decides(read, tmp_path, caplog):
    rows = "ID,filename,label\n0,2.jpg,x\n1,0.jpg,y\n2,1.jpg,z\n"
    assert paths(read(rows, "0.jpg", "1.jpg", "2.jpg")) == {"2.jpg": ["x"], "0.jpg": ["y"], "1.jpg": ["z"]}
    assert "the column 'filename' names the photos, and 'ID' is not used" in caplog.text
    (tmp_path / "images" / "l.csv").write_text(rows)
    assert [(p.id, p.path) for p in find_images(str(tmp_path / "images" / "l.csv"))][:1] == [("1", "0.jpg")]
    assert paths(read(rows, id="ID"))["0.jpg"] == ["x"]
    for name in ("file_name", "Image Name", "img"):  # a column of files is one under any name
        source = read(rows.replace("filename", name))
        assert paths(source) == {"2.jpg": ["x"], "0.jpg": ["y"], "1.jpg": ["z"]}
    (tmp_path / "images" / "l.csv").write_text(rows.replace("filename", "image_path"))
    assert [(p.id, p.path) for p in find_images(str(tmp_path / "images" / "l.csv"))][:1] == [("1", "0.jpg")]
    with pytest.raises(InputError, match=r"row 2: names a.jpg by column 'ID' and 1.jpg .*'img'; .*data.id="):
        read("ID,img,label\na,1.jpg,x\n1,a.jpg,y\n", "a.jpg", "1.jpg")
    both = "ID,file,label\n0,0,x\n1,2,y\n"
    with pytest.raises(InputError, match=r"row 3: names 1.jpg by column 'ID' and 2.jpg .*data.id="):
        read(both)
    source = read("ID,file,label\n0,0.jpg,x\n1,1.jpg,y\n")  # they agree
    assert [r.id for r in source.records] == ["0", "1"]


TABLE = "ID;label\na;x\nb;y\n"


@pytest.mark.parametrize(
    "text",
    [
        "sep=;\n" + TABLE,
        '\ufeff"sep=;"\r\n' + TABLE,
        "Inspection 2024, bridge 4\n\n" + TABLE,
        "Inspection;\n;\n" + TABLE,
        "# exported, by a tool\n# on Monday\n" + TABLE,
        "# " + TABLE,
        "\n\n" + TABLE,
        TABLE.replace("\n", "\r"),
        TABLE.replace("\n", "\r\n"),
    ],
)
def test_lines_above_a_header(read, text):
    assert paths(read(text)) == {"a.jpg": ["x"], "b.jpg": ["y"]}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a.jpg,x\nb.jpg,y\n", r"the first line looks like data \(a.jpg, x\): add a header, as ID,label"),
        ("00001,x\n00002,x\n", "looks like data"),
        ("a,x\nb,x\n", "looks like data"),
        ("0980.jpg 0\n", "looks like data"),
        ("# exported\na.jpg,x\n", "looks like data"),
        ("Foto,label\na.jpg,image\n", "no column 'ID'"),
        ('ID,label\na,x\n\nb,"y\nc,z\n', "not a table from row 4 on: a quote that opens there is not closed"),
        ('ID,label\na,"x\nb,"y"\nc,z\n', "not a table from row 2 on: a quote that opens there is not closed"),
        ('ID,label\na,"x" y\n', "not a table from row 2 on: .* one within a cell is not doubled"),
        pytest.param('ID,label\na,x\nb,"' + "y\n" * 99999, "row 3 on: .* not closed, or one", id="long"),
        (b"ID,label\na,x\nb,\0\n", r"not a text file \(a zero byte in row 3\)"),
        (b"PK\x03\x04...", "a workbook or an archive: save it as CSV UTF-8"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "a workbook or an archive: save it as CSV UTF-8"),
        (json.dumps({"images": [], "annotations": []}, indent=1), "this is JSON: write a CSV"),
        ('[{"ID": "a"}]', "this is JSON: write a CSV"),
        ('<?xml version="1.0"?><annotation/>', "this is XML or HTML"),
    ],
)
def test_what_is_no_table_is_named(read, text, words):
    with pytest.raises(InputError, match=words) as caught:
        read(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("yes", "no"),
    [
        ("1", "0"), ("1.0", "0.0"), ("TRUE", "FALSE"), ("yes", "no"), ("x", ""), ("X", "-"), ("si", "no"),
        ("j", "n"), ("ja", "nein"), ("+", "-"), ("✓", "✗"), ("Present", "absent"),
    ],
)  # fmt: skip
def test_one_column_per_label(read, yes, no, caplog):
    text = f"ID,width,Crack,Leak;s\na,640,{yes},{yes}\nb,480,{no},{no}\nc,320,{no},{yes}\n"
    assert paths(read(text)) == {"a.jpg": ["Crack", "Leak;s"], "b.jpg": ["Intact"], "c.jpg": ["Leak;s"]}
    assert "one column per label: Crack, Leak;s" in caplog.text
    read("ID,damage,Crack,Leak\na,wide,1,1\nb,,0,0\n")
    assert "columns that are not read: damage" in caplog.text
    assert list(paths(read(text, healthy=[]))) == ["a.jpg", "c.jpg"]
    single = f"filename,Crack,Leak\na.jpg,{yes},{no}\nb.jpg,{no},{yes}\n"
    assert paths(read(single, task="multiclass")) == {"a.jpg": ["Crack"], "b.jpg": ["Leak"]}


@pytest.mark.parametrize("cell", ["-1", "0.87", "3", "?", ""])
def test_a_label_column_with_another_cell_is_refused(read, cell):
    text = f"ID,Crack,Leak\na,1,0\nb,0,1\n\nc,{cell},1\na,0,0\n"
    with pytest.raises(InputError, match=r"row 5, column 'Crack': '.*' is neither 1 nor 0"):
        read(text)
    with pytest.raises(InputError, match=r"row 2, column 'Crack': '0.9' is neither"):
        read("ID,Crack,Leak\na,0.9,0.2\nb,0.3,1\n")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ID,component,defect,defect_2\na,Bolt,Crack,Rust\n", "like labels: 'defect_2'; join their cells"),
        ("ID,label,Label 2,note\na,x,,x or y\nb,y,z,\n", "look like labels: 'Label 2'; join"),
        ("ID,label,more\na,x,y\nb,y,x;y\nc,x,nan\n", "look like labels: 'more'; join"),
        ("ID,label,class\na,0,good\nb,1,bad\n", "'class'; .* or name those to read with data.columns"),
        ('ID,label\na,x;y\nb,"x, y"\n', "made of several labels: 'x, y' .*data.separator=','"),
        ("ID,label,label_note,label_id,set\na,x,thin,7,x1\nb,y,,8,y\n", "^$"),
    ],
)
def test_columns_and_separators_of_more_labels_are_told(read, text, words):
    assert re.search(words, told(read(text)))


def test_line_breaks_in_cells(read):
    source = read('ID,label\n"a\n","Crack\nLeak"\nb,"Leak\r\n"\n\nz,x\n')
    assert paths(source) == {"a.jpg": ["Crack", "Leak"], "b.jpg": ["Leak"]}


@pytest.mark.parametrize(
    "cell",
    [
        r"D:\x\photos\s 1\0.jpg", "/disk/other/photos/s 1/0.jpg", "file:///photos/s%201/0.jpg",
        "https://host/s%201/0.jpg?x=1/2", "s3://bucket/s 1/0.jpg", "./s 1//0.jpg", "photos/S 1/0",
        "../s 1/0.jpg", "/data/local-files/?d=photos/s 1/0.jpg",
    ],
)  # fmt: skip
def test_paths_of_other_machines(read, tmp_path, caplog, cell):
    photos = ("s 1/0.jpg", "t/0.jpg", "1.jpg")
    assert paths(read(f"path,label\n{cell},x\n1.jpg,y\n", *photos)) == {"s 1/0.jpg": ["x"], "1.jpg": ["y"]}
    assert "1 IDs are paths of another place, read by their ends" in caplog.text
    (tmp_path / "images" / "l.csv").write_text(f"path\n{cell}\n1.jpg\n")
    found = [photo.path for photo in find_images(str(tmp_path / "images" / "l.csv"))]
    assert found == ["1.jpg", "s 1/0.jpg"]


def test_paths_that_contradict_the_photos_are_left_out(read):
    source = read("ID,label\n/x/u/0.jpg,x\n/x/v/0.jpg,y\n/x/w/1.jpg,z\na,x\n", "0.jpg", "t/1.jpg", "a.jpg")
    assert paths(source) == {"a.jpg": ["x"]}
    assert "Left out 3 IDs without a file" in told(source)


def test_paths_to_predict_are_found_as_in_training(make_tree, tmp_path):
    root = make_tree(tmp_path, "a/IMG_0.jpg", "b/1.jpg", "b/Br\u00fccke.jpg")
    cells = {" a/IMG_0.jpg ": "a/IMG_0.jpg", "a/img_0.JPG": "a/IMG_0.jpg", "b/1": "b/1.jpg", "gone": "gone"}
    for cell, path in {**cells, "b/Bru\u0308cke.jpg": "b/Br\u00fccke.jpg"}.items():
        (root / "l.csv").write_text(f'path,ID\n"{cell}",n\n', encoding="utf-8")
        assert [(p.path, p.id) for p in find_images(str(root / "l.csv"))] == [(path, "n")]
    (root / "l.csv").write_text("Bild,note\nb/1.jpg,x\n")
    assert [p.path for p in find_images(str(root / "l.csv"))] == ["b/1.jpg"]
    elsewhere = make_tree(tmp_path / "elsewhere", "0.jpg") / "0.jpg"
    (root / "l.csv").write_text(f"ID,Bild\n1,{elsewhere}\n")
    assert [(p.id, p.path) for p in find_images(str(root / "l.csv"))] == [("1", str(elsewhere))]
    (root / "l.csv").write_text("Bild,note\n1,x\n")
    with pytest.raises(InputError, match="no column 'path': it has Bild, note; rename the right one to"):
        find_images(str(root / "l.csv"))
    (root / "l.txt").write_text("# of Monday\na/IMG_0.jpg\n#, and of 2.5.\nb/1.jpg\n")
    assert [photo.path for photo in find_images(str(root / "l.txt"))] == ["a/IMG_0.jpg", "b/1.jpg"]


def grouped(group, *values):
    records = [Record(f"p{i}", f"{value}_p{i}.jpg", {}) for i, value in enumerate(values)]
    source = Source(None, records, rows=[r.id for r in records], columns={"asset": values})
    return [record.group for record in assign_groups(source, group)], told(source)


def test_groups_in_several_spellings(caplog):
    groups, findings = grouped("asset", "A1", "a1 ", "1.0", "1", "1.10", "1.1")
    assert groups == ["A1", "a1", "1.0", "1", "1.10", "1.1"]
    assert "2 groups in several spellings (4 photos): '1' = '1.0', 'a1' = 'A1'" in findings
    assert "data.group" in grouped("^([^_]+)_", "A1", "a1")[1]
    assert grouped("asset", "N/A", "-", "A2", "unknown")[0] == ["p0", "p1", "A2", "p3"]
    assert "words for a missing group name none: 'N/A' (1), '-' (1), 'unknown' (1)" in caplog.text


def by_file(tmp_path, text, *photos, others=()):
    (tmp_path / "s.csv").write_text(text)
    records = [Record(path.rpartition(".")[0], path, {}) for path in photos]
    return split_by_file(tmp_path / "s.csv", tmp_path, records, others)[1]


def test_split_files_of_others(tmp_path, caplog):
    rows = "sep=;\nID;split\nA/0.JPG;Validation set\n/disk/x/a/1.jpg;dev\n b ;training\n"
    splits = {"a/0": "val", "a/1": "val", "b": "train"}
    assert by_file(tmp_path, rows, "a/0.jpg", "a/1.jpg", "b.jpg") == splits
    both = "ID,file,split\n0,1.jpg,train\n1,0.jpg,test\n"
    assert by_file(tmp_path, both, "0.jpg", "1.jpg") == {"1": "train", "0": "test"}
    both = both.replace("file", "image_path")
    assert by_file(tmp_path, both, "0.jpg", "1.jpg") == {"1": "train", "0": "test"}
    with pytest.raises(InputError, match=r"1 IDs \(2 rows\) lost their leading zeros, as 7 for 007.jpg"):
        by_file(tmp_path, "ID,split\n7,train\n7,train\n", "007.jpg")
    with pytest.raises(InputError, match=r"IDs in two splits: a.jpg \(row 2 train, row 4 val\)"):
        by_file(tmp_path, "ID,split\na,train\n\na.jpg,val\n", "a.jpg")
    with pytest.raises(InputError, match="this is JSON: write a CSV"):
        by_file(tmp_path, '{"a": "train"}', "a.jpg")
    with pytest.raises(InputError, match="row 2: unknown split 'not train'"):
        by_file(tmp_path, "ID,split\na,not train\n", "a.jpg")
    named = by_file(tmp_path, "ID,split\n0,train\nb,val\n", "s/0.jpg", "b.jpg", others=["0.jpg"])
    assert named == {"b": "val"}
    assert "1 rows of the split file have no photo now: 0" in caplog.text


def test_an_index_of_given_paths(tmp_path):
    index = PhotoIndex(tmp_path, ["s/a.jpg", "S/A.jpg", "b.jpg"])
    assert index.find_by_end("/x/s/a.jpg") is None and index.find_by_end("/x/b") == "b.jpg"
