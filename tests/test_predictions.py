import numpy as np
import pytest

from src.decisions.predictions import columns, decide, number_columns, row
from src.errors import InputError
from src.inference.output import write_rows
from src.labels import NO_PROMISE, LabelSpace

TWO = LabelSpace(
    {"component": ("Bolt", "Channel Bracket"), "defect": ("Corrosion-Heavy", "Drummy", "Missing")}
)
ONE = LabelSpace({"label": ("Bolt_Missing", "Bracket_Intact")})
HALVES = np.full(5, 0.5, np.float32)


def scores(*values):
    return np.array(values, np.float32)


def test_columns():
    assert ",".join(columns("multilabel", TWO)) == (
        "ID,components,defects,components_confidence,defects_confidence,avg_component_confidence,"
        "avg_defect_confidence,overall_avg_confidence,path,status,error,review,review_reason"
    )
    assert ",".join(columns("dual_head", TWO)) == (
        "ID,component,component_confidence,defect,defect_confidence,average_confidence,prediction,"
        "pair_confidence,path,status,error,review,review_reason"
    )
    named = "ID,label,confidence,path,status,error,review,review_reason,p:Bolt_Missing,p:Bracket_Intact"
    assert ",".join(columns("multiclass", ONE, probabilities=True)) == named


def test_columns_refuse_what_cannot_be_a_table():
    with pytest.raises(InputError, match="'path'"):
        columns("dual_head", LabelSpace({"path": ("a",), "defect": ("b",)}))


def test_decide():
    s = scores(0.5, 0.49999, 0.2, 0.7, 0.7)
    assert decide("multilabel", TWO, s, HALVES) == {"component": ["Bolt"], "defect": ["Drummy", "Missing"]}
    assert decide("multilabel", TWO, s, np.ones(5)) == {"component": [], "defect": []}
    assert decide("dual_head", TWO, s) == {"component": ["Bolt"], "defect": ["Drummy"]}
    assert decide("multiclass", ONE, scores(0.4, 0.6)) == {"label": ["Bracket_Intact"]}


def test_row_multilabel():
    s = scores(0.91239, 0.6, 0.2, 0.77777, 0.55556)
    assert ",".join(row("multilabel", TWO, "7", "a/7.jpg", s, HALVES).values()) == (
        "7,Bolt;Channel Bracket,Drummy;Missing,Bolt:0.9124;Channel Bracket:0.6000,"
        "Drummy:0.7778;Missing:0.5556,0.7562,0.6667,0.7114,a/7.jpg,ok,,,"
    )


def test_averages_of_nothing_are_empty_and_left_out():
    values = row("multilabel", TWO, "7", "7.jpg", scores(0.8, 0.1, 0, 0, 0), HALVES)
    assert values["defects"] == values["defects_confidence"] == values["avg_defect_confidence"] == ""
    assert values["avg_component_confidence"] == values["overall_avg_confidence"] == "0.8000"
    values = row("multilabel", TWO, "7", "7.jpg", scores(0, 0, 0, 0, 0), HALVES)
    assert values["status"] == "ok" and values["overall_avg_confidence"] == ""
    assert {name for name, value in values.items() if value} == {"ID", "path", "status"}


def test_the_overall_average_comes_from_unrounded_values():
    space = LabelSpace({"a": ("A",), "b": ("B",), "c": ("C",)})
    values = row("multilabel", space, "7", "7.jpg", scores(0.50004, 0.50004, 0.50009), HALVES[:3])
    assert [values[f"avg_{kind}_confidence"] for kind in "abc"] == ["0.5000", "0.5000", "0.5001"]
    assert values["overall_avg_confidence"] == "0.5001"  # of the rounded ones it would be 0.5000


