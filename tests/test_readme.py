"""The pages as a reader sees them: each is rendered by a CommonMark library, and the result is looked at."""

import re
import subprocess
from collections import Counter
from pathlib import Path
from urllib.parse import unquote

import pytest
from benchmarks import readme
from markdown_it import MarkdownIt

ROOT = Path(__file__).resolve().parents[1]
READERS = [readme.README, *readme.GUIDES]  # the pages in English that a reader goes through
PAGES = sorted({*ROOT.glob("*.md"), *(ROOT / "tests").rglob("*.md"), *(ROOT / "lora_np").rglob("*.md"), *READERS})
CHAPTERS = sorted((ROOT / "chapters" / "src").glob("*.py"))
WIDTH = 85  # characters of a line of code that GitHub shows without scrolling
MARKDOWN = MarkdownIt("commonmark", {"html": True}).enable("table")

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def parsed(page):
    return MARKDOWN.parse(page.read_text(encoding="utf-8"))


def cells(path):
    """Yield the text of each markdown cell of a chapter's source."""
    for cell in re.split(r"^# %%", path.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        if cell.startswith(" [markdown]"):
            yield re.sub(r"^# ?", "", cell.split("\n", 1)[1], flags=re.MULTILINE)


def seen(inline):
    """Return what a reader sees of a paragraph: no tags and no comments, code in its backquotes."""
    shown = {"softbreak": "\n", "code_inline": "`{}`", "html_inline": ""}
    return "".join(shown.get(token.type, "{}").format(token.content) for token in inline.children).strip()


def torn(text):
    """Yield what HTML does to a text that it should not."""
    tokens, lines = MARKDOWN.parse(text), text.split("\n")
    for before, token in zip([None, *tokens], tokens):
        if token.type == "html_block":
            if not re.fullmatch(r"<!--(?:(?!-->).)*-->|</?details\b.*>", token.content.strip(), re.DOTALL):
                yield f"raw HTML where a sentence should be: {token.content!r}"
            if before and before.type == "paragraph_close" and lines[token.map[0] - 1].strip():
                yield f"raw HTML begins inside a paragraph: {token.content!r}"
        if token.type == "inline" and re.search("<!--|-->", seen(token)):
            yield f"a comment is shown: {token.content!r}"
        if token.type == "inline" and re.search(r"^\|", seen(token), re.MULTILINE):
            yield f"a table is shown as text: {token.content!r}"
        if token.type == "table_open":
            bars = {len(re.findall(r"(?<!\\)\|", lines[row])) for row in range(*token.map)}
            if len(bars) > 1:
                yield f"a table's rows have different numbers of cells: {lines[token.map[0]]!r}"


@each_page
def test_no_sentence_is_torn_by_html(page):
    assert list(torn(page.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_no_sentence_of_a_chapter_is_torn_by_html(path):
    assert [found for text in cells(path) for found in torn(text)] == []


@each_page
def test_paragraphs_begin_and_end_as_sentences_do(page):
    tokens = parsed(page)
    paragraphs = [b for a, b in zip(tokens, tokens[1:]) if a.type == "paragraph_open"]
    texts = [seen(p) for p in paragraphs if [child.type for child in p.children] != ["image"]]
    assert [text for text in texts if not re.search(r"[.:?!)。：）]$", text)] == []
    assert [text for text in texts if re.match(r"[a-z%,.;)，。）]", text)] == []


@each_page
def test_headings_are_in_order(page):
    levels = [int(token.tag[1]) for token in parsed(page) if token.type == "heading_open"]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in zip(levels, levels[1:]))


def anchors(page):
    """Return the anchors that GitHub gives the headings of a page."""
    tokens = parsed(page)
    headings = [seen(b) for a, b in zip(tokens, tokens[1:]) if a.type == "heading_open"]
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@each_page
def test_links_lead_somewhere(page):
    html = MARKDOWN.render(page.read_text(encoding="utf-8"))
    for target in re.findall(r'(?:href|src)="([^"]+)"', html):
        if "://" not in target:
            path, _, place = unquote(target).partition("#")
            there = page.parent / path if path else page
            assert there.exists(), f"there is no {target}"
            assert not place or place in anchors(there), f"there is no heading {target}"


def fences(page):
    return [token for token in parsed(page) if token.type == "fence"]


@each_page
def test_code_is_whole_and_none_of_it_is_cut_off_by_the_page(page):
    for fence in fences(page):
        assert fence.info in ("bash", "python", "text")
        if fence.info != "text":  # what a command shows is as wide as it is
            assert max(map(len, fence.content.split("\n"))) <= WIDTH, fence.content
        if fence.info == "bash":
            subprocess.run(["bash", "-n"], input=fence.content, text=True, check=True)
        if fence.info == "python":
            compile(fence.content, "README", "exec")


def test_the_blocks_that_are_run_are_those_that_are_read():
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    run = re.search(r"for name in (.+); do", ci)[1].split()
    run += re.findall(r"--block (\w+)", ci)
    assert run == ["run", "test", "loop"]
    english = {fence.content.strip() for page in READERS for fence in fences(page)}
    assert {readme.block(name) for name in run} <= english
    assert {fence.content.strip() for fence in fences(ROOT / "README.zh-CN.md")} <= english


def test_the_readme_and_the_guides_say_a_thing_once():
    texts = {page.name: page.read_text(encoding="utf-8") for page in READERS}
    figures = Counter(name for text in texts.values() for name in re.findall(r"<!-- ([\w-]+) -->", text))
    assert [name for name, count in figures.items() if count > 1] == []
    paragraphs = [seen(token) for page in READERS for token in parsed(page) if token.type == "inline"]
    sentences = Counter(s for text in paragraphs for s in re.split(r"(?<=[.:?!]) ", " ".join(text.split())))
    assert [s for s, count in sentences.items() if count > 1 and len(s) > 40] == []


def test_every_guide_is_reached_from_the_readme():
    linked = re.findall(r"\]\((chapters/guide/\w+\.md)", readme.README.read_text(encoding="utf-8"))
    assert {ROOT / path for path in linked} == set(readme.GUIDES)


@pytest.mark.parametrize("plan", ["four_weeks", "eight_weeks"])
def test_a_plan_of_weeks_has_each_exercise_once(plan):
    parts = [part for week in readme.PLANS[plan].values() for part in week]
    assert [chapter for chapter, *_ in parts] == sorted(chapter for chapter, *_ in parts)
    exercised = sum(readme.part(*part)[1] for part in parts)
    assert exercised == sum(minutes for found in readme.exercises().values() for _, minutes, *_ in found)
    assert readme.times().keys() == readme.exercises().keys()


def test_what_the_readme_shows_of_a_check_is_what_its_example_prints():
    """The example itself is run by tests/gradcheck/test_diagnosis.py."""
    shown = [fence.content for fence in fences(readme.README) if fence.info == "text"]
    guide = (ROOT / "chapters" / "guide" / "gradients.md").read_text(encoding="utf-8")
    assert len(shown) == 1 and shown[0] in guide


def test_each_package_that_is_asked_for_has_its_reason_in_the_guide():
    lists = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    lists = re.sub(r"^(?:requires|dev) = .*", "", lists, flags=re.MULTILINE)  # to build and to change it, not to use it
    needed = re.findall(r'"([\w-]+)>=', lists)
    guide = (ROOT / "chapters" / "guide" / "code.md").read_text(encoding="utf-8")
    table = re.search(r"\| package \| reason \|\n(.*?)\n\n", guide, re.DOTALL)[1]
    named = [name for row in table.split("\n")[1:] for name in row.split("|")[1].strip().split(", ")]
    assert sorted(named) == sorted(needed)


@pytest.mark.parametrize("start", ["", "  ", "- ", "> ", "1. ", "* - "])
def test_the_writer_refuses_a_figure_that_begins_a_line(start):
    text = f"Adapters are right in\n{start}<!-- seconds -->16<!-- / --> of them.\n"
    assert list(torn(text))
    with pytest.raises(SystemExit, match="line 2 begins with the marker <!-- seconds -->.*put a word before it"):
        readme.filled(text)


def test_the_writer_leaves_what_stands_alone():
    text = "A table:\n\n<!-- accuracies -->\n| a |\n<!-- / -->\n\nIt took <!-- seconds -->1<!-- / --> s.\n"
    assert "| trained |" in readme.filled(text)
    with pytest.raises(SystemExit, match="line 2 begins with the marker <!-- accuracies -->"):
        readme.filled(text.replace("\n\n<!-- acc", "\n<!-- acc"))
