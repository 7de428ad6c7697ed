import unicodedata
from pathlib import Path

import pytest

from src.datamodules.csv_table import pick_column, read_csv
from src.datamodules.records import PhotoIndex
from src.datamodules.table import TableDataModule
from src.errors import InputError
from tests.made import told

WORDS = {"components": ["Bracket", "Joint"], "defects": ["Corrosion-Heavy", "Leaks"]}
COMMON = {"preprocess": {}, "splits": {}, "healthy": ["Intact", "None"]}


@pytest.fixture
def table(make_tree, tmp_path):
    """Return a function that writes a table beside photos and reads it."""

    def read(text, *photos, task="multilabel", words=None, **options):
        make_tree(tmp_path / "images", *(photos or ("a.jpg", "b.jpg", "c.jpg")))
        path = tmp_path / "t.csv"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return TableDataModule(csv=str(path), task=task, **COMMON, **(words or {}), **options).read()

    return read


def labels(source):
    return {r.id: {kind: list(names) for kind, names in r.labels.items()} for r in source.records}


TEXT = "ID,component,defect\na,Brücke,Riß;Leaks\nb,Joint,\n"
PARSED = {
    "a": {"component": ["Brücke"], "defect": ["Riß", "Leaks"]},
    "b": {"component": ["Joint"], "defect": []},
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252", "utf-16"])
def test_encodings(table, encoding):
    assert labels(table(TEXT.encode(encoding))) == PARSED
    assert labels(table(TEXT.encode(encoding), encoding=encoding.removesuffix("-sig"))) == PARSED


def test_encodings_that_do_not_fit(table):
    with pytest.raises(InputError, match=r"not text in utf-8; save it as UTF-8, or .* data.encoding="):
        table(TEXT.encode("cp1252"), encoding="utf-8")
    with pytest.raises(InputError, match="not text in nonsense"):
        table(TEXT, encoding="nonsense")
    with pytest.raises(InputError, match=r"not a text file.*; save it as UTF-8, or .* data.encoding="):
        table("ID,label\na,b\n".encode("utf-16-le"))


@pytest.mark.parametrize(
    ("delimiter", "named"), [(",", None), (";", None), ("\t", None), ("|", None), ("#", "#")]
)
def test_delimiters(table, delimiter, named):
    text = TEXT.replace("Riß;Leaks", '"Riß;Leaks"').replace(",", delimiter)
    assert labels(table(text, delimiter=named)) == PARSED
    assert labels(table(text.replace("\n", "\r\n"), delimiter=named)) == PARSED


def test_quotes_hold_delimiters_and_line_breaks(table):
    source = table(
        'ID,"component",note,defect\n a , Joint,"one, two\nthree ""x""", Leaks\n\n,,,\nb,Bracket\n'
    )
    assert labels(source) == {
        "a": {"component": ["Joint"], "defect": ["Leaks"]},
        "b": {"component": ["Bracket"], "defect": []},
    }
    assert source.columns["note"] == ['one, two\nthree "x"', ""]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty"),
        ("\n \n", "the file is empty"),
        ("ID,label\n", "a header and no rows"),
        ("ID,component,defect\na,Joint,Leaks,Loose\n", "row 2: 4 cells under a header of 3"),
        ("ID,label,label\na,x,y\n", "several columns are named label"),
        ("ID,part\na,x\n", "no column 'label': it has .*data.columns={label: COLUMN}"),
        ("ID,component,damage\na,x,y\n", "no column 'defect': it has .*data.columns={defect: COLUMN}"),
        ("Nr,component,defect\na,x,y\n", "no column 'ID': it has .*data.id="),
        ("ID,component,defect\na,nan,\nb,component,defect\n", "no row carries a label"),
        ("ID,component,defect\nx,Joint,Leaks\n", "none of the 1 IDs .* names one photo below"),
    ],
)
def test_bad_tables_are_one_line(table, text, message):
    with pytest.raises(InputError, match=message) as caught:
        table(text)
    assert "\n" not in str(caught.value)


