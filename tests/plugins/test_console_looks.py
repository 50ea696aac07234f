"""The console's colours can be told apart in both themes, and its files are all used."""

import re
from pathlib import Path

import pytest

import nancalacc.web
from nancalacc.orchestration.registry import NAMES

STATIC = Path(nancalacc.web.__file__).parent / "static"
THEMES = {"light": ":root {", "dark": ':root[data-theme="dark"] {'}
TEXT = [
    ("text", "bg"), ("text", "card"), ("text", "hover"), ("text", "live-soft"),
    ("dim", "bg"), ("dim", "card"), ("dim", "hover"), ("dim", "live-soft"),
    ("accent", "bg"), ("accent", "card"), ("accent", "hover"), ("accent-text", "accent"), ("card", "bad"),
    ("good", "good-soft"), ("bad", "bad-soft"), ("warn", "warn-soft"), ("live", "live-soft"),
    ("back", "back-soft"), ("none", "none-soft"),
    ("good", "card"), ("bad", "card"), ("back", "card"), ("bad", "hover"),
]  # fmt: skip
SHAPES = [(f"bar-{kind}", ground) for kind in ("good", "bad", "live", "back") for ground in ("card", "hover")]


def colours(theme: str) -> dict[str, str]:
    css = (STATIC / "base.css").read_text()
    found: dict[str, str] = {}
    for opening in list(THEMES.values())[: list(THEMES).index(theme) + 1]:
        block = css.partition(opening)[2].partition("}")[0]
        found |= dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6});", block))
    return found


def luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    """As WCAG 2 defines it."""
    brighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (brighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("theme", list(THEMES))
@pytest.mark.parametrize(
    "front, back, least", [(*pair, 4.5) for pair in TEXT] + [(*pair, 3) for pair in SHAPES]
)
def test_colours_stand_out_from_what_is_behind_them(theme: str, front: str, back: str, least: float):
    known = colours(theme)
    assert contrast(known[front], known[back]) >= least


def test_every_colour_that_is_used_exists_in_both_themes():
    used = {
        name
        for path in STATIC.glob("*.css")
        for name in re.findall(r"var\(--([a-z-]+)\)", path.read_text())
        if name not in {"part", "at", "left", "width"}
    }
    for theme in THEMES:
        assert used <= set(colours(theme))


def test_every_word_of_the_page_is_there_once_and_used():
    listed = re.findall(r"^  ([a-zA-Z_0-9]+): \[", (STATIC / "texts.js").read_text(), flags=re.MULTILINE)
    words = set(listed)
    assert len(listed) == len(words), "the last of two would take the place of the first"
    scripts = "".join(path.read_text() for path in STATIC.rglob("*.js") if path.name != "texts.js")
    asked = set(re.findall(r'\bt\("(\w+)"', scripts))
    assert asked <= words
    assert set(NAMES) <= words, "every saga has a name"
    families = tuple(re.findall(r"\bt\(`(\w+)\$\{", scripts))
    unused = {
        word
        for word in words
        if not re.search(rf'["\s{{]{word}\b', scripts) and not (families and word.startswith(families))
    }
    # Statuses and actions come from the server.
    server = {"skipped", "claimed", "dead", "done", "cancelled", "compensated", "compensating", "drop"}
    assert unused <= server


def test_every_script_and_style_is_reached_from_the_page():
    reached, waiting = set(), [STATIC / "index.html"]
    while waiting:
        path = waiting.pop()
        if path in reached:
            continue
        reached.add(path)
        for name in re.findall(r'(?:from|src=|href=) ?"([^"#?:]+)"', path.read_text()):
            if name.endswith((".js", ".css", ".svg")):
                waiting.append((path.parent / name).resolve())
    files = {path.resolve() for path in STATIC.rglob("*") if path.is_file()}
    assert files == {path.resolve() for path in reached}
