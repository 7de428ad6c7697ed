import numpy as np
import pytest

from src.errors import InputError
from src.labels import MISSING, LabelSpace

SPACE = LabelSpace({"component": ("Bracket", "Joint"), "defect": ("Corrosion-Heavy", "Leaks", "Missing")})


def test_from_labels_sorts_and_drops_repeats():
    space = LabelSpace.from_labels({"component": ["b", "a", "b"], "defect": iter(["z", "y"])})
    assert space.as_dict() == {"component": ["a", "b"], "defect": ["y", "z"]}
    assert space.names == ("a", "b", "y", "z") and len(space) == 4
    assert space.slices == {"component": slice(0, 2), "defect": slice(2, 4)}


@pytest.mark.parametrize(
    ("kinds", "message"),
    [
        ({}, "no labels at all"),
        ({"component": ()}, "has no labels"),
        ({"component": ("a", "a")}, "stands twice"),
        ({"component": ("Bolt",), "defect": ("Bolt",)}, r"'Bolt' stands twice \(component, defect\)"),
        ({"a kind": ("x",)}, "cannot name a kind"),
        ({"defect": ("",)}, "empty"),
        ({"defect": ("a;b",)}, "';'"),
        ({"defect": ("${x}",)}, "empty, or with"),
        ({"defect": ("a\nb",)}, "line break"),
    ],
)
def test_a_space_that_cannot_be_is_refused(kinds, message):
    with pytest.raises(InputError, match=message):
        LabelSpace(kinds)


def test_encode_and_decode_are_inverse():
    labels = {"component": ["Joint"], "defect": ["Corrosion-Heavy", "Missing"]}
    hot = SPACE.encode(labels)
    assert hot.dtype == np.float32 and hot.tolist() == [0, 1, 1, 0, 1]
    assert SPACE.decode(hot >= 0.5) == labels
    assert SPACE.encode({}).tolist() == [0] * 5
    assert SPACE.decode(np.zeros(5, bool)) == {"component": [], "defect": []}


def test_encode_classes_gives_an_index_per_kind():
    classes = SPACE.encode_classes({"component": ("Joint",), "defect": ("Missing",)})
    assert classes.dtype == np.int64 and classes.tolist() == [1, 2]
    assert SPACE.encode_classes({"component": ("Joint",), "defect": ()}).tolist() == [1, MISSING]
    assert SPACE.encode_classes({"defect": ("Leaks",)}).tolist() == [MISSING, 1]


def test_encode_classes_refuses_several_and_unknown():
    with pytest.raises(InputError, match="several labels of kind 'defect' on one photo: Leaks, Missing"):
        SPACE.encode_classes({"defect": ("Leaks", "Missing")})
    with pytest.raises(InputError, match="unknown component 'Brackt': did you mean 'Bracket'"):
        SPACE.encode_classes({"component": ("Brackt",)})
    with pytest.raises(InputError, match="unknown label 'leeks': did you mean 'Leaks'"):
        SPACE.encode({"defect": ("leeks",)})
    with pytest.raises(InputError, match="unknown component 'Leaks'"):
        SPACE.encode_classes({"component": ("Leaks",)})