def test_missing_table_and_photos(table, tmp_path, make_tree):
    (tmp_path / "image_data.csv").write_text("ID,label\na,b\n")
    with pytest.raises(InputError, match=r"no such file; tables next to it: image_data.csv"):
        read_csv(tmp_path / "imagedata.csv")
    with pytest.raises(InputError, match="directory"):
        read_csv(tmp_path)
    with pytest.raises(InputError, match=r"data.csv is not set"):
        TableDataModule(task="multilabel", **COMMON)
    with pytest.raises(InputError, match="no such folder"):
        TableDataModule(
            csv=str(tmp_path / "image_data.csv"), images=str(tmp_path / "gone"), task="multilabel", **COMMON
        ).read()


def test_placeholders_in_any_case_and_rows_unioned(table):
    rows = ("a,Joint,NaN", "a,component,Leaks", "a.jpg,Joint; Bracket ;,Defect", "b,COMPONENT,nan", "b,,")
    source = table("\n".join(("ID,component,defect", *rows)))
    assert labels(source) == {"a": {"component": ["Joint", "Bracket"], "defect": ["Leaks"]}}
    assert "Left out 1 photos whose rows carry placeholders only, which are unlabelled: b.jpg" in told(source)
    source = table("ID,component,defect\na,Joint,Intact\nb,,None\n")  # which mean healthy
    assert labels(source)["a"]["defect"] == ["Intact"] and labels(source)["b"]["defect"] == ["None"]


def test_labels_in_the_wrong_column_are_routed_and_reported(table):
    source = table("ID,component,defect\na,Leaks,Bracket\nb,Joint;Leaks,Intact\n", words=WORDS)
    assert labels(source) == {
        "a": {"component": ["Bracket"], "defect": ["Leaks"]},
        "b": {"component": ["Joint"], "defect": ["Leaks", "Intact"]},
    }
    assert "'Leaks' from component to defect (2 rows)" in told(source)
    assert "'Bracket' from defect to component (1 rows)" in told(source)


def test_unknown_labels_name_the_nearest(table):
    with pytest.raises(InputError, match=r"unknown labels 'Leeks' \(2 rows\); 'Leeks': did you mean 'Leaks'"):
        table("ID,component,defect\na,Joint,Leeks\nb,Joint,Leeks\n", words=WORDS)
    source = table("ID,component,defect\na,Joint,Leeks\nb,,Joint\n", words={"components": ["Joint"]})
    assert labels(source)["a"]["defect"] == ["Leeks"] and labels(source)["b"]["component"] == ["Joint"]


@pytest.mark.parametrize("task", ["multilabel", "dual_head"])
def test_one_column_of_labels_with_a_vocabulary(table, task):
    source = table("ID,labels\na,Joint;Leaks\nb,Intact;Bracket\n", task=task, words=WORDS)
    assert labels(source) == {
        "a": {"component": ["Joint"], "defect": ["Leaks"]},
        "b": {"component": ["Bracket"], "defect": ["Intact"]},
    }
    assert "other kind" not in told(source)
    assert labels(table("ID,labels\na,x;y\n")) == {"a": {"label": ["x", "y"]}}


def test_the_table_feeds_the_single_label_tasks(table):
    assert labels(table("File,Label\na.jpg,ok\nb.jpg,defect\n", task="multiclass")) == {
        "a.jpg": {"label": ["ok"]},
        "b.jpg": {"label": ["defect"]},
    }
    assert labels(table("file,component,defect\na.jpg,Joint,Leaks\n", task="dual_head")) == {
        "a.jpg": {"component": ["Joint"], "defect": ["Leaks"]}
    }


def test_columns_by_name(table):
    text = "Foto,Teil,Schaden,component,defect\na,Joint,Leaks,x,y\n"
    columns = {"component": "Teil", "defect": "schaden"}
    assert labels(table(text, id="Foto", columns=columns)) == {
        "a": {"component": ["Joint"], "defect": ["Leaks"]}
    }
    with pytest.raises(
        InputError, match=r"no column 'Schadn': it has Schaden, .*data.columns={defect: COLUMN}"
    ):
        table(text, id="Foto", columns={"defect": "Schadn"})
    with pytest.raises(InputError, match="multiclass has the one kind 'label'"):
        table(text, id="Foto", columns=columns, task="multiclass")


