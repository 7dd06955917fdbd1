"""The look that pages share: both schemes readable, and the same whichever way they are chosen."""

from __future__ import annotations

import re

import pytest

from ibot.report.html import LOOK

CSS = LOOK.read_text(encoding="utf-8")


def tokens(selector: str) -> dict[str, str]:
    """Names and colours of the custom properties of a rule."""
    rule = CSS.partition(selector + " {")[2].partition("}")[0]
    return dict(re.findall(r"(--\w+): (#[0-9a-f]{6});", rule))


SCHEMES = {
    "light": tokens("\n:root"),
    "dark": tokens(':root:not([data-theme="light"])'),
    "switched to dark": tokens(':root[data-theme="dark"]'),
}


def luminance(colour: str) -> float:
    """Relative luminance by WCAG 2.2."""
    shares = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (
        share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def test_contrast_of_black_and_white_is_21():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("ground", ["--paper", "--panel"])
def test_text_is_readable_on_both_grounds(scheme, ground):
    colours = SCHEMES[scheme]
    for text in ("--ink", "--quiet", "--accent", "--second", "--good", "--bad", "--warn"):
        assert contrast(colours[text], colours[ground]) >= 4.5, text


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_first_curves_stand_out_from_the_paper(scheme):
    colours = SCHEMES[scheme]
    for curve in ("--c1", "--c2", "--c3", "--c4"):
        assert contrast(colours[curve], colours["--paper"]) >= 3, curve


def test_the_switch_gives_the_same_dark_as_the_system():
    assert SCHEMES["dark"] == SCHEMES["switched to dark"]
    assert set(SCHEMES["dark"]) == set(SCHEMES["light"])
    assert {f"--c{i}" for i in range(1, 9)} < set(SCHEMES["light"])


def test_the_style_sheet_fetches_nothing():
    assert "url(" not in CSS
    assert "@import" not in CSS