def test_row_dual_head():
    s = scores(0.1, 0.9, 0.0441, 0.8004, 0.1555)
    assert ",".join(row("dual_head", TWO, "x/y", "x/y.JPG", s).values()) == (
        "x/y,Channel Bracket,0.9000,Drummy,0.8004,0.8502,Channel Bracket_Drummy_0.85,0.7204,x/y.JPG,ok,,,"
    )


def test_labels_for_a_person_are_named():
    low = scores(0.3, 0.3, 0.3, 0.3, NO_PROMISE)
    values = row("multilabel", TWO, "7", "7.jpg", scores(0.9, 0.31, 0.2, 0.45678, 0.4), HALVES, low=low)
    assert values["review"] == "yes" and values["review_reason"] == "Channel Bracket:0.3100;Drummy:0.4568"
    values = row(
        "dual_head", TWO, "7", "7.jpg", scores(0.6, 0.4, 0.9, 0.05, 0.05), low=low[:4].repeat([1, 1, 1, 2])
    )
    assert values["review"] == "yes" and values["review_reason"] == "Bolt:0.6000;Channel Bracket:0.4000"
    values = row("dual_head", TWO, "7", "7.jpg", scores(0.9, 0.1, 0.9, 0.05, 0.05), low=low)
    assert values["review"] == "no" and values["review_reason"] == ""


def test_row_multiclass_with_probabilities():
    values = row("multiclass", ONE, "1", "1.png", scores(0.3, 0.7), probabilities=True)
    assert ",".join(values.values()) == "1,Bracket_Intact,0.7000,1.png,ok,,,,0.300000,0.700000"


@pytest.mark.parametrize("task", ["multilabel", "dual_head"])
def test_row_of_an_unreadable_photo(task):
    values = row(task, TWO, "7", "7.jpg", None, None, error="truncated\nat byte 7", probabilities=True)
    assert list(values) == columns(task, TWO, True)
    assert {name: value for name, value in values.items() if value} == {
        "ID": "7",
        "path": "7.jpg",
        "status": "error",
        "error": "truncated at byte 7",
    }
    values = row(task, TWO, "7", "7.jpg", scores(np.nan, 1, 0, 1, 0), HALVES)
    assert values["status"] == "error" and values["error"] == "the model's scores are not finite"


def test_a_label_with_a_colon_is_kept():
    space = LabelSpace({"defect": ("ISO 4628: Ri 3",)})
    text = row("multilabel", space, "1", "1.png", scores(0.75), scores(0.5))["defects_confidence"]
    assert text == "ISO 4628: Ri 3:0.7500" and text.rpartition(":")[::2] == ("ISO 4628: Ri 3", "0.7500")


def test_the_file_byte_by_byte(tmp_path):
    path = tmp_path / "new folder" / "predictions.csv"
    first = [row("multiclass", ONE, "a", "a, b.jpg", scores(0.3, 0.7))]
    second = [row("multiclass", ONE, "=1", "Brücke \udcff.jpg", None, error='not "an" image')]
    write_rows(path, columns("multiclass", ONE), iter([first, second]))
    assert path.read_bytes().decode() == (
        "ID,label,confidence,path,status,error,review,review_reason\n"
        'a,Bracket_Intact,0.7000,"a, b.jpg",ok,,,\n'
        '=1,,,Brücke \\udcff.jpg,error,"not ""an"" image",,\n'
    )


def test_number_columns_of_each_task():
    assert number_columns(columns("multiclass", ONE, True)) == {
        "confidence": "double",
        "p:Bolt_Missing": "float",
        "p:Bracket_Intact": "float",
    }
    names = ("component_confidence", "defect_confidence", "average_confidence", "pair_confidence")
    assert number_columns(columns("dual_head", TWO)) == dict.fromkeys(names, "double")
    odd = LabelSpace({"avg_x": ("a",), "y": ("b",)})
    names = ("avg_avg_x_confidence", "avg_y_confidence", "overall_avg_confidence")
    assert number_columns(columns("multilabel", odd)) == dict.fromkeys(names, "double")