def test_columns_without_a_name_are_passed_over_and_one_column_may_hold_commas(tmp_path):
    (tmp_path / "t.csv").write_text(",ID,,label\n0,a,,x\n")
    assert list(read_csv(tmp_path / "t.csv").columns) == ["ID", "label"]
    (tmp_path / "t.csv").write_text("path\na, b.jpg\nc;d.jpg\n")
    assert read_csv(tmp_path / "t.csv")["path"].tolist() == ["a, b.jpg", "c;d.jpg"]


def test_a_column_that_differs_in_case_only_is_ambiguous(tmp_path):
    (tmp_path / "t.csv").write_text("Id,iD,label\na,b,c\n")
    with pytest.raises(InputError, match="no column 'ID'"):
        pick_column(read_csv(tmp_path / "t.csv"), None, ("ID",), Path("t.csv"), "data.id")


def test_ids_that_look_like_numbers_stay_text(table):
    source = table("ID,label,asset\n007,x,01\n1e5,y,01\n", "007.jpg", "1e5.jpg")
    assert [r.id for r in source.records] == ["007", "1e5"] and source.columns["asset"] == ["01", "01"]


def test_ids_without_one_file_are_counted_listed_and_left_out(table):
    source = table(
        "ID,label\na,x\ngone,y\ngone,z\n,y\ntwice,y\n", "a.jpg", "s/twice.jpg", "t/twice.jpg", "rest.jpg"
    )
    assert list(labels(source)) == ["a"] and source.rows == ["a", "", "", "", ""]
    assert "Left out 2 IDs without a file" in told(source) and "(3 rows): gone, (empty)" in told(source)
    assert "Left out 1 IDs that name several files (1 rows): twice (s/twice.jpg, t/twice.jpg)" in told(source)


def test_meanings_of_an_id(make_tree, tmp_path):
    nfd = unicodedata.normalize("NFD", "Brücke.jpg")
    names = (
        "a.jpg",
        "s/a.jpg",
        "s/b c.jpg",
        "d.jpg",
        "d.png",
        "e.v2.JPG",
        nfd,
        "G.jpg",
        "g.jpg",
        "t/b c.jpg",
    )
    index = PhotoIndex(make_tree(tmp_path / "i", *names))
    for id_, paths in {
        "a": ["a.jpg"],
        "a.jpg": ["a.jpg"],
        "s/a": ["s/a.jpg"],
        "s\\a.jpg": ["s/a.jpg"],
        "./s/a.jpg": ["s/a.jpg"],
        f"{tmp_path}/i/s/a.jpg": ["s/a.jpg"],
        "b c": ["s/b c.jpg", "t/b c.jpg"],
        "d": ["d.jpg", "d.png"],
        "d.png": ["d.png"],
        "e.v2": ["e.v2.JPG"],
        "E.V2.jpg": ["e.v2.JPG"],
        "Brücke": [nfd],
        "g": ["g.jpg"],
        "x/a": [],
        "a.png": [],
    }.items():
        assert index.find(id_) == paths, id_


def test_root_alone_names_table_and_photos(make_tree, tmp_path):
    make_tree(tmp_path / "images", "a.jpg")
    common = {"task": "multilabel", **COMMON}
    module = TableDataModule(root=str(tmp_path), delimiter="tab", **common)
    assert (module.csv, module.images) == (tmp_path / "image_data.csv", tmp_path / "images")
    assert module.delimiter == "\t"
    assert TableDataModule(csv=str(tmp_path / "images" / "t.csv"), **common).images == tmp_path / "images"
    with pytest.raises(InputError, match=r"both in data.components and in data.defects: Bolt"):
        TableDataModule(root="x", components=["Bolt"], defects=["Bolt"], **common)
    with pytest.raises(InputError, match=r"data.separator is empty"):
        TableDataModule(root="x", separator="", **common)


def test_a_kind_of_labels_is_not_called_as_a_figure_or_a_column(table):
    for kind in ("loss", "path"):
        with pytest.raises(InputError, match=rf"data.columns.{kind}: .*data.columns=\{{{kind}_kind: COLUMN"):
            table("ID,x\na,1\nb,2\n", columns={kind: "x"})
