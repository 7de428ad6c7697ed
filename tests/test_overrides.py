"""What is shown to be typed is read back as it was meant."""

import shlex

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from src.overrides import override, readable, typed

NAMES = [
    "outputs/dual_head/2026-01-02_03-04-05",
    "a folder",
    "a, b",
    "it's",
    "'quoted'",
    '"quoted"',
    r"C:\runs\one",
    r"C:\my runs\it's" + "\\",
    "back\\'slash",
    "Prüfung é",
    "~/runs",
    "a=b",
    "[1]",
    "{x}",
    "$HOME",
    "null",
    "true",
    "1e3",
    "1.50",
    "2026_01_31",
    "${oc.env:HOME}",
    "a${b}'c",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_quoted_value_is_read_back(name):
    parsed = OverridesParser.create().parse_override(override("ckpt", name))
    assert parsed.key_or_group == "ckpt" and OmegaConf.create({"ckpt": parsed.value()}).ckpt == name
    assert shlex.split(typed("ckpt", name)) == [override("ckpt", name)]


def test_flags_may_stand_anywhere_and_paths_need_no_quotes():
    argv = [
        "train.py",
        "data.root=Brücke (2)",
        "-m",
        "ckpt=~/runs",
        "model.lr=1,2",
        "images='a b'",
        "data.csv=a b",
    ]
    assert readable(argv) == [
        "train.py",
        "-m",
        "data.root='Brücke (2)'",
        "ckpt='~/runs'",
        "model.lr=1,2",
        "images='a b'",
        "data.csv=a b",
    ]


def test_a_plain_path_stays_as_it_is():
    assert typed("ckpt", "outputs/dual_head/run.1") == "ckpt=outputs/dual_head/run.1"
