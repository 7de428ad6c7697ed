"""A command that is shown to be typed is read back as it was meant."""

import shlex

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from src.overrides import override, readable, typed

NAMES = [
    "outputs/dual_head/2026-01-02_03-04-05", "a folder", "a, b", "it's", "'quoted'", '"quoted"',
    r"C:\runs\one", r"C:\my runs\it's" + "\\", "back\\'slash", "Prüfung é", "~/runs", "a=b", "[1]", "{x}",
    "$HOME", "null", "true", "1e3", "1.50", "2026_01_31", "${oc.env:HOME}", "a${b}'c",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_quoted_value_is_read_back(name):
    parsed = OverridesParser.create().parse_override(override("ckpt", name))
    assert parsed.key_or_group == "ckpt" and OmegaConf.create({"ckpt": parsed.value()}).ckpt == name
    assert shlex.split(typed("ckpt", name)) == [override("ckpt", name)]
    assert ("'" in typed("ckpt", name)) == (name != NAMES[0])  # a plain path stays as it is


def test_flags_may_come_anywhere_and_paths_need_no_quotes():
    given = ["data.root=Brücke (2)", "-m", "ckpt=~/runs", "model.lr=1,2", "images='a b'", "data.csv=a b"]
    read = ["-m", "data.root='Brücke (2)'", "ckpt='~/runs'", "model.lr=1,2", "images='a b'", "data.csv=a b"]
    assert readable(["train.py", *given]) == ["train.py", *read]
